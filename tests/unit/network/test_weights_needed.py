"""What an algorithm says that it needs of W, and what users are told where it is missing."""

from pathlib import Path

import pytest

from p2psim.errors import InputError
from p2psim.experiment import scenario
from tests.support.runs import gossip, quadratic_table

NEEDY = """
from p2psim.base import Algorithm
from p2psim.registry import plugin

@plugin("algorithm", "needy")
class Needy(Algorithm):
    requires = {requires}
"""


@pytest.mark.parametrize("requires", ['("colum-stochastic",)', '"column-stochastic"', "(3,)"])
def test_a_need_that_there_is_not(requires: str, tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text(NEEDY.format(requires=requires))
    table = quadratic_table(gossip(4), tmp_path, "needy.py:Needy")
    with pytest.raises(InputError, match=r"'needy': requires = .* row-stochastic, column"):
        scenario.load(table, tmp_path)


@pytest.mark.parametrize(
    ("algorithm", "graph", "helps"),
    [
        ("choco-sgd", "directed-ring", True),
        ("choco-sgd", "one-peer-exponential", False),  # its push-sum form is static as well
        ("deep-squeeze", "one-peer-exponential", True),
        ("d-psgd", {"name": "star", "weights": "out-degree"}, False),
    ],
)
def test_push_sum_is_proposed_where_it_helps(
    algorithm: str, graph: object, helps: bool, tmp_path: Path
) -> None:
    table = quadratic_table(gossip(4), tmp_path, algorithm, topology=graph)  # type: ignore[arg-type]
    with pytest.raises(InputError) as refused:
        scenario.load(table, tmp_path)
    assert ("push_sum = true" in str(refused.value)) == helps
