"""Reading pickled public data sets without running anything that the file asks for.

A pickle can name any function and have it called. Here every name is answered by a stand-in of
this module, so a file can hold NumPy arrays of plain numbers or strings and Python's plain
containers; anything else is refused. NumPy's own unpickling is used only on checked values.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from p2psim.errors import InputError


def load(path: Path, cure: str, records: Collection[str] = ()) -> Any:
    """The object in a pickle; strings of Python 2 come as bytes.

    `records` are full names of classes (such as "scipy.sparse.csr.csr_matrix") whose objects
    become `Record`s: their attributes and nothing of the class. InputError with `cure` if the
    file is damaged or holds anything else.
    """
    try:
        with path.open("rb") as stream:
            return _Unpickler(stream, records).load()
    except Exception as error:  # a damaged pickle can fail in every way there is
        said = str(error) or type(error).__name__
        raise InputError(f"{str(path)!r} cannot be used ({said}); {cure}") from None


class Record:
    """The attributes of an object whose class was not loaded."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self.state = {_text(key): value for key, value in state.items()}


class Array(np.ndarray[Any, Any]):
    """An array that checks what it is filled with; np.asarray makes it an ordinary one."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array that does not hold plain numbers")
        if any(type(size) is not int or size < 0 for size in shape):
            raise pickle.UnpicklingError(f"an array of shape {shape!r}")
        if math.prod(shape) * dtype.value.itemsize != len(raw):
            raise pickle.UnpicklingError(f"{len(raw)} bytes for an array of shape {shape!r}")
        state = (1, shape, dtype.value, int(fortran), raw)
        super().__setstate__(state)


class _Dtype:
    """Stands for numpy.dtype: numbers and strings of fixed length only."""

    def __init__(self, code: Any, *flags: Any) -> None:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]|[SU]\d{1,6}", _text(code)):
            raise pickle.UnpicklingError(f"an array of type {code!r}")
        self.value = np.dtype(_text(code))

    def __setstate__(self, state: Any) -> None:
        order, subarray, names, fields = state[1:5]
        if _text(order) not in "<>|=" or (subarray, names, fields) != (None, None, None):
            raise pickle.UnpicklingError("an array of a structured type")
        self.value = np.dtype(_text(order) + self.value.str[1:])


def _array(*_: Any) -> Array:
    """Stands for numpy's _reconstruct: always empty, filled by __setstate__."""
    return Array((0,), np.uint8)


def _encode(text: str, encoding: str) -> bytes:
    """Stands for _codecs.encode, by which Python 3 writes bytes in old protocols."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _dict(*_: Any) -> dict[Any, Any]:
    """Stands for defaultdict; its default is dropped."""
    return {}


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


# numpy.ndarray is only ever an argument of _reconstruct, which drops it: None cannot be called.
STAND_INS: dict[str, Any] = {
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.ndarray": None,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _encode,
    "collections.defaultdict": _dict,
    "collections.OrderedDict": _dict,
    "__builtin__.list": list,
    "builtins.list": list,
    "__builtin__.set": set,
    "builtins.set": set,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: Any, records: Collection[str]) -> None:
        super().__init__(stream, encoding="bytes")
        self.records = records

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self.records:
            return Record
        if full not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {full}, which is not data")
        return STAND_INS[full]
