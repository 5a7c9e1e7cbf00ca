"""python -m p2psim, and the command p2psim."""

import os
import sys

from p2psim.launcher import place


def main() -> None:
    """Run the command line. What mpiexec has started as a rank becomes the stub of a rank."""
    # A stream that is closed would be taken by the next file opened, and mpiexec needs all three.
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(descriptor, "r+", closefd=False))  # noqa: SIM115
    if sys.argv[1:2] == ["run"] and "P2PSIM_STUB" not in os.environ and place.inside():
        os.execv(sys.executable, place.command(sys.argv[1:]))
    from p2psim import cli

    cli.main()


if __name__ == "__main__":
    main()
