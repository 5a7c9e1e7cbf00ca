"""MNIST, read from the four published idx files, gzipped or not."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Data, Indices
from p2psim.data.files import FileSet, fetch_cure, open_data_file
from p2psim.errors import InputError
from p2psim.registry import plugin

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# The folder of `p2psim data fetch` is first, so that a download replaces damaged files in others.
# torchvision writes its copy into MNIST/raw, below the folder that its user chose.
PLACES = ("mnist", "mnist/MNIST/raw", "MNIST/raw")
FILES = FileSet("mnist", PLACES, fetch_cure("mnist"))
BLOCK = 1024  # images per read: beside its own images, a peer holds no more than these in memory
MEAN, STD = 0.1307, 0.3081  # of the training pixels in 0..1


@plugin("data", "mnist", source="LeCun, Bottou, Bengio & Haffner 1998")
class MNIST(Data):
    """60,000 + 10,000 gray images of 28 x 28 pixels (0..255) in 10 classes.

    `scaling`: "standard" subtracts the training mean 0.1307 and divides by the training standard
    deviation 0.3081 of the pixels in 0..1; "unit" leaves the pixels in 0..1.
    """

    scaling: Literal["standard", "unit"] = "standard"

    outputs = 10
    classes = 10

    def open(self, folder: str) -> None:
        """Find the four files and check their headers; InputError if one is missing or damaged."""
        self._paths = {
            part: (find(images), find(labels)) for part, (images, labels) in NAMES.items()
        }
        shapes = {image_size(images, labels) for images, labels in self._paths.values()}
        if len(shapes) > 1:
            raise InputError(f"mnist: images of different sizes, {sorted(shapes)}; {FILES.cure}")
        self.shape = (1, *shapes.pop())
        standard = self.scaling == "standard"
        self.scale = 1 / (255 * STD) if standard else 1 / 255
        self.shift = -MEAN / STD if standard else 0.0

    def labels(self) -> Indices:
        return read_labels(self._paths["train"][1])

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        images, labels = self._paths["train"]
        return self._rows(images, indices), read_labels(labels)[indices]

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        images, labels = self._paths["test"]
        targets = read_labels(labels)
        return self._rows(images, np.arange(targets.size)), targets

    def _rows(self, path: Path, indices: Indices) -> NDArray[np.uint8]:
        return read_images(path, indices).reshape(-1, *self.shape)


def find(name: str) -> Path:
    """Return the path of the file `name`, gzipped or not; InputError if it does not exist."""
    return FILES.find(f"{name}.gz", name)


def image_size(images: Path, labels: Path) -> tuple[int, int]:
    """Return height and width; InputError if the files hold different numbers of samples."""
    with open_data_file(images, FILES.cure) as stream:
        count, height, width = read_header(stream, 3)
    with open_data_file(labels, FILES.cure) as stream:
        (label_count,) = read_header(stream, 1)
    if count != label_count:
        raise InputError(
            f"{str(images)!r} has {count} images for {label_count} labels; {FILES.cure}"
        )
    return height, width


def read_header(stream: BinaryIO, dimensions: int) -> tuple[int, ...]:
    """Read the header of an idx file of unsigned bytes; return its `dimensions` sizes.

    The first word is 2048 plus the number of dimensions: 2051 for images, 2049 for labels.
    ValueError if the header is not valid.
    """
    size = 4 + 4 * dimensions
    header = stream.read(size)
    if len(header) < size:
        raise ValueError("it ends before the data starts")
    magic, *sizes = struct.unpack(f">{dimensions + 1}I", header)
    if magic != 2048 + dimensions:
        raise ValueError(f"it starts with {magic} in place of {2048 + dimensions}")
    if 0 in sizes:
        raise ValueError(f"its header gives the size {' x '.join(map(str, sizes))}")
    return tuple(sizes)


def read_labels(path: Path) -> Indices:
    """Return all labels of a file (rows,), int64; InputError if it is damaged."""
    with open_data_file(path, FILES.cure) as stream:
        (count,) = read_header(stream, 1)
        values = np.frombuffer(stream.read(), np.uint8)
        if values.size != count:
            raise ValueError(f"it holds {values.size} labels in place of {count}")
        if values.max() > 9:
            raise ValueError(f"it holds a label {values.max()} where 0 to 9 are allowed")
    return values.astype(np.int64)


def read_images(path: Path, indices: Indices) -> NDArray[np.uint8]:
    """Return the images at `indices`, in that order; shape (len, height * width)."""
    with open_data_file(path, FILES.cure) as stream:
        count, height, width = read_header(stream, 3)
        rows = np.empty((indices.size, height * width), np.uint8)
        for start in range(0, count, BLOCK):
            block = read_block(stream, min(BLOCK, count - start), height * width)
            in_block = (indices >= start) & (indices < start + BLOCK)
            rows[in_block] = block[indices[in_block] - start]
        if stream.read(1):
            raise ValueError(f"it goes on after {count} images")
    return rows


def read_block(stream: BinaryIO, images: int, size: int) -> NDArray[np.uint8]:
    """Return the next images of `size` pixels each; ValueError if the file is truncated."""
    data = stream.read(images * size)
    if len(data) < images * size:
        raise ValueError("it ends before its last image")
    return np.frombuffer(data, np.uint8).reshape(images, size)
