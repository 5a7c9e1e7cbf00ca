"""Change of a plug-in's name by --set: the keys that the new plug-in has as well stay.

`--set data=mnist` changes the name in the table [data]. Keys of the section itself (partition,
batch_size) and parameters that both data sets have are kept; the others are removed.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

from p2psim import registry
from p2psim.base import KINDS
from p2psim.errors import InputError
from p2psim.experiment import config
from p2psim.experiment.config import Table
from p2psim.network import topology

# Sections whose keys are the parameters of one plug-in, beside the keys of the section itself.
MIXED: dict[str, Any] = {
    "data": config.DataSection,
    "model": config.ModelSection,
    "algorithm": None,
}
PLAIN: dict[str, Any] = {"learning": config.Learning, "time": config.Time}


def rename(table: Table, key: str, name: str, folder: Path) -> Table | None:
    """Change the name of the plug-in whose table is at the dotted `key`, in place.

    Returns the keys that were removed, with their values; None, and nothing is changed, if the key
    holds no table of a plug-in or if there is no plug-in of this name. Files of plug-ins are
    relative to `folder`.
    """
    inner: Any = table
    for part in key.split("."):
        inner = inner.get(part) if isinstance(inner, dict) else None
    try:
        allowed = allowed_keys(table, key, name, folder) if isinstance(inner, dict) else None
    except (InputError, LookupError, TypeError):  # told when the experiment is checked
        allowed = None
    if allowed is None:
        return None
    removed = {key: inner.pop(key) for key in [*inner] if key not in allowed}
    inner["name"] = name
    return removed


def allowed_keys(table: Table, key: str, name: str, folder: Path) -> set[str]:
    """Return the keys of the table of the plug-in `name`; LookupError if `key` is no plug-in."""
    if key == "topology":
        parameters = topology.available()[name][0]
        return {"name", "weights", *re.findall(r"(\w+): ", parameters)}
    plug_in = registry.find(kind_of(table, key, folder), name, folder)
    section = MIXED.get(key)
    fields = [*dataclasses.fields(plug_in), *(dataclasses.fields(section) if section else ())]
    return {"name", *(field.name for field in fields)}


def kind_of(table: Table, key: str, folder: Path) -> str:
    """Return the kind of the plug-in at a dotted key; LookupError if it is no plug-in.

    The annotation of the key tells it, in the class of the section or of the plug-in around it.
    """
    section, *inner = key.split(".")
    kind, value = section if section in MIXED else "", table[section]
    owners = [PLAIN.get(section) or MIXED[section]]
    implied = None  # the plug-in that a table without a name means
    for name in inner:
        if kind:
            named = {"name": implied, **value} if implied else value
            owners.append(registry.find(kind, named["name"], folder))
        hints = {k: v for owner in owners if owner for k, v in get_type_hints(owner).items()}
        options = [hints[name], *get_args(hints[name])]
        interface = next((option for option in options if option in KINDS.values()), None)
        kind = config.kind_of(interface) if interface else ""
        fields = [spec for owner in owners if owner for spec in dataclasses.fields(owner)]
        spec = next((spec for spec in fields if spec.name == name), None)
        implied = spec.default if spec and spec.metadata.get("implied") else None
        owners, value = [], value[name]
    if not kind:
        raise LookupError(key)
    return kind
