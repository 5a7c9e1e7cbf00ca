"""What the launcher cleans up."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from p2psim.launcher import ranks


@pytest.mark.parametrize("whose", ["another", "ours, alive", "ours, ends", "dead"])
def test_what_mpich_left_stays_while_a_proxy_may_need_it(
    whose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, proxy = tmp_path / "hydra_hwloc_xmlfile_a1B2c3", tmp_path / "hydra_pmi_proxy"
    left.touch()
    shutil.copy(shutil.which("sleep") or "", proxy)
    mark = {"P2PSIM_LAUNCHED": f"{os.getpid() if whose.startswith('ours') else 1}-1"}
    proxies = ranks.proxies
    with subprocess.Popen([proxy, "1" if "ends" in whose else "60"], env=mark) as process:
        here = Path(f"/proc/{process.pid}")
        while here not in proxies():  # not yet under its name
            time.sleep(0.01)
        if whose == "dead":
            process.kill()
            while here in proxies():  # dead, but nobody has asked how it ended
                time.sleep(0.01)
        # other tests may have some
        monkeypatch.setattr(ranks, "proxies", lambda: [x for x in proxies() if x == here])
        ranks.remove_leftovers(tmp_path, 0.3 if "alive" in whose else 30)
        process.kill()
    assert left.exists() == (whose in ("another", "ours, alive"))


def test_a_proxy_that_ends_while_it_is_looked_at_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "hydra_hwloc_xmlfile_a1B2c3"
    left.touch()
    with subprocess.Popen(["true"]) as process:
        while " Z " not in Path(f"/proc/{process.pid}/stat").read_text():  # ended, not reaped
            time.sleep(0.01)
        running = iter([[Path(f"/proc/{process.pid}")], [Path("/proc/0")], []])
        monkeypatch.setattr(ranks, "proxies", lambda: next(running))
        ranks.remove_leftovers(tmp_path)
    assert not left.exists()


def test_what_mpich_left_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, other = tmp_path / "hydra_hwloc_xmlfile_a1B2c3", tmp_path / "other"
    left.touch()
    other.touch()
    monkeypatch.setattr(ranks, "proxies", list)  # other tests may have some
    ranks.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("how", ["dead", "alive", "young"])
def test_the_folder_of_a_server_that_was_killed_goes(how: str) -> None:
    with TemporaryDirectory(dir="/tmp") as name:  # a socket's path has to be short
        home = Path(name) / f"p2psim-{os.geteuid()}-1-"
        home.mkdir()
        (home / "log").touch()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(home / "socket"))
            if how == "alive":
                server.listen()
            if how != "young":
                os.utime(home / "socket", (0, 0))
            ranks.remove_dead_servers(Path(name))
        assert home.exists() == (how != "dead")
