"""Step-time models: pure functions (seed, rank, step) -> virtual seconds of a local step.

Their kind is "compute" in the experiment file.
"""

from __future__ import annotations

import contextlib
import functools
import math
from dataclasses import replace
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from p2psim import rng
from p2psim.base import Count, Natural, NonNegative, Positive, Setting, StepTimeModel
from p2psim.errors import InputError
from p2psim.network.peer_values import broadcast_to_peers, check_ranks, read_columns
from p2psim.registry import plugin

ROWS = 256  # periods in the cache: asynchronous peers are in different periods at a time
Factor = Annotated[float, Meta(ge=1)]


@plugin("compute", "constant")
class Constant:
    """Every step takes `seconds_per_step`: one number, or one per peer."""

    seconds_per_step: Positive | list[Positive] = 1.0

    def bind(self, setting: Setting) -> None:
        key = "time.compute.seconds_per_step"
        self.by_rank = broadcast_to_peers(self.seconds_per_step, key, setting.peers)

    def seconds(self, rank: int, step: int) -> float:
        return self.by_rank[rank]


class RandomStepTimes:
    """Base of random step times: drawn anew for each peer every `period` steps, then constant.

    One generator per period draws all peers' times in rank order, so reading every peer's time, as
    the fastest-k algorithms do, costs one draw.
    """

    period: int

    def bind(self, setting: Setting) -> None:
        self.seed, self.stream, self.peers = setting.seed, setting.stream, setting.peers
        self.cached_period = functools.lru_cache(ROWS)(self.draw_period)

    def draw_period(self, period: int) -> list[float]:
        """Draw the seconds of all peers in this period; InputError if one overflows float64."""
        generator = rng.generator(self.seed, self.stream, step=period)
        # NumPy overflows to inf, math.exp raises OverflowError.
        with np.errstate(over="ignore"), contextlib.suppress(OverflowError):
            seconds = self.draw(generator, self.peers)
            if np.isfinite(seconds).all():
                by_rank: list[float] = seconds.tolist()
                return by_rank
        raise InputError(
            "time.compute: a step takes more seconds than a number can hold; give smaller ones"
        )

    def draw(self, generator: np.random.Generator, n: int) -> NDArray[np.float64]:
        """Draw the seconds of n peers, (n,), so that a peer's time does not depend on n."""
        raise NotImplementedError

    def seconds(self, rank: int, step: int) -> float:
        return self.cached_period(step // self.period)[rank]


@plugin("compute", "exponential")
class Exponential(RandomStepTimes):
    """X = Exp with mean `mean`."""

    mean: Positive = 1.0
    period: Count = 1

    def draw(self, generator: np.random.Generator, n: int) -> NDArray[np.float64]:
        return self.mean * generator.standard_exponential(n)


@plugin("compute", "shifted-exponential", "Xu 2021, section 4")
class ShiftedExponential(RandomStepTimes):
    """X = shift + Exp with mean `mean`."""

    shift: NonNegative = 0.05
    mean: NonNegative = 0.02
    period: Count = 1

    def draw(self, generator: np.random.Generator, n: int) -> NDArray[np.float64]:
        return self.shift + self.mean * generator.standard_exponential(n)


@plugin("compute", "pareto")
class Pareto(RandomStepTimes):
    """P(X > x) = (minimum / x)^shape for x >= minimum; mean minimum shape / (shape - 1)."""

    minimum: Positive = 1.0
    shape: Positive = 2.0
    period: Count = 1

    def draw(self, generator: np.random.Generator, n: int) -> NDArray[np.float64]:
        return self.minimum * (1 + generator.pareto(self.shape, n))


@plugin("compute", "lognormal")
class Lognormal(RandomStepTimes):
    """X = median exp(sigma Z), Z standard normal; mean median exp(sigma^2 / 2)."""

    median: Positive = 1.0
    sigma: NonNegative = 0.5
    period: Count = 1

    def draw(self, generator: np.random.Generator, n: int) -> NDArray[np.float64]:
        normal = generator.standard_normal(n)
        return np.array([self.median * math.exp(self.sigma * z) for z in normal])


@plugin("compute", "slow-peers")
class SlowPeers:
    """Steps `first` to `last` (from 0, both included) of these peers take `factor` times `of`."""

    peers: list[Natural]
    factor: Factor = 10.0
    first: Natural = 0
    last: Natural | None = None
    of: StepTimeModel = "constant"  # type: ignore[assignment]

    def bind(self, setting: Setting) -> None:
        check_ranks("time.compute.peers", self.peers, setting.peers)
        if self.last is not None and self.last < self.first:
            raise InputError(
                f"time.compute: last = {self.last} is before first = {self.first}; give a last "
                f"step of at least {self.first}, or none"
            )
        self.of.bind(setting)

    def seconds(self, rank: int, step: int) -> float:
        slow = rank in self.peers and self.first <= step <= (
            step if self.last is None else self.last
        )
        return self.of.seconds(rank, step) * (self.factor if slow else 1)


@plugin("compute", "sum")
class SumOfTimes:
    """X = the sum of the models `of`, drawn independently, such as operations and random delays."""

    of: list[StepTimeModel]

    def bind(self, setting: Setting) -> None:
        for number, part in enumerate(self.of):
            # A stream of its own, or two models of one kind would draw the same numbers.
            part.bind(replace(setting, stream=f"{setting.stream}/{number}"))

    def seconds(self, rank: int, step: int) -> float:
        return math.fsum(part.seconds(rank, step) for part in self.of)


@plugin("compute", "flops")
class Flops:
    """X = operations of a step / `rate`, in operations per second: one number, or one per peer.

    A step takes 6 operations per sample and multiplication-addition of the forward pass: two in
    the forward pass, four in the backward pass.
    """

    rate: Positive | list[Positive] = 1e12

    def bind(self, setting: Setting) -> None:
        rates = broadcast_to_peers(self.rate, "time.compute.rate", setting.peers)
        self.by_rank = [setting.operations(rank) / rate for rank, rate in enumerate(rates)]

    def seconds(self, rank: int, step: int) -> float:
        return self.by_rank[rank]


@plugin("compute", "trace")
class StepTimeTrace:
    """Measured step times: the columns `peer` and `seconds` of a CSV or HDF5 file.

    The k-th row of a peer is the time of its k-th step; after the last row the first one follows.
    """

    file: str

    def bind(self, setting: Setting) -> None:
        columns = read_columns(setting.folder / self.file, "time.compute.file", "peer", "seconds")
        check_ranks(f"{self.file}: peer", columns["peer"], setting.peers)
        seconds = columns["seconds"]
        if not (np.isfinite(seconds) & (seconds >= 0)).all():
            raise InputError(f"{self.file}: seconds must be finite numbers >= 0; correct the file")
        by_rank = [seconds[columns["peer"] == rank] for rank in range(setting.peers)]
        for rank, times in enumerate(by_rank):
            if not times.size:
                raise InputError(f"{self.file}: no row for peer {rank}; give each at least one")
        self.by_rank = [times.tolist() for times in by_rank]

    def seconds(self, rank: int, step: int) -> float:
        times = self.by_rank[rank]
        return float(times[step % len(times)])
