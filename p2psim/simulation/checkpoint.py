"""Checkpoints: RUN/checkpoints/000000120/peer-00007, one file per peer and round; two are kept.

A file holds the state as msgpack, then the memory of its arrays, then a digest of both, by which an
incomplete file is recognized. A checkpoint is complete if the files of all peers are valid; it
needs no other mark. Every peer writes, checks and removes only its own files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from p2psim.base import Natural
from p2psim.errors import InputError
from p2psim.simulation.bound import BoundAttributes
from p2psim.simulation.state import Block, StateDecoder, StateEncoder, check_node

MAGIC = b"p2psim checkpoint 2\n"
DIGEST = 16  # bytes
# Bytes. The order in which NumPy sums an array depends on its address modulo the width of the
# registers, so this part of the address is restored: else a resumed run would have other bits.
ALIGNED = 64


class DamagedError(Exception):
    """Reason why a checkpoint file cannot be used."""


class Label(msgspec.Struct):
    """Origin of a checkpoint file: its run, samples, round and rank."""

    run: str
    data: str
    round: int
    rank: int


class Content(msgspec.Struct):
    """Head of a file: a label, the state as nodes, and size and address phase of each block."""

    label: Label
    state: dict[str, Any]
    blocks: list[tuple[Natural, Natural]]


class CheckpointStore:
    """Checkpoints of one peer in one run.

    `round` is the round of the last complete checkpoint, 0 without one. `data` is the fingerprint
    of the peer's samples, `run` the identifier of the run; "" until the run has one.
    """

    def __init__(self, folder: Path, rank: int, data: str, run: str = "") -> None:
        self.folder, self.rank, self.data, self.run = folder, rank, data, run
        self.round = 0

    def path(self, round_: int) -> Path:
        """Return the path of this peer's file of a round."""
        return self.folder / "checkpoints" / f"{round_:09d}" / f"peer-{self.rank:05d}"

    def write(
        self,
        round_: int,
        state: dict[str, Any],
        known: dict[str, object],
        bound: BoundAttributes,
    ) -> None:
        """Write a state into the file of a round, as a whole or not at all.

        `known` are the objects that a resumed run builds anew, by name. OSError if the disk is
        full, TypeError if a value cannot be written (see state.py).
        """
        encoder = StateEncoder(known, bound)
        tree = {name: encoder.node(value, name) for name, value in state.items()}
        blocks = encoder.blocks()
        sizes = [(block.size, phase(block)) for block in blocks]
        label = Label(self.run, self.data, round_, self.rank)
        head = msgspec.msgpack.encode(Content(label, tree, sizes))
        start = [MAGIC, len(head).to_bytes(8, "little"), head]
        write(self.path(round_), [*start, *(block.data for block in blocks)])

    def check(self, round_: int) -> None:
        """Check this peer's file of a round.

        DamagedError if it cannot be used, InputError if the samples have changed since.
        """
        content, _ = read(self.path(round_))
        label = content.label
        if (label.run, label.round, label.rank) != (self.run, round_, self.rank):
            raise DamagedError("it belongs to another run, round or peer")
        if label.data != self.data:
            raise InputError(
                f"cannot resume the run in {str(self.folder)!r}: the samples of peer {self.rank} "
                "have changed since; bring the old data back, or start anew with --force"
            )

    def read(
        self, state: dict[str, Any], known: dict[str, object], bound: BoundAttributes
    ) -> dict[str, Any]:
        """Return the state after `round`.

        Attributes of the objects in `state` are restored in place; all other values are new.
        DamagedError if the file holds the state of other objects than `state`.
        """
        content, blocks = read(self.path(self.round))
        decoder = StateDecoder(known, blocks, bound)
        try:
            return {
                name: decoder.value(content.state[name], value, name)
                for name, value in state.items()
            }
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DamagedError(
                f"the checkpoint after round {self.round} does not fit this run ({error}): remove "
                f"{str(self.path(self.round).parent)!r} to go on from the one before"
            ) from error

    def rotate(self, newest: int) -> None:
        """Keep the checkpoint of round `newest` and the previous one, remove all others."""
        self.delete(but={self.round, newest})
        self.round = newest

    def delete(self, but: Collection[int] = ()) -> None:
        """Remove this peer's files of all rounds except those in `but`."""
        for round_ in set(rounds(self.folder)) - set(but):
            self.path(round_).unlink(missing_ok=True)
            for subfolder in (self.path(round_).parent, self.folder / "checkpoints"):
                with contextlib.suppress(OSError):  # not empty: other peers have files in it
                    subfolder.rmdir()


def rounds(folder: Path) -> list[int]:
    """Return the rounds with a checkpoint, complete or not, the newest first."""
    paths = (folder / "checkpoints").glob("[0-9]*")
    return sorted((int(path.name) for path in paths if path.name.isdigit()), reverse=True)


def write(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    """Write parts and their digest into a file, which appears as a whole or not at all."""
    for folder in (path.parent.parent, path.parent):  # not the run folder, if it was deleted
        folder.mkdir(exist_ok=True)
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
    """Write all bytes of a part: an unbuffered file may write fewer in one call."""
    view = memoryview(part)
    while view:
        view = view[file.write(view) :]


def read(path: Path) -> tuple[Content, list[Block]]:
    """Read the content of a checkpoint file and the memory of its arrays.

    DamagedError unless the digest is right and the content has the form that
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
    """Copy the consecutive blocks in `memory`, each to memory with the phase that it had.

    `sizes` holds size and phase of each block.
    """
    blocks, start = [], 0
    for size, old_phase in sizes:
        room = np.empty(size + ALIGNED, np.uint8)
        first = (old_phase - phase(room)) % ALIGNED
        blocks.append(room[first : first + size])
        blocks[-1][:] = memory[start : start + size]
        start += size
    return blocks


def phase(block: Block) -> int:
    """Return the address of a block modulo ALIGNED."""
    return block.ctypes.data % ALIGNED


def clear(folder: Path) -> None:
    """Remove the checkpoints of all peers in a run folder."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
