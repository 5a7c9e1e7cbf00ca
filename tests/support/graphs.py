"""A small citation graph in the eight Planetoid files."""

from __future__ import annotations

import pickle
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES, FEATURES = 3, 12
TRAIN, VALIDATION, TEST = 9, 12, 15  # nodes
NODES = TRAIN + VALIDATION + TEST


@dataclass
class SmallGraph:
    """Nodes with edges mostly inside their classes, and features that name the class."""

    classes: NDArray[Any] = field(init=False)
    features: NDArray[Any] = field(init=False)
    edges: list[tuple[int, int]] = field(init=False)
    test: NDArray[Any] = field(init=False)  # order of the test nodes in the files

    def __post_init__(self) -> None:
        random = np.random.default_rng(4)
        self.classes = np.arange(NODES) % CLASSES
        self.features = (random.random((NODES, FEATURES)) < 0.2).astype(np.float32)
        self.features[np.arange(NODES), self.classes] = 1
        pairs = ((i, j) for i in range(NODES) for j in range(i))
        self.edges = [
            (i, j)
            for i, j in pairs
            if random.random() < (0.3 if self.classes[i] == self.classes[j] else 0.03)
        ]
        self.test = random.permutation(np.arange(TRAIN + VALIDATION, NODES))

    def write(self, folder: Path, **changes: Any) -> str:
        """Write the files; return their common name. `changes` replaces the content of some."""
        from scipy.sparse import csr_matrix

        hot = np.eye(CLASSES, dtype=np.int32)[self.classes]
        known = TRAIN + VALIDATION
        lists = defaultdict(list)
        for i, j in self.edges:
            lists[i].append(j)
            lists[j].append(i)
        lists[0].append(0)  # a loop, which readers leave out
        parts: dict[str, Any] = {
            "x": csr_matrix(self.features[:TRAIN]),
            "allx": csr_matrix(self.features[:known]),
            "tx": csr_matrix(self.features[self.test]),
            "y": hot[:TRAIN],
            "ally": hot[:known],
            "ty": hot[self.test],
            "graph": lists,
            **changes,
        }
        for name, part in parts.items():
            if name != "test":
                (folder / f"ind.small.{name}").write_bytes(pickle.dumps(part, protocol=2))
        order = changes.get("test", self.test)
        (folder / "ind.small.test.index").write_text("\n".join(map(str, order)))
        return "ind.small"
