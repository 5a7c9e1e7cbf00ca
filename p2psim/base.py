"""The interfaces of p2psim, on one page: what a plug-in must offer and what it may use.

A plug-in is a class with the decorator `registry.plugin`. Its annotated class attributes are its
parameters, with their defaults: the experiment file sets them, `p2psim list` prints them. What it
assigns to `self` later is its state. Symbols are those of the papers: n peers, x one peer's flat
parameter vector of length d, W the mixing matrix with W[i, j] != 0 iff j sends to i.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, TypeAlias

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Vector: TypeAlias = NDArray[Any]  # float32 or float64, contiguous, one dimension
Matrix: TypeAlias = NDArray[np.float64]
Payload: TypeAlias = NDArray[np.uint8]  # the bytes that travel
Indices: TypeAlias = NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]
Ranks: TypeAlias = Sequence[int] | None

# Ranges that the experiment file is checked against.
Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(gt=0, le=1)]
Unit = Annotated[float, Meta(ge=0, le=1)]


class Compressor(Protocol):
    """Q or C of the papers: a vector becomes bytes and bytes become a vector.

    `bind` comes once, before all else: `shapes` are the tensors' shapes in the order in which they
    lie in the vector (layer-wise compressors cut there), `stream` is this peer's own randomness.
    """

    def bind(self, shapes: Sequence[Shape], stream: Stream) -> None: ...

    def encode(self, v: Vector, out: Payload) -> int:
        """Write C(v) into `out`, return the bytes used. FloatingPointError if v is not finite."""

    def decode(self, payload: Payload, out: Vector) -> None:
        """Write the vector that `payload` stands for into `out` (all d entries)."""

    def max_bytes(self, d: int, itemsize: int = 4) -> int:
        """Bytes that `encode` needs at most for d entries of `itemsize` bytes."""


class Stream(Protocol):
    """A stateless random stream: its position is the whole of its state."""

    position: int

    def next(self) -> np.random.Generator:
        """The generator of the next position."""

    def seed(self) -> int:
        """64 bits that stand for the next position and can travel."""


class Message(Protocol):
    """The exact bytes that travel, and the vector that they stand for."""

    @property
    def payload(self) -> Payload: ...

    @property
    def value(self) -> Vector: ...


class Handle(Protocol):
    """A transfer under way; ask it once, for the messages or for their weighted sum."""

    def wait(self) -> dict[int, Message]: ...

    def mix(self) -> Vector: ...

    def ready(self) -> float:
        """When, in virtual time, all its messages are there; the clock does not move."""


class Neighborhood(Protocol):
    """One peer's view of the network. Vectors that it returns are the caller's to keep."""

    rank: int
    peers: int

    @property
    def now(self) -> float:
        """Virtual seconds on this peer's clock."""

    @property
    def weights(self) -> Matrix:
        """W of this consensus step, shape (n, n); not to be changed."""

    def senders(self, rank: int | None = None) -> Sequence[int]:
        """The in-neighbors of a peer, of this one unless given, in rank order."""

    def receivers(self) -> Sequence[int]:
        """This peer's out-neighbors, in rank order."""

    def arrival_time(self, sender: int, receiver: int, sent_at: float, m: Message) -> float:
        """When a message of m's kind that sets out at `sent_at` would be there."""

    @property
    def diameter(self) -> int:
        """Rounds of passing on, by the graphs of the first steps, until all have heard of all."""

    def message(
        self, v: Vector, compressor: Compressor | None = None, raw_tail: int = 0
    ) -> Message:
        """C(v), ready to travel; `value` is what every receiver will decode.

        The last `raw_tail` entries come after the d that the compressor is bound to and travel as
        they are.
        """

    def exchange(self, m: Vector | Message | Mapping[int, Message]) -> dict[int, Message]:
        """Send m to all out-neighbors (or m[j] to j); the messages of the in-neighbors by rank.

        m[rank] is not sent: a peer without out-neighbors says with it what it receives.
        """

    def mix(self, m: Vector | Message) -> Vector:
        """sum_j W[i, j] value_j over in-neighbors and self, in rank order."""

    def for_each(self, m: Vector | Message, see: Callable[[int, Message], None]) -> None:
        """As exchange, but few messages are there at a time: see(j, m_j), own included, by rank."""

    def start_exchange(
        self, m: Vector | Message, to: Ranks = None, sources: Ranks = None
    ) -> Handle:
        """Start sending m now, use the handle later: what runs between overlaps the transfer.

        `to` and `of`: some of the out-neighbors to send to and of the in-neighbors to receive from,
        all unless given; messages between two peers meet in the order of posting.
        """

    def simulator_exchange(self, v: Vector) -> dict[int, Vector]:
        """The v of all in-neighbors and self, by rank, uncounted: what no network would carry."""

    def mean(self, v: Vector) -> Vector:
        """The exact mean of v over all peers, by point-to-point messages outside the topology."""


class Oracle(Protocol):
    """The papers' oracle: the next minibatch's gradient. A call takes virtual time."""

    local_steps: int  # T
    consensus_steps: int  # S
    shapes: Sequence[Shape]  # of the model's tensors, in the order in which they lie in x
    step_count: int  # gradients taken so far

    def grad(self, x: Vector) -> Vector:
        """Stochastic gradient of this peer's loss at x, shape (d,); the caller's to keep."""

    def step(self, x: Vector) -> Vector:
        """lr * direction(x) of the local optimizer: what one local step subtracts from x."""

    def local_step(self, x: Vector, at: Vector | None = None) -> Vector:
        """One local step in place, x <- x - lr * direction(at), at = x unless given; returns x."""

    def update(self, g: Vector, x: Vector) -> Vector:
        """lr * direction from a gradient g at x that the caller made."""

    def seconds(self, rank: int, step: int) -> float:
        """Virtual seconds of any peer's local step (from 0); 0 without a compute model."""

    def partial_grad(self, x: Vector, done: int, blocks: int, until: float) -> Vector:
        """(1 / blocks) sum of the mean gradients at x of the next minibatch's first `done` blocks.

        What is not done is not computed; the minibatch is used up. It is `until` when it is ready.
        """

    def advance_clock(self, until: float) -> None:
        """Let virtual time pass in work that `part` will do later, or that comes to nothing."""

    def rng(self, purpose: str) -> np.random.Generator:
        """This peer's own randomness for its next local step."""


@dataclass(frozen=True)
class Setting:
    """What parameters may have to suit, and what models of time may need to know."""

    seed: int
    peers: int
    local_steps: int
    batch_sizes: Sequence[int]  # by rank
    timed: bool  # local steps take virtual time
    instant: bool  # messages take none
    folder: Path  # that relative paths start from
    operations: Callable[[int], float]  # floating-point operations of a local step, by rank
    linked: NDArray[np.bool_]  # (n, n), row = receiver: who sends to whom, the diagonal included
    edges: Mapping[str, Matrix]  # given "latency", "bandwidth": (n, n), row = receiver, or NaN
    stream: str = "compute"  # purpose of what is drawn at random
    consensus_steps: int = 1
    shapes: Sequence[Shape] = ()  # of the model's tensors
    steps_per_epoch: int = 1
    epochs: float = 1.0  # length of the run


class Algorithm:
    """What a peer does in one round. x may be changed in place; return the new x.

    The simulation calls `start` once, then in every round `local` and S times `consensus`, and
    evaluates what they return. `requires = ("row-stochastic",)` in a class says what W must be:
    "row-stochastic", "column-stochastic", "doubly-stochastic", "symmetric", "static"; a property
    where it depends on the parameters.
    """

    metrics: ClassVar[Mapping[str, str]] = {}  # attributes to record after each round: meanings

    @property
    def requires(self) -> tuple[str, ...]:
        return ()

    @property
    def time_dependent(self) -> bool:
        """Whether what a peer does depends on virtual time."""
        return False

    def bind(self, setting: Setting) -> None:
        """ValueError where the parameters do not suit the run; asked before any peer starts."""

    def diagnose(self, weights: NDArray[Any], consensus_steps: int) -> dict[str, str]:
        """What W_t, shape (period, n, n), tells before a run: lines for `p2psim plan` by name.

        What stands under "warning" is also said when the run is started.
        """
        return {}

    def duration(
        self, setting: Setting, rounds: int, step: Callable[[int], Sequence[float]]
    ) -> float | None:
        """Virtual seconds of so many rounds of what is `time_dependent`; None: only a run tells.

        step(t): seconds of the t-th local step of each peer.
        """
        return None

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        """Set up the state, all peers at once; messages are allowed that are received here, too."""

    def local(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        """T steps of the local optimizer: x <- x - lr * direction(x)."""
        for _ in range(oracle.local_steps):
            x = oracle.local_step(x)
        return x

    def consensus(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        """One mixing step; the identity unless the algorithm says otherwise."""
        return x

    def compressors(self) -> Sequence[Compressor]:
        """The compressors among the parameters (the simulation binds them)."""
        return [value for value in vars(self).values() if hasattr(value, "max_bytes")]


class LearningRule(Protocol):
    """Fills `learner.g` with a minibatch's gradient; returns loss and the model's outputs."""

    def gradient(
        self, learner: Learner, inputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[float, torch.Tensor]: ...


class Learner(Protocol):
    """What a learning rule works on: the torch module, its parameters and the flat gradient g."""

    module: torch.nn.Module
    parameters: list[torch.Tensor]
    g: torch.Tensor

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor: ...


class LocalOptimizer(Protocol):
    """The direction that a local step follows, without the learning rate.

    One that also has `mixed` is told after each round in which it was asked: the model before and
    after (mixing included), and the sum of the learning rates between.
    """

    def start(self, x: Vector) -> None: ...

    def direction(self, g: Vector, x: Vector) -> Vector:
        """Direction from gradient g at x; valid until the next call."""

    def rate(self, epoch: float, epochs: float) -> float:
        """Learning rate at `epoch` (from 0) of a run of `epochs`."""


class LearningRateSchedule(Protocol):
    """Factor on the learning rate over the run."""

    def factor(self, epoch: float, epochs: float) -> float: ...


class Model(Protocol):
    """A network; `shapes` says without torch what `build` will hold."""

    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")  # that [learning] may ask for
    tokens: ClassVar[bool] = False  # samples are token ids (int64); `vocabulary` is then the data's
    vocabulary: int = 0
    # A method locate(folder), where there is one, is told first what relative paths start from.

    def shapes(self, inputs: Shape, outputs: int) -> list[Shape]:
        """Parameter shapes in torch's order, for samples of shape `inputs`."""

    def build(self, inputs: Shape, outputs: int) -> torch.nn.Module:
        """The torch module: (batch, *inputs) -> (batch, outputs)."""

    def macs(self, inputs: Shape, outputs: int) -> int:
        """Multiplications with an addition in the forward pass of a sample (compute "flops")."""
        raise NotImplementedError


class Data:
    """A data set. Peers ask only for what they hold; values are x = raw * scale + shift."""

    shape: Shape  # of one sample
    outputs: int  # of the model
    classes: int  # 0 for regression
    vocabulary: int = 0  # of token ids; 0: entries are numbers
    loss: str = "cross-entropy"  # or "logistic" (one logit, classes 0 and 1), "half-squared"
    scale: Any = 1.0  # a number, or an array that broadcasts over a sample
    shift: Any = 0.0

    def open(self, folder: str) -> None:
        """Find and check the files, fill the attributes above; relative paths are in `folder`."""

    def labels(self) -> Indices:
        """Class of every training sample: all that a partition may see."""
        raise NotImplementedError

    def parts(self, n: int) -> list[Indices] | None:
        """The split among n peers where the data itself fixes it (then `partition` is refused)."""
        return None

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        """Raw inputs (len, *shape) and targets of these training samples."""
        raise NotImplementedError

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Raw inputs and targets of the whole test set."""
        raise NotImplementedError

    def initial(self, rank: int) -> Vector | None:
        """This peer's first x where the data fixes it."""
        return None

    def augment(self, inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """A training minibatch, changed at random (crop, flip); on values, not on raw."""
        return inputs


class Partition(Protocol):
    """Who holds which samples; every peer computes the same split alone."""

    def split(self, labels: Indices, n: int, rng: np.random.Generator) -> list[Indices]: ...


class StepTimeModel(Protocol):
    """Seconds of virtual time that a peer's local step takes: a pure function of the seed."""

    def bind(self, setting: Setting) -> None:
        """Once, before all else. InputError where the model does not suit the experiment."""

    def seconds(self, rank: int, step: int) -> float: ...


class LinkModel(Protocol):
    """When messages arrive, in virtual time: pure functions."""

    def bind(self, setting: Setting) -> None:
        """Once, before all else. InputError where the model does not suit the experiment."""

    def occupies(self, sender: int, nbytes: int) -> float:
        """Seconds for which a message keeps the next ones of its sender from setting out."""

    def arrival(self, sender: int, receiver: int, sent_at: float, nbytes: int) -> float:
        """When a message that sets out at `sent_at` is there."""


KINDS: dict[str, type] = {
    "algorithm": Algorithm,
    "compressor": Compressor,
    "data": Data,
    "model": Model,
    "optimizer": LocalOptimizer,
    "partition": Partition,
    "rule": LearningRule,
    "schedule": LearningRateSchedule,
    "compute": StepTimeModel,
    "link": LinkModel,
}
