"""Length of a run: the rounds of so many epochs, and the local steps of a round with a length."""

from __future__ import annotations

import math

from p2psim.base import StepTimeModel
from p2psim.errors import InputError
from p2psim.experiment.config import MOST_ROUNDS

SAMPLED_STEPS = 5_000  # of all peers, for the mean number of steps in a round


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


def mean_steps(compute: StepTimeModel, peers: int, seconds: float) -> float:
    """Return the local steps that a peer ends in a round of `seconds` virtual seconds, on average.

    The mean of all peers over their first steps; it does not depend on the length of the run. 0 for
    steps that take no time, which the algorithm refuses.
    """
    steps, seconds_of = max(1, SAMPLED_STEPS // peers), [0.0] * peers
    for step in range(steps):  # random times are drawn for all peers at once
        for rank in range(peers):
            seconds_of[rank] += compute.seconds(rank, step)
    per_second = sum(steps / total for total in seconds_of if total)
    return seconds * per_second / peers
