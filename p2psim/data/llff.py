"""Views of real scenes that a camera has seen from the front, in the layout of LLFF."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from p2psim.base import Count
from p2psim.data.files import FileSet, check_pillow, open_data_file
from p2psim.data.views import (
    Numbers,
    SceneData,
    ViewReader,
    check_blocks,
    check_images,
    check_rotations,
    image_size,
    ranks,
)
from p2psim.errors import InputError
from p2psim.registry import plugin

CURE = (
    "put poses_bounds.npy and the folder of the images of the scene into llff/SCENE or "
    "nerf_llff_data/SCENE in the data folder, which P2PSIM_DATA sets, or give data.scene as an "
    "absolute path"
)
FILES = FileSet("llff", ("llff", "nerf_llff_data"), CURE)
SUFFIXES = (".jpg", ".jpeg", ".png")
NEAREST = 4 / 3  # least depth after the scaling, as in the published code of NeRF


@plugin("data", "llff", source="Mildenhall et al. 2019; Mildenhall et al. 2020, section 6.1")
class LLFF(SceneData):
    """Rays of photographs, e.g. of "fern"; see p2psim.data.views for samples and directions.

    Read from `$P2PSIM_DATA/llff/SCENE` (or nerf_llff_data/SCENE): poses_bounds.npy, and the images
    in the folder `images` (such as "images_8", which holds smaller ones), in the order of their
    names; `scene` may also be an absolute path. `downsample`: the mean of so many times so many
    pixels is one pixel. Test views are the views 0, test_every, 2 test_every, ...; the others are
    for training.

    The mean pose becomes the origin, and lengths are scaled so that the least depth is 4/3. Depths
    go from 0.9 times the least to the largest one; rays are not warped to normalized device
    coordinates. The label of a ray, by which a partition may split, is the rank of its view from
    left to right, 0 to training views - 1.
    """

    scene: str = "fern"
    images: str = "images"
    test_every: Annotated[int, Meta(ge=2)] = 8
    downsample: Count = 1

    def open(self, folder: str) -> None:
        """Read the poses; InputError if poses, images or Pillow are missing or unusable."""
        check_pillow("llff")
        path = FILES.find(f"{self.scene}/poses_bounds.npy")
        poses, (full_width, full_focal), bounds = read_poses(path)
        images = list_images(path.parent / self.images)
        if len(images) != len(poses):
            raise InputError(
                f"llff: {str(path)!r} has {len(poses)} poses, and the folder {self.images!r} "
                f"beside it has {len(images)} images; {CURE}"
            )
        width, height = image_size(images[0], CURE)
        check_blocks(width, height, self.downsample)
        reader = ViewReader(width, height, self.downsample, 0.0, CURE)
        scale = NEAREST / bounds.min()
        poses = recenter(poses) * [1, 1, 1, scale]
        tested = np.arange(len(poses)) % self.test_every == 0
        train, test = (
            ([images[view] for view in np.flatnonzero(mask)], poses[mask])
            for mask in (~tested, tested)
        )
        # The poses belong to the images in full size.
        focal = full_focal * (width / self.downsample) / full_width
        self.fill(reader, focal, train, test, ranks(train[1][:, 0, 3]))
        self.describe(0.9 * NEAREST, bounds.max() * scale)


def read_poses(path: Path) -> tuple[Numbers, tuple[float, float], Numbers]:
    """Return poses (views, 3, 4), width and focal length in pixels, and depths (views, 2).

    The axes of the file are down, right and backward; those of a pose are right, up and backward.
    InputError if the file is damaged.
    """
    with open_data_file(path, CURE) as stream:
        try:
            rows = np.load(stream, allow_pickle=False)
        except ValueError:
            raise ValueError("it is no array of numbers in NumPy's format") from None
        if rows.ndim != 2 or rows.shape[1] != 17 or len(rows) < 2 or rows.dtype.kind not in "iuf":
            raise ValueError("it must hold a row of 17 numbers for each of at least two views")
        matrices, bounds = rows[:, :15].reshape(-1, 3, 5).astype(float), rows[:, 15:]
        _, width, focal = matrices[0, :, 4]
        if not np.isfinite(rows).all() or not min(width, focal, bounds.min()) > 0:
            raise ValueError("it must hold finite numbers, and sizes and depths above 0")
        if (bounds[:, 0] > bounds[:, 1]).any():
            raise ValueError("the least depth of a view is larger than its largest one")
        down, right, backward, position = np.moveaxis(matrices[..., :4], 2, 0)
        poses = np.stack([right, -down, backward, position], axis=2)
        check_rotations(poses)
    return poses, (width, focal), bounds


def list_images(folder: Path) -> list[Path]:
    """Return the paths of the images in a folder, sorted by name; InputError if it has none."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [p for p in entries if p.suffix.lower() in SUFFIXES and p.name[0] != "."]
    if not paths:
        raise InputError(f"llff: there are no images in {str(folder)!r}; {CURE}")
    check_images("llff", paths, CURE)
    return paths


def recenter(poses: Numbers) -> Numbers:
    """Return poses (views, 3, 4) in the coordinates of their mean pose.

    The mean pose has the mean position and the mean viewing axis; its y-axis is as near as possible
    to the mean of all y-axes.
    """
    _, up, backward, position = np.moveaxis(poses.mean(axis=0), 1, 0)
    z = unit(backward)
    x = unit(np.cross(up, z))
    rotation = np.stack([x, np.cross(z, x), z], axis=1)
    moved = poses - np.concatenate([np.zeros((3, 3)), position[:, None]], axis=1)
    centered: Numbers = rotation.T @ moved
    return centered


def unit(vector: Numbers) -> Numbers:
    """Return a vector divided by its length."""
    scaled: Numbers = vector / np.linalg.norm(vector)
    return scaled
