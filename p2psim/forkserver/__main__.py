"""`python -m p2psim.forkserver FOLDER`, started by the first stub of a node."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import sys
from pathlib import Path

from p2psim.forkserver.server import DEAF, Server

LISTENING = 3  # the descriptor that the stub left
MODULES = (
    "p2psim.cli",
    "p2psim.runner",
    "p2psim.simulation.evaluation",
)  # and what they import
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


def trouble() -> str:
    """Import everything; why that failed, if so."""
    try:
        load()
    except Exception as error:
        return f"{type(error).__name__} at its start: {error}"
    return ""


def load() -> None:
    """Import everything."""
    from p2psim import joining, registry

    for name in MODULES:
        importlib.import_module(name)
    for kind in registry.FOLDERS:
        registry.names(kind)
    warm_up()
    joining.library()


def warm_up() -> None:
    """What runs for the first time imports and allocates; done here, ranks share it."""
    from p2psim.experiment import scenario
    from p2psim.simulation import oracle

    oracle.FlatModel(scenario.load(EXAMPLE, Path()), 0)


def main(home: Path) -> None:
    """Be the server whose folder this is."""
    os.chdir("/")
    listening = socket.socket(fileno=LISTENING)
    for number in DEAF:
        signal.signal(number, signal.SIG_IGN)
    try:
        Server(listening, trouble()).serve()
    finally:
        for path in (*home.iterdir(), home):
            with contextlib.suppress(OSError):
                path.rmdir() if path == home else path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
