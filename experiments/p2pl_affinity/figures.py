"""Figures of Pranav & Moura 2023 by data set; those on digits are small variants."""

from __future__ import annotations

from experiments.harness.reproduce import Figure
from experiments.p2pl_affinity.claims import (
    claims_2,
    claims_3,
    claims_4,
    claims_5,
    claims_6,
    claims_iid,
    claims_small,
)
from experiments.p2pl_affinity.drawing import draw_2, draw_3, draw_6, draw_iid, draw_pair

TITLE = "Peer-to-peer learning and consensus with non-IID data (P2PL with Affinity)"
FOUR = {"4-classes": ("fig4", "T-10")}
TEN = {"local-dsgd": ("fig5", "10-classes")}
FIGURES = {
    "mnist": [
        Figure("fig3", "100 samples of 4 classes", "full/fig3.toml", draw_3, claims_3, (10, 7)),
        Figure("fig4", "fewer local steps", "full/fig4.toml", draw_pair, claims_4),
        Figure("fig5", "more classes", "full/fig5.toml", draw_pair, claims_5, shared=FOUR),
        Figure("fig6", "affinity", "full/fig6.toml", draw_6, claims_6, shared=TEN),
        Figure("fig2", "a hundred devices", "full/fig2.toml", draw_2, claims_2),
    ],
    "digits": [
        Figure("s-p2pl", "affinity, small", "small/s-p2pl.toml", draw_6, claims_small),
        Figure("s-iid", "twenty devices", "small/s-iid.toml", draw_iid, claims_iid, (6, 4)),
    ],
}
