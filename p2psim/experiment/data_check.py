"""Check of a data set: its attributes, its labels and its samples; InputError names the mistake.

Without these checks a mistake in a user's data set fails later, in a place that does not name it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Data, Indices
from p2psim.errors import InputError, quoted

Raw: TypeAlias = tuple[Any, NDArray[Any]]  # inputs and targets in the data set's own format
NUMBERS = "biuf"  # kinds of NumPy types that a model can process


def check_attributes(name: str, data: Data) -> None:
    """Check the attributes that `open` fills in."""
    for attribute in ("shape", "outputs"):
        if not hasattr(data, attribute):
            raise InputError(f"data {name!r}: `open` has not set self.{attribute}; set it there")
    shape, outputs = data.shape, data.outputs
    if not isinstance(shape, tuple) or not all(is_count(size) for size in shape):
        raise InputError(
            f"data {name!r}: shape = {quoted(shape)}; give the shape of one sample, a tuple of "
            "whole numbers >= 1"
        )
    if not is_count(outputs):
        raise InputError(f"data {name!r}: outputs = {quoted(outputs)}; give a whole number >= 1")
    check_shared(name, data)
    for attribute in ("scale", "shift"):
        value = getattr(data, attribute)
        try:
            numbers = np.asarray(value, float)
            fits = np.broadcast_shapes(numbers.shape, shape) == shape
        except (TypeError, ValueError):
            fits = False
        if not fits or not np.isfinite(numbers).all():
            raise InputError(
                f"data {name!r}: {attribute} = {quoted(value)}; give a finite number, or an array "
                f"that broadcasts over a sample of shape {shape}"
            )


def check_shared(name: str, data: Data) -> None:
    """Check the vocabulary, and the arrays that all samples share."""
    vocabulary = data.vocabulary
    sizes = vocabulary if isinstance(vocabulary, list | tuple) else [vocabulary or 1]
    if not sizes or not all(map(is_count, sizes)):
        raise InputError(
            f"data {name!r}: vocabulary = {quoted(vocabulary)}; give the number of ids, or a list "
            "of numbers, one for each categorical field, or 0 for samples of numbers"
        )
    if data.validates and type(data).validation_samples is Data.validation_samples:
        raise InputError(
            f"data {name!r}: `validation_samples` is missing; add it, or leave validates = False"
        )
    context = data.context
    arrays = context.values() if isinstance(context, Mapping) else [None]
    if not all(isinstance(array, np.ndarray) for array in arrays):
        raise InputError(
            f"data {name!r}: context is {described(context)}; give a dictionary of NumPy arrays"
        )


def is_count(value: Any) -> bool:
    """Return True for a whole number >= 1."""
    return isinstance(value, int | np.integer) and value is not True and int(value) >= 1


def check_labels(name: str, labels: Any) -> Indices:
    """Return the labels of all training samples, checked to be one integer for each."""
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(
            f"data {name!r}: `labels` has returned {described(labels)}; it must return an array of "
            "integers, one for each training sample"
        )
    return labels


def check_pair(name: str, method: str, raw: Any) -> Raw:
    """Return what a method of a data set has returned, checked to be inputs and targets."""
    is_pair = isinstance(raw, tuple | list) and len(raw) == 2
    inputs, targets = raw if is_pair else (None, np.empty(0))
    # A dict without arrays is refused as a value of a wrong type.
    for array in (*(named(inputs) or {"": inputs}).values(), targets):
        if not isinstance(array, np.ndarray) or not array.ndim or array.dtype.kind not in NUMBERS:
            returned = f"a pair with {described(array)}" if is_pair else described(raw)
            raise InputError(
                f"data {name!r}: `{method}` has returned {returned}; it must return a pair of "
                "NumPy arrays of real numbers, inputs and targets (inputs may be a dict of arrays)"
            )
    return inputs, targets


def named(inputs: Any) -> dict[str, Any]:
    """Return the arrays of inputs by name; a single array is called "inputs"."""
    return inputs if isinstance(inputs, dict) else {"inputs": inputs}


def check_samples(name: str, data: Data, kind: str, raw: Raw, numbers: Indices, dtype: str) -> None:
    """Check samples with these numbers in the data set: number, shape, and finite values.

    `kind` is "training" or "test", `dtype` the type of the model's numbers.
    """
    inputs, targets = raw
    if not len(targets):
        raise InputError(f"data {name!r}: there are no {kind} samples; give at least one")
    for column, array in {**named(inputs), "targets": targets}.items():
        if len(array) != len(numbers):
            raise InputError(
                f"data {name!r}: {column} of the {kind} samples have {len(array)} rows, but there "
                f"are {len(numbers)} samples; give one row for each"
            )
        scaled = column != "targets" and array.dtype.kind == "f" and not data.vocabulary
        check_finite(name, data if scaled else None, kind, column, array, numbers, dtype)
    if not isinstance(inputs, dict) and inputs.shape[1:] != data.shape:
        raise InputError(
            f"data {name!r}: {kind} samples have the shape {inputs.shape[1:]}, but shape = "
            f"{data.shape}; make them agree"
        )


def check_finite(
    name: str,
    data: Data | None,
    kind: str,
    column: str,
    array: NDArray[Any],
    numbers: Indices,
    dtype: str,
) -> None:
    """Check that all entries are finite, and also in `dtype` after the scaling of `data`."""
    if array.dtype.kind != "f":
        return
    if not np.isfinite(array).all():
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        raise InputError(
            f"data {name!r}: {column} of {kind} sample {numbers[np.flatnonzero(~finite)[0]]} hold "
            "NaN or infinity; correct the data"
        )
    most = float(np.finfo(dtype).max)
    scale, shift = (np.abs(data.scale).max(), np.abs(data.shift).max()) if data else (1.0, 0.0)
    with np.errstate(over="ignore"):
        largest = max(-float(array.min()), float(array.max())) * float(scale) + float(shift)
    if not largest <= most:
        raise InputError(
            f"data {name!r}: {column} of {kind} samples reach {largest:.3g} after scale and shift, "
            f"more than {dtype} holds; scale the data"
        )


def described(value: Any) -> str:
    """Return type and shape of an array, or the type of another value, for a message."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
