"""Agreement of all peers, between two rounds, on writing a checkpoint and on stopping.

A signal reaches peers at different times and their clocks differ, but a checkpoint must contain all
peers after the same round. So the peers take part in a collective maximum of their requests about
once a second. All derive the round of the next collective from the previous one. A collective has
log2(n) steps, which wait for other peers; while rounds are short each round takes one step, whose
messages travel during the round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from p2psim.experiment.config import Execution
from p2psim.network.collectives import ControlChannel

# Seconds between two collectives below which, and above which, their distance is changed.
MIN_SECONDS, MAX_SECONDS = 0.5, 1.0
SHORT = 32  # least rounds between two collectives with which a round is short


class Decision(NamedTuple):
    """Actions that all peers take after a round."""

    checkpoint: bool = False
    stop: bool = False


GO_ON = Decision()  # after most rounds, so that none is built anew


class RoundAgreement:
    """Decision after each round, the same on every peer. A stop includes a checkpoint.

    `stop_requested` returns True if this peer has received a request to stop. `check` is called
    before each collective, and raises an exception if the run cannot go on.
    """

    def __init__(
        self,
        control: ControlChannel,
        settings: Execution,
        stop_requested: Callable[[], bool],
        check: Callable[[], None] | None = None,
    ) -> None:
        self.control, self.stop_requested, self.check = control, stop_requested, check
        self.every = settings.checkpoint_rounds
        self.seconds = 60 * settings.checkpoint_minutes
        self.agreed_at = self.saved_at = time.monotonic()
        self.gap = 1  # rounds from one collective to the next
        self.next = 0  # round of the next collective
        self.requests = np.zeros(3)  # elapsed seconds, checkpoint, stop: maxima over the peers
        self.steps: Iterator[None] | None = None  # of the collective that goes on

    def __call__(self, round_: int) -> Decision:
        """Return the decision after round `round_`; every peer calls it after every round.

        Only in some rounds, the same ones on every peer, do the peers exchange messages.
        """
        due = self.every is not None and round_ % self.every == 0
        scheduled = Decision(checkpoint=True) if due else GO_ON
        if round_ < self.next:
            return self.restart_period(scheduled)
        if self.steps is None:
            self.steps = self.begin_collective()
        for _ in self.steps:
            if self.gap >= SHORT:
                return self.restart_period(scheduled)
        self.steps = None
        elapsed, late, stop = self.requests.tolist()
        # The elapsed time is a maximum over the peers, so all of them choose the same gap.
        if elapsed < MIN_SECONDS:
            self.gap *= 2
        elif elapsed > MAX_SECONDS:
            self.gap = max(1, self.gap // 2)
        self.next = round_ + self.gap
        save = due or bool(late) or bool(stop)
        return self.restart_period(Decision(checkpoint=save, stop=bool(stop)))

    def begin_collective(self) -> Iterator[None]:
        """Begin the collective maximum of the peers' requests; return its steps."""
        if self.check:
            self.check()
        now = time.monotonic()
        late = now - self.saved_at >= self.seconds
        self.requests[:] = now - self.agreed_at, late, self.stop_requested()
        self.agreed_at = now
        return self.control.maximum_steps(self.requests)

    def restart_period(self, decision: Decision) -> Decision:
        """Restart the period of `checkpoint_minutes` if the decision is a checkpoint; return it."""
        if decision.checkpoint:
            self.saved_at = time.monotonic()
        return decision
