"""Synthesis of views of a scene: the colors of rays through the pixels of new images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Batch, DataSpec, Shape, Task
from p2psim.errors import InputError
from p2psim.learning.metrics import Sums, check_real_targets
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch

CONTEXT = ("rays_per_view", "height", "width")  # arrays of the data set that the task needs


@plugin("task", "view-synthesis", "Mildenhall et al. 2020, eq. (6)")
class ViewSynthesis(Task):
    """loss = sum_k mean (C_k - C)^2 over the rays and the colors of a batch.

    C is the true color of a ray, red, green and blue in [0, 1], and C_k the color that network k of
    the model gives: the coarse and the fine network, or one network alone. Outputs of a ray are the
    colors of all networks in one row, the last network last, shape (B, 3 networks).

    Metrics are those of the last network. `psnr` is the mean over the test views of -10 log10(mean
    (C_k - C)^2 of the view), in dB; a perfect view has infinity. `view_psnr` has the same for each
    view. On a subset of the test rays ([eval] samples), whose views are not known, `psnr` is
    -10 log10(mean (C_k - C)^2) over all rays of the subset, and `view_psnr` is NaN.

    At the end of a run each peer saves an image: the first test view as its model gives it, and on
    the right the true view.
    """

    def check(self, spec: DataSpec, targets: NDArray[Any]) -> None:
        missing = [name for name in CONTEXT if name not in spec.context]
        if missing:
            raise InputError(
                f"learning.task: 'view-synthesis' needs the views of a scene, and the data set "
                f"gives no {missing[0]!r}; choose data 'nerf-synthetic' or 'llff', or another task"
            )
        check_real_targets("view-synthesis", targets, spec)

    def bind(self, spec: DataSpec, own: NDArray[Any]) -> None:
        rays = spec.context["rays_per_view"]
        self.height, self.width = (int(spec.context[name]) for name in ("height", "width"))
        self.saved = int(rays[0])
        self.metrics = {"psnr": PSNR(rays), "view_psnr": ViewPSNR(rays)}

    def accepts(self, shape: Shape, spec: DataSpec) -> bool:
        return len(shape) == 1 and shape[0] > 0 and shape[0] % spec.outputs == 0

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        targets = batch.targets.to(outputs.dtype).unsqueeze(1)
        colors = outputs.view(len(outputs), -1, targets.shape[2])  # (B, networks, 3)
        loss: torch.Tensor = (colors - targets).square().mean((0, 2)).sum()
        return loss

    def save(self, path: Path, outputs: NDArray[Any], targets: NDArray[Any]) -> None:
        """Save the prediction and the true view side by side as PATH.png."""
        from PIL import Image

        channels = targets.shape[1]
        shape = (self.height, self.width, channels)
        views = [colors.reshape(shape) for colors in (outputs[:, -channels:], targets)]
        pixels = (np.clip(np.concatenate(views, axis=1), 0, 1) * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(path.with_suffix(".png"))


class PSNR:
    """Peak signal-to-noise ratio of views: sums are squared errors and entries, (views, 2).

    On a subset of the rays there is one row of sums for all of them.
    """

    unit = "dB"
    better: Literal["higher", "lower"] = "higher"
    meaning = "mean over the test views of -10 log10 of the mean squared error of the view"
    shape: Shape = ()

    def __init__(self, rays: NDArray[Any]) -> None:
        """Prepare for test views with so many rays each, shape (views,)."""
        self.ends = np.cumsum(rays)

    def zero(self, samples: int) -> Sums:
        return np.zeros((len(self.ends) if samples == self.ends[-1] else 1, 2))

    def add(self, sums: Sums, outputs: torch.Tensor, batch: Batch) -> None:
        channels = batch.targets.shape[1]
        errors = (outputs[:, -channels:].double() - batch.targets.double()).square().sum(1)
        if len(sums) == 1:
            sums[0] += [errors.sum().item(), batch.targets.numel()]
            return
        places = batch.start + np.arange(len(batch.targets))
        views = np.searchsorted(self.ends, places, side="right")
        sums[:, 0] += np.bincount(views, errors.cpu().numpy(), len(sums))
        sums[:, 1] += channels * np.bincount(views, minlength=len(sums))

    def result(self, sums: Sums) -> Any:
        return float(np.mean(decibels(sums[sums[:, 1] > 0])))


class ViewPSNR(PSNR):
    """Peak signal-to-noise ratio of each view, NaN for a view without rays."""

    meaning = "peak signal-to-noise ratio by test view; NaN on a subset of the test rays"

    def __init__(self, rays: NDArray[Any]) -> None:
        super().__init__(rays)
        self.shape = (len(rays),)

    def result(self, sums: Sums) -> Any:
        return decibels(sums) if len(sums) == len(self.ends) else np.full(self.shape, np.nan)


def decibels(sums: Sums) -> NDArray[np.float64]:
    """Return -10 log10(squared errors / entries) of each row of sums, shape (rows,)."""
    with np.errstate(divide="ignore", invalid="ignore"):  # errors of 0, and views without rays
        ratios: NDArray[np.float64] = -10 * np.log10(sums[:, 0] / sums[:, 1])
    return ratios
