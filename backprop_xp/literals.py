"""What arguments of nets, runs and estimators may be, for type checkers.

They know names only where these are written out, so tests compare each list with the table that is asked at run time. A
variable for a name is annotated with its type, ``loss: LossName = "mse"``.
"""

from typing import Any, Literal

import numpy as np

Reduction = Literal["sum", "mean"]
#: "auto", or one of :data:`backprop_xp.engines.ENGINES`.
EngineName = Literal["auto", "layered", "tiled", "fused", "cooperative"]
#: "auto", or one of :data:`backprop_xp.precision.PRECISIONS`.
PrecisionName = Literal["auto", "float32", "tf32x3", "tf32", "bfloat16", "float16"]
#: What NumPy takes for one of its two types.
Dtype = Literal["float32", "float64"] | np.dtype[Any] | type[np.floating[Any]] | type[float]
#: Of :data:`backprop_xp.activations.ACTIVATIONS` and ``ALIASES``.
ActivationName = Literal[
    "identity", "tanh", "sigmoid", "relu", "leaky_relu", "elu", "selu", "celu", "gelu", "gelu_tanh", "silu", "mish",
    "softplus", "softsign", "hard_sigmoid", "hard_tanh", "hard_swish", "relu6", "log_sigmoid", "sin", "cos",
    "swish", "linear", "logistic",
]  # fmt: skip
#: Of :data:`backprop_xp.operations.BUILT_IN`, those of one input: what may stand in a layer besides activations.
LayerName = Literal["dropout", "layer_norm", "batch_norm", "softmax"]
#: The others of them: what puts several nodes of a graph together.
JoinName = Literal["add", "multiply", "concatenate"]
#: Of :data:`backprop_xp.losses.LOSSES`.
LossName = Literal[
    "half_sum_sq", "half_squared_error", "mse", "mae", "huber", "bce_with_logits", "softmax_cross_entropy"
]  # fmt: skip
#: Of :data:`backprop_xp.initialisers.INITIALISERS`.
InitName = Literal["normal", "glorot_uniform", "glorot_normal", "he_uniform", "he_normal"]
#: Of :data:`backprop_xp.training.OPTIMISERS`.
OptimiserName = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad", "lbfgs"]
#: Of :data:`backprop_xp.training.schedules.NAMES`.
ScheduleName = Literal["constant", "cosine"]
#: Of :data:`backprop_xp.data.nets.NORMALISATIONS`, of the hidden layers of estimators and of nets for tables.
NormalisationName = Literal["none", "layer"]
