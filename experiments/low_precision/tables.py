"""Published accuracies of tables 2 to 6 of Aketi, Kodge & Roy 2022."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.harness.reproduce import Runs
from p2psim.analysis.results import Run

METHODS = ("fp-ds", "lp-ds", "fp-choco", "lp-choco")
NAMES = {
    "fp-ds": "DeepSqueeze",
    "lp-ds": "DeepSqueeze, 8 bits",
    "fp-choco": "CHOCO-SGD",
    "lp-choco": "CHOCO-SGD, 8 bits",
}


@dataclass(frozen=True)
class Table:
    """Published accuracies in percent: (skew, percent dropped) -> one value for each method."""

    name: str
    title: str
    methods: Sequence[str]
    published: Mapping[tuple[str, str], Sequence[float]]


# Table 2: model -> percent of one peer alone in 32 and in 8 bits.
ALONE = {"r20": (91.25, 91.12), "r54": (91.99, 91.66), "vgg": (89.59, 89.78)}
R20 = Table(
    "table3-r20",
    "ResNet-20, directed ring of 8",
    METHODS,
    {
        ("0.0", "0"): (90.56, 90.57, 90.96, 90.30),
        ("0.4", "0"): (90.36, 89.89, 90.37, 90.29),
        ("0.8", "0"): (87.57, 87.68, 87.87, 87.06),
        ("0.0", "99"): (88.67, 87.58, 89.21, 88.23),
        ("0.4", "99"): (88.64, 88.02, 88.58, 88.44),
        ("0.8", "99"): (85.43, 84.44, 85.78, 84.79),
    },
)
R54 = Table(
    "table3-r54",
    "ResNet-54, directed ring of 8",
    METHODS,
    {
        ("0.0", "0"): (91.33, 92.09, 91.80, 91.44),
        ("0.4", "0"): (91.40, 91.28, 91.45, 91.19),
        ("0.8", "0"): (89.72, 88.98, 90.19, 89.30),
        ("0.9", "0"): (87.15, 84.06, 87.17, 87.40),
        ("0.0", "99"): (90.23, 88.57, 89.44, 88.85),
        ("0.4", "99"): (89.48, 88.60, 89.31, 88.81),
        ("0.8", "99"): (85.91, 84.69, 86.57, 85.06),
    },
)
VGG = Table(
    "table3-vgg",
    "VGG-11, torus of 16",
    METHODS,
    {
        ("0.0", "0"): (89.64, 89.13, 90.21, 89.73),
        ("0.4", "0"): (89.47, 89.21, 89.49, 89.80),
        ("0.8", "0"): (87.20, 86.67, 87.21, 86.73),
        ("0.9", "0"): (86.26, 85.15, 86.66, 85.67),
        ("0.0", "99"): (86.10, 82.70, 86.72, 84.44),
        ("0.4", "99"): (85.42, 81.53, 86.01, 83.49),
        ("0.8", "99"): (80.12, 77.98, 81.25, 80.53),
        ("0.9", "99"): (77.10, 72.89, 77.94, 76.11),
    },
)
QGM = Table(
    "table4",
    "ResNet-20, ring of 8, quasi-global momentum",
    METHODS[2:],
    {
        ("0.0", "0"): (91.07, 90.20),
        ("0.4", "0"): (90.64, 90.10),
        ("0.8", "0"): (87.64, 87.16),
        ("0.9", "0"): (84.49, 85.28),
        ("0.0", "99"): (89.87, 89.12),
        ("0.4", "99"): (89.39, 88.73),
        ("0.8", "99"): (86.76, 85.52),
        ("0.9", "99"): (84.42, 83.68),
    },
)
R18 = Table(
    "table5-r18",
    "Imagenette, ResNet-18, torus of 8",
    METHODS[2:],
    {
        ("0.0", "0"): (87.10, 86.60),
        ("0.6", "0"): (85.58, 84.20),
        ("0.0", "90"): (85.25, 83.17),
        ("0.6", "90"): (80.84, 79.89),
    },
)
IMAGENETTE_VGG = Table(
    "table5-vgg",
    "Imagenette, VGG-11, ring of 4",
    METHODS[2:],
    {
        ("0.0", "0"): (89.76, 88.49),
        ("0.6", "0"): (88.89, 86.82),
        ("0.0", "90"): (88.92, 87.25),
        ("0.6", "90"): (88.20, 86.27),
    },
)
NEWS = Table(
    "table6-news",
    "AG News, DistilBERT, directed ring of 8",
    METHODS,
    {
        ("0.0", "0"): (94.18, 93.99, 94.21, 94.12),
        ("0.9", "0"): (92.19, 91.35, 91.56, 91.49),
        ("0.9", "99"): (91.93, 91.21, 92.33, 91.80),
    },
)
LENGTH = Table(
    "table6-length",
    "SentEval's sentence length, DistilBERT, directed ring of 8",
    METHODS,
    {("0.0", "0"): (99.39, 98.83, 99.48, 98.75)},
)
TABLES = (R20, R54, VGG, QGM, R18, IMAGENETTE_VGG, NEWS, LENGTH)


def seeds_of(runs: Runs, key: tuple[str, str], method: str) -> list[Run]:
    """Return the runs, one for each seed, of a method at key = (skew, percent dropped)."""
    skew, dropped = key
    return runs[f"s={skew}-{dropped}-{method}"]
