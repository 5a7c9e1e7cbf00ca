"""Windows of a running text, for the prediction of the next character or word."""

from __future__ import annotations

import io
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Data, Indices
from p2psim.data.files import FileSet, fetch_cure, find_file, open_data_file
from p2psim.data.text import UNKNOWN, WORD, Ids, Length, frequent_ids
from p2psim.errors import InputError
from p2psim.registry import plugin

Tokens = NDArray[np.int32]

HELD_OUT = 10  # the last tenth of the tokens is held out where a text has no test file
WIKITEXT = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data"
WIKITEXT_CURE = (
    f"download train.txt and test.txt from {WIKITEXT}/wikitext-2 into the folder wikitext-2 in "
    "the data folder, which P2PSIM_DATA sets"
)
WIKITEXT_103_CURE = (
    "put wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens of WikiText-103 (Merity et al. "
    "2017, the version with words) into the folder wikitext-103 in the data folder, which "
    "P2PSIM_DATA sets"
)
OWN_CURE = "give a text file in UTF-8"


@dataclass(frozen=True)
class Published:
    """A published text: its files by the names that they may have, and how it is written."""

    files: FileSet
    train: tuple[str, ...]
    test: tuple[str, ...] = ()  # none: the end of the training file is held out
    validation: tuple[str, ...] = ()  # used where it is on the disk
    tokenized: bool = False  # blanks separate the words, the end of a line is a word


TEXTS = {
    "tiny-shakespeare": Published(
        FileSet(
            "tiny-shakespeare",
            ("tiny-shakespeare", "tinyshakespeare"),
            fetch_cure("tiny-shakespeare"),
        ),
        ("input.txt",),
    ),
    "wikitext-2": Published(
        FileSet("wikitext-2", ("wikitext-2", "wikitext2"), WIKITEXT_CURE),
        ("train.txt", "wiki.train.tokens"),
        ("test.txt", "wiki.test.tokens"),
        ("valid.txt", "wiki.valid.tokens"),
        tokenized=True,
    ),
    "wikitext-103": Published(
        FileSet("wikitext-103", ("wikitext-103", "wikitext103"), WIKITEXT_103_CURE),
        ("wiki.train.tokens", "train.txt"),
        ("wiki.test.tokens", "test.txt"),
        ("wiki.valid.tokens", "valid.txt"),
        tokenized=True,
    ),
}


@plugin("data", "text", source="Karpathy 2015 (tiny Shakespeare); Merity et al. 2017 (WikiText)")
class Text(Data):
    """Windows of `length` tokens in the order of a text; targets are the tokens that follow each.

    `file`: "tiny-shakespeare", "wikitext-2" or "wikitext-103" in `$P2PSIM_DATA`, or the path of a
    text file. Windows do not overlap. Tokens are characters, or words: words and punctuation marks
    in lower case, those of WikiText as its files separate them. Id 1 is a token that the training
    part does not have, the further ids are the tokens of the training part, the most frequent
    first, up to `vocabulary` ids in total. The test set is the test file of WikiText, and the last
    tenth of any other text; WikiText has validation samples if their file is on the disk. Partition
    "contiguous" gives every peer one passage.
    """

    file: str
    unit: Literal["characters", "words"] = "characters"
    length: Length = 64
    vocabulary: Ids = 20_000

    task = "language-model"

    def open(self, folder: str) -> None:
        """Read the text; InputError if it is missing, damaged or shorter than a window."""
        known = TEXTS.get(self.file)
        numbers: defaultdict[str, int] = defaultdict()
        numbers.default_factory = numbers.__len__  # a new token gets the next number
        parts = {
            part: number_tokens(self._lines(path, known), numbers)
            for part, path in find(self.file, known, Path(folder)).items()
        }
        if "test" not in parts:
            train = parts["training"]
            cut = train.size - train.size // HELD_OUT
            parts = {"training": train[:cut], "test": train[cut:]}
        ids, size = most_frequent(parts["training"], list(numbers), self.vocabulary)
        self.vocabulary = self.outputs = size
        self.shape, self.validates = (self.length,), "validation" in parts
        self._parts = {part: self._windows(ids[tokens], part) for part, tokens in parts.items()}

    def _lines(self, path: Path, known: Published | None) -> Iterator[Iterable[str]]:
        """Yield the tokens of each line of a file."""
        for line in read_lines(path, known.files.cure if known else OWN_CURE):
            if self.unit == "characters":
                yield line
            elif known and known.tokenized:
                yield [*line.split(), "<eos>"]
            else:
                yield WORD.findall(line.lower())

    def _windows(self, tokens: Tokens, part: str) -> tuple[Tokens, Tokens]:
        """Return the windows of a text and the tokens that follow, two views (windows, length)."""
        count = (tokens.size - 1) // self.length
        if count < 1:
            raise InputError(
                f"data.length = {self.length}: the {part} part of {self.file!r} has {tokens.size} "
                f"{self.unit}, fewer than one window and the token after it; give a shorter "
                "length or a longer text"
            )
        size = count * self.length
        shape = (count, self.length)
        return tokens[:size].reshape(shape), tokens[1 : size + 1].reshape(shape)

    def labels(self) -> Indices:
        return np.zeros(len(self._parts["training"][0]), np.int64)

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        inputs, targets = self._parts["training"]
        return inputs[indices], targets[indices].astype(np.int64)

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._whole("test")

    def validation_samples(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._whole("validation")

    def _whole(self, part: str) -> tuple[NDArray[Any], NDArray[Any]]:
        inputs, targets = self._parts[part]
        return inputs, targets.astype(np.int64)


def find(file: str, known: Published | None, folder: Path) -> dict[str, Path]:
    """Return the paths of the training file, and of the test and validation files of a text."""
    if known is None:
        cure = f"give one of {', '.join(TEXTS)}, or a text file (from the experiment's folder)"
        return {"training": find_file([folder / file], f"data.file = {file!r}", cure)}
    names = {"training": known.train, "test": known.test}
    paths = {part: known.files.find(*known_as) for part, known_as in names.items() if known_as}
    validation = [folder / name for folder in known.files.folders() for name in known.validation]
    for path in [path for path in validation if path.is_file()][:1]:
        paths["validation"] = path
    return paths


def read_lines(path: Path, cure: str) -> Iterator[str]:
    """Yield the lines of a text file with their ends; InputError if it is not UTF-8."""
    with open_data_file(path, cure) as stream:
        yield from io.TextIOWrapper(stream, "utf-8")


def number_tokens(lines: Iterable[Iterable[str]], numbers: defaultdict[str, int]) -> Tokens:
    """Return the number of each token; `numbers` gives it, and grows by new tokens.

    Numbers in place of the tokens themselves keep a text in 4 bytes for each token.
    """
    stream = array("i")
    for tokens in lines:
        stream.extend(map(numbers.__getitem__, tokens))
    return np.array(stream, np.int32)


def most_frequent(train: Tokens, tokens: Sequence[str], vocabulary: int) -> tuple[Tokens, int]:
    """Return the id of each number of `number_tokens`, and the number of ids.

    Ids follow the frequency in the training part, see `frequent_ids`.
    """
    counts = np.bincount(train, minlength=len(tokens)).tolist()
    used = Counter({token: n for token, n in zip(tokens, counts, strict=True) if n})
    ids = frequent_ids(used, vocabulary)
    return np.array([ids.get(token, UNKNOWN) for token in tokens], np.int32), len(ids) + 2
