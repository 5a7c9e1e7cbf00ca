"""Problems with exactly known solutions, run on real ranks: `make referee`.

Claims: (1) compressed gossip with CHOCO-SGD reaches the exact mean, and its error shrinks by a
constant factor per round; (2) DeepSqueeze stops at a plateau; (3) D-PSGD with a constant step on
different quadratics stops at the linear fixed point X = W (X - lr G(X)); (4) centralized SGD
reaches the minimum.

Usage: python experiments/referee/run.py OUT. The exit code is 1 if a claim does not hold.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
N, D, M, LR = 8, 20, 60, 0.1  # peers, parameters, rows of A_i, learning rate
SQUEEZE = 'algorithm={name="deep-squeeze",gamma=0.1,compressor={name="top-k",keep=0.2}}'
VARIANTS = {
    "gossip": {
        "CHOCO, top 20 %": [],
        "DeepSqueeze, top 20 %": [SQUEEZE],
        "dense": ["algorithm=d-psgd"],
    },
    "bias": {
        "D-PSGD, lr 0.1": [],
        "D-PSGD, lr 0.05": ["learning.optimizer.lr=0.05"],
        "all-reduce": ["algorithm=all-reduce"],
    },
}


def problems(out: Path) -> dict[str, Any]:
    """Write both problems and their experiment files into `out`; return their arrays.

    "start" (N, D) belongs to gossip; "A" (N, M, D), "b" (N, M) and "best" (D,), the minimum of the
    mean objective, belong to the quadratics.
    """
    rng = np.random.default_rng(0)
    start = rng.standard_normal((N, D))
    np.savez(out / "gossip.npz", A=np.zeros((N, 1, D)), b=np.zeros((N, 1)), x0=start)
    A = rng.standard_normal((N, M, D))
    b = np.einsum("nmd,nd->nm", A, 1 + rng.standard_normal((N, D)))
    np.savez(out / "bias.npz", A=A, b=b)
    for name in VARIANTS:
        shutil.copy(HERE / f"{name}.toml", out)
    best, *_ = np.linalg.lstsq(A.reshape(-1, D), b.ravel(), rcond=None)
    return {"start": start, "A": A, "b": b, "best": best}


def run(out: Path, name: str, number: int, settings: list[str]) -> Any:
    """Run an experiment; return (round, consensus distance, loss of every peer, final x, W)."""
    folder = out / f"{name}-{number}"
    options = [part for text in settings for part in ("--set", text)]
    command = [sys.executable, "-m", "p2psim", "run", str(out / f"{name}.toml"), *options]
    subprocess.run(
        [*command, "--out", str(folder), "--force"], check=True, stdout=subprocess.DEVNULL
    )
    with h5py.File(folder / "run.h5", "r") as file:
        rows = [file[f"eval/{key}"][:] for key in ("round", "consensus_distance", "loss")]
        return rows[0][0], rows[1][0], rows[2], file["final/x"][:], file["topology/weights"][0]


def fixed_point(A: Any, b: Any, W: Any, lr: float) -> Any:
    """Solve X = W (X - lr G(X)), with G_i = A_i^T (A_i x_i - b_i) / m, as one linear system."""
    H = np.einsum("nmi,nmj->nij", A, A) / M
    c = np.einsum("nmi,nm->ni", A, b) / M
    # X as one vector of N D entries: X = mixing (blocks X + lr c).
    mixing = np.kron(W, np.eye(D))
    blocks = np.zeros((N * D, N * D))
    for i in range(N):
        blocks[i * D : (i + 1) * D, i * D : (i + 1) * D] = np.eye(D) - lr * H[i]
    right = mixing @ (lr * c.ravel())
    return np.linalg.solve(np.eye(N * D) - mixing @ blocks, right).reshape(N, D)


def distance(X: Any, x: Any) -> Any:
    """Return sqrt(mean_i ||x_i - x||^2)."""
    return np.sqrt(((X - x) ** 2).sum(axis=1).mean())


def main(out: Path) -> int:
    """Run all experiments, print the claims, draw the figure; return 1 if a claim does not hold."""
    out.mkdir(parents=True, exist_ok=True)
    arrays = problems(out)
    results = {
        name: {label: run(out, name, k, sets) for k, (label, sets) in enumerate(variants.items())}
        for name, variants in VARIANTS.items()
    }
    claims = [
        *gossip_claims(results["gossip"], arrays["start"]),
        *bias_claims(results["bias"], arrays),
    ]
    draw(results, arrays, out / "figure.png")
    for text, holds in claims:
        print(f"{'holds' if holds else 'FAILS'}: {text}")
    print(out / "figure.png")
    return int(not all(holds for _, holds in claims))


def gossip_claims(runs: Any, start: Any) -> list[tuple[str, bool]]:
    """Return the claims on gossip: linear convergence to the exact mean against a plateau."""
    mean = start.mean(axis=0)
    first = distance(start, mean)
    error = {label: distance(x, mean) / first for label, (_, _, _, x, _) in runs.items()}
    choco, squeeze, _ = error
    logs = np.log10(runs[choco][1] / first)
    per_hundred = 10 ** np.diff(logs[10:71:10])
    plateau = runs[squeeze][1] / first
    return [
        (
            f"CHOCO reaches the exact mean: relative error {error[choco]:.1e} <= 1e-12",
            bool(error[choco] <= 1e-12),
        ),
        (
            "CHOCO is linear: factor per 100 rounds "
            f"{per_hundred.min():.3f} to {per_hundred.max():.3f}",
            bool(per_hundred.max() < 0.5 and per_hundred.max() / per_hundred.min() < 1.1),
        ),
        (
            f"DeepSqueeze stays above 1e-4 of the start: {error[squeeze]:.1e}, and its last halves "
            f"agree: {plateau[-60:-30].mean():.1e}, {plateau[-30:].mean():.1e}",
            bool(error[squeeze] > 1e-4 and plateau[-60:-30].mean() < 2 * plateau[-30:].mean()),
        ),
    ]


def bias_claims(runs: Any, arrays: Any) -> list[tuple[str, bool]]:
    """Return the claims on the points at which D-PSGD and centralized SGD stop."""
    A, b, best = arrays["A"], arrays["b"], arrays["best"]
    claims = []
    for label, lr in (("D-PSGD, lr 0.1", LR), ("D-PSGD, lr 0.05", LR / 2)):
        x, W = runs[label][3:]
        predicted = fixed_point(A, b, W, lr)
        error = np.linalg.norm(x - predicted) / np.linalg.norm(predicted)
        bias = distance(x, best)
        text = (
            f"{label} stops at distance {bias:.4f} from the best x, {error:.1e} from the prediction"
        )
        claims.append((text, bool(error < 1e-8 and bias > 1e-3)))
    error = np.abs(runs["all-reduce"][3] - best).max()
    return [*claims, (f"all-reduce ends {error:.1e} from the best x <= 1e-8", bool(error <= 1e-8))]


def draw(results: Any, arrays: Any, target: Path) -> None:
    """Draw the consensus distance of gossip, and the mean suboptimality of peers."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    # A logarithmic axis cannot show values <= 0, which rounding may give.
    for label, (rounds, consensus, *_) in results["gossip"].items():
        left.semilogy(rounds, np.maximum(consensus, 1e-17), label=label)
    left.set(xlabel="round", ylabel="consensus distance", title="Gossip alone, ring of 8")
    lowest = ((arrays["A"] @ arrays["best"] - arrays["b"]) ** 2).mean() / 2
    for label, (rounds, _, loss, *_) in results["bias"].items():
        right.semilogy(rounds, np.maximum(loss.mean(axis=0) - lowest, 1e-17), label=label)
    right.set(
        xlabel="round",
        ylabel="f(x_i) - f*, mean over peers",
        title="Different quadratics, ring of 8",
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(target, dpi=150)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
