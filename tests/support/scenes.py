"""Small scenes of views in the layouts of the data sets nerf-synthetic and llff."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Numbers = NDArray[Any]
AXES = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # columns: down, right, backward
ANGLE = 0.9  # horizontal field of view of the rendered scenes, in radians


def looking_at_center(position: Numbers) -> Numbers:
    """Return a pose (4, 4) at a position, whose negative z-axis meets the origin; z points up."""
    backward = position / np.linalg.norm(position)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(backward, right), backward, position], axis=1)
    return pose


def write_rendered(
    scene: Path,
    azimuths: list[float],
    tests: int = 3,
    size: tuple[int, int] = (6, 5),
    color: int | None = None,
) -> dict[str, Numbers]:
    """Write a scene in Blender's layout; return the RGBA pixels of its images by "train", "test".

    Training cameras stand at the azimuths, in radians. `color`: of all pixels, else random ones.
    """
    random, images = np.random.default_rng(5), {}
    width, height = size
    for part, angles in (("train", azimuths), ("test", [0.3 + k for k in range(tests)])):
        (scene / part).mkdir(parents=True)
        pixels = random.integers(0, 256, (len(angles), height, width, 4)).astype(np.uint8)
        if color is not None:
            pixels[:] = [color, color, color, 255]
        frames = []
        for number, angle in enumerate(angles):
            where = np.array([4 * math.cos(angle), 4 * math.sin(angle), 1.5])
            matrix = looking_at_center(where).tolist()
            frames.append({"file_path": f"./{part}/r_{number}", "transform_matrix": matrix})
            Image.fromarray(pixels[number]).save(scene / part / f"r_{number}.png")
        table = {"camera_angle_x": ANGLE, "frames": frames}
        (scene / f"transforms_{part}.json").write_text(json.dumps(table))
        images[part] = pixels
    return images


def write_photographed(scene: Path, views: int = 9, size: tuple[int, int] = (6, 4)) -> Numbers:
    """Write a scene in the layout of LLFF, with images of half the size; return poses_bounds."""
    random = np.random.default_rng(6)
    (scene / "images").mkdir(parents=True)
    rows = np.empty((views, 17))
    for number in range(views):
        turned, _ = np.linalg.qr(AXES + 0.1 * random.standard_normal((3, 3)))
        turned *= np.sign((turned * AXES).sum(axis=0))  # keeps each axis near its own direction
        sizes = [2.0 * size[1], 2.0 * size[0], 11.0]  # height, width, focal length
        position = random.standard_normal(3) + np.array([5.0, 0.0, 0.0])
        rows[number, :15] = np.column_stack([turned, position, sizes]).ravel()
        rows[number, 15:] = 2 + random.random(), 9 + random.random()
        pixels = random.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(scene / "images" / f"image{number:03}.png")
    np.save(scene / "poses_bounds.npy", rows)
    return rows
