"""Entry point of the command `p2psim` and of `python -m p2psim`."""

import gc
import os
import sys
from typing import Any, NoReturn

from p2psim.errors import STOPPED, exit_code
from p2psim.launcher import environment

SHORT = ("list", "show", "compare", "--help", "-h")  # commands that print a text and end


def main() -> None:
    """Run this process, and end it without a traceback on Ctrl-C, also during an import."""
    try:
        start()
    except KeyboardInterrupt:
        if environment.mpi_rank() is None:
            os.write(2, b"p2psim: stopped\n")
        os._exit(STOPPED)


def start() -> None:
    """Run the command line, or the fork server; a rank of mpiexec is replaced by its stub."""
    # The next opened file would take the number of a closed standard stream, and mpiexec requires
    # that all three streams are open.
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
        os.execv(sys.executable, environment.stub_command(sys.argv[1:]))
    if sys.argv[1:2] and sys.argv[1] in SHORT:
        run_short_command()
    command_line().main()


def run_short_command() -> NoReturn:
    """Run a command of SHORT, and end the process as soon as its text is printed.

    Garbage collection and the shutdown of the interpreter would take a tenth of its time.
    """
    gc.disable()
    code = 0
    try:
        command_line().main()
    except SystemExit as end:
        code = exit_code(end)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def command_line() -> Any:
    """Import and return `p2psim.cli`, which a stub and a starting fork server do not need."""
    from p2psim import cli

    return cli


if __name__ == "__main__":
    main()
