"""What all peers agree on between two rounds: to write a checkpoint, to stop.

A signal reaches one peer before another, and clocks differ, but a checkpoint must show all peers
after the same round. So they meet about once a second, at rounds that all derive from what they
agreed on before, and take the maximum of what each has to say.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from p2psim.experiment.config import Execution
from p2psim.network.collectives import ControlChannel

OFTEN, SELDOM = 0.5, 1.0  # seconds between two meetings, about


class Decision(NamedTuple):
    """What to do after a round."""

    checkpoint: bool = False
    stop: bool = False


class RoundAgreement:
    """Asks all peers after a round; `asked` tells whether this one was told to stop."""

    def __init__(
        self, control: ControlChannel, settings: Execution, asked: Callable[[], bool]
    ) -> None:
        self.control, self.asked = control, asked
        self.every = settings.checkpoint_rounds
        self.seconds = 60 * settings.checkpoint_minutes
        self.met = self.saved = time.monotonic()
        self.gap = 1
        self.next = 0

    def __call__(self, number: int) -> Decision:
        """The same answer on every peer."""
        due = self.every is not None and number % self.every == 0
        if number < self.next:
            return self.answer(Decision(checkpoint=due))
        now = time.monotonic()
        mine = [now - self.met, now - self.saved >= self.seconds, self.asked()]
        took, late, stop = self.control.maximum(np.array(mine, float)).tolist()
        if took < OFTEN:
            self.gap *= 2
        elif took > SELDOM:
            self.gap = max(1, self.gap // 2)
        self.met, self.next = now, number + self.gap
        return self.answer(Decision(checkpoint=due or bool(late) or bool(stop), stop=bool(stop)))

    def answer(self, decision: Decision) -> Decision:
        """The decision; one that is to save starts the time to the next."""
        if decision.checkpoint:
            self.saved = time.monotonic()
        return decision
