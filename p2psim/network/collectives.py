"""Collective operations of all peers over point-to-point messages: the control channel of a run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from p2psim.base import Vector
from p2psim.network.clock import Clock
from p2psim.network.topology import Topology
from p2psim.network.transfer import Alarm, PeerNeighborhood, silent
from p2psim.network.transport import Transport


class ControlChannel(PeerNeighborhood):
    """A neighborhood beside that of the algorithm, without virtual time.

    Evaluation, checkpoints and start-up use it: none of its bytes counts as the algorithm's.
    """

    def __init__(self, transport: Transport, topology: Topology, alarm: Alarm = silent) -> None:
        super().__init__(transport.duplicate(), topology, Clock(), alarm=alarm)
        self.repeats = False  # its partners change from step to step of a collective operation

    def total(self, v: Vector) -> Vector:
        """Return sum_i v_i in float64, the same bits on every peer: up a tree of ranks and down.

        It takes 2 (n - 1) messages in all; `mean` takes 2 n (n - 1) shorter ones.
        """
        rank, step = self.rank, 1
        result = v.astype(np.float64)
        children = []
        while not rank & step and step < self.peers:  # the trailing 0 bits of a rank are its tree
            children += [rank + step] if rank + step < self.peers else []
            step *= 2

        def receive(source: int) -> Vector:
            return self._transfer({}, own, {source: v.size}).wait()[source].value

        def send(to: int) -> None:
            self._transfer({to: own}, own, {}).wait()

        own = self._dense(result)
        for child in children:
            result += receive(child)
        if rank:
            send(rank - step)
            result[:] = receive(rank - step)
        for child in reversed(children):
            send(child)
        return result

    def gather(self, v: Vector) -> Vector:
        """Return the vectors of all peers as rows, shape (n, len(v))."""
        own = self._dense(v)
        others = [j for j in range(self.peers) if j != self.rank]
        entries = dict.fromkeys(others, v.size)
        packets = self._transfer(dict.fromkeys(others, own), own, entries).wait()
        rows = sorted({**packets, self.rank: own}.items())
        return np.stack([packet.value for _, packet in rows])

    def maximum(self, v: Vector) -> Vector:
        """Return the largest entries over all peers, shape (len(v),), in log2(n) steps."""
        best = v.copy()
        for _ in self.maximum_steps(best):
            pass
        return best

    def common_text(self, text: str, length: int) -> str:
        """Return on every peer the text of one peer, `length` ASCII characters.

        All other peers pass "".
        """
        codes = np.zeros(length)
        codes[: len(text)] = list(text.encode())
        return bytes(self.maximum(codes).astype(np.uint8)).decode()

    def maximum_steps(self, best: Vector) -> Iterator[None]:
        """Replace the entries of `best` by the largest over all peers, in log2(n) steps.

        Yield in each step while its messages travel: the peers may do other work until they go on.
        """
        for step in (2**k for k in range((self.peers - 1).bit_length())):
            own = self.message(best)
            to, source = (self.rank + step) % self.peers, (self.rank - step) % self.peers
            transfer = self._transfer({to: own}, own, {source: best.size})
            yield
            np.maximum(best, transfer.wait()[source].value, out=best)

    def barrier(self) -> None:
        """Return once every peer has called it."""
        self.maximum(np.zeros(1))
