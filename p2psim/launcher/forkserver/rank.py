"""Life of a forked rank: it takes the attributes of its stub, runs the job, and exits in order."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import MutableMapping
from typing import Any, NoReturn

from p2psim.errors import exit_code, notice
from p2psim.launcher.forkserver.job import Job

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
CRASH_FILE = 3  # index of the crash file in a rank's descriptors, after the standard streams


def become(
    hello: dict[str, Any],
    descriptors: list[int],
    job: Job,
    server: int,
    gate: tuple[int, int] | None,
) -> NoReturn:
    """Turn this fork of the server into the rank of a stub, run it and exit.

    `gate` is a pipe that the server closes when all ranks of the node are forked.
    """
    if LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) or os.getppid() != server:
        os._exit(1)
    os.setsid()  # a group of its own, so that its children can be ended with it
    take_over(hello, descriptors)
    # Exit handlers run in reverse order: this first one runs last, and skips the slow destructors
    # of torch.
    LIBC.on_exit(LIBC._exit, None)
    if gate:
        os.close(gate[1])
        os.read(gate[0], 1)
        os.close(gate[0])
    code = run(job)
    LIBC.exit(code)  # not os._exit: MPICH informs the process manager in an exit handler of C
    raise AssertionError("exit has returned")


def take_over(hello: dict[str, Any], descriptors: list[int]) -> None:
    """Copy the attributes of the stub: name, descriptors, environment, folder, umask, cores."""
    passed = descriptors[CRASH_FILE:]
    LIBC.prctl(PR_SET_NAME, b"p2psim:" + hello["rank"].encode())  # for ps and top
    for number in range(CRASH_FILE):
        os.dup2(descriptors[number], number)
        os.close(descriptors[number])
    # The variables get the numbers that the descriptors have here: in this process the numbers
    # of the stub may be in use.
    numbers = zip(hello["descriptors"], map(str, passed), strict=True)
    adapt(os.environ, {**hello["environment"], "P2PSIM_STUB": "1", **dict(numbers)})
    for descriptor in passed:
        os.set_inheritable(descriptor, True)
    os.chdir(hello["folder"])
    os.umask(hello["umask"])
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, hello["cpus"])
    sys.argv = ["p2psim", *hello["arguments"]]
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


def adapt(environment: MutableMapping[str, str], variables: dict[str, str]) -> None:
    """Make `environment` equal to `variables`.

    Equal entries are not assigned again: their memory pages stay shared with the other ranks.
    """
    for name in environment.keys() - variables:
        del environment[name]
    environment.update({k: v for k, v in variables.items() if environment.get(k) != v})


def await_threads(limit: float = 10.0) -> None:
    """Wait until the threads that a plug-in has started end, `limit` seconds in all.

    The rank ends without those that go on, and a message names them.
    """
    end = time.monotonic() + limit
    main = threading.main_thread()
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread != main]
    for thread in others:
        thread.join(max(0.0, end - time.monotonic()))
    if names := ", ".join(thread.name for thread in others if thread.is_alive()):
        notice(
            f"a peer ends although threads of a plug-in go on ({names}): end them in the plug-in, "
            "or make them daemons"
        )


def run(job: Job) -> int:
    """Run the job, then the exit handlers of Python and MPI; returns the exit code."""
    from mpi4py import MPI

    code = 0
    try:
        job.run(sys.argv[1:])
    except SystemExit as end:
        code = exit_code(end)
    except BaseException:
        traceback.print_exc()
        code = 1
    for step in (await_threads, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
        with contextlib.suppress(BaseException):
            step()
    if MPI.Is_initialized() and not MPI.Is_finalized():
        MPI.Finalize()
    return code
