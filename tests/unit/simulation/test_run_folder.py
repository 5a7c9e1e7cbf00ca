"""Start of a run in a folder that holds strange files, or whose files appear late."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from p2psim.simulation import run_file
from tests.support.programs import GOOD, p2psim, run, with_changes, write


def test_a_pipe_in_place_of_a_peers_file_is_replaced(tmp_path: Path) -> None:
    """To open a pipe for reading waits for a writer, who never comes."""
    file = write(tmp_path, with_changes(GOOD, {"peers": 2}))
    (tmp_path / "out" / "peers").mkdir(parents=True)
    (tmp_path / "out" / "run.h5").write_bytes(b"")
    os.mkfifo(tmp_path / "out" / "peers" / "peer-00000.h5")
    command = p2psim("run", file, "--debug", "--out", tmp_path / "out", "--force")
    ended = run(command, tmp_path, limit=60)
    assert ended.code == 0, ended.stderr
    assert (tmp_path / "out" / "peers" / "peer-00000.h5").is_file()


def test_the_file_of_another_node_may_appear_late(tmp_path: Path) -> None:
    later = threading.Timer(0.3, (tmp_path / "run.h5").touch)
    later.start()
    run_file.wait_until_visible(tmp_path)
    assert (tmp_path / "run.h5").exists()
    later.join()


def test_nodes_that_do_not_share_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_file, "VISIBLE_SECONDS", 0.3)
    with pytest.raises(FileNotFoundError, match="all nodes must share the run folder"):
        run_file.wait_until_visible(tmp_path)
