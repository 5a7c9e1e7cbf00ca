"""Accepts stubs, forks ranks, reports their ends.

A connection is one rank: the stub says what the process is to be made of, hears the pid (F) or why
not (R), later the wait status (X), and sends signals to pass on. Either side that vanishes takes
the other with it.
"""

from __future__ import annotations

import array
import ast
import contextlib
import gc
import os
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from p2psim.launcher.forkserver.job import Application, Job
from p2psim.launcher.forkserver.rank import CRASH_FILE, become
from p2psim.simulation import allocator

START, LINGER = 60.0, 1.0  # seconds without any rank before the first and after the last
GATE = 30.0  # seconds after the last fork until ranks go on though some are missing
# Slurm may send its warnings to every process. What concerns the ranks reaches their stubs.
DEAF = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def settle() -> str:
    """Be ready to fork; why that cannot be, if so."""
    threads = len(os.listdir("/proc/self/task"))
    gc.collect()
    allocator.fill_holes_before_fork()
    gc.freeze()  # a collection in a rank does not touch, and so copy, what it shares
    return f"it has {threads} threads" if threads > 1 else ""


class Rank:
    """A connection, and the rank that was forked for it."""

    def __init__(self, stub: socket.socket) -> None:
        self.stub = stub
        self.heard = b""
        self.descriptors: list[int] = []
        self.hello: dict[str, Any] | None = None
        self.pid = 0
        self.told = False  # to end, by a signal

    def hear(self) -> bool:
        """Read what the stub has to say; False where it has gone."""
        ancillary = array.array("i")
        try:
            data, rights, _, _ = self.stub.recvmsg(
                1 << 18, socket.CMSG_SPACE(16 * ancillary.itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            return False
        for _, _, content in rights:
            ancillary.frombytes(content[: len(content) // ancillary.itemsize * ancillary.itemsize])
        self.descriptors += ancillary
        self.heard += data
        return bool(data)

    def complete(self) -> bool:
        """Whether all that is needed to fork has come."""
        size = int.from_bytes(self.heard[:8], "little")
        if len(self.heard) < 8 or len(self.heard) < 8 + size:
            return False
        self.hello = ast.literal_eval(self.heard[8 : 8 + size].decode())
        self.heard = self.heard[8 + size :]
        return True

    def keep_crash_file(self) -> None:
        """The rank has its descriptors; a copy here would keep pipes open after its end."""
        for descriptor in self.descriptors[:CRASH_FILE] + self.descriptors[CRASH_FILE + 1 :]:
            os.close(descriptor)
        self.descriptors = self.descriptors[CRASH_FILE : CRASH_FILE + 1]

    def signals(self) -> None:
        """Pass on what has come."""
        for number in self.heard:
            self.told = True
            os.kill(self.pid, number)
        self.heard = b""

    def tell(self, kind: bytes, number: int, text: bytes = b"") -> None:
        """Answer the stub, which may have gone."""
        with contextlib.suppress(OSError):
            self.stub.sendall(kind + number.to_bytes(4, "little") + text)

    def report_death(self, cause: str = "", status: int = 0) -> None:
        """Write down how the rank died, unless it has taken its leave.

        By a process of its own, for it may hang on a file.
        """
        if not os.pread(self.descriptors[0], 1, 0):
            return
        reporter = os.fork()
        if reporter:
            os.waitpid(reporter, 0)
            return
        signal.alarm(3)
        with contextlib.suppress(BaseException):
            from p2psim.simulation import crash_report

            crash_report.write(self.descriptors[0], cause or crash_report.cause_of(status))
        os._exit(0)

    def close(self) -> None:
        """Let go of the stub."""
        self.stub.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


class Server:
    """Accepts stubs, forks ranks, reports their ends."""

    def __init__(
        self, listening: socket.socket, application: Application | None, refusal: str
    ) -> None:
        self.listening, self.application, self.refusal = listening, application, refusal
        self.job: Job | None = None
        self.ranks: set[Rank] = set()
        self.gate: tuple[int, int] | None = os.pipe()
        self.forked, self.last = 0, 0.0
        self.wanted = 0
        self.selector = selectors.DefaultSelector()
        self.wake, wakes = socket.socketpair()
        self.wakes = wakes  # the signal module only borrows it
        for end in (listening, self.wake, wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self.selector.register(listening, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until there is nobody left to serve."""
        idle, limit = time.monotonic(), START
        while self.ranks or time.monotonic() < idle + limit:
            if not self.ranks and self.forked >= self.wanted > 0:
                return
            for key, _ in self.selector.select(0.05 if self.gate and self.forked else 0.5):
                if key.fileobj is self.listening:
                    self.accept()
                elif key.fileobj is self.wake:
                    self.wake.recv(4096)
                else:
                    self.attend(key.data)
            self.reap()
            self.open_gate()
            if self.ranks:
                idle, limit = time.monotonic(), LINGER

    def accept(self) -> None:
        """Take in stubs of the same user."""
        with contextlib.suppress(BlockingIOError):
            while True:
                stub, _ = self.listening.accept()
                who = stub.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                if struct.unpack("3i", who)[1] != os.geteuid():
                    stub.close()
                    continue
                rank = Rank(stub)
                self.ranks.add(rank)
                self.selector.register(stub, selectors.EVENT_READ, rank)

    def attend(self, rank: Rank) -> None:
        """A stub has said something, or has gone."""
        if not rank.hear():
            if rank.pid:
                self.vanished(rank)
            self.drop(rank)
        elif rank.pid:
            rank.signals()
        elif rank.complete():
            self.fork(rank)

    def vanished(self, rank: Rank) -> None:
        """Nobody watches this rank any more: it ends."""
        self.sweep()
        for end in (os.killpg, os.kill):  # it may not yet lead a group
            kill(end, rank.pid)
        if not rank.told:
            rank.report_death("lost mpiexec, or the stub that stands for it there, and was ended")

    def fork(self, rank: Rank) -> None:
        """Make the rank, or say why not."""
        assert rank.hello
        if self.job is None and self.application and not self.refusal:
            self.job = Job(self.application, rank.hello)
            self.refusal = settle()
        refusal = self.refusal
        if rank.hello["executable"] != sys.executable or rank.hello["environment"].get(
            "PYTHONPATH"
        ) != os.environ.get("PYTHONPATH"):
            refusal = "it runs another Python"
        if refusal:
            rank.tell(b"R", len(refusal.encode()), refusal.encode())
            return
        assert self.job
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self.leave(rank)
                become(rank.hello, rank.descriptors, self.job, server, self.gate)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(70)
        rank.pid = pid
        rank.keep_crash_file()
        self.forked, self.last = self.forked + 1, time.monotonic()
        self.wanted = rank.hello["ranks"] or self.wanted
        rank.tell(b"F", pid)

    def leave(self, rank: Rank) -> None:
        """What a forked rank must not keep of the server."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, *DEAF):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.selector.close()
        for end in (self.listening, self.wake, self.wakes):
            end.close()
        for other in self.ranks - {rank}:
            other.close()
        rank.stub.close()

    def open_gate(self) -> None:
        """Let the ranks go once all are forked: one that waits in MPI_Init slows the server."""
        if not self.gate or not self.forked:
            return
        waited = time.monotonic() - self.last
        if self.forked >= self.wanted > 0 or waited > (GATE if self.wanted else 0.3):
            for end in self.gate:
                os.close(end)
            self.gate = None

    def reap(self) -> None:
        """Tell the stubs whose ranks have ended; the status first, then the end of the line."""
        by_pid = {rank.pid: rank for rank in self.ranks}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            kill(os.killpg, pid)  # what the rank itself may have started
            rank = by_pid.get(pid)
            if rank in self.ranks:
                code = os.waitstatus_to_exitcode(status)
                if code:
                    self.sweep()
                if not rank.told:
                    rank.report_death(status=status)
                rank.tell(b"X", status)
                self.drop(rank)

    def sweep(self) -> None:
        """All ranks will end; what they share must not outlive them, also while they begin."""
        from p2psim.network.transport import unlink_shared_memory

        for rank in self.ranks:
            unlink_shared_memory(rank.pid)

    def drop(self, rank: Rank) -> None:
        """Forget a rank."""
        self.selector.unregister(rank.stub)
        self.ranks.discard(rank)
        rank.close()


def kill(end: Callable[[int, int], None], pid: int) -> None:
    """End a process or its group, which may have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        end(pid, signal.SIGKILL)
