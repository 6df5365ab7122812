"""How much each sample counts: by its own weight, and by that of its class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..numbers import real
from .arrays import host


def of_samples(sample_weight: Any, samples: int) -> np.ndarray | None:
    """Weights of the samples, (n,) float64; None for None.

    Raises:
        ValueError: they aren't one number a sample from 0 on, or all are 0.
    """
    if sample_weight is None:
        return None
    weight = np.asarray(host(sample_weight), np.float64)
    if weight.shape != (samples,):
        raise ValueError(
            f"sample_weight must have the shape ({samples},), one number a sample, got {tuple(weight.shape)}"
        )
    if not np.isfinite(weight).all() or (weight < 0).any():
        wrong = int(np.argmax(~(np.isfinite(weight) & (weight >= 0))))
        raise ValueError(f"sample_weight must hold finite numbers from 0 on, got {weight[wrong]:g} for sample {wrong}")
    if not weight.any():
        raise ValueError("sample_weight must hold at least one number above zero: every weight is zero")
    return weight


def of_classes(
    class_weight: Any, classes: np.ndarray, codes: np.ndarray, weight: np.ndarray | None
) -> np.ndarray | None:
    """Weights of the samples, (n,), by their own weights and those of their classes; None where all count alike.

    Args:
        class_weight: None, "balanced" (n / (classes * samples of the class), the samples by their weights), or a weight
            for each class by its label; a class that has none counts 1.
        classes: labels, (classes,).
        codes: the class of each sample, (n,) places in ``classes``.
        weight: the samples' own weights, (n,), or None.
    """
    if class_weight is None:
        return weight
    if isinstance(class_weight, str) and class_weight == "balanced":
        counts = np.bincount(codes, weight, len(classes))
        factors = counts.sum() / (len(classes) * np.where(counts > 0, counts, 1.0))
    elif isinstance(class_weight, Mapping):
        labels = classes.tolist()
        for label in class_weight:
            if label not in labels:
                raise ValueError(f"class_weight has a weight for {label!r}, and the classes of y are {labels}")
        factors = np.array([real(f"class_weight of {x!r}", class_weight.get(x, 1), 0) for x in labels])
    else:
        raise ValueError(
            f"class_weight must be None, 'balanced' or a dict of a weight for each class, got {class_weight!r}"
        )
    total = factors[codes] if weight is None else weight * factors[codes]
    if not total.any():
        raise ValueError("class_weight and sample_weight leave every sample a weight of zero")
    return total
