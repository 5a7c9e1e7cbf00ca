"""Measures that drawings and claims of Pranav & Moura 2023 share."""

from __future__ import annotations

from p2psim.analysis.metrics import last_alike, rounds_to
from p2psim.analysis.results import Run

TARGET = 0.97  # accuracy that every device reaches in figure 2
SEEN, UNSEEN, ALL = "seen_accuracy", "unseen_accuracy", "accuracy"


def rounds_to_target(run: Run) -> str:
    """Return the number of rounds after which all devices have reached TARGET, as text.

    The last round is evaluated on all test images, the rounds before on some of them. If only the
    last round reaches TARGET, the number is an upper bound.
    """
    rounds = rounds_to(run, TARGET)
    return f"{'at most ' * ((rounds or 0) > last_alike(run))}{rounds or 'more'}"
