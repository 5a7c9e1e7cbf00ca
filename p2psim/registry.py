"""Where plug-ins are found: by decorator, by entry point, or in a user's own file.

`plugin` makes a class a dataclass of its parameters and enters it under its kind and name. The
modules of a kind's folder are imported when the kind is first asked for; a name that is not among
them is looked up among the entry points of the group "p2psim.KIND"; "path/to/file.py:Class"
loads a file.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from p2psim.base import KINDS
from p2psim.errors import InputError, suggest

FOLDERS = {
    "algorithm": "p2psim.algorithms",
    "compressor": "p2psim.compressors",
    "data": "p2psim.data",
    "model": "p2psim.models",
    "optimizer": "p2psim.learning",
    "partition": "p2psim.data",
    "rule": "p2psim.learning",
    "schedule": "p2psim.learning",
    "compute": "p2psim.network.step_times",
    "link": "p2psim.network.links",
}

_plugins: dict[str, dict[str, type]] = {kind: {} for kind in KINDS}
_loaded: set[str] = set()
T = TypeVar("T")


@dataclass_transform(kw_only_default=True, eq_default=False)
def plugin(kind: str, name: str, source: str = "") -> Callable[[type[T]], type[T]]:
    """Enter a class as the plug-in `name` of `kind`; `source` is the paper it comes from."""

    def enter(cls: type[T]) -> type[T]:
        made = dataclasses.dataclass(kw_only=True, eq=False)(cls)
        made.kind, made.name, made.source = kind, name, source  # type: ignore[attr-defined]
        if made.__module__.startswith("p2psim."):  # a user's own file is asked for by its path
            _plugins[kind][name] = made
        return made

    return enter


def names(kind: str) -> dict[str, type]:
    """Return every plug-in of a kind that comes with the package, by name.

    Of the kind's folder only the files in which such a plug-in stands are imported: the others are
    helpers, and some of them need torch.
    """
    if kind not in _loaded:
        _loaded.add(kind)
        package = importlib.import_module(FOLDERS[kind])
        for folder in getattr(package, "__path__", []):
            for file in sorted(Path(folder).glob("*.py")):
                if re.search(rf'@plugin\(\s*"{kind}"', file.read_text(encoding="utf-8")):
                    importlib.import_module(f"{FOLDERS[kind]}.{file.stem}")
    return _plugins[kind]


def find(kind: str, name: str, folder: Path) -> type:
    """The class behind `name`; files are relative to `folder`. InputError if there is none."""
    if ".py:" in name:
        return _from_file(kind, name, folder)
    known = names(kind)
    return known[name] if name in known else _from_entry_point(kind, name, known)


def _from_entry_point(kind: str, name: str, known: dict[str, type]) -> type:
    from importlib.metadata import entry_points

    found = entry_points(group=f"p2psim.{kind}")
    if name not in found.names:
        raise InputError(
            f"unknown {kind} {name!r}; {suggest(name, [*known, *found.names])}; "
            f"or give a file of your own as 'file.py:Class'"
        )
    cls: type = found[name].load()
    return cls


def _from_file(kind: str, name: str, folder: Path) -> type:
    file, _, wanted = name.rpartition(":")
    path = folder / file
    if not path.is_file():
        raise InputError(f"{name!r}: there is no file {str(path)!r}; correct the path")
    try:
        cls = getattr(load_file(path), wanted)
    except AttributeError:
        raise InputError(
            f"{name!r}: the file defines no class {wanted!r}; correct the name after ':'"
        ) from None
    if getattr(cls, "kind", None) != kind:
        raise InputError(f"{name!r}: decorate the class with @plugin({kind!r}, ...)")
    found: type = cls
    return found


def load_file(path: Path) -> Any:
    """A Python file as a module of its own, outside the import path."""
    name = f"p2psim_user:{path.resolve()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up annotations there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"{str(path)!r} cannot be loaded: {error!r}") from error
    return module
