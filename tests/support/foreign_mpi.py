"""An environment like this one whose mpiexec belongs to another MPI library than mpi4py's.

The mpiexec is a shell script that answers and starts ranks as the other library's does; what it
starts are real processes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from p2psim.launcher import ranks

MPIEXEC = """#!/bin/sh
if [ "$1" = --version ]; then
    echo "{version}"
    exit
fi
while :; do
    case $1 in
        -n) n=$2; shift 2 ;;
        --bind-to) shift 2 ;;
        -*) shift ;;
        *) break ;;
    esac
done
trap 'exit 2' TERM
rank=$((n - 1))
while [ $rank -ge 0 ]; do
    [ $rank -gt 0 ] || sleep 0.5  # the first comes last
    {{ env {variables} "$@" || {failed}; }} &
    pids="$pids $!"
    rank=$((rank - 1))
done
code=0
for pid in $pids; do
    wait $pid || code=$?
done
exit $code
"""
VERSIONS = {
    "mpich": "HYDRA build details:\\n    Version:      4.1.2",
    "openmpi": "mpiexec (Open MPI) 4.1.6",
}
TITLES = {"mpich": "MPICH", "openmpi": "Open MPI"}
PMI = "PMI_RANK=$rank PMI_SIZE=$n"  # as srun sets them as well
VARIABLES = {
    "mpich": f"{PMI} MPI_LOCALNRANKS=$n",
    "openmpi": "OMPI_COMM_WORLD_RANK=$rank OMPI_COMM_WORLD_SIZE=$n",
}

# What is done when a rank fails: the one leaves the others alone, the other ends them all.
FAILED = {"mpich": "exit $?", "openmpi": "kill 0"}


def other() -> str:
    """The kind of MPI library that is not the one here."""
    return {"mpich": "openmpi", "openmpi": "mpich"}[ranks.find_mpiexec()[1]]


def mpiexec(folder: Path, kind: str, variables: str = "") -> Path:
    """An mpiexec of this kind; its ranks find these variables."""
    path = folder / "mpiexec"
    made = variables or VARIABLES[kind]
    text = MPIEXEC.format(version=VERSIONS[kind], variables=made, failed=FAILED[kind])
    path.write_text(text)
    path.chmod(0o755)
    return path


def environment(folder: Path) -> Path:
    """A Python with all packages and libraries of this one, but no mpiexec beside it."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.symlink_to(Path(sys.executable))
    (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
    settings = Path(sys.prefix) / "pyvenv.cfg"
    if settings.exists():
        (folder / "pyvenv.cfg").write_text(settings.read_text())
    return python
