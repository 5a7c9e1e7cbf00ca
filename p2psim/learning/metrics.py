"""Metrics that several tasks share; see base.Metric. Outputs have the shape (B, outputs)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from p2psim.base import Batch, DataSpec, Metric, Shape
from p2psim.errors import InputError

if TYPE_CHECKING:
    import torch

Sums = NDArray[np.float64]


def predicted_class(outputs: torch.Tensor) -> torch.Tensor:
    """Return the class of the largest logit; of one logit: class 1 where it is positive."""
    return outputs.argmax(dim=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).long()


class ClassMetric:
    """A metric of the correct predictions by class: sums are hits and samples, (2, classes)."""

    unit = ""
    better: Literal["higher", "lower"] = "higher"

    def __init__(
        self, classes: int, meaning: str, evaluate: Callable[[Sums, Sums], Any], shape: Shape = ()
    ) -> None:
        """Evaluate the metric as evaluate(hits, samples), both of shape (classes,)."""
        self.classes, self.meaning, self.evaluate, self.shape = classes, meaning, evaluate, shape

    def zero(self, samples: int) -> Sums:
        return np.zeros((2, self.classes))

    def add(self, sums: Sums, outputs: torch.Tensor, batch: Batch) -> None:
        targets = batch.targets
        hits = targets[predicted_class(outputs) == targets]
        for row, labels in zip(sums, (hits, targets), strict=True):
            row += np.bincount(labels.cpu().numpy(), minlength=self.classes)

    def result(self, sums: Sums) -> Any:
        with np.errstate(invalid="ignore"):  # a class without test samples is NaN
            return self.evaluate(*sums)


class SumMetric:
    """A metric f of the sums of per-batch numbers, such as squared errors and their count."""

    def __init__(
        self,
        size: int,
        meaning: str,
        numbers: Callable[[torch.Tensor, Batch], list[float]],
        evaluate: Callable[[Sums], float],
        better: Literal["higher", "lower"],
        unit: str = "",
    ) -> None:
        """Sum numbers(outputs, batch), `size` of them, and evaluate f at the sums."""
        self.size, self.meaning, self.numbers, self.evaluate = size, meaning, numbers, evaluate
        self.better: Literal["higher", "lower"] = better
        self.unit = unit
        self.shape: Shape = ()

    def zero(self, samples: int) -> Sums:
        return np.zeros(self.size)

    def add(self, sums: Sums, outputs: torch.Tensor, batch: Batch) -> None:
        sums += self.numbers(outputs, batch)

    def result(self, sums: Sums) -> float:
        with np.errstate(all="ignore"):
            return float(self.evaluate(sums))


def one_logit(outputs: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return score and class 0 or 1 of each sample of a task with one logit, both (B, 1)."""
    return outputs, batch.targets[:, None]


class Ranking:
    """A metric of the order of all scores: they are kept, and ranked once, so that it is exact.

    Sums are scores, classes and marks of what has been seen, shape (3, samples, columns). NaN where
    a class has no sample.
    """

    unit = ""
    better: Literal["higher", "lower"] = "higher"
    shape: Shape = ()

    def __init__(
        self,
        meaning: str,
        evaluate: Callable[[Sums, NDArray[np.bool_]], float],
        scored: Callable[..., tuple[torch.Tensor, torch.Tensor]] = one_logit,
        columns: int = 1,
    ) -> None:
        """Evaluate the metric as evaluate(scores, positive), both of shape (scores,).

        scored(outputs, batch) gives scores and classes 0 or 1 of a batch, both (B, columns).
        """
        self.meaning, self.evaluate, self.scored, self.columns = meaning, evaluate, scored, columns

    def zero(self, samples: int) -> Sums:
        return np.zeros((3, samples, self.columns))

    def add(self, sums: Sums, outputs: torch.Tensor, batch: Batch) -> None:
        part = slice(batch.start, batch.start + len(batch.targets))
        scores, classes = self.scored(outputs, batch)
        sums[0, part] = scores.cpu().numpy()
        sums[1, part] = classes.cpu().numpy()
        sums[2, part] = 1.0

    def result(self, sums: Sums) -> float:
        scores, classes, marks = sums.reshape(3, -1)
        scores, positive = scores[marks > 0], classes[marks > 0] > 0
        if not positive.any() or positive.all() or np.isnan(scores).any():
            return float("nan")
        return float(self.evaluate(scores, positive))


def auc(
    scored: Callable[..., tuple[torch.Tensor, torch.Tensor]] = one_logit, columns: int = 1
) -> Ranking:
    """Return the exact area under the ROC curve as a metric; see Ranking for the parameters."""
    meaning = "area under the ROC curve; NaN if all samples are of one class"
    return Ranking(meaning, area_under_roc, scored, columns)


def area_under_roc(scores: Sums, positive: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve; equal scores count half (Mann & Whitney 1947)."""
    from scipy.stats import rankdata

    many, few = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores)[positive].sum()
    return float((ranks - many * (many + 1) / 2) / (many * few))


def average_precision(scores: Sums, positive: NDArray[np.bool_]) -> float:
    """Return sum_k (recall_k - recall_{k-1}) precision_k over the distinct scores, from the top."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan))  # last place of each score
    hits = np.cumsum(positive[order])[ends]
    precision, recall = hits / (ends + 1), hits / positive.sum()
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def class_metrics(classes: int, own: NDArray[Any]) -> dict[str, Metric]:
    """Return accuracy on all classes, on those in `own`, on the others, and by class."""
    seen = np.isin(np.arange(classes), own)
    return {
        "accuracy": ClassMetric(
            classes,
            "share of test samples that the peer's model gets right, in [0, 1]",
            lambda hits, samples: hits.sum() / samples.sum(),
        ),
        "seen_accuracy": ClassMetric(
            classes,
            "accuracy on the classes in the peer's own training set",
            lambda hits, samples: hits[seen].sum() / samples[seen].sum(),
        ),
        "unseen_accuracy": ClassMetric(
            classes,
            "accuracy on all other classes; NaN if there are none",
            lambda hits, samples: hits[~seen].sum() / samples[~seen].sum(),
        ),
        "class_accuracy": ClassMetric(
            classes,
            "accuracy by class; NaN for a class without test samples",
            lambda hits, samples: hits / samples,
            (classes,),
        ),
    }


def check_labels(labels: NDArray[Any], classes: int) -> None:
    """Check that labels are integers from 0 to classes - 1; InputError otherwise."""
    if classes < 1:
        raise InputError(
            "learning.task: the data set has no classes; remove the key, which leaves the data "
            "set's own task, or choose another data set"
        )
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"data: labels are of type {labels.dtype}, but the {classes} classes are the integers "
            f"0 to {classes - 1}; convert the labels"
        )
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise InputError(
            f"data: a label is {wrong[0]}, but labels are the numbers of the {classes} classes, "
            f"0 to {classes - 1}; correct the data"
        )


def check_real_targets(task: str, targets: NDArray[Any], spec: DataSpec) -> None:
    """Check that targets are as many numbers as the model gives; InputError otherwise."""
    entries = targets[0].size if len(targets) else spec.outputs
    if spec.classes or entries != spec.outputs:
        raise InputError(
            f"learning.task: {task!r} needs targets of {spec.outputs} numbers without classes, "
            f"the data set has {entries} numbers and {spec.classes} classes; remove the key, "
            "which leaves the data set's own task, or choose another data set"
        )


def half_squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean of (z - y)^2 / 2 over all entries."""
    from torch.nn import functional

    return 0.5 * functional.mse_loss(outputs.reshape(targets.shape), targets.to(outputs.dtype))
