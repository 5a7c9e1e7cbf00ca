"""Samples in memory, and the minibatches of a peer's local steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from p2psim import rng
from p2psim.base import Batch, Data
from p2psim.learning.rules import input_type

# Bytes of a column whose values are computed once at the start, and put into order once an epoch.
SMALL = 1 << 20


class Column:
    """Raw entries of all samples; those of a batch are scaled, or all at once if they are few."""

    def __init__(self, raw: Any, dtype: torch.dtype, device: str, scale: Any, shift: Any) -> None:
        """Put raw entries on the device; values are raw * scale + shift in `dtype`.

        Without scaling both are None, and values are the raw entries in `dtype`.
        """
        self.entries = torch.from_numpy(np.ascontiguousarray(raw)).to(device)
        self.scale, self.shift, self.dtype = scale, shift, dtype
        self.small = self.entries.numel() * dtype.itemsize <= SMALL
        if self.small or (scale is None and self.entries.dtype.is_floating_point):
            self.entries, self.scale = self._scaled(self.entries), None

    def values(self, selection: Any) -> torch.Tensor:
        """Return the values of the selected samples (a slice or indices)."""
        sliced = isinstance(selection, slice)
        entries = self.entries[selection] if sliced else self.entries.index_select(0, selection)
        return self._scaled(entries)

    def _scaled(self, entries: torch.Tensor) -> torch.Tensor:
        values = entries if entries.dtype == self.dtype else entries.to(self.dtype)
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
            return Column(array, input_type(data, array, dtype), device, scale, shift)

        columns = inputs if self.named else {"": inputs}
        self.columns = {name: column(array) for name, array in columns.items()}
        self.count = len(self.targets)
        self.small = all(column.small for column in self.columns.values())

    def values(self, selection: Any) -> Batch:
        """Return the selected samples (a slice or indices) as a batch."""
        sliced = isinstance(selection, slice)
        targets = self.targets[selection] if sliced else self.targets.index_select(0, selection)
        inputs: Any = {name: column.values(selection) for name, column in self.columns.items()}
        start = selection.start or 0 if sliced else 0
        return Batch(inputs if self.named else inputs[""], targets, targets.numel(), start)


class Batches:
    """Minibatches of one peer's samples, of `size` samples each.

    Each epoch has a new random order, whose last len(samples) % size samples are not used. If
    `size` is the number of samples, each minibatch holds all of them in their stored order.
    """

    def __init__(self, data: Data, samples: Samples, size: int, seed: int, rank: int) -> None:
        self.data, self.samples, self.size = data, samples, size
        self.seed, self.rank = seed, rank
        self.per_epoch = samples.count // size
        # A minibatch of all samples is the same in every step, up to augmentation.
        self.full_batch = samples.values(slice(None)) if size == samples.count else None
        self.epoch, self.order = -1, torch.empty(0)
        self.prepared: list[Batch] = []  # the minibatches of the epoch, if its samples are small
        self.augments = type(data).augment is not Data.augment

    def take(self, step: int) -> Batch:
        """Return the minibatch of local step `step` (from 0), a function of (seed, rank, step)."""
        batch = self.full_batch
        if batch is None:
            epoch, number = divmod(step, self.per_epoch)
            if epoch != self.epoch:
                self.shuffle(epoch)
            if self.prepared:
                batch = self.prepared[number]
            else:
                start = number * self.size
                batch = self.samples.values(self.order[start : start + self.size])
        if self.augments:
            generator = rng.generator(self.seed, "augment", self.rank, step)
            batch = replace(batch, inputs=self.data.augment(batch.inputs, generator))
        return batch

    def shuffle(self, epoch: int) -> None:
        """Put the samples into the random order of an epoch."""
        generator = rng.generator(self.seed, "batches", self.rank, epoch)
        order = torch.from_numpy(generator.permutation(self.samples.count))
        self.order, self.epoch = order.to(self.samples.targets.device), epoch
        if self.samples.small:
            whole = self.samples.values(self.order)
            starts = range(0, self.per_epoch * self.size, self.size)
            self.prepared = [whole.part(start, start + self.size) for start in starts]
