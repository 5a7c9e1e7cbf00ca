"""Claims of experiments/quickstart.toml: the peers agree on an accurate model with few bytes.

Usage: python experiments/check_quickstart.py RUN. The exit code is 1 if a claim does not hold.
"""

import sys
from pathlib import Path

import h5py
import numpy as np


def main(folder: Path) -> int:
    """Print each claim with the measured value; return 1 if one does not hold."""
    with h5py.File(folder / "run.h5", "r") as file:
        accuracy = np.mean(file["eval/accuracy"][:, -1])
        sent = file["train/bytes_sent"][:, -1].max()
        # Dense gossip on a ring sends 4 bytes for each parameter to 2 neighbors in each round.
        dense = 2 * 4 * file.attrs["parameters"] * file["train/round"].shape[1]
        status = file.attrs["status"]
    claims = [
        ("the run is done", status == "done", status),
        ("mean accuracy of the peers >= 0.95", accuracy >= 0.95, f"{accuracy:.4f}"),
        ("bytes sent <= 1/4 of dense gossip", sent <= dense / 4, f"1/{dense / sent:.1f}"),
    ]
    for text, holds, value in claims:
        print(f"{'holds' if holds else 'FAILS'}: {text} ({value})")
    return 0 if all(holds for _, holds, _ in claims) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
