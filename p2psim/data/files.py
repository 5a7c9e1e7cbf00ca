"""Files of data sets on the disk: the data folder, the search for files, reading them.

All data sets are in one folder: `$P2PSIM_DATA`, or the user's cache folder if that is not set. Each
data set has its own subfolder with the name of the data set.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from p2psim.errors import InputError


def data_folder() -> Path:
    """Return `$P2PSIM_DATA`, or p2psim's subfolder of the user's cache folder; it may not exist."""
    setting = os.environ.get("P2PSIM_DATA")
    if setting:
        return Path(setting).expanduser()
    if sys.platform == "darwin":
        cache = "~/Library/Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "p2psim"


def find_file(candidates: Iterable[Path], subject: str, cure: str) -> Path:
    """Return the first candidate that is a file; InputError if no candidate is one.

    The error message begins with `subject` and ends with the advice `cure`.
    """
    paths = list(candidates)
    for path in paths:
        if path.is_file():
            return path
    raise InputError(f"{subject}: there is no file {str(paths[0])!r}; {cure}")


@dataclass(frozen=True)
class FileSet:
    """Files of one data set on the disk: places to search, and advice for a missing file."""

    name: str  # of the data set, as in error messages
    places: tuple[str, ...]  # folders below the data folder, in the order of the search
    cure: str  # what a user can do about a missing or damaged file

    def folders(self) -> list[Path]:
        """Return the folders to search, in order; they need not exist."""
        return [data_folder() / place for place in self.places]

    def find(self, *names: str) -> Path:
        """Search folder by folder, with all names in each; return the first file that exists.

        InputError if no folder holds one.
        """
        candidates = (folder / name for folder in self.folders() for name in names)
        return find_file(candidates, self.name, self.cure)


def sklearn_file(subject: str, name: str) -> tuple[Path, str]:
    """Return a data file that scikit-learn installs, and the advice if it is damaged.

    InputError, which begins with the data set `subject`, if the file is missing.
    """
    # Importing scikit-learn would take every peer a second; its folder is found without an import.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"{subject} comes with scikit-learn, which is not installed; `pip install scikit-learn`"
        )
    home = Path(next(iter(spec.submodule_search_locations)))
    cure = "reinstall it with `pip install --force-reinstall scikit-learn`"
    return find_file([home / "datasets" / "data" / name], subject, cure), cure


def check_pillow(name: str) -> None:
    """Check that Pillow is installed; InputError, which begins with the data set, otherwise."""
    if importlib.util.find_spec("PIL") is None:
        raise InputError(
            f"{name}: reading images needs Pillow; install it with `pip install 'p2psim[images]'`"
        )


def fetch_cure(name: str) -> str:
    """Return the advice for a missing or damaged file of a data set that p2psim can download."""
    return (
        f"fetch it with `p2psim data fetch {name}`, or set P2PSIM_DATA to the folder with {name}/"
    )


@contextmanager
def open_data_file(path: Path, cure: str) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, decompressed if it is gzipped.

    An error inside the `with` block that shows a damaged file or one of another format (a truncated
    file, a wrong checksum, a ValueError of the caller's own checks) becomes an InputError that ends
    with `cure`.
    """
    try:
        with _open(path) as stream:
            yield stream
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{str(path)!r} cannot be used ({error}); {cure}") from None


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        # The content decides, not the name: some browsers unpack a file and keep its name.
        gzipped = stream.read(2) == b"\x1f\x8b"
    if not gzipped:
        return path.open("rb")
    import gzip

    return cast(BinaryIO, gzip.open(path, "rb"))
