"""The samples of one peer in memory, and the minibatches of its local steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from p2psim import rng
from p2psim.base import Batch, Data


class Column:
    """Raw entries of all samples, turned into values only when a batch is taken."""

    def __init__(self, raw: Any, dtype: torch.dtype, device: str, scale: Any, shift: Any) -> None:
        """Values are raw * scale + shift in `dtype`; both are None where raw numbers are values."""
        self.raw = torch.from_numpy(np.ascontiguousarray(raw)).to(device)
        self.scale, self.shift, self.dtype = scale, shift, dtype
        if scale is None and self.raw.dtype.is_floating_point:
            self.raw = self.raw.to(dtype)

    def values(self, chosen: Any) -> torch.Tensor:
        """Return the values of these samples (a slice or indices)."""
        sliced = isinstance(chosen, slice)
        values = self.raw[chosen] if sliced else self.raw.index_select(0, chosen)
        if values.dtype != self.dtype:
            values = values.to(self.dtype)
        return values if self.scale is None else values * self.scale + self.shift


class Samples:
    """Samples of a data set in memory: one column of inputs or several by name, and targets."""

    def __init__(self, data: Data, raw: tuple[Any, Any], dtype: torch.dtype, device: str) -> None:
        inputs, targets = raw
        self.targets = torch.from_numpy(np.ascontiguousarray(targets)).to(device)
        self.named = isinstance(inputs, dict)
        scale = shift = None
        if data.scale is not Data.scale or data.shift is not Data.shift:
            scale, shift = (
                torch.as_tensor(np.asarray(v), dtype=dtype).to(device)
                for v in (data.scale, data.shift)
            )

        def column(array: Any) -> Column:
            ids = bool(data.vocabulary) and np.issubdtype(array.dtype, np.integer)
            return Column(array, torch.int64 if ids else dtype, device, scale, shift)

        columns = inputs if self.named else {"": inputs}
        self.columns = {name: column(array) for name, array in columns.items()}

    def __len__(self) -> int:
        return len(self.targets)

    def values(self, chosen: Any) -> Batch:
        """Return these samples (a slice or indices) as a batch."""
        sliced = isinstance(chosen, slice)
        targets = self.targets[chosen] if sliced else self.targets.index_select(0, chosen)
        inputs: Any = {name: column.values(chosen) for name, column in self.columns.items()}
        start = chosen.start or 0 if sliced else 0
        return Batch(inputs if self.named else inputs[""], targets, targets.numel(), start)


class Batches:
    """Minibatches without replacement: a new order every epoch, the remainder dropped."""

    def __init__(self, data: Data, samples: Samples, size: int, seed: int, rank: int) -> None:
        self.data, self.samples, self.size = data, samples, size
        self.seed, self.rank = seed, rank
        self.per_epoch = len(samples) // size
        self.whole = samples.values(slice(None)) if size == len(samples) else None
        self.epoch, self.order = -1, torch.empty(0)
        self.augments = type(data).augment is not Data.augment

    def take(self, step: int) -> Batch:
        """Return the minibatch of a local step, a function of (seed, rank, step)."""
        batch = self.whole
        if batch is None:
            epoch, number = divmod(step, self.per_epoch)
            if epoch != self.epoch:
                shuffle = rng.generator(self.seed, "batches", self.rank, epoch)
                self.order = torch.from_numpy(shuffle.permutation(len(self.samples)))
                self.epoch = epoch
            chosen = self.order[number * self.size : (number + 1) * self.size]
            batch = self.samples.values(chosen.to(self.samples.targets.device))
        if self.augments:
            draw = rng.generator(self.seed, "augment", self.rank, step)
            batch = replace(batch, inputs=self.data.augment(batch.inputs, draw))
        return batch
