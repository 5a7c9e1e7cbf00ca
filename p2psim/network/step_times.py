"""Compute models: virtual seconds of a peer's local step, pure functions of (seed, rank, step)."""

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

ROWS = 256  # periods that are remembered: asynchronous peers are in different ones
Factor = Annotated[float, Meta(ge=1)]


@plugin("compute", "constant")
class Constant:
    """Every step takes `seconds_per_step`: one number, or one for each peer."""

    seconds_per_step: Positive | list[Positive] = 1.0

    def bind(self, setting: Setting) -> None:
        key = "time.compute.seconds_per_step"
        self.each = broadcast_to_peers(self.seconds_per_step, key, setting.peers)

    def seconds(self, rank: int, step: int) -> float:
        return self.each[rank]


class Drawn:
    """Drawn anew every `period` steps, constant in between, for each peer by itself.

    One generator gives the numbers of all peers, in rank order: whoever looks at the others' step
    times as well, as in a race, pays for one.
    """

    period: int

    def bind(self, setting: Setting) -> None:
        self.seed, self.stream, self.peers = setting.seed, setting.stream, setting.peers
        self.row = functools.lru_cache(ROWS)(self.drawn)

    def drawn(self, period: int) -> list[float]:
        """Seconds of all peers in this period; InputError if they are more than a number holds."""
        generator = rng.generator(self.seed, self.stream, step=period)
        with np.errstate(over="ignore"), contextlib.suppress(OverflowError):
            seconds = self.draw(generator, self.peers)
            if np.isfinite(seconds).all():
                made: list[float] = seconds.tolist()
                return made
        raise InputError(
            "time.compute: a step takes more seconds than a number can hold; give smaller ones"
        )

    def draw(self, generator: np.random.Generator, n: int) -> NDArray[np.float64]:
        """The seconds of n peers; the first ones do not depend on n."""
        raise NotImplementedError

    def seconds(self, rank: int, step: int) -> float:
        return self.row(step // self.period)[rank]


@plugin("compute", "exponential")
class Exponential(Drawn):
    """X = Exp with mean `mean`."""

    mean: Positive = 1.0
    period: Count = 1

    def draw(self, generator: np.random.Generator, n: int) -> NDArray[np.float64]:
        return self.mean * generator.standard_exponential(n)


@plugin("compute", "shifted-exponential", "Xu 2021, section 4")
class ShiftedExponential(Drawn):
    """X = shift + Exp with mean `mean`."""

    shift: NonNegative = 0.05
    mean: NonNegative = 0.02
    period: Count = 1

    def draw(self, generator: np.random.Generator, n: int) -> NDArray[np.float64]:
        return self.shift + self.mean * generator.standard_exponential(n)


@plugin("compute", "pareto")
class Pareto(Drawn):
    """P(X > x) = (minimum / x)^shape for x >= minimum; mean minimum shape / (shape - 1)."""

    minimum: Positive = 1.0
    shape: Positive = 2.0
    period: Count = 1

    def draw(self, generator: np.random.Generator, n: int) -> NDArray[np.float64]:
        return self.minimum * (1 + generator.pareto(self.shape, n))


@plugin("compute", "lognormal")
class Lognormal(Drawn):
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
class Sum:
    """X = the sum of `of`, each drawn by itself: operations and random delays, say."""

    of: list[StepTimeModel]

    def bind(self, setting: Setting) -> None:
        for number, part in enumerate(self.of):
            part.bind(replace(setting, stream=f"{setting.stream}/{number}"))

    def seconds(self, rank: int, step: int) -> float:
        return math.fsum(part.seconds(rank, step) for part in self.of)


@plugin("compute", "flops")
class Flops:
    """The operations of a step over `rate`, a device's operations per second, or one for each peer.

    A step takes 6 operations per multiplication and addition of the forward pass and sample: two
    forward, four backward.
    """

    rate: Positive | list[Positive] = 1e12

    def bind(self, setting: Setting) -> None:
        rates = broadcast_to_peers(self.rate, "time.compute.rate", setting.peers)
        self.each = [setting.operations(rank) / rate for rank, rate in enumerate(rates)]

    def seconds(self, rank: int, step: int) -> float:
        return self.each[rank]


@plugin("compute", "trace")
class Trace:
    """Measured step times: the columns `peer` and `seconds` of a CSV or HDF5 file.

    The k-th row of a peer is its k-th step; after its last it begins again.
    """

    file: str

    def bind(self, setting: Setting) -> None:
        columns = read_columns(setting.folder / self.file, "time.compute.file", "peer", "seconds")
        check_ranks(f"{self.file}: peer", columns["peer"], setting.peers)
        seconds = columns["seconds"]
        if not (np.isfinite(seconds) & (seconds >= 0)).all():
            raise InputError(f"{self.file}: seconds must be finite numbers >= 0; correct the file")
        each = [seconds[columns["peer"] == rank] for rank in range(setting.peers)]
        for rank, times in enumerate(each):
            if not times.size:
                raise InputError(f"{self.file}: no row for peer {rank}; give each at least one")
        self.each = [times.tolist() for times in each]

    def seconds(self, rank: int, step: int) -> float:
        times = self.each[rank]
        return float(times[step % len(times)])
