"""Cost of training on hardware with 8-bit arithmetic: operations, energy and memory by layer.

The cost model is that of Aketi, Kodge & Roy 2022, section 5, for a minibatch of b samples, with
the energy of additions and multiplications by Horowitz 2014 (45 nm, pJ). Like the paper, it leaves
out norms in shortcuts, biases and max-pooling. A norm without a row of its own in the paper is
counted as the similar norm by range: batch and group norm as Range-BN, EvoNorm as Range-EvoNorm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2psim.models.layers import Cost

PICOJOULE = {"fp32": (0.9, 3.7), "int8": (0.03, 0.2)}  # per addition, per multiplication
BYTES = {"fp32": 4, "int8": 1}  # per activation that is stored for the backward pass
COPIES = 5  # vectors of length d in memory, 4 bytes an entry: x, gradient, momentum, x_hat, s


@dataclass(frozen=True)
class Operations:
    """Numbers of additions and multiplications."""

    adds: int
    muls: int

    def energy(self, precision: str) -> float:
        """Return the energy in this precision, in millijoule."""
        add, mul = PICOJOULE[precision]
        return (self.adds * add + self.muls * mul) * 1e-9


def operations(cost: Cost, b: int, precision: str, training: bool = True) -> Operations:
    """Count the operations of one iteration on b samples.

    With training = False, count those of the forward pass alone. `cost` is that of one sample.
    """
    # A backward pass multiplies twice: once for the gradient of the inputs, once for the weights'.
    macs = (3 if training else 1) * b * cost.macs
    adds, muls = macs + 2 * b * cost.added, macs
    norm, evonorm = cost.norm_elements, cost.evonorm_elements
    if training:
        adds += b * (9 * norm + 6 * evonorm)
        muls += b * (6 * norm + 10 * evonorm) + 7 * cost.channels + 5 * cost.evonorm_channels
    else:
        adds += b * (3 * norm + 2 * evonorm)
        muls += b * (2 * norm + 4 * evonorm) + 3 * cost.channels + 2 * cost.evonorm_channels
    adds += b * cost.pooled
    muls += (2 if training else 1) * b * cost.means
    if precision == "int8":
        # Quantizing costs 2 additions and 4 multiplications an entry.
        inputs = b * cost.inputs if training else 0
        adds += 2 * (inputs + cost.weights)
        muls += 4 * (inputs + cost.weights)
    return Operations(adds, muls)


def memory(cost: Cost, d: int, b: int, precision: str) -> int:
    """Return the bytes that training takes with d parameters and b samples.

    4 * 5 P, with P the parameters that the paper counts, and for every sample
    a = 4 E + 2 E' + 2 S entries: E entries of norms, E' of them in norms followed by ReLU, S of
    skip sums. A network without norms stores the inputs of its layers, and their gradients, in
    place of 4 E + 2 E'.
    """
    parameters = counted_parameters(cost, d)
    return 4 * COPIES * parameters + BYTES[precision] * b * stored_activations(cost)


def stored_activations(cost: Cost) -> int:
    """Return a: the entries of one sample's activations that the backward pass needs."""
    norms = 4 * (cost.norm_elements + cost.evonorm_elements) + 2 * cost.norm_elements
    return (norms or 2 * cost.inputs) + 2 * cost.added


def inference_memory(cost: Cost, d: int) -> int:
    """Return the bytes of the parameters, in fp32."""
    return 4 * counted_parameters(cost, d)


def counted_parameters(cost: Cost, d: int) -> int:
    """Return P: d without the third parameter of norms and without the norms in shortcuts."""
    return d - cost.uncounted


@dataclass(frozen=True)
class Account:
    """Cost of one iteration of one peer; pairs of numbers are for (fp32, int8)."""

    batch: int  # samples
    macs: int  # of one sample, forward
    additions: Sequence[float]
    multiplications: Sequence[float]
    energy: Sequence[float]  # mJ
    memory: Sequence[float]  # bytes
    parameters: float  # bytes, the memory of inference

    def words(self, precision: str) -> dict[str, str]:
        """Return the text for a run in this precision, as {label: line}."""
        used, (fp32, int8) = list(PICOJOULE).index(precision), self.energy
        mib = [size / 2**20 for size in (*self.memory, self.parameters)]
        return {
            "operations": f"{self.macs:,} multiply-adds (MACs) per sample; in {precision} "
            f"{self.additions[used]:,.0f} additions and {self.multiplications[used]:,.0f} "
            f"multiplications per step of {self.batch} samples",
            "energy": f"{format_mj(fp32)} mJ in fp32, {format_mj(int8)} mJ in int8 per step "
            f"({fp32 / int8:.4g} times less)",
            "layer memory": f"{mib[0]:.2f} MiB in fp32, {mib[1]:.2f} MiB in int8 (activations "
            f"and {COPIES} copies of x); without training {mib[2]:.2f} MiB",
        }


# Unit and meaning of each field of Account, as the result file has them; pairs as in PICOJOULE.
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
    """Compute all costs for d parameters and minibatches of b samples."""
    both = [operations(cost, b, precision) for precision in PICOJOULE]
    return Account(
        batch=b,
        macs=cost.macs,
        additions=[count.adds for count in both],
        multiplications=[count.muls for count in both],
        energy=[count.energy(precision) for count, precision in zip(both, PICOJOULE, strict=True)],
        memory=[memory(cost, d, b, precision) for precision in PICOJOULE],
        parameters=inference_memory(cost, d),
    )


def format_mj(value: float) -> str:
    """Format an energy with five digits, at most four of them decimals unless it is below 0.1."""
    return f"{round(value, 4):.5g}" if value >= 0.1 else f"{value:.4g}"
