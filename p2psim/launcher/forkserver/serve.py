"""`python -m p2psim forkserver FOLDER`: the first stub of a node starts it."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from p2psim.launcher.forkserver.job import Application
from p2psim.launcher.forkserver.server import DEAF, Server

LISTENING = 3  # the descriptor that the stub left
# Any experiment: to build it imports what is imported late.
EXAMPLE = {
    "name": "example",
    "peers": 2,
    "rounds": 1,
    "data": "digits",
    "model": {"name": "mlp", "hidden": [8]},
    "algorithm": "choco-sgd",
    "topology": "ring",
}


def load() -> None:
    """Import all modules that ranks need."""
    from p2psim import registry
    from p2psim.launcher import mpi_init

    importlib.import_module("p2psim.simulation.evaluation")
    for kind in registry.FOLDERS:
        registry.names(kind)
    warm_up()
    mpi_init.library()


def warm_up() -> None:
    """What runs for the first time imports and allocates; done here, ranks share it."""
    from p2psim.experiment import scenario
    from p2psim.simulation.flat_model import FlatModel

    FlatModel(scenario.load(EXAMPLE, Path()), 0)


def serve(folder: str, command_line: Callable[[], Application]) -> None:
    """Be the server of a folder until no rank is left; `command_line` imports the commands."""
    home = Path(folder)
    os.chdir("/")
    listening = socket.socket(fileno=LISTENING)
    for number in DEAF:
        signal.signal(number, signal.SIG_IGN)
    application, refusal = None, ""
    try:
        load()
        application = command_line()
    except Exception as error:  # the stubs start their ranks one by one and say why
        refusal = f"{type(error).__name__} at its start: {error}"
    try:
        Server(listening, application, refusal).serve()
    finally:
        for path in (*home.iterdir(), home):
            with contextlib.suppress(OSError):
                path.rmdir() if path == home else path.unlink()
