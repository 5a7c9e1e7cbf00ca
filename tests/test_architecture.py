"""Floors, doors and sizes of the package (CONTRIBUTING: house measures), read from the syntax."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "p2psim"
# A package or file imports only lower floors; a new file inside a package needs no entry.
FLOORS = [
    ["errors", "rng"],
    ["base", "memory"],
    ["registry", "vectors"],
    ["algorithms", "compressors", "data", "network"],
    ["models"],
    ["learning"],
    ["experiment"],
    ["simulation"],
    ["analysis"],
    ["launcher"],
    ["cli", "layers", "api"],
    ["__main__"],
]
LEVEL = {name: floor for floor, names in enumerate(FLOORS) for name in names}
PLUGIN_FOLDERS = ("algorithms", "compressors", "data", "models", "learning")
# Where a library may be imported: a package, or one file of it.
DOORS = {
    "mpi4py": {"network.mpi", "launcher"},
    "h5py": {"simulation", "analysis", "network.peer_values"},
    "click": {"cli", "launcher", "launcher.output"},
    "networkx": {"network.topology"},
    "torch": {"base", "vectors", "data", "models", "learning", "simulation"},
    "matplotlib": {"analysis"},
    "transformers": {"data.text"},
    "PIL": {"data", "learning.view_synthesis"},
    "xarray": {"analysis"},
    "pandas": {"analysis", "api"},
}
# Imported when they are needed, by these files alone at the top.
HEAVY = (
    *("torch", "mpi4py", "sklearn", "scipy", "matplotlib", "pooch", "PIL", "transformers"),
    *("xarray", "pandas"),
)
NEEDED = (
    *("models.norms", "models.attention", "models.recommenders", "models.radiance"),
    "learning.int8",
    *("models.graph_modules", "models.graph_networks", "models.attention_graphs"),
    *("learning.feedback", "learning.feedback_check", "learning.rules", "models.points"),
    *("simulation.flat_model", "simulation.minibatches", "simulation.evaluation"),
    "simulation.alignment",
)
FILES = sorted(PACKAGE.rglob("*.py"))


def module(path: Path) -> str:
    """The dotted name of a file below p2psim."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "__init__"


MODULES = {module(path): path for path in FILES}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(node: ast.AST) -> Iterator[str]:
    """Dotted names of all modules that are imported in a piece of code."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            yield from (alias.name for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            base = part.module or ""
            for alias in part.names:
                inner = f"{base}.{alias.name}".removeprefix("p2psim.")
                yield f"p2psim.{inner}" if inner in MODULES else base


def inner(path: Path) -> set[str]:
    """Modules of p2psim that a file imports, wherever in the file, without `p2psim.`."""
    found = {name.partition(".")[2] for name in imports(tree(path)) if name.startswith("p2psim.")}
    return found - {module(path)}


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name: str) -> None:
    own = name.partition(".")[0]
    for other in inner(MODULES[name]) if own != "__init__" else ():
        package = other.partition(".")[0]
        assert package == own or LEVEL[package] < LEVEL[own], f"{name} imports {other}"


def test_no_imports_go_in_circles() -> None:
    graph = nx.DiGraph((name, other) for name, path in MODULES.items() for other in inner(path))
    # A package's __init__ is imported with each file in it, and imports none in return.
    assert list(nx.simple_cycles(graph)) == []


@pytest.mark.parametrize("name", MODULES)
def test_libraries_are_imported_through_their_doors(name: str) -> None:
    for other in imports(tree(MODULES[name])):
        doors = DOORS.get(other.partition(".")[0], {name})
        assert any(f"{name}.".startswith(f"{door}.") for door in doors), f"{other} in {name}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("analysis.")])
def test_analysis_needs_only_the_format_and_the_folder_of_a_run(name: str) -> None:
    parts = {other for other in inner(MODULES[name]) if other.startswith("simulation.")}
    assert parts <= {"simulation.run_format", "simulation.run_folder", "simulation.join"}


def plugins(path: Path) -> bool:
    """Whether a class with the decorator @plugin stands in a file."""
    return any(
        isinstance(call, ast.Call) and getattr(call.func, "id", "") == "plugin"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        for call in node.decorator_list
    )


@pytest.mark.parametrize("name", [n for n in MODULES if n.partition(".")[0] in PLUGIN_FOLDERS])
def test_plugins_do_not_import_each_other(name: str) -> None:
    """What several share stands in a file of the folder that holds no plug-in."""
    for other in inner(MODULES[name]):
        if other.partition(".")[0] == name.partition(".")[0]:
            assert not plugins(MODULES[other]), f"{name} imports {other}"


@pytest.mark.parametrize("name", [name for name in MODULES if name not in NEEDED])
def test_heavy_libraries_are_imported_late(name: str) -> None:
    for node in tree(MODULES[name]).body:  # a block for type checkers does not count
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not {other.partition(".")[0] for other in imports(node)} & {*HEAVY}, name


@pytest.mark.parametrize(
    "path",
    [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and "p2psim" in path.parts:
            assert (node.end_lineno or 0) - node.lineno < 45, f"{path.name}: {node.name}"


def test_the_house_has_few_doors() -> None:
    """Ten packages beside the interfaces, and at most twelve files: the map of CONTRIBUTING."""
    tops = {path.relative_to(PACKAGE).parts[0] for path in FILES}
    packages = {top for top in tops if not top.endswith(".py")}
    assert packages == {name for name in LEVEL if (PACKAGE / name).is_dir()}
    assert len(packages - {"base"}) == 10
    assert len(tops - packages) <= 12


def test_topologies_know_nothing_of_the_package() -> None:
    for path in (ROOT / "topologies").glob("*.py"):
        for name in imports(tree(path)):
            assert name.split(".")[0] != "p2psim", path.name
