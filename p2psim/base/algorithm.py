"""Interfaces of decentralized methods: the oracle of the papers, and the algorithm itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from p2psim.base.network import Compressor, Neighborhood
from p2psim.base.types import Matrix, Shape, Vector


class Oracle(Protocol):
    """The stochastic oracle of the literature: gradients on the peer's next minibatch.

    Each gradient uses up one minibatch, adds 1 to `step_count` and advances the virtual clock.
    """

    local_steps: int  # T
    consensus_steps: int  # S
    shapes: Sequence[Shape]  # of the model's tensors, in the order of x
    step_count: int  # gradients taken so far

    def grad(self, x: Vector) -> Vector:
        """Return a stochastic gradient of this peer's loss at x, shape (d,).

        The caller may change the returned array.
        """

    def step(self, x: Vector) -> Vector:
        """Compute a stochastic gradient at x; return lr * direction of the optimizer, shape (d,).

        x does not change: a local step is x - step(x).
        """

    def local_step(self, x: Vector, at: Vector | None = None) -> Vector:
        """Take a local step in place, x <- x - lr * direction(at), at = x by default; returns x."""

    def update(self, g: Vector, x: Vector, epoch: float | None = None) -> Vector:
        """Return lr * direction of the optimizer for a given gradient g at x; x does not change.

        `epoch` selects the learning rate; by default the epochs of this peer's local steps.
        """

    def partial_grad(self, x: Vector, done: int, blocks: int, until: float) -> Vector:
        """Compute a gradient at x on a part of the next minibatch, which is split into blocks.

        Return 1 / blocks times the sum of the mean gradients of the first `done` blocks. The whole
        minibatch counts as used. The virtual clock advances to `until`.
        """

    def seconds(self, rank: int, step: int) -> float:
        """Return the virtual seconds of local step number `step` (the first is 0) of a peer.

        0 if the experiment has no step-time model.
        """

    def advance_clock(self, until: float) -> None:
        """Advance the clock to `until` without computing a gradient."""

    def rng(self, purpose: str) -> np.random.Generator:
        """Return a new generator, a function of (seed, purpose, this peer, `step_count`).

        Two calls with one purpose before the same local step give the same numbers.
        """


@dataclass(frozen=True)
class Setting:
    """Facts about the run that plug-ins may check against or depend on."""

    seed: int
    peers: int
    local_steps: int
    batch_sizes: Sequence[int]  # by rank
    timed: bool  # local steps take virtual time
    instant: bool  # messages take no virtual time
    folder: Path  # that relative paths start from
    operations: Callable[[int], float]  # rank -> floating-point operations of a local step
    # (n, n), row = receiver: who sends to whom in a step of the period, the diagonal included
    linked: NDArray[np.bool_]
    edges: Mapping[str, Matrix]  # "latency" and "bandwidth" of the topology's file, (n, n) or NaN
    stream: str = "compute"  # purpose of the random numbers of a step-time model
    consensus_steps: int = 1
    shapes: Sequence[Shape] = ()  # of the model's tensors
    steps_per_epoch: int = 1
    rounds: int = 1  # of the run
    epochs: float = 1.0  # of the run, as the schedules count them
    validates: bool = False  # the data set has validation samples


class Algorithm:
    """A decentralized method: the local phase and the consensus phase of one round.

    The simulation calls `start` once, then in every round `local` and S times `consensus`. Both
    return the model, which is evaluated, and both may change x in place. `requires` names the
    properties that W must have: "row-stochastic", "column-stochastic", "doubly-stochastic",
    "symmetric", "static"; it is a tuple in the class, or a property where it depends on the
    parameters.
    """

    metrics: ClassVar[Mapping[str, str]] = {}  # attribute to record after each round -> its meaning

    @property
    def requires(self) -> tuple[str, ...]:
        return ()

    @property
    def time_dependent(self) -> bool:
        """True if the order of events depends on virtual time."""
        return False

    @property
    def round_seconds(self) -> float | None:
        """Virtual seconds of a round that ends by the clock; None if it ends after T local steps.

        A method with such rounds gives its schedule the epoch: `oracle.update(g, x, epoch)`.
        """
        return None

    def advice(self, properties: Collection[str]) -> str:
        """Return how to change the parameters so that W suits the method, or an empty string.

        `properties` are those of W; the text completes the message that refuses W.
        """
        return ""

    def bind(self, setting: Setting) -> None:
        """Receive the facts of the run, once for each object, before any peer starts.

        ValueError where the parameters do not suit them. Attributes that `bind` sets are no state.
        """

    def diagnose(self, weights: NDArray[Any], consensus_steps: int) -> dict[str, str]:
        """Return diagnostics from W_t, shape (period, n, n), as {label: text} for `p2psim plan`.

        The text under "warning" is also printed when the run is started.
        """
        return {}

    def duration(
        self, setting: Setting, rounds: int, step: Callable[[int], Sequence[float]]
    ) -> float | None:
        """Return the virtual seconds of `rounds` rounds, or None if only a run can determine them.

        Only time-dependent methods are asked. step(t) returns the seconds of local step t (from 0),
        one number for each peer.
        """
        return None

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        """Create the state of this peer; all peers call `start` at the same time.

        A message that is sent here must be received here.
        """

    def local(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        """Take T steps of the local optimizer, x <- x - lr * direction(x); returns x."""
        for _ in range(oracle.local_steps):
            x = oracle.local_step(x)
        return x

    def consensus(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        """Take one mixing step and return the model. This default returns x unchanged."""
        return x

    def compressors(self) -> Sequence[Compressor]:
        """Return the attributes that are compressors; the simulation binds them.

        An algorithm that keeps compressors in a list or a dict overrides this method.
        """
        return [value for value in vars(self).values() if hasattr(value, "max_bytes")]
