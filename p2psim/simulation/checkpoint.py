"""Checkpoints: RUN/checkpoints/0000120/peer-00007, one file per peer and round; the last two stay.

A file is the state as msgpack, then the memory of its arrays, then a digest over all of it, so that
a torn file is told from a whole one. A checkpoint is one whose files are all whole; no other mark
is needed. Every peer writes, checks and removes its own files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from p2psim.base import Natural
from p2psim.errors import InputError
from p2psim.simulation.state import Block, StateDecoder, StateEncoder, check_node

MAGIC = b"p2psim checkpoint 2\n"
DIGEST = 16  # bytes
ALIGNED = 64  # bytes: what tells how sums over an array go, in the widest registers


class DamagedError(Exception):
    """A checkpoint file that cannot be used, and why."""


class Label(msgspec.Struct):
    """The run, data, round and rank that a checkpoint file belongs to."""

    run: str
    data: str
    round: int
    rank: int


class Content(msgspec.Struct):
    """The head of a file: a label, the state as nodes, and size and alignment of each block."""

    label: Label
    state: dict[str, Any]
    blocks: list[tuple[Natural, Natural]]


class CheckpointStore:
    """One peer's checkpoints of one run. `round`: the last one that is whole, 0: there is none."""

    def __init__(self, folder: Path, rank: int, data: str, identify: Callable[[], str]) -> None:
        self.folder, self.rank, self.data, self.identify = folder, rank, data, identify
        self.round = 0

    @cached_property
    def run(self) -> str:
        """Which run this is."""
        return self.identify()

    def path(self, round_: int) -> Path:
        """This peer's file of a round."""
        return self.folder / "checkpoints" / f"{round_:09d}" / f"peer-{self.rank:05d}"

    def write(self, round_: int, state: dict[str, Any], known: dict[str, object]) -> None:
        """Write a state, whole or not at all; see state.py for what it may hold.

        OSError where there is no room, TypeError for what cannot be written.
        """
        freezer = StateEncoder(known)
        tree = {name: freezer.node(value, name) for name, value in state.items()}
        blocks = freezer.blocks()
        sizes = [(block.size, phase(block)) for block in blocks]
        label = Label(self.run, self.data, round_, self.rank)
        head = msgspec.msgpack.encode(Content(label, tree, sizes))
        start = [MAGIC, len(head).to_bytes(8, "little"), head]
        write(self.path(round_), [*start, *(block.data for block in blocks)])

    def check(self, round_: int) -> None:
        """DamagedError if this file cannot be used, InputError if the data have changed since."""
        content, _ = read(self.path(round_))
        label = content.label
        if (label.run, label.round, label.rank) != (self.run, round_, self.rank):
            raise DamagedError("it belongs elsewhere")
        if label.data != self.data:
            raise InputError(
                f"cannot resume the run in {str(self.folder)!r}: the samples of peer {self.rank} "
                "have changed since; bring the old data back, or start anew with --force"
            )

    def read(self, state: dict[str, Any], known: dict[str, object]) -> dict[str, Any]:
        """Return the state after `round`; objects of `state` are filled in, the rest is made anew.

        DamagedError where the file holds the state of something else than `state`.
        """
        content, blocks = read(self.path(self.round))
        thawer = StateDecoder(known, blocks)
        try:
            return {
                name: thawer.value(content.state[name], value, name)
                for name, value in state.items()
            }
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DamagedError(
                f"the checkpoint after round {self.round} does not fit this run ({error}): remove "
                f"{str(self.path(self.round).parent)!r} to go on from the one before"
            ) from error

    def rotate(self, newest: int) -> None:
        """Keep the newest checkpoint and the one before."""
        self.delete(but={self.round, newest})
        self.round = newest

    def delete(self, but: Collection[int] = ()) -> None:
        """Remove this peer's files of all rounds but these."""
        for round_ in set(rounds(self.folder)) - set(but):
            self.path(round_).unlink(missing_ok=True)
            for place in (self.path(round_).parent, self.folder / "checkpoints"):
                with contextlib.suppress(OSError):  # others may still have theirs in it
                    place.rmdir()


def rounds(folder: Path) -> list[int]:
    """Rounds of which there is a checkpoint, whole or not, the newest first."""
    found = (folder / "checkpoints").glob("[0-9]*")
    return sorted((int(path.name) for path in found if path.name.isdigit()), reverse=True)


def write(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    """Parts and their digest into a file that is there whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, digest = path.with_name(f".{path.name}"), hashlib.blake2b(digest_size=DIGEST)
    try:
        with open(partial, "wb", buffering=0) as file:
            for part in parts:
                digest.update(part)
                write_all(file, part)
            write_all(file, digest.digest())
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_all(file: Any, part: bytes | memoryview) -> None:
    """Every byte of it: one call may write less."""
    view = memoryview(part)
    while view:
        view = view[file.write(view) :]


def read(path: Path) -> tuple[Content, list[Block]]:
    """Read a file's content and the memory of its arrays.

    DamagedError unless every byte is as it was written and the content has the form that
    `CheckpointStore.write` gives it. The digest alone is no proof: anybody can compute one.
    """
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DamagedError(f"it cannot be read ({error.strerror})") from None
    body = raw[: max(0, raw.size - DIGEST)]
    if hashlib.blake2b(body.data, digest_size=DIGEST).digest() != raw[body.size :].tobytes():
        raise DamagedError("it is incomplete or changed")
    start = len(MAGIC) + 8
    if raw[: len(MAGIC)].tobytes() != MAGIC:
        raise DamagedError("another version of p2psim wrote it")
    end = start + int.from_bytes(raw[len(MAGIC) : start].tobytes(), "little")
    try:
        content = msgspec.msgpack.decode(raw[start:end].data, type=Content)
        if sum(size for size, _ in content.blocks) != body.size - end:
            raise ValueError("its blocks have other sizes together than the file has room for")
        blocks = load_blocks(content.blocks, raw[end : body.size])
        for node in content.state.values():
            check_node(node, blocks)
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"its content has another form than a checkpoint's: {error}") from None
    return content, blocks


def load_blocks(sizes: Sequence[tuple[int, int]], memory: Block) -> list[Block]:
    """Copy the blocks that lie one after the other in `memory`, each to its own alignment."""
    blocks, start = [], 0
    for size, aligned in sizes:
        room = np.empty(size + ALIGNED, np.uint8)
        first = (aligned - phase(room)) % ALIGNED
        blocks.append(room[first : first + size])
        blocks[-1][:] = memory[start : start + size]
        start += size
    return blocks


def phase(block: Block) -> int:
    """How a block lies in memory."""
    return block.ctypes.data % ALIGNED


def clear(folder: Path) -> None:
    """Remove all checkpoints."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
