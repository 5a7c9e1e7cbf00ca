"""AG News and SentEval's sentence lengths: the real file where $P2PSIM_DATA has it, small ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from p2psim.errors import InputError
from tests.support.datasets import open_data

REAL = os.environ.get("P2PSIM_DATA", "")
TRAIN = (
    '"3","The bank","The ""old"" bank\\banker pays $1.35"\n'
    '"1","News","the bank"\n'
    '"4","Élan","Bank, news"\n'
)
TEST = '"2","bank of","the unknown"\n"1","news",""\n'
LINES = (
    "tr\t0\tThe cat 's in .\ntr\t5\tA cat , a well-known cat\nva\t1\tcat\n"
    "te\t2\tthe dog\nte\t3\t.\n"
)


def news(folder: Path, train: str = TRAIN, name: str = "train.csv") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(train, encoding="utf-8")
    (folder / "test.csv").write_text(TEST, encoding="utf-8")


def sentences(home: Path, lines: str = LINES) -> None:
    (home / "senteval").mkdir(exist_ok=True)
    (home / "senteval" / "sentence_length.txt").write_text(lines, encoding="utf-8")


# By hand: bank 4, the 3, news 2, " 2, then , . $ 1 35 \ banker old pays élan once each.
ORDER = [
    "bank",
    "the",
    '"',
    "news",
    "$",
    ",",
    ".",
    "1",
    "35",
    "\\",
    "banker",
    "old",
    "pays",
    "élan",
]
ID = {word: number for number, word in enumerate(ORDER, start=2)}


@pytest.mark.parametrize("place", ["ag-news", "ag_news", "ag_news_csv"])
def test_news_are_the_most_frequent_words(home: Path, place: str) -> None:
    news(home / place)
    data = open_data("ag-news", length=8)
    assert (data.shape, data.outputs, data.classes, data.vocabulary) == ((8,), 4, 4, 16)
    assert data.labels().tolist() == [2, 0, 3]
    inputs, targets = data.train(np.array([2, 0, 2]))
    assert targets.tolist() == [3, 2, 3]
    assert inputs.dtype == np.int32
    first = [ID[word] for word in ["the", "bank", "the", '"', "old", '"', "bank", "\\"]]
    third = [ID["élan"], ID["bank"], ID[","], ID["news"], 0, 0, 0, 0]
    assert inputs.tolist() == [third, first, third]
    tests, labels = data.test()
    assert labels.tolist() == [1, 0]
    assert tests[0].tolist() == [ID["bank"], 1, ID["the"], 1, 0, 0, 0, 0]
    assert tests[1].tolist() == [ID["news"], 0, 0, 0, 0, 0, 0, 0]
    assert data.train(np.arange(0))[0].shape == (0, 8)


def test_a_small_vocabulary_counts_padding_and_unknown(home: Path) -> None:
    news(home / "ag-news")
    data = open_data("ag-news", length=5, vocabulary=4)
    assert data.vocabulary == 4
    assert data.train(np.array([1]))[0].tolist() == [[1, 3, 2, 0, 0]]
    data.open(".")  # once more is the same
    assert (data.vocabulary, data.test()[0].max()) == (4, 3)


def test_another_training_file(home: Path) -> None:
    news(home / "ag_news", '"4","one","two"\n', "some.csv")
    assert open_data("ag-news", file="some.csv").labels().tolist() == [3]
    with pytest.raises(InputError, match=r"train.csv'; fetch it with `p2psim data fetch ag-news`"):
        open_data("ag-news")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ('"5","a","b"\n', "line 1 has the class '5' where 1 to 4"),
        ('"1","a","b"\n"Class Index","a","b"\n', "line 2 has the class 'Class Index'"),
        ('"1","a"\n', "line 1 has 2 fields"),
        ('"1","a","b"\n"2","a","b', "line 2: unexpected end"),
        ('"1","a" x,"b"\n', "line 1: "),
        ('"1","a","\udcff"\n', "can't decode"),
    ],
)
def test_damaged_news(home: Path, text: str, says: str) -> None:
    news(home / "ag-news")
    for name in ("train.csv", "test.csv"):
        news(home / "ag-news")
        (home / "ag-news" / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(InputError, match=rf"{name}' cannot be used \(.*{says}.*data fetch"):
            open_data("ag-news").test()


def test_sentences_are_split_at_blanks(home: Path) -> None:
    sentences(home)
    data = open_data("senteval-length", length=7)
    assert (data.shape, data.outputs, data.classes) == ((7,), 6, 6)
    assert data.labels().tolist() == [0, 5]
    # cat 3, a 2, then 's , . in the well-known once each
    assert data.train(np.array([1, 0]))[0].tolist() == [
        [3, 2, 5, 3, 9, 2, 0],
        [8, 2, 4, 7, 6, 0, 0],
    ]
    tests, labels = data.test()
    assert (labels.tolist(), tests[:, :3].tolist()) == ([2, 3], [[8, 1, 0], [6, 0, 0]])
    assert open_data("senteval-length", validation=True).test()[1].tolist() == [1]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("", "no line starts with 'tr'"),
        ("te\t0\ta\n", "no line starts with 'tr'"),
        ("tr\t0\ta\n", "no line starts with 'te'"),
        ("tr\t6\ta\n", "line 1 has the class '6' where 0 to 5"),
        ("tr\t0\ta\ndev\t1\ta\n", "line 2 is of part 'dev'"),
        ("tr 0 a\n", "line 1 has 1 fields"),
    ],
)
def test_damaged_sentences(home: Path, lines: str, says: str) -> None:
    sentences(home, lines)
    with pytest.raises(InputError, match=rf"sentence_length.txt' cannot be used \({says}.*downl"):
        open_data("senteval-length").test()


def test_missing_sentences(home: Path) -> None:
    with pytest.raises(InputError, match=r"senteval-length: there is no file.*download https"):
        open_data("senteval-length")


def pretend(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> None:
    """A transformers library that gives each letter its place in the alphabet."""

    class Tokenizer:
        pad_token_id = 0

        def __len__(self) -> int:
            return 27

        def __call__(self, texts: list[str], truncation: bool, max_length: int) -> Any:
            assert truncation
            ids = [[ord(c) - 96 for c in text if c.isalpha()][:max_length] for text in texts]
            return {"input_ids": ids}

    for name, value in attributes.items():
        setattr(Tokenizer, name, value)

    def load(folder: str, local_files_only: bool) -> Tokenizer:
        assert local_files_only
        if "broken" in folder:
            raise OSError("no tokenizer.json\nand more")
        return Tokenizer()

    library = SimpleNamespace(AutoTokenizer=SimpleNamespace(from_pretrained=load))
    monkeypatch.setitem(sys.modules, "transformers", library)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


def test_a_tokenizer_gives_the_ids(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    (home / "letters").mkdir()
    sentences(home, "tr\t0\tab c\nte\t1\tz\n" + "te\t1\ty\n" * 2000)
    data = open_data("senteval-length", home, length=4, tokenizer="letters")
    assert data.vocabulary == 27
    assert data.train(np.array([0]))[0].tolist() == [[1, 2, 3, 0]]
    tests, labels = data.test()
    assert (tests.shape, labels.size) == ((2001, 4), 2001)
    assert tests[[0, 1, -1], 0].tolist() == [26, 25, 25]
    assert open_data("senteval-length", home, length=2, tokenizer="letters").shape == (2,)


def test_what_may_be_wrong_with_a_tokenizer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, pad_token_id=1)
    sentences(home)
    for name in ("letters", "broken"):
        (home / name).mkdir()
    for name, says in {
        "letters": r"padding token.*has id 1 where only 0",
        "broken": r"broken' cannot be loaded \(no tokenizer.json\); save",
        "nowhere": r"there is no folder '.*nowhere'; give one",
    }.items():
        with pytest.raises(InputError, match=says):
            open_data("senteval-length", home, tokenizer=name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'p2psim\[text\]'"):
        open_data("senteval-length", home, tokenizer="letters")


def test_a_real_tokenizer(home: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import BertTokenizer

    folder = home / "bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "dog"]
    (home / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(home / "vocab.txt")).save_pretrained(str(folder))
    sentences(home, "tr\t0\tThe cats\nte\t1\tthe cats the cats dog\nte\t1\tx\n")
    data = open_data("senteval-length", home, length=6, tokenizer="bert")
    assert data.vocabulary == 9
    assert data.train(np.array([0]))[0].tolist() == [[2, 5, 6, 7, 3, 0]]
    assert data.test()[0].tolist() == [[2, 5, 6, 7, 5, 3], [2, 1, 3, 0, 0, 0]]


def test_published_news() -> None:
    if not REAL or not (Path(REAL) / "ag_news" / "train_subset_10000.csv").is_file():
        pytest.skip("P2PSIM_DATA has no ag_news/train_subset_10000.csv")
    data = open_data("ag-news", file="train_subset_10000.csv")
    assert np.bincount(data.labels()).tolist() == [2514, 2504, 2519, 2463]
    inputs, targets = data.test()
    assert np.bincount(targets).tolist() == [1900] * 4
    assert inputs.shape == (7600, 64)
    assert 0.02 < (inputs == 1).mean() < 0.04
    some, held = data.train(np.arange(0, 10000, 7))
    assert np.array_equal(held, data.labels()[::7])
    assert (some[:, 0] > 0).all()
    assert some.max() < data.vocabulary == 20_000


def test_opening_costs_neither_torch_nor_transformers(home: Path) -> None:
    news(home / "ag-news")
    code = (
        "import sys; from p2psim import registry\n"
        "registry.names('data')['ag-news']().open('.')\n"
        "print({'torch', 'transformers', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
