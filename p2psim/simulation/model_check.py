"""Check of a user's model before any rank starts: its parameters, its inputs and its outputs.

Models of p2psim are not checked here, because building a model imports torch: the tests check them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2psim.errors import InputError, in_one_line, quoted
from p2psim.experiment.holdings import Holdings
from p2psim.experiment.scenario import Scenario

if TYPE_CHECKING:
    import torch

SAMPLES = 2  # of the forward pass


def check_model(holdings: Holdings) -> None:
    """Build a model of the user, and compute its outputs for the first test samples.

    InputError if the parameters do not have the shapes that `shapes` returns, if the forward pass
    fails, or if the outputs do not have the shape that the task needs.
    """
    scenario = holdings.scenario
    experiment, model = scenario.experiment, scenario.experiment.model
    if type(model).__module__.startswith("p2psim."):
        return
    name = experiment.table["model"]["name"]
    module = model.build(experiment.data.shape, experiment.data.outputs)
    built = [tuple(parameter.shape) for parameter in module.parameters()]
    if built != scenario.shapes:
        raise InputError(
            f"model {name!r}: `build` makes parameters of the shapes {quoted(built)}, but `shapes` "
            f"gives {quoted(scenario.shapes)}; make them agree"
        )
    try:
        outputs = first_outputs(scenario, module, holdings)
    except Exception as error:
        raise InputError(
            f"model {name!r}: it cannot process the samples of data "
            f"{experiment.table['data']['name']!r}, each of shape {experiment.data.shape}: "
            f"{in_one_line(error)}; correct `build`"
        ) from error
    shape = tuple(getattr(outputs, "shape", (type(outputs).__name__,)))
    needed = scenario.task.output_shape(experiment.data.spec())
    if shape[1:] != needed:
        raise InputError(
            f"model {name!r}: its outputs have the shape {shape} for {SAMPLES} samples, but the "
            f"task {experiment.table['learning']['task']['name']!r} needs {(SAMPLES, *needed)}; "
            "correct `build`"
        )


def first_outputs(scenario: Scenario, module: torch.nn.Module, holdings: Holdings) -> torch.Tensor:
    """Return the module's outputs for the first test samples, shape (SAMPLES, ...)."""
    import torch

    from p2psim.simulation.minibatches import Samples

    dtype = getattr(torch, scenario.experiment.model_section.dtype)
    samples = Samples(scenario.experiment.data, holdings.test, dtype, "cpu")
    with torch.no_grad():
        outputs: torch.Tensor = module.to(dtype).eval()(samples.values(slice(0, SAMPLES)).inputs)
    return outputs
