"""Safe reader of pickled public data sets: it runs no code that a file names.

A pickle can name any function and make the reader call it. This reader knows few names, and most
of them stand for functions of this module. A file can therefore hold only NumPy arrays of plain
numbers or strings, plain values and containers of Python, and records; everything else is refused.
NumPy's own unpickling code receives checked values only.
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
    """Read a pickle without running its code; return the object.

    Arrays are of type Array, defaultdict and OrderedDict become dict, strings of Python 2 bytes.
    `records` are full names of classes (such as "scipy.sparse.csr.csr_matrix"). An object of such a
    class becomes a `Record` of its attributes; the class itself is not loaded. InputError, with the
    advice `cure`, if the file is damaged or holds an object of another type.
    """
    try:
        with path.open("rb") as stream:
            return _Unpickler(stream, records).load()
    except Exception as error:  # a damaged pickle can raise an error of any type
        message = str(error) or type(error).__name__
        raise InputError(f"{str(path)!r} cannot be used ({message}); {cure}") from None


class Record:
    """Object whose class was not loaded: `state` holds its attributes by name."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self.state = {_text(key): value for key, value in state.items()}


class Array(np.ndarray[Any, Any]):
    """Array that checks its content when it is unpickled; np.asarray converts it to a plain array.

    UnpicklingError unless it holds bool, integers, floats of at most 64 bits or strings of fixed
    length, and exactly the bytes that its shape needs.
    """

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array that does not hold plain numbers")
        if any(type(size) is not int or size < 0 for size in shape):
            raise pickle.UnpicklingError(f"an array of shape {shape!r}")
        if math.prod(shape) * dtype.value.itemsize != len(raw):
            raise pickle.UnpicklingError(f"an array of shape {shape!r} in {len(raw)} bytes")
        state = (1, shape, dtype.value, int(fortran), raw)
        super().__setstate__(state)


class _Dtype:
    """Stand-in for numpy.dtype that accepts numbers and strings of fixed length only."""

    def __init__(self, code: Any, *flags: Any) -> None:
        # bool, integers, floats, strings of fixed length; above all no objects ("O").
        if not re.fullmatch(r"b1|[iu][1248]|f[248]|[SU]\d{1,6}", _text(code)):
            raise pickle.UnpicklingError(f"an array of type {code!r}")
        self.value = np.dtype(_text(code))

    def __setstate__(self, state: Any) -> None:
        order, subarray, names, fields = state[1:5]
        if _text(order) not in "<>|=" or (subarray, names, fields) != (None, None, None):
            raise pickle.UnpicklingError("an array of a structured type")
        self.value = np.dtype(_text(order) + self.value.str[1:])


def _array(*_: Any) -> Array:
    """Stand-in for numpy's _reconstruct: return an empty array, which __setstate__ fills."""
    return Array((0,), np.uint8)


def _encode(text: str, encoding: str) -> bytes:
    """Stand-in for _codecs.encode, with which Python 3 writes bytes in old pickle protocols."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _dict(*arguments: Any) -> dict[Any, Any]:
    """Return an empty dict for a defaultdict or OrderedDict, whose entries are set afterwards.

    UnpicklingError if the arguments hold the entries, as in Python 2; a default factory is dropped.
    """
    if any(isinstance(argument, list | tuple | dict) and argument for argument in arguments):
        raise pickle.UnpicklingError("an OrderedDict in the form of Python 2")
    return {}


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


# numpy.ndarray occurs only as an argument of _reconstruct, which ignores it. None cannot be called.
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
