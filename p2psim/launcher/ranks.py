"""Start the ranks of a run with the launch file that fits the MPI library at hand."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2psim.errors import InputError, suggest
from p2psim.launcher import environment, mpi_libraries, slurm

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # a run is to end
PR_SET_PDEATHSIG = 1
STARTS = ("auto", "forkserver", "plain")  # see stub.py
FILES = 16  # that mpiexec may have open for each rank
YOUNG = 5.0  # seconds in which a server may not listen yet
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def let_first_rank_report(limit: float = 5.0) -> None:
    """Let the first rank speak: Open MPI and Slurm end all ranks once one has left with an error.

    Hydra does not, and waits for each.
    """
    if mpi_libraries.STARTERS["MPICH"] not in os.environ:
        time.sleep(limit)


def one_thread() -> None:
    """Ranks share the cores: one thread each, set before the libraries start theirs."""
    for name in THREADS:
        os.environ[name] = "1"


def launch_folder() -> Path:
    """The folder of launch files: beside the package, else where it was installed."""
    beside = Path(__file__).resolve().parents[2] / "launch"
    return beside if beside.is_dir() else Path(sys.prefix) / "share" / "p2psim" / "launch"


def find_mpiexec() -> tuple[str, str]:
    """(path of mpiexec, name of the launch file for it). This environment's own comes first."""
    path = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if path is None:
        raise InputError(f"no mpiexec found: {mpi_libraries.INSTALL}, or run with --debug")
    kind = mpi_libraries.of_mpiexec(path).kind
    if kind:
        return path, kind
    raise InputError(
        f"{path} belongs to an MPI library that no launch file of {launch_folder()} fits: "
        "start the ranks yourself with mpiexec -n N p2psim run ..."
    )


@dataclass(frozen=True)
class LaunchCommand:
    """How ranks are started here: a launch file, and what it finds in its environment."""

    file: Path
    environment: dict[str, str]

    def command(self, peers: int) -> tuple[list[str], dict[str, str]]:
        """What stands before the command of each rank, and the environment that it needs."""
        added = {**self.environment, "P2PSIM_PEERS": str(peers)}
        return ["/bin/sh", str(self.file)], {**os.environ, **added}


def launch_names() -> list[str]:
    """What --launch may be given."""
    return sorted(path.stem for path in launch_folder().glob("*.sh"))


def find_launcher(wanted: str | None = None) -> LaunchCommand:
    """The launch file `wanted`, or the one that fits this place.

    InputError where there is nothing to start ranks with, or where ranks would not find each other.
    """
    start = os.environ.get("P2PSIM_START", STARTS[0])
    if start not in STARTS:
        raise InputError(f"P2PSIM_START = {start!r}: {suggest(start, STARTS)}")
    if wanted not in (None, *launch_names()):
        raise InputError(f"--launch {wanted!r}: {suggest(str(wanted), launch_names())}")
    name = wanted or ("slurm" if slurm.at_hand() else "local")
    file = launch_folder() / f"{name}.sh"
    if name == "slurm":
        return LaunchCommand(file, {"P2PSIM_PMI": slurm.flavor(file)})
    mpiexec, kind = find_mpiexec()
    mpi_libraries.check(
        f"{mpiexec} is", mpi_libraries.of_mpiexec(mpiexec), mpi_libraries.of_mpi4py()
    )
    if name in mpi_libraries.SIGNS and name != kind:
        raise InputError(f"--launch {name}: {mpiexec} is another library's; give --launch {kind}")
    return LaunchCommand(file, {"P2PSIM_MPIEXEC": mpiexec, "P2PSIM_MPI": kind})


def start(way: LaunchCommand, peers: int, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start `p2psim ARGUMENTS` on `peers` ranks; they end when this process does.

    They have a session of their own: Ctrl-C is for this process, which knows what to do about it.
    """
    one_thread()
    allow_files(FILES * peers + 256)
    command, variables = way.command(peers)
    # No other launch is called that.
    variables["P2PSIM_LAUNCHED"] = f"{os.getpid()}-{time.time_ns()}"
    return subprocess.Popen(
        [*command, *environment.command(list(arguments))],
        env=variables,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent(),
    )


def allow_files(wanted: int) -> None:
    """Let this process and mpiexec have so many files open, or as many as the system allows."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now != resource.RLIM_INFINITY and now < wanted:
        more = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, most))


def end(process: subprocess.Popen[bytes]) -> None:
    """End all ranks at once, by means that are ever less kind."""
    # Once is a request to mpiexec and the ranks, twice is not.
    for name, seconds in (("INT", 0.3), ("INT", 1), ("TERM", 1), ("KILL", 30)):
        process.send_signal(signal.Signals[f"SIG{name}"])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def remove_leftovers(folder: Path = Path("/tmp"), limit: float = 10.0) -> None:
    """Remove what MPICH's proxies leave when they are killed, unless one runs that may need it.

    Those of this launcher are about to end and are waited for, at most `limit` seconds.
    """
    left = [path for path in folder.glob("hydra_hwloc_xmlfile_*") if is_mine(path)]
    end = time.monotonic() + limit
    while left and (running := proxies()):
        if time.monotonic() > end or not any(map(is_started_here, running)):
            return
        time.sleep(0.05)
    for path in left:
        path.unlink(missing_ok=True)


def remove_dead_servers(folder: Path = Path("/tmp")) -> None:
    """Remove the folders of fork servers that were killed together with all their stubs."""
    for bell in folder.glob(f"p2psim-{os.geteuid()}-*/socket"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as knock:
            if not is_mine(bell) or time.time() - bell.stat().st_mtime < YOUNG:
                continue
            if knock.connect_ex(str(bell)) == errno.ECONNREFUSED:
                environment.remove(str(bell.parent))


def is_mine(path: Path) -> bool:
    """Whether a file is there, and this user's."""
    with contextlib.suppress(OSError):
        return path.stat().st_uid == os.geteuid()
    return False


def proxies() -> list[Path]:
    """MPICH's own processes that start ranks here, of any run; none that has ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            _, name, state = (folder / "stat").read_text().split(maxsplit=3)[:3]
            found += [folder] * (name == "(hydra_pmi_proxy)" and state != "Z")
    return found


def is_started_here(process: Path) -> bool:
    """Whether a process, a folder of /proc, belongs to what this launcher has started."""
    with contextlib.suppress(OSError):
        return f"P2PSIM_LAUNCHED={os.getpid()}-".encode() in (process / "environ").read_bytes()
    return False


def end_with_parent() -> Callable[[], object] | None:
    """What a child must do so that it gets SIGTERM when this process dies; Linux alone can."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl and functools.partial(prctl, PR_SET_PDEATHSIG, signal.SIGTERM)
