"""Random streams as stateless functions of (seed, purpose, rank, step).

No generator is kept between draws: every draw uses a new generator that is seeded with its own
coordinates. Results therefore depend neither on the order in which peers run nor on the round at
which a run was resumed.
"""

from __future__ import annotations

import hashlib

import numpy as np


def key(seed: int, purpose: str, rank: int = 0, step: int = 0) -> int:
    """Return a 64-bit key for these coordinates, the same on every machine."""
    # Python's own hash of a string differs between processes.
    text = f"{seed}/{purpose}/{rank}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def generator(seed: int, purpose: str, rank: int = 0, step: int = 0) -> np.random.Generator:
    """Return a new generator for these coordinates."""
    return np.random.Generator(np.random.Philox(key(seed, purpose, rank, step)))


class RandomStream:
    """Random stream of one peer for one purpose; its only state is `position`."""

    def __init__(self, seed: int, purpose: str, rank: int) -> None:
        self.origin = (seed, purpose, rank)
        self.position = 0

    def seed(self) -> int:
        """Return the 64-bit seed of the next position; a receiver can draw the same numbers."""
        value = key(*self.origin, self.position)
        self.position += 1
        return value

    def next(self) -> np.random.Generator:
        """Return the generator of the next position."""
        return np.random.Generator(np.random.Philox(self.seed()))
