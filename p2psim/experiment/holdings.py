"""Samples in memory: training samples of one peer or of all peers of a node, and the test set."""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Indices
from p2psim.errors import InputError
from p2psim.experiment.scenario import Scenario

SMALL = 2**20  # entries of all training samples; up to this number, all are read for the check
Raw: TypeAlias = tuple[
    NDArray[Any], NDArray[Any]
]  # inputs and targets in the data set's own format


class Holdings:
    """Samples of an experiment, read at their first use; InputError if a file is damaged."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.parts: dict[int, Raw] = {}  # training samples by rank

    def train(self, rank: int) -> Raw:
        """Return the training samples of a peer."""
        if rank not in self.parts:
            scenario = self.scenario
            self.parts[rank] = scenario.experiment.data.train(scenario.parts[rank])
        return self.parts[rank]

    def bind_task(self, rank: int) -> None:
        """Read the samples of a peer, check them, and bind the task to its targets."""
        scenario = self.scenario
        self._check("training", self.train(rank), scenario.parts[rank])
        self._check("test", self.test, np.arange(len(self.test[1])))
        scenario.task.bind(scenario.experiment.data.spec(), self.train(rank)[1])

    def check(self) -> None:
        """Check the samples of peer 0, or of all peers if the data is small, before a rank starts.

        Larger data would take long to read in one process, so each rank checks its own samples.
        """
        data, used = self.scenario.experiment.data, np.concatenate(self.scenario.parts)
        if used.size * math.prod(data.shape) <= SMALL:
            self._check("training", data.train(used), used)
        self.bind_task(0)

    def _check(self, kind: str, samples: Raw, numbers: Indices) -> None:
        """Check samples with these numbers in the data set; InputError if they do not fit."""
        check_finite(self.scenario, kind, *samples, numbers)
        self.scenario.task.check(self.scenario.experiment.data.spec(), samples[1])

    @cached_property
    def test(self) -> Raw:
        """Test samples of the experiment's classes, the same on every peer."""
        experiment = self.scenario.experiment
        inputs, targets = experiment.data.test()
        classes = experiment.data_section.classes
        if classes is None:
            return inputs, targets
        mask = np.isin(targets, classes)
        return inputs[mask], targets[mask]

    def read_all(self) -> None:
        """Read the samples of all peers at once, for processes forked from this one to share."""
        parts = self.scenario.parts
        inputs, targets = self.scenario.experiment.data.train(np.concatenate(parts))
        cuts = np.cumsum([len(part) for part in parts])[:-1]
        pieces = zip(np.split(inputs, cuts), np.split(targets, cuts), strict=True)
        self.parts = dict(enumerate(pieces))
        _ = self.test  # read now: the property caches it for the forked processes

    def fingerprint(self, rank: int) -> str:
        """Return a digest of a peer's training samples and of the test labels."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (*self.train(rank), self.test[1]):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def release(self) -> None:
        """Drop the training samples, so that arrays without other references are freed."""
        self.parts.clear()


def check_finite(
    scenario: Scenario, kind: str, inputs: Any, targets: NDArray[Any], numbers: Indices
) -> None:
    """Check that all entries are finite; InputError with the number of a sample otherwise."""
    columns = inputs if isinstance(inputs, dict) else {"inputs": inputs}
    for name, array in {**columns, "targets": targets}.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
            raise InputError(
                f"data {scenario.experiment.table['data']['name']!r}: {name} of {kind} sample "
                f"{numbers[row]} hold NaN or infinity; correct the data"
            )
