"""Ids of the values of categorical fields: counts in little memory, and fast look-up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Indices
from p2psim.data.click_rows import FIELDS, Codes, Piece

WAITING = 1 << 16  # distinct values of a field that wait to be merged, at least


class Counter:
    """Number of times that each value of a field has been counted.

    Memory grows with the number of distinct values, not with the number of rows.
    """

    def __init__(self) -> None:
        self.values = np.empty(0, np.uint64)  # distinct, in rising order
        self.counts = np.empty(0, np.int32)
        self.waiting: list[tuple[Codes, NDArray[np.int32]]] = []
        self.size = 0  # of what waits

    def add(self, words: Codes) -> None:
        """Count these values."""
        words = np.sort(words)
        starts = run_starts(words)
        counts = np.diff(starts, append=words.size).astype(np.int32)
        self.waiting.append((words[starts], counts))
        self.size += starts.size
        if self.size > max(WAITING, self.values.size):
            self.merge()

    def merge(self) -> None:
        """Add the waiting values to the others."""
        parts = [(self.values, self.counts), *self.waiting]
        values = np.concatenate([part for part, _ in parts])
        counts = np.concatenate([part for _, part in parts])
        order = np.argsort(values, kind="stable")
        values = values[order]
        starts = run_starts(values)
        self.values = values[starts]
        self.counts = np.add.reduceat(counts[order], starts, dtype=np.int32)
        self.waiting, self.size = [], 0

    def frequent(self, least: int) -> Codes:
        """Return the values that have been counted at least `least` times, in rising order."""
        self.merge()
        return self.values[self.counts >= least]


def run_starts(words: Codes) -> Indices:
    """Return the positions at which a run of equal values starts in a sorted array."""
    changes = np.ones(words.size, bool)
    np.not_equal(words[1:], words[:-1], out=changes[1:])
    return np.flatnonzero(changes)


class Table:
    """Ids 1, 2, ... of the values of a field, by hashing with linear probing.

    Three of four slots are empty, so that most values are in the first slot.
    """

    def __init__(self, values: Codes) -> None:
        """Enter distinct values; their ids are their positions + 1."""
        bits = max(4, int(values.size).bit_length() + 2)
        self.shift, self.last = np.uint64(64 - bits), 2**bits - 1
        self.values, self.ids = np.zeros(2**bits, np.uint64), np.zeros(2**bits, np.int32)
        ids = np.arange(1, values.size + 1, dtype=np.int32)
        slots = self.slots(values)
        while ids.size:
            empty = self.ids[slots] == 0
            self.ids[slots[empty]] = ids[empty]  # of several values, the last one stays
            left = self.ids[slots] != ids
            self.values[slots[~left]] = values[ids[~left] - 1]
            ids, slots = ids[left], slots[left] + 1 & self.last

    def slots(self, words: Codes) -> Indices:
        """Return the slots in which the search for words begins."""
        return (words * np.uint64(0x9E3779B97F4A7C15) >> self.shift).astype(np.int64)

    def look_up(self, words: Codes) -> NDArray[np.int32]:
        """Return the ids of words, 0 for those that have not been entered."""
        slots = self.slots(words)
        ids = self.ids[slots]
        (searched,) = np.nonzero((self.values[slots] != words) & (ids > 0))
        slots = slots[searched]
        while searched.size:
            slots = slots + 1 & self.last
            ids[searched] = self.ids[slots]
            left = (self.values[slots] != words[searched]) & (ids[searched] > 0)
            searched, slots = searched[left], slots[left]
        return ids


class Vocabularies:
    """Ids of the values of all fields.

    A field with k frequent values has k + 1 ids: 0 for a rare or unknown value, 1 to k for the
    frequent ones in rising order. The ids of all fields follow each other.
    """

    def __init__(self, frequent: Sequence[Codes]) -> None:
        """Receive the frequent values of each field, distinct and in rising order."""
        self.tables = [Table(values) for values in frequent]
        self.sizes = [values.size + 1 for values in frequent]
        self.offsets = np.cumsum([0, *self.sizes[:-1]])

    def ids(self, piece: Piece, field: int) -> NDArray[np.int32]:
        """Return the ids within a field of a piece's chosen rows, from 0, shape (rows,)."""
        return self.tables[field].look_up(piece.values(field))

    def encode(self, piece: Piece) -> NDArray[np.int32]:
        """Return the ids of all fields in the chosen rows, shape (rows, fields)."""
        ids = np.empty((len(FIELDS), piece.chosen.size), np.int32)
        for field, offset in enumerate(self.offsets):
            np.add(self.ids(piece, field), offset, out=ids[field], casting="same_kind")
        return ids.T
