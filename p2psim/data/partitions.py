"""Partitions: who holds which training samples. Each is computed by every peer alone.

Parts are disjoint and never empty; what does not divide is dropped where a rule says so. Sizes
are computed in whole numbers, so that they do not depend on how a fraction is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Count, Indices, Partition, Positive, Unit
from p2psim.errors import InputError
from p2psim.registry import plugin

GROUP = 10  # Lin et al.'s code deals to groups of 10 peers: Dirichlet over many is mostly zeros
TRIES = 10_000


@plugin("partition", "iid")
class IID(Partition):
    """One shuffle of all samples, cut into equal runs; the remainder is dropped."""

    def split(self, labels: Indices, n: int, rng: np.random.Generator) -> list[Indices]:
        size = labels.size // n
        return filled(runs(rng.permutation(labels.size), size, n), labels.size)


@plugin("partition", "skew", source="Aketi, Kodge & Roy 2022")
class Skew(Partition):
    """A fraction s of every peer's samples is sorted by class, the rest is shuffled.

    Of each class the first s N_c samples go, class by class, to a sorted list; the others to a
    second one, shuffled once. Peer p takes the p-th run of s N/n samples from the first and of
    (1 - s) N/n from the second. s = 0 is iid, s = 1 gives each peer neighboring classes alone.
    `compat` rounds as the paper's code does: in floating point (1249 for 0.2 * 6250).
    """

    s: Unit
    compat: bool = False

    def split(self, labels: Indices, n: int, rng: np.random.Generator) -> list[Indices]:
        allowed(0 <= self.s <= 1, f"skew: s = {self.s}; give a number from 0 to 1")
        ordered: list[Indices] = []
        rest: list[Indices] = []
        for c in np.unique(labels):
            members = np.flatnonzero(labels == c)
            take = self._floor(members.size, 1)[0]
            ordered.append(members[:take])
            rest.append(members[take:])
        shuffled = rng.permutation(np.concatenate(rest))
        sizes = self._floor(labels.size, n)
        first = runs(np.concatenate(ordered), sizes[0], n)
        second = runs(shuffled, sizes[1], n)
        parts = [np.concatenate(pair) for pair in zip(first, second, strict=True)]
        return filled(parts, labels.size)

    def _floor(self, samples: int, n: int) -> tuple[int, int]:
        """Whole parts of s * samples / n and (1 - s) * samples / n."""
        if self.compat:
            return int(samples / n * self.s), int(samples / n * (1 - self.s))
        s = Fraction(str(self.s))  # the decimal that the user wrote, not the float nearest to it
        return math.floor(s * samples / n), math.floor((1 - s) * samples / n)


@plugin("partition", "classes-per-peer", source="Xu 2021, non-IID(c)")
class ClassesPerPeer(Partition):
    """Every peer holds c of the C classes: peer i those from floor(i C / n) on, in a circle.

    A class is split evenly, in order, among the peers that hold it. `random`: c classes drawn at
    random for each peer, again until every class is held.
    """

    c: Count
    random: bool = False

    def split(self, labels: Indices, n: int, rng: np.random.Generator) -> list[Indices]:
        classes = np.unique(labels)
        total = classes.size
        allowed(
            1 <= self.c <= total,
            f"classes-per-peer: c = {self.c}; the data has {total} classes, give 1 to {total}",
        )
        allowed(
            n * self.c >= total,
            f"classes-per-peer: {n} peers with c = {self.c} cannot hold all {total} classes; "
            f"give c of at least {-(-total // n)}",
        )
        if self.random:
            held = self._drawn(total, n, rng)
        else:
            held = [(i * total // n + np.arange(self.c)) % total for i in range(n)]
        return filled(deal(labels, [classes[own].tolist() for own in held]), labels.size)

    def _drawn(self, total: int, n: int, rng: np.random.Generator) -> list[Indices]:
        for _ in range(TRIES):
            held = [rng.permutation(total)[: self.c] for _ in range(n)]
            if np.unique(held).size == total:
                return held
        raise InputError(
            f"classes-per-peer: {TRIES} random draws of c = {self.c} classes for {n} peers all "
            f"left a class out; give a larger c, or random = false"
        )


@plugin("partition", "dirichlet", source="Lin, Karimireddy, Stich & Jaggi 2021, by their code")
class Dirichlet(Partition):
    """Each class is split among the peers in proportions drawn from Dir(alpha).

    All samples are shuffled and cut into runs for groups of 10 peers. In a group, class by class:
    draw proportions, set those of peers that already hold N/n samples to 0, renormalize, cut;
    all again until the smallest part is at least N/2n. alpha = 0.1 is strongly skewed, 10 mild.
    """

    alpha: Positive

    def split(self, labels: Indices, n: int, rng: np.random.Generator) -> list[Indices]:
        allowed(0 < self.alpha < math.inf, f"dirichlet: alpha = {self.alpha}; give a number > 0")
        allowed(
            n <= labels.size, f"dirichlet: {labels.size} samples for {n} peers; give fewer peers"
        )
        shuffled = rng.permutation(labels.size)
        size = GROUP * labels.size // n
        parts: list[Indices] = []
        for start in range(0, n, GROUP):
            peers = min(GROUP, n - start)
            end = None if start + peers == n else start // GROUP * size + size
            group = shuffled[start // GROUP * size : end]
            parts += self._group(group, labels, peers, rng)
        return filled(parts, labels.size)

    def _group(
        self, group: Indices, labels: Indices, peers: int, rng: np.random.Generator
    ) -> list[Indices]:
        members = [group[labels[group] == c] for c in np.unique(labels)]
        least = max(1, group.size // (2 * peers))
        for _ in range(TRIES):
            cuts = self._cuts([m.size for m in members], peers, rng, least)
            if cuts is not None:
                pieces = [np.split(m, cut) for m, cut in zip(members, cuts, strict=True)]
                return [np.concatenate(own) for own in zip(*pieces, strict=True)]
        raise InputError(
            f"dirichlet: alpha = {self.alpha} left a peer with fewer than {least} samples in all "
            f"of {TRIES} draws; give a larger alpha or fewer peers (two classes hardly ever do)"
        )

    def _cuts(
        self, sizes: Sequence[int], peers: int, rng: np.random.Generator, least: int
    ) -> list[NDArray[np.int64]] | None:
        """Where each class is cut; None if a peer gets fewer than `least` samples."""
        held = np.zeros(peers, np.int64)
        total, cuts = sum(sizes), []
        for size in sizes:
            shares = rng.dirichlet(np.full(peers, self.alpha)) * (held * peers < total)
            if not shares.sum() > 0:  # a tiny alpha can give all to peers that are full
                return None
            cuts.append((np.cumsum(shares / shares.sum()) * size).astype(np.int64)[:-1])
            held += np.diff(cuts[-1], prepend=0, append=size)
        return cuts if held.min() >= least else None


@plugin("partition", "explicit")
class Explicit(Partition):
    """Peer i holds `samples[i]` samples in all, evenly of the classes `classes[i]`, in order.

    Without `samples` each class is split evenly, in order, among the peers that hold it; classes
    that no peer holds are left out.
    """

    classes: list[list[int]]
    samples: list[Count] | None = None

    def split(self, labels: Indices, n: int, rng: np.random.Generator) -> list[Indices]:
        for name, given in (("classes", self.classes), ("samples", self.samples)):
            allowed(
                given is None or len(given) == n,
                f"explicit: {name} has {len(given or [])} entries for {n} peers; give one each",
            )
        known = set(np.unique(labels).tolist())
        for peer, own in enumerate(self.classes):
            allowed(
                bool(own) and len(set(own)) == len(own) and set(own) <= known,
                f"explicit: classes {own} of peer {peer}; give different ones of {sorted(known)}",
            )
        return filled(deal(labels, self.classes, self.samples), labels.size)


def deal(
    labels: Indices, held: Sequence[Sequence[int]], samples: Sequence[int] | None = None
) -> list[Indices]:
    """Deal every class in runs to the peers that hold it: equal ones, or by samples[peer]."""
    parts: list[list[Indices]] = [[] for _ in held]
    for c in sorted({c for own in held for c in own}):
        members = np.flatnonzero(labels == c)
        holders = [peer for peer, own in enumerate(held) if c in own]
        sizes = [share(samples[peer], held[peer], c) for peer in holders] if samples else []
        if sum(sizes) > members.size:
            raise InputError(
                f"data.partition: class {c} has {members.size} samples, its {len(holders)} peers "
                f"need {sum(sizes)}; give fewer samples, or fewer peers to that class"
            )
        if samples:
            pieces = np.split(members, np.cumsum(sizes))[:-1]
        else:
            pieces = np.array_split(members, len(holders))
        for peer, piece in zip(holders, pieces, strict=True):
            parts[peer].append(piece)
    return [np.concatenate(own) for own in parts]


def share(samples: int, classes: Sequence[int], c: int) -> int:
    """How many of a peer's samples are of class c; what does not divide goes to the first."""
    each, rest = divmod(samples, len(classes))
    return each + (classes.index(c) < rest)


def runs(indices: Indices, size: int, n: int) -> list[Indices]:
    """The first n runs of `size` indices."""
    return [indices[p * size : (p + 1) * size] for p in range(n)]


def filled(parts: list[Indices], samples: int) -> list[Indices]:
    """The parts; InputError if one is empty."""
    for peer, part in enumerate(parts):
        if part.size == 0:
            raise InputError(
                f"data.partition: peer {peer} of {len(parts)} gets none of the {samples} samples; "
                f"give fewer peers, more data or less skew"
            )
    return parts


def allowed(right: bool, problem: str) -> None:
    """InputError with `problem` unless `right`."""
    if not right:
        raise InputError(problem)
