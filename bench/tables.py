"""The tables of scikit-learn and statsmodels on which estimators are measured."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from backprop_xp.bench import contenders

SCIKIT_LEARN, STATSMODELS = "scikit-learn", "statsmodels"


@dataclass(frozen=True)
class Table:
    """A table and what is to be told from it.

    Attributes:
        package: that has it.
        classes: whether the target is a class, or else an amount.
        load: gives features (n, features) and targets (n,).
    """

    name: str
    package: str
    classes: bool
    load: Callable[[], tuple[np.ndarray, np.ndarray]]


def packaged() -> list[Table]:
    """The tables of the packages that are installed: thirteen with statsmodels, five without."""
    from sklearn import datasets

    found = [
        Table(
            name.replace("_", "-"),
            SCIKIT_LEARN,
            name != "diabetes",
            partial(getattr(datasets, f"load_{name}"), return_X_y=True),
        )
        for name in ("iris", "digits", "wine", "breast_cancer", "diabetes")
    ]
    if contenders.available(STATSMODELS):
        found += [
            Table(name, STATSMODELS, classes, _of_statsmodels(name, target))
            for name, classes, target in (
                ("anes96", True, lambda frame: frame.pop("vote")),
                ("fair", True, lambda frame: frame.pop("affairs") > 0),
                ("modechoice", True, lambda frame: frame.pop("choice")),
                ("randhie", False, lambda frame: frame.pop("mdvis")),
                ("star98", False, _share_above),
                ("engel", False, lambda frame: frame.pop("foodexp")),
                ("grunfeld", False, lambda frame: frame.pop("invest")),
                ("cancer", False, lambda frame: frame.pop("cancer")),
            )
        ]
    return found


def _of_statsmodels(name: str, target: Callable[[Any], Any]) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """The columns of numbers of a table of statsmodels', without rows in which one is missing."""

    def load() -> tuple[np.ndarray, np.ndarray]:
        frame = importlib.import_module(f"statsmodels.datasets.{name}").load_pandas().data
        frame = frame.select_dtypes("number").dropna().copy()
        y = np.asarray(target(frame), np.float64)
        return frame.to_numpy(np.float64), y

    return load


def _share_above(frame: Any) -> Any:
    above, below = frame.pop("NABOVE"), frame.pop("NBELOW")
    return above / (above + below)
