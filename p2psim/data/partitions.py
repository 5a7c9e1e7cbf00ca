"""Partitions of the training samples among the peers.

Every peer computes the whole partition by itself. Parts are disjoint and never empty; some rules
drop the samples that cannot be divided evenly. Sizes are computed in integers and fractions, so
that they do not depend on floating-point rounding.
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

# Lin et al.'s code partitions among groups of 10 peers, because the proportions of a Dirichlet
# distribution over many peers are mostly zero.
GROUP = 10
TRIES = 10_000  # random draws before a partition is refused


@plugin("partition", "iid")
class IID(Partition):
    """One shuffle of all samples, cut into n equal slices; the remainder is dropped."""

    def split(self, labels: Indices, n: int, rng: np.random.Generator) -> list[Indices]:
        size = labels.size // n
        return check_nonempty(slices(rng.permutation(labels.size), size, n), labels.size)


@plugin("partition", "contiguous")
class Contiguous(Partition):
    """All samples in their order, cut into n runs of equal size; the first peers get one more.

    Each peer of a text holds one passage of it.
    """

    def split(self, labels: Indices, n: int, rng: np.random.Generator) -> list[Indices]:
        return check_nonempty(np.array_split(np.arange(labels.size), n), labels.size)


@plugin("partition", "skew", source="Aketi, Kodge & Roy 2022")
class Skew(Partition):
    """A fraction s of every peer's samples is sorted by class, the rest is shuffled.

    The first s N_c samples of each class are put, class by class, into a sorted list, all others
    into a second list, which is shuffled once. Peer p takes the p-th slice of s N/n samples of the
    first list and the p-th slice of (1 - s) N/n samples of the second. s = 0 is iid; with s = 1
    each peer holds only one or a few consecutive classes. `compat` rounds in floating point as the
    paper's code does (1249 for 0.2 * 6250).
    """

    s: Unit
    compat: bool = False

    def split(self, labels: Indices, n: int, rng: np.random.Generator) -> list[Indices]:
        require(0 <= self.s <= 1, f"skew: s = {self.s}; give a number from 0 to 1")
        ordered: list[Indices] = []
        rest: list[Indices] = []
        for c in np.unique(labels):
            members = np.flatnonzero(labels == c)
            size = self._floor(members.size, 1)[0]
            ordered.append(members[:size])
            rest.append(members[size:])
        shuffled = rng.permutation(np.concatenate(rest))
        sizes = self._floor(labels.size, n)
        first = slices(np.concatenate(ordered), sizes[0], n)
        second = slices(shuffled, sizes[1], n)
        parts = [np.concatenate(pair) for pair in zip(first, second, strict=True)]
        return check_nonempty(parts, labels.size)

    def _floor(self, samples: int, n: int) -> tuple[int, int]:
        """Return the integer parts of s * samples / n and (1 - s) * samples / n."""
        if self.compat:
            return int(samples / n * self.s), int(samples / n * (1 - self.s))
        # By way of text: the exact decimal number of the experiment file, not the nearest float.
        s = Fraction(str(self.s))
        return math.floor(s * samples / n), math.floor((1 - s) * samples / n)


@plugin("partition", "classes-per-peer", source="Xu 2021, non-IID(c)")
class ClassesPerPeer(Partition):
    """Every peer holds c of the C classes: peer i those from floor(i C / n) on, modulo C.

    A class is split evenly, in order, among the peers that hold it. `random`: c classes are drawn
    at random for each peer; the draw is repeated until at least one peer holds each class.
    """

    c: Count
    random: bool = False

    def split(self, labels: Indices, n: int, rng: np.random.Generator) -> list[Indices]:
        classes = np.unique(labels)
        total = classes.size
        require(
            1 <= self.c <= total or total > 1,
            "classes-per-peer: all samples have the same class; give another partition, such as "
            "'contiguous' or 'iid'",
        )
        require(
            1 <= self.c <= total,
            f"classes-per-peer: c = {self.c}; the data has {total} classes, give 1 to {total}",
        )
        require(
            n * self.c >= total,
            f"classes-per-peer: {n} peers with c = {self.c} cannot hold all {total} classes; "
            f"give c of at least {-(-total // n)}",
        )
        if self.random:
            indices = self._draw(total, n, rng)
        else:
            indices = [(i * total // n + np.arange(self.c)) % total for i in range(n)]
        parts = split_classes(labels, [classes[own].tolist() for own in indices])
        return check_nonempty(parts, labels.size)

    def _draw(self, total: int, n: int, rng: np.random.Generator) -> list[Indices]:
        for _ in range(TRIES):
            indices = [rng.permutation(total)[: self.c] for _ in range(n)]
            if np.unique(indices).size == total:
                return indices
        raise InputError(
            f"classes-per-peer: {TRIES} random draws of c = {self.c} classes for {n} peers all "
            f"left a class out; give a larger c, or random = false"
        )


@plugin("partition", "dirichlet", source="Lin, Karimireddy, Stich & Jaggi 2021, by their code")
class Dirichlet(Partition):
    """Each class is split among the peers in proportions drawn from Dir(alpha).

    All samples are shuffled and cut into slices for groups of 10 peers. In a group, for each class:
    draw proportions, set those of peers that already hold N/n samples to 0, renormalize, cut.
    The group is drawn again until the smallest part has at least N/2n samples. alpha = 0.1 gives a
    strong skew, alpha = 10 a mild one.
    """

    alpha: Positive

    def split(self, labels: Indices, n: int, rng: np.random.Generator) -> list[Indices]:
        require(0 < self.alpha < math.inf, f"dirichlet: alpha = {self.alpha}; give a number > 0")
        require(
            n <= labels.size, f"dirichlet: {labels.size} samples for {n} peers; give fewer peers"
        )
        shuffled = rng.permutation(labels.size)
        size = GROUP * labels.size // n
        parts: list[Indices] = []
        for start in range(0, n, GROUP):
            peers = min(GROUP, n - start)
            # The last group takes the remaining samples as well.
            end = None if start + peers == n else start // GROUP * size + size
            group = shuffled[start // GROUP * size : end]
            parts += self._split_group(group, labels, peers, rng)
        return check_nonempty(parts, labels.size)

    def _split_group(
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
            f"of {TRIES} draws; give a larger alpha or fewer peers (with two classes, the draws "
            f"hardly ever succeed)"
        )

    def _cuts(
        self, sizes: Sequence[int], peers: int, rng: np.random.Generator, least: int
    ) -> list[NDArray[np.int64]] | None:
        """Draw the positions at which each class is cut; None if a peer gets fewer than `least`.

        sizes: samples of each class. A position array has peers - 1 entries.
        """
        counts = np.zeros(peers, np.int64)  # samples of each peer so far
        total, cuts = sum(sizes), []
        for size in sizes:
            shares = rng.dirichlet(np.full(peers, self.alpha)) * (counts * peers < total)
            if not shares.sum() > 0:  # with a tiny alpha only peers that are full may get a share
                return None
            cuts.append((np.cumsum(shares / shares.sum()) * size).astype(np.int64)[:-1])
            counts += np.diff(cuts[-1], prepend=0, append=size)
        return cuts if counts.min() >= least else None


@plugin("partition", "explicit")
class Explicit(Partition):
    """Peer i holds `samples[i]` samples in total, evenly of the classes `classes[i]`, in order.

    Without `samples`, each class is split evenly, in order, among the peers that hold it. Classes
    that no peer holds are left out.
    """

    classes: list[list[int]]
    samples: list[Count] | None = None

    def split(self, labels: Indices, n: int, rng: np.random.Generator) -> list[Indices]:
        for name, entries in (("classes", self.classes), ("samples", self.samples)):
            require(
                entries is None or len(entries) == n,
                f"explicit: {name} has {len(entries or [])} entries for {n} peers; give one each",
            )
        known = set(np.unique(labels).tolist())
        for peer, own in enumerate(self.classes):
            require(
                bool(own) and len(set(own)) == len(own) and set(own) <= known,
                f"explicit: classes {own} of peer {peer}; give different ones of {sorted(known)}",
            )
        return check_nonempty(split_classes(labels, self.classes, self.samples), labels.size)


def split_classes(
    labels: Indices, classes: Sequence[Sequence[int]], samples: Sequence[int] | None = None
) -> list[Indices]:
    """Split every class, in order, among the peers that hold it; return the parts by peer.

    classes: classes of each peer. Without `samples`, a class is split evenly. With it, peer i gets
    samples[i] samples in total, the same number of each of its classes. InputError if a class has
    too few samples.
    """
    parts: list[list[Indices]] = [[] for _ in classes]
    for c in sorted({c for own in classes for c in own}):
        members = np.flatnonzero(labels == c)
        holders = [peer for peer, own in enumerate(classes) if c in own]
        sizes = [class_share(samples[p], classes[p], c) for p in holders] if samples else []
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


def class_share(samples: int, classes: Sequence[int], c: int) -> int:
    """Return how many of a peer's samples are of class c; the remainder goes to the first ones."""
    each, rest = divmod(samples, len(classes))
    return each + (classes.index(c) < rest)


def slices(indices: Indices, size: int, n: int) -> list[Indices]:
    """Return the first n slices of `size` indices each."""
    return [indices[p * size : (p + 1) * size] for p in range(n)]


def check_nonempty(parts: list[Indices], samples: int) -> list[Indices]:
    """Return the parts unchanged; InputError if one is empty."""
    for peer, part in enumerate(parts):
        if part.size == 0:
            raise InputError(
                f"data.partition: peer {peer} of {len(parts)} gets none of the {samples} samples; "
                f"give fewer peers, more data or less skew"
            )
    return parts


def require(condition: bool, problem: str) -> None:
    """Raise InputError with the message `problem` unless the condition holds."""
    if not condition:
        raise InputError(problem)
