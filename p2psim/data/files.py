"""Where data sets lie on the disk, and how their files are found and read.

Data sets live in one folder: `$P2PSIM_DATA`, or the user's cache folder where it is not set.
Each has a folder of its own in there, named as the data set.
"""

from __future__ import annotations

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
    """`$P2PSIM_DATA`, or p2psim's part of the user's cache folder; it need not exist yet."""
    given = os.environ.get("P2PSIM_DATA")
    if given:
        return Path(given).expanduser()
    if sys.platform == "darwin":
        cache = "~/Library/Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "p2psim"


def find_file(candidates: Iterable[Path], what: str, cure: str) -> Path:
    """The first candidate that is a file. InputError with `cure` if there is none."""
    paths = list(candidates)
    for path in paths:
        if path.is_file():
            return path
    raise InputError(f"{what}: there is no file {str(paths[0])!r}; {cure}")


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
        """Return the first file that exists; InputError if no folder holds one.

        `names` are the names that the file may have, in order of preference.
        """
        candidates = (folder / name for folder in self.folders() for name in names)
        return find_file(candidates, self.name, self.cure)


def fetch_cure(name: str) -> str:
    """What to do about a missing or damaged file of a data set that can be fetched."""
    return (
        f"fetch it with `p2psim data fetch {name}`, or set P2PSIM_DATA to the folder with {name}/"
    )


@contextmanager
def reading(path: Path, cure: str) -> Iterator[BinaryIO]:
    """The file's bytes, gunzipped where they are gzipped.

    Whatever shows inside the `with` that the file is damaged or of another kind (cut short, a
    wrong checksum, a ValueError of the caller's own checks) becomes an InputError.
    """
    try:
        with _open(path) as stream:
            yield stream
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{str(path)!r} cannot be used ({error}); {cure}") from None


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        gzipped = stream.read(2) == b"\x1f\x8b"  # by content: browsers unpack and keep the name
    if not gzipped:
        return path.open("rb")
    import gzip

    return cast(BinaryIO, gzip.open(path, "rb"))
