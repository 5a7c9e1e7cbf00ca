"""What the ranks of a node run, derived once for all of them."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any


class Job:
    """What the ranks of this node run. What each would derive alone is derived once here."""

    def __init__(self, hello: dict[str, Any]) -> None:
        self.key = hello["arguments"], hello["folder"]
        self.ranks: int = hello["ranks"]
        self.parts: tuple[Any, Any] | None = None
        with contextlib.suppress(BaseException):  # a mistake: each rank will find it by itself
            self.parts = self.derive()

    def derive(self) -> tuple[Any, Any]:
        """The request, and the scenario with the data read that ranks share."""
        from p2psim import cli, runner

        arguments, folder = self.key
        os.chdir(folder)
        try:
            given = cli.main.commands["run"].make_context("run", list(arguments[1:])).params
            names = ("experiment", "settings", "out", "force", "resume")
            wanted = runner.requests(*(given[name] for name in names))
            ((_, request),) = runner.choose(wanted, given["only"])
            ready = request.scenario()
            _ = ready.test
            if self.ranks == ready.peers:  # all are here: one passes through the file for them
                ready.hold_all()
            return request, ready
        finally:
            os.chdir("/")

    def run(self, arguments: list[str]) -> None:
        """Be a rank."""
        from p2psim import cli, runner
        from p2psim.launcher import place, ranks, slurm

        here = place.inside()
        if not self.parts or (arguments, os.getcwd()) != self.key or not here:
            cli.main(arguments)
            return
        ranks.one_thread()
        slurm.short_addresses()
        cli.guarded(functools.partial(runner.be_rank, *self.parts, *here))
