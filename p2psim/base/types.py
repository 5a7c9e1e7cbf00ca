"""Types of vectors and ranges of parameters that all interfaces share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[Any]  # float32 or float64, contiguous, one dimension
Matrix: TypeAlias = NDArray[np.float64]
Payload: TypeAlias = NDArray[np.uint8]  # the bytes that travel
Indices: TypeAlias = NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]
Ranks: TypeAlias = Sequence[int] | None

# Ranges that the experiment file is checked against.
Count = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(gt=0, le=1)]
Unit = Annotated[float, Meta(ge=0, le=1)]
