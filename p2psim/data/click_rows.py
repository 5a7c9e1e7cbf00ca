"""Text files of clicks and categorical fields, read in pieces that fit into little memory.

A line has 40 columns with a tab between them: the label 0 or 1, 13 integers and 26 categories. An
empty column is a missing value. A value has at most 8 characters, so that it fits into a 64-bit
word: words are compared in place of strings, a whole column at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Indices
from p2psim.data.files import open_data_file

Codes: TypeAlias = NDArray[np.uint64]

INTEGERS = 13
FIELDS = (*(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27)))
COLUMNS = 1 + len(FIELDS)
LONGEST = 8  # characters of a value
PIECE = 1 << 21  # bytes of text that are processed at a time
CURE = (
    f"a line is a label 0 or 1, {INTEGERS} integers and {COLUMNS - 1 - INTEGERS} categories of at "
    f"most {LONGEST} characters, with tabs between them and without a header; correct the file"
)
# Masks of the first 0, 1, ... 8 characters of a word; the first character has the highest value.
FIRST = ~np.array([2**64 - 1 >> 8 * size for size in range(LONGEST)] + [0], np.uint64)
ZERO = 2**32  # word of the integer value 0; the word 0 is a missing value


class Piece:
    """Whole lines of a file, and the places of the values in some of its rows."""

    def __init__(self, text: bytes, row: int, chosen: Indices | None = None) -> None:
        """Find the columns; ValueError for a line that has not as many.

        `row` is the number of the first row in the file. Values are those of the rows `chosen`,
        numbers in the piece, or of all rows.
        """
        self.row, self.text = row, np.frombuffer(text + bytes(LONGEST), np.uint8)
        separators = np.flatnonzero(self.text - np.uint8(9) < 2)  # tabs and line feeds
        feeds = self.text[separators] == 10
        self.rows = int(np.count_nonzero(feeds))
        if separators.size != COLUMNS * self.rows or not feeds[COLUMNS - 1 :: COLUMNS].all():
            raise ValueError(wrong_columns(text, row))
        ends = separators.reshape(self.rows, COLUMNS)
        self.starts = np.concatenate([[0], ends[:-1, -1] + 1])  # of the lines
        ends[:, -1] -= self.text[ends[:, -1] - 1] == 13  # a line may end with CR LF
        self.label_sizes = ends[:, 0] - self.starts
        self.chosen = np.arange(self.rows) if chosen is None else chosen
        self.ends = np.ascontiguousarray(ends.T if chosen is None else ends[chosen].T)
        self.words = np.ndarray(self.text.size - LONGEST, ">u8", self.text, strides=(1,))

    def labels(self) -> NDArray[np.uint8]:
        """Return the labels of all rows, shape (rows,); ValueError if one is neither 0 nor 1."""
        labels: NDArray[np.uint8] = self.text[self.starts] - np.uint8(ord("0"))
        wrong = (labels > 1) | (self.label_sizes != 1)
        if wrong.any():
            row = int(np.argmax(wrong))
            start = int(self.starts[row])
            value = self.spelled(start, start + int(self.label_sizes[row]))
            raise ValueError(f"line {self.row + row + 1} has the label {value!r}")
        return labels

    def values(self, field: int) -> Codes:
        """Return the values of a field in the chosen rows as words, 0 for a missing one.

        ValueError for a value that is too long, and for one that is no integer where it must be.
        """
        starts, ends = self.ends[field] + 1, self.ends[field + 1]
        sizes = ends - starts
        wrong = sizes > LONGEST
        words: Codes = self.words[starts].astype(np.uint64) & FIRST[np.minimum(sizes, LONGEST)]
        if field < INTEGERS and not wrong.any():
            integer, wrong = integers(words, sizes)
            words = np.where(sizes, shortened(integer) + ZERO, 0).astype(np.uint64)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"line {self.row + self.chosen[row] + 1} has the value "
                f"{self.spelled(int(starts[row]), int(ends[row]))!r} in {FIELDS[field]}"
            )
        return words

    def spelled(self, start: int, end: int) -> str:
        """Return a part of the text for a message, shortened to 20 characters."""
        text = self.text[start : min(end, start + 20)].tobytes().decode(errors="replace")
        return text + "..." if end > start + 20 else text


def wrong_columns(text: bytes, row: int) -> str:
    """Return the message about the first line with a wrong number of columns."""
    for number, line in enumerate(text.splitlines(), row + 1):
        if not line:
            return f"line {number} is empty"
        if (columns := line.count(b"\t") + 1) != COLUMNS:
            return f"line {number} has {columns} fields in place of {COLUMNS}"
    return f"a line after line {row} has a separator that is neither a tab nor a line feed"


def integers(words: Codes, sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the integers that words spell, and which of them are none (an empty one is 0)."""
    negative = words >> np.uint64(56) == ord("-")
    digits = sizes - negative
    words = np.where(negative, words << np.uint64(8), words)
    # Characters to the right, then numbers of 1, 2, 4 and 8 digits side by side in a word.
    padding = (8 * (LONGEST - digits)).astype(np.uint64)
    zeros = np.uint64(0x3030303030303030)
    number = np.where(digits, words >> np.minimum(padding, np.uint64(63)), 0)
    number ^= zeros & ~FIRST[LONGEST - digits]
    wrong = ((number | number + np.uint64(0x7676767676767676)) & np.uint64(0x8080808080808080)) > 0
    wrong |= (digits == 0) & negative
    for width, lanes in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0xFFFFFFFF)):
        power, mask = np.uint64(10 ** (width // 8)), np.uint64(lanes)
        number = (number >> np.uint64(width) & mask) * power + (number & mask)
    values = number.astype(np.int64)
    return np.where(negative, -values, values), wrong


def shortened(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return floor(ln(v)^2) for integers v > 2, and v - 2 for the others."""
    logarithms = np.log(np.maximum(values, 1)) ** 2
    return np.where(values > 2, np.floor(logarithms).astype(np.int64), values - 2)


def pieces(stream: BinaryIO, size: int = PIECE) -> Iterator[bytes]:
    """Yield the whole lines of about `size` bytes at a time; ValueError if a line is longer."""
    rest = b""
    while block := stream.read(size):
        lines, feed, rest = (rest + block).rpartition(b"\n")
        if len(rest) > size:
            raise ValueError(f"a line has more than {size:,} characters")
        if feed:
            yield lines + feed
    if rest:
        yield rest + b"\n"


class Place(NamedTuple):
    """Place of a piece in its file."""

    start: int  # bytes before it
    size: int  # bytes
    row: int  # rows before it


class ClickFile:
    """A file whose rows are read by number, after one pass that has checked all of them."""

    def __init__(self, path: Path, see: Callable[[Piece], None]) -> None:
        """Check all rows, and pass each piece to `see`; InputError for a damaged file.

        A ValueError of `see` is one of the file.
        """
        self.path, self.places, start, row = path, list[Place](), 0, 0
        labels = [np.empty(0, np.uint8)]
        with open_data_file(path, CURE) as stream:
            for text in pieces(stream):
                piece = Piece(text, row)
                labels.append(piece.labels())
                see(piece)
                self.places.append(Place(start, len(text), row))
                start, row = start + len(text), row + piece.rows
            if not row:
                raise ValueError("it is empty")
        self.rows, self.labels = row, np.concatenate(labels)

    def read(self, rows: Indices, see: Callable[[Piece, Indices], None]) -> None:
        """Pass the pieces that hold some of these rows to `see`, in the order of the file.

        see(piece, positions): the values of the piece are those of rows[positions].
        """
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        bounds = np.searchsorted(ordered, [*(place.row for place in self.places), self.rows])
        with open_data_file(self.path, CURE) as stream:
            for place, low, high in zip(self.places, bounds[:-1], bounds[1:], strict=True):
                if low < high:
                    stream.seek(place.start)
                    text = stream.read(place.size)
                    text += b"" if text.endswith(b"\n") else b"\n"
                    piece = Piece(text, place.row, ordered[low:high] - place.row)
                    see(piece, order[low:high])
