"""Data sets of texts as token ids, by the words of a training file or by a local tokenizer."""

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

PADDING, UNKNOWN = 0, 1  # token ids
WORD = re.compile(r"\w+|[^\w\s]")
BATCH = 1000  # texts per call of a tokenizer
Length = Annotated[int, Meta(ge=1, le=65_536)]
Ids = Annotated[int, Meta(ge=3, le=2**31 - 1)]


class TokenEncoder(Protocol):
    """Encoder of texts as token ids below `size`; id 0 is the padding."""

    size: int

    def encode(self, texts: Iterable[str]) -> Iterator[Sequence[int]]: ...


@dataclass(kw_only=True, eq=False)
class TextData(Data):
    """Base class of data sets of texts in classes.

    A sample has shape (length,), int32: its token ids, truncated or padded with 0 at the end. A
    subclass defines `rows`, which reads its files. The files are read again for each request, so
    that only the vocabulary and the labels stay in memory.
    """

    length: Length = 64
    vocabulary: Ids = 20_000
    tokenizer: str | None = None

    def rows(self, part: str) -> Iterator[tuple[int, str]]:
        """Yield class and text of each sample of "train" or "test".

        InputError if a file is damaged.
        """
        raise NotImplementedError

    def words(self, text: str) -> list[str]:
        """Return the words and punctuation marks of a text, in lower case."""
        return WORD.findall(text.lower())

    def open(self, folder: str) -> None:
        """Read labels and words of the training file; relative paths are in `folder`."""
        labels, counts = array("q"), Counter[str]()
        tokenizer = (
            HuggingFaceTokenizer(Path(folder) / self.tokenizer, self.length)
            if self.tokenizer
            else None
        )
        for label, text in self.rows("train"):
            labels.append(label)
            if tokenizer is None:
                counts.update(self.words(text))
        self._encoder: TokenEncoder = tokenizer or WordVocabulary(counts, self)
        self._labels = np.array(labels, np.int64)
        self.vocabulary = self._encoder.size
        self.shape = (self.length,)

    def labels(self) -> Indices:
        return self._labels

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        unique, positions = np.unique(indices, return_inverse=True)
        selected = np.zeros(self._labels.size, bool)
        selected[unique] = True
        # strict: the file must still have the rows of which `open` read the labels.
        rows = zip(self.rows("train"), selected, strict=True)
        texts = (text for (_, text), is_selected in rows if is_selected)
        return self._encode(texts)[positions], self._labels[indices]

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        labels = array("q")
        inputs = self._encode(collect_labels(self.rows("test"), labels))
        return inputs, np.array(labels, np.int64)

    def _encode(self, texts: Iterable[str]) -> NDArray[np.int32]:
        return pad_texts(self._encoder.encode(texts), self.length)


def collect_labels(rows: Iterable[tuple[int, str]], labels: array[int]) -> Iterator[str]:
    """Yield the text of each row and append its class to `labels`."""
    for label, text in rows:
        labels.append(label)
        yield text


def pad_texts(encoded: Iterable[Sequence[int]], length: int) -> NDArray[np.int32]:
    """Return the ids of all texts (texts, length), each truncated or padded with 0."""
    flat, fill = array("i"), array("i", [PADDING]) * length
    for ids in encoded:
        flat.extend(ids[:length])
        flat.extend(fill[len(ids) :])
    return np.array(flat, np.int32).reshape(-1, length)


def frequent_ids(counts: Counter[str], vocabulary: int) -> dict[str, int]:
    """Return the ids of the most frequent words, from 2 to at most `vocabulary` - 1.

    Ids follow the frequency of the words. Words of equal frequency are in alphabetical order.
    """
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[: vocabulary - 2]
    return {word: number for number, word in enumerate(frequent, start=UNKNOWN + 1)}


class WordVocabulary:
    """Encoder by the most frequent words of a training file; all other words get id 1."""

    def __init__(self, counts: Counter[str], data: TextData) -> None:
        self.ids = frequent_ids(counts, data.vocabulary)
        self.size = len(self.ids) + 2
        self.words = data.words

    def encode(self, texts: Iterable[str]) -> Iterator[Sequence[int]]:
        """Yield the ids of each text, one for each word."""
        id_of = self.ids.get
        for text in texts:
            yield [id_of(word, UNKNOWN) for word in self.words(text)]


class HuggingFaceTokenizer:
    """Encoder by a tokenizer of the transformers library, loaded from a local folder."""

    def __init__(self, folder: Path, length: int) -> None:
        self.tokenizer, self.length = load_tokenizer(folder), length
        self.size = len(self.tokenizer)
        pad = self.tokenizer.pad_token_id
        if pad not in (None, PADDING):
            raise InputError(
                f"the padding token of the tokenizer in {str(folder)!r} has id {pad} where only "
                f"{PADDING} is allowed; take another tokenizer, such as one of BERT's"
            )

    def encode(self, texts: Iterable[str]) -> Iterator[Sequence[int]]:
        """Yield at most `length` ids of each text, the tokenizer's start and end marks included."""
        rest = iter(texts)
        while batch := list(islice(rest, BATCH)):
            yield from self.tokenizer(batch, truncation=True, max_length=self.length)["input_ids"]


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in a folder; InputError if transformers or a file is missing."""
    if not folder.is_dir():
        raise InputError(
            f"tokenizer: there is no folder {str(folder)!r}; give one that a tokenizer of "
            f"Hugging Face was saved to, or leave the key out to use the training file's words"
        )
    transformers = library("tokenizer", "or leave the key out")
    try:
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers has no error class of its own
        message = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"tokenizer: {str(folder)!r} cannot be loaded ({message}); save it again with "
            f"save_pretrained"
        ) from None


def library(key: str, other: str = "") -> Any:
    """Import and return the transformers library; InputError if it cannot be imported.

    key: the setting that needs the library, as the message begins. other: an alternative to
    installing it.
    """
    # A process with threads of the tokenizer cannot be forked safely, and peers are forked.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import transformers  # takes seconds
    except ImportError as error:
        raise import_problem(key, str(error), other) from None
    return transformers


def installed(key: str) -> None:
    """Check, without importing it, that transformers is installed; else InputError."""
    if importlib.util.find_spec("transformers") is None:
        raise import_problem(key, "it is not installed")


def import_problem(key: str, reason: str, other: str = "") -> InputError:
    """Return the error for a missing transformers library, with advice."""
    return InputError(
        f"{key}: transformers cannot be imported ({reason}); install it with "
        f"`pip install 'p2psim[text]'`" + (f", {other}" if other else "")
    )
