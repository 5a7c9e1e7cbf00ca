"""The interfaces of p2psim: what a plug-in must offer and what it may use.

A plug-in is a class with the decorator `registry.plugin`. Its annotated class attributes are its
parameters, with their defaults: the experiment file sets them, `p2psim list` prints them. Every
kind may have a method `bind`, called once before all others; attributes that are set later are the
plug-in's state. Symbols are those of the papers: n peers, x one peer's flat parameter vector of
length d, W the mixing matrix with W[i, j] != 0 iff j sends to i.
"""

from p2psim.base.algorithm import Algorithm, Oracle, Setting
from p2psim.base.data import Data, Partition
from p2psim.base.learning import (
    Batch,
    DataSpec,
    Learner,
    LearningRateSchedule,
    LearningRule,
    LocalOptimizer,
    Metric,
    Model,
    Task,
)
from p2psim.base.network import Compressor, Handle, Message, Neighborhood, Stream
from p2psim.base.time import LinkModel, StepTimeModel
from p2psim.base.types import (
    Count,
    Fraction,
    Indices,
    Matrix,
    Natural,
    NonNegative,
    Payload,
    Positive,
    Ranks,
    Shape,
    Unit,
    Vector,
)

__all__ = [
    "KINDS",
    "Algorithm",
    "Batch",
    "Compressor",
    "Count",
    "Data",
    "DataSpec",
    "Fraction",
    "Handle",
    "Indices",
    "Learner",
    "LearningRateSchedule",
    "LearningRule",
    "LinkModel",
    "LocalOptimizer",
    "Matrix",
    "Message",
    "Metric",
    "Model",
    "Natural",
    "Neighborhood",
    "NonNegative",
    "Oracle",
    "Partition",
    "Payload",
    "Positive",
    "Ranks",
    "Setting",
    "Shape",
    "StepTimeModel",
    "Stream",
    "Task",
    "Unit",
    "Vector",
]

KINDS: dict[str, type] = {
    "algorithm": Algorithm,
    "compressor": Compressor,
    "data": Data,
    "model": Model,
    "optimizer": LocalOptimizer,
    "partition": Partition,
    "rule": LearningRule,
    "schedule": LearningRateSchedule,
    "task": Task,
    "compute": StepTimeModel,
    "link": LinkModel,
}
