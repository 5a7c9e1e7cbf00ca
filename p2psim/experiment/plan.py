"""Figures of a run for `p2psim plan`, computed from the experiment file before any rank starts."""

from __future__ import annotations

import math

import numpy as np

from p2psim.experiment.dry_run import DryRun, DryRunNeighborhood, rehearse, with_steps
from p2psim.experiment.forecast import forecast
from p2psim.experiment.holdings import Holdings
from p2psim.experiment.scenario import Scenario
from p2psim.models import cost_model
from p2psim.network.buffers import HEADER

# Bytes, measured by `make bench-start`: of a forked peer without data, and once on every node.
PROCESS, SHARED = 25 * 2**20, 300 * 2**20
TENSORS = 8  # at most whose shapes are printed
UNUSED = "not used: the algorithm takes steps of its own, so the optimizer's keys have no effect"


def plan(scenario: Scenario) -> dict[str, str]:
    """Return the figures of the plan as {label: text}, in the order of the printed table."""
    experiment, graph = scenario.experiment, scenario.topology
    holdings = Holdings(scenario)
    holdings.check()  # damaged data must be reported before the run starts
    few, many = extremes(scenario)
    # The traffic of every other peer lies between that of these two.
    dry_run = rehearse(scenario, many)
    most, state = dry_run.net, dry_run.state
    least = most if few == many else rehearse(scenario, few).net
    sizes = [len(part) for part in scenario.parts]
    batches = [scenario.batch_size(rank) for rank in range(scenario.peers)]
    rough = "about " if experiment.algorithm.time_dependent else ""
    needs = ", ".join(experiment.algorithm.requires)
    return {
        "experiment": experiment.head.name,
        "algorithm": experiment.table["algorithm"]["name"] + (f" (W: {needs})" if needs else ""),
        "topology": f"{graph.name}: {scenario.peers} peers, {graph.edges} edges, "
        f"diameter {graph.diameter()}" + (f", period {graph.period}" * (graph.period > 1)),
        "weights": f"{graph.rule} ({', '.join(sorted(graph.properties)) or 'no property'})",
        "spectral gap": f"{graph.spectral_gap():.5f}",
        "samples": f"{span(min(sizes), max(sizes))} per peer, minibatches of "
        f"{span(min(batches), max(batches))}",
        "model": f"{scenario.parameters:,} parameters in {experiment.model_section.dtype}, "
        + tensors(scenario),
        "rounds": f"{scenario.rounds} ({epochs(scenario)})",
        "messages": rough
        + per_round(least.messages_sent, most.messages_sent, graph.period, "messages")
        + f", each with {HEADER.size} bytes of header",
        "traffic": rough
        + per_round(least.bytes_sent, most.bytes_sent, graph.period, "bytes")
        + (f", and {most.bytes_at_start:,} once at the start" if most.bytes_at_start else ""),
        "memory": f"about {memory(scenario, most, state) / 2**20:,.0f} MiB per peer, and "
        f"{SHARED >> 20} MiB on every node",
        "virtual time": virtual_time(scenario, dry_run),
        **account(scenario),
        **({} if dry_run.optimizer_used else {"optimizer": UNUSED}),
        **published_count(scenario, most),
        **diagnose(scenario),
    }


def epochs(scenario: Scenario) -> str:
    """Return the length of the run in epochs, as text."""
    by_clock = scenario.experiment.algorithm.round_seconds is not None
    return f"{scenario.epochs:.4g} epochs" + ", the mean of all peers" * by_clock


def tensors(scenario: Scenario) -> str:
    """Return the number of the model's tensors and, of a few, their shapes, as text."""
    shapes = [" x ".join(map(str, shape)) or "1" for shape in scenario.shapes]
    number = f"{len(shapes)} tensor{'s' * (len(shapes) > 1)}"
    return number + (f": {', '.join(shapes)}" if len(shapes) <= TENSORS else "")


def unused_optimizer(scenario: Scenario) -> str:
    """Return a sentence if the algorithm never asks the optimizer for a step, else "".

    It takes the dry run of two rounds of a single step.
    """
    used = rehearse(with_steps(scenario, 1, 1), 0).optimizer_used
    return "" if used else f"learning.optimizer is {UNUSED}"


def account(scenario: Scenario) -> dict[str, str]:
    """Return operations, energy and memory of a peer's training by the cost model of its layers."""
    costs, learning = scenario.account, scenario.experiment.learning
    if costs is None:
        return {}
    lines = costs.words(learning.precision)
    energy_per_step = costs.energy[list(cost_model.PICOJOULE).index(learning.precision)]
    joules = energy_per_step * scenario.rounds * scenario.steps_per_round / 1000
    return {**lines, "energy": f"{lines['energy']}; {joules:,.4g} J per peer in the run"}


def published_count(scenario: Scenario, net: DryRunNeighborhood) -> dict[str, str]:
    """Return a peer's traffic as a paper counts it beside the real traffic, as {label: text}.

    Return {} without a published count. The paper counts one message a step on any graph
    (Aketi et al. 2022, section 5).
    """
    counts = [
        compressor.published()
        for compressor in scenario.experiment.algorithm.compressors()
        if hasattr(compressor, "published")
    ]
    if not counts or None in counts:
        return {}
    steps = scenario.rounds * scenario.experiment.learning.consensus_steps
    nbytes, formula = counts[0]
    text = f"{steps * nbytes / 1e9:.4g} GB per peer in the run, if one message a step is counted"
    real = net.bytes_sent / scenario.topology.period * scenario.rounds / 1e9
    return {
        "published count": f"{text} ({steps:,} x {formula} bytes); {real:.4g} GB are really sent"
    }


def diagnose(scenario: Scenario) -> dict[str, str]:
    """Return the algorithm's own lines of the plan, derived from W and the consensus steps."""
    steps = scenario.experiment.learning.consensus_steps
    return scenario.experiment.algorithm.diagnose(scenario.topology.weights, steps)


def span(low: float, high: float) -> str:
    """Format a range, as a single number if both ends are equal."""
    return f"{low:,.10g}" if low == high else f"{low:,.10g} to {high:,.10g}"


def per_round(low: int, high: int, period: int, unit: str) -> str:
    """Format counts over one period of the topology as means per round."""
    return f"{span(low / period, high / period)} {unit} per round and peer"


def extremes(scenario: Scenario) -> tuple[int, int]:
    """Return the peers with the fewest and with the most receivers over a period, or one twice."""
    graph = scenario.topology
    totals = [
        sum(len(graph.receivers(rank, t)) for t in range(graph.period))
        for rank in range(scenario.peers)
    ]
    few = many = int(np.argmax(totals))
    if min(totals) < max(totals):
        few = int(np.argmin(totals))
    return few, many


def peer_memory(scenario: Scenario) -> float:
    """Return the bytes of the peer with the most receivers."""
    dry_run = rehearse(scenario, extremes(scenario)[1])
    return memory(scenario, dry_run.net, dry_run.state)


def memory(scenario: Scenario, most: DryRunNeighborhood, state: int) -> float:
    """Return the bytes of a peer: process, x and gradient, state, buffers, samples, activations.

    `state`: bytes of the algorithm and the optimizer. `most`: neighborhood with the most receivers.
    """
    d = scenario.parameters * np.dtype(scenario.experiment.model_section.dtype).itemsize
    buffers = sum(size * blocks for size, blocks in most.blocks.items()) + 4 * d
    sample = 4 * math.prod(scenario.experiment.data.shape)
    samples = max(map(len, scenario.parts)) * sample
    return PROCESS + 2 * d + state + buffers + samples + scenario.activations


def virtual_time(scenario: Scenario, dry_run: DryRun) -> str:
    """Return the virtual time at which the last peer completes its last round, as text."""
    prediction = forecast(scenario, dry_run)
    if prediction is None:
        return "depends on who waits for whom; only a run tells"
    seconds, rounds = prediction
    if (rounds == scenario.rounds and not dry_run.terms) or not seconds:
        return f"{seconds:,.6g} s" if seconds else "none"
    return f"about {seconds / rounds * scenario.rounds:,.4g} s, by the first {rounds:,} rounds"
