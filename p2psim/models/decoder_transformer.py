"""Transformer for language models with norms behind the sums, and points for feedback rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from p2psim.base import Count, Shape
from p2psim.models.layers import Activation, Layer, Linear, Residual
from p2psim.models.sequences import (
    Attention,
    Embedding,
    LayerNorm,
    TokenModel,
    check_heads,
    check_text_input,
)
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn


@plugin("model", "decoder-transformer", "Vaswani et al. 2017; Launay et al. 2020, section 3.4")
class DecoderTransformer(TokenModel):
    """Predicts the next token: embeddings and positions, blocks, a dense layer for every token.

    A block is norm(x + attention(x)), then norm(x + dense(x)) with `ff` hidden units and ReLU; a
    token attends to itself and to earlier tokens; dropout acts as in Vaswani et al. 2017, section
    5.4. All blocks start equal. Embeddings are multiplied by sqrt(width), and start from
    U(-0.1, 0.1), as the weights of the last layer do; `heads` must divide `width`.

    `points` are the places of feedback for rules such as "dfa": "macro", one at the output of each
    block; "micro", also after its first norm and after its ReLU. The tap "blocks" takes the error
    before the last layer.
    """

    width: Count = 64
    heads: Count = 4
    blocks: Annotated[int, Meta(ge=1, le=1000)] = 2
    ff: Count = 256
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    points: Literal["macro", "micro"] = "macro"

    def layers(self, inputs: Shape, outputs: int) -> list[Layer]:
        check_text_input("decoder-transformer", inputs)
        check_heads(self.heads, self.width, "model.heads")
        dense = [Linear(self.ff), Activation("ReLU"), Linear(self.width)]
        block = [Residual([Attention()]), LayerNorm(), Residual(dense), LayerNorm()]
        return [Embedding(self.vocabulary, self.width), *block * self.blocks, Linear(outputs)]

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        from p2psim.models.attention import DecoderBlock, DecoderModule

        self.layers(inputs, outputs)  # checks the shape and the number of heads
        block = DecoderBlock(self.width, self.heads, self.ff, self.dropout, self.points == "micro")
        return DecoderModule(self.vocabulary, inputs[0], outputs, block, self.blocks)
