"""Environments whose mpiexec belongs to another MPI library than mpi4py.

The mpiexec is a shell script. It prints the version and starts ranks as the mpiexec of the other
library does; the ranks are real processes.
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
PMI = "PMI_RANK=$rank PMI_SIZE=$n"  # srun sets the same variables
VARIABLES = {
    "mpich": f"{PMI} MPI_LOCALNRANKS=$n",
    "openmpi": "OMPI_COMM_WORLD_RANK=$rank OMPI_COMM_WORLD_SIZE=$n",
}
# Command after the failure of a rank: MPICH lets the other ranks run, Open MPI ends all ranks.
FAILED = {"mpich": "exit $?", "openmpi": "kill 0"}


def other_library() -> str:
    """Return the kind of MPI library that mpi4py does not use: "mpich" or "openmpi"."""
    return {"mpich": "openmpi", "openmpi": "mpich"}[ranks.find_mpiexec()[1]]


def write_mpiexec(folder: Path, kind: str, variables: str = "") -> Path:
    """Write an mpiexec of this kind; return its path.

    variables: environment of each rank, as `NAME=VALUE ...`; by default that of the library.
    """
    path = folder / "mpiexec"
    settings = variables or VARIABLES[kind]
    text = MPIEXEC.format(version=VERSIONS[kind], variables=settings, failed=FAILED[kind])
    path.write_text(text)
    path.chmod(0o755)
    return path


def create_environment(folder: Path) -> Path:
    """Create an environment with all packages of this one but no mpiexec; return its Python."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.symlink_to(Path(sys.executable))
    (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
    settings = Path(sys.prefix) / "pyvenv.cfg"
    if settings.exists():
        (folder / "pyvenv.cfg").write_text(settings.read_text())
    return python
