"""What the classifier and the regressor have in common."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..activations import Activation
from ..backend import NUMPY, Array, Backend, get_backend, module_of, owner_of
from ..graph import GraphNet
from ..initialisers import Draw
from ..keywords import known_options
from ..literals import (
    ActivationName,
    Dtype,
    InitName,
    LossName,
    NormalisationName,
    OptimiserName,
    ScheduleName,
)  # fmt: skip
from ..losses import Loss
from ..net import Net
from ..programs import fused
from ..training.nan import DivergedError
from ..training.optimiser import Optimiser
from ..training.options import arguments
from . import arrays, nets, weights
from .settings import Settings, new_optimiser, set_rate, shifted
from .stopping import Convergence

#: What hidden layers apply.
Function = ActivationName | Activation
SEEDS = 2**31 - 1
TOO_LARGE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed"
)


class BackpropEstimator(BaseEstimator):
    """The part of :class:`BackpropClassifier` and :class:`BackpropRegressor` that doesn't depend on the targets.

    A subclass says what nets are to learn for targets, which loss they get, and how good their outputs are.
    """

    net_: Net | GraphNet
    loss_curve_: list[float]
    validation_scores_: list[float] | None

    @known_options
    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Function | Sequence[Function] = "relu",
        *,
        loss: Literal["squared_error", "poisson", "log_loss"] | LossName | Loss = "squared_error",
        optimiser: OptimiserName | Optimiser = "adam",
        schedule: ScheduleName | Callable[[int], float] | None = None,
        alpha: float = 0.0001,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate_init: float | None = None,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: float = 10,
        bias: bool = True,
        dropout: float = 0.0,
        normalisation: NormalisationName = "none",
        init: InitName | Draw = "glorot_uniform",
        dtype: Dtype | None = None,
        backend: str | Backend | None = None,
        threads: int | None = None,
    ) -> None:
        self.__dict__.update(arguments(locals()))

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train on these samples, anew unless ``warm_start`` is set.

        Args:
            X: (n, features) numbers: an array of any library, a frame of pandas or polars, or a sparse matrix.
            y: targets, one row a sample.
            sample_weight: (n,) numbers from 0 on, by which the samples' losses are multiplied.

        Returns:
            The estimator itself.

        Raises:
            ValueError, TypeError: a parameter, or the data, can't be used, or training diverged. The estimator is then
                as it was before.

        An interrupt ends training with a warning, and leaves a fitted estimator.
        """
        with as_it_was_on_failure(self):
            goes_on = self.warm_start and self.__sklearn_is_fitted__()
            self._fit(X, y, sample_weight, goes_on, None)
        return self

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, **known: Any) -> Any:
        """Train for one epoch; ``known`` is what :meth:`_learn` is told besides."""
        with as_it_was_on_failure(self):
            if self.early_stopping:
                raise ValueError("partial_fit does not support early_stopping=True")
            goes_on = self.__sklearn_is_fitted__()
            self._fit(X, y, sample_weight, goes_on, 1, **known)
        return self

    def _fit(self, X: Any, y: Any, sample_weight: Any, goes_on: bool, epochs: int | None, **known: Any) -> None:
        """Train the net that is there, or a new one.

        Args:
            goes_on: whether it is the one that is there.
            epochs: how many; None for ``max_iter``, with all that ends a run before.
            known: what :meth:`_learn` is told besides.
        """
        settings = Settings.of(self)
        x = arrays.inputs(self, X, reset=not goes_on)
        weight = weights.of_samples(sample_weight, x.shape[0])
        y, weight = self._learn(arrays.targets(self, y, x), weight, goes_on, whole=epochs is None, **known)
        if goes_on:
            self._refuse_another_net(settings)
        else:
            self._begin(x, settings)
        self._place = arrays.place(X)
        self.net_ = nets.renewed(self.net_, settings, self._net_loss())
        if epochs is None or not goes_on:
            self._optimiser = new_optimiser(self.optimiser, self.learning_rate_init)
        set_rate(self._optimiser, self.learning_rate_init)
        schedule = self.schedule if epochs is None else shifted(self.schedule, self._optimiser.count)

        score = None
        if epochs is None and settings.early_stopping:
            (x, y, weight), score = self._hold_out(x, y, weight, settings)
        patience = settings.patience if epochs is None else np.inf
        convergence = Convergence(settings.tol, patience, score, settings.verbose)
        samples = x.shape[0]
        batch = settings.batch(samples, self._optimiser)
        self._run(
            convergence,
            x=x,
            y=y,
            sample_weight=weight,
            epochs=epochs or settings.max_iter,
            batch_size=batch,
            optimiser=self._optimiser,
            schedule=schedule,
            l2=settings.penalty(samples, samples if weight is None else float(weight.sum()), batch),
            shuffle=settings.shuffle,
            seed=int(self._random.randint(SEEDS)),
        )
        self._note(convergence, samples)
        if epochs is None and schedule is None and not convergence.stopped and self.n_iter_ == settings.max_iter:
            warnings.warn(
                f"Maximum iterations ({settings.max_iter}) reached and the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _run(self, convergence: Convergence, x: Any, **options: Any) -> None:
        """Net.fit, and what its end means."""
        net = self.net_
        token = fused.any_widths.set(True)  # a search over widths doesn't wait for a compiler
        try:
            net.fit(x, callbacks=[convergence], progress=False, **options)
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        except DivergedError as error:
            if convergence.score is None or not convergence.scores:
                raise ValueError(f"{TOO_LARGE}: {error}") from error
            convergence.scores.append(float("nan"))
            convergence.losses.append(float("nan"))
            convergence.stopped = f"Training diverged, and ends with the best parameters before: {error}"
            warnings.warn(convergence.stopped, ConvergenceWarning, stacklevel=4)
        finally:
            fused.any_widths.reset(token)
        if convergence.score is not None:
            convergence.put_back_the_best(net)
        for tensor in net.parameters:
            tensor.grad = None  # nobody's, and as large as the parameters

    def _note(self, convergence: Convergence, samples: int) -> None:
        """Set the attributes that say what the run came to."""
        losses, scores = convergence.losses, convergence.scores
        held_out = convergence.score is not None
        self.n_iter_ = len(losses)
        self.t_ += samples * self.n_iter_
        self.loss_curve_ = [*self.loss_curve_, *losses]
        self.loss_ = losses[-1] if losses else float("nan")
        self.best_loss_ = None if held_out else min(self.loss_curve_, default=float("inf"))
        self.validation_scores_ = [*(self.validation_scores_ or []), *scores] if held_out else None
        self.best_validation_score_ = max((s for s in scores if s == s), default=None) if held_out else None

    def _begin(self, x: Any, settings: Settings) -> None:
        """A new net, and what is said of runs before it is forgotten."""
        self._random = check_random_state(self.random_state)
        outputs = self._net_outputs()
        backend = self.backend
        if backend is None and owner_of(x) == "cupy":
            backend = f"cupy:{x.device.id}"
        net = self.net_ = nets.new(
            settings,
            x.shape[1],
            outputs,
            loss=self._net_loss(),
            dtype=self.dtype or ("float32" if x.dtype == np.float32 else "float64"),
            rng=self._random,
            backend=backend,
            init=self.init,
            threads=self.threads,
        )
        self._net_kind = nets.kind_of(settings)
        for weight, bias in nets.layers_of(net):
            width, inputs = weight.data.shape
            bound = np.sqrt(6 / (inputs + width))  # MLPClassifier's: with one feature, units must not bend in one place
            if bias is not None:
                bias.data = net.backend.asarray(self._random.uniform(-bound, bound, width), net.dtype, "bias")
        self.n_layers_, self.n_outputs_, self.t_ = len(settings.hidden) + 2, outputs, 0
        self.loss_curve_ = []
        self.validation_scores_ = None

    def _refuse_another_net(self, settings: Settings) -> None:
        net = self.net_
        sizes = nets.sizes_of(net)
        now = (sizes, bool(self.intercepts_), self._net_kind, net.dtype.name, net.backend.name)
        asked = (
            (sizes[0], *settings.hidden, self._net_outputs()),
            settings.bias,
            nets.kind_of(settings),
            net.dtype.name if self.dtype is None else np.dtype(self.dtype).name,
            net.backend.name if self.backend is None else get_backend(self.backend).name,
        )
        for name, is_now, wanted in zip(("layers", "bias", "normalisation or dropout", "dtype", "backend"), now, asked):
            if is_now != wanted:
                raise ValueError(
                    f"{type(self).__name__} goes on with the net that it has, whose {name} {is_now} differ from what "
                    f"its parameters ask for, {wanted}: train anew with fit and warm_start=False"
                )

    def _hold_out(
        self, x: Any, y: np.ndarray, weight: np.ndarray | None, settings: Settings
    ) -> tuple[tuple[Any, np.ndarray, np.ndarray | None], Callable[[], float]]:
        """The samples to train on, and a function that scores the net on the others."""
        first, held = train_test_split(
            np.arange(x.shape[0]),
            random_state=self._random,
            test_size=settings.validation_fraction,
            stratify=self._strata(y, math.ceil(settings.validation_fraction * x.shape[0])),
        )
        if len(held) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        train, rest = (
            (arrays.rows_of(x, rows), y[rows], None if weight is None else weight[rows]) for rows in (first, held)
        )
        for what, part in (("training", train), ("validation", rest)):
            if part[2] is not None and not part[2].any():
                raise ValueError(f"every sample in the {what} set has a weight of zero: give another random_state")
        return train, lambda: self._score_outputs(self._forward(rest[0]), rest[1], rest[2])

    def _forward(self, x: Any) -> Array:
        """The net's outputs, (n, outputs), for what :func:`arrays.inputs` gave."""
        parts = [self.net_.forward(piece) for piece in arrays.pieces(x)]
        return parts[0] if len(parts) == 1 else module_of(parts[0]).concatenate(parts)

    def _outputs(self, X: Any, method: str) -> Array:
        """The net's outputs, (n, outputs), for what a user handed to this method."""
        check_is_fitted(self)
        where = arrays.place(X)
        if None not in (where, self._place) and where != self._place:
            raise ValueError(
                f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace and the same device as "
                f"those passed to fit(): {self._place}, got {where}"
            )
        outputs = self._forward(arrays.inputs(self, X, reset=False))
        finite = module_of(outputs).isfinite(outputs)
        if not bool(finite.all()):
            row = int((~finite.all(axis=1)).argmax())
            raise ValueError(f"the outputs for row {row} of X aren't finite: its numbers are too large for this net")
        return outputs

    def _learn(
        self, y: np.ndarray, weight: np.ndarray | None, goes_on: bool, whole: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Targets of the net, (n,) indices or (n, outputs) numbers, and weights of the samples, (n,).

        Args:
            y: targets as users have them, (n,) or (n, outputs).
            weight: the samples' own weights, (n,), or None.
            goes_on: whether there is a net, made for targets of this kind.
            whole: whether these are all samples, and not some of them for ``partial_fit``.
        """
        raise NotImplementedError

    def _net_outputs(self) -> int:
        """How many outputs the net has."""
        raise NotImplementedError

    def _net_loss(self) -> Any:
        """The net's loss."""
        raise NotImplementedError

    def _strata(self, y: np.ndarray, held: int) -> np.ndarray | None:
        """What the held-out rows, ``held`` of them, must have their share of, (n,)."""
        return None

    def _score_outputs(self, outputs: Array, y: np.ndarray, weight: np.ndarray | None) -> float:
        """How good the net's outputs are for these targets of it; NaN where they aren't finite."""
        raise NotImplementedError

    @property
    def coefs_(self) -> list[np.ndarray]:
        """The weights of each layer, (inputs, outputs), on the host."""
        return [NUMPY.take(weight.data).T for weight, _ in nets.layers_of(self._fitted_net())]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """The biases of each layer, (outputs,), on the host; none without ``bias``."""
        biases = [bias for _, bias in nets.layers_of(self._fitted_net())]
        return [NUMPY.take(bias.data) for bias in biases if bias is not None]

    def _fitted_net(self) -> Net | GraphNet:
        if "net_" not in vars(self):
            raise AttributeError(f"this {type(self).__name__} is not fitted yet")
        return self.net_

    def __sklearn_is_fitted__(self) -> bool:
        return "net_" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags


@contextmanager
def as_it_was_on_failure(estimator: Any) -> Iterator[None]:
    """Give the estimator back its attributes, its net and its optimiser if anything goes wrong."""
    before = dict(vars(estimator))
    net, optimiser = before.get("net_"), before.get("_optimiser")
    if net is not None and optimiser is not None:
        functions, parameters = nets.functions_of(net), [tensor.data.copy() for tensor in net.parameters]
        run = {"lr": optimiser.lr}, optimiser.count, {name: array.copy() for name, array in optimiser.state.items()}
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        if net is not None and optimiser is not None:
            for name, function in functions.items():
                setattr(net, name, function)
            for tensor, data in zip(net.parameters, parameters):
                tensor.data = data
            optimiser.restore(*run)
        raise
