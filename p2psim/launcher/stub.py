"""What mpiexec starts in place of a rank: it has the rank made, waits, and ends as the rank ends.

The rank is forked by the node's fork server (server.py), which has imported torch once for all; the
first stub of a node starts the server. Where that cannot be, the stub starts an interpreter of the
rank's own. Either way the stub is what the process manager sees: it keeps its own copies of all
descriptors until it ends, passes signals on, kills the rank when the process manager dies, and
dies by the signal that the rank died by.

Standard library only, and of it what is cheap: array and contextlib alone would add a fifth to the
3 MB of a stub, of which there is one per rank. `command` in environment.py starts it.
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

signal(SIGINT, SIG_DFL)  # until `main` listens
PARENT = os.getppid()
PASSED = (SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2)
# What belongs to one rank and must not reach the server.
OWN = ("PMI", "OMPI_COMM", "PRTE", "PMIX", "MPI_LOCAL", "HYD")
DIED = "it ended at its start"
RECENT = 60.0  # seconds: an older socket was left by another run that had the same name
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class RefusedError(Exception):
    """There is no fork server to be had, and why."""


def folder() -> str:
    """A folder of this user's own for this run on this node."""
    name = "".join(c if c.isalnum() or c in ".-" else "_" for c in environment.job())[-60:]
    # Not in TMPDIR: the path of a socket has room for 107 bytes.
    path = f"/tmp/p2psim-{os.geteuid()}-{name}"
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(path)
    if found.st_uid != os.geteuid() or found.st_mode & 0o170777 != 0o040700:
        raise RefusedError(f"{path} is not a folder of this user alone")
    return path


def attempt(path: str) -> socket | None:
    """A socket connected to the server, or None."""
    connected = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        connected.connect(path)
        return connected
    except OSError:
        connected.close()
        return None


def connect(home: str) -> socket:
    """A socket connected to this node's server, which the first stub starts."""
    path = home + "/socket"
    connected = attempt(path)
    if connected is None:
        lock = os.open(home + "/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        connected = attempt(path)
        if connected is None and not killed(path):
            start_server(home, path)
            connected = attempt(path)
        os.close(lock)
    if connected is None:
        raise RefusedError("it could not be started")
    owner = connected.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
    if int.from_bytes(owner[4:8], sys.byteorder) != os.geteuid():
        raise RefusedError("it is another user's")
    return connected


def killed(path: str) -> bool:
    """Whether this run had a server: with a second one some ranks would wait for the others."""
    try:
        return time.time() - os.stat(path).st_mtime < RECENT
    except OSError:
        return False


def start_server(home: str, path: str) -> None:
    """Listen, and have a process that is nobody's child accept: no race, nothing to wait for."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listening = socket(AF_UNIX, SOCK_STREAM)
    listening.bind(path)
    listening.listen(4096)
    variables = {k: v for k, v in os.environ.items() if not k.startswith(OWN)}
    variables.update(dict.fromkeys(THREADS, "1"))
    if os.fork() == 0:
        os.setsid()
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
    """The process that is the rank, whoever made it."""

    pid = 0
    told = False  # to end, by a signal
    news = -1  # a descriptor to poll for its end; without one, look from time to time

    def signal(self, number: int) -> None:
        """Pass a signal on."""
        try:
            os.kill(self.pid, number)
        except OSError:
            pass

    def look(self) -> int | None:
        """Its wait status, None while it runs."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it and its children."""
        try:
            os.killpg(self.pid, SIGKILL)
        except OSError:
            pass


class Forked(Rank):
    """A rank forked by the server, in which this stub's environment and descriptors live on."""

    def __init__(self, arguments: list[str], crash_file: int, home: str) -> None:
        self.home = home
        self.server = connect(self.home)
        self.news = self.server.fileno()
        given = {"P2PSIM_CRASH_FD": crash_file}
        if "PMI_FD" in os.environ:
            given["PMI_FD"] = int(os.environ["PMI_FD"])
        hello = self.hello(arguments, list(given))
        packet = len(hello).to_bytes(8, "little") + hello
        rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (0, 1, 2, *given.values()))
        try:
            sent = self.server.sendmsg([packet], [(SOL_SOCKET, SCM_RIGHTS, rights)])
            self.server.sendall(packet[sent:])
        except OSError:
            raise RefusedError(DIED) from None
        answer = self.read(5)
        if answer[:1] != b"F":
            raise RefusedError(self.reason(answer))
        self.pid = int.from_bytes(answer[1:], "little")

    @staticmethod
    def hello(arguments: list[str], descriptors: list[str]) -> bytes:
        """All that a process is made of, as a Python literal."""
        mask = os.umask(0o22)
        os.umask(mask)
        return ascii(
            {
                "rank": name_of_rank(),
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
        """So many bytes, fewer where the server has gone."""
        got = b""
        try:
            while len(got) < size and (more := self.server.recv(size - len(got))):
                got += more
        except OSError:
            pass
        return got

    def reason(self, answer: bytes) -> str:
        """Why the server refused."""
        if answer[:1] == b"R":
            return self.read(int.from_bytes(answer[1:], "little")).decode()
        return DIED

    def signal(self, number: int) -> None:
        try:
            self.server.send(bytes([number]))
        except OSError:
            pass

    def look(self) -> int | None:
        answer = self.read(5)
        if answer[:1] == b"X":
            return int.from_bytes(answer[1:], "little")
        self.kill()  # the server has gone and the rank with it, but perhaps not its children
        if environment.remove(self.home):
            os.write(2, b"p2psim: the fork server of this node was killed\n")
        return 1 << 8


class Plain(Rank):
    """A rank with an interpreter of its own."""

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
        self.news = descriptor_of(self.pid)

    def look(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.kill()
        if self.home:  # of a server that could not serve, and perhaps not clean up
            environment.remove(self.home)
        if not self.told and os.pread(self.crash_file, 1, 0):
            command = [
                sys.executable,
                "-m",
                "p2psim.simulation.crash_report",
                str(self.crash_file),
                str(status),
            ]
            os.spawnv(os.P_WAIT, sys.executable, command)
        return status


def descriptor_of(pid: int) -> int:
    """What becomes readable when this process ends; -1 on systems that have no such thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def rank(arguments: list[str], crash_file: int) -> Rank:
    """The rank, by the fork server where there is one to be had."""
    start, (local, count) = os.environ.get("P2PSIM_START", ""), environment.local_rank()
    if start == "plain" or (start != "forkserver" and count == 1):
        return Plain(arguments, crash_file)
    home = ""
    try:
        home = folder()
        return Forked(arguments, crash_file, home)
    except (RefusedError, OSError) as error:
        alone = start == "forkserver"
        if local == 0:
            so = "" if alone else ": ranks start one by one"
            os.write(2, f"p2psim: no fork server ({error}){so}\n".encode())
        if alone:
            time.sleep(0 if local == 0 else 1)  # some mpiexec end all once one has ended
            os._exit(3)
        return Plain(arguments, crash_file, home)


def report(number: int, begun: bool) -> None:
    """Say which rank was killed, unless a launcher finds it in the rank's file."""
    if begun and "P2PSIM_LAUNCHED" in os.environ:
        return
    who = f"peer {name_of_rank()} on {os.uname().nodename}"
    os.write(2, f"p2psim: {who} was killed by signal {number}\n".encode())


def name_of_rank() -> str:
    """The rank's number."""
    return str((environment.mpi_rank() or ("?",))[0])


def end_like(status: int) -> None:
    """Leave as the rank has left."""
    if os.WIFSIGNALED(status):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        number = os.WTERMSIG(status)
        if number != SIGKILL:
            signal(number, SIG_DFL)
        os.kill(os.getpid(), number)
        time.sleep(1)
    os._exit(os.WEXITSTATUS(status))


def main() -> None:
    """Be the stub of one rank."""
    if not sys.platform.startswith("linux"):  # elsewhere a process cannot be handed on like this
        os.environ["P2PSIM_STUB"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "p2psim", *sys.argv[1:]])
    crash_file = os.memfd_create("crash_file")
    made, early = None, []

    def forward(number: int, frame: object) -> None:
        if made is None:
            early.append(number)
        else:
            made.told = True
            made.signal(number)

    for number in PASSED:
        signal(number, forward)
    made = rank(sys.argv[1:], crash_file)
    for number in early:
        forward(number, None)
    watched = [made.news, descriptor_of(PARENT)]
    poll = select.poll()
    for descriptor in watched:
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)
    status = None
    while status is None:
        ready = poll.poll(None if min(watched) >= 0 else 200)
        if os.getppid() != PARENT:  # the process manager was killed
            made.kill()
            os._exit(1)
        if made.news < 0 or any(descriptor == made.news for descriptor, _ in ready):
            status = made.look()
    if os.WIFSIGNALED(status) and not made.told:
        report(os.WTERMSIG(status), begun=bool(os.pread(crash_file, 1, 0)))
    end_like(status)
