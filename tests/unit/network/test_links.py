"""What link models, edges and the timeline refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2psim.analysis import results
from p2psim.analysis.join import join_run
from p2psim.errors import InputError
from p2psim.experiment import scenario
from tests.support.programs import invoke
from tests.support.runs import Table, new_folder, quadratic_table, quadratics, run_in_threads

LINKS = "sender,receiver,latency,bandwidth\n"
RING = "".join(f"{i},{j},0.1,100\n" for i in range(4) for j in ((i + 1) % 4, (i - 1) % 4))


def table(folder: Path, link: Table, topology: Table | None = None) -> Table:
    return quadratic_table(
        quadratics(4, d=4),
        folder,
        "d-psgd",
        topology=topology or {"name": "ring"},
        rounds=3,
        time={"compute": "constant", "link": link},
    )


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ({"name": "edges"}, "needs a topology whose edges have latency or bandwidth"),
        ({"name": "access"}, "time.link.uplink is missing"),
        ({"name": "access", "uplink": [1.0, 2.0]}, "time.link.uplink has 2 entries for 4 peers"),
        ({"name": "access", "uplink": 1.0, "downlink": 0.0}, "time.link.downlink = 0.0"),
        ({"name": "trace", "file": "none.csv"}, "there is no file"),
        ({"name": "trace", "file": "some.csv"}, "no row for the edge from 0 to 3 at time 0"),
        ({"name": "trace", "file": "zero.csv"}, "bandwidth > 0 in every row"),
        ({"name": "trace", "file": "rank.csv"}, "sender: 9 is no rank"),
        ({"name": "trace", "file": "twice.csv"}, "two rows for the edge from 0 to 1 at time 0"),
        ({"name": "trace", "file": "when.csv"}, "and finite numbers in the column time"),
        ({"nam": "trace"}, "unknown key 'time.link.nam'"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_links_that_are_refused(link: Table, says: str, tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text(LINKS + RING.replace("0,3,0.1,100\n", ""))
    (tmp_path / "zero.csv").write_text(LINKS + RING.replace("100", "0"))
    (tmp_path / "rank.csv").write_text(LINKS + RING + "9,0,0.1,100\n")
    (tmp_path / "twice.csv").write_text(LINKS + RING + "0,1,0.1,200\n")
    later = [f"{line},0\n" for line in RING.splitlines()] + ["0,1,0.1,200,nan\n"]
    (tmp_path / "when.csv").write_text(LINKS.strip() + ",time\n" + "".join(later))
    with pytest.raises(InputError) as raised:
        scenario.load(table(tmp_path, link), tmp_path)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("0 1 1 0.5\n", "write each edge once: 'u v [weight [latency bandwidth]]'"),
        ("0 1 1 0.5 0\n", "give an edge's bandwidth as > 0"),
        ("0 1 1 0.5 1\n1 0 1 0.6 1\n", "two weights or two links"),
    ],
)
def test_edges_that_are_refused(lines: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "own.edgelist").write_text(lines + "1 2\n2 3\n3 0\n")
    topology = {"file": "own.edgelist", **({"directed": False} if "0.6" in lines else {})}
    with pytest.raises(InputError) as raised:
        scenario.load(table(tmp_path, {"name": "edges"}, topology), tmp_path)
    assert says in str(raised.value)


def test_a_trace_without_the_pair_that_a_message_takes(tmp_path: Path) -> None:
    """all-reduce sends beside the topology, too."""
    (tmp_path / "ring.csv").write_text(LINKS + RING)
    made = table(tmp_path, {"name": "trace", "file": "ring.csv"})
    run_in_threads(made, tmp_path)
    with pytest.raises(Exception, match=r"ring.csv has no row for messages from \d to \d"):
        run_in_threads({**made, "algorithm": "all-reduce"}, tmp_path)


def test_timelines_that_are_refused_and_joined_runs(tmp_path: Path) -> None:
    place = new_folder(tmp_path)
    run_in_threads(table(tmp_path, {"latency": 0.5}), tmp_path)

    def said(*arguments: object) -> str:
        ended = invoke("plot", *arguments)
        assert ended.exit_code == 2, ended.output
        return ended.stderr

    assert "give some of the rounds 1 to 3" in said(place, "--timeline", "--rounds", "2:4")
    assert "give one round, or first:last" in said(place, "--timeline", "--rounds", "1-2")
    assert "shows one run, not 2" in said(place, place, "--timeline")
    assert "--rounds belongs to --timeline" in said(place, "--rounds", "1:2")
    joined = join_run(place)
    here, there = results.schedules(place), results.schedules(joined)
    assert all((one == other).all() for one, other in zip(here, there, strict=True))
    for path in place.glob("peers/schedule-00002.h5"):
        path.unlink()
    assert [own.size > 0 for own in results.schedules(place)] == [True, True, False, True]
    assert invoke("plot", place, "--timeline").exit_code == 0


def test_a_message_before_the_first_row_of_its_pair_is_refused(tmp_path: Path) -> None:
    """Of the edges of the topology all have a row at time 0, of other pairs perhaps not."""
    rows = [f"{line},0\n" for line in RING.splitlines()] + ["0,2,0.1,100,5\n"]
    (tmp_path / "late.csv").write_text(LINKS.strip() + ",time\n" + "".join(rows))
    link = {"name": "trace", "file": "late.csv"}
    trace = scenario.load(table(tmp_path, link), tmp_path).experiment.time.link
    assert trace.arrival(0, 2, 6.0, 100) == pytest.approx(7.1)
    with pytest.raises(ValueError, match="no row for messages from 0 to 2 at 4 s"):
        trace.arrival(0, 2, 4.0, 100)
