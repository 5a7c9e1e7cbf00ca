"""Algorithms whose messages and states are logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from p2psim import registry
from tests.support.runs import Problem, Run, Table, run_quadratic

# Plug-in file of a user, named as "watched.py:Choco". Its classes log the messages of an algorithm,
# sent and received, and its state; the computation is unchanged.
WATCHED = '''
import numpy as np
from p2psim.algorithms.choco_sgd import ChocoSGD
from p2psim.algorithms.deep_squeeze import DeepSqueeze
from p2psim.algorithms.sgp import StochasticGradientPush
from p2psim.registry import plugin

LOG = {}

class Watch:
    """Neighborhood that logs every message and computes the mixing sum from single messages."""

    def __init__(self, net, log):
        self.net, self.log, self.rank, self.peers = net, log, net.rank, net.peers

    def message(self, v, compressor=None, raw_tail=0):
        message = self.net.message(v, compressor, raw_tail)
        self.log["sent"].append(message.value.copy())
        return message

    def start_exchange(self, m):
        row = self.net.row(m.value.dtype, self.net.step)
        return Flight(self, m, self.net.start_exchange(m), row)

    def mix(self, m, overwrite=False):
        return self.start_exchange(m).mix()

class Flight:
    def __init__(self, watch, own, handle, row):
        self.watch, self.own, self.handle, self.row = watch, own, handle, row

    def mix(self):
        values = {j: m.value for j, m in self.handle.wait().items()}
        for j, value in values.items():
            self.watch.log["received"].setdefault(j, []).append(value.copy())
        values[self.watch.rank] = self.own.value
        return sum(self.row[j] * values[j] for j in sorted(values))

class Watched:
    def start(self, x, oracle, net):
        self.log = LOG[net.rank] = {"sent": [], "received": {}, "before": [], "state": []}
        super().start(x, oracle, net)

    def consensus(self, x, oracle, net):
        self.log["before"].append(x.copy())
        x = super().consensus(x, oracle, Watch(net, self.log) if self.by_hand else net)
        self.log["state"].append(getattr(self, self.logged).copy())
        return x

@plugin("algorithm", "watched-choco")
class Choco(Watched, ChocoSGD):
    logged, by_hand = "x_hat", True

@plugin("algorithm", "watched-squeeze")
class Squeeze(Watched, DeepSqueeze):
    logged, by_hand = "e", True

@plugin("algorithm", "watched-push")
class Push(Watched, StochasticGradientPush):
    logged, by_hand = "xu", False
'''


def run_logged(problem: Problem, folder: Path, algorithm: Table, **options: Any) -> tuple[Run, Any]:
    """Run a class of WATCHED; return the run and its log.

    log[rank] holds lists under "sent", "before" and "state", and lists by sender under "received".
    """
    (folder / "watched.py").write_text(WATCHED)
    run = run_quadratic(problem, folder, algorithm, **options)
    return run, registry.load_file(folder / "watched.py").LOG
