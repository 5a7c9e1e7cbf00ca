"""Start of the ranks of a run, with the launch file that fits the installed MPI library."""

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from p2psim.errors import InputError, suggest
from p2psim.launcher import environment, mpi_libraries, slurm

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # requests to stop
PR_SET_PDEATHSIG = 1
STARTS = ("auto", "forkserver", "plain")  # values of P2PSIM_START; see stub.start_rank
FILES = 16  # open files that mpiexec needs for each rank
YOUNG = 5.0  # seconds after the creation of its socket in which a fork server may not listen yet
TRACEBACK = "P2PSIM_TRACEBACK"  # environment variable: p2psim --traceback sets it for the ranks
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def let_first_rank_report(limit: float = 5.0) -> None:
    """Delay the exit of this rank, so that rank 0 can print the error that all ranks have.

    Open MPI and Slurm terminate all ranks as soon as one exits with an error. MPICH's mpiexec,
    Hydra, waits for each rank instead, so no delay is needed.
    """
    if mpi_libraries.MPIEXEC_VARIABLES["MPICH"] not in os.environ:
        time.sleep(limit)


def one_thread() -> None:
    """Limit numerical libraries to one thread, because ranks share the cores.

    Call it before the import of NumPy and torch, which read these variables only then.
    """
    for name in THREADS:
        os.environ[name] = "1"


def launch_folder() -> Path:
    """Return the folder of launch files: next to the package, or else where pip installed it."""
    source = Path(__file__).resolve().parents[2] / "launch"
    return source if source.is_dir() else Path(sys.prefix) / "share" / "p2psim" / "launch"


def find_mpiexec() -> tuple[str, str]:
    """Return (path of mpiexec, name of its launch file); InputError if no mpiexec is usable.

    The mpiexec of this Python environment has priority over those on PATH.
    """
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
    """Launch file that starts ranks, and the environment variables that it reads."""

    file: Path
    environment: dict[str, str]

    def command(self, peers: int) -> tuple[list[str], dict[str, str]]:
        """Return the command that precedes the command of each rank, and its whole environment."""
        added = {**self.environment, "P2PSIM_PEERS": str(peers)}
        return ["/bin/sh", str(self.file)], {**os.environ, **added}


def launch_names() -> list[str]:
    """Return the allowed values of --launch."""
    return sorted(path.stem for path in launch_folder().glob("*.sh"))


def find_launcher(launch: str | None = None) -> LaunchCommand:
    """Return the launch file named `launch`, or by default the one for this environment.

    InputError if no program can start ranks, or if the started ranks could not reach each other.
    """
    start = os.environ.get("P2PSIM_START", STARTS[0])
    if start not in STARTS:
        raise InputError(f"P2PSIM_START = {start!r}: {suggest(start, STARTS)}")
    if launch not in (None, *launch_names()):
        raise InputError(f"--launch {launch!r}: {suggest(str(launch), launch_names())}")
    name = launch or ("slurm" if slurm.in_allocation() else "local")
    file = launch_folder() / f"{name}.sh"
    if name == "slurm":
        return LaunchCommand(file, {"P2PSIM_PMI": slurm.flavor(file)})
    mpiexec, kind = find_mpiexec()
    mpi_libraries.check(
        f"{mpiexec} is", mpi_libraries.of_mpiexec(mpiexec), mpi_libraries.of_mpi4py()
    )
    if name in mpi_libraries.SIGNS and name != kind:
        raise InputError(
            f"--launch {name}: {mpiexec} belongs to another MPI library; give --launch {kind}"
        )
    return LaunchCommand(file, {"P2PSIM_MPIEXEC": mpiexec, "P2PSIM_MPI": kind})


def launch_name() -> str:
    """Return a new name for a launch: environment.job_name derives the server's folder from it."""
    return f"{os.getpid()}-{time.time_ns()}"


def start(
    launcher: LaunchCommand,
    peers: int,
    arguments: Sequence[str],
    name: str,
    errors: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `p2psim ARGUMENTS` on `peers` ranks, which end when this process ends.

    They get a session of their own, so that Ctrl-C reaches only this process, which then requests
    a checkpoint. name: that of the launch. errors: file for their standard error; None for that of
    this process.
    """
    allow_open_files(FILES * peers + 256)
    command, variables = launcher.command(peers)
    variables["P2PSIM_LAUNCHED"] = name
    variables.update(dict.fromkeys(THREADS, "1"))  # not in this process, which may go on
    return subprocess.Popen(
        [*command, *environment.stub_command(list(arguments))],
        env=variables,
        stdin=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
        preexec_fn=end_with_parent(),
    )


def allow_open_files(count: int) -> None:
    """Raise the limit of open files of this process and of mpiexec to `count`, if permitted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        limit = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def limits(peers: int) -> str:
    """Return the end of a message about a failure: limits of this shell that may have caused it.

    Only limits that p2psim cannot raise, "" if there is none.
    """
    texts = []
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files != resource.RLIM_INFINITY and files < FILES * peers + 256:
        texts.append(f"at most {files} open files (ulimit -Hn)")
    size = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if size != resource.RLIM_INFINITY:
        texts.append(f"files of at most {size:,} bytes (ulimit -f)")
    return f"; this shell allows {' and '.join(texts)}: raise that" if texts else ""


def terminate(process: subprocess.Popen[bytes]) -> None:
    """Terminate mpiexec and all ranks, with signals of increasing force."""
    # The first SIGINT asks mpiexec and the ranks to stop; the second one terminates them.
    for name, seconds in (("INT", 0.3), ("INT", 1), ("TERM", 1), ("KILL", 30)):
        process.send_signal(signal.Signals[f"SIG{name}"])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


@contextlib.contextmanager
def terminated_on_error(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Terminate mpiexec and all ranks if this block, which waits for them, raises an exception.

    A caller in Python may go on after it, an alarm of its own for instance.
    """
    try:
        yield
    except BaseException:
        terminate(process)
        raise


def remove_leftovers(folder: Path = Path("/tmp"), limit: float = 10.0) -> None:
    """Remove the files of killed MPICH proxies, unless a running proxy may still use them.

    Proxies of this launcher are about to end: wait for them, at most `limit` seconds.
    """
    files = [path for path in folder.glob("hydra_hwloc_xmlfile_*") if is_mine(path)]
    end = time.monotonic() + limit
    while files and (running := proxies()):
        if time.monotonic() > end or all(map(is_started_elsewhere, running)):
            return
        time.sleep(0.05)
    for path in files:
        path.unlink(missing_ok=True)


def remove_dead_servers(folder: Path = Path("/tmp")) -> None:
    """Remove the folders of fork servers that were killed together with all their stubs."""
    for path in folder.glob(f"p2psim-{os.geteuid()}-*/socket"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            if not is_mine(path) or time.time() - path.stat().st_mtime < YOUNG:
                continue
            if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
                environment.remove_server_folder(str(path.parent))


def is_mine(path: Path) -> bool:
    """Return True if the file exists and belongs to this user."""
    with contextlib.suppress(OSError):
        return path.stat().st_uid == os.geteuid()
    return False


def proxies() -> list[Path]:
    """Return the /proc folders of all running MPICH proxies, the processes that start its ranks."""
    folders = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has just ended
            _, name, state = (folder / "stat").read_text().split(maxsplit=3)[:3]
            folders += [folder] * (name == "(hydra_pmi_proxy)" and state != "Z")
    return folders


def is_started_elsewhere(process: Path) -> bool:
    """Return True if another program has started the process with the /proc folder `process`.

    A process that is ending shows an empty environment: nobody can tell who has started it.
    """
    try:
        environment_bytes = (process / "environ").read_bytes()
    except OSError as error:
        return isinstance(error, PermissionError)  # another user's process; otherwise it has ended
    mark = f"P2PSIM_LAUNCHED={os.getpid()}-".encode()
    return bool(environment_bytes) and mark not in environment_bytes


def end_with_parent() -> Callable[[], object] | None:
    """Return a function for a child that requests SIGTERM when this process dies; Linux only."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    return prctl and functools.partial(prctl, PR_SET_PDEATHSIG, signal.SIGTERM)
