"""Encoders of token ids as torch modules. Ids have the shape (B, T); id 0 is padding."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from p2psim.data.text import PADDING
from p2psim.models.norms import Sum

ROWS = 64  # texts that a model of the transformers library tests at a time


def token_mask(ids: torch.Tensor) -> torch.Tensor:
    """(B, T): which places hold a token; all those of a text of padding alone, never none."""
    there = ids != PADDING
    return there | ~there.any(1, keepdim=True)


def sinusoidal_positions(length: int, width: int) -> torch.Tensor:
    """(length, width): sines and cosines of each place, Vaswani et al. 2017, section 3.5."""
    rates = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(length).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width].float()


class Attention(nn.Module):
    """Multi-head attention of a text to itself, Vaswani et al. 2017, section 3.2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """x (B, T, width); nobody attends to places outside of `there` (B, T)."""
        q, k, v = (self.split(layer(x)) for layer in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v, there[:, None, None])
        made: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return made

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, width) to (B, heads, T, width / heads)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Block(nn.Module):
    """x + attention(norm(x)), then x + dense(norm(x)): Xiong et al. 2020, figure 1 (b)."""

    def __init__(self, width: int, heads: int, ff: int) -> None:
        super().__init__()
        self.first, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.second = nn.LayerNorm(width)
        self.dense = nn.Sequential(nn.Linear(width, ff), nn.GELU(), nn.Linear(ff, width))
        self.one, self.other = Sum(), Sum()

    def forward(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        x = self.one(x, self.attention(self.first(x), there))
        made: torch.Tensor = self.other(x, self.dense(self.second(x)))
        return made


class Encoder(nn.Module):
    """Embeddings and places, blocks, a norm, the mean over the tokens, a dense layer.

    Embeddings start from N(0, 1 / width) and are multiplied by sqrt(width), as in Vaswani et al.
    2017, section 3.4; all else starts as torch has it.
    """

    places: torch.Tensor

    def __init__(self, vocabulary: int, length: int, outputs: int, width: int) -> None:
        super().__init__()
        self.scale = math.sqrt(width)
        self.tokens = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.tokens.weight, std=1 / self.scale)
        self.register_buffer("places", sinusoidal_positions(length, width), persistent=False)
        self.blocks = nn.ModuleList()
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        there = token_mask(ids)
        x = self.tokens(ids) * self.scale + self.places
        for block in self.blocks:
            x = block(x, there)
        kept = self.norm(x) * there.unsqueeze(2)
        made: torch.Tensor = self.head(kept.sum(1) / there.sum(1, keepdim=True))
        return made


class Logits(nn.Module):
    """(B, T) ids to (B, outputs), by a sequence classifier of the transformers library."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        # A whole chunk of the test set would take gigabytes in a large model.
        parts = [ids] if self.training else ids.tensor_split([*range(ROWS, len(ids), ROWS)])
        return torch.cat([self.logits(part) for part in parts])

    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        """Of texts that are in memory all at once."""
        made: torch.Tensor = self.classifier(ids, attention_mask=token_mask(ids).long()).logits
        return made
