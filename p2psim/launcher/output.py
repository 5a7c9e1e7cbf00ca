"""Reports of runs to their user: warnings, progress, and the messages of ranks."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

import click

PREFIX = "p2psim: "  # of a message


def show_warning(text: str) -> None:
    """Print a warning on stderr."""
    click.echo(f"p2psim: {text}", err=True)


@dataclass(frozen=True)
class Reports:
    """Reports to the user while runs go on. The defaults are those of the command line."""

    warn: Callable[[str], object] = show_warning
    progress: bool = True  # show a progress bar
    keep_errors: bool = False  # put the messages of ranks into the exception as well


class RankErrors:
    """Standard error of the ranks of a run.

    Unless `keep`, it is that of this process, `file` is None and the methods do nothing. A notebook
    shows sys.stderr, which need not be the standard error that processes inherit.
    """

    def __init__(self, keep: bool) -> None:
        self.file: IO[bytes] | None = tempfile.TemporaryFile() if keep else None  # noqa: SIM115
        self.text = b""

    def copy(self) -> None:
        """Write to sys.stderr whatever the ranks have written since the last call."""
        if self.file is None:
            return
        # Not file.read(): the ranks write at the position that this process shares with them.
        while new := os.pread(self.file.fileno(), 1 << 16, len(self.text)):
            self.text += new
            sys.stderr.write(new.decode(errors="replace"))

    def messages(self) -> str:
        """Return the messages of p2psim among the lines so far, joined by "; "."""
        lines = self.text.decode(errors="replace").splitlines()
        return "; ".join(line.removeprefix(PREFIX) for line in lines if line.startswith(PREFIX))
