"""Check that the generic packages know no plug-in by name.

Network, simulation, experiment and analysis must work for plug-ins that do not exist yet. A name of
a plug-in in their code is a special case of one method, unless EXCEPTIONS gives a reason.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2psim import registry
from p2psim.base import KINDS

ROOT = Path(__file__).parents[1] / "p2psim"
GENERIC = ("network", "simulation", "experiment", "analysis")
# Where a kind of plug-in lives inside a generic package, names of that kind are allowed.
HOMES = {"network/step_times.py": "compute", "network/links.py": "link"}
FILES = [
    path
    for package in GENERIC
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.name != "__init__.py"
]
# Names of plug-ins that are ordinary words as well, allowed as identifiers but not in strings.
ORDINARY = {
    "Vector": "the type of x in p2psim.base",
    "edges": "the edges of a graph",
    "identity": "what identifies a run",
    "steps": "local steps, or the graphs of a topology",
    "sum": "Python's and NumPy's function",
    "access": "os.access",
    "cosine": "the cosine of an angle",
    "text": "a text",
    "Text": "the class of rich",
}
EXCEPTIONS = {
    ("network/mixing.py", "edges"): "the rule for W that takes the weights of the edges",
    ("network/topology.py", "edges"): "the same rule, in a message",
    ("simulation/state.py", "constant"): "a kind of entry of a stored state",
    ("simulation/recorder.py", "cosine"): "a dataset of /alignment",
    ("analysis/plots.py", "cosine"): "a dataset of /alignment",
    ("analysis/tables.py", "cosine"): "a dataset of /alignment",
    # Defaults of the experiment file.
    ("experiment/config.py", "bp"): "default of [learning] rule",
    ("experiment/config.py", "sgd"): "default of [learning] optimizer",
    ("experiment/config.py", "uniform"): "default of [time] link",
    ("experiment/scenario.py", "iid"): "default of [data] partition",
    # Examples that a message gives to the user.
    ("experiment/scenario.py", "flops"): "in a message about models without a count",
    ("experiment/scenario.py", "vector"): "in a message about x0",
}


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def plugin_names() -> dict[str, set[str]]:
    """Return the names of the package's plug-ins: name -> kinds, also as identifiers."""
    names: dict[str, set[str]] = {}
    for kind in KINDS:
        for name, cls in registry.names(kind).items():
            if cls.__module__.startswith("p2psim."):
                for spelling in {name, name.replace("-", "_"), cls.__name__}:
                    names.setdefault(spelling, set()).add(kind)
    for path in (ROOT / "algorithms").glob("[!_]*.py"):  # also what several algorithms share
        names.setdefault(path.stem, {"algorithm"})
    return names


def docstrings(module: ast.Module) -> set[ast.AST]:
    """Return the nodes of the docstrings: their text is prose."""
    return {
        node.value
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def words(module: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """Yield (word, line, whether it is an identifier) of each identifier and string of the code.

    A string counts as a whole; from a message, each part in quotation marks counts as well.
    """
    prose = docstrings(module)
    for node in ast.walk(module):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            for word in [node.value, *re.findall(r"['\"]([\w-]+)['\"]", node.value)]:
                yield word, line, False
        for field in ("name", "id", "attr", "arg", "asname", "module"):
            if isinstance(name := getattr(node, field, None), str):
                yield from ((part, line, True) for part in name.split("."))


def plugins_in(module: ast.Module, own_kind: str = "") -> dict[str, int]:
    """Return the names of plug-ins of other kinds in a file, with the line of the first use."""
    names, uses = plugin_names(), dict[str, int]()
    for word, line, is_identifier in words(module):
        kinds = names.get(word, {own_kind})
        if own_kind not in kinds and not (is_identifier and word in ORDINARY):
            uses.setdefault(word, line)
    return uses


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=place)
def test_generic_packages_know_no_plugin_by_name(path: Path) -> None:
    for name, line in plugins_in(parsed(path), HOMES.get(place(path), "")).items():
        assert (place(path), name) in EXCEPTIONS, f"{place(path)}:{line} names {name!r}"


@pytest.mark.parametrize(("file", "name"), EXCEPTIONS)
def test_every_exception_is_needed(file: str, name: str) -> None:
    assert name in plugins_in(parsed(ROOT / file)), f"remove ({file!r}, {name!r})"


@pytest.mark.parametrize(
    "code",
    [
        'if name == "choco-sgd": pass',
        "from p2psim.algorithms.choco_sgd import x",
        "isinstance(a, ChocoSGD)",
        "raise InputError(\"choose model 'vector'\")",
        'link = {"name": "edges"}',
        "getattr(algorithm, 'push_sum')",
    ],
)
def test_names_are_found(code: str) -> None:
    assert plugins_in(ast.parse(code))


def test_prose_and_ordinary_words_are_not_meant() -> None:
    assert not plugins_in(ast.parse('def f():\n    "Like choco-sgd."\n    return sum(edges)'))
