"""Collective operations of the control channel whose result every peer must have alike."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from p2psim.network.collectives import ControlChannel
from p2psim.network.threads import run_threads
from p2psim.network.topology import Topology
from p2psim.network.transport import Transport


@pytest.mark.parametrize("owner", [0, 2, 4])
def test_every_peer_gets_the_text_of_one(owner: int) -> None:
    text, results, peers = uuid.uuid4().hex, {}, 5
    isolated = Topology(np.eye(peers)[None], "made", directed=True, rule="edges", links={})

    def body(transport: Transport) -> None:
        control = ControlChannel(transport, isolated)
        own = text if transport.rank == owner else ""
        results[transport.rank] = control.common_text(own, len(text))

    run_threads(peers, body)
    assert results == dict.fromkeys(range(peers), text)
