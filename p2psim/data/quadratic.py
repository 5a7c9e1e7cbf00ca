"""Least-squares problems whose solution can be computed independently, for exact comparisons."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Data, Indices, Vector
from p2psim.errors import InputError
from p2psim.registry import plugin

ARRAYS = "arrays A (n, m, d), b (n, m) and, optionally, x0 (n, d), finite float64 or float32"


@plugin("data", "quadratic")
class Quadratic(Data):
    """f_i(x) = ||A_i x - b_i||^2 / (2 m) for the n peers, from an .npz file.

    The problem is a regression with n m samples: peer i holds the rows of A_i with targets b_i, and
    the loss is the mean of (output - target)^2 / 2. Use it with model "vector" and no batch_size.
    `file` is relative to the experiment's folder and holds A (n, m, d), b (n, m) and, optionally,
    x0 (n, d), the initial x of every peer (default 0).
    """

    file: str

    outputs = 1
    classes = 0
    task = "least-squares"

    def open(self, folder: str) -> None:
        """Read and check the file; InputError if it is missing or its content is not valid."""
        arrays = read_arrays(Path(folder) / self.file)
        a, b, x0 = check_arrays(arrays, self.file)
        self.peers, self.rows, d = a.shape
        self.shape = (d,)
        self._inputs, self._targets, self._x0 = a.reshape(-1, d), b.reshape(-1), x0

    def labels(self) -> Indices:
        return np.zeros(self._targets.size, np.int64)

    def parts(self, n: int) -> list[Indices]:
        if n != self.peers:
            raise InputError(
                f"quadratic: {self.file!r} holds {self.peers} peers, the experiment has {n}; "
                f"set peers = {self.peers} or give another file"
            )
        return list(np.arange(n * self.rows).reshape(n, self.rows))

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._inputs[indices], self._targets[indices]

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._inputs, self._targets

    def initial(self, rank: int) -> Vector:
        if self._x0 is None:
            return np.zeros(self.shape, self._inputs.dtype)
        x: Vector = self._x0[rank].copy()  # algorithms change x in place
        return x


def read_arrays(path: Path) -> dict[str, Any]:
    """Return those of the arrays A, b and x0 that an .npz file holds; InputError if unreadable."""
    problem = f"quadratic: {str(path)!r} cannot be used"
    try:
        if not path.is_file():  # np.load would wait for the writer of a named pipe
            raise FileNotFoundError
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):  # np.load reads single arrays as well
            raise ValueError("it is not an .npz file")
        with file:
            return {name: file[name] for name in ("A", "b", "x0") if name in file}
    except FileNotFoundError:
        raise InputError(
            f"quadratic: there is no file {str(path)!r}; give an .npz with {ARRAYS}"
        ) from None
    except (OSError, EOFError, ValueError, KeyError, MemoryError, BadZipFile, zlib.error) as error:
        message = str(error).partition("\n")[0]
        raise InputError(f"{problem} ({message}); write it with numpy.savez: {ARRAYS}") from None


def check_arrays(arrays: dict[str, Any], file: str) -> tuple[Any, Any, Any]:
    """Check the arrays; return A, b and x0 (None if missing), contiguous, in one float type.

    InputError with the name of the array if A or b is missing, or if one has a wrong shape, is no
    array of floats, or has an entry that is not finite. `file` is named in messages.
    """
    missing = [name for name in ("A", "b") if name not in arrays]
    if missing:
        raise InputError(f"quadratic: {file!r} has no array {missing[0]!r}; it needs {ARRAYS}")
    if arrays["A"].ndim != 3 or 0 in arrays["A"].shape:
        raise InputError(
            f"quadratic: {file!r} has A of shape {arrays['A'].shape}; give (n, m, d), none is 0"
        )
    n, m, d = arrays["A"].shape
    shapes = {"A": (n, m, d), "b": (n, m), "x0": (n, d)}
    for name, array in arrays.items():
        if array.dtype not in (np.float32, np.float64):
            raise InputError(
                f"quadratic: {file!r} has {name} in {array.dtype}; give float64 or float32"
            )
        if array.shape != shapes[name]:
            raise InputError(
                f"quadratic: {file!r} has {name} of shape {array.shape}; with this A it must be "
                f"{shapes[name]}"
            )
        if not np.isfinite(array).all():
            raise InputError(
                f"quadratic: {file!r} has numbers in {name} that are not finite; give finite ones"
            )
    dtype = np.result_type(*arrays.values())
    converted = {name: np.ascontiguousarray(array, dtype) for name, array in arrays.items()}
    return converted["A"], converted["b"], converted.get("x0")
