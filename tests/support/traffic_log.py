"""Algorithms under watch: what passes between them and the network, written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from p2psim import registry
from tests.support.runs import Problem, Run, Table, run_quadratic

# A plug-in of a user's own, found by "watched.py:Choco": the algorithms, with all that passes
# between them and the network written down. What they compute is not touched.
WATCHED = '''
import numpy as np
from p2psim.algorithms.choco_sgd import ChocoSGD
from p2psim.algorithms.deep_squeeze import DeepSqueeze
from p2psim.algorithms.sgp import StochasticGradientPush
from p2psim.registry import plugin

LOG = {}

class Watch:
    """A neighborhood that keeps every message; it mixes by hand, from the single messages."""

    def __init__(self, net, log):
        self.net, self.log, self.rank, self.peers = net, log, net.rank, net.peers

    def message(self, v, compressor=None, raw_tail=0):
        made = self.net.message(v, compressor, raw_tail)
        self.log["sent"].append(made.value.copy())
        return made

    def start_exchange(self, m):
        return Flight(self, m, self.net.start_exchange(m), self.net.row(m.value.dtype))

    def mix(self, m):
        return self.start_exchange(m).mix()

class Flight:
    def __init__(self, watch, own, handle, row):
        self.watch, self.own, self.handle, self.row = watch, own, handle, row

    def mix(self):
        got = {j: m.value for j, m in self.handle.wait().items()}
        for j, value in got.items():
            self.watch.log["received"].setdefault(j, []).append(value.copy())
        got[self.watch.rank] = self.own.value
        return sum(self.row[j] * got[j] for j in sorted(got))

class Watched:
    def start(self, x, oracle, net):
        self.log = LOG[net.rank] = {"sent": [], "received": {}, "before": [], "state": []}
        super().start(x, oracle, net)

    def consensus(self, x, oracle, net):
        self.log["before"].append(x.copy())
        x = super().consensus(x, oracle, Watch(net, self.log) if self.by_hand else net)
        self.log["state"].append(getattr(self, self.kept).copy())
        return x

@plugin("algorithm", "watched-choco")
class Choco(Watched, ChocoSGD):
    kept, by_hand = "x_hat", True

@plugin("algorithm", "watched-squeeze")
class Squeeze(Watched, DeepSqueeze):
    kept, by_hand = "e", True

@plugin("algorithm", "watched-push")
class Push(Watched, StochasticGradientPush):
    kept, by_hand = "xu", False
'''


def watched(problem: Problem, folder: Path, algorithm: Table, **options: Any) -> tuple[Run, Any]:
    """A run of a class of WATCHED, and its log: by peer, then by what happened."""
    (folder / "watched.py").write_text(WATCHED)
    ran = run_quadratic(problem, folder, algorithm, **options)
    return ran, registry.load_file(folder / "watched.py").LOG
