"""Models that take token ids: what they ignore, runs of two peers, what is refused beforehand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from p2psim import registry
from p2psim.base import DataSpec
from p2psim.errors import InputError
from p2psim.experiment import scenario
from p2psim.learning import int8
from p2psim.models import attention
from p2psim.simulation.minibatches import Samples
from tests.support.runs import Run, Table, run_in_threads
from tests.support.texts import TINY, save_config, save_tiny_model, write_news

SMALL: Table = {"name": "transformer", "width": 8, "heads": 2, "blocks": 1, "ff": 8}
ADAM: Table = {"optimizer": {"name": "adam", "lr": 0.01}}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with small news; experiments are in it as well."""
    monkeypatch.setenv("P2PSIM_DATA", str(tmp_path))
    write_news(tmp_path)
    return tmp_path


def table(model: Table, rounds: int = 4, learning: Table | None = None, **data: Any) -> Table:
    return {
        "name": "texts",
        "peers": 2,
        "rounds": rounds,
        "data": {"name": "ag-news", "length": 12, "batch_size": 8, **data},
        "model": model,
        "learning": learning or ADAM,
        "algorithm": "d-psgd",
        "topology": {"name": "ring"},
        "eval": {"every": rounds},
    }


def module(name: str, outputs: int = 3, length: int = 12, **params: Any) -> nn.Module:
    """The torch module of a model that knows 100 ids."""
    made: Any = registry.names("model")[name](**params)
    made.vocabulary = 100
    torch.manual_seed(0)
    built: nn.Module = made.build((length,), outputs)
    return built.double().eval()


def both(folder: Path) -> list[nn.Module]:
    return [module("transformer"), module("distilbert", path=str(save_config(folder / "own")),
                                          from_scratch=True)]  # fmt: skip


def test_padding_changes_nothing(tmp_path: Path) -> None:
    ids = torch.randint(1, 100, (4, 12))
    ids[0, 5:], ids[1, 1:] = 0, 0
    for made in both(tmp_path):
        whole = made(ids)
        assert whole.shape == (4, 3)
        one = made(ids[:1])
        assert (one - whole[:1]).abs().max() < 1e-12
        assert (made(ids.flip(1)) - whole)[2].abs().max() > 1e-3  # places matter
    short = module("transformer", length=5)
    long = module("transformer", length=12)
    assert (short(ids[:1, :5]) - long(ids[:1])).abs().max() < 1e-6  # positions are of 32 bits


def test_a_text_of_padding_alone_is_finite(tmp_path: Path) -> None:
    ids = torch.zeros(2, 12, dtype=torch.int64)
    ids[1, 0] = 7
    for made in both(tmp_path):
        outputs = made.train()(ids)
        outputs.square().sum().backward()
        assert outputs.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_attention_by_its_formula() -> None:
    layer = attention.AttentionModule(6, 2).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    there = torch.tensor([[True] * 5, [True, True, False, True, False]])
    got = layer(x, there).detach().numpy()
    q, k, v = (part(x).detach().numpy().reshape(2, 5, 2, 3) for part in (layer.q, layer.k, layer.v))
    for b in range(2):
        rows = np.zeros((5, 6))
        for head in range(2):
            e = np.exp(q[b, :, head] @ k[b, :, head].T / np.sqrt(3)) * there[b].numpy()
            rows[:, 3 * head : 3 * head + 3] = e / e.sum(1, keepdims=True) @ v[b, :, head]
        wanted = layer.out(torch.from_numpy(rows)).detach().numpy()
        assert np.abs(got[b] - wanted).max() < 1e-12


def test_places_by_their_formula() -> None:
    for width in (8, 7):
        made = attention.sinusoidal_positions(20, width).numpy()
        for t in (0, 3, 19):
            for j in range(width):
                angle = t / 10_000 ** (2 * (j // 2) / width)
                assert abs(made[t, j] - (np.cos(angle) if j % 2 else np.sin(angle))) < 1e-6


def test_large_models_test_in_parts(tmp_path: Path) -> None:
    made: Any = both(tmp_path)[1]
    ids = torch.randint(0, 100, (130, 12))
    whole = made.logits(ids)
    assert (made(ids) - whole).abs().max() < 1e-12


@pytest.mark.parametrize("which", [0, 1])
def test_eight_bits_reach_every_layer(which: int, tmp_path: Path) -> None:
    made = int8.quantize_model(both(tmp_path)[which].train())
    kinds = [type(part) for part in made.modules()]
    assert kinds.count(int8.QuantizedLayer) == [13, 14][which]  # 6 a block, and the head
    assert kinds.count(int8.QuantizedNorm) == 5
    activations = kinds.count(int8.InputQuantizer) - [18, 19][which]
    assert activations == [8, 0][which]  # the operands of four sums
    made(torch.randint(0, 100, (4, 12))).square().sum().backward()
    used = [part for part in made.modules() if isinstance(part, int8.InputQuantizer)]
    assert all(part.low.isfinite() for part in used)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_token_ids_stay_whole_numbers() -> None:
    data = registry.names("data")["ag-news"](vocabulary=2**31 - 1)
    ids = np.array([[2**24 + 1, 2**31 - 2], [0, 3]], np.int32)
    samples = Samples(data, (ids, np.zeros(2, np.int64)), torch.float32, "cpu")
    assert samples.values(slice(None)).inputs.tolist() == ids.tolist()
    assert samples.values(torch.tensor([1])).inputs.dtype == torch.int64


@pytest.mark.parametrize("bits", ["fp32", "int8"])
def test_a_transformer_learns(bits: str, home: Path) -> None:
    made = run_in_threads(table(SMALL, 60, {**ADAM, "precision": bits}), home)
    assert made.eval["accuracy"][-1].min() > 0.9
    assert made.x.shape == (2, made.parameters)


def test_distilbert_runs_and_repeats(home: Path) -> None:
    save_tiny_model(home / "bert")
    given: Table = {"name": "distilbert", "path": "bert"}
    runs: list[Run] = [
        run_in_threads(table(given, learning=learning, tokenizer="bert"), home)
        for learning in (ADAM, ADAM, {**ADAM, "precision": "int8"})
    ]
    assert runs[0].datasets() == runs[1].datasets()
    assert np.isfinite(runs[2].x).all()
    assert not np.array_equal(runs[0].x, runs[2].x)
    fresh = run_in_threads(table({**given, "from_scratch": True}, tokenizer="bert"), home)
    assert not np.array_equal(runs[0].x, fresh.x)


def test_trained_weights_are_those_of_the_folder(tmp_path: Path) -> None:
    from transformers import DistilBertForSequenceClassification

    folder = save_tiny_model(tmp_path / "bert", classes=3)
    saved = DistilBertForSequenceClassification.from_pretrained(str(folder)).parameters()
    network: Any = registry.names("model")["distilbert"](path="bert")
    network.bind(DataSpec((12,), 3, vocabulary=10), tmp_path)
    parts = list(network.build((12,), 3).parameters())
    assert network.shapes((12,), 3) == [tuple(part.shape) for part in parts]
    assert all(torch.equal(a, b) for a, b in zip(saved, parts, strict=True))
    other = list(network.build((12,), 4).parameters())  # another head
    assert [tuple(part.shape) for part in other] == network.shapes((12,), 4)
    assert all(torch.equal(a, b) for a, b in zip(parts[:-2], other[:-2], strict=True))


def test_shapes_cost_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from p2psim import registry\n"
        f"model = registry.names('model')['distilbert'](path={str(TINY)!r}, from_scratch=True)\n"
        "model.shapes((12,), 4), model.macs((12,), 4)\n"
        "registry.names('model')['transformer']().shapes((12,), 4)\n"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


OWN = """
from p2psim.registry import plugin

@plugin("model", "own")
class Own:
    def shapes(self, inputs, outputs):
        return [(1,)]
"""


@pytest.mark.parametrize(
    ("data", "model", "says"),
    [
        ("ag-news", "linear", "'ag-news' gives token ids, but model 'linear' takes numbers; "
         "choose one of the models decoder-transformer, distilbert, transformer, or"),
        ("ag-news", "own.py:Own", "model 'own.py:Own' takes numbers"),
        ("digits", "transformer", "'digits' gives numbers, but model 'transformer' takes token "
         "ids; choose one of the models cnn"),
    ],
)  # fmt: skip
def test_data_and_models_of_two_kinds(data: str, model: str, says: str, home: Path) -> None:
    (home / "own.py").write_text(OWN)
    with pytest.raises(InputError, match=says):
        scenario.load({**table({"name": model}), "data": {"name": data, "batch_size": 8}}, home)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "'.*bert' has no config.json; give the folder of a DistilBERT"),
        ("{", "config.json' cannot be used"),
        ({"dim": "x"}, "config.json' cannot be used"),
        ({"n_layers": 0}, "config.json' cannot be used"),
        ({"model_type": "bert"}, "has model_type 'bert' where only 'distilbert' is allowed"),
        ({"n_heads": 3}, "n_heads = 3: does not divide the width of 16"),
        ({"vocab_size": 9}, r"has a vocabulary of 9, the data of \d+; give the same folder"),
        ({"max_position_embeddings": 11}, "data.length = 12: .* takes at most 11 tokens"),
        ({}, "holds no weights; .*model.from_scratch = true"),
    ],
)
def test_odd_folders(config: Any, says: str, home: Path) -> None:
    (home / "bert").mkdir()
    if config is not None:
        known = json.loads((TINY / "config.json").read_text())
        text = config if isinstance(config, str) else json.dumps({**known, **config})
        (home / "bert" / "config.json").write_text(text)
    with pytest.raises(InputError, match=says):
        scenario.load(table({"name": "distilbert", "path": "bert"}), home)


def test_a_missing_folder_or_library(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = table({"name": "distilbert", "path": "nowhere"})
    with pytest.raises(InputError, match=r"there is no folder '.*nowhere'; give the folder"):
        scenario.load(given, home)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'p2psim\[text\]'"):
        scenario.load(given, home)
    with pytest.raises(InputError, match=r"pip install 'p2psim\[text\]'"):
        registry.names("model")["distilbert"](path=str(TINY), from_scratch=True).build((5,), 2)


@pytest.mark.parametrize("damage", ["other", "torn"])
def test_weights_that_do_not_fit(damage: str, home: Path) -> None:
    folder = save_tiny_model(home / "bert")
    if damage == "other":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "n_layers": 3}))
    else:
        (folder / "model.safetensors").write_bytes(b"no weights")
    made: Any = registry.names("model")["distilbert"](path=str(folder))
    says = "do not fit its config.json" if damage == "other" else "cannot be loaded"
    with pytest.raises(InputError, match=says):
        made.build((12,), 4)
