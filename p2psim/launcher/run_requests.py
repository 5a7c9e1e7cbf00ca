"""Requests of runs: the combinations of an experiment, each with its folder and options."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import tomli_w

from p2psim.errors import InputError
from p2psim.experiment import config, scenario
from p2psim.experiment.sweep import assign, combinations
from p2psim.simulation import run_file


@dataclass
class Request:
    """One combination of an experiment and the options of `p2psim run` for it."""

    file: Path
    settings: tuple[str, ...]
    table: dict[str, Any]
    base: Path  # run folder of the experiment
    label: str  # of the combination of a sweep, "" without a sweep
    force: bool
    resume: bool
    paths: Path | None = None  # start of relative paths in the experiment; None: folder of `file`
    source: dict[str, Any] | None = None  # to write into `file` for the ranks; None: it exists
    notes: tuple[str, ...] = ()  # what the user should know about the settings, in sentences

    @property
    def folder(self) -> Path:
        """Run folder of this combination."""
        return self.base / self.label

    @property
    def has_run(self) -> bool:
        """True if the folder contains a run."""
        return (self.folder / "run.h5").exists()

    @property
    def resumes_run(self) -> bool:
        """True if the run in the folder is to be resumed."""
        return self.resume and self.has_run

    def is_complete(self, rounds: int) -> bool:
        """Return True if --resume is given and the run in the folder has completed `rounds`."""
        return self.resumes_run and run_file.is_complete(self.folder, rounds)

    def arguments(self, number: int | None = None) -> list[str]:
        """Return the arguments of `p2psim` with which a rank runs this combination.

        number: that of the combination, from 0; without it the caller adds --only.
        """
        arguments = ["run", str(self.file), "--out", str(self.base)]
        arguments += ["--paths", str(self.paths)] if self.paths else []
        arguments += [] if number is None else ["--only", str(number)]
        arguments += [part for setting in self.settings for part in ("--set", setting)]
        return arguments + ["--force"] * self.force + ["--resume"] * self.resume

    def scenario(self) -> scenario.Scenario:
        """Build a new Scenario, since peers of one process must not share plug-in objects.

        The InputError for a combination of a sweep begins with its label.
        """
        try:
            loaded = scenario.load(self.table, self.paths or self.file.resolve().parent)
        except InputError as error:
            if not self.label:
                raise
            raise InputError(f"{self.label}: {error}") from error
        loaded.experiment.settings = self.settings
        return loaded

    @contextlib.contextmanager
    def file_for_ranks(self) -> Iterator[None]:
        """Write `source` into `file` for the ranks in this block, and remove it afterwards.

        Without `source` do nothing: `file` is the user's own. InputError if it cannot be written.
        """
        if self.source is None:
            yield
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(tomli_w.dumps(self.source), encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"cannot write the experiment file for the ranks ({error}): give another folder "
                "with --out DIR"
            ) from None
        try:
            yield
        finally:
            self.file.unlink(missing_ok=True)


def requests(
    file: Path,
    settings: tuple[str, ...],
    out: Path | None,
    force: bool = False,
    resume: bool = False,
    paths: Path | None = None,
) -> list[Request]:
    """Return one request for each combination of an experiment file.

    With `resume` the settings of the run in the folder apply too, before those that are given.
    """
    check_options(force, resume)
    notes: list[str] = []
    folder = paths or file.resolve().parent
    table = assign(config.read(file), settings, folder, notes.append)
    base = out or run_folder_of(table)
    if resume and (old := [text for text in run_file.settings(base) if text not in settings]):
        settings, notes = (
            (*old, *settings),
            [f"--resume applies the run's own --set {' --set '.join(old)} too"],
        )
        table = assign(config.read(file), settings, folder, notes.append)
    return [
        Request(file, settings, combination, base, label, force, resume, paths, notes=tuple(notes))
        for label, combination in combinations(table)
    ]


def requests_of_table(
    table: dict[str, Any], paths: Path, out: Path | None, force: bool, resume: bool
) -> list[Request]:
    """Return one request for each combination of an experiment that is given as a table.

    The requests name a hidden file beside the run folder, which the nodes of a cluster can read;
    `file_for_ranks` writes it.
    """
    check_options(force, resume)
    base = out or run_folder_of(table)
    file = base.absolute().parent / f".{base.name}-{os.getpid()}-{time.time_ns()}.toml"
    return [
        Request(file, (), combination, base, label, force, resume, paths, table)
        for label, combination in combinations(table)
    ]


def check_options(force: bool, resume: bool) -> None:
    """Raise InputError if both options are set."""
    if force and resume:
        raise InputError("--force replaces the run and --resume continues it: give one of them")


def run_folder_of(table: dict[str, Any]) -> Path:
    """Return the default run folder of an experiment, relative to the current folder."""
    return Path("runs") / str(table["name"])


def print_notes(requests: list[Request]) -> None:
    """Print the notes of the command line, which all combinations share, on stderr."""
    for note in requests[0].notes:
        click.echo(f"p2psim: {note}", err=True)


def select(requests: list[Request], only: int | None) -> list[tuple[int, Request]]:
    """Return (number, request) of all combinations, from 0, or of the one numbered `only`.

    InputError if there is no such number.
    """
    if only is None:
        return list(enumerate(requests))
    if not 0 <= only < len(requests):
        raise InputError(
            f"--only {only}: give a number from 0 to {len(requests) - 1}, one of the combinations"
        )
    return [(only, requests[only])]
