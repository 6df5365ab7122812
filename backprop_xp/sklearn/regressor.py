"""The regressor."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import check_array

from ..backend import NUMPY, Array, module_of
from ..losses import ElementwiseLoss, HalfSquaredError, get_loss
from . import arrays
from .estimator import BackpropEstimator


class BackpropRegressor(RegressorMixin, BackpropEstimator):
    """A net that tells amounts, one or several, as an estimator of scikit-learn.

    Parameters that MLPRegressor has too mean what they mean there; their defaults are the same. Targets are learnt as
    they are: scale them (``TransformedTargetRegressor``) where they are far from 1.

    Args:
        hidden_layer_sizes: widths of the hidden layers, or one width; () is a linear model.
        activation: of the hidden layers: a name or an object, or one for each; "logistic" is "sigmoid".
        loss: "squared_error", which is half of it; "poisson", half the deviance for y from 0 on, whose predictions are
            exp of the outputs; or any loss of outputs and targets, by name or as an object, such as
            ``Huber(delta=2.0)``.
        optimiser: a name ("sgd", "adam", "adamw", "rmsprop", "adagrad"), or an object, of which every ``fit`` uses a
            copy.
        schedule: of the learning rate: None, "cosine" over ``max_iter`` epochs, or a function from the step (from 0) to
            a factor.
        alpha: an L2 penalty alpha / 2 sum w^2 of the weights, which is divided by the weight of a batch's samples.
        batch_size: samples in a batch; "auto" is 200, or all if there are fewer.
        learning_rate_init: the learning rate; None takes the optimiser's own, 0.001 for Adam.
        max_iter: epochs at most.
        shuffle: whether each epoch takes the samples in another order.
        random_state: what weights, orders and the held-out rows are drawn from: None, a seed, or a RandomState.
        tol, n_iter_no_change: training ends when the loss hasn't fallen by ``tol`` for more than ``n_iter_no_change``
            epochs; with ``early_stopping`` when the score hasn't risen by ``tol``.
        verbose: print a line an epoch.
        warm_start: let ``fit`` go on with the net of the call before.
        early_stopping: hold ``validation_fraction`` of the samples out, stop by their R^2, and keep the parameters that
            had the best.
        bias: whether layers have biases.
        dropout: the share of the hidden layers' numbers that training leaves out, from 0 to below 1.
        normalisation: of the hidden layers before their activations, "none" or "layer".
        init: how weights are drawn: a name of :data:`backprop_xp.initialisers.INITIALISERS`, or a function of
            (rng, (out, in)). Biases are drawn as "glorot_uniform" draws weights.
        dtype: "float32" or "float64"; None is float32 for float32 X, and float64 for everything else.
        backend: "numpy", "cupy", "cupy:N" or "auto"; None is the device of X, or for X on the host what
            BACKPROP_XP_BACKEND says.
        threads: how many a net uses, see :class:`backprop_xp.Net`.

    Attributes:
        net_: the :class:`backprop_xp.Net`, or with dropout or normalisation the :class:`backprop_xp.GraphNet`.
        coefs_, intercepts_: weights (inputs, outputs) and biases (outputs,) of each layer, on the host.
        loss_, best_loss_: the last and the lowest average loss of an epoch, without the penalty; the lowest is None
            with ``early_stopping``.
        loss_curve_: the average losses of all epochs since the net was made.
        validation_scores_, best_validation_score_: R^2 on the held-out rows after each epoch, and the best of the last
            ``fit``; None without ``early_stopping``.
        n_iter_: epochs of the last call. t_: samples that were trained on, each as often as it was.
        n_features_in_, feature_names_in_: how many features there are, and their names if X had some.
        n_layers_, n_outputs_, out_activation_: layers with the input, outputs, and "identity" or "exp".
    """

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> BackpropRegressor:
        """Train for one epoch on these samples, with the net and the optimiser of the calls before.

        Args:
            X, y, sample_weight: as in :meth:`fit`.

        Raises:
            ValueError, TypeError: as in :meth:`fit`.
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X: Any) -> Any:
        """Amounts, (n,) for one target and (n, outputs) for several. X is as in :meth:`fit`."""
        amounts = self._amounts(self._outputs(X, "predict"))
        return arrays.like(amounts[:, 0] if amounts.shape[1] == 1 else amounts, X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R^2, the share of the variance that is explained; the mean over several targets."""
        said = arrays.host(self.predict(X))
        return float(r2_score(arrays.host(y), said, sample_weight=arrays.host(sample_weight)))

    def _learn(
        self, y: np.ndarray, weight: np.ndarray | None, goes_on: bool, whole: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y", estimator=self).reshape(len(y), -1)
        if goes_on and y.shape[1] != self.n_outputs_:
            raise ValueError(f"y must have {self.n_outputs_} columns, as in the first call, got {y.shape[1]}")
        counts = isinstance(self.loss, str) and self.loss == POISSON
        if counts and (y < 0).any():
            raise ValueError(f"the loss 'poisson' needs y from 0 on, got {y.min():g}")
        self._targets, self.out_activation_ = y.shape[1], "exp" if counts else "identity"
        return y, weight

    def _net_outputs(self) -> int:
        return self._targets

    def _net_loss(self) -> Any:
        if isinstance(self.loss, str) and self.loss in LOSSES:
            return LOSSES[self.loss]()
        loss = copy.deepcopy(get_loss(self.loss))
        if not getattr(loss, "needs_target", False) or getattr(loss, "takes_indices", False):
            raise ValueError(f"loss must be one of outputs and amounts, such as 'squared_error', got {self.loss!r}")
        return loss

    def _amounts(self, z: Array) -> Array:
        if self.out_activation_ == "identity":
            return z
        with np.errstate(over="ignore"):  # infinity is the answer then
            return module_of(z).exp(z)

    def _score_outputs(self, outputs: Array, y: np.ndarray, weight: np.ndarray | None) -> float:
        said = NUMPY.take(self._amounts(outputs))
        if not np.isfinite(said).all():
            return float("nan")
        with np.errstate(over="ignore"):  # as a run diverges
            return float(r2_score(y, said, sample_weight=weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


POISSON = "poisson"
#: Half the deviance of counts from exp(z), and its derivative.
DEVIANCE = "exp(z) - y * z + where(y > 0, y * log(maximum(y, 1e-30)) - y, 0)", "exp(z) - y"
#: Losses by the names that MLPRegressor has for them; their gradients in each sample are its too.
LOSSES: dict[str, Any] = {"squared_error": HalfSquaredError, POISSON: partial(ElementwiseLoss, POISSON, *DEVIANCE)}
