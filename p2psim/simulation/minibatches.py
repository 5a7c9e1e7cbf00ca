"""The samples of one peer in memory, and the minibatches of its local steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from p2psim import rng
from p2psim.base import Data


class Samples:
    """Raw inputs and targets, turned into values only when a batch is taken."""

    def __init__(self, data: Data, raw: tuple[Any, Any], dtype: torch.dtype, device: str) -> None:
        inputs, targets = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in raw)
        self.scale, self.shift = (
            torch.as_tensor(np.asarray(v), dtype=dtype).to(device) for v in (data.scale, data.shift)
        )
        self.plain = data.scale is Data.scale and data.shift is Data.shift
        self.inputs, self.targets = inputs, targets
        self.dtype = torch.int64 if data.vocabulary else dtype  # token ids stay whole numbers
        if self.plain and inputs.dtype.is_floating_point:
            self.inputs = inputs.to(self.dtype)

    def __len__(self) -> int:
        return len(self.targets)

    def values(self, chosen: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs raw * scale + shift, and targets, of the chosen samples (slice or indices)."""
        if isinstance(chosen, slice):
            inputs, targets = self.inputs[chosen], self.targets[chosen]
        else:
            inputs = self.inputs.index_select(0, chosen)
            targets = self.targets.index_select(0, chosen)
        if inputs.dtype != self.dtype:
            inputs = inputs.to(self.dtype)
        if not self.plain:
            inputs = inputs * self.scale + self.shift
        return inputs, targets


class Batches:
    """Minibatches without replacement: a new order every epoch, the remainder dropped."""

    def __init__(self, data: Data, samples: Samples, size: int, seed: int, rank: int) -> None:
        self.data, self.samples, self.size = data, samples, size
        self.seed, self.rank = seed, rank
        self.per_epoch = len(samples) // size
        self.whole = samples.values(slice(None)) if size == len(samples) else None
        self.epoch, self.order = -1, torch.empty(0)
        self.augments = type(data).augment is not Data.augment

    def take(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The minibatch of a local step, a function of (seed, rank, step)."""
        if self.whole is not None:
            inputs, targets = self.whole
        else:
            epoch, batch = divmod(step, self.per_epoch)
            if epoch != self.epoch:
                shuffle = rng.generator(self.seed, "batches", self.rank, epoch)
                self.order = torch.from_numpy(shuffle.permutation(len(self.samples)))
                self.epoch = epoch
            chosen = self.order[batch * self.size : (batch + 1) * self.size]
            inputs, targets = self.samples.values(chosen.to(self.samples.inputs.device))
        if self.augments:
            draw = rng.generator(self.seed, "augment", self.rank, step)
            inputs = self.data.augment(inputs, draw)
        return inputs, targets
