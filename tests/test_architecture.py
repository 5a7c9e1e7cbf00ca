"""Floors, doors and sizes of the package (CONTRIBUTING: house measures), read from the syntax."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    ["errors", "rng", "heap"],
    ["base", "clock"],
    [
        *("registry", "tables", "vectors", "weights", "datafiles", "unpickle"),
        *("crops", "text", "devices", "norms"),
    ],
    ["push_sum", "max_norm", "fastest", "messages", "descent", "attention"],
    ["layers", "precision"],
    ["accounting", "sequences"],
    ["config", "settings"],
    [
        *("algorithms", "compressors", "learning", "optimizers", "models", "data"),
        *("topology", "stragglers", "links", "wire"),
    ],
    ["scenario", "neighborhood"],
    ["peer", "rehearsal", "snapshot", "pulse"],
    ["evaluation", "checkpoint", "forecast"],
    ["recorder"],
    ["will", "watchdog", "starting", "schedule"],
    ["simulation", "results", "launcher", "planning", "listing"],
    ["session"],
    ["metrics", "following", "joining"],
    ["report"],
    ["screen"],
    ["runner", "plots", "watching"],
    ["timeline"],
    ["doctor", "submission"],
    ["cli"],
    ["forkserver"],
    ["__main__"],
]
LEVEL = {name: floor for floor, names in enumerate(FLOORS) for name in names}
DOORS = {
    "mpi4py": {"wire", "joining", "forkserver"},
    "h5py": {"recorder", "results", "schedule", "starting", "tables"},
    "click": {"cli", "runner"},
    "networkx": {"topology"},
    "torch": {
        *("snapshot", "peer", "evaluation", "learning", "models", "data", "base", "vectors"),
        *("layers", "norms", "precision", "crops", "devices", "attention", "optimizers"),
    },
    "matplotlib": {"plots", "timeline"},
    "transformers": {"text"},
    "PIL": {"data"},
}
# Never at import.
LIGHT = ("torch", "mpi4py", "sklearn", "scipy", "matplotlib", "pooch", "PIL", "transformers")
FILES = sorted((ROOT / "p2psim").rglob("*.py"))


def part(path: Path) -> str:
    """A file's place in the list of floors."""
    relative = path.relative_to(ROOT / "p2psim")
    return relative.parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all imported modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            yield from (
                f"{base}.{alias.name}" if base == "p2psim" else base for alias in node.names
            )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_and_through_the_doors(path: Path) -> None:
    own = part(path)
    for name in imports(ast.parse(path.read_text())):
        top, _, rest = name.partition(".")
        if top == "p2psim" and own != "__init__":
            other = rest.split(".")[0]
            inside = own == other and own in ("launcher", "doctor", "forkserver")
            assert other == "__version__" or inside or LEVEL[other] < LEVEL[own], f"{own} -> {name}"
        assert own in DOORS.get(top, {own}), f"{name} has another door: {DOORS.get(top)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_libraries_are_imported_late(path: Path) -> None:
    late = ("peer", "evaluation", "norms", "precision", "attention")
    if part(path) in late:  # they themselves are
        return
    for node in ast.parse(path.read_text()).body:
        assert not any(name.split(".")[0] in LIGHT for name in imports_of(node)), path


def imports_of(node: ast.stmt) -> list[str]:
    """What a top-level statement imports; blocks for type checkers do not count."""
    return list(imports(node)) if isinstance(node, ast.Import | ast.ImportFrom) else []


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


def test_topologies_know_nothing_of_the_package() -> None:
    for path in (ROOT / "topologies").glob("*.py"):
        for name in imports(ast.parse(path.read_text())):
            assert name.split(".")[0] != "p2psim", path.name
