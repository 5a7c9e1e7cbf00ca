"""Interfaces of learning: tasks and metrics, models, learning rules, local optimizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from p2psim.base.types import Shape, Vector

if TYPE_CHECKING:
    from pathlib import Path

    import torch


@dataclass(frozen=True)
class Batch:
    """Samples that a model is trained or tested on, with one leading axis."""

    inputs: Any  # a tensor, or a dict of tensors
    targets: Any  # a tensor
    weight: float  # what the loss is a mean over: samples, tokens, labeled nodes, rays
    start: int = 0  # position of the first sample in the test set

    def part(self, start: int, stop: int) -> Batch:
        """Return the samples from `start` to before `stop`; their share of the weight."""
        inputs, targets = self.inputs, self.targets
        weight = self.weight * (stop - start) / len(targets)
        named = isinstance(inputs, dict)
        part = {k: v[start:stop] for k, v in inputs.items()} if named else inputs[start:stop]
        return Batch(part, targets[start:stop], weight)


@dataclass(frozen=True)
class DataSpec:
    """The facts about a data set that tasks and models need."""

    inputs: Shape | Mapping[str, Shape]  # of one sample
    outputs: int  # of the model
    classes: int = 0  # 0: targets are no classes
    vocabulary: int | Sequence[int] = 0  # token ids, or one number for each categorical field
    context: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # shared by all samples

    @property
    def samples(self) -> str:
        """Kind of the samples, which the model must take; see Model.samples.

        "nodes" of a graph, "pairs" of nodes, "rays" through a scene, "fields" of categories,
        "tokens" or "numbers".
        """
        if "edges" in self.context:
            return "nodes" if self.inputs == () else "pairs"
        if "rays_per_view" in self.context:
            return "rays"
        if isinstance(self.vocabulary, Sequence):
            return "fields"
        return "tokens" if self.vocabulary else "numbers"


class Metric(Protocol):
    """A number, or an array of them, that is computed from sums over batches and over peers."""

    unit: str
    better: Literal["higher", "lower"]
    meaning: str  # one clause, for run.h5
    shape: Shape = ()  # of the result

    def zero(self, samples: int) -> NDArray[np.float64]:
        """Return sums before the first batch of a test set of `samples` samples."""

    def add(self, sums: NDArray[np.float64], outputs: torch.Tensor, batch: Batch) -> None:
        """Add a batch to the sums, in place."""

    def result(self, sums: NDArray[np.float64]) -> Any:
        """Return the metric, a float or an array of `shape`; NaN where it is not defined."""


class Task:
    """A kind of learning problem: its loss and its metrics. A data set names its default task.

    The first metric is the primary one: tables, plots and progress show it. A task without metrics
    is measured by its loss.
    """

    metrics: Mapping[str, Metric] = {}
    saved: int = 0  # number of test samples, the first ones, that `save` receives

    def check(self, spec: DataSpec, targets: NDArray[Any]) -> None:
        """Check targets of training or test samples; InputError where they do not fit the task."""

    def bind(self, spec: DataSpec, own: NDArray[Any]) -> None:
        """Receive the data set's facts and the targets of this peer's training samples.

        The targets have been checked. `metrics` must be complete afterwards.
        """

    def output_shape(self, spec: DataSpec) -> Shape:
        """Return the shape that the model's outputs must have for one sample.

        InputError where no model of this data set can fit the task.
        """
        return (spec.outputs,)

    def accepts(self, shape: Shape, spec: DataSpec) -> bool:
        """Return True if a model may give outputs of this shape for one sample."""
        return shape == self.output_shape(spec)

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the mean loss over the weight of the batch, a scalar."""
        raise NotImplementedError

    def save(self, path: Path, outputs: NDArray[Any], targets: NDArray[Any]) -> None:
        """Save the outputs of a peer's last model for the first `saved` test samples.

        `path` is a file in the run folder without its suffix. By default nothing is saved.
        """


class Model(Protocol):
    """A network; `shapes` gives without torch the parameters that `build` will hold.

    An optional method bind(spec: DataSpec, folder: Path) is called once, before all others, with
    the data set's facts and the folder that relative paths start from.
    """

    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")  # that [learning] may ask for
    samples: ClassVar[str] = "numbers"  # kind that the model takes, see DataSpec.samples

    @property
    def smallest_batch(self) -> int:
        """Number of samples that a minibatch needs in training, such as 2 for a batch norm."""
        return 1

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        """Return the parameters' shapes in torch's order, for samples of shape `inputs`."""

    def build(self, inputs: Shape, outputs: int) -> torch.nn.Module:
        """Return the torch module: (batch, *inputs) -> (batch, outputs)."""

    def macs(self, inputs: Shape, outputs: int) -> int:
        """Return the multiply-add operations of the forward pass of a sample."""
        raise NotImplementedError


class Learner(Protocol):
    """The objects of a learning rule: the module, its parameters and the flat gradient g."""

    module: torch.nn.Module
    parameters: list[torch.Tensor]
    g: torch.Tensor

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the task's loss, a scalar."""

    def backward(self, loss: torch.Tensor) -> None:
        """Compute g = dL/dx by reverse-mode differentiation of the loss, a scalar."""


class LearningRule(Protocol):
    """Computes the gradient of a minibatch.

    An optional method bind(module, key) is called once, before all others and again when a run is
    resumed: it may add hooks to the module. key(purpose) gives 64 random bits, the same on all
    peers; key(purpose, own=True) gives others on each peer. Attributes that `bind` sets are no
    state: a checkpoint holds the others.

    An optional method prepare(module, inputs) is called after `bind`, with the inputs of one sample
    and the module in evaluation mode: it may check the module, and freeze parameters that the rule
    does not train by requires_grad_(False). Frozen parameters are no part of the model's vector x.

    Before each gradient torch's generator is seeded for the peer and the step. A rule that draws no
    random numbers says so by the class attribute deterministic = True, and saves this time.
    """

    def gradient(self, learner: Learner, batch: Batch) -> float:
        """Fill learner.g with the gradient at the module's parameters; returns the loss."""


class LocalOptimizer(Protocol):
    """The direction of a local step, without the learning rate.

    An optional method mixed(before, after, rate) is called after each round with local steps: the
    model before and after the round, mixing included, and the sum of the learning rates between.

    An optional method bind(setting) is called once, before all others, with the facts about the
    experiment; ValueError if a parameter does not fit them. An optional method evaluated(loss) is
    called after the evaluation of a round, with the loss of this peer's model on the validation
    samples, if the data set has them.
    """

    def start(self, x: Vector) -> None:
        """Create the state for the first model x."""

    def direction(self, g: Vector, x: Vector) -> Vector:
        """Return the direction from gradient g at x; valid until the next call."""

    def rate(self, epoch: float, epochs: float) -> float:
        """Return the learning rate at `epoch` (from 0) of a run of `epochs`."""


class LearningRateSchedule(Protocol):
    """Factor on the learning rate over the run.

    Optional methods bind(setting), start() and evaluated(loss) are called as those of the
    optimizer; attributes that `start` sets are state.
    """

    def factor(self, epoch: float, epochs: float) -> float: ...
