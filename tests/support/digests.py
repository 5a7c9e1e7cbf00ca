"""Compare the results of two checkouts bit by bit, over a short run of every plug-in.

    python -m tests.support.digests OLD NEW [--how debug|launcher|mpiexec] [--only WORD]

Every run is started by the command line of each checkout, in the virtual environment of the Python
that runs this script. The script prints one line a run and ends with exit code 1 if a dataset of
the old checkout is missing in the new one or has other bytes. A digest is comparable only on one
machine with one version of torch: for this reason no digest is committed.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import tomli_w

Table: TypeAlias = dict[str, Any]

LIMIT = 1800  # seconds for all runs of a checkout
GROUPS = ("train", "eval", "final", "algorithm", "schedule", "topology")
BASE: Table = {
    "name": "digest",
    "seed": 5,
    "peers": 4,
    "rounds": 8,
    "data": {
        "name": "digits",
        "partition": {"name": "skew", "s": 0.8},
        "batch_size": 16,
    },
    "model": {"name": "mlp", "hidden": [32]},
    "learning": {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}, "l2": 1e-4},
    "algorithm": {"name": "d-psgd"},
    "topology": {"name": "ring"},
    "eval": {"every": 3},
}
TIMES: Table = {
    "compute": {"name": "shifted-exponential", "shift": 0.05, "mean": 0.02, "period": 3},
    "link": {"latency": 1e-3, "bandwidth": 1e6},
}
TOP_K: Table = {"name": "top-k", "keep": 0.1}
STEP_TRACE = "peer,seconds\n" + "".join(f"{i % 4},{0.01 * (i + 1)}\n" for i in range(12))
LINK_TRACE = "sender,receiver,latency,bandwidth\n" + "".join(
    f"{i},{j},{0.001 * (i + 1)},{1e6 * (j + 1)}\n" for i in range(4) for j in range(4) if i != j
)
EDGES = "".join(f"{i} {(i + 1) % 4} 1 {0.001 * (i + 1)} {1e6 * (i + 1)}\n" for i in range(4))


def case(**changes: Any) -> Table:
    """Return the base experiment with some sections replaced, key by key."""
    table = copy.deepcopy(BASE)
    for section, values in changes.items():
        old = table.get(section)
        merged = (
            isinstance(old, dict) and isinstance(values, dict) and not {"name", "file"} & {*values}
        )
        table[section] = {**table[section], **values} if merged else values
    return table


def choco(compressor: Table, **options: Any) -> Table:
    """Return CHOCO-SGD with a compressor."""
    return case(algorithm={"name": "choco-sgd", "gamma": 0.3, "compressor": compressor, **options})


def compute(**parameters: Any) -> Table:
    """Return LGC-SGD, which depends on step times, under one model of them."""
    return case(
        algorithm={"name": "lgc-sgd", "k": 2, "partial": "timing"},
        time={"compute": parameters, "link": {"latency": 1e-3}},
    )


def link(**parameters: Any) -> Table:
    """Return D-PSGD under one model of links."""
    return case(time={"compute": TIMES["compute"], "link": parameters})


def optimizer(**parameters: Any) -> Table:
    """Return D-PSGD with three local steps of one optimizer."""
    return case(learning={"optimizer": parameters, "local_steps": 3})


def algorithm(name: str, timed: bool = False, /, **parameters: Any) -> Table:
    """Return one algorithm with its parameters, in virtual time if asked for."""
    return case(algorithm={"name": name, **parameters}, **({"time": TIMES} if timed else {}))


def model(name: str, /, **parameters: Any) -> Table:
    """Return a small run of one model, on CIFAR-like or digit images."""
    return case(
        model={"name": name, **parameters}, peers=2, rounds=2, topology={"name": "complete"}
    )


def topology(name: str, /, algorithm: str = "d-psgd", **parameters: Any) -> Table:
    """Return a run on one topology."""
    return case(algorithm={"name": algorithm}, topology={"name": name, **parameters})


QG: Table = {"name": "qg-momentum", "lr": 0.05, "nesterov": True}
INT8: Table = {"precision": "int8", "optimizer": QG}
RUNS: dict[str, Table] = {
    "isolated": algorithm("isolated"),
    "all-reduce": case(algorithm={"name": "all-reduce"}, learning={"local_steps": 2}),
    "d-psgd": algorithm("d-psgd", True),
    "d-psgd-cta": case(
        algorithm={"name": "d-psgd", "order": "cta"},
        learning={"local_steps": 2, "consensus_steps": 2},
    ),
    "d-psgd-float64": case(model={"name": "mlp", "hidden": [32], "dtype": "float64"}),
    "choco-sgd": choco(TOP_K),
    "choco-stale": choco({"name": "qsgd", "bits": 4, "biased": True}, variant="stale"),
    "choco-push-sum": case(
        algorithm={"name": "choco-sgd", "gamma": 0.3, "compressor": TOP_K, "push_sum": True},
        topology={"name": "directed-ring"},
    ),
    "deep-squeeze": algorithm("deep-squeeze", gamma=0.2, compressor=TOP_K),
    "deep-squeeze-push-sum": case(
        algorithm={"name": "deep-squeeze", "gamma": 0.2, "push_sum": True},
        topology={"name": "directed-ring"},
    ),
    "sgp": topology("one-peer-exponential", algorithm="sgp"),
    "p2pl": case(
        algorithm={"name": "p2pl", "epsilon": [1.0, 0.5, 0.9, 0.4], "eta_b": 0.1},
        model={"name": "mlp", "hidden": [16], "init": "own"},
        topology={"name": "star", "weights": "data-size"},
        learning={"local_steps": 3, "consensus_steps": 2},
    ),
    "p2pl-affinity": case(
        algorithm={"name": "p2pl", "eta_d": 0.5, "sync_rounds": 2, "affinity_ref": "pre"},
        learning={"local_steps": 3},
    ),
    "full-sgd": algorithm("full-sgd", True),
    "k-sgd": algorithm("k-sgd", True, k=2),
    "lgc-sgd-finish": algorithm("lgc-sgd", True, k=2, partial="finish"),
    "lgc-sgd-random": algorithm("lgc-sgd", True, k=2, partial="random", warmup_rounds=2),
    "async-gossip": algorithm("async-gossip", True, window=0.2),
    **{
        f"compressor-{parameters['name']}{tail}": choco(parameters)
        for tail, parameters in {
            "": {"name": "identity"},
            "-values": {**TOP_K, "values": "affine-8"},
            "-k": {"name": "random-k", "k": 7},
            "-unbiased": {"name": "random-k", "keep": 0.5, "per": "vector", "unbiased": True},
            "-bits": {"name": "qsgd", "bits": 3},
            "-vector": {"name": "qsgd", "bits": 8, "per": "vector"},
            "-plain": {"name": "sign"},
            "-8": {"name": "affine-8"},
        }.items()
    },
    "sgd-plain": optimizer(name="sgd", lr=0.1),
    "sgd-nesterov": optimizer(
        name="sgd",
        lr=0.05,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-3,
        warmup=1.0,
        schedule={"name": "cosine"},
    ),
    "adam": optimizer(name="adam", schedule={"name": "steps", "at": [0.1]}),
    "adam-decoupled": optimizer(name="adam", decoupled=True, weight_decay=1e-2),
    "qg-momentum": optimizer(**QG),
    "int8-mlp": case(learning=INT8),
    "int8-convnet": case(
        learning=INT8,
        model={"name": "convnet", "norm": "range-evonorm"},
        algorithm={"name": "choco-sgd", "gamma": 1.0, "compressor": {"name": "affine-8"}},
    ),
    "int8-resnet": case(
        learning=INT8,
        model={"name": "resnet", "depth": 8, "width": 4, "norm": "range-bn"},
        peers=2,
        rounds=2,
        topology={"name": "complete"},
    ),
    "compute-constant": compute(name="constant", seconds_per_step=[0.1, 0.2, 0.3, 0.4]),
    "compute-exponential": compute(name="exponential", mean=0.1),
    "compute-shifted": compute(**TIMES["compute"]),
    "compute-pareto": compute(name="pareto", period=2),
    "compute-lognormal": compute(name="lognormal"),
    "compute-slow-peers": compute(
        name="slow-peers", peers=[3], factor=10.0, of={"name": "lognormal"}
    ),
    "compute-trace": compute(name="trace", file="steps.csv"),
    "compute-flops": compute(name="flops", rate=1e9),
    "compute-sum": compute(name="sum", of=[{"name": "flops", "rate": 1e9}, "exponential"]),
    "link-uniform": link(name="uniform", latency=1e-3, bandwidth=1e6),
    "link-access": link(name="access", uplink=1e6, downlink=2e6, latency=1e-3),
    "link-trace": link(name="trace", file="links.csv"),
    "link-edges": case(
        time={"compute": TIMES["compute"], "link": {"name": "edges"}},
        topology={"file": "ring.edgelist"},
    ),
    "model-linear": model("linear"),
    "model-cnn": model("cnn", channels=[4, 8], hidden=16),
    "model-convnet-batch": model("convnet", norm="batch"),
    "model-convnet-group": model("convnet", norm="group"),
    "model-resnet": model("resnet", depth=8, width=4),
    "partition-iid": case(data={"partition": {"name": "iid"}}),
    "partition-dirichlet": case(data={"partition": {"name": "dirichlet", "alpha": 0.5}}),
    "partition-classes": case(data={"partition": {"name": "classes-per-peer", "c": 3}}),
    "partition-full": case(data={"name": "digits", "partition": {"name": "iid"}}),
    "classes": case(data={"classes": [0, 1, 2, 3]}, eval={"every": 2, "samples": 40}),
    "topology-torus": case(topology={"name": "torus"}, peers=9),
    "topology-erdos-renyi": case(
        topology={"name": "erdos-renyi", "p": 0.8, "weights": "lazy"}, peers=6
    ),
    "topology-exponential": case(
        algorithm={"name": "sgp"}, topology={"name": "exponential"}, peers=6
    ),
    "topology-complete": topology("complete", weights="max-degree"),
    "topology-complete-of-20": case(
        peers=20, rounds=4, model={"name": "mlp", "hidden": [8]}, topology={"name": "complete"}
    ),
    "quadratic": case(
        data={"name": "quadratic", "file": "problem.npz"},
        model={"name": "vector", "dtype": "float64"},
    ),
    "libsvm": case(data={"name": "libsvm", "file": "rows.libsvm"}, model={"name": "linear"}),
}


def write_inputs(folder: Path) -> None:
    """Write the data files that some experiments read, and one experiment file a run."""
    random = np.random.default_rng(0)
    a, b = random.standard_normal((4, 20, 6)), random.standard_normal((4, 20))
    np.savez(folder / "problem.npz", A=a, b=b, x0=random.standard_normal((4, 6)))
    rows = [
        f"{1 - 2 * (i % 2)} " + " ".join(f"{k + 1}:{v:.4f}" for k, v in enumerate(row))
        for i, row in enumerate(random.standard_normal((120, 7)))
    ]
    (folder / "rows.libsvm").write_text("\n".join(rows) + "\n")
    (folder / "steps.csv").write_text(STEP_TRACE)
    (folder / "links.csv").write_text(LINK_TRACE)
    (folder / "ring.edgelist").write_text(EDGES)
    for name, table in RUNS.items():
        (folder / f"{name}.toml").write_text(tomli_w.dumps(table))


def digests(run: Path) -> dict[str, str]:
    """Return a digest of type, shape and bytes of every dataset of a finished run, by path.

    A dataset of nothing but NaN holds no result and counts as absent, as do dimension scales.
    """
    digest_by_path = {}
    with h5py.File(run / "run.h5", "r", locking=False) as file:
        if file.attrs["status"] != "done":
            raise SystemExit(f"{run} has ended with status {file.attrs['status']!r}")
        for group in GROUPS:
            for name, dataset in file.get(group, {}).items():
                values = dataset[...]
                empty = values.dtype.kind == "f" and np.isnan(values).all()
                if (group, name) != ("train", "wall") and not empty and not dataset.is_scale:
                    head = f"{dataset.dtype.str} {dataset.shape}".encode()
                    digest = hashlib.blake2b(head + values.tobytes()).hexdigest()[:16]
                    digest_by_path[f"{group}/{name}"] = digest
    return digest_by_path


DEBUG = """
import json, sys
from p2psim.cli import main
for arguments in json.loads(sys.argv[1]):
    if main(arguments, standalone_mode=False):
        sys.exit(f"{arguments} failed")
"""


def run_all(checkout: Path, folder: Path, names: list[str], how: str) -> None:
    """Run these experiments with the code of a checkout, each into `folder`/name.

    how: "debug" (all in one process, peers as threads), "launcher" (`p2psim run` starts the ranks)
    or "mpiexec".
    """
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    arguments = [["run", f"{name}.toml", "--out", str(folder / name)] for name in names]
    if how == "debug":
        text = json.dumps([[*words, "--debug"] for words in arguments])
        commands = [[sys.executable, "-c", DEBUG, text]]
    else:
        commands = [[sys.executable, "-m", "p2psim", *words] for words in arguments]
        if how == "mpiexec":
            mpiexec = str(Path(sys.executable).with_name("mpiexec"))
            sizes = [str(RUNS[name]["peers"]) for name in names]
            commands = [
                [mpiexec, "-n", size, *command]
                for size, command in zip(sizes, commands, strict=True)
            ]
    for command in commands:
        result = subprocess.run(
            command,
            cwd=folder.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        if result.returncode:
            output = f"{result.stdout[-200:]}\n{result.stderr[-2000:]}"
            raise SystemExit(f"{str(command)[:200]}\n{output}")


def differences(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Return the paths of datasets that the new run lacks or holds with other bytes."""
    return [path for path, digest in old.items() if new.get(path) != digest]


def main() -> None:
    """Run every experiment with both checkouts and print what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--how", choices=("debug", "launcher", "mpiexec"), default="debug")
    parser.add_argument("--only", default="", help="only runs whose name contains this word")
    parser.add_argument("--old-results", type=Path, help="keep the old runs here, or reuse them")
    options = parser.parse_args()
    names = [name for name in RUNS if options.only in name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_inputs(folder)
        old_results = options.old_results
        if old_results and old_results.is_dir():
            shutil.copytree(old_results, folder / "old")
        else:
            run_all(options.old.resolve(), folder / "old", names, options.how)
            if old_results:
                shutil.copytree(folder / "old", old_results)
        run_all(options.new.resolve(), folder / "new", names, options.how)
        failed = 0
        for name in names:
            old = digests(folder / "old" / name)
            paths = differences(old, digests(folder / "new" / name))
            failed += bool(paths)
            state = f"DIFFERS in {', '.join(paths)}" if paths else f"{len(old)} datasets equal"
            print(f"{name:28} {state}")
        print(f"{len(names) - failed} runs equal, {failed} differ")
        sys.exit(bool(failed))


if __name__ == "__main__":
    main()
