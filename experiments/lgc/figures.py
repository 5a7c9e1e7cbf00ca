"""Figures of Xu 2021 by data set; "paper" has the paper's own size and is for a cluster."""

from __future__ import annotations

from experiments.harness.reproduce import Figure
from experiments.lgc.claims import (
    claims_3,
    claims_4,
    claims_4_time,
    claims_5,
    claims_5_time,
    claims_6,
    claims_6_time,
)
from experiments.lgc.drawing import draw_3, draw_4, draw_5, draw_6, draw_6_time, draw_time

TITLE = "Stragglers and live gradient compensation (LGC-SGD)"
# Virtual time needs no learning, so these have the paper's own size with any data set.
TIMES = [
    Figure("fig4-time", "time of 60 epochs", "full/fig4-time.toml", draw_time, claims_4_time),
    Figure("fig5-time", "time by k", "full/fig5-time.toml", draw_time, claims_5_time),
    Figure("fig6-time", "finished blocks", "full/fig6-time.toml", draw_6_time, claims_6_time),
]
FIGURES = {
    "cifar10": [
        *TIMES,
        Figure("fig4", "loss against time", "small/fig4.toml", draw_4, claims_4),
    ],
    "digits": [
        *TIMES,
        Figure("s-lgc", "classes and h", "small/s-lgc.toml", draw_3, claims_3, (11, 3.4)),
        Figure("s-frontier", "by k", "small/s-frontier.toml", draw_5, claims_5),
        Figure("s-partial", "partial work", "small/s-partial.toml", draw_6, claims_6),
    ],
    "paper": [
        Figure("fig3", "classes and h", "full/fig3.toml", draw_3, claims_3, (11, 3.4)),
        Figure("fig4", "loss against time", "full/fig4.toml", draw_4, claims_4),
        Figure("fig5", "by k", "full/fig5.toml", draw_5, claims_5),
        Figure("fig6", "partial work", "full/fig6.toml", draw_6, claims_6),
    ],
}
