"""Texts as token ids: the words of a training file, or a tokenizer from a local folder."""

from __future__ import annotations

import importlib.util
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from p2psim.base import Data, Indices
from p2psim.errors import InputError

PADDING, UNKNOWN = 0, 1  # ids
WORD = re.compile(r"\w+|[^\w\s]")
BATCH = 1000  # texts that a tokenizer is given at a time
Length = Annotated[int, Meta(ge=1, le=65_536)]
Ids = Annotated[int, Meta(ge=3, le=2**31 - 1)]


class TokenEncoder(Protocol):
    """Turns texts into ids below `size`, 0 being the padding."""

    size: int

    def encode(self, texts: Iterable[str]) -> Iterator[Sequence[int]]: ...


@dataclass(kw_only=True, eq=False)
class TextData(Data):
    """Texts in classes, as ids of shape (length,), int32: cut, or padded with 0 at the end.

    A data set says with `rows` what its files hold. They are read again whenever somebody asks:
    only the vocabulary and the labels stay in memory.
    """

    length: Length = 64
    vocabulary: Ids = 20_000
    tokenizer: str | None = None

    def rows(self, part: str) -> Iterator[tuple[int, str]]:
        """Class and text of each sample of "train" or "test"; InputError for a damaged file."""
        raise NotImplementedError

    def words(self, text: str) -> list[str]:
        """A text's words and punctuation marks, in lower case."""
        return WORD.findall(text.lower())

    def open(self, folder: str) -> None:
        """Read the training file for its labels and words; relative paths are in `folder`."""
        labels, counts = array("q"), Counter[str]()
        pieces = (
            HuggingFaceTokenizer(Path(folder) / self.tokenizer, self.length)
            if self.tokenizer
            else None
        )
        for label, text in self.rows("train"):
            labels.append(label)
            if pieces is None:
                counts.update(self.words(text))
        self._encoder: TokenEncoder = pieces or WordVocabulary(counts, self)
        self._labels = np.array(labels, np.int64)
        self.vocabulary = self._encoder.size
        self.shape = (self.length,)

    def labels(self) -> Indices:
        return self._labels

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        wanted, place = np.unique(indices, return_inverse=True)
        chosen = np.zeros(self._labels.size, bool)
        chosen[wanted] = True
        texts = (text for (_, text), take in zip(self.rows("train"), chosen, strict=True) if take)
        return self._ids(texts)[place], self._labels[indices]

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        labels = array("q")
        inputs = self._ids(collect_labels(self.rows("test"), labels))
        return inputs, np.array(labels, np.int64)

    def _ids(self, texts: Iterable[str]) -> NDArray[np.int32]:
        return padded(self._encoder.encode(texts), self.length)


def collect_labels(rows: Iterable[tuple[int, str]], labels: array[int]) -> Iterator[str]:
    """The texts of rows; their classes go to `labels`."""
    for label, text in rows:
        labels.append(label)
        yield text


def padded(encoded: Iterable[Sequence[int]], length: int) -> NDArray[np.int32]:
    """Ids of many texts (texts, length), cut or filled up with 0."""
    flat, fill = array("i"), array("i", [PADDING]) * length
    for ids in encoded:
        flat.extend(ids[:length])
        flat.extend(fill[len(ids) :])
    return np.array(flat, np.int32).reshape(-1, length)


class WordVocabulary:
    """The most frequent words, those equally frequent by alphabet; id 1 is any other word."""

    def __init__(self, counts: Counter[str], data: TextData) -> None:
        best = sorted(counts, key=lambda word: (-counts[word], word))[: data.vocabulary - 2]
        self.ids = {word: number for number, word in enumerate(best, start=UNKNOWN + 1)}
        self.size = len(best) + 2
        self.words = data.words

    def encode(self, texts: Iterable[str]) -> Iterator[Sequence[int]]:
        """Each text's ids, as many as it has words."""
        look = self.ids.get
        for text in texts:
            yield [look(word, UNKNOWN) for word in self.words(text)]


class HuggingFaceTokenizer:
    """A tokenizer of the transformers library, as it lies in a local folder."""

    def __init__(self, folder: Path, length: int) -> None:
        self.tokenizer, self.length = load(folder), length
        self.size = len(self.tokenizer)
        pad = self.tokenizer.pad_token_id
        if pad not in (None, PADDING):
            raise InputError(
                f"the padding token of the tokenizer in {str(folder)!r} has id {pad} where only "
                f"{PADDING} is allowed; take another tokenizer, such as one of BERT's"
            )

    def encode(self, texts: Iterable[str]) -> Iterator[Sequence[int]]:
        """Each text's ids with the tokenizer's marks of beginning and end, at most `length`."""
        rest = iter(texts)
        while batch := list(islice(rest, BATCH)):
            yield from self.tokenizer(batch, truncation=True, max_length=self.length)["input_ids"]


def load(folder: Path) -> Any:
    """The tokenizer in a folder; InputError if transformers or the folder's files are missing."""
    if not folder.is_dir():
        raise InputError(
            f"tokenizer: there is no folder {str(folder)!r}; give one that a tokenizer of "
            f"Hugging Face was saved to, or leave the key out to use the training file's words"
        )
    transformers = library("tokenizer", "or leave the key out")
    try:
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the library has no class of its own for what may be wrong
        said = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"tokenizer: {str(folder)!r} cannot be loaded ({said}); save it again with "
            f"save_pretrained"
        ) from None


def library(key: str, other: str = "") -> Any:
    """The transformers library; InputError where it cannot be imported."""
    # Threads of the tokenizer would keep the peers from being forked.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import transformers  # seconds
    except ImportError as error:
        raise missing(key, str(error), other) from None
    return transformers


def installed(key: str) -> None:
    """InputError where there is no such library; without importing it."""
    if importlib.util.find_spec("transformers") is None:
        raise missing(key, "it is not installed")


def missing(key: str, why: str, other: str = "") -> InputError:
    """What to do without the library."""
    return InputError(
        f"{key}: transformers cannot be imported ({why}); install it with "
        f"`pip install 'p2psim[text]'`" + (f", {other}" if other else "")
    )
