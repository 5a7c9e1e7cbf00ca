"""Every missing, damaged or hostile file ends a run before it starts: exit code 2, one sentence."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import pytest

from tests.support.programs import (
    GOOD,
    QUADRATIC,
    Bench,
    Malicious,
    Table,
    cifar10,
    idx,
    invoke,
    mnist,
    no_file,
    npz_file,
    text_file,
    with_changes,
    write,
)

Changes: TypeAlias = dict[str, Any]
Fragments: TypeAlias = tuple[str, ...]
NAN = float("nan")
PICKLED = pickle.dumps({"data": np.zeros((8, 3072), np.uint8), "labels": list(range(8))}, 2)
MNIST: Changes = {"data": {"name": "mnist", "partition": "iid"}}
CIFAR: Changes = {**MNIST, "data.name": "cifar10"}
MINE = "plug.py:Mine"
PLUG = "from p2psim.base import Algorithm\nfrom p2psim.registry import plugin\n"


MODEL = f"""{PLUG}@plugin('model', 'mine')
class Mine:
    def build(self, inputs, outputs):
        from torch import nn

        return nn.Linear(64, outputs, bias=False)
"""
DATA = f"""import numpy as np
from p2psim.base import Data
{PLUG}@plugin('data', 'mine')
class Mine(Data):
    shape, outputs = (3,), 2
"""
LINK = "".join(f"{i} {(i + 1) % 8} 1 1e999 1e6\n" for i in range(8))
TRACE: Changes = {"time.compute": {"name": "trace", "file": "steps.h5"}}
LIBSVM: Changes = {"data": {"name": "libsvm", "file": "mine.txt"}}


def giant_npz(folder: Path) -> None:
    """Write problem.npz whose header claims 10^13 entries."""
    with zipfile.ZipFile(folder / "problem.npz", "w") as archive:
        header = io.BytesIO()
        layout = {"descr": "<f8", "fortran_order": False, "shape": (1, 10**12, 10)}
        np.lib.format.write_array_header_1_0(header, layout)
        archive.writestr("A.npy", header.getvalue() + bytes(64))


def giant_trace(folder: Path) -> None:
    """Write steps.h5 whose columns have 10^9 rows, none of them stored."""
    with h5py.File(folder / "steps.h5", "w") as file:
        for name in ("peer", "seconds"):
            file.create_dataset(name, (10**9,), "f8", chunks=(1000,))


def looping_trace(folder: Path) -> None:
    """Write steps.h5 whose columns are links to each other."""
    with h5py.File(folder / "steps.h5", "w") as file:
        file["peer"], file["seconds"] = h5py.SoftLink("/seconds"), h5py.SoftLink("/peer")


def pipe(folder: Path) -> None:
    """Make problem.npz a named pipe, on which a reader waits for a writer."""
    (folder / "problem.npz").unlink()
    os.mkfifo(folder / "problem.npz")


EDGES: Changes = {"topology": {"file": "my.edgelist"}}
EYE = {"A": np.ones((4, 2, 3)), "b": np.ones((4, 2))}
FILES: dict[str, tuple[Changes, Callable[[Path], object], Fragments]] = {
    "no-edge-list": (EDGES, no_file, ("topology.file", "my.edgelist", "there is no file")),
    "bad-edge": (
        EDGES,
        text_file("my.edgelist", "0 1\n1 x\n"),
        ("my.edgelist line 2", "'u v [weight [latency bandwidth]]'"),
    ),
    "other-edges": (EDGES, text_file("my.edgelist", "0 1\n1 2\n"), ("3 nodes", "set peers = 3")),
    "disconnected": (
        {**EDGES, "peers": 4},
        text_file("my.edgelist", "0 1\n2 3\n"),
        ("not connected", "add edges"),
    ),
    "no-graphml": (
        {"topology": {"file": "my.graphml"}},
        text_file("my.graphml", "<graph"),
        ("topology.file", "my.graphml is no GraphML file"),
    ),
    "graph-is-no-python": (
        {"topology": {"file": "my.py"}},
        text_file("my.py", "def graph(n:\n"),
        ("my.py", "cannot be loaded", "SyntaxError"),
    ),
    "no-graph-function": (
        {"topology": {"file": "my.py"}},
        text_file("my.py", ""),
        ("graph(n, ...)",),
    ),
    "no-npz": ({**QUADRATIC, "data.file": "no.npz"}, no_file, ("no.npz", "give an .npz with")),
    "npz-is-text": (QUADRATIC, text_file("problem.npz", "A = 1"), ("problem.npz", "numpy.savez")),
    "npz-without-b": (QUADRATIC, npz_file(A=EYE["A"]), ("problem.npz", "no array 'b'")),
    "npz-with-nan": (QUADRATIC, npz_file(A=EYE["A"] * NAN, b=EYE["b"]), ("A", "give finite ones")),
    "npz-of-objects": (
        QUADRATIC,
        npz_file(A=np.array([Malicious()]), b=EYE["b"]),
        ("problem.npz", "numpy.savez"),
    ),
    "npz-of-another-shape": (
        QUADRATIC,
        npz_file(**{**EYE, "x0": np.ones((4, 5))}),
        ("x0", "(4, 3)"),
    ),
    "no-mnist": (MNIST, no_file, ("mnist", "p2psim data fetch mnist", "P2PSIM_DATA")),
    "no-cifar": (CIFAR, no_file, ("cifar10", "p2psim data fetch cifar10")),
    "no-libsvm": ({"data": {"name": "libsvm", "file": "a9a"}}, no_file, ("a9a", "download it")),
    "libsvm-is-text": (
        {"data": {"name": "libsvm", "file": "mine.txt"}},
        text_file("mine.txt", "once upon a time\n"),
        ("mine.txt", "check the file"),
    ),
    "idx-labels-end": (MNIST, lambda f: mnist(f, train_labels=idx(39, 40)), ("idx1", "fetch")),
    "idx-images-end": (
        MNIST,
        lambda f: mnist(f, train_images=idx(159, 40, 2, 2)),
        ("idx3", "fetch"),
    ),
    "idx-test-images-end": (
        MNIST,
        lambda f: mnist(f, t10k_images=idx(9, 40, 2, 2)),
        ("t10k-images-idx3", "fetch"),
    ),
    "idx-head-ends": (MNIST, lambda f: mnist(f, train_images=b"\0" * 9), ("idx3", "fetch")),
    "idx-gzip-ends": (
        MNIST,
        lambda f: mnist(f, train_labels=gzip.compress(idx(40, 40))[:-9]),
        ("idx1", "fetch"),
    ),
    "wrong-magic": (
        MNIST,
        lambda f: mnist(f, train_labels=idx(40, 40, magic=4096)),
        ("it starts with 4097 in place of 2049", "fetch"),
    ),
    "pickle-ends": (CIFAR, lambda f: cifar10(f, PICKLED[:99]), ("data_batch_1", "fetch")),
    "malicious-pickle": (
        CIFAR,
        lambda f: cifar10(f, pickle.dumps(Malicious())),
        ("data_batch_1", "mkdir, which is not data", "fetch"),
    ),
    "malicious-test-pickle": (
        CIFAR,
        lambda f: cifar10(f, PICKLED, pickle.dumps(Malicious())),
        ("test_batch", "mkdir, which is not data", "fetch"),
    ),
    "edge-of-5000-digits": (
        EDGES,
        text_file("my.edgelist", f"0 1\n1 {'2' * 5000}\n"),
        ("my.edgelist line 2: '1 222", "222' is no edge", "ranks from 0"),
    ),
    "endless-latency": (EDGES, text_file("my.edgelist", LINK), ("latency as a finite number",)),
    "libsvm-index": (
        LIBSVM,
        text_file("mine.txt", "1 1:1\n# comment\n-1 1:1 100000000:1\n"),
        ("mine.txt", "line 3 has the index 100000000", "check the file"),
    ),
    "giant-npz": (QUADRATIC, giant_npz, ("problem.npz", "numpy.savez")),
    "npz-is-a-pipe": (QUADRATIC, pipe, ("problem.npz", "no file", "give an .npz with")),
    "giant-trace": (TRACE, giant_trace, ("steps.h5", "'peer' claims 1000000000 rows")),
    "looping-trace": (TRACE, looping_trace, ("steps.h5 cannot be read", "too many links")),
    "long-file-name": (
        {"topology": {"file": "n" * 300 + ".py"}},
        no_file,
        ("File name too long", "nnn", ".py'", "correct the path"),
    ),
    "model-without-shapes": (
        {"model": MINE},
        text_file("plug.py", MODEL),
        ("no attribute 'shapes'", "class Mine of ", "plug.py"),
    ),
    "model-with-the-shapes-of-the-interface": (
        {"model": MINE},
        text_file(
            "plug.py",
            "from p2psim.base import Model\n" + MODEL.replace("Mine:", "Mine(Model):"),
        ),
        ("'plug.py:Mine' has no parameters", "shapes(inputs, outputs)"),
    ),
    "data-without-its-file": (
        {"data": MINE},
        text_file("plug.py", DATA + "    def open(self, folder):\n        np.load('no.npy')\n"),
        ("FileNotFoundError", "'no.npy'", "plug.py line 9)"),
    ),
    "data-without-labels": (
        {"data": MINE},
        text_file("plug.py", DATA),
        ("NotImplementedError", "method labels of class Mine of ", "plug.py"),
    ),
    "graph-fails": (
        {"topology": {"file": "my.py"}},
        text_file("my.py", "def graph(n):\n    return n / 0\n"),
        ("graph() failed: ZeroDivisionError", "my.py line 2)"),
    ),
    "no-plug-in": ({"algorithm": MINE}, no_file, ("algorithm: ", "no file", "plug.py")),
    "plug-in-is-no-python": (
        {"algorithm": MINE},
        text_file("plug.py", "class Mine(:\n"),
        ("plug.py", "cannot be loaded", "SyntaxError"),
    ),
    "no-such-class": ({"algorithm": MINE}, text_file("plug.py", ""), ("defines no class 'Mine'",)),
    "plug-in-of-another-kind": (
        {"algorithm": MINE},
        text_file("plug.py", PLUG + "@plugin('model', 'mine')\nclass Mine:\n    pass\n"),
        ("plug.py:Mine", "decorate the class with @plugin('algorithm', ...)"),
    ),
    "plug-in-of-no-kind": (
        {"algorithm": MINE},
        text_file(
            "plug.py", PLUG + "@plugin('algoritm', 'mine')\nclass Mine(Algorithm):\n    pass\n"
        ),
        ("plug.py:Mine", "@plugin('algorithm', ...)"),
    ),
    "plug-in-with-an-unknown-type": (
        {"algorithm": MINE},
        text_file(
            "plug.py",
            f"from __future__ import annotations\n{PLUG}"
            "@plugin('algorithm', 'mine')\nclass Mine(Algorithm):\n    gamma: Flaot = 1.0\n",
        ),
        ("algorithm", "Flaot"),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_is_refused(name: str, bench: Bench) -> None:
    changes, files, fragments = FILES[name]
    files(bench.folder)
    write(bench.folder, with_changes(GOOD, changes))
    bench.check_refused(*fragments)


@pytest.mark.parametrize("changes", [MNIST, CIFAR, EDGES], ids=["mnist", "cifar10", "edges"])
def test_what_the_cases_start_from_is_right(changes: Table, bench: Bench) -> None:
    mnist(bench.folder)
    cifar10(bench.folder, PICKLED)
    ring = "\n".join(f"{i} {(i + 1) % 8}" for i in range(8))
    (bench.folder / "my.edgelist").write_text(ring)
    write(bench.folder, with_changes(GOOD, changes))
    result = invoke("plan", bench.file)
    assert result.exit_code == 0, result.stderr
