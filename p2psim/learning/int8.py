"""Training in 8 bits, simulated: tensors are rounded to 256 values, arithmetic stays in float.

Aketi, Kodge & Roy 2022, section 4, after Banner, Hubara, Hoffer & Soudry 2018. Of a layer
y = F(x, w), with upstream gradient g = dL/dy and quantizers Q (to nearest) and QG (stochastic):

    y = F(Q(x), Q(w)) + Q(b),   dL/dx = F_x(Q(w), QG(g)),   dL/dw = F_w(Q(x), g),   dL/db = sum g

the gradient is split in two (bifurcation): the one that goes on to the layer below is quantized,
the one for the weights is not. Gradients pass through Q as if it were not there (straight-through).
Norms quantize what enters, their parameters, their inner scale, and the gradient that enters them;
both operands of a norms.Sum, such as a residual one, are quantized. Weights, momentum and all that
is sent stay as they are. What is no convolution, linear layer, norm or such sum is not touched; nor
are the weights of torch's recurrent layers, bilinear layer and multi-head attention, which have no
such layers inside that they call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from p2psim.errors import InputError
from p2psim.models.norms import Scaled, Sum

LEVELS, FLOOR = 255, 1e-8  # steps between the smallest and the largest value; the smallest step
OLD = 0.1  # share that a running range keeps of itself

BY_BATCH = nn.modules.batchnorm._NormBase  # and by instance
NORMS = (Scaled, BY_BATCH, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
PRODUCTS = (nn.Linear, nn.modules.conv._ConvNd)  # transposed convolutions are among them
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


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


class StraightThrough(torch.autograd.Function):
    """A quantizer forward, the identity backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, quantize: Callable[[torch.Tensor], Any]) -> Any:
        return quantize(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


class QuantizeGradient(torch.autograd.Function):
    """The identity forward, QG backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, quantizer: type[Int8]) -> Any:
        ctx.quantizer = quantizer
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.quantizer.gradient(grads[0]), None


class InputQuantizer(nn.Module):
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
        made: torch.Tensor = StraightThrough.apply(x, self.quantize)  # type: ignore[no-untyped-call]
        return made

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, ...) between its own bounds in training, between the running ones otherwise."""
        if not self.training and not self.low.isnan():
            return self.quantizer.nearest(x, self.low, self.high)
        rows = x.flatten(1) if x.ndim > 1 else x.unsqueeze(0)
        low, high = (bound.mean() for bound in rows.aminmax(dim=1))
        if self.training:
            for running, new in ((self.low, low), (self.high, high)):
                mixed = OLD * running + (1 - OLD) * new
                running.copy_(torch.where(running.isnan(), new, mixed))
        return self.quantizer.nearest(x, low, high)


class Wrapper(nn.Module):
    """A layer in 8 bits; its attributes are those of the layer."""

    def __init__(self, layer: Any, quantizer: type[Int8]) -> None:
        super().__init__()
        self.layer, self.quantizer = layer, quantizer
        self.input_quantizer = InputQuantizer(quantizer)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def tensor(self, x: torch.Tensor) -> torch.Tensor:
        """Q of a whole tensor, straight through."""
        made: torch.Tensor = StraightThrough.apply(x, self.quantizer.tensor)  # type: ignore[no-untyped-call]
        return made

    def parameters_in_8_bits(self) -> dict[str, torch.Tensor]:
        """Q of the layer's parameters, by name."""
        return {name: self.tensor(p) for name, p in self.layer.named_parameters()}


class BifurcatedProduct(torch.autograd.Function):
    """A convolution or a linear layer with bifurcated gradient; x is quantized already."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, layer: QuantizedLayer) -> Any:
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
        if isinstance(layer.layer, CONVOLUTIONS):
            return gx, gw, g.sum([0, *range(2, g.ndim)]), None
        return gx, gw, rows(g).sum(0), None


class QuantizedLayer(Wrapper):
    """One of torch's own convolutions or linear layers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        made: torch.Tensor
        made = BifurcatedProduct.apply(self.input_quantizer(x), layer.weight, layer.bias, self)  # type: ignore[no-untyped-call]
        return made

    def product(self, x: Any, w: Any, b: Any) -> Any:
        """F(x, w) + b."""
        if isinstance(self.layer, nn.Linear):
            return functional.linear(x, w, b)
        return torch.convolution(x, w, b, *self.geometry())

    def gradient(self, g: Any, x: Any, w: Any, of: int) -> Any:
        """F_x(w, g), of = 0, or F_w(x, g), of = 1."""
        if isinstance(self.layer, nn.Linear):
            return g @ w if of == 0 else rows(g).T @ rows(x)
        mask = [of == 0, of == 1, False]
        return torch.ops.aten.convolution_backward(g, x, w, None, *self.geometry(), mask)[of]

    def geometry(self) -> tuple[Any, ...]:
        """Stride, padding, dilation, whether and how it is transposed, groups."""
        c = self.layer
        return c.stride, c.padding, c.dilation, False, (0,) * len(c.stride), c.groups


def rows(x: torch.Tensor) -> torch.Tensor:
    """All but the last dimension as one."""
    return x.reshape(-1, x.shape[-1])


class BifurcatedJoin(torch.autograd.Function):
    """The same output twice: one for the gradient of weights, one for the layer below, by QG."""

    @staticmethod
    def forward(ctx: Any, one: torch.Tensor, other: torch.Tensor, quantizer: type[Int8]) -> Any:
        ctx.quantizer = quantizer
        return one.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], ctx.quantizer.gradient(grads[0]), None


class QuantizedCustomLayer(Wrapper):
    """A convolution or linear layer that computes in a way of its own: called twice, as it is.

    So are those with hooks, of which spectral and weight norm are made, and with padding by name.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, known = self.input_quantizer(x), self.parameters_in_8_bits()
        fixed = {name: p.detach() for name, p in known.items()}
        one = torch.func.functional_call(self.layer, known, (x.detach(),))
        other = torch.func.functional_call(self.layer, fixed, (x,))
        made: torch.Tensor = BifurcatedJoin.apply(one, other, self.quantizer)  # type: ignore[no-untyped-call]
        return made


class QuantizedNorm(Wrapper):
    """A norm in 8 bits."""

    def __init__(self, layer: nn.Module, quantizer: type[Int8]) -> None:
        super().__init__(layer, quantizer)
        if isinstance(layer, Scaled):
            layer.inner = self.tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.input_quantizer(x)
        y = torch.func.functional_call(self.layer, self.parameters_in_8_bits(), (x,))
        made: torch.Tensor = QuantizeGradient.apply(y, self.quantizer)  # type: ignore[no-untyped-call]
        return made


def quantize_model(module: nn.Module, quantizer: type[Int8] = Int8) -> nn.Module:
    """The module with all its layers in 8 bits; parameters and their order stay the same.

    InputError where it has no layer that can be.
    """
    made: dict[int, nn.Module] = {}
    lowered = replaced(module, quantizer, made)
    if not any(isinstance(part, InputQuantizer) for part in lowered.modules()):
        raise InputError(
            'learning.precision = "int8": the model has no convolution, linear layer or norm of '
            'torch that could be computed in it; give "fp32"'
        )
    return lowered


def replaced(module: nn.Module, quantizer: type[Int8], made: dict[int, nn.Module]) -> nn.Module:
    """What takes a module's place, the same wherever it stands; `made` knows those so far by id."""
    if id(module) in made:
        return made[id(module)]
    result = module
    if isinstance(module, PRODUCTS):
        result = (QuantizedLayer if plain(module) else QuantizedCustomLayer)(module, quantizer)
    elif isinstance(module, NORMS):
        result = QuantizedNorm(module, quantizer)
    elif isinstance(module, nn.MultiheadAttention):
        torch.backends.mha.set_fastpath_enabled(False)  # it would go past the layers in evaluation
    elif isinstance(module, Sum):
        module.left, module.right = InputQuantizer(quantizer), InputQuantizer(quantizer)
    else:
        made[id(module)] = module
        for name, child in module._modules.items():
            if child is not None:
                setattr(module, name, replaced(child, quantizer, made))
    made[id(module)] = made[id(result)] = result
    return result


def plain(layer: Any) -> bool:
    """Whether a layer computes as torch's own does, and nobody looks on."""
    kinds = (nn.Linear, *CONVOLUTIONS)
    forward = next((kind.forward for kind in kinds if isinstance(layer, kind)), None)
    hooked = any(getattr(layer, hooks) for hooks in HOOKS)
    zeros = getattr(layer, "padding_mode", "zeros") == "zeros"
    named = isinstance(getattr(layer, "padding", 0), str)
    return type(layer).forward is forward and zeros and not hooked and not named
