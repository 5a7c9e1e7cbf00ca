"""Views of rendered scenes in the layout of the NeRF authors' synthetic data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from p2psim.base import Count, Positive
from p2psim.data.files import FileSet, check_pillow, open_data_file
from p2psim.data.views import (
    BACKGROUNDS,
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
    "put transforms_train.json, transforms_test.json and the images of the scene into "
    "nerf_synthetic/SCENE in the data folder, which P2PSIM_DATA sets, or give data.scene as an "
    "absolute path"
)
FILES = FileSet("nerf-synthetic", ("nerf_synthetic",), CURE)


class Frame(msgspec.Struct):
    """One view: the path of its image without the suffix .png, and its pose."""

    file_path: str
    transform_matrix: list[list[float]]


class Transforms(msgspec.Struct):
    """Content of a file transforms_*.json: horizontal field of view in radians, and the views."""

    camera_angle_x: float
    frames: list[Frame]


@plugin("data", "nerf-synthetic", source="Mildenhall et al. 2020, section 6.1")
class NerfSynthetic(SceneData):
    """Rays of a rendered scene, e.g. "lego"; see p2psim.data.views for samples and directions.

    Read from `$P2PSIM_DATA/nerf_synthetic/SCENE`: transforms_train.json, transforms_test.json and
    the RGBA images that they name; `scene` may also be an absolute path. Transparent pixels show
    the `background`. `downsample`: the mean of so many times so many pixels is one pixel. `near`
    and `far` bound the depths of the scene. Test views are the views 0, test_every, 2 test_every,
    ... of transforms_test.json; 1 takes all.

    The label of a ray, by which a partition may split, is the rank of its view by the azimuth of
    the camera, 0 to views - 1: with n peers, partition "classes-per-peer" with c = views / n gives
    each peer a sector.
    """

    scene: str = "lego"
    background: Literal["white", "black"] = "white"
    near: Positive = 2.0
    far: Positive = 6.0
    test_every: Count = 25
    downsample: Count = 1

    def open(self, folder: str) -> None:
        """Read the poses; InputError if poses, images or Pillow are missing or unusable."""
        check_pillow("nerf-synthetic")
        if not self.near < self.far:
            raise InputError(
                f"data.far = {self.far}: must be larger than near = {self.near}; give both as "
                "depths of the scene"
            )
        home = FILES.find(f"{self.scene}/transforms_train.json").parent
        angle, train = read_transforms(home / "transforms_train.json")
        _, (paths, poses) = read_transforms(home / "transforms_test.json")
        test = paths[:: self.test_every], poses[:: self.test_every]
        check_images("nerf-synthetic", [*train[0], *test[0]], CURE)
        width, height = image_size(train[0][0], CURE)
        check_blocks(width, height, self.downsample)
        reader = ViewReader(width, height, self.downsample, BACKGROUNDS[self.background], CURE)
        x, y = train[1][:, 0, 3], train[1][:, 1, 3]
        focal = width / self.downsample / 2 / math.tan(angle / 2)
        self.fill(reader, focal, train, test, ranks(np.arctan2(y, x)))
        self.describe(self.near, self.far)


def read_transforms(path: Path) -> tuple[float, tuple[list[Path], Numbers]]:
    """Return the angle of view, the paths of the images and their poses, (views, 3, 4)."""
    if not path.is_file():
        raise InputError(f"nerf-synthetic: there is no file {str(path)!r}; {CURE}")
    with open_data_file(path, CURE) as stream:
        content = msgspec.json.decode(stream.read(), type=Transforms)
        if not content.frames:
            raise ValueError("it has no views")
        for number, frame in enumerate(content.frames):
            if [len(row) for row in frame.transform_matrix] != [4] * 4:
                raise ValueError(f"transform_matrix of view {number} does not have 4 x 4 numbers")
        matrices = np.array([frame.transform_matrix for frame in content.frames])
        if not np.isfinite(matrices).all():
            raise ValueError("a transform_matrix has numbers that are not finite")
        check_rotations(matrices[:, :3])
        if not 0 < content.camera_angle_x < math.pi:
            raise ValueError(f"camera_angle_x = {content.camera_angle_x} is not in (0, pi)")
    images = [path.parent / f"{frame.file_path}.png" for frame in content.frames]
    return content.camera_angle_x, (images, matrices[:, :3])
