"""Attributes that plug-ins have when they are bound: a resumed run binds anew and has them again.

Attributes that are set or replaced later are state. An array or container of a bound attribute must
not change in place: a checkpoint would lose the change, so such a change is an error.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from p2psim.rng import RandomStream

MISSING = object()


class BoundAttributes:
    """The attributes of plug-ins, and of the plug-ins among their parameters, at one moment."""

    def __init__(self, plugins: Iterable[object]) -> None:
        """Take the attributes that these plug-ins have now."""
        self.values: dict[int, dict[str, Any]] = {}
        self.prints: dict[tuple[int, str], str] = {}
        self.plugins: list[object] = []  # an id is only valid while its object lives
        for plugin in plugins:
            self._add(plugin)

    def _add(self, plugin: object) -> None:
        if id(plugin) in self.values:
            return
        self.plugins.append(plugin)
        self.values[id(plugin)] = dict(vars(plugin))
        for name, value in vars(plugin).items():
            self.prints[id(plugin), name] = fingerprint(value)
            for part in value if isinstance(value, list) else [value]:
                if is_plugin(part):
                    self._add(part)

    def of(self, owner: object) -> dict[str, Any]:
        """Return the bound attributes of an object by name; none if it is no plug-in."""
        return self.values.get(id(owner), {})

    def is_bound(self, owner: object, name: str, value: Any) -> bool:
        """Return True if an attribute is the one that the plug-in was bound with.

        TypeError if its content has changed in place.
        """
        if value is not self.of(owner).get(name, MISSING):
            return False
        if is_plugin(value) or isinstance(value, RandomStream):
            return False  # it has state of its own
        if isinstance(value, list) and any(map(is_plugin, value)):
            return False
        if fingerprint(value) != self.prints[id(owner), name]:
            raise TypeError(
                f"attribute {name!r} of {type(owner).__name__} was set by `bind` and has changed "
                "in place, so no checkpoint holds it: set it in `start`"
            )
        return True


def is_plugin(value: object) -> bool:
    """Return True for an instance of a class with the decorator `registry.plugin`."""
    return hasattr(type(value), "kind") and hasattr(value, "__dict__")


def fingerprint(value: Any) -> str:
    """Return a digest of the content of an array or a container; "" for other values."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return hashlib.blake2b(np.ascontiguousarray(value).data, digest_size=16).hexdigest()
    if isinstance(value, list | dict | set | deque):
        return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()
    return ""
