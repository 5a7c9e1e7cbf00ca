"""Downloading data sets, checked by their checksums: `p2psim data fetch NAME`."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from p2psim.data.files import data_folder
from p2psim.errors import InputError, suggest

Progress: TypeAlias = Callable[[str, int, int], None]  # file, bytes so far, bytes in all (or 0)


@dataclass(frozen=True)
class Source:
    """Where a data set is published, and the checksum of each of its files.

    Checksums are sha256, or md5 with "md5:" before it where no other is published.
    """

    url: str
    files: Mapping[str, str]
    archive: tuple[str, str] | None = None  # name and checksum of the one download that holds them
    folder: str = ""  # that the archive is taken whole as, where the files in it are not known


SETS = {
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        {
            "train-images-idx3-ubyte.gz": (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
            ),
            "train-labels-idx1-ubyte.gz": (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
            ),
        },
    ),
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz",
        {
            "cifar-10-batches-py/data_batch_1": (
                "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd"
            ),
            "cifar-10-batches-py/data_batch_2": (
                "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8"
            ),
            "cifar-10-batches-py/data_batch_3": (
                "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9"
            ),
            "cifar-10-batches-py/data_batch_4": (
                "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b"
            ),
            "cifar-10-batches-py/data_batch_5": (
                "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154"
            ),
            "cifar-10-batches-py/test_batch": (
                "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831"
            ),
        },
        (
            "cifar-10-python.tar.gz",  # md5 c58f30108f718f92721af3b95e74349a
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),
    ),
    "imagenette": Source(
        "https://s3.amazonaws.com/fast-ai-imageclas",
        {},
        ("imagenette2-160.tgz", "md5:e793b78cc4c9e9a4ccc0c1155377a412"),
        "imagenette2-160",
    ),
    "ag-news": Source(
        "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv",
        {
            "train.csv": "76a0a2d2f92b286371fe4d4044640910a04a803fdd2538e0f3f29a5c6f6b672e",
            "test.csv": "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699",
        },
    ),
}
# What cannot be checked is not fetched: the user takes the responsibility, with these words.
UNCHECKED = {
    "senteval-length": (
        "download https://raw.githubusercontent.com/facebookresearch/SentEval/main/data/probing/"
        "sentence_length.txt yourself, into the folder senteval in P2PSIM_DATA"
    ),
}


def fetch(
    name: str,
    folder: Path | None = None,
    base_url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download what is missing or wrong of a data set; its folder, `folder`/name.

    `folder` is the data folder unless given. `base_url`, or else `$P2PSIM_MIRROR`, takes the
    place of the data set's home: it holds the published files in a folder of the data set's name
    or directly. All or nothing: files come into place only once all are there and right.
    InputError if they cannot be had.
    """
    if name in UNCHECKED:
        raise InputError(f"{name} has no published checksum to fetch it by; {UNCHECKED[name]}")
    if name not in SETS:
        raise InputError(f"no data set {name!r} to fetch; {suggest(name, SETS)}")
    source, target = SETS[name], (folder or data_folder()) / name
    missing = lacking(source, target)
    if not missing:
        return target
    mirror = base_url or os.environ.get("P2PSIM_MIRROR")
    bases = [f"{mirror.rstrip('/')}/{name}", mirror.rstrip("/")] if mirror else [source.url]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as staging:
            collect(source, missing, bases, Path(staging), progress)
            for file in missing:
                place(Path(staging), file, target)
    except OSError as error:
        raise InputError(
            f"{name} cannot be written to {str(target)!r} ({error}); free the disk or set "
            f"P2PSIM_DATA to another folder"
        ) from None
    return target


def lacking(source: Source, target: Path) -> list[str]:
    """What is missing or wrong in a data set's folder.

    A folder that was taken whole has a list beside it: all that it held then must be there.
    """
    if not source.folder:
        return [file for file, digest in source.files.items() if not right(target / file, digest)]
    folder, listing = target / source.folder, target / f"{source.folder}.list"
    whole = listing.is_file() and set(listing.read_bytes().splitlines()) <= set(sizes(folder))
    return [] if whole else [source.folder, listing.name]


def right(path: Path, digest: str) -> bool:
    """Whether there is such a file with this checksum."""
    if not path.is_file():
        return False
    algorithm, _, value = labeled(digest).partition(":")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest() == value


def labeled(digest: str) -> str:
    """A checksum with its kind before it."""
    return digest if ":" in digest else f"sha256:{digest}"


def sizes(folder: Path) -> list[bytes]:
    """A line with the size in bytes and the name of each file, in any depth."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [os.fsencode(f"{p.stat().st_size}\t{p.relative_to(folder)}") for p in files]


def place(staging: Path, name: str, target: Path) -> None:
    """Move a file or folder to where it belongs; what stood there goes away with `staging`."""
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    if (target / name).is_dir():
        os.replace(target / name, staging / f"{name}.old")
    os.replace(staging / name, target / name)


def collect(
    source: Source,
    missing: Sequence[str],
    bases: Sequence[str],
    staging: Path,
    progress: Progress | None,
) -> None:
    """Bring the missing files into `staging`, each checked."""
    if source.archive is None:
        for file in missing:
            download(file, source.files[file], bases, staging, progress)
        return
    archive, digest = source.archive
    download(archive, digest, bases, staging, progress)
    unpack(staging / archive, [] if source.folder else missing, staging)
    if source.folder:
        take_whole(source.folder, archive, staging)
        return
    for file in missing:
        if not right(staging / file, source.files[file]):
            raise InputError(f"{archive} holds another {file!r} than the one published; {RETRY}")


RETRY = "try again, or name another mirror with P2PSIM_MIRROR"


def take_whole(folder: str, archive: str, staging: Path) -> None:
    """Write the list of what an unpacked folder holds beside it. InputError if it is not there."""
    listing = sizes(staging / folder)
    if not listing:
        raise InputError(f"{archive} holds no files in {folder!r} as the one published; {RETRY}")
    (staging / f"{folder}.list").write_bytes(b"\n".join(listing))


def download(
    file: str, digest: str, bases: Sequence[str], staging: Path, progress: Progress | None
) -> None:
    """Download one file from the first base that has it. InputError if that fails."""
    import pooch  # with requests, a third of a second

    pooch.get_logger().setLevel("WARNING")
    bar = _Bar(file, progress) if progress else False
    for last, base in enumerate(bases, start=1 - len(bases)):
        url = f"{base}/{file}"
        get = pooch.HTTPDownloader(progressbar=bar, timeout=30)
        try:
            pooch.retrieve(url, labeled(digest), file, staging, downloader=get)
            return
        except OSError as error:  # requests' errors are among them
            answer = getattr(error, "response", None)
            if last < 0 and getattr(answer, "status_code", None) == 404:
                continue
            raise InputError(f"{url} cannot be downloaded ({reason(error)}); {RETRY}") from None
        except ValueError:
            raise InputError(
                f"{url} is not the file that was published: its checksum differs, it was cut "
                f"short or changed; {RETRY}"
            ) from None


def reason(error: BaseException) -> str:
    """The innermost cause, in one line: the outer ones repeat the address."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0] or type(error).__name__


def unpack(archive: Path, files: Sequence[str], folder: Path) -> None:
    """Take these files, or all, out of a tar archive.

    InputError if it is damaged or holds other things.
    """
    import tarfile

    try:
        with tarfile.open(archive) as tar:
            for file in files or tar:
                tar.extract(file, folder, filter="data")  # no links or paths to outside
    except (tarfile.TarError, OSError, EOFError, KeyError, zlib.error) as error:
        said = str(error).strip("'\"")
        raise InputError(f"{archive.name} cannot be unpacked ({said}); {RETRY}") from None


class _Bar:
    """What pooch calls a progress bar."""

    def __init__(self, file: str, report: Progress) -> None:
        self.file, self.report = file, report
        self.total = self.done = 0

    def update(self, size: int) -> None:
        self.done = min(self.done + size, self.total or self.done + size)
        self.report(self.file, self.done, self.total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        """Nothing to close."""
