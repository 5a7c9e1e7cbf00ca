"""Work of the ranks of a node, prepared once by the fork server for all of them."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any, Protocol

from p2psim.experiment.holdings import Holdings
from p2psim.launcher import environment, ranks, run_requests, runner, slurm
from p2psim.simulation.recorder import datasets, empty_file


class Application(Protocol):
    """Command line of p2psim, passed in by __main__: this package must not import `p2psim.cli`."""

    @property
    def main(self) -> Callable[[list[str]], Any]:
        """Function that runs a command line."""

    @property
    def parse_run(self) -> Callable[[list[str]], tuple[list[run_requests.Request], int | None]]:
        """Function that parses `run ...`; it returns all requests, and the number of --only."""

    @property
    def guarded(self) -> Callable[[Callable[[], Any]], Any]:
        """Function that calls another one; it reports an InputError and exits with its code."""


class Job:
    """Request, scenario and samples of the ranks of this node, built once for all of them.

    `parts` is None if they could not be built. `hello` is the message of the first stub, see
    stub.ForkedRank.hello.
    """

    def __init__(self, application: Application, hello: dict[str, Any]) -> None:
        self.application = application
        self.key = hello["arguments"], hello["folder"]
        self.ranks: int = hello["ranks"]
        self.parts: tuple[Any, Any, Any] | None = None
        # An error is ignored here: each rank builds the parts itself then, and reports it.
        with contextlib.suppress(BaseException):
            self.parts = self.build()

    def build(self) -> tuple[Any, Any, Any]:
        """Build the request, the scenario and the samples that the ranks share.

        The test samples are always read, the training samples only if all peers are on this node.
        """
        arguments, folder = self.key
        os.chdir(folder)
        try:
            ((_, request),) = run_requests.select(*self.application.parse_run(arguments))
            scenario = request.scenario()
            holdings = Holdings(scenario)
            _ = holdings.test  # read the test set, a cached property
            empty_file(datasets(scenario))  # kept for all ranks
            if self.ranks == scenario.peers:  # all peers run here: read the file once for all
                holdings.read_all()
            return request, scenario, holdings
        finally:
            os.chdir("/")

    def run(self, arguments: list[str]) -> None:
        """Run this forked process as a rank with the command line `arguments`.

        It uses the prepared parts if they were built for the same command line in the same folder,
        and otherwise runs the command line from its start.
        """
        rank_and_size = environment.mpi_rank()
        if not self.parts or (arguments, os.getcwd()) != self.key or not rank_and_size:
            self.application.main(arguments)
            return
        ranks.one_thread()
        slurm.short_addresses()
        self.application.guarded(functools.partial(runner.run_rank, *self.parts, *rank_and_size))
