"""AG News, read from the published csv files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from p2psim.data.files import FileSet, fetch_cure, open_data_file
from p2psim.data.text import TextData
from p2psim.registry import plugin

# The folder of `p2psim data fetch` is first, so that a download is found before damaged files.
PLACES = ("ag-news", "ag_news", "ag_news_csv", "ag_news/ag_news_csv")
FILES = FileSet("ag-news", PLACES, fetch_cure("ag-news"))
TRAIN, TEST = "train.csv", "test.csv"


@plugin("data", "ag-news", source="Zhang, Zhao & LeCun 2015")
class AGNews(TextData):
    """120,000 training and 7,600 test news in 4 classes.

    The classes are world, sports, business, and science and technology. A sample consists of the
    first `length` token ids (int32) of title and description, padded with 0. Tokens are words and
    punctuation marks in lower case: id 0 is padding, 1 an unknown word, the further ids are the
    most frequent words of the training file, up to `vocabulary` ids in total. With `tokenizer`, a
    local folder of a Hugging Face tokenizer, that tokenizer defines the ids instead. `file`: the
    training file in the folder of the data set; the test file is always test.csv.
    """

    file: str = TRAIN

    outputs = 4
    classes = 4

    def open(self, folder: str) -> None:
        """Find both files, read the training file; InputError if one is missing or damaged."""
        self._paths = {"train": FILES.find(self.file), "test": FILES.find(TEST)}
        super().open(folder)

    def rows(self, part: str) -> Iterator[tuple[int, str]]:
        return read_rows(self._paths[part])


def read_rows(path: Path) -> Iterator[tuple[int, str]]:
    """Yield class (from 0) and text of each row; InputError if the file is damaged."""
    with open_data_file(path, FILES.cure) as stream:
        rows = csv.reader(io.TextIOWrapper(stream, "utf-8", newline=""), strict=True)
        try:
            for row in rows:
                yield parse_row(row, rows.line_num)
        except csv.Error as error:
            raise ValueError(f"line {rows.line_num}: {error}") from None
        if not rows.line_num:
            raise ValueError("the file is empty")


def parse_row(row: list[str], line: int) -> tuple[int, str]:
    """Return class (from 0) and text of one row; ValueError if it is not a valid row."""
    if len(row) != 3:
        raise ValueError(f"line {line} has {len(row)} fields in place of class, title, description")
    if row[0] not in ("1", "2", "3", "4"):
        raise ValueError(f"line {line} has the class {row[0][:20]!r} where 1 to 4 are allowed")
    return int(row[0]) - 1, f"{row[1]} {row[2]}"
