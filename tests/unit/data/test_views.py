"""Rays of views: small scenes written here, and the lego scene where $P2PSIM_DATA has it."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from p2psim import registry, rng
from p2psim.base import Data
from p2psim.errors import InputError
from tests.support.datasets import open_data
from tests.support.scenes import ANGLE, write_photographed, write_rendered

AZIMUTHS = [2.0, -3.0, 0.5, -1.0]  # their ranks are 3, 0, 2, 1
REAL = Path(os.environ.get("P2PSIM_DATA", "")) / "nerf_synthetic" / "lego"
Numbers = NDArray[Any]


def rendered(home: Path, **params: Any) -> Data:
    """Write a scene of 4 training views of 6 x 5 pixels and 3 test views, and open it."""
    write_rendered(home / "nerf_synthetic" / "lego", AZIMUTHS)
    return open_data("nerf-synthetic", **{"test_every": 2, **params})


# Rays, against the projection of points on them into the image


def projected(points: Numbers, matrix: Numbers, focal: float, size: tuple[int, int]) -> Numbers:
    """Return column, row and depth of points (k, 3) in the image of a camera, by its inverse."""
    inside = np.linalg.inv(matrix) @ np.column_stack([points, np.ones(len(points))]).T
    depth = -inside[2]
    column = size[0] / 2 + focal * inside[0] / depth
    return np.stack([column, size[1] / 2 - focal * inside[1] / depth, depth], axis=1)


@pytest.mark.parametrize(("downsample", "size"), [(1, (6, 4)), (2, (3, 2))])
def test_points_on_a_ray_are_seen_in_the_middle_of_its_pixel(
    home: Path, downsample: int, size: tuple[int, int]
) -> None:
    scene = home / "nerf_synthetic" / "lego"
    write_rendered(scene, AZIMUTHS, size=(6, 4))
    data = open_data("nerf-synthetic", downsample=downsample, test_every=1)
    frames = json.loads((scene / "transforms_train.json").read_text())["frames"]
    pixels = size[0] * size[1]
    inputs, _ = data.train(np.arange(4 * pixels))
    assert inputs.dtype == np.float32
    focal = 0.5 * size[0] / math.tan(ANGLE / 2)
    centers = [(x + 0.5, y + 0.5) for y in range(size[1]) for x in range(size[0])]
    for view, frame in enumerate(frames):
        own = inputs[view * pixels : (view + 1) * pixels].astype(float)
        for t in (2.0, 5.0):
            seen = projected(own[:, :3] + t * own[:, 3:], frame["transform_matrix"], focal, size)
            assert np.abs(seen[:, :2] - centers).max() < 1e-4
            assert np.abs(seen[:, 2] - t).max() < 1e-4
    assert data.context["rays_per_view"].tolist() == [pixels] * 3
    assert [int(data.context[name]) for name in ("width", "height")] == [*size]


# Colors


@pytest.mark.parametrize(("background", "value"), [("white", 1.0), ("black", 0.0)])
def test_colors_are_laid_over_the_background(home: Path, background: str, value: float) -> None:
    images = write_rendered(home / "nerf_synthetic" / "lego", AZIMUTHS)
    data = open_data("nerf-synthetic", background=background, test_every=2)
    rows = np.array([119, 0, 31, 30, 95])  # of 30 rays in each view
    _, targets = data.train(rows)
    for row, target in zip(rows, targets, strict=True):
        *rgb, alpha = images["train"].reshape(120, 4)[row].tolist()
        for color, got in zip(rgb, target, strict=True):
            share = alpha / 255
            assert abs(color / 255 * share + value * (1 - share) - got) < 1e-6
    _, targets = data.test()
    assert targets.shape == (60, 3)
    shares = images["test"][::2, ..., 3:].reshape(60, 1) / 255
    colors = images["test"][::2, ..., :3].reshape(60, 3) / 255
    assert np.abs(targets - (colors * shares + value * (1 - shares))).max() < 1e-6
    assert data.context["background"] == value


def test_downsampling_is_the_mean_of_colors_over_the_background(home: Path) -> None:
    images = write_rendered(home / "nerf_synthetic" / "lego", AZIMUTHS, size=(6, 4))
    _, targets = open_data("nerf-synthetic", downsample=2).train(np.arange(24))
    for view, row, column in itertools.product(range(4), range(2), range(3)):
        block = images["train"][view, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] / 255
        mean = np.mean([p[:3] * p[3] + 1 - p[3] for p in block.reshape(4, 4)], axis=0)
        assert np.abs(targets[6 * view + 3 * row + column] - mean).max() < 1e-6


def test_only_the_views_of_the_rays_are_read(home: Path) -> None:
    data = rendered(home)
    whole = data.train(np.arange(120))
    for number in (0, 2, 3):
        (home / "nerf_synthetic" / "lego" / "train" / f"r_{number}.png").unlink()
    rows = np.array([59, 30, 44])
    for some, all_rows in zip(data.train(rows), whole, strict=True):
        assert np.array_equal(some, all_rows[rows])
        assert some.base is None


# Labels


def test_labels_are_the_ranks_of_the_azimuths(home: Path) -> None:
    data = rendered(home)
    labels = data.labels()
    assert labels.reshape(4, 30).tolist() == [[rank] * 30 for rank in (3, 0, 2, 1)]
    partition = registry.names("partition")["classes-per-peer"](c=2)
    parts = partition.split(labels, 2, rng.generator(1, "partition"))
    views = [sorted(set((part // 30).tolist())) for part in parts]
    assert views == [[1, 3], [0, 2]]  # azimuths -3 and -1, then 0.5 and 2
    assert sorted(np.concatenate(parts).tolist()) == list(range(120))


# LLFF


def test_photographs_keep_distances_and_their_mean_pose_becomes_the_origin(home: Path) -> None:
    rows = write_photographed(home / "llff" / "fern")
    data = open_data("llff")
    scale = 4 / 3 / rows[:, 15:].min()
    assert math.isclose(float(data.context["near"]), 1.2)
    assert math.isclose(float(data.context["far"]), rows[:, 15:].max() * scale)
    train, test = data.train(np.arange(7 * 24))[0], data.test()[0]
    views = np.concatenate([test[:24], train, test[24:]]).reshape(9, 24, 6).astype(float)
    # The point of each pixel at depth 3, in the file's coordinates and axes: down, right, backward.
    camera = [[(y + 0.5 - 2) / 5.5, (x + 0.5 - 3) / 5.5, -1.0] for y in range(4) for x in range(6)]
    expected, points = [], []
    for view in range(9):
        matrix = rows[view, :15].reshape(3, 5)
        expected.append(3.0 * np.array(camera) @ matrix[:, :3].T + matrix[:, 3])
        points.append(views[view, :, :3] + 3.0 * scale * views[view, :, 3:])
    for other in (0, 50, 117, 215):
        lengths = [
            np.linalg.norm(p - p[other], axis=1) for p in map(np.concatenate, (expected, points))
        ]
        assert np.abs(lengths[0] * scale - lengths[1]).max() < 1e-4
    assert np.abs(views[:, 0, :3].mean(axis=0)).max() < 1e-5
    axis = views[:, :, 3:].mean(axis=(0, 1))
    assert np.abs(axis / np.linalg.norm(axis) - [0, 0, -1]).max() < 1e-5
    left_up = (views[:, 0] - views[:, 23]).mean(axis=0)  # from the last pixel to the first
    assert left_up[3] < -0.5
    assert left_up[4] > 0.3


def test_labels_of_photographs_go_from_left_to_right(home: Path) -> None:
    write_photographed(home / "nerf_llff_data" / "fern")
    data = open_data("llff", test_every=3)
    labels = data.labels().reshape(6, 24)
    assert sorted(labels[:, 0].tolist()) == list(range(6))
    origins = data.train(np.arange(6) * 24)[0][:, 0]
    assert np.all(np.diff(origins[np.argsort(labels[:, 0])]) > 0)
    assert data.context["rays_per_view"].tolist() == [24] * 3
    assert data.context["background"] == 0


def test_photographs_have_the_colors_of_their_files(home: Path) -> None:
    write_photographed(home / "llff" / "fern")
    data = open_data("llff")
    with Image.open(home / "llff" / "fern" / "images" / "image008.png") as image:
        pixels = np.asarray(image).reshape(24, 3) / 255
    assert np.abs(data.test()[1][24:] - pixels).max() < 1e-6


# Unusable scenes

POSES = "transforms_train.json"
ONE = [{"file_path": "./train/r_0", "transform_matrix": np.eye(3).tolist()}]
FLAT = [{"file_path": "./train/r_0", "transform_matrix": np.zeros((4, 4)).tolist()}]
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no poses": (lambda scene: (scene / POSES).unlink(), f"no file .*{POSES}"),
    "no test poses": (
        lambda scene: (scene / "transforms_test.json").unlink(),
        "no file .*transforms_test.json",
    ),
    "cut": (lambda scene: (scene / POSES).write_text('{"frames": ['), f"{POSES}.*cannot be used"),
    "no angle": (lambda scene: (scene / POSES).write_text('{"frames": []}'), "camera_angle_x"),
    "wrong angle": (
        lambda scene: write_table(scene, 4.0, None),
        r"camera_angle_x = 4.0 is not in \(0, pi\)",
    ),
    "no views": (lambda scene: write_table(scene, 0.9, []), "it has no views"),
    "zeros": (
        lambda scene: write_table(scene, 0.9, FLAT),
        "the pose of view 0 is no rotation of the camera",
    ),
    "3 x 3": (lambda scene: write_table(scene, 0.9, ONE), "of view 0 does not have 4 x 4"),
    "no image": (lambda scene: (scene / "test" / "r_0.png").unlink(), r"no image .*r_0\.png"),
    "damaged image": (
        lambda scene: (scene / "train" / "r_0.png").write_bytes(b"none"),
        r"r_0\.png' is not an image",
    ),
    "another size": (
        lambda scene: Image.new("RGBA", (5, 6)).save(scene / "train" / "r_3.png"),
        r"r_3\.png' has 5 x 6 pixels, and the first image of the scene has 6 x 5",
    ),
}


def write_table(scene: Path, angle: float, frames: Any) -> None:
    """Write the poses of the training views anew; frames None keeps the old ones."""
    old = json.loads((scene / POSES).read_text())["frames"]
    table = {"camera_angle_x": angle, "frames": old if frames is None else frames}
    (scene / POSES).write_text(json.dumps(table))


@pytest.mark.parametrize("how", DAMAGES)
def test_a_rendered_scene_that_cannot_be_used_is_named_with_the_cure(home: Path, how: str) -> None:
    scene = home / "nerf_synthetic" / "lego"
    write_rendered(scene, AZIMUTHS)
    damage, says = DAMAGES[how]
    damage(scene)
    with pytest.raises(InputError, match=rf"{says}.*nerf_synthetic/SCENE.*P2PSIM_DATA"):
        open_data("nerf-synthetic").train(np.arange(120))


def rows_with(place: Any, value: float) -> Callable[[Path], None]:
    """Return a function that changes an entry of poses_bounds.npy."""

    def damage(scene: Path) -> None:
        rows = np.load(scene / "poses_bounds.npy")
        rows[place] = value
        np.save(scene / "poses_bounds.npy", rows)

    return damage


FLAWS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no poses": (lambda scene: (scene / "poses_bounds.npy").unlink(), "no file .*poses_bounds.npy"),
    "cut": (
        lambda scene: (scene / "poses_bounds.npy").write_bytes(b"\x93NUMPY"),
        "poses_bounds.npy' cannot be used",
    ),
    "objects": (
        lambda scene: np.save(scene / "poses_bounds.npy", np.array([{}, 1], object)),
        r"poses_bounds.npy' cannot be used \(it is no array of numbers",
    ),
    "columns": (
        lambda scene: np.save(scene / "poses_bounds.npy", np.ones((9, 16))),
        "a row of 17 numbers",
    ),
    "infinite": (rows_with((3, 2), np.inf), "finite numbers"),
    "depth": (rows_with((3, 15), 0.0), "depths above 0"),
    "depths": (rows_with((3, 15), 1e9), "the least depth of a view is larger"),
    "pose": (
        rows_with((2, [0, 1, 2, 5, 6, 7, 10, 11, 12]), 0.0),
        "the pose of view 2 is no rotation",
    ),
    "image": (
        lambda scene: (scene / "images" / "image003.png").unlink(),
        "9 poses, and the folder 'images' beside it has 8 images",
    ),
    "images": (lambda scene: (scene / "images").rename(scene / "photos"), "no images in .*images'"),
    "size": (
        lambda scene: Image.new("RGB", (4, 6)).save(scene / "images" / "image005.png"),
        r"image005\.png' has 4 x 6 pixels, and the first image of the scene has 6 x 4",
    ),
}


@pytest.mark.parametrize("how", FLAWS)
def test_photographs_that_cannot_be_used_are_named_with_the_cure(home: Path, how: str) -> None:
    scene = home / "llff" / "fern"
    write_photographed(scene)
    damage, says = FLAWS[how]
    damage(scene)
    with pytest.raises(InputError, match=rf"{says}.*llff/SCENE.*P2PSIM_DATA"):
        open_data("llff").train(np.arange(7 * 24))


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"far": 2.0}, r"data\.far = 2\.0: must be larger than near = 2\.0"),
        ({"downsample": 4}, r"data\.downsample = 4: the images have 6 x 5 pixels"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    home: Path, params: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        rendered(home, **params)


@pytest.mark.parametrize("name", ["nerf-synthetic", "llff"])
def test_without_pillow_the_message_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(InputError, match=rf"{name}: .*Pillow.*pip install"):
        open_data(name)


# The lego scene


@pytest.mark.skipif(not REAL.is_dir(), reason="P2PSIM_DATA has no nerf_synthetic/lego")
def test_lego_published() -> None:
    """The noise ratios of a white image and of the mean color are known from other code."""
    data = open_data("nerf-synthetic")
    _, targets = data.test()
    width = int(data.context["width"])
    views = targets.reshape(8, width**2, 3).astype(float)
    mean = data.train(np.arange(0, 100 * width**2, 7))[1].mean(axis=0)
    assert set(data.labels().tolist()) == set(range(100))
    for color, decibels in ((1.0, 9.948), (mean, 11.08)):
        errors = ((views - color) ** 2).mean(axis=(1, 2))
        tolerance = 0.01 if width == 100 else 1
        assert abs(float((-10 * np.log10(errors)).mean()) - decibels) < tolerance
