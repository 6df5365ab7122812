"""The parameters of an estimator, checked: scikit-learn sets them unchecked, and ``fit`` is the first to read them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..activations import Activation, get_activation
from ..data.nets import NORMALISATIONS, check
from ..inputs import one_of
from ..literals import NormalisationName
from ..numbers import flag, real, whole
from ..training.optimiser import Optimiser
from ..training.optimisers import get_optimiser
from ..training.schedules import get_schedule

MLP_BATCH = 200  # samples in a batch of MLPClassifier's


@dataclass(frozen=True)
class Settings:
    """The parameters that ``fit`` itself needs; those that are handed to the net alone are checked there.

    Attributes:
        hidden: widths of the hidden layers.
        activations: one a hidden layer, copies of those given.
        batch_size: None for "auto".
        patience: ``n_iter_no_change``, which may be infinite.
    """

    hidden: tuple[int, ...]
    activations: tuple[Activation, ...]
    alpha: float
    batch_size: int | None
    max_iter: int
    shuffle: bool
    tol: float
    patience: float
    early_stopping: bool
    validation_fraction: float
    warm_start: bool
    bias: bool
    dropout: float
    normalisation: NormalisationName
    verbose: bool

    @classmethod
    def of(cls, estimator: Any) -> Settings:
        """The parameters of an estimator; a ValueError or TypeError names the one that is wrong."""
        hidden = widths(estimator.hidden_layer_sizes)
        patience = estimator.n_iter_no_change
        found = cls(
            hidden=hidden,
            activations=activations(estimator.activation, len(hidden)),
            alpha=real("alpha", estimator.alpha, 0),
            batch_size=None if estimator.batch_size == "auto" else whole("batch_size", estimator.batch_size, 1),
            max_iter=whole("max_iter", estimator.max_iter, 1),
            shuffle=flag("shuffle", estimator.shuffle),
            tol=real("tol", estimator.tol, 0),
            patience=math.inf if patience == math.inf else whole("n_iter_no_change", patience, 1),
            early_stopping=flag("early_stopping", estimator.early_stopping),
            validation_fraction=real("validation_fraction", estimator.validation_fraction, above=0, below=1),
            warm_start=flag("warm_start", estimator.warm_start),
            bias=flag("bias", estimator.bias),
            dropout=real("dropout", estimator.dropout, 0, below=1),
            normalisation=one_of("normalisation", estimator.normalisation, NORMALISATIONS),
            verbose=bool(estimator.verbose),
        )
        check(hidden, False, found.dropout, found.normalisation)
        return found

    def batch(self, samples: int, optimiser: Optimiser) -> int:
        """Samples in a batch, of ``samples`` that are trained on; "auto" is all of them for L-BFGS."""
        usual = samples if optimiser.evaluates else MLP_BATCH
        return min(samples, usual if self.batch_size is None else self.batch_size)

    def penalty(self, samples: int, weight: float, batch: int) -> float:
        """``l2`` of ``Net.fit``: ``alpha`` over the weight of a batch, as in MLPClassifier.

        Args:
            samples: that are trained on.
            weight: of all of them together.
            batch: samples in a batch.
        """
        return self.alpha * samples / (weight * batch)


def widths(hidden_layer_sizes: Any) -> tuple[int, ...]:
    """Widths of the hidden layers, of a sequence or of one number for one layer."""
    if isinstance(hidden_layer_sizes, str) or not hasattr(hidden_layer_sizes, "__iter__"):
        hidden_layer_sizes = (hidden_layer_sizes,)
    return tuple(whole("every width in hidden_layer_sizes", width, 1) for width in hidden_layer_sizes)


def activations(activation: Any, layers: int) -> tuple[Activation, ...]:
    """A copy of the activation for each hidden layer, of one for all or of a sequence with one for each."""
    if isinstance(activation, (list, tuple)):
        if len(activation) != layers:
            raise ValueError(
                f"activation must be one for all hidden layers or one for each of the {layers}, got {len(activation)}"
            )
        return tuple(copy.deepcopy(get_activation(each)) for each in activation)
    found = get_activation(activation)
    return tuple(copy.deepcopy(found) for _ in range(layers))


def new_optimiser(optimiser: str | Optimiser, lr: Any) -> Optimiser:
    """An optimiser that has made no step, of a name or like the one given, which stays as it is.

    Args:
        lr: the learning rate, None for its own.
    """
    fresh = copy.copy(get_optimiser(optimiser))
    fresh.restore({}, 0, {})
    set_rate(fresh, lr)
    return fresh


def set_rate(optimiser: Optimiser, lr: Any) -> None:
    """Set the learning rate, unless it is None."""
    if lr is not None:
        optimiser.lr = real("learning_rate_init", lr, above=0)


def shifted(schedule: Any, steps: int) -> Callable[[int], float] | None:
    """The schedule of a run that goes on after ``steps`` steps.

    Raises:
        ValueError: a schedule over the whole of a run, whose end isn't known here.
    """
    if schedule == "cosine":
        raise ValueError("how many steps partial_fit will be called for is unknown: give schedule=Cosine(steps)")
    function = get_schedule(schedule, None)
    return None if schedule is None else lambda step: function(step + steps)
