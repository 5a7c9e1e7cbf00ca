"""A checkpoint that is torn, foreign or forged is not used; the one before is."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import msgspec
import pytest

from p2psim.errors import PeerError
from p2psim.simulation import checkpoint
from tests.laws.test_resume import halfway, stopped
from tests.support.runs import run_in_threads, run_threads_in
from tests.support.thorough import cover


@pytest.mark.parametrize(
    "part", cover(((part,) for part in range(20)), lambda part: part % 4, lambda part: part // 5)
)
def test_a_truncated_checkpoint_is_not_used(
    part: int,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    table, place, whole = halfway(tmp_path_factory, tmp_path)
    newest, before = checkpoint.rounds(place)
    torn = place / "checkpoints" / f"{newest:09d}" / f"peer-{part % 4:05d}"
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size * part // 20])
    made = run_in_threads(table, tmp_path, resume=place)
    said = f"checkpoint of round {newest}, peer {part % 4}: it is incomplete or changed; not used"
    assert said in capfd.readouterr().err
    with h5py.File(place / "run.h5", locking=False) as file:
        assert file.attrs["resumed"].tolist() == [before]
    assert made.datasets() == whole.datasets()


@pytest.mark.parametrize("rank", [0, 3])
def test_a_foreign_checkpoint_is_not_used(
    rank: int,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    table, place, _ = halfway(tmp_path_factory, tmp_path)
    _, other = stopped(tmp_path)
    newest, before = checkpoint.rounds(place)
    files = [
        run / "checkpoints" / f"{checkpoint.rounds(run)[0]:09d}" / f"peer-{rank:05d}"
        for run in (place, other)
    ]
    files[0].write_bytes(files[1].read_bytes())
    run_in_threads(table, tmp_path, resume=place)
    assert (
        f"round {newest}, peer {rank}: it belongs to another run, round or peer"
        in capfd.readouterr().err
    )
    with h5py.File(place / "run.h5", locking=False) as file:
        assert file.attrs["resumed"].tolist() == [before]


def forge(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the head of a checkpoint file and give the file the digest that fits again."""
    raw, start = path.read_bytes(), len(checkpoint.MAGIC) + 8
    end = start + int.from_bytes(raw[start - 8 : start], "little")
    head = msgspec.msgpack.decode(raw[start:end])
    change(head)
    text = msgspec.msgpack.encode(head)
    memory = raw[end : -checkpoint.DIGEST]
    body = checkpoint.MAGIC + len(text).to_bytes(8, "little") + text + memory
    path.write_bytes(body + hashlib.blake2b(body, digest_size=checkpoint.DIGEST).digest())


def nested(depth: int) -> Any:
    """A list in a list, and so on."""
    return ["list", nested(depth - 1)] if depth else 0


def sizes(*values: Any) -> Callable[[dict[str, Any]], None]:
    """The first blocks have these sizes."""
    return lambda head: head["blocks"].__setitem__(
        slice(len(values)), [[value, 0] for value in values]
    )


def x_as(*node: Any) -> Callable[[dict[str, Any]], None]:
    """The node of x is another one."""
    return lambda head: head["state"].update(x=list(node))


FORGED: dict[str, Callable[[dict[str, Any]], None]] = {
    "a negative size": sizes(-1),
    "a giant size": sizes(2**62),
    "sizes that cancel each other out": sizes(-(2**40), 2**40),
    "a size that is no number": sizes("1"),
    "no blocks": lambda head: head.pop("blocks"),
    "no label": lambda head: head.pop("label"),
    "a label of other kinds": lambda head: head["label"].update(round="1"),
    "an array before its block": x_as("array", "<f4", False, [0, -64, [4], [4]]),
    "an array behind its block": x_as("array", "<f4", False, [0, 0, [2**40], [4]]),
    "an array that strides out": x_as("array", "<f4", False, [0, 0, [4], [-(2**20)]]),
    "an array of no block": x_as("array", "<f4", False, [10**6, 0, [4], [4]]),
    "an array of objects": x_as("array", "|O", False, [0, 0, [1], [8]]),
    "a type that does not exist": x_as("array", "<f5", False, [0, 0, [1], [4]]),
    "another name of numpy.random": x_as("generator", "seed", None),
    "a method of the reader": x_as("_init__", {}, []),
    "a tag that does not exist": x_as("code", "1"),
    "a state that is no table": lambda head: head.update(state=[1]),
    "a deep nest": lambda head: head["state"].update(x=nested(900)),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_checkpoint_is_not_used(
    name: str,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The one before is; whoever forges one has to give it the right digest."""
    table, place, whole = halfway(tmp_path_factory, tmp_path)
    newest, before = checkpoint.rounds(place)
    forge(place / "checkpoints" / f"{newest:09d}" / "peer-00001", FORGED[name])
    made = run_in_threads(table, tmp_path, resume=place)
    assert f"checkpoint of round {newest}, peer 1: its content has" in capfd.readouterr().err
    with h5py.File(place / "run.h5", locking=False) as file:
        assert file.attrs["resumed"].tolist() == [before]
    assert made.datasets() == whole.datasets()


STRANGE: dict[str, Callable[[dict[str, Any]], None]] = {
    "a name that nobody knows": x_as("known", "secret"),
    "an object that has not come yet": x_as("same", 10**6),
    "a state that lacks a part": lambda head: head["state"].pop("oracle"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_checkpoint_of_another_state_is_told(
    name: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """With the file to remove: only then its round is not gone on from."""
    table, place, whole = halfway(tmp_path_factory, tmp_path)
    newest, before = checkpoint.rounds(place)
    folder = place / "checkpoints" / f"{newest:09d}"
    forge(folder / "peer-00001", STRANGE[name])
    with pytest.raises(PeerError, match=rf"peer 1 .* does not fit .* remove '{folder}'"):
        run_threads_in(table, tmp_path, place, resume=True)
    shutil.rmtree(folder)
    made = run_in_threads(table, tmp_path, resume=place)
    with h5py.File(place / "run.h5", locking=False) as file:
        assert file.attrs["resumed"].tolist() == [newest, before]
    assert made.datasets() == whole.datasets()


def test_without_a_whole_checkpoint_a_run_begins_again(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table, place, whole = halfway(tmp_path_factory, tmp_path)
    for path in (place / "checkpoints").glob("*/peer-00001"):
        path.write_bytes(b"")
    made = run_in_threads(table, tmp_path, resume=place)
    assert "no checkpoint: from the beginning" in capfd.readouterr().err
    assert made.datasets() == whole.datasets()
