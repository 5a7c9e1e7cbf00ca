"""python -m p2psim, and the command p2psim."""

import os
import sys
from typing import Any

from p2psim.launcher import environment


def main() -> None:
    """Run the command line. What mpiexec has started as a rank becomes the stub of a rank."""
    # A stream that is closed would be taken by the next file opened, and mpiexec needs all three.
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(descriptor, "r+", closefd=False))  # noqa: SIM115
    if sys.argv[1:2] == ["forkserver"]:
        from p2psim.launcher.forkserver import serve

        serve.serve(sys.argv[2], command_line)
        return
    if sys.argv[1:2] == ["run"] and "P2PSIM_STUB" not in os.environ and environment.mpi_rank():
        os.execv(sys.executable, environment.command(sys.argv[1:]))
    command_line().main()


def command_line() -> Any:
    """Import the command line, which few of the processes started here need."""
    from p2psim import cli

    return cli


if __name__ == "__main__":
    main()
