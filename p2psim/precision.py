"""Training in 8 bits, simulated: tensors are rounded to 256 values, arithmetic stays in float.

Aketi, Kodge & Roy 2022, section 4, after Banner, Hubara, Hoffer & Soudry 2018. Of a layer
y = F(x, w), with upstream gradient g = dL/dy and quantizers Q (to nearest) and QG (stochastic):

    y = F(Q(x), Q(w)) + Q(b),   dL/dx = F_x(Q(w), QG(g)),   dL/dw = F_w(Q(x), g),   dL/db = sum g

the gradient is split in two (bifurcation): the one that goes on to the layer below is quantized,
the one for the weights is not. Gradients pass through Q as if it were not there (straight-through).
Norms quantize what enters, their parameters, their inner scale, and the gradient that enters them;
both operands of a norms.Sum, such as a residual one, are quantized. Weights, momentum and all that
is sent stay as they are. What is no convolution, linear layer, norm or such sum is not touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from p2psim.norms import Scaled, Sum

LEVELS, FLOOR = 255, 1e-8  # steps between the smallest and the largest value; the smallest step
OLD = 0.1  # share that a running range keeps of itself

NORMS = (Scaled, nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def affine(
    x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, noisy: bool = False
) -> torch.Tensor:
    """clamp(round((x - low) / sigma), 0, 255) sigma + low, sigma = max((high - low) / 255, 1e-8).

    low, high: of one value, of x's type. noisy: U(-1/2, 1/2) is added before rounding.
    """
    sigma = ((high - low) / LEVELS).clamp(min=FLOOR)
    q = torch.sub(x, low).div_(sigma)
    if noisy:
        q.add_(torch.rand_like(q)).sub_(0.5)
    return q.round_().clamp_(0, LEVELS).mul_(sigma).add_(low)


class Int8:
    """The quantizers Q and QG."""

    @staticmethod
    def nearest(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Q between these bounds."""
        return affine(x, low, high)

    @staticmethod
    def tensor(x: torch.Tensor) -> torch.Tensor:
        """Q between the smallest and the largest entry."""
        return affine(x, *x.aminmax())

    @staticmethod
    def gradient(g: torch.Tensor) -> torch.Tensor:
        """QG between the smallest and the largest entry."""
        return affine(g, *g.aminmax(), noisy=True)


class Exact(Int8):
    """Identities in their place: nothing but ordinary differentiation remains."""

    @staticmethod
    def nearest(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def tensor(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def gradient(g: torch.Tensor) -> torch.Tensor:
        return g.clone()


class Straight(torch.autograd.Function):
    """A quantizer forward, the identity backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, quantize: Callable[[torch.Tensor], Any]) -> Any:
        return quantize(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


class Coarse(torch.autograd.Function):
    """The identity forward, QG backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, quantizer: type[Int8]) -> Any:
        ctx.quantizer = quantizer
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.quantizer.gradient(grads[0]), None


class Activation(nn.Module):
    """Q of what enters a layer: between the means over the batch of the samples' min and max.

    A running average of these bounds is used in evaluation; it is this peer's own.
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, quantizer: type[Int8]) -> None:
        super().__init__()
        self.quantizer = quantizer
        for name in ("low", "high"):
            self.register_buffer(name, torch.tensor(float("nan")))  # until the first batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = Straight.apply(x, self.quantize)  # type: ignore[no-untyped-call]
        return made

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, ...) between its own bounds in training, between the running ones otherwise."""
        if not self.training and not self.low.isnan():
            return self.quantizer.nearest(x, self.low, self.high)
        low, high = (bound.mean() for bound in x.flatten(1).aminmax(dim=1))
        if self.training:
            for running, new in ((self.low, low), (self.high, high)):
                mixed = OLD * running + (1 - OLD) * new
                running.copy_(torch.where(running.isnan(), new, mixed))
        return self.quantizer.nearest(x, low, high)


class Split(torch.autograd.Function):
    """A convolution or a linear layer with bifurcated gradient; x is quantized already."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, layer: Lowered) -> Any:
        ctx.layer, ctx.biased = layer, bias is not None
        w = layer.quantizer.tensor(weight)
        ctx.save_for_backward(x, w)
        return layer.product(x, w, layer.quantizer.tensor(bias) if ctx.biased else None)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,), (x, w), layer = grads, ctx.saved_tensors, ctx.layer
        needs_x, needs_w = ctx.needs_input_grad[:2]
        gx = layer.gradient(layer.quantizer.gradient(g), x, w, 0) if needs_x else None
        gw = layer.gradient(g, x, w, 1) if needs_w else None
        if not ctx.biased:
            return gx, gw, None, None
        channel = 1 if isinstance(layer.layer, CONVOLUTIONS) else g.ndim - 1
        return gx, gw, g.sum([axis for axis in range(g.ndim) if axis != channel]), None


class Lowered(nn.Module):
    """A convolution or a linear layer in 8 bits."""

    def __init__(self, layer: Any, quantizer: type[Int8]) -> None:
        super().__init__()
        self.layer, self.quantizer = layer, quantizer
        self.taken = Activation(quantizer)

    @property
    def weight(self) -> torch.Tensor:
        """The layer's own, for modules that look at those of their parts."""
        found: torch.Tensor = self.layer.weight
        return found

    @property
    def bias(self) -> torch.Tensor | None:
        """The layer's own."""
        found: torch.Tensor | None = self.layer.bias
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        made: torch.Tensor
        made = Split.apply(self.taken(x), layer.weight, layer.bias, self)  # type: ignore[no-untyped-call]
        return made

    def product(self, x: Any, w: Any, b: Any) -> Any:
        """F(x, w) + b."""
        if isinstance(self.layer, nn.Linear):
            return functional.linear(x, w, b)
        return torch.convolution(x, w, b, *self.geometry())

    def gradient(self, g: Any, x: Any, w: Any, of: int) -> Any:
        """F_x(w, g), of = 0, or F_w(x, g), of = 1."""
        if isinstance(self.layer, nn.Linear):
            return g @ w if of == 0 else g.flatten(0, -2).T @ x.flatten(0, -2)
        mask = [of == 0, of == 1, False]
        return torch.ops.aten.convolution_backward(g, x, w, None, *self.geometry(), mask)[of]

    def geometry(self) -> tuple[Any, ...]:
        """Stride, padding, dilation, whether and how it is transposed, groups."""
        c = self.layer
        return c.stride, c.padding, c.dilation, False, (0,) * len(c.stride), c.groups


class LoweredNorm(nn.Module):
    """A norm in 8 bits."""

    def __init__(self, norm: nn.Module, quantizer: type[Int8]) -> None:
        super().__init__()
        self.norm, self.quantizer = norm, quantizer
        self.taken = Activation(quantizer)
        if isinstance(norm, Scaled):
            norm.inner = self.tensor

    def tensor(self, x: torch.Tensor) -> torch.Tensor:
        """Q of a whole tensor, straight through."""
        made: torch.Tensor = Straight.apply(x, self.quantizer.tensor)  # type: ignore[no-untyped-call]
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parameters = {name: self.tensor(p) for name, p in self.norm.named_parameters()}
        y = torch.func.functional_call(self.norm, parameters, (self.taken(x),))
        made: torch.Tensor = Coarse.apply(y, self.quantizer)  # type: ignore[no-untyped-call]
        return made


def lower(module: nn.Module, quantizer: type[Int8] = Int8) -> nn.Module:
    """The module with all its layers in 8 bits; parameters and their order stay the same."""
    zeros = getattr(module, "padding_mode", "zeros") == "zeros"
    if isinstance(module, nn.Linear) or (
        isinstance(module, CONVOLUTIONS) and zeros and not isinstance(module.padding, str)
    ):
        return Lowered(module, quantizer)
    if isinstance(module, NORMS):
        return LoweredNorm(module, quantizer)
    if isinstance(module, nn.MultiheadAttention):
        torch.backends.mha.set_fastpath_enabled(False)  # it would go past the layers in evaluation
        return module  # it takes its parts' weights and does not call them
    if isinstance(module, Sum):
        module.left, module.right = Activation(quantizer), Activation(quantizer)
        return module
    for name, child in module.named_children():
        setattr(module, name, lower(child, quantizer))
    return module
