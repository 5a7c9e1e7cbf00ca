"""Binary classification from LIBSVM text files: a9a, w8a, mushrooms, or a file of one's own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from p2psim import rng
from p2psim.base import Data, Indices
from p2psim.data.files import data_folder, find_file, reading
from p2psim.registry import plugin

FEATURES = {"a9a": 123, "w8a": 300, "mushrooms": 112}  # not every file shows its last feature
POSITIVE = (({-1.0, 1.0}, 1.0), ({0.0, 1.0}, 1.0), ({1.0, 2.0}, 2.0))
SPLIT_SEED = 20  # of the held-out part: the same test samples whatever the experiment's seed
HOME = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary.html"
CURE = "each line reads `label index:value ...` with indices from 1 that rise; check the file"


@plugin("data", "libsvm", source="Chang & Lin 2011")
class LIBSVM(Data):
    """Rows of features in two classes; the loss is the logistic one of a single output.

    `file`: "a9a", "w8a" or "mushrooms" in `$P2PSIM_DATA/libsvm/`, or a path of one's own; .gz may
    be left out. The test set is the file with ".t" added, or else 20 % of the rows, fixed and
    drawn at random. Labels -1 and 1, 0 and 1, or 1 and 2 become 0 and 1.
    """

    file: str

    outputs = 1
    classes = 2
    loss = "logistic"

    def open(self, folder: str) -> None:
        """Find the file and read its labels; InputError if it is missing or of another kind."""
        self._path, self._test_path = find(self.file, Path(folder))
        labels, features = scan(self._path)
        test, more = scan(self._test_path) if self._test_path else (labels[:0], 0)
        self.shape = (FEATURES.get(self.file, max(features, more)),)
        with reading(self._path, CURE):
            targets = binary(np.concatenate([labels, test]))
        self._labels, self._test_labels = np.split(targets, [labels.size])
        self._rows = np.arange(labels.size)
        if not self._test_path:
            self._hold_out()

    def _hold_out(self) -> None:
        rows = self._rows.size
        held = np.zeros(rows, bool)
        held[rng.generator(SPLIT_SEED, "libsvm").permutation(rows)[: max(1, rows // 5)]] = True
        self._rows, self._held = np.flatnonzero(~held), np.flatnonzero(held)

    def labels(self) -> Indices:
        return self._labels[self._rows]

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        rows = self._rows[indices]
        return read_rows(self._path, rows, self.shape[0]), self._labels[rows]

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        if self._test_path is None:
            inputs = read_rows(self._path, self._held, self.shape[0])
            return inputs, self._labels[self._held]
        rows = np.arange(self._test_labels.size)
        return read_rows(self._test_path, rows, self.shape[0]), self._test_labels


def find(file: str, folder: Path) -> tuple[Path, Path | None]:
    """The training file, and the test file where there is one."""
    if file in FEATURES:
        base = data_folder() / "libsvm" / file
        cure = f"download it from {HOME} into that folder, which P2PSIM_DATA sets"
    else:
        base = folder / file.removesuffix(".gz")
        cure = f"give one of {', '.join(FEATURES)}, or a file (from the experiment's folder)"
    path = find_file([Path(f"{base}.gz"), base], f"libsvm {file!r}", cure)
    tests = [test for test in (Path(f"{base}.t.gz"), Path(f"{base}.t")) if test.is_file()]
    return path, tests[0] if tests else None


def lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines that hold a sample, without comments."""
    for line in stream:
        text = line.partition(b"#")[0].strip()
        if text:
            yield text


def scan(path: Path) -> tuple[NDArray[np.float64], int]:
    """The labels as they stand in the file, and the largest feature index."""
    with reading(path, CURE) as stream:
        found, largest = [], 0
        for line in lines(stream):
            label, *features = line.split()
            found.append(float(label))
            if features:
                largest = max(largest, int(features[-1].partition(b":")[0]))
        if len(found) < 2 or not largest:
            raise ValueError(f"{len(found)} samples with {largest} features")
    return np.array(found), largest


def binary(labels: NDArray[np.float64]) -> Indices:
    """Labels as 0 and 1; ValueError where they are not of a known pair."""
    given = set(np.unique(labels).tolist())
    for pair, positive in POSITIVE:
        if given <= pair:
            return np.where(labels == positive, 1, 0)
    raise ValueError(f"labels {sorted(given)[:5]} where -1 1, 0 1 or 1 2 are allowed")


def read_rows(path: Path, rows: Indices, features: int) -> NDArray[Any]:
    """These samples (len, features), in the order asked for: uint8 where all are 0 or 1."""
    wanted, place = np.unique(rows, return_inverse=True)
    chosen = np.zeros(wanted[-1] + 1 if wanted.size else 0, bool)
    chosen[wanted] = True
    with reading(path, CURE) as stream:
        text = b"\n".join(line for line, take in zip(lines(stream), chosen, strict=False) if take)
        return parse(text, features)[place]


def parse(text: bytes, features: int) -> NDArray[Any]:
    """Dense rows of svmlight text; ValueError where it is not that."""
    from sklearn.datasets import load_svmlight_file  # half a second: only who needs it pays

    sparse, _ = load_svmlight_file(
        io.BytesIO(text), n_features=features, dtype=np.float32, zero_based=False
    )
    if not np.isfinite(sparse.data).all():
        raise ValueError("a value that is not finite")
    if np.isin(sparse.data, (0, 1)).all():
        sparse = sparse.astype(np.uint8)
    dense: NDArray[Any] = sparse.toarray()
    return dense
