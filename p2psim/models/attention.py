"""Transformer encoders of token ids, as torch modules.

B is the number of texts in a batch and T their length. Token ids have the shape (B, T); id 0 is
padding. A mask (B, T) is True at the positions that attention and the mean take into account.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from p2psim.data.text import PADDING
from p2psim.models.norms import Sum
from p2psim.models.points import ErrorTapModule, FeedbackPointModule

ROWS = 64  # texts that a model of the transformers library evaluates at a time


def token_mask(ids: torch.Tensor) -> torch.Tensor:
    """Return the mask (B, T) of token ids: True at tokens, False at padding.

    A text that consists of padding alone is masked nowhere: the softmax and the mean over an
    empty set of positions would be NaN.
    """
    mask = ids != PADDING
    return mask | ~mask.any(1, keepdim=True)


def sinusoidal_positions(length: int, width: int) -> torch.Tensor:
    """Return the sines and cosines of each position, (length, width).

    Vaswani et al. 2017, section 3.5.
    """
    rates = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(length).unsqueeze(1) * rates
    # An odd width has one sine more than cosines.
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width].float()


class AttentionModule(nn.Module):
    """Multi-head self-attention, Vaswani et al. 2017, section 3.2."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Attend within each text x, (B, T, width), to the positions where `mask` is True.

        Without a mask: to each position itself and to earlier ones.
        """
        q, k, v = (self.split(layer(x)) for layer in (self.q, self.k, self.v))
        if mask is None:
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, mask[:, None, None])
        output: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return output

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """Reshape (B, T, width) to (B, heads, T, width / heads)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Block(nn.Module):
    """x + attention(norm(x)), then x + dense(norm(x)): Xiong et al. 2020, figure 1 (b)."""

    def __init__(self, width: int, heads: int, ff: int) -> None:
        super().__init__()
        self.first, self.attention = nn.LayerNorm(width), AttentionModule(width, heads)
        self.second = nn.LayerNorm(width)
        self.dense = nn.Sequential(nn.Linear(width, ff), nn.GELU(), nn.Linear(ff, width))
        # Modules instead of `+`, so that int8 can quantize the operands of both sums.
        self.one, self.other = Sum(), Sum()

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        x = self.one(x, self.attention(self.first(x), mask))
        output: torch.Tensor = self.other(x, self.dense(self.second(x)))
        return output


class EncoderModule(nn.Module):
    """Embeddings and positions, blocks, a norm, the mean over the tokens, a dense layer.

    With `causal`: no mean, (B, T) ids to (B, T, outputs), and no padding.

    Embeddings start from N(0, 1 / width) and are multiplied by sqrt(width), as in Vaswani et al.
    2017, section 3.4; all other parameters start as torch initializes them.
    """

    places: torch.Tensor

    def __init__(
        self, vocabulary: int, length: int, outputs: int, width: int, causal: bool = False
    ) -> None:
        super().__init__()
        self.scale, self.causal = math.sqrt(width), causal
        self.tokens = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.tokens.weight, std=1 / self.scale)
        self.register_buffer("places", sinusoidal_positions(length, width), persistent=False)
        self.blocks = nn.ModuleList()
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        mask = None if self.causal else token_mask(ids)
        x = self.tokens(ids) * self.scale + self.places
        for block in self.blocks:
            x = block(x, mask)
        outputs: torch.Tensor
        if mask is None:
            outputs = self.head(self.norm(x))
            return outputs
        masked = self.norm(x) * mask.unsqueeze(2)
        outputs = self.head(masked.sum(1) / mask.sum(1, keepdim=True))
        return outputs


class DecoderBlock(nn.Module):
    """norm(x + attention(x)), then norm(x + dense(x)): Vaswani et al. 2017, section 3.1.

    With `micro`, feedback points follow the first norm and the ReLU, not only the block.
    """

    def __init__(self, width: int, heads: int, ff: int, dropout: float, micro: bool) -> None:
        super().__init__()
        self.attention = AttentionModule(width, heads)
        for layer in (self.attention.q, self.attention.k, self.attention.v):
            nn.init.uniform_(layer.weight, -math.sqrt(1.5 / width), math.sqrt(1.5 / width))
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.attention.out.bias)
        self.first = nn.LayerNorm(width)
        self.into, self.back = nn.Linear(width, ff), nn.Linear(ff, width)
        self.second = nn.LayerNorm(width)
        self.one, self.other, self.dropout = Sum(), Sum(), nn.Dropout(dropout)
        self.points = nn.ModuleList(
            FeedbackPointModule(2) if micro or place == 2 else nn.Identity() for place in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attended = self.dropout(self.attention(x, None))
        x = self.points[0](self.first(self.one(x, attended)))
        hidden = self.points[1](self.dropout(self.into(x).relu()))
        output: torch.Tensor = self.points[2](
            self.second(self.other(x, self.dropout(self.back(hidden))))
        )
        return output


class DecoderModule(nn.Module):
    """Embeddings and positions, copies of a block, a dense layer: ids (B, T) to (B, T, outputs)."""

    places: torch.Tensor

    def __init__(
        self, vocabulary: int, length: int, outputs: int, block: DecoderBlock, blocks: int
    ) -> None:
        super().__init__()
        width = block.first.normalized_shape[0]
        self.scale = math.sqrt(width)
        self.tokens = nn.Embedding(vocabulary, width)
        self.register_buffer("places", sinusoidal_positions(length, width), persistent=False)
        self.blocks = nn.ModuleList(copy.deepcopy(block) for _ in range(blocks))
        self.head, self.dropout = nn.Linear(width, outputs), copy.deepcopy(block.dropout)
        self.tap = ErrorTapModule("blocks", 2)
        for weight in (self.tokens.weight, self.head.weight):
            nn.init.uniform_(weight, -0.1, 0.1)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.dropout(self.tokens(ids) * self.scale + self.places)
        for block in self.blocks:
            x = block(x)
        outputs: torch.Tensor = self.head(self.tap(x))
        return outputs


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
        """Return the logits of texts that all fit into memory at once, (B, outputs)."""
        logits: torch.Tensor = self.classifier(ids, attention_mask=token_mask(ids).long()).logits
        return logits
