"""Registry of the plug-ins: classes of this package, entry points, and classes in files of users.

The decorator `plugin` makes a class a dataclass of its parameters and registers it under its kind
and name. The plug-in modules of a kind are imported when a class of that kind is first requested. A
name that is not registered is searched among the entry points of the group "p2psim.KIND". A name of
the form "path/to/file.py:Class" loads that file.
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
from p2psim.errors import USER_MODULES, InputError, in_one_line, quoted, suggest

FOLDERS = {
    "algorithm": "p2psim.algorithms",
    "compressor": "p2psim.compressors",
    "data": "p2psim.data",
    "model": "p2psim.models",
    "optimizer": "p2psim.learning",
    "partition": "p2psim.data",
    "rule": "p2psim.learning",
    "schedule": "p2psim.learning",
    "task": "p2psim.learning",
    "compute": "p2psim.network.step_times",
    "link": "p2psim.network.links",
}

USER = "p2psim_user:"  # begins the module name of a user's file

_plugins: dict[str, dict[str, type]] = {kind: {} for kind in KINDS}
_loaded: set[str] = set()
T = TypeVar("T")


@dataclass_transform(kw_only_default=True, eq_default=False)
def plugin(kind: str, name: str, source: str = "") -> Callable[[type[T]], type[T]]:
    """Return a decorator that registers a class as the plug-in `name` of `kind`.

    source: the paper that the plug-in implements.
    """

    def register(cls: type[T]) -> type[T]:
        plug_in = dataclasses.dataclass(kw_only=True, eq=False)(cls)
        plug_in.kind, plug_in.name, plug_in.source = kind, name, source  # type: ignore[attr-defined]
        # A class in a file of the user is not entered: experiments name it by the file's path.
        if plug_in.__module__.startswith("p2psim."):
            _plugins[kind][name] = plug_in
        else:
            USER_MODULES.add(plug_in.__module__)
        return plug_in

    return register


def names(kind: str) -> dict[str, type]:
    """Return every plug-in of a kind in this package, by name.

    In the folder of the kind, only files with such a plug-in are imported: the other files are
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
    """Return the plug-in class with this name; InputError if it does not exist.

    The path in a name of the form "file.py:Class" is relative to `folder`.
    """
    if ".py:" in name:
        return _from_file(kind, name, folder)
    known = names(kind)
    return known[name] if name in known else _from_entry_point(kind, name, known)


def _from_entry_point(kind: str, name: str, known: dict[str, type]) -> type:
    from importlib.metadata import entry_points

    points = entry_points(group=f"p2psim.{kind}")
    if name not in points.names:
        raise InputError(
            f"unknown {kind} {quoted(name)}; {suggest(name, [*known, *points.names])}; "
            f"or give a file of your own as 'file.py:Class'"
        )
    cls: type = points[name].load()
    return cls


def _from_file(kind: str, name: str, folder: Path) -> type:
    file, _, class_name = name.rpartition(":")
    path = folder / file
    if not path.is_file():
        raise InputError(f"{quoted(name)}: there is no file {str(path)!r}; correct the path")
    try:
        member = getattr(load_file(path), class_name)
    except AttributeError:
        raise InputError(
            f"{name!r}: the file defines no class {class_name!r}; correct the name after ':'"
        ) from None
    if getattr(member, "kind", None) != kind:
        raise InputError(f"{name!r}: decorate the class with @plugin({kind!r}, ...)")
    cls: type = member
    return cls


def forget_files() -> None:
    """Unload the files of users, so that a process that runs several experiments sees edits."""
    for name in [name for name in sys.modules if name.startswith(USER)]:
        del sys.modules[name]


def load_file(path: Path, of_user: bool = True) -> Any:
    """Return a Python file as a module; InputError if it cannot be loaded.

    The file need not be on the import path, and it is loaded once only. Messages name lines of a
    file that is `of_user`.
    """
    name = f"{USER}{path.resolve()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    if of_user:
        USER_MODULES.add(name)
    sys.modules[name] = module  # dataclasses look up annotations there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"{str(path)!r} cannot be loaded: {in_one_line(error)}") from error
    return module
