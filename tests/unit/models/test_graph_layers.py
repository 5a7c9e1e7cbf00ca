"""Layers of the graph models against those of torch_geometric, if it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.models.test_graph_models import Prepared

layers = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is not installed")


@pytest.fixture
def prepared(request: pytest.FixtureRequest, tmp_path: Path) -> Prepared:
    name, parameters = request.param
    return Prepared(name, tmp_path, **parameters)


def inputs(prepared: Prepared) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of all nodes, and the edges in both directions, (2, edges)."""
    return torch.from_numpy(prepared.x), torch.from_numpy(prepared.a).nonzero().T


def layer(prepared: Prepared, name: str, *args: Any, **parameters: torch.Tensor) -> Any:
    """A layer of torch_geometric in float64 with these parameters ("__" stands for a dot)."""
    options = {"lambda_max": torch.tensor(2.0, dtype=torch.float64)} if name == "ChebConv" else {}
    built = getattr(layers, name)(*args).double().eval()
    values = {key.replace("__", "."): value.detach() for key, value in parameters.items()}
    assert set(values) == set(dict(built.named_parameters()))
    built.load_state_dict(values, strict=False)
    return lambda x: built(x, inputs(prepared)[1], **options)


def check(prepared: Prepared, expected: torch.Tensor) -> None:
    """Assert equal outputs, up to the float32 of the weights of the edges."""
    difference = (prepared.module.network() - expected).detach().abs().max()
    assert float(difference) <= 2e-6 * float(expected.detach().abs().max())


@pytest.mark.parametrize("prepared", [("gcn", {})], indirect=True)
def test_gcn(prepared: Prepared) -> None:
    w0, b0, w1, b1 = prepared.module.parameters()
    x, _ = inputs(prepared)
    first = layer(prepared, "GCNConv", *w0.shape, lin__weight=w0.T, bias=b0)
    second = layer(prepared, "GCNConv", *w1.shape, lin__weight=w1.T, bias=b1)
    check(prepared, second(first(x).relu()))


@pytest.mark.parametrize("prepared", [("cheb", {})], indirect=True)
def test_cheb(prepared: Prepared) -> None:
    x, _ = inputs(prepared)
    p = list(prepared.module.parameters())
    first, second = (
        layer(prepared, "ChebConv", *a.shape, 2, lins__0__weight=a.T, lins__1__weight=b.T, bias=c)
        for a, b, c in (p[:3], p[3:])
    )
    check(prepared, second(first(x).relu()))


@pytest.mark.parametrize("prepared", [("gat", {})], indirect=True)
def test_gat(prepared: Prepared) -> None:
    w1, w2, to1, from1, b1, to2, from2, b2 = prepared.module.parameters()
    x, _ = inputs(prepared)
    first, second = (
        layer(
            prepared,
            "GATConv",
            len(w),
            target.shape[1],
            len(target),
            lin__weight=w.T,
            att_dst=target[None],
            att_src=source[None],
            bias=b,
        )
        for w, target, source, b in ((w1, to1, from1, b1), (w2, to2, from2, b2))
    )
    check(prepared, second(torch.nn.functional.elu(first(x))))


@pytest.mark.parametrize("prepared", [("dna", {"heads": 2})], indirect=True)
def test_dna(prepared: Prepared) -> None:
    network = prepared.module.network
    x, _ = inputs(prepared)
    h = [(x @ network.w_in + network.b_in).relu()]
    for jump in network.layers:
        parts = {"q": jump.query, "k": jump.key, "v": jump.value}
        given = {f"multi_head__lin_{k}__weight": part.w for k, part in parts.items()}
        given |= {f"multi_head__lin_{k}__bias": part.b for k, part in parts.items()}
        built = layer(prepared, "DNAConv", 6, 2, 2, **given)
        h.append(built(torch.stack(h, dim=1)).relu())
    check(prepared, h[-1] @ network.w_out + network.b_out)
