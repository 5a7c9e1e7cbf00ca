"""Command `p2psim join`: write a run as one file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py

from p2psim.analysis import results
from p2psim.errors import InputError
from p2psim.simulation.join import copy


def join_run(
    path: Path,
    target: Path | None = None,
    force: bool = False,
    warn: Callable[[str], object] = print,
) -> Path:
    """Write the run as one self-contained file (default: RUN/joined.h5); return its path.

    InputError if the file exists, unless `force` is set, or if it cannot be written. `warn` is
    called for each peer whose file is lost.
    """
    origin = results.run_path(path)
    target = target or origin.parent / "joined.h5"
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {str(target.parent)!r}: give another --to")
    if target.exists() and (not force or target.is_dir() or target.samefile(origin)):
        cure = "" if force or target.is_dir() else ", or --force to replace it"
        raise InputError(f"{str(target)!r} exists: give another file with --to{cure}")
    # Written under another name first, so that a reader never opens half a file.
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    run = results.read(path)
    for text in results.lost(run.members):
        warn(f"{text}: all of its values are NaN")
    try:
        with results.open_run(path) as source, h5py.File(partial, "w", locking=False) as file:
            with results.damage(path):
                copy(source, file)
            file.attrs.update({"failures": run.failures} if run.failures else {})
        partial.replace(target)
    except OSError as error:
        raise InputError(f"cannot write {str(target)!r} ({error}); give another --to") from None
    finally:
        partial.unlink(missing_ok=True)
    return target
