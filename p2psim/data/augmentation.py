"""Augmentation of image minibatches: random crops and mirror images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def crop(inputs: torch.Tensor, rng: np.random.Generator, frame: int, color: Any) -> torch.Tensor:
    """Crop each image at a random position of its padded version; mirror it with probability 1/2.

    inputs: (batch, channels, height, width); the crops have the same shape. frame: pixels of
    padding on each side. color: values of the padding, an array that broadcasts over an image.
    Source: He et al. 2016, section 4.2.
    """
    import torch

    batch, _, height, width = inputs.shape
    offsets = rng.integers(0, 2 * frame + 1, (2, batch, 1))
    rows = offsets[0] + np.arange(height)
    columns = offsets[1] + np.arange(width)
    columns = np.where(rng.random((batch, 1)) < 0.5, columns[:, ::-1], columns)
    indices = torch.from_numpy(rows), torch.from_numpy(columns)
    y, x = (index.to(inputs.device) for index in indices)
    sample = torch.arange(batch, device=inputs.device).reshape(batch, 1, 1)
    # Index arrays stand on both sides of the slice of the channels, so torch puts this slice last.
    crops = pad(inputs, frame, color)[sample, :, y[:, :, None], x[:, None, :]]
    return crops.movedim(-1, 1).contiguous()


def pad(inputs: torch.Tensor, frame: int, color: Any) -> torch.Tensor:
    """Return images (batch, channels, height, width) with `frame` pixels of color on each side."""
    import torch

    batch, channels, height, width = inputs.shape
    size = (batch, channels, height + 2 * frame, width + 2 * frame)
    fill = torch.as_tensor(color, dtype=inputs.dtype, device=inputs.device)
    padded = fill.expand(size).clone()
    padded[:, :, frame : frame + height, frame : frame + width] = inputs
    return padded
