"""Data set text: windows of small texts by hand, published texts where $P2PSIM_DATA has them."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from p2psim.errors import InputError
from tests.support.datasets import open_data

REAL = os.environ.get("P2PSIM_DATA", "")
# 20 characters: the last 2 are held out.
SHORT = "aababcabcdaababcabex"


def text_file(folder: Path, text: str, name: str = "my.txt") -> str:
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return name


def test_windows_follow_each_other_and_targets_are_the_next_tokens(tmp_path: Path) -> None:
    data = open_data("text", tmp_path, file=text_file(tmp_path, SHORT * 2), length=3)
    # Of 40 characters 36 are for training: 11 windows and the token after them.
    ids = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 6, "x": 7}
    assert Counter((SHORT * 2)[:36]).most_common(4) == [("a", 15), ("b", 11), ("c", 6), ("d", 2)]
    train = np.array([ids[c] for c in (SHORT * 2)[:36]])
    assert data.labels().tolist() == [0] * 11
    inputs, targets = data.train(np.array([10, 0]))
    assert inputs.tolist() == [train[30:33].tolist(), train[:3].tolist()]
    assert targets.tolist() == [train[31:34].tolist(), train[1:4].tolist()]
    assert [str(part.dtype) for part in (inputs, targets)] == ["int32", "int64"]
    tests, next_ = data.test()
    held_out = [ids[c] for c in (SHORT * 2)[36:]]
    assert tests.tolist() == [held_out[:3]]
    assert next_.tolist() == [held_out[1:]]
    assert (data.vocabulary, data.outputs, data.shape) == (8, 8, (3,))
    data.open(str(tmp_path))  # once more is the same
    assert (data.vocabulary, data.test()[0].tolist()) == (8, tests.tolist())


def test_a_token_that_only_the_held_out_end_has_is_unknown(tmp_path: Path) -> None:
    data = open_data("text", tmp_path, file=text_file(tmp_path, "ab" * 9 + "zb"), length=1)
    assert data.test()[0].tolist() == [[1]]
    assert data.test()[1].tolist() == [[3]]
    assert data.vocabulary == 4


def test_words_are_the_most_frequent_in_lower_case(tmp_path: Path) -> None:
    text = "The cat, the DOG\nand the cat. " * 10
    name = text_file(tmp_path, text)
    data = open_data("text", tmp_path, file=name, unit="words", length=8)
    # the 3, cat 2, then , . and dog once each; of 80 words 8 are held out
    line = [2, 3, 4, 2, 7, 6, 2, 3, 5]
    assert data.vocabulary == 8
    assert data.train(np.array([0, 1]))[0].ravel().tolist() == (line * 2)[:16]
    small = open_data("text", tmp_path, file=name, unit="words", length=8, vocabulary=4)
    assert small.train(np.array([0]))[0].tolist() == [[2, 3, 1, 2, 1, 1, 2, 3]]
    assert small.vocabulary == 4


def test_ends_of_lines_are_characters_and_files_may_be_compressed(tmp_path: Path) -> None:
    (tmp_path / "my.txt.gz").write_bytes(gzip.compress("é\r\nb\n".encode() * 20))
    data = open_data("text", tmp_path, file="my.txt.gz", length=4)
    assert data.vocabulary == 5  # line ends, b and é
    assert data.train(np.array([0]))[0].tolist() == [[4, 2, 3, 2]]


@pytest.mark.parametrize(
    ("text", "length", "says"),
    [
        ("", 1, "training part of 'my.txt' has 0 characters"),
        ("abcdefgh", 8, "length = 8: the training part of 'my.txt' has 8 characters"),
        ("ab" * 15, 3, "the test part of 'my.txt' has 3 characters.*shorter length or a longer"),
    ],
)
def test_a_text_shorter_than_a_window(text: str, length: int, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        open_data("text", tmp_path, file=text_file(tmp_path, text), length=length)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.file = 'none.txt': there is no file.*wikitext-2"):
        open_data("text", tmp_path, file="none.txt")
    (tmp_path / "my.txt").write_bytes(b"\xff\xfe\x00" * 100)
    with pytest.raises(InputError, match=r"my.txt' cannot be used .*decode.*UTF-8"):
        open_data("text", tmp_path, file="my.txt")


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("tiny-shakespeare", "p2psim data fetch tiny-shakespeare"),
        ("wikitext-2", "download train.txt and test.txt from https.* into the folder wikitext-2"),
        ("wikitext-103", "put wiki.train.tokens, .* into the folder wikitext-103"),
    ],
)
def test_a_published_text_that_is_missing(name: str, cure: str, home: Path) -> None:
    with pytest.raises(InputError, match=rf"{name}: there is no file .*{cure}"):
        open_data("text", home, file=name)


@pytest.mark.parametrize("names", ["{}.txt", "wiki.{}.tokens"])
def test_wikitext_has_a_test_file_and_words_of_its_own(names: str, home: Path) -> None:
    train, test = names.format("train"), names.format("test")
    (home / "wikitext-2").mkdir()
    text_file(home / "wikitext-2", " = A = \n The <unk> @-@ a \n" * 3, train)
    text_file(home / "wikitext-2", " A zoo \n A", test)
    data = open_data("text", home, file="wikitext-2", unit="words", length=3)
    # <eos> 6 and = 6, then <unk> @-@ A The a 3 each: 8 words a turn
    ids = {"<eos>": 2, "=": 3, "<unk>": 4, "@-@": 5, "A": 6, "The": 7, "a": 8}
    words = ["=", "A", "=", "<eos>", "The", "<unk>", "@-@", "a", "<eos>"]
    assert data.train(np.arange(3))[0].ravel().tolist() == [ids[word] for word in words]
    assert data.test()[0].tolist() == [[6, 1, 2]]
    assert data.test()[1].tolist() == [[1, 2, 6]]


def test_wikitext_103_has_validation_samples_if_their_file_is_there(home: Path) -> None:
    folder = home / "wikitext-103"
    folder.mkdir()
    text_file(folder, "a b c a b a \n" * 4, "wiki.train.tokens")
    text_file(folder, "a b c d \n", "wiki.test.tokens")
    data = open_data("text", home, file="wikitext-103", unit="words", length=2)
    assert not data.validates
    text_file(folder, "b a b a \n", "wiki.valid.tokens")
    data = open_data("text", home, file="wikitext-103", unit="words", length=2)
    assert data.validates
    inputs, targets = data.validation_samples()
    assert inputs.tolist() == [[3, 2], [3, 2]]
    assert targets.tolist() == [[2, 3], [2, 4]]


def published(folder: str, name: str) -> Path:
    """Return the path of a published file; skip the test if $P2PSIM_DATA does not have it."""
    path = Path(REAL) / folder / name
    if not REAL or not path.is_file():
        pytest.skip(f"P2PSIM_DATA has no {folder}/{name}")
    return path


def test_published_shakespeare() -> None:
    text = published("tinyshakespeare", "input.txt").read_text()
    data = open_data("text", file="tiny-shakespeare", length=64)
    cut = 1_115_394 - 111_539
    assert data.vocabulary == 65 + 2  # published: 65 different characters
    assert data.labels().size == (cut - 1) // 64
    assert data.test()[0].shape == ((111_539 - 1) // 64, 64)
    common = "".join(c for c, _ in Counter(text[:cut]).most_common(3))
    first = data.train(np.array([1]))[0][0]
    assert [common[k - 2] if k < 5 else None for k in first.tolist()] == [
        c if c in common else None for c in text[64:128]
    ]


def test_published_wikitext_has_the_published_number_of_words(home: Path) -> None:
    """Merity et al. 2017: 217,646 words in the validation part and 245,569 in the test part."""
    (home / "wikitext-2").mkdir()
    for name, target in (("valid.txt", "train.txt"), ("test.txt", "test.txt")):
        shutil.copy(published("wikitext-2", name), home / "wikitext-2" / target)
    data = open_data("text", file="wikitext-2", unit="words", length=1)
    assert data.labels().size == 217_646 - 1
    assert len(data.test()[0]) == 245_569 - 1


def test_opening_costs_numpy_only(tmp_path: Path) -> None:
    text_file(tmp_path, SHORT)
    code = (
        "import sys; from p2psim import registry\n"
        "registry.names('data')['text'](file='my.txt', length=1).open('.')\n"
        "registry.names('data')['diabetes']().open('.')\n"
        "print({'torch', 'sklearn', 'scipy', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("set()", "")
