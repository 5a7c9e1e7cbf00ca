"""Process that mpiexec starts in place of a rank: it starts the rank, waits, and ends like it.

The fork server of the node (forkserver/server.py), which has imported torch once for all ranks,
forks the rank; the first stub of a node starts the server. Without a server (see start_rank) the
stub starts a Python interpreter for its rank. In both cases the process manager of MPI sees only
the stub, which

- keeps its copies of all descriptors open until it ends,
- forwards signals to the rank,
- kills the rank if the process manager dies, and
- ends with the exit code or by the signal that ended the rank, or with 1 if the server was killed.

This file imports only cheap modules of the standard library: the 3 MB of a stub are needed once per
rank, and array and contextlib alone would add a fifth. `stub_command` in environment.py starts it.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import time
from _signal import (  # type: ignore[import-not-found]
    SIG_DFL,
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGTERM,
    SIGUSR1,
    SIGUSR2,
    signal,
)
from _socket import AF_UNIX, SCM_RIGHTS, SO_PEERCRED, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, socket

from p2psim.launcher import environment

signal(SIGINT, SIG_DFL)  # until `main` installs its handlers
PARENT = os.getppid()
FORWARDED = (SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2)
# Prefixes of variables that belong to a single rank and must not reach the server.
RANK_PREFIXES = ("PMI", "OMPI_COMM", "PRTE", "PMIX", "MPI_LOCAL", "HYD")
DIED = "the server ended at its start"
RECENT = 60.0  # seconds: an older socket was left by another run that had the same name
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class RefusedError(Exception):
    """No fork server can fork this rank; the message is the reason."""


def server_folder() -> str:
    """Create the folder of this run's fork server, and return its path.

    RefusedError unless only this user can access it.
    """
    name = "".join(c if c.isalnum() or c in ".-" else "_" for c in environment.job_name())[-60:]
    # Not in TMPDIR: the path of a socket is limited to 107 bytes.
    path = f"/tmp/p2psim-{os.geteuid()}-{name}"
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    status = os.lstat(path)
    if status.st_uid != os.geteuid() or status.st_mode & 0o170777 != 0o040700:
        raise RefusedError(f"{path} is not a folder that only this user can access")
    return path


def try_to_connect(path: str) -> socket | None:
    """Return a socket connected to the server, None if no server listens."""
    connected = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        connected.connect(path)
        return connected
    except OSError:
        connected.close()
        return None


def connect(home: str) -> socket:
    """Return a socket connected to this node's server, which this stub starts if none listens.

    RefusedError if that fails.
    """
    path = home + "/socket"
    connected = try_to_connect(path)
    if connected is None:
        lock = os.open(home + "/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another stub may have started the server while this one waited for the lock.
        connected = try_to_connect(path)
        if connected is None and not had_server(path):
            start_server(home, path)
            connected = try_to_connect(path)
        os.close(lock)
    if connected is None:
        raise RefusedError("the server could not be started")
    owner = connected.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
    if int.from_bytes(owner[4:8], sys.byteorder) != os.geteuid():
        raise RefusedError("the server belongs to another user")
    return connected


def had_server(path: str) -> bool:
    """Return True if the socket file is younger than RECENT: then this run's server was killed.

    A second server must not be started: some ranks would wait for those that died with the first.
    """
    try:
        return time.time() - os.stat(path).st_mtime < RECENT
    except OSError:
        return False


def start_server(home: str, path: str) -> None:
    """Create the listening socket and start the server as a daemon, with it as descriptor 3.

    Stubs can connect when this function returns, also before the server accepts.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listening = socket(AF_UNIX, SOCK_STREAM)
    listening.bind(path)
    listening.listen(4096)
    variables = {k: v for k, v in os.environ.items() if not k.startswith(RANK_PREFIXES)}
    variables.update(dict.fromkeys(THREADS, "1"))
    if os.fork() == 0:
        os.setsid()
        # Fork twice, so that the server is not a child of this stub.
        if os.fork():
            os._exit(0)
        null = os.open("/dev/null", os.O_RDWR)
        log = os.open(home + "/log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        for new, old in enumerate((null, log, log, listening.fileno())):
            os.dup2(old, new)
        os.closerange(4, 4096)
        command = [sys.executable, "-m", "p2psim", "forkserver", home]
        os.execve(sys.executable, command, variables)
    os.wait()
    listening.close()


class Rank:
    """Process of the rank, as its stub sees it."""

    pid = 0
    signaled = False  # True if the stub has forwarded a signal: then its end is no crash
    end_descriptor = -1  # readable when the rank ends; -1: poll the rank from time to time

    def signal(self, number: int) -> None:
        """Forward a signal to the rank."""
        try:
            os.kill(self.pid, number)
        except OSError:
            pass

    def wait_status(self) -> int | None:
        """Return the wait status of the rank after its end, and clean up after it.

        None if the rank still runs; a forked rank is waited for instead.
        """
        raise NotImplementedError

    def kill(self) -> None:
        """Kill the rank and its children."""
        try:
            os.killpg(self.pid, SIGKILL)
        except OSError:
            pass


class ForkedRank(Rank):
    """Rank forked by the server, with the environment and the descriptors of this stub."""

    def __init__(self, arguments: list[str], crash_file: int, home: str) -> None:
        self.home = home
        self.server = connect(self.home)
        self.end_descriptor = self.server.fileno()
        descriptors = {"P2PSIM_CRASH_FD": crash_file}
        if "PMI_FD" in os.environ:
            descriptors["PMI_FD"] = int(os.environ["PMI_FD"])
        hello = self.hello(arguments, list(descriptors))
        packet = len(hello).to_bytes(8, "little") + hello
        numbers = (0, 1, 2, *descriptors.values())
        rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in numbers)
        try:
            sent = self.server.sendmsg([packet], [(SOL_SOCKET, SCM_RIGHTS, rights)])
            self.server.sendall(packet[sent:])
        except OSError:
            raise RefusedError(DIED) from None
        answer = self.read(5)
        if answer[:1] != b"F":
            raise RefusedError(self.refusal(answer))
        self.pid = int.from_bytes(answer[1:], "little")

    @staticmethod
    def hello(arguments: list[str], descriptors: list[str]) -> bytes:
        """Return the attributes of the process to fork, as a Python literal."""
        mask = os.umask(0o22)  # the only way to read it is to set it
        os.umask(mask)
        return ascii(
            {
                "rank": rank_number(),
                "executable": sys.executable,
                "arguments": arguments,
                "environment": dict(os.environ),
                "folder": os.getcwd(),
                "umask": mask,
                "cpus": sorted(os.sched_getaffinity(0)),
                "descriptors": descriptors,
                "ranks": environment.local_rank()[1],
            }
        ).encode()

    def read(self, size: int) -> bytes:
        """Read `size` bytes from the server; fewer if it has ended."""
        received = b""
        try:
            while len(received) < size and (more := self.server.recv(size - len(received))):
                received += more
        except OSError:
            pass
        return received

    def refusal(self, answer: bytes) -> str:
        """Return the reason of a refusal; read it from the server if `answer` announces one."""
        if answer[:1] == b"R":
            return self.read(int.from_bytes(answer[1:], "little")).decode()
        return DIED

    def signal(self, number: int) -> None:
        try:
            self.server.send(bytes([number]))
        except OSError:
            pass

    def wait_status(self) -> int | None:
        answer = self.read(5)
        if answer[:1] == b"X":
            return int.from_bytes(answer[1:], "little")
        self.kill()  # the server was killed and with it the rank, but perhaps not its children
        if environment.remove_server_folder(self.home):
            os.write(2, b"p2psim: the fork server of this node was killed\n")
        else:  # mpiexec ends all stubs once one has ended, also the one that reports this
            time.sleep(0.5)
        return 1 << 8


class SpawnedRank(Rank):
    """Rank with a Python interpreter of its own, a child of this stub."""

    def __init__(self, arguments: list[str], crash_file: int, home: str = "") -> None:
        self.crash_file, self.home = crash_file, home
        os.set_inheritable(crash_file, True)
        stub = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            import ctypes

            os.setsid()
            ctypes.CDLL(None).prctl(1, SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
            if os.getppid() != stub:
                os._exit(1)
            variables = {**os.environ, "P2PSIM_STUB": "1", "P2PSIM_CRASH_FD": str(crash_file)}
            command = [sys.executable, "-m", "p2psim", *arguments]
            os.execve(sys.executable, command, variables)
        self.end_descriptor = open_pidfd(self.pid)

    def wait_status(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.kill()
        if self.home:  # of a server that failed and may not have removed its folder
            environment.remove_server_folder(self.home)
        if not self.signaled and os.pread(self.crash_file, 1, 0):
            command = [
                sys.executable,
                "-m",
                "p2psim.simulation.crash_report",
                str(self.crash_file),
                str(status),
            ]
            os.spawnv(os.P_WAIT, sys.executable, command)
        return status


def open_pidfd(pid: int) -> int:
    """Return a descriptor that becomes readable when the process ends; -1 if unsupported."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def start_rank(arguments: list[str], crash_file: int) -> Rank:
    """Start the rank by the fork server, or with an interpreter of its own.

    P2PSIM_START selects the way: "plain" never uses the server; "auto" (the default) uses it if
    more than one rank runs on this node and a server can run; "forkserver" requires it, and this
    process exits with code 3 if no server can run.
    """
    start, (local, count) = os.environ.get("P2PSIM_START", ""), environment.local_rank()
    if start == "plain" or (start != "forkserver" and count == 1):
        return SpawnedRank(arguments, crash_file)
    home = ""
    try:
        home = server_folder()
        return ForkedRank(arguments, crash_file, home)
    except (RefusedError, OSError) as error:
        required = start == "forkserver"
        if local == 0:
            result = "" if required else ": ranks start one by one"
            os.write(2, f"p2psim: no fork server ({error}){result}\n".encode())
        if required:
            # Some mpiexec end all ranks once one has ended: the first one must print its message.
            time.sleep(0 if local == 0 else 1)
            os._exit(3)
        return SpawnedRank(arguments, crash_file, home)


def report_kill(number: int, recorded: bool) -> None:
    """Write to stderr that a signal killed the rank, unless a launcher reports it from a file.

    `recorded` is True if the rank had registered a result file, which contains the cause then.
    """
    if recorded and "P2PSIM_LAUNCHED" in os.environ:
        return
    peer = f"peer {rank_number()} on {os.uname().nodename}"
    os.write(2, f"p2psim: {peer} was killed by signal {number}\n".encode())


def rank_number() -> str:
    """Return the number of this rank in decimal, "?" if unknown."""
    return str((environment.mpi_rank() or ("?",))[0])


def end_like(status: int) -> None:
    """End this process by the signal or with the exit code of a wait status."""
    if os.WIFSIGNALED(status):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump of a stub is useless
        number = os.WTERMSIG(status)
        if number != SIGKILL:
            signal(number, SIG_DFL)
        os.kill(os.getpid(), number)
        time.sleep(1)
    os._exit(os.WEXITSTATUS(status))


def main() -> None:
    """Start one rank, forward signals to it until it ends, and end like it."""
    if not sys.platform.startswith("linux"):  # only Linux supports what a stub uses
        os.environ["P2PSIM_STUB"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "p2psim", *sys.argv[1:]])
    crash_file = os.memfd_create("crash_file")
    rank, early = None, []  # signals that arrive before the rank has started

    def forward(number: int, frame: object) -> None:
        if rank is None:
            early.append(number)
        else:
            rank.signaled = True
            rank.signal(number)

    for number in FORWARDED:
        signal(number, forward)
    rank = start_rank(sys.argv[1:], crash_file)
    for number in early:
        forward(number, None)
    watched = [rank.end_descriptor, open_pidfd(PARENT)]
    poll = select.poll()
    for descriptor in watched:
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)
    status = None
    while status is None:
        events = poll.poll(None if min(watched) >= 0 else 200)
        if os.getppid() != PARENT:  # the process manager was killed
            rank.kill()
            os._exit(1)
        if rank.end_descriptor < 0 or any(d == rank.end_descriptor for d, _ in events):
            status = rank.wait_status()
    if os.WIFSIGNALED(status) and not rank.signaled:
        report_kill(os.WTERMSIG(status), recorded=bool(os.pread(crash_file, 1, 0)))
    end_like(status)
