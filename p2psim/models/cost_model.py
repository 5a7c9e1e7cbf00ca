"""What training costs on hardware that has 8 bits: operations, energy, memory, by counting layers.

The account of Aketi, Kodge & Roy 2022, section 5: of a minibatch of b samples, with the energy of
additions and multiplications by Horowitz 2014 (45 nm, pJ). Norms in shortcuts, biases and
max-pooling are left out there, and here. A norm that has no row of its own there is counted as the
one by range that is like it: batch and group norm as Range-BN, EvoNorm as Range-EvoNorm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2psim.models.layers import Cost

PICOJOULE = {"fp32": (0.9, 3.7), "int8": (0.03, 0.2)}  # of an addition, of a multiplication
BYTES = {"fp32": 4, "int8": 1}  # of an activation that is kept for the backward pass
COPIES = 5  # x, gradient, momentum, x_hat, s: all of 4 bytes


@dataclass(frozen=True)
class Operations:
    """Additions and multiplications."""

    adds: int
    muls: int

    def energy(self, precision: str) -> float:
        """Millijoule."""
        add, mul = PICOJOULE[precision]
        return (self.adds * add + self.muls * mul) * 1e-9


def operations(cost: Cost, b: int, precision: str, training: bool = True) -> Operations:
    """Of one iteration with b samples; of the forward pass alone without `training`."""
    macs = (3 if training else 1) * b * cost.macs
    adds, muls = macs + 2 * b * cost.added, macs
    if training:
        adds += b * (9 * cost.normed + 6 * cost.gated)
        muls += b * (6 * cost.normed + 10 * cost.gated) + 7 * cost.channels + 5 * cost.gates
    else:
        adds += b * (3 * cost.normed + 2 * cost.gated)
        muls += b * (2 * cost.normed + 4 * cost.gated) + 3 * cost.channels + 2 * cost.gates
    adds += b * cost.pooled
    muls += (2 if training else 1) * b * cost.means
    if precision == "int8":
        taken = b * cost.taken if training else 0
        adds += 2 * (taken + cost.weights)
        muls += 4 * (taken + cost.weights)
    return Operations(adds, muls)


def memory(cost: Cost, d: int, b: int, precision: str) -> int:
    """Bytes of training with d parameters and b samples.

    4 * 5 P, with P parameters without those that the paper does not count, and of every sample
    a = 4 E + 2 E' + 2 S entries: E normed ones, E' of them with ReLU behind, S of skip sums. A
    network without such norms keeps what enters its layers, and its gradient, in place of 4 E.
    """
    return 4 * COPIES * counted(cost, d) + BYTES[precision] * b * kept(cost)


def kept(cost: Cost) -> int:
    """a: entries of a sample's activations that are there in the backward pass."""
    norms = 4 * (cost.normed + cost.gated) + 2 * cost.normed
    return (norms or 2 * cost.taken) + 2 * cost.added


def inference_memory(cost: Cost, d: int) -> int:
    """Bytes of the parameters."""
    return 4 * counted(cost, d)


def counted(cost: Cost, d: int) -> int:
    """P: d without a norm's third parameter and without shortcuts' norms."""
    return d - cost.aside


@dataclass(frozen=True)
class Account:
    """What an iteration of a peer takes; pairs are in fp32 and in int8."""

    batch: int  # samples
    macs: int  # of one sample, forward
    additions: Sequence[float]
    multiplications: Sequence[float]
    energy: Sequence[float]  # mJ
    memory: Sequence[float]  # bytes
    parameters: float  # bytes, all that is left without training

    def words(self, precision: str) -> dict[str, str]:
        """Lines by name, of a run in this precision."""
        used, (fp32, int8) = list(PICOJOULE).index(precision), self.energy
        mib = [size / 2**20 for size in (*self.memory, self.parameters)]
        return {
            "operations": f"{self.macs:,} MACs per sample; {self.additions[used]:,.0f} additions "
            f"and {self.multiplications[used]:,.0f} multiplications per step of {self.batch} "
            f"samples in {precision}",
            "energy": f"{format_mj(fp32)} mJ in fp32, {format_mj(int8)} mJ in int8 per step "
            f"({fp32 / int8:.4g} times less)",
            "layer memory": f"{mib[0]:.2f} MiB in fp32, {mib[1]:.2f} MiB in int8 (activations "
            f"and {COPIES} copies of x, as published); without training {mib[2]:.2f} MiB",
        }


# Unit and meaning of each; pairs are in the order of PICOJOULE.
FIELDS = {
    "batch": ("", "samples of a minibatch"),
    "macs": ("", "multiplications with an addition in the forward pass of one sample"),
    "additions": ("", "of an iteration of one peer, in fp32 and in int8"),
    "multiplications": ("", "of an iteration of one peer, in fp32 and in int8"),
    "energy": ("mJ", "of an iteration of one peer, in fp32 and in int8"),
    "memory": ("byte", "of training on one peer, in fp32 and in int8"),
    "parameters": ("byte", "of the model without training"),
}


def account(cost: Cost, d: int, b: int) -> Account:
    """All of it for d parameters and minibatches of b samples."""
    both = [operations(cost, b, precision) for precision in PICOJOULE]
    return Account(
        batch=b,
        macs=cost.macs,
        additions=[done.adds for done in both],
        multiplications=[done.muls for done in both],
        energy=[done.energy(precision) for done, precision in zip(both, PICOJOULE, strict=True)],
        memory=[memory(cost, d, b, precision) for precision in PICOJOULE],
        parameters=inference_memory(cost, d),
    )


def format_mj(value: float) -> str:
    """To five digits, at most four of them behind the point unless it is small."""
    return f"{round(value, 4):.5g}" if value >= 0.1 else f"{value:.4g}"


def traffic(d: int, sent: int | None, iterations: int) -> int:
    """Bytes of a peer's run as the paper counts: one message an iteration, whatever the graph.

    Dense (sent None): 4 (d + 1), the one being the push-sum weight; of `sent` entries: 6 sent + 3.
    """
    return iterations * (4 * (d + 1) if sent is None else 6 * sent + 3)
