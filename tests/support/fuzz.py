"""Fuzzer of experiment files: `python -m tests.support.fuzz COUNT SEED [FOLDER]`.

Each case is an experiment file that is drawn at random: names of plug-ins, their parameters with
likely and with absurd values, unknown keys, wrong types, damaged text. `p2psim plan` must accept it
or refuse it in one sentence with exit code 2, within SECONDS of processor time and MEMORY bytes.
Prints the counts; writes the files that were accepted and are small enough to run into FOLDER.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

import tomli_w
from click.testing import CliRunner

from p2psim import memory, registry
from p2psim.base import KINDS
from p2psim.cli import main as p2psim
from p2psim.experiment import config
from p2psim.network.topology import available

SECONDS, MEMORY = 5, 2**30
SECTIONS = {
    "learning": config.Learning,
    "time": config.Time,
    "eval": config.Eval,
    "run": config.Execution,
}
PATHS = ("", ".", "none.csv", "/dev/null", "/dev/zero", "fifo", "..", "a/b")
WORDS = ("", " ", "a", "ring", "sgd", "name", "ü\n", "\0", "x" * 300, "@x", "../..", "1", "nan")
WHOLE = (-(2**63), -1, 0, 1, 2, 3, 5, 8, 64, 1000, 10**7, 10**9, 2**31, 2**53, 2**63 - 1)
REAL = (-1.0, 0.0, 1e-300, 1e-12, 0.1, 0.5, 1.0, 2.0, 1e12, 1e308, float("inf"), float("nan"))
GRAPHS = available()  # topologies: parameters and summary by name
Draw: TypeAlias = random.Random
Table: TypeAlias = dict[str, Any]


def absurd(draw: Draw, depth: int = 0) -> Any:
    """Return a value of any type of TOML."""
    kinds: list[Callable[[], Any]] = [
        lambda: draw.choice(WHOLE),
        lambda: draw.choice(REAL),
        lambda: draw.choice(WORDS + PATHS),
        lambda: draw.random() < 0.5,
    ]
    if depth < 3:
        size = draw.choice((0, 1, 2, 5))
        kinds += [
            lambda: [absurd(draw, depth + 1) for _ in range(size)],
            lambda: {draw.choice(WORDS): absurd(draw, depth + 1) for _ in range(size)},
        ]
    return draw.choice(kinds)()


def likely(draw: Draw, hint: Any) -> Any:
    """Return a value that suits an annotation, or nearly."""
    options = [option for option in get_args(hint) if option is not type(None)]
    if hint in KINDS.values():
        return plugin(draw, next(kind for kind, cls in KINDS.items() if cls is hint))
    if get_origin(hint) is list:
        return [likely(draw, options[0]) for _ in range(draw.choice((0, 1, 2, 4)))]
    if get_origin(hint) is not None and options:  # Annotated, Literal, a union
        choice = draw.choice(options) if isinstance(options[0], str) else options[0]
        return choice if isinstance(choice, str) else likely(draw, choice)
    if hint is bool:
        return draw.random() < 0.5
    if hint is int:
        return draw.choice((1, 2, 3, 4, 8) if draw.random() < 0.95 else WHOLE)
    if hint is float:
        return draw.choice((0.01, 0.1, 0.3, 0.5, 1.0) if draw.random() < 0.95 else REAL)
    return draw.choice(PATHS + WORDS) if hint is str else absurd(draw)


def parameters(draw: Draw, cls: type) -> Table:
    """Return values for some fields of a dataclass: all that are necessary, mostly likely ones."""
    hints, table = get_type_hints(cls, include_extras=True), {}
    for field in dataclasses.fields(cls):
        needed = dataclasses.MISSING in (field.default,) and (
            field.default_factory is dataclasses.MISSING
        )
        if draw.random() < (0.97 if needed else 0.25):
            suits = draw.random() < 0.98
            table[field.name] = likely(draw, hints[field.name]) if suits else absurd(draw)
    if draw.random() < 0.01:
        table[draw.choice(WORDS)] = absurd(draw)
    return table


def plugin(draw: Draw, kind: str) -> Any:
    """Return the table of a plug-in of a kind, or its name."""
    names = {**registry.names(kind)}
    name = draw.choice(sorted(names))
    if draw.random() < 0.01:
        return absurd(draw)
    if draw.random() < 0.3:
        return name
    return {"name": name, **parameters(draw, names[name])}


def experiment(draw: Draw) -> Table:
    """Return the tables of an experiment; most are near to one that can run."""
    table: Table = {
        "peers": draw.choice((1, 2, 3, 4, 8)),
        "rounds": draw.choice((1, 2, 5)),
        "data": {"name": "digits", "batch_size": 16},
        "model": {"name": "mlp", "hidden": [8]},
        "algorithm": "d-psgd",
        "topology": draw.choice(("ring", "complete", "path")),
    }
    for key, section in SECTIONS.items():
        if draw.random() < 0.3:
            table[key] = parameters(draw, section)
    for kind, chance in (("data", 0.3), ("model", 0.3), ("algorithm", 0.7)):
        if draw.random() < chance:
            table[kind] = plugin(draw, kind)
    for key, section in (("data", config.DataSection), ("model", config.ModelSection)):
        if isinstance(table[key], dict) and draw.random() < 0.3:
            table[key] |= parameters(draw, section)
    if draw.random() < 0.6:
        table["topology"] = topology(draw)
    for _ in range(draw.choice((0, 0, 0, 0, 0, 0, 1, 2))):
        table[draw.choice([*table, "epochs", "seed", "name", "sweep", "time", ""])] = absurd(draw)
    return table


def topology(draw: Draw) -> Any:
    """Return the table of a topology, with a rule of weights."""
    name = draw.choice(sorted(GRAPHS))
    keys = [*re.findall(r"(\w+):", GRAPHS[name][0]), "seed", "weights"]
    table = {key: absurd(draw) for key in keys if draw.random() < 0.05}
    if draw.random() < 0.6:
        rules = ("metropolis", "uniform-neighbor", "out-degree", "data-size", "max-degree")
        table["weights"] = draw.choice(rules)
    return {"name": name, **table}


def text(draw: Draw) -> bytes:
    """Return the text of an experiment file, which is damaged at times."""
    content = tomli_w.dumps(experiment(draw)).encode()
    if draw.random() < 0.1:
        at = draw.randrange(len(content))
        content = content[:at] + draw.randbytes(draw.choice((0, 1, 3))) + content[at + 2 :]
    return content


def expired(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s of processor time")


def verdict(file: Path) -> str:
    """Return "accepted", "refused", or what is wrong with the answer of `p2psim plan`."""
    registry.forget_files()
    resource.setrlimit(resource.RLIMIT_AS, (memory.addresses() + MEMORY, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    ended = CliRunner().invoke(p2psim, ["plan", str(file)])
    signal.setitimer(signal.ITIMER_PROF, 0)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        return "".join(traceback.format_exception(ended.exception))
    if ended.exit_code == 0:
        return "accepted"
    lines = ended.output.splitlines()
    sentence = len(lines) == 1 and lines[0].startswith("p2psim: ") and len(lines[0]) < 1000
    if ended.exit_code == 2 and sentence:
        return "refused"
    return f"exit code {ended.exit_code}: {ended.output}"


def small(file: Path) -> bool:
    """Return True if an accepted experiment runs in seconds."""
    table = config.read(file)
    steps = config.check({**table, "sweep": {}} if "sweep" in table else table, file.parent)
    learning = steps.learning
    rounds = (steps.head.rounds or 10**9) * learning.local_steps * learning.consensus_steps
    return rounds <= 20 and "sweep" not in table and not steps.time.realize


def main(count: int, seed: int, keep: Path | None = None) -> int:
    """Try `count` cases; print their counts as JSON, and each failure. 1 if there is one."""
    signal.signal(signal.SIGPROF, expired)
    for kind in KINDS:
        registry.names(kind)
    counts, failures = {"accepted": 0, "refused": 0}, 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.mkfifo("fifo")
        for number in range(count):
            draw, file = random.Random(f"{seed}/{number}"), Path(folder, "case.toml")
            file.write_bytes(text(draw))
            answer = verdict(file)
            if answer in counts:
                counts[answer] += 1
            else:
                failures += 1
                print(f"case {number} of seed {seed}:\n{file.read_text(errors='replace')}{answer}")
            if keep and answer == "accepted" and small(file):
                (keep / f"case-{seed}-{number}.toml").write_bytes(file.read_bytes())
    print(json.dumps({**counts, "failed": failures}))
    return min(1, failures)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), *map(Path, sys.argv[3:])))
