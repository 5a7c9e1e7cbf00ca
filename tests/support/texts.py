"""Small texts, and a tiny DistilBERT with its tokenizer, for tests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

TINY = Path(__file__).parents[1] / "fixtures" / "tiny-distilbert"  # config.json alone
WORDS = (
    *("war peace nation leader vote", "match goal team coach season"),
    *("stock profit market price bank", "chip software laser planet data"),
)


def news(home: Path, train: int = 160, test: int = 40) -> None:
    """Files of ag-news in which every class has words of its own, among others."""
    (home / "ag-news").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name, count in (("train", train), ("test", test)):
        rows = [row(random, k % 4) for k in range(count)]
        (home / "ag-news" / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def row(random: np.random.Generator, label: int) -> str:
    """One line of such a file."""
    own = random.choice(WORDS[label].split(), 3)
    other = random.choice(["the", "a", "of", "and", "says", "new"], random.integers(2, 7))
    said = random.permutation([*own, *other])
    return f'"{label + 1}","{said[0]}","{" ".join(said[1:])}"'


def tiny(folder: Path, classes: int = 4, **changes: Any) -> Path:
    """A random DistilBERT and a tokenizer for `news`, as transformers saves them."""
    from transformers import BertTokenizer, DistilBertConfig, DistilBertForSequenceClassification

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *" ".join(WORDS).split(), "##s", "the"]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(str(folder))
    config = DistilBertConfig.from_pretrained(str(TINY), num_labels=classes, **changes)
    DistilBertForSequenceClassification(config).save_pretrained(str(folder))
    return folder


def configured(folder: Path) -> Path:
    """config.json alone."""
    folder.mkdir(parents=True)
    shutil.copy(TINY / "config.json", folder)
    return folder
