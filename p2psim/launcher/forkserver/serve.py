"""Entry point `python -m p2psim forkserver FOLDER`, which the first stub of a node starts."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from p2psim.launcher.forkserver.job import Application
from p2psim.launcher.forkserver.server import IGNORED, Server

LISTENING = 3  # descriptor of the listening socket, inherited from the stub
# Modules that ranks import on first use.
LATER = (
    *("numpy.ctypeslib", "p2psim.simulation.evaluation", "p2psim.simulation.oracle"),
    *("p2psim.simulation.alignment", "p2psim.learning.feedback_check"),
)
# Any experiment: to build it imports the modules that are imported on first use.
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
    """Import all modules that ranks use.

    Garbage is collected meanwhile. Without that the imports take a tenth less time, but each rank
    1.7 MB more: its objects then fill gaps between shared ones, and copy the pages around them.
    """
    from p2psim import registry
    from p2psim.launcher import mpi_init

    for module in LATER:
        importlib.import_module(module)
    for kind in registry.FOLDERS:
        registry.names(kind)
    warm_up()
    mpi_init.library()


def warm_up() -> None:
    """Build a model, so that its imports and first allocations happen before the fork."""
    from p2psim.experiment import scenario
    from p2psim.simulation.flat_model import FlatModel

    FlatModel(scenario.load(EXAMPLE, Path()), 0)


def serve(folder: str, command_line: Callable[[], Application]) -> None:
    """Serve the stubs of a folder until no rank is left, then remove the folder.

    `command_line` imports and returns the command line.
    """
    home = Path(folder)
    os.chdir("/")
    listening = socket.socket(fileno=LISTENING)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    application, refusal = None, ""
    try:
        load()
        application = command_line()
    except Exception as error:  # the stubs report it and start their ranks one by one
        refusal = f"{type(error).__name__} at its start: {error}"
    try:
        Server(listening, application, refusal).serve()
    finally:
        for path in (*home.iterdir(), home):
            with contextlib.suppress(OSError):
                path.rmdir() if path == home else path.unlink()
