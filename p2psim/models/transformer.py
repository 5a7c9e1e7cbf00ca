"""A small transformer encoder for texts, trained from nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from p2psim.base import Count, Shape
from p2psim.models.layers import Activation, Layer, Layered, Linear, Residual
from p2psim.models.sequences import (
    Attention,
    Embedding,
    LayerNorm,
    TokenMean,
    check_text_input,
    divides,
)
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn


@plugin(
    "model", "transformer", "Vaswani et al. 2017, encoder; Xiong et al. 2020 (norms come first)"
)
class Transformer(Layered):
    """Token embeddings plus sines of the places, blocks, a norm, the mean of the tokens, dense.

    A block is x + attention(norm(x)), then x + dense(norm(x)) with `ff` hidden units and GELU,
    after Xiong et al. 2020, figure 1 (b); `heads` must divide `width`. No dropout. Padding (id 0)
    is neither attended to nor averaged; a text of padding alone counts as one of such tokens.
    In 8 bits all linear layers, norms and residual sums are quantized, the products of the
    attention and the embeddings are not.
    """

    tokens = True

    width: Count = 64
    heads: Count = 4
    blocks: Annotated[int, Meta(ge=1, le=1000)] = 2
    ff: Count = 128

    def layers(self, inputs: Shape, outputs: int) -> list[Layer]:
        check_text_input("transformer", inputs)
        divides(self.heads, self.width, "model.heads")
        dense = [LayerNorm(), Linear(self.ff), Activation("GELU"), Linear(self.width)]
        block = [Residual([LayerNorm(), Attention()]), Residual(dense)]
        first = Embedding(self.vocabulary, self.width)
        return [first, *block * self.blocks, LayerNorm(), TokenMean(), Linear(outputs)]

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        from p2psim.models.attention import Block, Encoder

        self.layers(inputs, outputs)
        made = Encoder(self.vocabulary, inputs[0], outputs, self.width)
        made.blocks.extend(Block(self.width, self.heads, self.ff) for _ in range(self.blocks))
        return made
