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
    """The papers' oracle: gradients on the next minibatch. A gradient takes virtual time."""

    local_steps: int  # T
    consensus_steps: int  # S
    shapes: Sequence[Shape]  # of the model's tensors, in the order of x
    step_count: int  # gradients taken so far

    def grad(self, x: Vector) -> Vector:
        """Return a stochastic gradient of this peer's loss at x, shape (d,); the caller's own."""

    def step(self, x: Vector) -> Vector:
        """Return lr * direction(x) of the local optimizer; a local step subtracts it from x."""

    def local_step(self, x: Vector, at: Vector | None = None) -> Vector:
        """Take a local step in place, x <- x - lr * direction(at), at = x by default; returns x."""

    def update(self, g: Vector, x: Vector, epoch: float | None = None) -> Vector:
        """Return lr * direction from a gradient g at x that the caller has computed.

        `epoch`: that of the learning-rate schedule; by default the passes over this peer's data.
        """

    def partial_grad(self, x: Vector, done: int, blocks: int, until: float) -> Vector:
        """Return the sum over the first `done` of `blocks` blocks of the next minibatch, / blocks.

        The summands are the blocks' mean gradients at x. The other blocks are not computed, and the
        minibatch is used up. The gradient is ready at virtual time `until`.
        """

    def seconds(self, rank: int, step: int) -> float:
        """Return the virtual seconds of any peer's local step (from 0); 0 without step times."""

    def advance_clock(self, until: float) -> None:
        """Advance the clock to `until` without computing a gradient."""

    def rng(self, purpose: str) -> np.random.Generator:
        """Return a generator of this peer's own for its next local step."""


@dataclass(frozen=True)
class Setting:
    """Facts about the run that plug-ins may check against or depend on."""

    seed: int
    peers: int
    local_steps: int
    batch_sizes: Sequence[int]  # by rank
    timed: bool  # local steps take virtual time
    instant: bool  # messages take none
    folder: Path  # that relative paths start from
    operations: Callable[[int], float]  # floating-point operations of a local step, by rank
    linked: NDArray[np.bool_]  # (n, n), row = receiver: who sends to whom, the diagonal included
    edges: Mapping[str, Matrix]  # "latency" and "bandwidth" of the topology's file, (n, n) or NaN
    stream: str = "compute"  # purpose of the random numbers of a step-time model
    consensus_steps: int = 1
    shapes: Sequence[Shape] = ()  # of the model's tensors
    steps_per_epoch: int = 1
    rounds: int = 1  # of the run
    epochs: float = 1.0  # of the run, as the schedules count them


class Algorithm:
    """A decentralized method: the local phase and the consensus phase of one round.

    The simulation calls `start` once, then in every round `local` and S times `consensus`, and
    evaluates the models that they return. They may change x in place. `requires` names the
    properties that W must have: "row-stochastic", "column-stochastic", "doubly-stochastic",
    "symmetric", "static"; it is a tuple in the class, or a property where it depends on the
    parameters.
    """

    metrics: ClassVar[Mapping[str, str]] = {}  # attributes to record after each round: meanings

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
        """Receive the facts of the run, once, before any peer starts.

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
        """Return the virtual seconds of `rounds` rounds of a time-dependent method.

        step(t) gives the seconds of the t-th local step of each peer. None: only a run can tell.
        """
        return None

    def start(self, x: Vector, oracle: Oracle, net: Neighborhood) -> None:
        """Create the state, on all peers at once; messages must be received here as well."""

    def local(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        """Take T steps of the local optimizer, x <- x - lr * direction(x); returns x."""
        for _ in range(oracle.local_steps):
            x = oracle.local_step(x)
        return x

    def consensus(self, x: Vector, oracle: Oracle, net: Neighborhood) -> Vector:
        """Take one mixing step; by default the identity. Returns x."""
        return x

    def compressors(self) -> Sequence[Compressor]:
        """Return the compressors among the parameters; the simulation binds them."""
        return [value for value in vars(self).values() if hasattr(value, "max_bytes")]
