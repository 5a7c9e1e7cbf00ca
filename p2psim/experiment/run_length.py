"""Length of a run: the rounds of so many epochs, and the local steps of a round with a length."""

from __future__ import annotations

import math

from p2psim.base import StepTimeModel
from p2psim.errors import InputError
from p2psim.experiment.config import MOST_ROUNDS

SAMPLED_STEPS = 100_000  # of all peers, for the mean number of steps in a round


def rounds_of(epochs: float, rounds_per_epoch: float) -> int:
    """Return the least number of rounds that gives so many epochs; InputError for too many."""
    rounds = epochs * rounds_per_epoch
    if rounds > MOST_ROUNDS:
        raise InputError(
            f"epochs = {epochs:g}: that is {rounds:g} rounds; "
            f"give fewer, at most {MOST_ROUNDS} rounds"
        )
    # Rounding errors of a whole number of rounds must not add a round.
    return max(1, math.ceil(rounds - 1e-9))


def mean_steps(compute: StepTimeModel, peers: int, seconds: float, rounds: int | None) -> float:
    """Return the local steps that a peer ends in a round of `seconds` virtual seconds, on average.

    The mean of all peers over the first steps of the run, at most SAMPLED_STEPS in all. 0 for steps
    that take no time, which the algorithm refuses.
    """
    limit, per_second = max(1, SAMPLED_STEPS // peers), 0.0
    horizon = seconds * (rounds or math.inf)
    for rank in range(peers):
        steps, now, end = 0, 0.0, compute.seconds(rank, 0)
        while steps < limit and end <= horizon:
            steps, now = steps + 1, end
            end += compute.seconds(rank, steps)
        per_second += steps / (now if steps == limit else horizon) if now else 0.0
    return seconds * per_second / peers
