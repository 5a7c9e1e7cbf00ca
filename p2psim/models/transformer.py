"""Small transformer for texts, trained from random parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from p2psim.base import Count, Shape
from p2psim.models.layers import Activation, Layer, Linear, Residual
from p2psim.models.sequences import (
    Attention,
    Embedding,
    LayerNorm,
    TokenMean,
    TokenModel,
    check_heads,
    check_text_input,
)
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn


@plugin(
    "model", "transformer", "Vaswani et al. 2017, encoder; Xiong et al. 2020 (norms come first)"
)
class Transformer(TokenModel):
    """Token embeddings plus sinusoidal positions, blocks, norm, mean over tokens, dense layer.

    With `causal`, a token attends to itself and to earlier tokens alone, and the dense layer gives
    outputs for every token in place of their mean: a decoder for the task "language-model", in
    which no id is padding.

    A block is x + attention(norm(x)), then x + dense(norm(x)) with `ff` hidden units and GELU,
    after Xiong et al. 2020, figure 1 (b); `heads` must divide `width`. No dropout. Attention and
    mean skip padding (id 0), except in a text of padding alone, whose padding counts as tokens.
    In 8 bits all linear layers, norms and residual sums are quantized; the products inside the
    attention and the embeddings are not.
    """

    width: Count = 64
    heads: Count = 4
    blocks: Annotated[int, Meta(ge=1, le=1000)] = 2
    ff: Count = 128
    causal: bool = False

    def layers(self, inputs: Shape, outputs: int) -> list[Layer]:
        check_text_input("transformer", inputs)
        check_heads(self.heads, self.width, "model.heads")
        dense = [LayerNorm(), Linear(self.ff), Activation("GELU"), Linear(self.width)]
        block = [Residual([LayerNorm(), Attention()]), Residual(dense)]
        first = Embedding(self.vocabulary, self.width)
        mean = [] if self.causal else [TokenMean()]
        return [first, *block * self.blocks, LayerNorm(), *mean, Linear(outputs)]

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        from p2psim.models.attention import Block, EncoderModule

        self.layers(inputs, outputs)  # checks the shape and the number of heads
        module = EncoderModule(self.vocabulary, inputs[0], outputs, self.width, self.causal)
        module.blocks.extend(Block(self.width, self.heads, self.ff) for _ in range(self.blocks))
        return module
