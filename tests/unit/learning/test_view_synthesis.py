"""The task view-synthesis: its loss, the metrics on views of several sizes, the saved image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from p2psim.base import Batch, DataSpec, Task
from p2psim.errors import InputError
from p2psim.registry import find

RANDOM = np.random.default_rng(8)
RAYS = [6, 6, 12]
TARGETS, OUTPUTS = RANDOM.random((24, 3)), RANDOM.random((24, 6))


def bound(rays: list[int] = RAYS) -> Task:
    numbers = {"rays_per_view": rays, "height": 2, "width": 3}
    spec = DataSpec((6,), 3, context={name: np.asarray(n) for name, n in numbers.items()})
    task: Task = find("task", "view-synthesis", Path())()
    task.check(spec, TARGETS)
    task.bind(spec, TARGETS)
    return task


def batch(part: slice = slice(None)) -> Batch:
    targets = torch.from_numpy(TARGETS[part])
    return Batch(None, targets, targets.numel(), part.start or 0)


def measured(name: str, outputs: Any, samples: int, *parts: slice) -> Any:
    metric = bound().metrics[name]
    sums = metric.zero(samples)
    for part in parts:
        metric.add(sums, torch.from_numpy(outputs[part]), batch(part))
    return metric.result(sums)


def decibels(rows: slice) -> float:
    return -10 * math.log10(np.mean((OUTPUTS[rows, 3:] - TARGETS[rows]) ** 2))


def test_loss_is_the_sum_over_the_networks_of_the_mean_squared_error() -> None:
    task = bound()
    both = sum(((OUTPUTS[:, at : at + 3] - TARGETS) ** 2).mean() for at in (0, 3))
    assert math.isclose(task.loss(torch.from_numpy(OUTPUTS), batch()).item(), both)
    one = ((OUTPUTS[:, :3] - TARGETS) ** 2).mean()
    assert math.isclose(task.loss(torch.from_numpy(OUTPUTS[:, :3]), batch()).item(), one)


def test_psnr_is_the_mean_over_views_of_the_last_network() -> None:
    views = [decibels(slice(0, 6)), decibels(slice(6, 12)), decibels(slice(12, 24))]
    parts = slice(0, 5), slice(5, 20), slice(20, 24)  # batches cross the ends of the views
    assert math.isclose(measured("psnr", OUTPUTS, 24, *parts), np.mean(views))
    assert np.allclose(measured("view_psnr", OUTPUTS, 24, *parts), views, rtol=1e-12)
    assert not math.isclose(np.mean(views), decibels(slice(None)))


def test_psnr_of_a_share_of_the_rays_is_that_of_its_views() -> None:
    share = slice(9, 24)
    views = [decibels(slice(9, 12)), decibels(slice(12, 24))]
    assert math.isclose(measured("psnr", OUTPUTS, 24, share), np.mean(views))
    assert np.isnan(measured("view_psnr", OUTPUTS, 24, share)).tolist() == [True, False, False]


def test_psnr_of_a_subset_is_that_of_all_its_rays() -> None:
    assert math.isclose(measured("psnr", OUTPUTS, 11, slice(0, 11)), decibels(slice(0, 11)))
    values = measured("view_psnr", OUTPUTS, 11, slice(0, 11))
    assert values.shape == (3,)
    assert np.isnan(values).all()


def test_a_perfect_view_has_an_infinite_ratio() -> None:
    assert measured("psnr", np.hstack([TARGETS, TARGETS]), 24, slice(0, 24)) == math.inf


def test_the_saved_image_has_prediction_and_truth_side_by_side(tmp_path: Path) -> None:
    task = bound()
    assert task.saved == 6
    outputs = OUTPUTS[:6].copy()
    outputs[0, 3:] = [2.0, -1.0, 0.5]  # a model without sigmoid may leave [0, 1]
    task.save(tmp_path / "result-00000", outputs, TARGETS[:6])
    with Image.open(tmp_path / "result-00000.png") as image:
        pixels = np.asarray(image).astype(int)
    assert pixels.shape == (2, 6, 3)
    assert pixels[0, 0].tolist() == [255, 0, 128]
    for row in range(2):
        for column in range(3):
            ray = 3 * row + column
            expected = np.concatenate([outputs[ray, 3:].clip(0, 1), TARGETS[ray]]) * 255
            got = np.concatenate([pixels[row, column], pixels[row, column + 3]])
            assert np.abs(got - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((3,), True), ((6,), True), ((4,), False), ((0,), False), ((3, 1), False), ((), False)],
)
def test_outputs_are_the_colors_of_one_or_more_networks(shape: Any, fits: bool) -> None:
    assert bound().accepts(shape, DataSpec((6,), 3)) == fits


def test_data_without_views_are_refused() -> None:
    task: Task = find("task", "view-synthesis", Path())()
    with pytest.raises(InputError, match=r"gives no 'rays_per_view'.*'nerf-synthetic' or 'llff'"):
        task.check(DataSpec((10,), 1), np.zeros(5))
