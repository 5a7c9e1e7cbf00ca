"""Downloads of data sets, verified by checksums: `p2psim data fetch NAME`."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from p2psim.data.files import data_folder
from p2psim.data.sources import SETS, UNCHECKED, Source
from p2psim.errors import InputError, suggest

# Called with the file's name, the bytes so far and the bytes in total (0 if unknown).
Progress: TypeAlias = Callable[[str, int, int], None]


RETRY = "try again, or name another mirror with P2PSIM_MIRROR"  # advice at the end of messages


def fetch(
    name: str,
    folder: Path | None = None,
    base_url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download the missing or damaged files of a data set; return its folder, `folder`/name.

    `folder` is the data folder by default. `base_url`, or else `$P2PSIM_MIRROR`, replaces the
    published address: the files are then expected in a folder of that mirror with the name of the
    data set, or in the mirror's top folder. Files are moved into the data set's folder only after
    all of them are downloaded and verified. InputError if a file cannot be downloaded, verified or
    written.
    """
    if name in UNCHECKED:
        raise InputError(f"{name} has no published checksum to fetch it by; {UNCHECKED[name]}")
    if name not in SETS:
        raise InputError(f"no data set {name!r} to fetch; {suggest(name, SETS)}")
    source, target = SETS[name], (folder or data_folder()) / name
    missing = missing_files(source, target)
    if not missing:
        return target
    mirror = base_url or os.environ.get("P2PSIM_MIRROR")
    bases = [f"{mirror.rstrip('/')}/{name}", mirror.rstrip("/")] if mirror else [source.url]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # os.replace moves files only within one file system, so staging is beside the target.
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as staging:
            download_files(source, missing, bases, Path(staging), progress)
            for file in missing:
                move_into_place(Path(staging), file, target)
    except OSError as error:
        raise InputError(
            f"{name} cannot be written to {str(target)!r} ({error}); free the disk or set "
            f"P2PSIM_DATA to another folder"
        ) from None
    return target


def missing_files(source: Source, target: Path) -> list[str]:
    """Return the paths, relative to `target`, that are missing or damaged in a data set's folder.

    For a source that is one whole folder, the file FOLDER.list beside it lists sizes and names of
    its files after the download. All of them must exist with the same size; else both the folder
    and its list are returned.
    """
    if not source.folder:
        files = source.files.items()
        return [file for file, digest in files if not has_checksum(target / file, digest)]
    folder, listing = target / source.folder, target / f"{source.folder}.list"
    complete = listing.is_file() and set(listing.read_bytes().splitlines()) <= set(sizes(folder))
    return [] if complete else [source.folder, listing.name]


def has_checksum(path: Path, digest: str) -> bool:
    """Return whether `path` is a file with this checksum."""
    if not path.is_file():
        return False
    algorithm, _, value = with_algorithm(digest).partition(":")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest() == value


def with_algorithm(digest: str) -> str:
    """Return a checksum with the prefix of its algorithm, sha256 by default."""
    return digest if ":" in digest else f"sha256:{digest}"


def sizes(folder: Path) -> list[bytes]:
    """Return one line "SIZE<tab>PATH" for each file in a folder and its subfolders, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [os.fsencode(f"{p.stat().st_size}\t{p.relative_to(folder)}") for p in files]


def move_into_place(staging: Path, name: str, target: Path) -> None:
    """Move a file or folder from `staging` to `target`, where it replaces an old one."""
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    if (target / name).is_dir():
        # os.replace cannot replace a folder. The old one is deleted together with `staging`.
        os.replace(target / name, staging / f"{name}.old")
    os.replace(staging / name, target / name)


def download_files(
    source: Source,
    missing: Sequence[str],
    bases: Sequence[str],
    staging: Path,
    progress: Progress | None,
) -> None:
    """Download the missing files into `staging` and verify their checksums.

    Of a whole folder, the archive is verified, and FOLDER.list is written. InputError if it fails.
    """
    if source.archive is None:
        for file in missing:
            download(file, source.files[file], bases, staging, progress, source.most)
        return
    archive, digest = source.archive
    download(archive, digest, bases, staging, progress, source.most)
    unpack(staging / archive, [] if source.folder else missing, staging)
    if source.folder:
        write_listing(source.folder, archive, staging)
        return
    for file in missing:
        if not has_checksum(staging / file, source.files[file]):
            raise InputError(f"{archive} holds another {file!r} than the one published; {RETRY}")


def write_listing(folder: str, archive: str, staging: Path) -> None:
    """Write FOLDER.list for an unpacked folder; InputError if the archive held no such folder."""
    listing = sizes(staging / folder)
    if not listing:
        raise InputError(f"{archive} has no files in {folder!r}, unlike the published one; {RETRY}")
    (staging / f"{folder}.list").write_bytes(b"\n".join(listing))


def download(
    file: str,
    digest: str,
    bases: Sequence[str],
    staging: Path,
    progress: Progress | None,
    most: int,
) -> None:
    """Download one file into `staging` and verify its checksum `digest`.

    The next base address is tried only if the server answers 404. InputError for every other
    failure, or if the file has more than `most` bytes.
    """
    import pooch  # takes a third of a second, because it imports requests

    pooch.get_logger().setLevel("WARNING")  # hides the messages about each download
    # `position` is 0 for the last base address and negative for all before it.
    for position, base in enumerate(bases, start=1 - len(bases)):
        url = f"{base}/{file}"
        bar = _ProgressBar(file, progress, most)
        downloader = pooch.HTTPDownloader(progressbar=bar, timeout=30)
        try:
            pooch.retrieve(url, with_algorithm(digest), file, staging, downloader=downloader)
            return
        except OSError as error:  # the errors of requests are subclasses
            response = getattr(error, "response", None)
            if position < 0 and getattr(response, "status_code", None) == 404:
                continue
            raise InputError(f"{url} cannot be downloaded ({cause(error)}); {RETRY}") from None
        except ValueError:
            raise InputError(
                f"{url} is not the file that was published: its checksum differs, it was cut "
                f"short or changed; {RETRY}"
            ) from None


def cause(error: BaseException) -> str:
    """Return the innermost cause of an error in one line; the outer errors repeat the address."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0] or type(error).__name__


def unpack(archive: Path, files: Sequence[str], folder: Path) -> None:
    """Extract `files`, or all members if it is empty, from a tar archive into `folder`.

    InputError if the archive is damaged, lacks one of the files, or holds a link or path that leads
    out of the folder.
    """
    import tarfile

    try:
        with tarfile.open(archive) as tar:
            for file in files or tar:
                # The filter "data" refuses links and paths that lead out of the folder.
                tar.extract(file, folder, filter="data")
    except (tarfile.TarError, OSError, EOFError, KeyError, zlib.error) as error:
        message = str(error).strip("'\"")
        raise InputError(f"{archive.name} cannot be unpacked ({message}); {RETRY}") from None


class _ProgressBar:
    """Pass pooch's progress to a `Progress` callback, and stop a download that is too large.

    OSError if more than `most` bytes are announced (pooch sets `total`; 0: unknown) or have come.
    """

    def __init__(self, file: str, report: Progress | None, most: int) -> None:
        self.file, self.report, self.most = file, report, most
        self.total = self.done = self.received = 0

    def update(self, size: int) -> None:
        """Count a received block of `size` bytes and report it."""
        self.received += size
        self.done = min(self.received, self.total or self.received)
        # pooch reports the last block with the full size of a block.
        if max(self.total, self.received - size) > self.most:
            raise OSError(f"it has more than {self.most:,} bytes, unlike the published file")
        if self.report:
            self.report(self.file, self.done, self.total)

    def reset(self) -> None:
        self.done = self.received = 0

    def close(self) -> None:
        """Do nothing; pooch requires this method."""
