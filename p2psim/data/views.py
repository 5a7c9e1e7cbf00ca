"""Rays of the images of a scene, one sample for each pixel; see Mildenhall et al. 2020, section 4.

A camera looks along its negative z-axis; x points to the right and y up in the image. A pose is the
matrix [R t], shape (3, 4), that turns coordinates of the camera into those of the scene.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Data, Indices
from p2psim.errors import InputError

Numbers = NDArray[np.float64]
BACKGROUNDS = {"white": 1.0, "black": 0.0}


@dataclass(frozen=True)
class ViewReader:
    """Reader of images of one size; `cure` ends the messages about unusable images."""

    width: int  # of the files, in pixels
    height: int
    downsample: int  # side of the blocks of pixels whose mean is one pixel
    background: float  # value of red, green and blue behind transparent pixels
    cure: str

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the images after downsampling."""
        return self.height // self.downsample, self.width // self.downsample

    def read(self, path: Path) -> NDArray[np.float32]:
        """Return the colors of an image, row by row, shape (pixels, 3), in [0, 1].

        InputError if the file is damaged or has another size.
        """
        rgba = read_rgba(path, self.cure)
        if rgba.shape[:2] != (self.height, self.width):
            raise InputError(
                f"{str(path)!r} has {rgba.shape[1]} x {rgba.shape[0]} pixels, and the first image "
                f"of the scene has {self.width} x {self.height}; {self.cure}"
            )
        colors, alpha = rgba[..., :3], rgba[..., 3:]
        colors = colors * alpha + self.background * (1 - alpha)
        (height, width), block = self.shape, self.downsample
        blocks = colors.reshape(height, block, width, block, 3)
        pixels: NDArray[np.float32] = blocks.mean(axis=(1, 3)).reshape(-1, 3)
        return pixels


class SceneData(Data):
    """Base of the data sets of views; `open` of a subclass ends with `fill`.

    A sample is a ray: its input is origin and direction in coordinates of the scene, (6,) float32,
    and its target red, green and blue, (3,) float32 in [0, 1]. The direction is not normalized: it
    is 1 along the axis of the camera, so that origin + t direction has depth t. Rays go through the
    centers of the pixels, view by view and row by row.
    """

    shape = (6,)
    outputs = 3
    task = "view-synthesis"

    def fill(
        self,
        reader: ViewReader,
        focal: float,
        train: tuple[Sequence[Path], Numbers],
        test: tuple[Sequence[Path], Numbers],
        order: Indices,
    ) -> None:
        """Take the views: paths of the images, and poses (views, 3, 4).

        `focal` is the focal length in pixels after downsampling, `order` the rank of each training
        view, by which a partition may split them.
        """
        self._reader, self._focal = reader, focal
        self._train, self._test, self._order = train, test, order

    def describe(self, near: float, far: float) -> None:
        """Fill in the context for tasks and models; `near` and `far` are depths of the scene."""
        height, width = self._reader.shape
        rays = np.full(len(self._test[0]), height * width)
        numbers = {"near": near, "far": far, "height": height, "width": width}
        numbers["background"] = self._reader.background
        arrays = {name: np.asarray(number) for name, number in numbers.items()}
        self.context = {**arrays, "rays_per_view": rays}

    def labels(self) -> Indices:
        return np.repeat(self._order, math.prod(self._reader.shape))

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._rays(self._train, indices)

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._rays(self._test, np.arange(self.context["rays_per_view"].sum()))

    def _rays(
        self, views: tuple[Sequence[Path], Numbers], indices: Indices
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return inputs (len, 6) and targets (len, 3) of rays of these views."""
        numbers, pixels = np.divmod(indices, math.prod(self._reader.shape))
        inputs, targets = (np.empty((len(indices), size), np.float32) for size in (6, 3))
        order = np.argsort(numbers, kind="stable")  # each image is read once
        used, starts = np.unique(numbers[order], return_index=True)
        for number, rows in zip(used.tolist(), np.split(order, starts[1:]), strict=True):
            inputs[rows] = rays(views[1][number], self._focal, self._reader.shape, pixels[rows])
            targets[rows] = self._reader.read(views[0][number])[pixels[rows]]
        return inputs, targets


def rays(pose: Numbers, focal: float, shape: tuple[int, int], pixels: Indices) -> Numbers:
    """Return origin and direction of the rays through the centers of pixels, (pixels, 6).

    `shape` is height and width of the image, in which pixels are counted row by row.
    """
    height, width = shape
    y, x = np.divmod(pixels, width)
    right, up = (x + 0.5 - width / 2) / focal, (height / 2 - y - 0.5) / focal
    directions = np.stack([right, up, np.full(len(pixels), -1.0)], axis=1) @ pose[:, :3].T
    return np.hstack([np.broadcast_to(pose[:, 3], directions.shape), directions])


def ranks(values: Numbers) -> Indices:
    """Return the rank of each value, 0 for the smallest; equal values keep their order."""
    order = np.empty(len(values), np.int64)
    order[np.argsort(values, kind="stable")] = np.arange(len(values))
    return order


def check_rotations(poses: Numbers) -> None:
    """Check that the matrices R of poses (views, 3, 4) have an inverse; ValueError otherwise."""
    flat = np.abs(np.linalg.det(poses[..., :3])) < 1e-6
    if flat.any():
        raise ValueError(f"the pose of view {int(np.argmax(flat))} is no rotation of the camera")


def check_images(name: str, paths: Sequence[Path], cure: str) -> None:
    """Check that all images are files; InputError, which begins with the data set, otherwise."""
    for path in paths:
        if not path.is_file():
            raise InputError(f"{name}: there is no image {str(path)!r}; {cure}")


def check_blocks(width: int, height: int, downsample: int) -> None:
    """Check that blocks of `downsample` pixels fill an image; InputError otherwise."""
    if width % downsample or height % downsample:
        raise InputError(
            f"data.downsample = {downsample}: the images have {width} x {height} pixels; give a "
            "number that divides both"
        )


def image_size(path: Path, cure: str) -> tuple[int, int]:
    """Return width and height of an image without decoding it; InputError if it is damaged."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # decoders raise many types of errors for damaged files
        raise damaged(path, error, cure) from None


def read_rgba(path: Path, cure: str) -> NDArray[np.float32]:
    """Return an image, (height, width, 4), in [0, 1]; InputError if it is damaged."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGBA"), np.float32) / np.float32(255)
    except Exception as error:  # as above
        raise damaged(path, error, cure) from None


def damaged(path: Path, error: Exception, cure: str) -> InputError:
    """Return the error for a file that cannot be decoded."""
    return InputError(f"{str(path)!r} is not an image ({error}); {cure}")
