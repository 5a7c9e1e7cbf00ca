"""Messages: the bytes that travel, the vectors that they encode, and a pool of memory for both."""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import numpy as np

from p2psim.base import Compressor, Payload, Vector
from p2psim.errors import ReturnValueError
from p2psim.vectors import not_finite, read_numbers, write_numbers


class Pool:
    """Arrays that are used again once nobody else refers to them: no allocation in each round."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[int, str], list[Any]] = {}  # by size and type
        # Reference count of an array that only its list refers to, as `_counts` sees it.
        self.idle = self._counts([np.empty(0)])[0]

    @staticmethod
    def _counts(arrays: list[Any]) -> list[int]:
        return [sys.getrefcount(array) for array in arrays]

    def take(self, size: int, dtype: Any) -> Any:
        """Return an array of shape (size,) that only the pool refers to, with any content."""
        arrays = self.arrays.setdefault((size, np.dtype(dtype).str), [])
        for index, count in enumerate(self._counts(arrays)):
            if count == self.idle:
                return arrays[index]
        arrays.append(np.empty(size, dtype))
        return arrays[-1]


class Packet:
    """A message: the bytes of its payload, and the vector that they decode to.

    Without a codec the payload is the memory of the vector itself.
    """

    def __init__(
        self,
        pool: Pool,
        payload: Payload,
        codec: Codec | None,
        entries: int,
        dtype: Any,
        value: Vector | None = None,
    ) -> None:
        """Keep the bytes of a vector; `value` is that vector where the sender has it."""
        self.pool, self.payload, self.codec = pool, payload, codec
        self.entries, self.dtype = entries, dtype
        self._value = value

    @property
    def value(self) -> Vector:
        """The decoded vector, shape (entries,); decoded once, on the first access."""
        if self._value is None:
            if self.codec is None:
                self._value = self.payload.view(self.dtype)
            else:
                self._value = self.pool.take(self.entries, self.dtype)
                self.codec.decode(self.payload, self._value)
        return self._value


class Tailed:
    """A compressor with a raw tail: the last `raw_tail` entries travel uncompressed."""

    def __init__(self, codec: Compressor, raw_tail: int) -> None:
        self.codec, self.raw_tail = codec, raw_tail

    def encode(self, v: Vector, out: Payload) -> int:
        used = encode(self.codec, v[: -self.raw_tail], out)
        # The codec has checked its own entries only.
        if not np.isfinite(v[-self.raw_tail :]).all():
            raise not_finite(self.codec)
        return used + write_numbers(out[used:], v.dtype, *v[-self.raw_tail :])

    def decode(self, payload: Payload, out: Vector) -> None:
        tail = self.raw_tail * out.itemsize
        self.codec.decode(payload[:-tail], out[: -self.raw_tail])
        out[-self.raw_tail :] = read_numbers(payload[-tail:], out.dtype, self.raw_tail)

    def max_bytes(self, d: int, itemsize: int = 4) -> int:
        return self.codec.max_bytes(d - self.raw_tail, itemsize) + self.raw_tail * itemsize


Codec: TypeAlias = Compressor | Tailed


def encode(codec: Codec, v: Vector, out: Payload) -> int:
    """Write C(v) into `out` and return the bytes used; ReturnValueError for an impossible number.

    Without the check the memory that nobody has written would be sent and counted.
    """
    used = codec.encode(v, out)
    if not isinstance(used, int | np.integer) or not 0 <= used <= out.size:
        raise ReturnValueError(
            f"`encode` has returned {used!r}; it must return the number of bytes that it has "
            f"written, a whole number from 0 to {out.size} (`max_bytes`)",
            codec,
        )
    return int(used)


def room_for(codec: Codec, d: int, itemsize: int) -> int:
    """Return the most bytes of d entries; ReturnValueError if the codec gives no whole number."""
    most = codec.max_bytes(d, itemsize)
    if not isinstance(most, int | np.integer) or most < 0:
        raise ReturnValueError(
            f"`max_bytes` has returned {most!r}; it must return a whole number of bytes >= 0", codec
        )
    return int(most)


def pack(pool: Pool, v: Vector, compressor: Compressor | None, raw_tail: int) -> Packet:
    """Return C(v) as a message, a copy of v without a compressor; v may change afterwards.

    `raw_tail` is explained in base.Neighborhood.message. FloatingPointError if v is not finite and
    a compressor encodes it.
    """
    if compressor is None:
        copy = pool.take(v.size, v.dtype)
        np.copyto(copy, v)
        return Packet(pool, copy.view(np.uint8), None, v.size, v.dtype)
    codec: Codec = Tailed(compressor, raw_tail) if raw_tail else compressor
    room = pool.take(room_for(codec, v.size, v.itemsize), np.uint8)
    used = encode(codec, v, room)
    return Packet(pool, room[:used], codec, v.size, v.dtype)
