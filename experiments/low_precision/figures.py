"""Figures and tables of Aketi, Kodge & Roy 2022 by data set.

"paper" has the paper's own size and is for GPU nodes. Accuracies are those of the averaged model,
at the end of a run of the paper's size, and the mean over the second half of a small run.
"""

from __future__ import annotations

from functools import partial

from experiments.harness.reproduce import Figure
from experiments.low_precision.claims import (
    claims_alone,
    claims_comp,
    claims_cost,
    claims_gossip,
    claims_lp,
    claims_norms,
    claims_qgm,
    claims_table,
    claims_train,
)
from experiments.low_precision.drawing import (
    draw_alone,
    draw_bars,
    draw_cost,
    draw_gossip,
    draw_norms,
    draw_qgm,
    draw_table,
    draw_train,
)
from experiments.low_precision.measures import final_accuracy, late_accuracy
from experiments.low_precision.tables import TABLES

TITLE = "Low-precision decentralized training"
SKEWS = ("s=0.0", "s=0.8", "s=1.0")
# Case -> label of its bar.
BITS = {"fp-evonorm": "32 bits, EvoNorm", "fp": "32 bits, Range-EvoNorm", "lp": "8 bits"}
COMPRESSED = {
    "choco": "CHOCO-SGD",
    "squeeze": "DeepSqueeze",
    "lp-choco": "CHOCO-SGD, 8 bits",
    "lp-squeeze": "DeepSqueeze, 8 bits",
}
FIGURES = {
    "cifar10": [
        Figure("cost", "energy (Table 10)", "small/cost.toml", draw_cost, claims_cost),
        Figure("ring", "ring of 8", "small/ring.toml", draw_train, claims_train),
        Figure("torus", "torus of 16", "small/torus.toml", draw_train, claims_train),
    ],
    "digits": [
        Figure(
            "s-lp",
            "8 bits and skew",
            "small/s-lp.toml",
            partial(draw_bars, SKEWS, BITS),
            claims_lp,
        ),
        Figure(
            "s-comp",
            "a tenth sent",
            "small/s-comp.toml",
            partial(draw_bars, SKEWS[:2], COMPRESSED),
            claims_comp,
        ),
        Figure("s-qgm", "quasi-global momentum", "small/s-qgm.toml", draw_qgm, claims_qgm),
        Figure(
            "s-norms",
            "norms (figure 1)",
            "small/s-norms.toml",
            partial(draw_norms, late_accuracy),
            partial(claims_norms, late_accuracy),
        ),
        Figure("gossip", "push-sum", "small/gossip.toml", draw_gossip, claims_gossip),
    ],
    "paper": [
        Figure(
            "fig1",
            "norms",
            "full/fig1.toml",
            partial(draw_norms, final_accuracy),
            partial(claims_norms, final_accuracy),
        ),
        Figure(
            "table2",
            "one peer alone",
            "full/table2.toml",
            partial(draw_alone, final_accuracy),
            partial(claims_alone, final_accuracy),
        ),
        *[
            Figure(
                table.name,
                table.title,
                f"full/{table.name}.toml",
                partial(draw_table, table, final_accuracy),
                partial(claims_table, table, final_accuracy),
            )
            for table in TABLES
        ],
    ],
}
