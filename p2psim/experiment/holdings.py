"""Samples in memory: training samples of one peer or of all peers of a node, and the test set."""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from typing import Any

import numpy as np

from p2psim.base import Indices
from p2psim.errors import InputError
from p2psim.experiment.data_check import Raw, check_pair, check_samples, named
from p2psim.experiment.scenario import Scenario

SMALL = 2**20  # entries of all training samples; up to this number, all are read for the check


class Holdings:
    """Samples of an experiment, read at their first use; InputError if a file is damaged."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.name: str = scenario.experiment.table["data"]["name"]
        self.parts: dict[int, Raw] = {}  # training samples by rank

    def train(self, rank: int) -> Raw:
        """Return the training samples of a peer."""
        if rank not in self.parts:
            self.parts[rank] = self._read(self.scenario.parts[rank])
        return self.parts[rank]

    def _read(self, samples: Indices) -> Raw:
        """Return these training samples, checked to be inputs and targets."""
        numbers = samples.view()
        numbers.flags.writeable = False  # a data set must not change the partition
        return check_pair(self.name, "train", self.scenario.experiment.data.train(numbers))

    def bind_task(self, rank: int) -> None:
        """Read the samples of a peer, check them, and bind the task to its targets."""
        scenario = self.scenario
        self._check("training", self.train(rank), scenario.parts[rank])
        self._check("test", self.test, np.arange(len(self.test[1])))
        if self.validation:
            self._check("validation", self.validation, np.arange(len(self.validation[1])))
        scenario.task.bind(scenario.experiment.data.spec(), self.train(rank)[1])

    def check(self) -> None:
        """Check the samples of peer 0, or of all peers if the data is small, before a rank starts.

        Larger data would take long to read in one process, so each rank checks its own samples.
        """
        data, used = self.scenario.experiment.data, np.concatenate(self.scenario.parts)
        if used.size * math.prod(data.shape) <= SMALL:
            self._check("training", self._read(used), used)
        self.bind_task(0)
        self._check_classes()

    def _check(self, kind: str, samples: Raw, numbers: Indices) -> None:
        """Check samples with these numbers in the data set; InputError if they do not fit."""
        experiment = self.scenario.experiment
        dtype = experiment.model_section.dtype
        check_samples(self.name, experiment.data, kind, samples, numbers, dtype)
        self.scenario.task.check(experiment.data.spec(), samples[1])

    def _check_classes(self) -> None:
        """Check that the labels, by which data is split, are the classes that peer 0 trains on."""
        data, (_, targets) = self.scenario.experiment.data, self.train(0)
        labeled = data.classes and data.split_by_class
        if not labeled or targets.ndim > 1 or targets.dtype.kind not in "iu":
            return
        numbers = self.scenario.parts[0]
        labels = data.labels()[numbers]
        if (labels != targets).any():
            row = int(np.flatnonzero(labels != targets)[0])
            raise InputError(
                f"data {self.name!r}: training sample {numbers[row]} has class {targets[row]}, but "
                f"`labels` gives {labels[row]} for it; make `labels` and `train` agree"
            )

    @cached_property
    def test(self) -> Raw:
        """Test samples of the experiment's classes, the same on every peer."""
        return self._of_classes("test", self.scenario.experiment.data.test())

    @cached_property
    def validation(self) -> Raw | None:
        """Validation samples as `test`; None if the data set has none."""
        data = self.scenario.experiment.data
        if not data.validates:
            return None
        return self._of_classes("validation_samples", data.validation_samples())

    def _of_classes(self, method: str, raw: Any) -> Raw:
        """Return samples that a method has returned, checked, of the experiment's classes."""
        experiment = self.scenario.experiment
        inputs, targets = check_pair(self.name, method, raw)
        classes = experiment.data_section.classes
        if classes is None:
            return inputs, targets
        mask = np.isin(targets, classes)
        return rows(inputs, mask), targets[mask]

    def read_all(self) -> None:
        """Read the samples of all peers at once, for processes forked from this one to share."""
        parts = self.scenario.parts
        inputs, targets = self._read(np.concatenate(parts))
        ends = np.cumsum([len(part) for part in parts])
        slices = [slice(end - len(part), end) for end, part in zip(ends, parts, strict=True)]
        pieces = [(rows(inputs, piece), targets[piece]) for piece in slices]
        self.parts = dict(enumerate(pieces))
        _ = self.test, self.validation  # read now: they are cached for the forked processes

    def fingerprint(self, rank: int) -> str:
        """Return a digest of a peer's training samples, of other labels, and of shared arrays."""
        digest = hashlib.blake2b(digest_size=16)
        inputs, targets = self.train(rank)
        shared = [*self.scenario.experiment.data.context.values()]
        shared += [self.validation[1]] if self.validation else []
        for array in (*named(inputs).values(), targets, self.test[1], *shared):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def release(self) -> None:
        """Drop the training samples, so that arrays without other references are freed."""
        self.parts.clear()


def joined(one: Raw, other: Raw) -> Raw:
    """Return the samples of `one` and, behind them, those of `other`."""
    targets = np.concatenate([one[1], other[1]])
    if isinstance(one[0], dict):
        return {name: np.concatenate([one[0][name], other[0][name]]) for name in one[0]}, targets
    return np.concatenate([one[0], other[0]]), targets


def rows(inputs: Any, selection: Any) -> Any:
    """Return the selected rows (a slice or a mask) of an array, or of each array of a dict."""
    if isinstance(inputs, dict):
        return {name: array[selection] for name, array in inputs.items()}
    return inputs[selection]
