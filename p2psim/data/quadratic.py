"""Least squares whose solution can be computed outside: the referee problem."""

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

NEEDS = "arrays A (n, m, d), b (n, m) and, if wanted, x0 (n, d), finite float64 or float32"


@plugin("data", "quadratic")
class Quadratic(Data):
    """f_i(x) = ||A_i x - b_i||^2 / (2 m) for the n peers, from an .npz file.

    Seen as a regression with n m samples: peer i holds the rows of A_i with targets b_i, and the
    loss is the mean of (output - target)^2 / 2. Use it with model "vector" and no batch_size.
    `file` is relative to the experiment's folder and holds A (n, m, d), b (n, m) and, if wanted,
    x0 (n, d), the first x of every peer (0 without it).
    """

    file: str

    outputs = 1
    classes = 0
    loss = "half-squared"

    def open(self, folder: str) -> None:
        """Read and check the file; InputError if it is missing or holds anything else."""
        arrays = read(Path(folder) / self.file)
        a, b, x0 = check(arrays, self.file)
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
        first: Vector = self._x0[rank].copy()
        return first


def read(path: Path) -> dict[str, Any]:
    """The arrays of an .npz file. InputError if it is not one."""
    problem = f"quadratic: {str(path)!r} cannot be used"
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is not an .npz file")
        with file:
            return {name: file[name] for name in ("A", "b", "x0") if name in file}
    except FileNotFoundError:
        raise InputError(
            f"quadratic: there is no file {str(path)!r}; give an .npz with {NEEDS}"
        ) from None
    except (OSError, EOFError, ValueError, KeyError, BadZipFile, zlib.error) as error:
        said = str(error).partition("\n")[0]
        raise InputError(f"{problem} ({said}); write it with numpy.savez: {NEEDS}") from None


def check(arrays: dict[str, Any], file: str) -> tuple[Any, Any, Any]:
    """A, b and x0 (or None) in one float type. InputError says what is wrong with which."""
    missing = [name for name in ("A", "b") if name not in arrays]
    if missing:
        raise InputError(f"quadratic: {file!r} has no array {missing[0]!r}; it needs {NEEDS}")
    if arrays["A"].ndim != 3 or 0 in arrays["A"].shape:
        raise InputError(f"quadratic: {file!r} has A of shape {arrays['A'].shape}; give (n, m, d)")
    n, m, d = arrays["A"].shape
    shapes = {"A": (n, m, d), "b": (n, m), "x0": (n, d)}
    for name, array in arrays.items():
        if array.dtype not in (np.float32, np.float64):
            raise InputError(
                f"quadratic: {file!r} has {name} in {array.dtype}; give float64 or float32"
            )
        if array.shape != shapes[name]:
            raise InputError(
                f"quadratic: {file!r} has {name} of shape {array.shape}; to A belongs "
                f"{shapes[name]}"
            )
        if not np.isfinite(array).all():
            raise InputError(
                f"quadratic: {file!r} has numbers in {name} that are not finite; give finite ones"
            )
    dtype = np.result_type(*arrays.values())
    made = {name: np.ascontiguousarray(array, dtype) for name, array in arrays.items()}
    return made["A"], made["b"], made.get("x0")
