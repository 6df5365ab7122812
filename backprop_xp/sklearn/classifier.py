"""The classifier."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from sklearn.base import ClassifierMixin

from ..activations import LogSigmoid, Sigmoid
from ..backend import NUMPY, Array, Backend, module_of
from ..initialisers import Draw
from ..keywords import known_options
from ..literals import Dtype, InitName, NormalisationName, OptimiserName, ScheduleName
from ..losses import BCEWithLogits, SoftmaxCrossEntropy, get_loss
from ..operations.softmax import softmax
from ..training.optimiser import Optimiser
from ..training.options import arguments
from . import arrays, labels, weights
from .estimator import BackpropEstimator, Function
from .labels import Labels

#: What a classifier learns by.
ClassLoss = Literal["log_loss", "softmax_cross_entropy", "bce_with_logits"] | SoftmaxCrossEntropy | BCEWithLogits


class BackpropClassifier(ClassifierMixin, BackpropEstimator):
    """A net that tells classes apart, as an estimator of scikit-learn.

    Parameters that MLPClassifier has too mean what they mean there; their defaults are the same. Two classes are one
    output and its logistic sigmoid, more are softmax over an output each; y of several columns of 0 and 1 is any number
    of labels a sample, each with a sigmoid of its own.

    Args:
        hidden_layer_sizes: widths of the hidden layers, or one width; () is a linear model.
        activation: of the hidden layers: a name or an object, or one for each; "logistic" is "sigmoid".
        loss: "log_loss", or softmax_cross_entropy or bce_with_logits by name or as an object with settings such as
            ``SoftmaxCrossEntropy(label_smoothing=0.1)``.
        optimiser: a name ("sgd", "adam", "adamw", "rmsprop", "adagrad", "lbfgs"), or an object, of which every ``fit``
            uses a copy.
        schedule: of the learning rate: None, "cosine" over ``max_iter`` epochs, or a function from the step (from 0) to
            a factor.
        alpha: an L2 penalty alpha / 2 sum w^2 of the weights, which is divided by the weight of a batch's samples.
        batch_size: samples in a batch; "auto" is 200, or all if there are fewer, and for L-BFGS.
        learning_rate_init: the learning rate; None takes the optimiser's own, 0.001 for Adam.
        max_iter: epochs at most.
        shuffle: whether each epoch takes the samples in another order.
        random_state: what weights, orders and the held-out rows are drawn from: None, a seed, or a RandomState.
        tol, n_iter_no_change: training ends when the loss hasn't fallen by ``tol`` for more than ``n_iter_no_change``
            epochs; with ``early_stopping`` when the score hasn't risen by ``tol``.
        verbose: print a line an epoch.
        warm_start: let ``fit`` go on with the net of the call before.
        early_stopping: hold ``validation_fraction`` of the samples out, stop by their accuracy, and keep the parameters
            that had the best.
        bias: whether layers have biases.
        dropout: the share of the hidden layers' numbers that training leaves out, from 0 to below 1.
        normalisation: of the hidden layers before their activations, "none" or "layer".
        init: how weights are drawn: a name of :data:`backprop_xp.initialisers.INITIALISERS`, or a function of
            (rng, (out, in)). Biases are drawn as "glorot_uniform" draws weights.
        dtype: "float32" or "float64"; None is float32 for float32 X, and float64 for everything else.
        backend: "numpy", "cupy", "cupy:N" or "auto"; None is the device of X, or for X on the host what
            BACKPROP_XP_BACKEND says.
        threads: how many a net uses, see :class:`backprop_xp.Net`.
        class_weight: None, "balanced", or a dict of a weight for each class.

    Attributes:
        classes_: labels, (classes,), in the order of probabilities.
        net_: the :class:`backprop_xp.Net`, or with dropout or normalisation the :class:`backprop_xp.GraphNet`.
        coefs_, intercepts_: weights (inputs, outputs) and biases (outputs,) of each layer, on the host.
        loss_, best_loss_: the last and the lowest average loss of an epoch, without the penalty; the lowest is None
            with ``early_stopping``.
        loss_curve_: the average losses of all epochs since the net was made.
        validation_scores_, best_validation_score_: the accuracy on the held-out rows after each epoch, and the best of
            the last ``fit``; None without ``early_stopping``.
        n_iter_: epochs of the last call. t_: samples that were trained on, each as often as it was.
        n_features_in_, feature_names_in_: how many features there are, and their names if X had some.
        n_layers_, n_outputs_, out_activation_: layers with the input, outputs, and "logistic" or "softmax".
    """

    @known_options
    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Function | Sequence[Function] = "relu",
        *,
        loss: ClassLoss = "log_loss",
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
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
    ) -> None:
        self.__dict__.update(arguments(locals()))

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> BackpropClassifier:
        """Train for one epoch on these samples, with the net and the optimiser of the calls before.

        Args:
            X, y, sample_weight: as in :meth:`fit`; y need not have all classes.
            classes: all labels that there will be, needed in the first call.

        Raises:
            ValueError, TypeError: as in :meth:`fit`; other classes than in the first call.
        """
        if self.__sklearn_is_fitted__():
            if classes is not None and not labels.same(self.classes_, classes):
                raise ValueError(f"classes={classes!r} are not those of the calls before, {self.classes_.tolist()}")
        elif classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if isinstance(self.class_weight, str):
            raise ValueError("class_weight='balanced' is not supported by partial_fit: give a dict of weights")
        return self._partial_fit(X, y, sample_weight, classes=classes)

    def predict(self, X: Any) -> Any:
        """Labels, (n,); or (n, classes) of 0 and 1 where a sample may have several. X is as in :meth:`fit`."""
        codes = self._codes(self._outputs(X, "predict"))
        if self._labels.several:
            return arrays.like(codes, X)
        if self.classes_.dtype.kind in labels.NUMBERS:
            return arrays.like(module_of(codes).asarray(self.classes_)[codes], X)
        return self.classes_[NUMPY.take(codes)]

    def predict_proba(self, X: Any) -> Any:
        """Probabilities, (n, classes); with several labels a sample they don't add up to 1. X is as in :meth:`fit`."""
        z = self._outputs(X, "predict_proba")
        if self.out_activation_ == "softmax":
            return arrays.like(softmax(z), X)
        return arrays.like(self._of_both(z, Sigmoid()), X)

    def predict_log_proba(self, X: Any) -> Any:
        """Logarithms of :meth:`predict_proba`, also of probabilities too small for a number of their own."""
        z = self._outputs(X, "predict_log_proba")
        if self.out_activation_ == "softmax":
            return arrays.like(_log_softmax(z), X)
        return arrays.like(self._of_both(z, LogSigmoid()), X)

    def decision_function(self, X: Any) -> Any:
        """The net's outputs, (n, classes); for two classes (n,) of how much the second one is ahead."""
        z = self._outputs(X, "decision_function")
        if self._labels.binary:
            z = z[:, 0] if z.shape[1] == 1 else z[:, 1] - z[:, 0]
        return arrays.like(z, X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of right answers; of several labels a sample, all must be right."""
        said = arrays.host(self.predict(X))
        y = labels.natural(arrays.targets(self, y, said))
        return float(np.average(labels.right(said, y), weights=weights.of_samples(sample_weight, len(y))))

    @property
    def out_activation_(self) -> str:
        return "softmax" if isinstance(self._fitted_net().loss, SoftmaxCrossEntropy) else "logistic"

    def _learn(
        self, y: np.ndarray, weight: np.ndarray | None, goes_on: bool, whole: bool, classes: Any = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        y = labels.natural(y)
        if not goes_on:
            self._labels = Labels.of(y if classes is None or y.ndim == 2 else labels.natural(np.asarray(classes)))
            self.classes_ = self._labels.classes
        known = self._labels
        if goes_on and whole and not labels.same(known.classes, found := Labels.of(y).classes):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {known.classes}, `y` has {found}"
            )
        codes = known.codes(y)
        if not known.several:
            weight = weights.of_classes(self.class_weight, known.classes, codes, weight)
        elif self.class_weight is not None:
            raise ValueError("class_weight is for one label a sample: give samples of several labels a sample_weight")
        if isinstance(self._net_loss(), SoftmaxCrossEntropy):
            return codes, weight
        return codes.reshape(len(codes), -1).astype(np.float64), weight

    def _net_outputs(self) -> int:
        one = self._labels.binary and not isinstance(self._net_loss(), SoftmaxCrossEntropy)
        return 1 if one else len(self.classes_)

    def _net_loss(self) -> Any:
        known = self._labels
        if isinstance(self.loss, str) and self.loss == "log_loss":
            if not known.binary and not known.several:
                return SoftmaxCrossEntropy()
            # over the samples, and not over all elements: a factor for each output
            return BCEWithLogits(weight=float(len(known.classes)) if known.several else 1.0)
        loss = copy.deepcopy(get_loss(self.loss))
        if not isinstance(loss, SoftmaxCrossEntropy | BCEWithLogits):
            raise ValueError(
                f"loss must be 'log_loss', softmax_cross_entropy or bce_with_logits, whose outputs are probabilities, "
                f"got {self.loss!r}"
            )
        fits = not known.several if isinstance(loss, SoftmaxCrossEntropy) else known.binary or known.several
        if not fits:
            kind = "several labels a sample" if known.several else f"one of {len(known.classes)} classes"
            raise ValueError(f"the loss {loss.name} is not for {kind}: take 'log_loss'")
        return loss

    def _strata(self, y: np.ndarray, held: int) -> np.ndarray | None:
        if self._labels.several:
            return None
        counts = np.bincount(y.ravel().astype(np.int64))
        room = min(held, len(y) - held) >= np.count_nonzero(counts) and counts[counts > 0].min() > 1
        return y.ravel() if room or self._labels.binary else None

    def _score_outputs(self, outputs: Array, y: np.ndarray, weight: np.ndarray | None) -> float:
        if not bool(module_of(outputs).isfinite(outputs).all()):
            return float("nan")
        hits = NUMPY.take(self._codes(outputs)).reshape(len(y), -1) == y.reshape(len(y), -1)
        return float(np.average(hits.all(axis=1), weights=weight))

    def _codes(self, z: Array) -> Array:
        """Places in ``classes_``, (n,); or (n, classes) of 0 and 1."""
        if self._labels.several:
            return (z > 0).astype(np.int64)
        if z.shape[1] > 1:
            return z.argmax(axis=1)
        return ((z[:, 0] > 0) & (len(self.classes_) > 1)).astype(np.int64)

    def _of_both(self, z: Array, function: Any) -> Array:
        """The function of the logit of every label; where one logit says which of two, of the first's too."""
        if self._labels.several:
            return function(z)
        if len(self.classes_) == 1:
            return module_of(z).full_like(z, float(isinstance(function, Sigmoid)))
        return module_of(z).concatenate([function(-z), function(z)], axis=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _log_softmax(z: Array) -> Array:
    xp = module_of(z)
    shifted = z - z.max(axis=1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
