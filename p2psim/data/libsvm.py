"""Binary classification from LIBSVM text files: a9a, w8a, mushrooms, or a file of the user."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from p2psim import memory, rng
from p2psim.base import Data, Indices
from p2psim.data.files import data_folder, find_file, open_data_file
from p2psim.registry import plugin

# Numbers of features. They are listed because the last feature is zero, and therefore absent from
# the text, in all rows of some files.
FEATURES = {"a9a": 123, "w8a": 300, "mushrooms": 112}
POSITIVE = (({-1.0, 1.0}, 1.0), ({0.0, 1.0}, 1.0), ({1.0, 2.0}, 2.0))  # pairs of labels, class 1
MOST_DIGITS = 8  # of an index: a dense sample of more features does not fit a peer
SPLIT_SEED = 20  # of the test part: the same test samples for all seeds of experiments
HOME = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary.html"
CURE = "each line reads `label index:value ...` with indices from 1 that rise; check the file"


@plugin("data", "libsvm", source="Chang & Lin 2011")
class LIBSVM(Data):
    """Rows of features in two classes; the loss is the logistic loss of a single output.

    `file`: "a9a", "w8a" or "mushrooms" in `$P2PSIM_DATA/libsvm/`, or the path of another file; the
    suffix .gz may be left out. The test set is the file with ".t" appended to its name. If no such
    file exists, it is a fixed random 20 % of the rows. Labels -1 and 1, 0 and 1, or 1 and 2 become
    0 and 1.
    """

    file: str

    outputs = 1
    classes = 2
    task = "binary"

    def open(self, folder: str) -> None:
        """Find the file and read its labels; InputError if it is missing or of another format."""
        self._path, self._test_path = find(self.file, Path(folder))
        labels, features = scan(self._path)
        test, test_features = scan(self._test_path) if self._test_path else (labels[:0], 0)
        self.shape = (FEATURES.get(self.file, max(features, test_features)),)
        with open_data_file(
            self._path, CURE
        ):  # turns a ValueError into an InputError with the path
            targets = binary_targets(np.concatenate([labels, test]))
        memory.check(
            targets.size * self.shape[0],
            f"{str(self._path)!r}: {targets.size:,} samples of {self.shape[0]:,} features",
            "check the largest index",
        )
        self._labels, self._test_labels = np.split(targets, [labels.size])
        self._rows = np.arange(labels.size)
        if not self._test_path:
            self._hold_out()

    def _hold_out(self) -> None:
        rows = self._rows.size
        test = np.zeros(rows, bool)
        test[rng.generator(SPLIT_SEED, "libsvm").permutation(rows)[: max(1, rows // 5)]] = True
        self._rows, self._test_rows = np.flatnonzero(~test), np.flatnonzero(test)

    def labels(self) -> Indices:
        return self._labels[self._rows]

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        rows = self._rows[indices]
        return read_rows(self._path, rows, self.shape[0]), self._labels[rows]

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        if self._test_path is None:
            inputs = read_rows(self._path, self._test_rows, self.shape[0])
            return inputs, self._labels[self._test_rows]
        rows = np.arange(self._test_labels.size)
        return read_rows(self._test_path, rows, self.shape[0]), self._test_labels


def find(file: str, folder: Path) -> tuple[Path, Path | None]:
    """Return the training file and the test file, None if no test file exists."""
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
    """Yield the lines that hold a sample, without comments."""
    for line in stream:
        if text := sample(line):
            yield text


def sample(line: bytes) -> bytes:
    """Return a line without its comment; empty if it holds no sample."""
    return line.partition(b"#")[0].strip()


def scan(path: Path) -> tuple[NDArray[np.float64], int]:
    """Return the labels as they are in the file (rows,), and the largest feature index."""
    with open_data_file(path, CURE) as stream:
        labels, largest = [], 0
        for number, line in enumerate(stream, 1):
            label, *features = sample(line).split() or [b""]
            if not label:
                continue
            labels.append(float(label))
            if features:
                index = features[-1].partition(b":")[0]
                if len(index) > MOST_DIGITS:
                    raise ValueError(
                        f"line {number} has the index {index.decode()[:20]}: too large"
                    )
                largest = max(largest, int(index))
        if len(labels) < 2 or not largest:
            raise ValueError(f"it holds {len(labels)} samples with {largest} features")
    return np.array(labels), largest


def binary_targets(labels: NDArray[np.float64]) -> Indices:
    """Return the labels as classes 0 and 1; ValueError if they are not of one known pair."""
    values = set(np.unique(labels).tolist())
    for pair, positive in POSITIVE:
        if values <= pair:
            return np.where(labels == positive, 1, 0)
    raise ValueError(f"labels {sorted(values)[:5]} where -1 1, 0 1 or 1 2 are allowed")


def read_rows(path: Path, rows: Indices, features: int) -> NDArray[Any]:
    """Return the samples with these row numbers, in that order; shape (len, features).

    The type is uint8 if all values are 0 or 1, else float32.
    """
    unique, positions = np.unique(rows, return_inverse=True)
    selected = np.zeros(unique[-1] + 1 if unique.size else 0, bool)
    selected[unique] = True
    with open_data_file(path, CURE) as stream:
        samples = zip(lines(stream), selected, strict=False)  # ends after the last selected row
        text = b"\n".join(line for line, is_selected in samples if is_selected)
        return parse(text, features)[positions]


def parse(text: bytes, features: int) -> NDArray[Any]:
    """Return dense rows from svmlight text (rows, features); ValueError if it is not valid."""
    from sklearn.datasets import load_svmlight_file  # the import takes half a second

    sparse, _ = load_svmlight_file(
        io.BytesIO(text), n_features=features, dtype=np.float32, zero_based=False
    )
    if not np.isfinite(sparse.data).all():
        raise ValueError("it holds a value that is not finite")
    if np.isin(sparse.data, (0, 1)).all():
        sparse = sparse.astype(np.uint8)
    dense: NDArray[Any] = sparse.toarray()
    return dense
