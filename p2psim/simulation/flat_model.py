"""Torch module on one flat vector, its random seed, and its learning rule."""

from __future__ import annotations

import numpy as np
import torch
from torch.autograd.variable import Variable

from p2psim import rng
from p2psim.base import Batch, Vector
from p2psim.experiment.config import Experiment
from p2psim.experiment.scenario import Scenario
from p2psim.learning.rules import attach
from p2psim.models.randomness import draws_nothing
from p2psim.simulation import allocator

torch.set_num_threads(1)  # ranks share the cores, and one thread fixes the order of sums


def seed(key: int, device: str) -> None:
    """Seed torch's generators, from which layers draw, on the host and on the device."""
    # Not torch.manual_seed: it seeds all kinds of devices, and formats a traceback for each absent
    # one.
    torch.default_generator.manual_seed(key)
    if device.startswith("cuda"):
        torch.cuda.default_generators[torch.device(device).index].manual_seed(key)


def build_module(experiment: Experiment) -> torch.nn.Module:
    """Build the torch module of an experiment in its precision and type, without a rule."""
    module = experiment.model.build(experiment.data.shape, experiment.data.outputs)
    if experiment.learning.precision == "int8":
        from p2psim.learning.int8 import quantize_model

        module = quantize_model(module)
    return module.to(getattr(torch, experiment.model_section.dtype))


class FlatModel:
    """A torch module whose parameters are views of the flat vector x, their .grad views of g.

    `x` is in host memory, shape (d,). On another device `device_x` is its copy and `g` is there.
    """

    def __init__(self, scenario: Scenario, rank: int, device: str = "cpu") -> None:
        experiment, data = scenario.experiment, scenario.experiment.data
        own = rank if experiment.model_section.init == "own" else 0
        seed(rng.key(experiment.head.seed, "init", own), "cpu")  # modules are built on the host
        self.module = module = build_module(experiment)
        rule, head = experiment.learning.rule, experiment.head
        self.parameters = attach(rule, module, head.seed, rank, data, scenario.example)
        self.deterministic = draws_nothing(module)
        self.task = scenario.task
        self.device = device
        size, own_type = sum(p.numel() for p in self.parameters), experiment.model_section.dtype
        self.host = torch.from_numpy(allocator.zeros(size, own_type))
        torch.cat([p.detach().reshape(-1) for p in self.parameters], out=self.host)
        if self.device != "cpu" and torch.cuda.is_available():
            self.host = self.host.pin_memory()
        self.x: Vector = self.host.numpy()
        initial = data.initial(rank)
        if initial is not None:
            np.copyto(self.x, initial, casting="same_kind")
        if self.device == "cpu":
            self.device_x = self.host
            self.g = self.host_g = torch.from_numpy(allocator.zeros(size, own_type))
        else:
            self.module.to(self.device)
            self.device_x = self.host.to(self.device, copy=True)
            self.g = torch.zeros_like(self.device_x)
            self.host_g = torch.empty_like(self.host, pin_memory=self.host.is_pinned())
        self.vector_g: Vector = self.host_g.numpy()
        self.one = torch.ones((), dtype=self.g.dtype, device=self.g.device)  # dL/dL
        start = 0
        for p in self.parameters:
            stop = start + p.numel()
            p.data = self.device_x[start:stop].view(p.shape)
            p.grad = self.g[start:stop].view(p.shape)
            start = stop

    def load(self, x: Vector) -> None:
        """Copy x, shape (d,), into the parameters."""
        if x is not self.x:
            np.copyto(self.x, x)
        if self.device_x is not self.host:
            self.device_x.copy_(self.host, non_blocking=True)

    def gradient(self) -> Vector:
        """Return g in host memory, shape (d,); the next gradient overwrites it."""
        if self.host_g is not self.g:
            self.host_g.copy_(self.g)
        return self.vector_g

    def state(self) -> dict[str, torch.Tensor]:
        """Return the module's buffers (running statistics, ranges) in host memory, by name."""
        return {name: buffer.cpu() for name, buffer in self.module.named_buffers()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Copy values into the module's buffers in place, since layers refer to these tensors."""
        for name, buffer in self.module.named_buffers():
            buffer.copy_(state[name])

    def loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.task.loss(outputs, batch)

    def backward(self, loss: torch.Tensor) -> None:
        self.g.zero_()  # the engine adds to it: the .grad of every parameter is a view of g
        # Torch's engine itself: the checks of Tensor.backward take as long as a small layer.
        Variable._execution_engine.run_backward(
            (loss,), (self.one,), False, False, (), allow_unreachable=True, accumulate_grad=True
        )
