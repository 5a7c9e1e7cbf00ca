"""Random streams: stateless functions of (seed, purpose, rank, step).

Nothing is drawn from a generator that lives on: every draw starts from its own coordinates, so a
result depends neither on the order in which peers run nor on where a run was resumed.
"""

from __future__ import annotations

import hashlib

import numpy as np


def key(seed: int, purpose: str, rank: int = 0, step: int = 0) -> int:
    """64 bits for these coordinates, the same on every machine."""
    text = f"{seed}/{purpose}/{rank}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def generator(seed: int, purpose: str, rank: int = 0, step: int = 0) -> np.random.Generator:
    """A fresh generator for these coordinates."""
    return np.random.Generator(np.random.Philox(key(seed, purpose, rank, step)))


class Stream:
    """One peer's randomness for one purpose; `position` is the whole of its state."""

    def __init__(self, seed: int, purpose: str, rank: int) -> None:
        self.origin = (seed, purpose, rank)
        self.position = 0

    def seed(self) -> int:
        """64 bits that stand for the next position and can travel."""
        value = key(*self.origin, self.position)
        self.position += 1
        return value

    def next(self) -> np.random.Generator:
        """The generator of the next position."""
        return np.random.Generator(np.random.Philox(self.seed()))
