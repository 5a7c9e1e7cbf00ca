"""A real Slurm on this machine: munge, one controller and two nodes, all in a folder of its own.

`python -m tests.slurm.cluster FOLDER` starts it, prints `ready`, and stops it when its standard
input ends: so it goes with whoever started it, however that ended. `SLURM_CONF=FOLDER/slurm.conf`
makes all Slurm commands use it. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "srun", "salloc", "sbatch", "scancel", "sinfo")
NODES = ("n1", "n2")
# Peers are many and cores few: a node says that it has more, and they are given out twice.
CONF = """
ClusterName=p2psim
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
# A requeued job waits for as long as the credentials of its last start are valid.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
MpiDefault=pmi2
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=0
ReturnToService=2
EnforcePartLimits=ALL
KillWait=2
# MPICH names its shared memory after the job: a file that a killed one left must not be met again.
FirstJobId={first}
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16
PartitionName=short Nodes=n1,n2 Default=YES State=UP OverSubscribe=FORCE:4
"""


def missing() -> str | None:
    """Why no cluster can be started here, in one sentence; None where it can."""
    absent = [name for name in NEEDED if shutil.which(name, path=search_path()) is None]
    if absent:
        return (
            f"the Slurm tests need {', '.join(absent)}: install Slurm and munge, on Debian "
            "with apt-get install slurm-wlm munge"
        )
    return None if os.getuid() == 0 else "the Slurm tests need root, to start Slurm's daemons"


def search_path() -> str:
    """Where daemons are, also for a user whose PATH lacks them."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def environment(folder: Path, given: Mapping[str, str]) -> dict[str, str]:
    """An environment that means the cluster in `folder`, and no job of another one."""
    kept = {k: v for k, v in given.items() if not k.startswith(("SLURM", "SBATCH", "PMI"))}
    return {**kept, "PATH": search_path(), "SLURM_CONF": str(folder / "slurm.conf")}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def processes(folder: Path) -> list[int]:
    """All processes that belong to the cluster in `folder`, ranks of its jobs among them."""
    mark, found = f"SLURM_CONF={folder}/slurm.conf".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            belongs = mark in path.read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if belongs:
            found.append(int(path.parent.name))
    return found


def wait(seen: Callable[[], object], what: str, limit: float = 60) -> None:
    """Until something is so; TimeoutError after `limit` seconds."""
    end = time.monotonic() + limit
    while not seen():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {limit} s")
        time.sleep(0.1)


class Cluster:
    """The daemons, in the foreground of this process; a context manager that stops them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = environment(folder, os.environ)
        self.daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        (self.folder / "state").mkdir(parents=True)
        names = {"host": socket.gethostname(), "folder": self.folder, "ports": free_ports(3)}
        conf = CONF.format(**names, first=random.randrange(10**6, 10**7))
        (self.folder / "slurm.conf").write_text(conf)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        try:
            self.start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_all(self) -> None:
        """munge, then the controller, then the nodes, until they can take jobs."""
        files = [
            f"--{name}={self.folder}/munge{end}"
            for name, end in [
                ("socket", ".socket"),
                ("key-file", ".key"),
                ("pid-file", ".pid"),
                ("log-file", ".log"),
                ("seed-file", ".seed"),
            ]
        ]
        self.start("munged", "--foreground", "--force", *files)
        wait((self.folder / "munge.socket").exists, "munged is there")
        self.start("slurmctld", "-D")
        for node in NODES:
            self.start("slurmd", "-D", "-N", node)
        wait(lambda: self.states() == ["idle"] * len(NODES), "all nodes are idle")

    def start(self, *command: str) -> None:
        """Start a daemon; what it says before it has its log goes to one file for all."""
        with open(self.folder / "daemons.out", "ab") as out:
            self.daemons.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    cwd=self.folder,
                    env=self.environment,
                    start_new_session=True,  # Ctrl-C is for the test alone
                )
            )

    def ask(self, *command: str) -> str:
        """What a Slurm command says."""
        answer = subprocess.run(
            command, capture_output=True, text=True, env=self.environment, timeout=30
        )
        return answer.stdout

    def states(self) -> list[str]:
        """What the controller says of each node."""
        return self.ask("sinfo", "-h", "-N", "-o", "%t").split()

    def stop(self) -> None:
        """End the jobs, then the daemons, then whatever is still there."""
        for number in (signal.SIGINT, signal.SIGTERM):  # once is enough
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(subprocess.TimeoutExpired):  # there may be no controller
            self.ask("scancel", "--full", "--signal=KILL", "--state=RUNNING")
            self.ask("scancel", "--state=PENDING")
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in processes(self.folder):
            if pid != os.getpid():
                os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Keep a cluster until standard input ends or a signal comes."""
    problem = missing()
    if problem:
        sys.exit(f"{problem}.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Cluster(Path(sys.argv[1]).resolve()):
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
