"""Whether a run can start in a folder that holds strange files."""

from __future__ import annotations

import os
from pathlib import Path

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
