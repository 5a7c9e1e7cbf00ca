"""Neighborhoods over real MPI: who gets what, in which order, how much is counted and allocated.

The file is also the program that mpiexec starts: `python -m tests.mpi.test_exchange CHECK...` runs
some of the functions below on every rank; a rank where one fails prints why and ends them all.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from p2psim.launcher.runner import wait_until_stderr_is_read
from p2psim.network.buffers import HEADER
from p2psim.network.clock import Clock
from p2psim.network.collectives import ControlChannel
from p2psim.network.links import Uniform
from p2psim.network.mpi import MPITransport
from p2psim.network.neighborhood import WINDOW
from p2psim.network.topology import Topology
from p2psim.network.transfer import PeerNeighborhood
from p2psim.registry import find
from p2psim.rng import RandomStream
from tests.support.programs import Completed, made_once, run, under_mpiexec
from tests.support.reference import directed

Matrix = NDArray[np.float64]
ROOT = Path(__file__).parents[2]
PEERS = 5
LARGE = 2 * 2**20  # float32 entries: 8 MiB
LINK = Uniform(latency=0.25, bandwidth=1000.0)


def graph(*weights: Matrix) -> Topology:
    """A topology with these mixing matrices."""
    return Topology(np.stack(weights), "made", directed=True, rule="edges", links={})


def made(
    transport: MPITransport, *weights: Matrix, link: Uniform | None = None
) -> PeerNeighborhood:
    """This rank's neighborhood on a graph of its own communicator."""
    return PeerNeighborhood(transport.duplicate(), graph(*weights), Clock(), link or Uniform())


def control_channel(transport: MPITransport) -> ControlChannel:
    """This rank's control channel on a communicator of its own."""
    return ControlChannel(transport, graph(np.eye(transport.size)))


def vector(rank: int, d: int, step: int = 0, dtype: Any = np.float32) -> NDArray[Any]:
    """What peer `rank` has to say in this step: nobody else's, and no two entries alike."""
    return (np.arange(d) + 1000 * rank + 17 * step + 0.5).astype(dtype)


def mixed(W: Matrix, rank: int, value: Callable[[int], Any]) -> Any:
    """sum_j W_ij value_j by the definition, in rank order and in the values' own type."""
    terms = [value(j) * value(j).dtype.type(w) for j, w in enumerate(W[rank]) if w]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def check_directed_edges(transport: MPITransport) -> None:
    """Messages go along the arrows only; counts, order and clock are as defined."""
    d, W = 7, directed(transport.size)
    net = made(transport, W, link=LINK)
    senders = [j for j in range(transport.size) if j != transport.rank and W[transport.rank, j]]
    receivers = [i for i in range(transport.size) if i != transport.rank and W[i, transport.rank]]
    net.clock.work(float(transport.rank))
    got = net.exchange(vector(transport.rank, d))
    assert list(got) == senders
    for j, message in got.items():
        assert message.value.tobytes() == message.payload.tobytes() == vector(j, d).tobytes()
    assert net.bytes_sent == 4 * d * len(receivers)
    assert net.bytes_received == 4 * d * len(senders)
    assert net.messages_sent == len(receivers)
    assert net.header_bytes == HEADER.size * len(receivers) == 24 * len(receivers)
    assert net.clock.now == max([transport.rank, *(j + 0.25 + 4 * d / 1000 for j in senders)])
    mixture = net.mix(vector(transport.rank, d))
    assert mixture.tobytes() == mixed(W, transport.rank, lambda j: vector(j, d)).tobytes()
    double = net.mix(vector(transport.rank, d, dtype=np.float64))
    assert double.dtype == np.float64
    assert (double == mixed(W, transport.rank, lambda j: vector(j, d, dtype=np.float64))).all()


def check_overwriting_mix(transport: MPITransport) -> None:
    """A mix that may overwrite its vector has the same bits, there unless it goes by groups."""
    n, rank = transport.size, transport.rank
    for W, d in ((directed(n), 200_000), (np.full((n, n), 1 / n), LARGE)):
        wished, net = mixed(W, rank, lambda j, size=d: vector(j, size)), made(transport, W)  # type: ignore[misc]
        for own in (vector(rank, d) for _ in range(3)):
            assert (mixture := net.mix(own, overwrite=True)).tobytes() == wished.tobytes()
            assert (mixture is own) == (n * 4 * d < WINDOW)


def check_empty_neighborhoods(transport: MPITransport) -> None:
    """Peer 0 only sends, peer 1 only receives, peer 2 does neither, in turns with a full graph."""
    n, rank = transport.size, transport.rank
    star, full = np.eye(n), np.full((n, n), 1 / n)
    for i in {1, *range(3, n)} & set(range(n)):
        star[i, 0] = 0.5
    net = made(transport, star, full)
    wanted = {0} if rank == 1 or rank > 2 else set()
    for step in range(4):
        got = net.exchange(vector(rank, 9, step))
        others = set(range(n)) - {rank}
        assert set(got) == (others if step % 2 else wanted)
        assert all((m.value == vector(j, 9, step)).all() for j, m in got.items())
        W = full if step % 2 else star
        mixture = net.mix(vector(rank, 9, step))
        wished = mixed(W, rank, lambda j, at=step: vector(j, 9, at))  # type: ignore[misc]
        assert mixture.tobytes() == wished.tobytes()
        net.step += 1


def check_messages_by_receiver(transport: MPITransport) -> None:
    """A message for each receiver; what is missing or too much is refused before it is sent."""
    n, rank, W = transport.size, transport.rank, directed(transport.size)
    net = made(transport, W)
    receivers = [i for i in range(n) if i != rank and W[i, rank]]
    own = {i: net.message(vector(rank, 6, step=i)) for i in receivers}
    for wrong in (dict(list(own.items())[1:]), {**own, n: net.message(vector(rank, 6))}):
        with pytest.raises(ValueError, match="one message for each of the receivers"):
            net.exchange(wrong)
    assert net.messages_sent == 0
    if not receivers:
        return
    got = net.exchange(own)
    assert list(got) == [j for j in range(n) if j != rank and W[rank, j]]
    for j, message in got.items():
        assert (message.value == vector(j, 6, step=rank)).all()
    top = coder("top-k", rank, (6,), k=2)
    got = net.exchange({i: net.message(vector(rank, 6, step=i), top) for i in receivers})
    for j, message in got.items():
        assert (message.value[-2:] == vector(j, 6, step=rank)[-2:]).all()
        assert not message.value[:-2].any()


def coder(name: str, rank: int, *shapes: tuple[int, ...], **parameters: Any) -> Any:
    """A compressor that is bound to tensors of these shapes."""
    made = find("compressor", name, Path())(**parameters)
    made.bind(shapes, RandomStream(1, "compressor", rank))
    return made


def check_large_messages(transport: MPITransport) -> None:
    """8 MiB to everybody at once, by all: no deadlock, no mixing up, nothing cut."""
    n = transport.size
    net = made(transport, np.full((n, n), 1 / n))
    for step in range(2):
        own = np.random.default_rng([transport.rank, step]).standard_normal(LARGE, np.float32)
        got = net.exchange(own)
        assert len(got) == n - 1
        for j, message in got.items():
            wished = np.random.default_rng([j, step]).standard_normal(LARGE, np.float32)
            assert message.value.tobytes() == wished.tobytes()
    assert net.bytes_sent == net.bytes_received == 2 * (n - 1) * 4 * LARGE


def check_posts_out_of_order(transport: MPITransport) -> None:
    """Several transfers under way, of different sizes and steps, asked for in another order."""
    one, two = directed(transport.size), directed(transport.size) * 2
    net = made(transport, one, two)
    handles, sizes = [], [3, 100_000, 50, 7]
    for step, d in enumerate(sizes):
        own = vector(transport.rank, d, step)
        handles.append(net.start_exchange(own))
        own[:] = -1  # a posted vector is its owner's again
        net.step += 1
    for step in (2, 0, 3, 1):
        W, d = (one, two)[step % 2], sizes[step]
        wished = mixed(W, transport.rank, lambda j, d=d, at=step: vector(j, d, at))  # type: ignore[misc]
        assert handles[step].mix().tobytes() == wished.tobytes()
    assert not net.in_flight


def check_settle(transport: MPITransport) -> None:
    """What nobody waited for is taken in before a peer leaves; later messages are not its."""
    net = made(transport, directed(transport.size))
    for step in range(3):
        net.start_exchange(vector(transport.rank, 1000, step))
    assert len(net.in_flight) == 3
    net.drain()
    assert not net.in_flight
    assert net.bytes_sent == net.bytes_received == 3 * 4000 * min(2, transport.size - 1)
    for j, message in net.exchange(vector(transport.rank, 10, 9)).items():
        assert (message.value == vector(j, 10, 9)).all()


def check_mean(transport: MPITransport) -> None:
    """The exact mean of float64 sums, for d below, at and above n, on a graph without edges."""
    n = transport.size
    net = made(transport, np.eye(n))
    sent = 0
    for d in (1, 2, n - 1 or 1, n, n + 1, 1003):
        rows = np.random.default_rng(d).standard_normal((n, d)).astype(np.float32)
        got = net.mean(rows[transport.rank])
        total = np.zeros(d)
        for row in rows:
            total += row
        assert got.dtype == np.float32
        assert got.tobytes() == (total / n).astype(np.float32).tobytes(), d
        cuts = [d * j // n for j in range(n + 1)]
        mine = cuts[transport.rank + 1] - cuts[transport.rank]
        sent += 4 * ((d - mine) + (n - 1) * mine)
        assert net.bytes_sent == sent, d
    single = made(transport, np.eye(n)).mean(np.array([float(transport.rank)]))
    assert single.dtype == np.float64
    assert single[0] == (n - 1) / 2


def check_total(transport: MPITransport) -> None:
    """The sum over all peers, with the same bits everywhere, in 2 (n - 1) messages."""
    n = transport.size
    net = control_channel(transport)
    for d in (1, 1003):
        rows = np.random.default_rng(d).standard_normal((n, d)).astype(np.float32)
        got = net.total(rows[transport.rank])
        assert got.dtype == np.float64
        assert np.abs(got - rows.sum(axis=0, dtype=np.float64)).max() <= 1e-12 * n
        assert (net.gather(got) == got).all()
    before = net.messages_sent
    net.total(np.ones(3))
    assert net.gather(np.array([float(net.messages_sent - before)])).sum() == 2 * (n - 1)


def check_gather(transport: MPITransport) -> None:
    """All vectors as rows, on every peer the same, whatever the graph."""
    net = control_channel(transport)
    for step, d in enumerate((1, 5)):
        rows = net.gather(vector(transport.rank, d, step, np.float64))
        assert (rows == [vector(j, d, step, np.float64) for j in range(transport.size)]).all()


def check_twins_are_apart(transport: MPITransport) -> None:
    """Messages of two neighborhoods between the same ranks never meet."""
    W = directed(transport.size)
    first, second = made(transport, W), made(transport, W)
    one, two = (
        first.start_exchange(vector(transport.rank, 8, 1)),
        second.start_exchange(vector(transport.rank, 8, 2)),
    )
    assert all((m.value == vector(j, 8, 2)).all() for j, m in two.wait().items())
    assert all((m.value == vector(j, 8, 1)).all() for j, m in one.wait().items())


def check_results_are_kept(transport: MPITransport) -> None:
    """Buffers go round, but never under a vector or message that the caller still holds."""
    d, W = 5000, directed(transport.size)
    net = made(transport, W)
    mixtures = [net.mix(vector(transport.rank, d, step)) for step in range(6)]
    means = [net.mean(vector(transport.rank, d, step)) for step in range(6)]
    messages = [net.exchange(vector(transport.rank, d, step)) for step in range(6)]
    for step in range(6):
        wished = mixed(W, transport.rank, lambda j, at=step: vector(j, d, at))  # type: ignore[misc]
        assert mixtures[step].tobytes() == wished.tobytes()
        rows = np.array([vector(j, d, step) for j in range(transport.size)], np.float64)
        assert (means[step] == rows.mean(axis=0).astype(np.float32)).all()
        for j, message in messages[step].items():
            assert (message.value == vector(j, d, step)).all()


def check_no_allocation(transport: MPITransport) -> None:
    """After the first rounds, no array of the size of a vector is made again."""
    d, rank = 1_000_000, transport.rank  # so many that chunks are small beside it
    net = made(transport, directed(transport.size))
    own = vector(rank, d)
    codes = [coder(name, rank, (d,)) for name in ("identity", "affine-8")]
    codes.append(coder("top-k", rank, (d,), keep=0.1))

    def one_round() -> None:
        net.mix(own)
        handle = net.start_exchange(own)
        for code in codes:
            net.mix(net.message(own, code))
        handle.mix()
        net.exchange(own)
        net.step += 1

    seen = new_memory(lambda: np.zeros_like(own))
    assert seen >= own.nbytes, "the measure sees nothing"
    used = new_memory(one_round)
    assert used < own.nbytes / 4, f"{used} bytes for vectors of {own.nbytes}"
    used = new_memory(lambda: net.mean(own))
    block = 8 * (d // transport.size)  # its own block's sum, in float64
    assert used < block + own.nbytes / 10, f"{used} bytes for a mean of {own.nbytes}"


def check_mix_in_groups(transport: MPITransport) -> None:
    """Messages of 8 MiB by all to all: a mix receives two at a time, also beside a post."""
    n, rank = transport.size, transport.rank
    W = np.arange(1.0, n * n + 1).reshape(n, n)
    net = made(transport, W, W.T.copy())
    own = vector(rank, LARGE, 9)
    for step in range(3):
        handle = net.start_exchange(vector(rank, 5, step))
        mixture = net.mix(vector(rank, LARGE, step))
        wished = mixed(W.T if step % 2 else W, rank, lambda j, at=step: vector(j, LARGE, at))  # type: ignore[misc]
        assert mixture.tobytes() == wished.tobytes()
        assert all((m.value == vector(j, 5, step)).all() for j, m in handle.wait().items())
        net.step += 1
    assert net.bytes_sent == net.bytes_received == 3 * (n - 1) * 4 * (LARGE + 5)
    blocks = {size: len(kept) for (size, kind), kept in net.pool.arrays.items() if kind == "|u1"}
    assert sum(size * count for size, count in blocks.items() if size > LARGE) <= WINDOW
    assert new_memory(lambda: net.mix(own)) < own.nbytes / 4
    handle = net.start_exchange(own)
    mixture = net.mix(vector(rank, LARGE, 3))
    assert mixture.tobytes() == mixed(W.T, rank, lambda j: vector(j, LARGE, 3)).tobytes()
    assert all((m.value == vector(j, LARGE, 9)).all() for j, m in handle.wait().items())
    assert not net.in_flight


def new_memory(work: Callable[[], object]) -> int:
    """Bytes that are held at most at a time by five calls beyond what three have left."""
    for _ in range(3):
        work()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(5):
        work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - before


CHECKS: dict[str, Callable[[MPITransport], None]] = {
    name.removeprefix("check_"): function
    for name, function in list(globals().items())
    if name.startswith("check_")
}


def main(names: Sequence[str]) -> None:
    """Be one rank, for one check after the other."""
    transport = MPITransport()
    for name in names:
        try:
            CHECKS[name](transport)
        except BaseException:
            sys.stderr.write(
                f"rank {transport.rank} of {transport.size}:\n{traceback.format_exc()}"
            )
            wait_until_stderr_is_read()
            transport.abort(1)
        control_channel(transport).gather(np.zeros(1))  # a rank that hangs is a failure
        print(f"rank {transport.rank} passed {name}.", flush=True)


def checked(n: int, names: Sequence[str]) -> Completed:
    """What n ranks say to these checks."""
    return run(under_mpiexec(n, [sys.executable, "-m", "tests.mpi.test_exchange", *names]), ROOT)


@pytest.fixture(scope="module", params=[PEERS, 1], ids="n={}".format)
def all_checked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Completed]:
    """All checks by so many ranks, once: starting them takes longer than most checks."""

    def make(folder: Path) -> None:
        ended = checked(request.param, list(CHECKS))
        (folder / "ended.json").write_text(json.dumps(asdict(ended)))

    folder = made_once(tmp_path_factory, f"exchange-{request.param}", make)
    return request.param, Completed(**json.loads((folder / "ended.json").read_text()))


@pytest.mark.parametrize("name", CHECKS)
def test_exchange(name: str, all_checked: tuple[int, Completed]) -> None:
    n, ended = all_checked
    passed = re.findall(rf"rank (\d+) passed {name}\.", ended.stdout)  # lines may have run together
    assert sorted(passed) == [str(rank) for rank in range(n)], ended.stdout + ended.stderr


def test_all_ranks_end_well(all_checked: tuple[int, Completed]) -> None:
    assert all_checked[1].code == 0


def test_a_check_that_fails_is_seen() -> None:
    ended = checked(2, ["gather", "nothing", "mean"])
    assert ended.code != 0
    assert "KeyError: 'nothing'" in ended.stderr
    assert "passed gather." in ended.stdout
    assert "passed mean." not in ended.stdout


if __name__ == "__main__":
    main(sys.argv[1:])
