"""Small text data sets, and a tiny DistilBERT with its tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

TINY = Path(__file__).parents[1] / "fixtures" / "tiny-distilbert"  # holds only config.json
WORDS = (
    *("war peace nation leader vote", "match goal team coach season"),
    *("stock profit market price bank", "chip software laser planet data"),
)


def write_news(home: Path, train: int = 160, test: int = 40) -> None:
    """Write files of ag-news into `home`; each class has words that no other class uses."""
    (home / "ag-news").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name, count in (("train", train), ("test", test)):
        rows = [news_row(random, k % 4) for k in range(count)]
        (home / "ag-news" / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def news_row(random: np.random.Generator, label: int) -> str:
    """Return one line of such a file: class, title of one word, description."""
    own = random.choice(WORDS[label].split(), 3)
    other = random.choice(["the", "a", "of", "and", "says", "new"], random.integers(2, 7))
    words = random.permutation([*own, *other])
    return f'"{label + 1}","{words[0]}","{" ".join(words[1:])}"'


def save_tiny_model(folder: Path, classes: int = 4, **changes: Any) -> Path:
    """Save a DistilBERT with random weights and a tokenizer for `news`; return their folder."""
    from transformers import BertTokenizer, DistilBertConfig, DistilBertForSequenceClassification

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *" ".join(WORDS).split(), "##s", "the"]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(str(folder))
    config = DistilBertConfig.from_pretrained(str(TINY), num_labels=classes, **changes)
    DistilBertForSequenceClassification(config).save_pretrained(str(folder))
    return folder


def save_config(folder: Path) -> Path:
    """Create a folder that holds only config.json; return the folder."""
    folder.mkdir(parents=True)
    shutil.copy(TINY / "config.json", folder)
    return folder
