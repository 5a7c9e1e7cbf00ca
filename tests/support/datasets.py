"""Access to data sets by plug-in name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from p2psim import registry
from p2psim.base import Data


def open_data(name: str, folder: Path | str = ".", **params: Any) -> Data:
    """Return an opened data set with these parameters; relative paths start from `folder`."""
    data: Data = registry.names("data")[name](**params)
    data.open(str(folder))
    return data


def sklearn_metrics() -> Any:
    """Return sklearn.metrics, whose import would take seconds in every process of the tests."""
    from sklearn import metrics

    return metrics
