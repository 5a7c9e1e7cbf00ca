"""Fetching: against a server on this machine, right, cut short, changed and away."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from p2psim import registry
from p2psim.data.fetch import fetch, has_checksum
from p2psim.data.files import data_folder
from p2psim.data.sources import SETS, Source
from p2psim.errors import InputError

REAL = os.environ.get("P2PSIM_DATA", "")
FILES = {"one.gz": b"first" * 300_000, "two.gz": b"second"}


class Handler(SimpleHTTPRequestHandler):
    """Counts what is asked for; files in `cut` end early, those in `endless` never."""

    asked: list[str]
    cut: set[str]
    endless: set[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.rpartition("/")[2] in self.cut:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"x" * 1000)
            self.close_connection = True
        elif self.path.rpartition("/")[2] in self.endless:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):  # until the other side has enough
                while True:
                    self.wfile.write(b"x" * 1000)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.cut: set[str] = set()
        self.endless: set[str] = set()
        sets = {"asked": self.asked, "cut": self.cut, "endless": self.endless}
        cls = type("Mine", (Handler,), sets)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(cls, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("P2PSIM_MIRROR", raising=False)
    (tmp_path / "www" / "toy").mkdir(parents=True)
    for name, content in FILES.items():
        (tmp_path / "www" / "toy" / name).write_bytes(content)
    made = Server(tmp_path / "www")
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setitem(SETS, "toy", Source(f"{made.url}/toy", sums))
    yield made
    made.http.shutdown()
    made.http.server_close()


def left(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_fetch_brings_all_files_once(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    folder = fetch("toy", tmp_path / "new" / "data", progress=lambda *step: seen.append(step))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == FILES
    assert folder == tmp_path / "new" / "data" / "toy"
    assert [p.name for p in folder.parent.iterdir()] == ["toy"]
    assert ("one.gz", 1_500_000, 1_500_000) in seen
    asked = len(server.asked)
    assert fetch("toy", tmp_path / "new" / "data") == folder
    assert len(server.asked) == asked == 2


def test_fetch_mends_only_what_is_wrong(server: Server, tmp_path: Path) -> None:
    folder = fetch("toy", tmp_path / "data")
    (folder / "two.gz").write_bytes(b"secon")
    fetch("toy", tmp_path / "data")
    assert (folder / "two.gz").read_bytes() == b"second"
    assert server.asked == ["/toy/one.gz", "/toy/two.gz", "/toy/two.gz"]


def test_fetch_goes_to_the_data_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PSIM_DATA", str(tmp_path / "mine"))
    assert fetch("toy") == tmp_path / "mine" / "toy"
    monkeypatch.delenv("P2PSIM_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")
    assert data_folder() == tmp_path / "cache" / "p2psim"


@pytest.mark.parametrize("harm", ["cut", "changed", "missing"])
def test_a_bad_download_leaves_nothing(server: Server, tmp_path: Path, harm: str) -> None:
    if harm == "cut":
        server.cut.add("two.gz")
    elif harm == "changed":
        (server.folder / "toy" / "two.gz").write_bytes(b"secomd")
    else:
        (server.folder / "toy" / "two.gz").unlink()
    says = "checksum differs" if harm == "changed" else "cannot be downloaded"
    with pytest.raises(InputError, match=rf"two.gz .*{says}.*P2PSIM_MIRROR") as caught:
        fetch("toy", tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert left(tmp_path / "data") == []


@pytest.mark.parametrize("announced", [True, False])
def test_a_download_beyond_the_published_size_is_ended(
    announced: bool, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SETS, "toy", replace(SETS["toy"], most=1_000_000))
    if not announced:
        server.endless.add("one.gz")
    with pytest.raises(InputError, match=r"one.gz cannot be downloaded \(it has more than 1,000,0"):
        fetch("toy", tmp_path / "data")
    assert left(tmp_path / "data") == []


def test_an_interrupt_leaves_nothing(server: Server, tmp_path: Path) -> None:
    def stop(file: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("toy", tmp_path / "data", progress=stop)
    assert left(tmp_path / "data") == []


def test_mirrors(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETS, "toy", Source("http://127.0.0.1:9", SETS["toy"].files))
    with pytest.raises(InputError, match="Connection refused"):
        fetch("toy", tmp_path / "a")
    monkeypatch.setenv("P2PSIM_MIRROR", f"{server.url}/")
    assert fetch("toy", tmp_path / "a").is_dir()  # the mirror has a folder of that name
    monkeypatch.setenv("P2PSIM_MIRROR", "http://127.0.0.1:9")
    assert fetch("toy", tmp_path / "b", f"{server.url}/toy").is_dir()  # or is that folder
    with pytest.raises(InputError, match="cannot be downloaded"):
        fetch("toy", tmp_path / "c", "nonsense")


def test_unknown_name_and_unwritable_folder(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'mnist'"):
        fetch("mnits", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="P2PSIM_DATA to another folder"):
        fetch("toy", tmp_path / "file")


def pack(path: Path, members: dict[str, bytes], link: str = "") -> str:
    """Write a .tar.gz and return its sha256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if link:
                info.type, info.linkname, info.size = tarfile.SYMTYPE, link, 0
            tar.addfile(info, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def archived(server: Server, name: str, content: bytes, link: str = "") -> Source:
    packed = pack(server.folder / "toy" / "all.tar.gz", {name: content, "../other": b"o"}, link)
    files = {"inner/file": hashlib.sha256(b"right").hexdigest()}
    return Source(f"{server.url}/toy", files, ("all.tar.gz", packed))


def test_archive(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETS, "toy", archived(server, "inner/file", b"right"))
    folder = fetch("toy", tmp_path / "data")
    assert left(tmp_path / "data") == [folder, folder / "inner", folder / "inner" / "file"]
    assert fetch("toy", tmp_path / "data") == folder
    assert server.asked == ["/toy/all.tar.gz"]


@pytest.mark.parametrize(
    ("name", "content", "link", "says"),
    [
        ("inner/file", b"wrong", "", "another 'inner/file' than"),
        ("inner/other", b"right", "", "cannot be unpacked"),
        ("inner/file", b"", "/etc/hostname", "cannot be unpacked"),
        ("inner/file", b"", "../../outside", "cannot be unpacked"),
    ],
)
def test_bad_archive_leaves_nothing(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
    link: str,
    says: str,
) -> None:
    monkeypatch.setitem(SETS, "toy", archived(server, name, content, link))
    with pytest.raises(InputError, match=says):
        fetch("toy", tmp_path / "data")
    assert left(tmp_path / "data") == []


def test_damaged_archive_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = archived(server, "inner/file", b"right")
    path = server.folder / "toy" / "all.tar.gz"
    path.write_bytes(path.read_bytes()[:-30])
    monkeypatch.setitem(SETS, "toy", source)
    with pytest.raises(InputError, match="checksum differs"):
        fetch("toy", tmp_path / "data")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(SETS, "toy", Source(source.url, source.files, ("all.tar.gz", digest)))
    with pytest.raises(InputError, match="cannot be unpacked"):
        fetch("toy", tmp_path / "data")
    assert left(tmp_path / "data") == []


def whole(server: Server, members: dict[str, bytes], link: str = "") -> Source:
    path = server.folder / "toy" / "all.tgz"
    pack(path, members, link)
    digest = f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}"
    return Source(f"{server.url}/toy", {}, ("all.tgz", digest), "top")


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in left(folder) if path.is_file() and path.suffix != ".list"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_whole_folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"top/a": b"one", "top/b/c": b"two"}
    monkeypatch.setitem(SETS, "toy", whole(server, {**files, "beside": b"three"}))
    folder = fetch("toy", tmp_path / "data")
    assert contents(folder) == files
    assert [path.name for path in left(tmp_path / "data")] == [
        "toy",
        "top",
        "a",
        "b",
        "c",
        "top.list",
    ]
    (folder / "top" / "own").write_text("more may be there")
    assert fetch("toy", tmp_path / "data") == folder
    assert server.asked == ["/toy/all.tgz"]
    for harm in ((folder / "top" / "a").unlink, partial((folder / "top/b/c").write_text, "tw")):
        harm()
        fetch("toy", tmp_path / "data")
        assert contents(folder) == files
    assert len(server.asked) == 3
    (folder / "top.list").unlink()  # then nobody knows whether it is whole
    fetch("toy", tmp_path / "data")
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("members", "link", "says"),
    [
        ({"top/a": b"one", "../out": b"two"}, "", "cannot be unpacked"),
        ({"top/a": b""}, "/etc/hostname", "cannot be unpacked"),
        ({"other/a": b"one"}, "", "has no files in 'top'"),
        ({}, "", "has no files in 'top'"),
    ],
)
def test_a_bad_whole_folder_leaves_all_as_it_was(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    members: dict[str, bytes],
    link: str,
    says: str,
) -> None:
    monkeypatch.setitem(SETS, "toy", whole(server, members, link))
    (tmp_path / "data" / "toy" / "top").mkdir(parents=True)
    (tmp_path / "data" / "toy" / "top" / "a").write_text("old")
    before = left(tmp_path / "data")
    with pytest.raises(InputError, match=says):
        fetch("toy", tmp_path / "data")
    assert left(tmp_path / "data") == before
    assert (before[-1]).read_text() == "old"


def test_a_wrong_md5_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = whole(server, {"top/a": b"one"})
    pack(server.folder / "toy" / "all.tgz", {"top/a": b"two"})
    monkeypatch.setitem(SETS, "toy", source)
    with pytest.raises(InputError, match="checksum differs"):
        fetch("toy", tmp_path / "data")
    assert left(tmp_path / "data") == []
    sums = {"one.gz": f"md5:{hashlib.md5(FILES['one.gz']).hexdigest()}"}
    monkeypatch.setitem(SETS, "toy", Source(source.url, sums))
    assert contents(fetch("toy", tmp_path / "data")) == {"one.gz": FILES["one.gz"]}
    asked = len(server.asked)
    fetch("toy", tmp_path / "data")
    assert len(server.asked) == asked


def test_what_has_no_checksum_is_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no published checksum.*sentence_length.txt.*senteval"):
        fetch("senteval-length", tmp_path)
    with pytest.raises(InputError, match=r"no published checksum.*train.txt and test.txt.*wikitex"):
        fetch("wikitext-2", tmp_path)
    for name, file in (("nerf-synthetic", "lego/transforms_train.json"), ("llff", "poses_bounds")):
        with pytest.raises(InputError, match=rf"no published checksum.*P2PSIM_DATA has .*{file}"):
            fetch(name, tmp_path)
    assert left(tmp_path) == []


def test_published_shakespeare_is_recognized() -> None:
    if not REAL or not (Path(REAL) / "tinyshakespeare").is_dir():
        pytest.skip("P2PSIM_DATA has no folder tinyshakespeare")
    published = Path(REAL) / "tinyshakespeare" / "input.txt"
    assert has_checksum(published, SETS["tiny-shakespeare"].files["input.txt"])


def test_published_ag_news_is_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    if not REAL or not (Path(REAL) / "ag_news").is_dir():
        pytest.skip("P2PSIM_DATA has no folder ag_news")
    assert has_checksum(Path(REAL) / "ag_news" / "test.csv", SETS["ag-news"].files["test.csv"])
    assert has_checksum(Path(REAL) / "ag_news" / "test.csv", "md5:d52ea96a97a2d943681189a97654912d")


def test_published_mnist_from_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not REAL or not (Path(REAL) / "mnist").is_dir():
        pytest.skip("P2PSIM_DATA has no folder mnist")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    mirror = Server(Path(REAL))
    try:
        fetch("mnist", tmp_path, mirror.url)
    finally:
        mirror.http.shutdown()
        mirror.http.server_close()
    assert len(list((tmp_path / "mnist").iterdir())) == 4
    monkeypatch.setenv("P2PSIM_DATA", str(tmp_path))
    data = registry.names("data")["mnist"]()
    data.open(".")
    assert data.train(np.array([5]))[1].tolist() == [2]


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_published_files_are_recognized(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not REAL or not (Path(REAL) / name).is_dir():
        pytest.skip(f"P2PSIM_DATA has no folder {name}")
    monkeypatch.setenv("P2PSIM_MIRROR", "http://127.0.0.1:9")  # would be refused
    assert fetch(name) == Path(REAL) / name
