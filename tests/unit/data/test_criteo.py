"""Data set criteo: small files by hand, against a slow reader, and the published rows."""

from __future__ import annotations

import gzip
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2psim.data import click_rows
from p2psim.errors import InputError
from p2psim.experiment import scenario
from p2psim.experiment.holdings import Holdings
from p2psim.experiment.sweep import assign
from tests.support.datasets import open_data
from tests.support.runs import Table
from tests.support.thorough import thorough

REAL = os.environ.get("P2PSIM_DATA", "")
Row = list[str]


def random_rows(count: int, seed: int = 0) -> list[Row]:
    """Rows with frequent, rare and missing values, and with negative integers."""
    random = np.random.default_rng(seed)

    def integer() -> str:
        value = int(random.choice([-3, -1, 0, 1, 2, 3, 7, 8, 400, 65_535, 23_159_456, 99_999_999]))
        return (
            "" if random.random() < 0.2 else str(value + int(random.integers(0, 2)) * (value < 9))
        )

    def category() -> str:
        values = [
            "",
            "0",
            "a",
            "ab",
            "05db9164",
            "05db9165",
            "ffffffff",
            "~",
            f"{random.bytes(4).hex()}",
        ]
        return str(random.choice(values))

    rows = []
    for _ in range(count):
        values = [*(integer() for _ in range(13)), *(category() for _ in range(26))]
        rows.append([str(random.integers(0, 2)), *values])
    return rows


def text_of(rows: list[Row], end: str = "\n") -> bytes:
    return "".join("\t".join(row) + end for row in rows).encode()


def shortened(text: str) -> int | str:
    """Return the value of an integer field, and the empty text of a missing one."""
    if not text:
        return ""
    return math.floor(math.log(int(text)) ** 2) if int(text) > 2 else int(text) - 2


def slow_ids(train: list[Row], rows: list[Row], least: int) -> tuple[list[int], list[list[int]]]:
    """Return the sizes of all fields, and the ids of `rows`, by dictionaries of text."""
    sizes, columns = list[int](), list[list[int]]()
    for field in range(1, 40):
        read: Any = shortened if field <= 13 else str
        counts = Counter(read(row[field]) for row in train)
        frequent = [value for value, count in counts.items() if count >= least]
        frequent.sort(key=lambda value: (value != "", value))  # a missing value is the first
        ids = {value: number for number, value in enumerate(frequent, sum(sizes) + 1)}
        columns.append([ids.get(read(row[field]), sum(sizes)) for row in rows])
        sizes.append(len(frequent) + 1)
    return sizes, np.transpose(columns).tolist()


def official(home: Path, **parts: bytes) -> None:
    """Write files into the folder criteo of the data folder."""
    (home / "criteo").mkdir()
    for name, text in parts.items():
        (home / "criteo" / f"{name}.txt").write_bytes(text)


def test_ids_of_a_file_that_was_read_by_hand(home: Path) -> None:
    """I1: 1 -> -1 (twice), 3 -> floor(1.207) = 1, missing; C1: a (twice), missing; C2: b."""
    values = [("1", "a"), ("1", ""), ("3", "a"), ("", "")]
    rows = [["0", one, *[""] * 12, other, "b", *[""] * 24] for one, other in values]
    rows[2][0] = "1"
    official(home, train=text_of(rows), test=text_of([["1", "2", *[""] * 12, "b", *["b"] * 25]]))
    data = open_data("criteo", min_count=2)
    # I1 has {rare, 1}; I2 to I13 {rare, missing}; C1 {rare, missing, a}; C2 {rare, b}; the others
    # {rare, missing}.
    assert data.vocabulary == [2, *[2] * 12, 3, 2, *[2] * 24]
    assert (data.shape, data.outputs, data.classes, data.task) == ((39,), 1, 2, "click-through")
    assert data.spec().samples == "fields"
    inputs, targets = data.train(np.array([3, 0, 2]))
    assert inputs[:, 0].tolist() == [0, 1, 0]
    assert inputs[:, 13].tolist() == [26 + 1, 26 + 2, 26 + 2]
    assert inputs[:, 14].tolist() == [29 + 1] * 3
    assert inputs[:, 1].tolist() == [2 + 1] * 3
    assert targets.tolist() == [0, 0, 1]
    inputs, targets = data.test()
    assert (inputs[0, 0], inputs[0, 13], inputs[0, 14], inputs[0, 15]) == (0, 26, 30, 31)
    assert targets.tolist() == [1]
    assert not data.validates


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("size", [700, 5000, click_rows.PIECE])
def test_ids_are_those_of_a_slow_reader(
    end: str, size: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if lines straddle the blocks that are read, and the last line has no end."""
    monkeypatch.setattr(click_rows, "pieces", partial(click_rows.pieces, size=size))
    train, test = random_rows(150), random_rows(40, seed=1)
    text = text_of(train, end).removesuffix(end.encode())
    official(home, train=text, dev=text_of(test[:15], end), test=text_of(test[15:], end))
    data = open_data("criteo", min_count=5)
    sizes, ids = slow_ids(train, [*train, *test], 5)
    assert data.vocabulary == sizes
    order = np.random.default_rng(2).integers(0, 150, 99)  # some twice, some not at all
    inputs, targets = data.train(order)
    assert inputs.tolist() == [ids[row] for row in order]
    assert targets.tolist() == [int(train[row][0]) for row in order]
    inputs, targets = data.test()
    assert inputs.tolist() == ids[150:]
    assert targets.tolist() == [int(row[0]) for row in test]
    assert data.labels().tolist() == [int(row[0]) for row in train]


def test_one_file_is_split_into_three_parts(tmp_path: Path) -> None:
    """The vocabulary is that of the training rows alone; the row number stands in I1."""
    rows = random_rows(1000)
    for number, row in enumerate(rows):
        row[14] = str(number)
    (tmp_path / "my.tsv").write_bytes(text_of(rows))
    data = open_data("criteo", tmp_path, file="my.tsv", min_count=1)
    assert data.validates
    targets = [data.labels(), data.validation_samples()[1], data.test()[1]]
    assert [abs(len(part) - size) < 40 for part, size in zip(targets, (800, 100, 100), strict=True)]
    assert sum(map(len, targets)) == 1000
    # A number that only one row has is known if that row is a training row.
    start = sum(data.vocabulary[:13])
    inputs = data.train(np.arange(targets[0].size))[0]
    assert sorted(inputs[:, 13].tolist()) == list(range(start + 1, start + targets[0].size + 1))
    assert {*data.test()[0][:, 13], *data.validation_samples()[0][:, 13]} == {start}
    again = open_data("criteo", tmp_path, file="my.tsv", min_count=1)
    assert np.array_equal(again.test()[0], data.test()[0])
    other = open_data("criteo", tmp_path, file="my.tsv", test_share=0.5, validation_share=0.0)
    assert not other.validates
    assert abs(len(other.test()[1]) - 500) < 70


def test_an_official_test_file_has_no_labels_and_is_not_used(home: Path) -> None:
    rows = random_rows(200)
    official(home, train=text_of(rows), test=text_of([row[1:] for row in rows]))
    data = open_data("criteo")
    assert data.validates
    assert 5 < len(data.test()[1]) < 40


def test_validation_rows_beside_test_files(home: Path) -> None:
    official(home, train=text_of(random_rows(200)), test=text_of(random_rows(30)))
    data = open_data("criteo", validation_share=0.25)
    assert len(data.test()[1]) == 30
    assert data.labels().size + len(data.validation_samples()[1]) == 200
    assert 30 < len(data.validation_samples()[1]) < 70


def test_partitions_may_split_by_a_field(home: Path) -> None:
    train = random_rows(150)
    official(home, train=text_of(train), test=text_of(train[:1]))
    _, ids = slow_ids(train, train, 10)
    data = open_data("criteo", split_by="C2")
    assert data.labels().tolist() == [row[14] - sum(data.vocabulary[:14]) for row in ids]
    assert not data.split_by_class
    assert open_data("criteo").split_by_class


def test_peers_of_a_run_may_hold_values_of_their_own(home: Path) -> None:
    """Labels that are no clicks pass the checks of a run, and cannot choose among the classes."""
    official(home, train=text_of(random_rows(150)), test=text_of(random_rows(9)))
    table: Table = {
        "name": "clicks",
        "peers": 3,
        "rounds": 1,
        "data": {"name": "criteo", "split_by": "C2", "partition": {"name": "skew", "s": 1.0}},
        "model": {"name": "fm"},
        "learning": {"optimizer": {"name": "sgd"}},
        "algorithm": {"name": "d-psgd"},
        "topology": {"name": "ring"},
    }
    peers = scenario.load(assign(table, ()), home)
    Holdings(peers).check()
    labels = peers.experiment.data.labels()
    lowest, _, highest = (labels[part] for part in peers.parts)
    assert lowest.max() < highest.min()
    table["data"] = {**table["data"], "classes": [1]}
    with pytest.raises(InputError, match=r"data.classes: .* is not split by its classes"):
        scenario.load(assign(table, ()), home)


def test_files_may_be_compressed(home: Path) -> None:
    train = text_of(random_rows(150))
    (home / "criteo").mkdir()
    (home / "criteo" / "train.txt.gz").write_bytes(gzip.compress(train))
    (home / "my.gz").write_bytes(gzip.compress(train))
    for data in (open_data("criteo"), open_data("criteo", home, file="my.gz")):
        plain = home / "plain.txt"
        plain.write_bytes(train)
        expected = open_data("criteo", home, file="plain.txt")
        assert np.array_equal(data.test()[0], expected.test()[0])
        assert np.array_equal(data.train(np.arange(3))[0], expected.train(np.arange(3))[0])


def changed(column: int, value: str) -> bytes:
    """Three rows, the second one with another value in a column."""
    rows = random_rows(3)
    rows[1][column] = value
    return text_of(rows)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (changed(39, "a\tb"), "line 2 has 41 fields in place of 40"),
        (text_of(random_rows(2)) + b"\n", "line 3 is empty"),
        (b"no clicks at all", "line 1 has 1 fields"),
        (changed(0, "2"), "line 2 has the label '2'"),
        (changed(0, ""), "line 2 has the label ''"),
        (changed(0, "01"), "line 2 has the label '01'"),
        (changed(3, "1.5"), r"line 2 has the value '1.5' in I3"),
        (changed(3, "-"), r"line 2 has the value '-' in I3"),
        (changed(3, ":"), r"line 2 has the value ':' in I3"),
        (changed(4, "123456789"), r"line 2 has the value '123456789' in I4"),
        (changed(14, "123456789"), r"line 2 has the value '123456789' in C1"),
        (changed(14, "9" * 20), rf"line 2 has the value '{'9' * 20}' in C1"),
        (changed(14, "9" * 21), rf"line 2 has the value '{'9' * 20}\.\.\.' in C1"),
        (b"", "it is empty"),
        (b"x" * (click_rows.PIECE + 1), "a line has more than"),
    ],
)
def test_damaged_files(text: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_bytes(text)
    with pytest.raises(InputError, match=rf"my.txt' cannot be used \({says}.*; a line is a label"):
        open_data("criteo", tmp_path, file="my.txt")


def test_a_damaged_test_file(home: Path) -> None:
    official(
        home, train=text_of(random_rows(9)), test=text_of(random_rows(2)) + changed(20, "x" * 9)
    )
    with pytest.raises(InputError, match=r"test.txt' cannot be used \(line 4 has the value 'xxxx"):
        open_data("criteo")


def test_missing_files_and_wrong_parameters(home: Path) -> None:
    with pytest.raises(
        InputError, match=r"criteo: there is no file .*train.txt'; accept the terms"
    ):
        open_data("criteo")
    with pytest.raises(InputError, match=r"data.file = 'no.txt': there is no file.*give 'criteo'"):
        open_data("criteo", home, file="no.txt")
    (home / "my.txt").write_bytes(text_of(random_rows(1)))
    with pytest.raises(InputError, match="none of its 1 rows is left to"):
        open_data("criteo", home, file="my.txt")
    with pytest.raises(InputError, match=r"data.split_by = 'C27': there is no such field.*C26"):
        open_data("criteo", home, file="my.txt", split_by="C27")
    with pytest.raises(InputError, match=r"validation_share = 0.5: with test_share = 0.5 no row"):
        open_data("criteo", home, file="my.txt", test_share=0.5, validation_share=0.5)


MEASURE = """
import sys, tracemalloc
import numpy as np
from p2psim import registry
data = registry.names("data")["criteo"](file=sys.argv[1])
tracemalloc.start()
data.open("/")
count = data.labels().size
data.train(np.arange(0, count, 8))
print(count, tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.parametrize("count", [150_000, thorough(1_000_000)])
def test_memory_does_not_grow_with_the_text(count: int, tmp_path: Path) -> None:
    """A peer that holds every eighth row needs its ids, and a few bytes for every row."""
    block, path = text_of(random_rows(1000)), tmp_path / "big.txt"
    with path.open("wb") as file:
        for _ in range(count // 1000):
            file.write(block)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, timeout=200
    )
    samples, peak = map(int, done.stdout.split())
    assert abs(samples / count - 0.8) < 0.01
    assert peak < 2**25 + 16 * count, done.stderr


def real_folder() -> Path:
    if not REAL or not (Path(REAL) / "criteo" / "dev.txt").is_file():
        pytest.skip("P2PSIM_DATA has no criteo/dev.txt")
    return Path(REAL) / "criteo"


def test_published_rows() -> None:
    """The first 8,000 rows of the challenge, of which 800 are test rows."""
    folder = real_folder()
    data = open_data("criteo")
    rows = [
        [line.split("\t") for line in (folder / f"{name}.txt").read_text().splitlines()]
        for name in ("train", "dev", "test")
    ]
    sizes, ids = slow_ids(rows[0], [row for part in rows for row in part], 10)
    assert sum(sizes) == 1899
    assert data.vocabulary == sizes
    inputs, targets = data.train(np.arange(7200))
    assert inputs.tolist() == ids[:7200]
    assert (targets.mean(), data.test()[1].mean()) == (1549 / 7200, 179 / 800)
    assert data.test()[0].tolist() == ids[7200:]


def test_the_published_training_file_alone(home: Path) -> None:
    folder = real_folder()
    (home / "criteo").mkdir()
    shutil.copy(folder / "train.txt", home / "criteo")
    data = open_data("criteo")
    parts = [data.labels().size, len(data.validation_samples()[1]), len(data.test()[1])]
    assert sum(parts) == 7200
    assert [round(part / 7200, 1) for part in parts] == [0.8, 0.1, 0.1]
