"""Server that accepts stubs, forks their ranks and reports how the ranks end.

Each connection belongs to one rank. The stub sends the attributes of the process, and later the
numbers of signals to forward, one byte each. The server answers with a letter and a number of 4
bytes: F and the pid, or R and the length of the reason for a refusal, which follows; later X and
the wait status. If the stub ends, the server kills the rank; if the server ends, the stub does.
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

START, LINGER = 60.0, 1.0  # seconds without ranks until the server ends: before the first, later
GATE = 30.0  # seconds after the last fork until the ranks start even if some are missing
# Slurm may send its warnings to every process; the ranks receive them through their stubs.
IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def prepare_to_fork() -> str:
    """Arrange memory for many forks; returns the reason why forking is unsafe, "" if it is safe."""
    threads = len(os.listdir("/proc/self/task"))
    gc.collect()
    allocator.free_unused_hdf5_memory()
    allocator.fill_holes_before_fork()
    gc.freeze()  # a garbage collection in a rank then writes to no shared page
    return f"it has {threads} threads" if threads > 1 else ""


class RankConnection:
    """Connection to a stub, and the rank that was forked for it."""

    def __init__(self, stub: socket.socket) -> None:
        self.stub = stub
        self.received = b""
        self.descriptors: list[int] = []
        self.hello: dict[str, Any] | None = None
        self.pid = 0  # 0 before the fork
        self.signaled = False  # True if a signal was forwarded: then its end is no crash

    def receive(self) -> bool:
        """Receive bytes and descriptors from the stub; False if the stub has ended."""
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
        self.received += data
        return bool(data)

    def complete(self) -> bool:
        """Parse the attributes of the process; False if they are not completely received yet."""
        size = int.from_bytes(self.received[:8], "little")
        if len(self.received) < 8 or len(self.received) < 8 + size:
            return False
        self.hello = ast.literal_eval(self.received[8 : 8 + size].decode())
        self.received = self.received[8 + size :]
        return True

    def keep_crash_file(self) -> None:
        """Close all descriptors of the rank but the crash file: a copy would keep a pipe open."""
        for descriptor in self.descriptors[:CRASH_FILE] + self.descriptors[CRASH_FILE + 1 :]:
            os.close(descriptor)
        self.descriptors = self.descriptors[CRASH_FILE : CRASH_FILE + 1]

    def forward_signals(self) -> None:
        """Send the rank the signals whose numbers were received."""
        for number in self.received:
            self.signaled = True
            os.kill(self.pid, number)
        self.received = b""

    def answer(self, kind: bytes, number: int, text: bytes = b"") -> None:
        """Send an answer to the stub; ignore that it may have ended."""
        with contextlib.suppress(OSError):
            self.stub.sendall(kind + number.to_bytes(4, "little") + text)

    def report_death(self, cause: str = "", status: int = 0) -> None:
        """Record how the rank died in its result file, unless it has unregistered this file.

        A process of its own writes it, because access to the file may hang.
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
        """Close the connection and the descriptors."""
        self.stub.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


class Server:
    """Fork server on a listening socket; a `refusal` that is not empty answers every request."""

    def __init__(
        self, listening: socket.socket, application: Application | None, refusal: str
    ) -> None:
        self.listening, self.application, self.refusal = listening, application, refusal
        self.job: Job | None = None
        self.ranks: set[RankConnection] = set()
        self.gate: tuple[int, int] | None = os.pipe()
        self.forked, self.last = 0, 0.0
        self.expected = 0  # ranks of this node; 0: unknown
        self.selector = selectors.DefaultSelector()
        # A signal, such as SIGCHLD, writes a byte into this pair and so ends `select`. Both sockets
        # are attributes, because set_wakeup_fd does not keep its socket alive.
        self.wake, self.wakes = socket.socketpair()
        for end in (listening, self.wake, self.wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(self.wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self.selector.register(listening, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)

    def serve(self) -> None:
        """Serve until all expected ranks have ended, or without ranks until the time limit."""
        idle, limit = time.monotonic(), START
        while self.ranks or time.monotonic() < idle + limit:
            if not self.ranks and self.forked >= self.expected > 0:
                return
            for key, _ in self.selector.select(0.05 if self.gate and self.forked else 0.5):
                if key.fileobj is self.listening:
                    self.accept()
                elif key.fileobj is self.wake:
                    self.wake.recv(4096)
                else:
                    self.handle(key.data)
            self.reap()
            self.open_gate()
            if self.ranks:
                idle, limit = time.monotonic(), LINGER

    def accept(self) -> None:
        """Accept waiting stubs, and refuse those of other users."""
        with contextlib.suppress(BlockingIOError):
            while True:
                stub, _ = self.listening.accept()
                credentials = stub.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                if struct.unpack("3i", credentials)[1] != os.geteuid():
                    stub.close()
                    continue
                rank = RankConnection(stub)
                self.ranks.add(rank)
                self.selector.register(stub, selectors.EVENT_READ, rank)

    def handle(self, rank: RankConnection) -> None:
        """Handle a stub that has sent bytes or has ended."""
        if not rank.receive():
            if rank.pid:
                self.kill_orphan(rank)
            self.drop(rank)
        elif rank.pid:
            rank.forward_signals()
        elif rank.complete():
            self.fork(rank)

    def kill_orphan(self, rank: RankConnection) -> None:
        """Kill a rank whose stub has ended."""
        self.unlink_shared_memory()
        for function in (os.killpg, os.kill):  # a new rank may not lead a process group yet
            kill(function, rank.pid)
        if not rank.signaled:
            rank.report_death("was killed because mpiexec, or the rank's stub under it, has ended")

    def fork(self, rank: RankConnection) -> None:
        """Fork the rank, or answer with the reason for a refusal."""
        assert rank.hello
        if self.job is None and self.application and not self.refusal:
            self.job = Job(self.application, rank.hello)
            self.refusal = prepare_to_fork()
        refusal = self.refusal
        if rank.hello["executable"] != sys.executable or rank.hello["environment"].get(
            "PYTHONPATH"
        ) != os.environ.get("PYTHONPATH"):
            refusal = "it runs another Python installation"
        if refusal:
            rank.answer(b"R", len(refusal.encode()), refusal.encode())
            return
        assert self.job
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self.close_in_rank(rank)
                become(rank.hello, rank.descriptors, self.job, server, self.gate)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(70)
        rank.pid = pid
        rank.keep_crash_file()
        self.forked, self.last = self.forked + 1, time.monotonic()
        self.expected = rank.hello["ranks"] or self.expected
        rank.answer(b"F", pid)

    def close_in_rank(self, rank: RankConnection) -> None:
        """Close the server's descriptors and restore its signal handlers, in a forked rank."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, *IGNORED):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.selector.close()
        for end in (self.listening, self.wake, self.wakes):
            end.close()
        for other in self.ranks - {rank}:
            other.close()
        rank.stub.close()

    def open_gate(self) -> None:
        """Let the ranks start once all are forked, or no other one has come for a while.

        Ranks that wait for others in MPI_Init are busy, and would slow the server down.
        """
        if not self.gate or not self.forked:
            return
        waited = time.monotonic() - self.last
        if self.forked >= self.expected > 0 or waited > (GATE if self.expected else 0.3):
            for end in self.gate:
                os.close(end)
            self.gate = None

    def reap(self) -> None:
        """Collect ranks that have ended, send the wait status to their stubs, and disconnect."""
        by_pid = {rank.pid: rank for rank in self.ranks}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            kill(os.killpg, pid)  # children of the rank
            rank = by_pid.get(pid)
            if rank in self.ranks:
                code = os.waitstatus_to_exitcode(status)
                if code:
                    self.unlink_shared_memory()
                if not rank.signaled:
                    rank.report_death(status=status)
                rank.answer(b"X", status)
                self.drop(rank)

    def unlink_shared_memory(self) -> None:
        """Remove the names of the ranks' shared memory: after a crash all of them will end.

        Ranks that are killed, even during MPI_Init, would leave it in /dev/shm.
        """
        from p2psim.network.mpi import unlink_shared_memory

        for rank in self.ranks:
            unlink_shared_memory(rank.pid)

    def drop(self, rank: RankConnection) -> None:
        """Remove a rank and close its connection."""
        self.selector.unregister(rank.stub)
        self.ranks.discard(rank)
        rank.close()


def kill(function: Callable[[int, int], None], pid: int) -> None:
    """Kill a process with os.kill or its group with os.killpg, unless it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        function(pid, signal.SIGKILL)
