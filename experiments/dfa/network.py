"""DFA over a network: all combinations of data, rule, algorithm and precision on one page."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from experiments.dfa.drawing import bars
from experiments.dfa.measures import final, number
from experiments.harness.reproduce import Claim, Runs
from p2psim.analysis.results import Array

DATA = {"iid": "equal data", "two": "2 classes a peer"}
METHODS = {"d-psgd": "D-PSGD", "choco": "CHOCO-SGD, top 10 %", "qg": "quasi-global momentum"}
BITS = {"fp32": "32 bits", "int8": "8 bits"}
RULES = {"bp": "backpropagation", "dfa": "DFA"}


def case(precision: str, rule: str, data: str, method: str) -> str:
    """Return the name of the runs of a combination."""
    return f"precision={precision}-rule={rule}-{data}-{method}"


def draw_network(figure: Any, runs: Runs) -> None:
    """Draw the peers' accuracies, a panel for each partition."""
    panels = figure.subplots(1, len(DATA), sharey=True)
    for axes, (data, name) in zip(panels, DATA.items(), strict=True):
        values: dict[str, list[Array]] = {
            f"{RULES[rule]}, {BITS[precision]}": [
                final(runs[case(precision, rule, data, method)], "accuracy") for method in METHODS
            ]
            for rule, precision in itertools.product(RULES, BITS)
        }
        bars(axes, [label.replace(", ", "\n") for label in METHODS.values()], values)
        axes.set_title(name)
    panels[0].set_ylabel("accuracy, mean over peers")
    panels[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def network_table(runs: Runs) -> Iterator[list[str]]:
    """Yield the header and the rows of the table of all combinations."""
    measured = ["accuracy of the peers", "of the mean model", "consensus distance", "MB of a peer"]
    yield ["data", "algorithm", "precision", "rule", *measured]
    for data, method, precision, rule in itertools.product(DATA, METHODS, BITS, RULES):
        own = runs[case(precision, rule, data, method)]
        sent = sum(float(run.last("bytes_sent").mean()) for run in own) / len(own) / 1e6
        columns = ("accuracy", "mean_model_accuracy", "consensus_distance")
        values = [number(final(own, column)) for column in columns]
        names = [DATA[data], METHODS[method], BITS[precision], RULES[rule]]
        yield [*names, *values, f"{sent:.1f}"]


def claims_network(runs: Runs) -> list[Claim]:
    """Check the parts that must hold: all combinations learn, and compression sends less."""
    worst = min(
        float(final(runs[case(p, r, "iid", m)], "accuracy").mean())
        for p, r, m in itertools.product(BITS, RULES, METHODS)
    )
    sent = [
        runs[case("fp32", "dfa", "iid", method)][0].last("bytes_sent").sum()
        for method in ("choco", "d-psgd")
    ]
    return [
        Claim(
            "equal data: all combinations learn", "accuracy above .8", f"{worst:.3f}", worst > 0.8
        ),
        Claim(
            "a tenth of the entries takes a fifth of the bytes",
            ".2: an entry has an index and a value",
            f"{sent[0] / sent[1]:.3f}",
            bool(0.19 < sent[0] / sent[1] < 0.21),
        ),
    ]
