"""Clicks on advertisements: the Criteo Display Advertising Challenge, or a file in its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from p2psim import memory, rng
from p2psim.base import Count, Data, Indices
from p2psim.data.click_rows import CURE, FIELDS, ClickFile, Piece
from p2psim.data.files import data_folder, find_file, open_data_file
from p2psim.data.sources import UNCHECKED
from p2psim.data.vocabulary import Counter, Vocabularies
from p2psim.errors import InputError, suggest
from p2psim.registry import plugin

Share = Annotated[float, Meta(ge=0, lt=1)]

OWN = "criteo"  # `file` of the published data
SPLIT_SEED = 39  # of the parts: the same test samples for all seeds of experiments
TRAIN, VALIDATION, TEST = range(3)
CLICK = "click"


@plugin("data", "criteo", source="Criteo Labs 2014, Display Advertising Challenge")
class Criteo(Data):
    """Clicks on advertisements: 13 integers and 26 categories, as one id for each of 39 fields.

    `file`: "criteo", which is `$P2PSIM_DATA/criteo/train.txt`, or the path of another file in that
    layout (label, I1 to I13, C1 to C26, with tabs between them; .gz is allowed). The test set is
    dev.txt and test.txt of the folder criteo, if they have labels; the official test.txt has none.
    Otherwise it is a fixed random `test_share` of the rows. `validation_share` of the rows choose
    among models; by default 0.1 where the test set is taken from the same file, and else none.

    An integer v > 2 becomes floor(ln(v)^2), another one v - 2; a missing value is a value of its
    own. Values with fewer than `min_count` of the training samples, and unknown ones, share one id
    for each field. Partitions split by the click or, with `split_by` such as "C3", by that field.
    """

    file: str = OWN
    min_count: Count = 10
    test_share: Share = 0.1
    validation_share: Share | None = None
    split_by: str = CLICK

    shape = (len(FIELDS),)
    outputs = 1
    classes = 2
    task = "click-through"

    def open(self, folder: str) -> None:
        """Read all files once; InputError if one is missing, damaged or has too few rows."""
        if self.split_by not in (CLICK, *FIELDS):
            choice = suggest(self.split_by, [CLICK, *FIELDS])
            raise InputError(f"data.split_by = {self.split_by!r}: there is no such field; {choice}")
        self.split_by_class = self.split_by == CLICK
        path, tests = find(self.file, Path(folder))
        shares = self._shares(bool(tests))
        self.validates = shares[VALIDATION] > 0
        counters = [Counter() for _ in FIELDS]
        parts, draws = list[NDArray[np.uint8]](), rng.generator(SPLIT_SEED, "criteo")

        def count(piece: Piece) -> None:
            ends = np.cumsum(shares[::-1])  # of the draws in [0, 1) that test, validate, train
            part = np.uint8(TEST) - np.searchsorted(ends[:-1], draws.random(piece.rows), "right")
            parts.append(part.astype(np.uint8))
            trains = part == TRAIN
            for field, counter in enumerate(counters):
                counter.add(piece.values(field)[trains])

        self._file = ClickFile(path, count)
        self._tests = [ClickFile(test, check) for test in tests]
        part = np.concatenate(parts)
        self._rows = [np.flatnonzero(part == k).astype(np.int32) for k in (TRAIN, VALIDATION, TEST)]
        self._check_parts(shares)
        self._ids = Vocabularies([counter.frequent(self.min_count) for counter in counters])
        self.vocabulary = self._ids.sizes

    def _shares(self, has_tests: bool) -> tuple[float, float, float]:
        """Return the shares of the file's rows that train, validate and test."""
        test = 0.0 if has_tests else self.test_share
        validation = self.validation_share
        if validation is None:
            validation = 0.0 if has_tests else 0.1
        if test + validation >= 1:
            raise InputError(
                f"data.validation_share = {validation}: with test_share = {test} no row is left to "
                "train on; give shares whose sum is below 1"
            )
        return 1 - test - validation, validation, test

    def _check_parts(self, shares: tuple[float, float, float]) -> None:
        needed = [True, shares[VALIDATION] > 0, not self._tests]
        for name, rows, need in zip(("train", "validate", "test"), self._rows, needed, strict=True):
            if need and not rows.size:
                raise InputError(
                    f"data.file = {self.file!r}: none of its {self._file.rows} rows is left to "
                    f"{name}; give a larger file, or other values of data.test_share and "
                    "data.validation_share"
                )

    def labels(self) -> Indices:
        rows = self._rows[TRAIN]
        if self.split_by_class:
            return self._file.labels[rows].astype(np.int64)
        labels, field = np.empty(rows.size, np.int64), FIELDS.index(self.split_by)

        def see(piece: Piece, positions: Indices) -> None:
            labels[positions] = self._ids.ids(piece, field)

        self._file.read(rows.astype(np.int64), see)
        return labels

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._read(self._file, self._rows[TRAIN][indices])

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        if not self._tests:
            return self._read(self._file, self._rows[TEST])
        parts = [self._read(file, np.arange(file.rows)) for file in self._tests]
        inputs, targets = zip(*parts, strict=True)
        return np.concatenate(inputs), np.concatenate(targets)

    def validation_samples(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._read(self._file, self._rows[VALIDATION])

    def _read(self, file: ClickFile, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the ids of these rows, int32 of shape (rows, 39), and their labels."""
        memory.check(
            4 * rows.size * len(FIELDS),
            f"{str(file.path)!r}: {rows.size:,} rows of one peer",
            "give more peers, or a part of the file",
        )
        ids = np.empty((rows.size, len(FIELDS)), np.int32)

        def see(piece: Piece, positions: Indices) -> None:
            ids[positions] = self._ids.encode(piece)

        file.read(rows, see)
        return ids, file.labels[rows].astype(np.int64)


def find(file: str, folder: Path) -> tuple[Path, list[Path]]:
    """Return the file with the training rows, and the test files that have labels."""
    if file != OWN:
        cure = f"give {OWN!r}, or the path of a file (from the experiment's folder)"
        return find_file([folder / file], f"data.file = {file!r}", cure), []
    home = data_folder() / OWN

    def names(part: str) -> list[Path]:
        return [home / f"{part}.txt", home / f"{part}.txt.gz"]

    tests = [path for part in ("dev", "test") for path in names(part) if path.is_file()]
    return find_file(names("train"), OWN, UNCHECKED[OWN]), [
        path for path in tests if has_labels(path)
    ]


def has_labels(path: Path) -> bool:
    """Return False for a file in the layout of the official test file, which has no labels."""
    with open_data_file(path, CURE) as stream:
        return stream.readline(1000).count(b"\t") != len(FIELDS) - 1


def check(piece: Piece) -> None:
    """Check the values of all fields of a piece; ValueError if one is wrong."""
    for field in range(len(FIELDS)):
        piece.values(field)
