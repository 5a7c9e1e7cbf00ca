"""Agreement of all peers on checkpoints and on a stop, also while its steps take several rounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from p2psim.experiment import scenario
from p2psim.network.collectives import ControlChannel
from p2psim.network.threads import run_threads
from p2psim.network.transport import Transport
from p2psim.simulation import agreement
from p2psim.simulation.agreement import Decision, RoundAgreement

PEERS, ROUNDS, ASKED = 5, 60, 20
TABLE = {
    "name": "agreement",
    "peers": PEERS,
    "rounds": ROUNDS,
    "data": {"name": "digits"},
    "model": {"name": "linear"},
    "algorithm": {"name": "d-psgd"},
    "topology": {"name": "ring"},
}


@pytest.mark.parametrize("short", [1, 10**9])
def test_all_peers_stop_after_the_same_round(monkeypatch: pytest.MonkeyPatch, short: int) -> None:
    monkeypatch.setattr(agreement, "SHORT", short)
    loaded = scenario.load(TABLE, Path())
    settings = replace(loaded.experiment.run, checkpoint_rounds=7)
    decisions: dict[int, list[Decision]] = {}

    def body(transport: Transport) -> None:
        control = ControlChannel(transport, loaded.topology)
        own = decisions[transport.rank] = []
        agree = RoundAgreement(control, settings, lambda: transport.rank == 3 and len(own) >= ASKED)
        for number in range(1, ROUNDS + 1):
            # Other messages between the same peers, as those of an evaluation.
            control.total(np.ones(2))
            own.append(agree(number))
            if own[-1].stop:
                break
        control.drain()

    run_threads(PEERS, body)
    first = decisions[0]
    assert all(own == first for own in decisions.values())
    assert first[-1] == Decision(checkpoint=True, stop=True)
    assert len(first) >= ASKED
    # Without a stop only the seventh, the fourteenth round ... ends with a checkpoint.
    due = [number for number, decision in enumerate(first[:-1], 1) if decision.checkpoint]
    assert due == list(range(7, len(first), 7))
