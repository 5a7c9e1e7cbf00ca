"""Peers as threads: one runs at a time, in a fixed order, and a run without an end is refused."""

from __future__ import annotations

import numpy as np
import pytest

from p2psim.base import Payload
from p2psim.errors import AbortedError
from p2psim.network.threads import run_threads
from p2psim.network.transport import Transport

PEERS = 3


def block(value: int = 0) -> Payload:
    return np.full(8, value, np.uint8)


def wait(transport: Transport, source: int) -> int:
    """Receive a message from `source`; return the value of its bytes."""
    payload = block()
    transport.wait(transport.receive(block(), payload, source), lambda seconds, undone: None)
    return int(payload[0])


def test_ranks_take_turns_in_the_order_in_which_they_become_ready() -> None:
    order: list[str] = []

    def body(transport: Transport) -> None:
        rank, successor = transport.rank, (transport.rank + 1) % PEERS
        for step in range(2):
            order.append(f"{rank} sends {step}")
            transport.send(block(), block(10 * rank + step), successor)
            got = wait(transport, (rank - 1) % PEERS)
            order.append(f"{rank} has {got}")

    run_threads(PEERS, body)
    assert order == [
        *("0 sends 0", "1 sends 0", "1 has 0", "1 sends 1", "2 sends 0", "2 has 10"),
        *("2 sends 1", "2 has 11", "0 has 20", "0 sends 1", "0 has 21", "1 has 1"),
    ]


@pytest.mark.parametrize("ends", [False, True], ids=["waits", "ends"])
def test_messages_that_nobody_sends_are_told(ends: bool) -> None:
    """The last peer that could have sent waits as well, or it has ended."""
    ended: list[int] = []

    def body(transport: Transport) -> None:
        if not (ends and transport.rank == 2):
            with pytest.raises((RuntimeError, AbortedError)) as raised:
                wait(transport, 2)
            ended.append(transport.rank)
            raise raised.value

    waiting = "0, 1" if ends else "0, 1, 2"
    with pytest.raises(RuntimeError, match=f"messages that these peers wait for: {waiting}$"):
        run_threads(PEERS, body)
    assert sorted(ended) == ([0, 1] if ends else [0, 1, 2])


def test_a_failure_ends_all_ranks_and_is_raised() -> None:
    def body(transport: Transport) -> None:
        if transport.rank == 1:
            raise ValueError("of one peer")
        wait(transport, 1)

    with pytest.raises(ValueError, match="of one peer"):
        run_threads(PEERS, body)


def test_a_rank_that_ends_because_another_one_will_fail_is_no_failure() -> None:
    """As in the checks before a run: all ranks know that one of them has to raise the error."""

    def body(transport: Transport) -> None:
        raise ValueError("of the last peer") if transport.rank == 2 else AbortedError

    with pytest.raises(ValueError, match="of the last peer"):
        run_threads(PEERS, body)
