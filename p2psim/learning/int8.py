"""Simulated training in 8 bits: tensors are rounded to 256 values, arithmetic stays in float.

Aketi, Kodge & Roy 2022, section 4, after Banner, Hubara, Hoffer & Soudry 2018. For a layer
y = F(x, w) + b with upstream gradient g = dL/dy, and with the quantizers Q (rounding to nearest)
and QG (stochastic rounding):

    y = F(Q(x), Q(w)) + Q(b),   dL/dx = F_x(Q(w), QG(g)),   dL/dw = F_w(Q(x), g),   dL/db = sum g

The gradient is split in two (bifurcation): the gradient for the layer below uses QG(g), the
gradient for the weights uses g. Gradients pass through Q unchanged (straight-through). A norm
quantizes its input, its parameters, its inner scale and its upstream gradient. Both operands of a
norms.Sum, such as the sum of a residual block, are quantized. The stored weights, the momentum and
all messages keep full precision. All other modules are left as they are. So are the weights of
torch's recurrent layers, bilinear layer and multi-head attention, because these modules do not
call layers that could be replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from p2psim.errors import InputError
from p2psim.models.norms import Scaled, Sum

LEVELS, FLOOR = 255, 1e-8  # steps between smallest and largest value; smallest size of a step
DECAY = 0.1  # weight of the old bounds in a running range

BATCH_NORMS = nn.modules.batchnorm._NormBase  # base of torch's batch and instance norms
NORMS = (Scaled, BATCH_NORMS, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
PRODUCTS = (nn.Linear, nn.modules.conv._ConvNd)  # including transposed convolutions
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def affine(
    x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, noisy: bool = False
) -> torch.Tensor:
    """Quantize x to 256 values from `low` to `high`, and return it as floats of its own type.

    clamp(round((x - low) / sigma), 0, 255) sigma + low, sigma = max((high - low) / 255, 1e-8).
    `low` and `high` have one entry each and x's type. With `noisy`, noise from U(-1/2, 1/2) is
    added before rounding, which makes the rounding stochastic and unbiased.
    """
    sigma = ((high - low) / LEVELS).clamp(min=FLOOR)
    q = torch.sub(x, low).div_(sigma)
    if noisy:
        q.add_(torch.rand_like(q)).sub_(0.5)
    return q.round_().clamp_(0, LEVELS).mul_(sigma).add_(low)


class Int8:
    """Quantizers Q (rounding to nearest) and QG (stochastic rounding)."""

    @staticmethod
    def nearest(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Return Q(x) between these bounds."""
        return affine(x, low, high)

    @staticmethod
    def tensor(x: torch.Tensor) -> torch.Tensor:
        """Return Q(x) between the smallest and the largest entry of x."""
        return affine(x, *x.aminmax())

    @staticmethod
    def gradient(g: torch.Tensor) -> torch.Tensor:
        """Return QG(g) between the smallest and the largest entry of g."""
        return affine(g, *g.aminmax(), noisy=True)


class Exact(Int8):
    """Identities instead of quantizers: training is then ordinary differentiation (for tests)."""

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
    """Quantizer in the forward pass, the identity in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, quantize: Callable[[torch.Tensor], Any]) -> Any:
        return quantize(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


class QuantizeGradient(torch.autograd.Function):
    """Identity in the forward pass, QG in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, quantizer: type[Int8]) -> Any:
        ctx.quantizer = quantizer
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.quantizer.gradient(grads[0]), None


class InputQuantizer(nn.Module):
    """Q of a layer's input, between the batch means of each sample's minimum and maximum.

    Evaluation uses running averages of these bounds, which each peer keeps for itself.
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, quantizer: type[Int8]) -> None:
        super().__init__()
        self.quantizer = quantizer
        for name in ("low", "high"):
            self.register_buffer(name, torch.tensor(float("nan")))  # NaN: no batch yet

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quantized: torch.Tensor = StraightThrough.apply(x, self.quantize)  # type: ignore[no-untyped-call]
        return quantized

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """Quantize x, (B, ...), by its own bounds, or in evaluation by the running bounds.

        Before the first training batch, evaluation uses the bounds of x, too.
        """
        if not self.training and not self.low.isnan():
            return self.quantizer.nearest(x, self.low, self.high)
        samples = x.flatten(1) if x.ndim > 1 else x.unsqueeze(0)
        low, high = (bound.mean() for bound in samples.aminmax(dim=1))
        if self.training:
            for running, new in ((self.low, low), (self.high, high)):
                mixed = DECAY * running + (1 - DECAY) * new
                running.copy_(torch.where(running.isnan(), new, mixed))
        return self.quantizer.nearest(x, low, high)


class Wrapper(nn.Module):
    """Base of layers in 8 bits; attributes that it lacks are those of the wrapped layer."""

    def __init__(self, layer: Any, quantizer: type[Int8]) -> None:
        super().__init__()
        self.layer, self.quantizer = layer, quantizer
        self.input_quantizer = InputQuantizer(quantizer)

    def __getattr__(self, name: str) -> Any:
        # torch's own modules read attributes of their parts, such as the weights.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def tensor(self, x: torch.Tensor) -> torch.Tensor:
        """Return Q(x) for a whole tensor, with a straight-through gradient."""
        quantized: torch.Tensor = StraightThrough.apply(x, self.quantizer.tensor)  # type: ignore[no-untyped-call]
        return quantized

    def quantized_parameters(self) -> dict[str, torch.Tensor]:
        """Return Q of the layer's parameters by name."""
        return {name: self.tensor(p) for name, p in self.layer.named_parameters()}


class BifurcatedProduct(torch.autograd.Function):
    """Product of a convolution or a linear layer with bifurcated gradient; x comes quantized."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, layer: QuantizedLayer) -> Any:
        ctx.layer, ctx.has_bias = layer, bias is not None
        w = layer.quantizer.tensor(weight)
        ctx.save_for_backward(x, w)
        return layer.product(x, w, layer.quantizer.tensor(bias) if ctx.has_bias else None)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,), (x, w), layer = grads, ctx.saved_tensors, ctx.layer
        needs_x, needs_w = ctx.needs_input_grad[:2]
        gx = layer.gradient(layer.quantizer.gradient(g), x, w, 0) if needs_x else None
        gw = layer.gradient(g, x, w, 1) if needs_w else None
        if not ctx.has_bias:
            return gx, gw, None, None
        if isinstance(layer.layer, CONVOLUTIONS):
            return gx, gw, g.sum([0, *range(2, g.ndim)]), None
        return gx, gw, as_rows(g).sum(0), None


class QuantizedLayer(Wrapper):
    """Convolution or linear layer in 8 bits that computes as torch's own (the fast path)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        y: torch.Tensor
        y = BifurcatedProduct.apply(self.input_quantizer(x), layer.weight, layer.bias, self)  # type: ignore[no-untyped-call]
        return y

    def product(self, x: Any, w: Any, b: Any) -> Any:
        """Return F(x, w) + b."""
        if isinstance(self.layer, nn.Linear):
            return functional.linear(x, w, b)
        return torch.convolution(x, w, b, *self.geometry())

    def gradient(self, g: Any, x: Any, w: Any, operand: int) -> Any:
        """Return the gradient of one operand: 0 for x, F_x(w, g), or 1 for w, F_w(x, g)."""
        if isinstance(self.layer, nn.Linear):
            return g @ w if operand == 0 else as_rows(g).T @ as_rows(x)
        # torch computes only the gradient that the mask selects; the third one is the bias.
        mask = [operand == 0, operand == 1, False]
        grads = torch.ops.aten.convolution_backward(g, x, w, None, *self.geometry(), mask)
        return grads[operand]

    def geometry(self) -> tuple[Any, ...]:
        """Return stride, padding, dilation, transposed, output padding and groups."""
        conv = self.layer
        no_output_padding = (0,) * len(conv.stride)
        return conv.stride, conv.padding, conv.dilation, False, no_output_padding, conv.groups


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """Reshape x to two dimensions; the last one stays."""
    return x.reshape(-1, x.shape[-1])


class BifurcatedJoin(torch.autograd.Function):
    """Join of two equal outputs: the first gets the gradient g, the second gets QG(g)."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, copy: torch.Tensor, quantizer: type[Int8]) -> Any:
        ctx.quantizer = quantizer
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], ctx.quantizer.gradient(grads[0]), None


class QuantizedCustomLayer(Wrapper):
    """Convolution or linear layer in 8 bits whose forward pass may be any function.

    It is called twice: once for the gradient of the weights, once for that of the input. This
    also serves layers with hooks, which implement spectral and weight norm, and layers with
    padding = "same" or "valid".
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, parameters = self.input_quantizer(x), self.quantized_parameters()
        constants = {name: p.detach() for name, p in parameters.items()}
        for_weights = torch.func.functional_call(self.layer, parameters, (x.detach(),))
        for_input = torch.func.functional_call(self.layer, constants, (x,))
        y: torch.Tensor = BifurcatedJoin.apply(for_weights, for_input, self.quantizer)  # type: ignore[no-untyped-call]
        return y


class QuantizedNorm(Wrapper):
    """Norm in 8 bits."""

    def __init__(self, layer: nn.Module, quantizer: type[Int8]) -> None:
        super().__init__(layer, quantizer)
        if isinstance(layer, Scaled):
            layer.inner = self.tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.input_quantizer(x)
        y = torch.func.functional_call(self.layer, self.quantized_parameters(), (x,))
        output: torch.Tensor = QuantizeGradient.apply(y, self.quantizer)  # type: ignore[no-untyped-call]
        return output


def quantize_model(module: nn.Module, quantizer: type[Int8] = Int8) -> nn.Module:
    """Return the module with all its layers in 8 bits; parameters and their order stay the same.

    The module is changed in place. Raises InputError if it has no layer that can be quantized.
    """
    quantized = quantized_module(module, quantizer, {})
    if not any(isinstance(part, InputQuantizer) for part in quantized.modules()):
        raise InputError(
            'learning.precision = "int8": the model has no convolution, linear layer or norm of '
            'torch that could be computed in it; give "fp32"'
        )
    return quantized


def quantized_module(
    module: nn.Module, quantizer: type[Int8], replacements: dict[int, nn.Module]
) -> nn.Module:
    """Return the 8-bit replacement of a module, or the module itself with replaced children.

    `replacements` maps the id of each module seen so far to its replacement, so that a module
    that occurs several times (shared weights) is replaced once.
    """
    if id(module) in replacements:
        return replacements[id(module)]
    result = module
    if isinstance(module, PRODUCTS):
        wrapper = QuantizedLayer if computes_as_torch(module) else QuantizedCustomLayer
        result = wrapper(module, quantizer)
    elif isinstance(module, NORMS):
        result = QuantizedNorm(module, quantizer)
    elif isinstance(module, nn.MultiheadAttention):
        # In evaluation the fast path of a transformer encoder would bypass its quantized layers.
        torch.backends.mha.set_fastpath_enabled(False)
    elif isinstance(module, Sum):
        module.left, module.right = InputQuantizer(quantizer), InputQuantizer(quantizer)
    else:
        replacements[id(module)] = module
        for name, child in module._modules.items():
            if child is not None:
                setattr(module, name, quantized_module(child, quantizer, replacements))
    # The replacement counts as seen, too, so that it is never wrapped again.
    replacements[id(module)] = replacements[id(result)] = result
    return result


def computes_as_torch(layer: Any) -> bool:
    """Return True if forward is torch's own, it has no hooks and pads a number of zeros."""
    classes = (nn.Linear, *CONVOLUTIONS)
    forward = next((cls.forward for cls in classes if isinstance(layer, cls)), None)
    has_hooks = any(getattr(layer, hooks) for hooks in HOOKS)
    pads_zeros = getattr(layer, "padding_mode", "zeros") == "zeros"
    named_padding = isinstance(getattr(layer, "padding", 0), str)
    return type(layer).forward is forward and pads_zeros and not has_hooks and not named_padding
