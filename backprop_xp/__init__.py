"""Explicit backpropagation for fully connected nets, at the speed of the machine."""

import importlib as _importlib
import typing as _typing

from . import _clone  # noqa: F401  first: what the others import may stand beside this folder
from . import later as _later
from . import model as _model
from .activations import (
    ACTIVATIONS,
    CELU,
    ELU,
    GELU,
    SELU,
    Activation,
    Cos,
    Elementwise,
    GELUTanh,
    HardSigmoid,
    HardSwish,
    HardTanh,
    Identity,
    LeakyReLU,
    LogSigmoid,
    Mish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Sin,
    Softplus,
    Softsign,
    Tanh,
    get_activation,
)
from .backend import BackendError, get_backend
from .losses import (
    LOSSES,
    MAE,
    MSE,
    BCEWithLogits,
    ElementwiseLoss,
    HalfSquaredError,
    HalfSumSq,
    Huber,
    Loss,
    SoftmaxCrossEntropy,
    get_loss,
)
from .net import Net
from .operations import BatchNorm, Dropout, Input, LayerNorm, Linear, Operation, Residual
from .tensor import Tensor

if _typing.TYPE_CHECKING:
    from . import check as check
    from . import data as data
    from . import exchange as exchange
    from . import pictures as pictures
    from . import sklearn as sklearn
    from . import torch_layer as torch_layer
    from . import training as training
    from .derivatives.array_equation import ArrayEquation
    from .derivatives.equation import Equation
    from .graph import Graph, GraphNet
    from .marking import check_gradients
else:
    # files, calls made ahead and explanations know all kinds of nets, and nets none of them
    _model.Model.save = _later.Method("backprop_xp.exchange", "save")
    _model.Model.load = _later.Method("backprop_xp.exchange", "load", static=True)
    _model.Model.compile = _later.Method("backprop_xp.ahead", "compile")
    _model.Model.explain = _later.Method("backprop_xp.explain", "explain")


__version__ = "0.1.0"

#: Modules that are there after ``import backprop_xp``, but imported when they are first asked for: some need PyTorch,
#: pandas or scikit-learn.
_LATER = ("bench", "check", "data", "exchange", "graph", "pictures", "sklearn", "torch_layer", "training")
#: Names of this module that aren't needed for a chain of layers -> where they stand.
_ELSEWHERE = {
    "ArrayEquation": "derivatives.array_equation",
    "Equation": "derivatives.equation",
    "Graph": "graph",
    "GraphNet": "graph",
    "check_gradients": "marking",
}


if not _typing.TYPE_CHECKING:  # for whom any name would be there

    def __getattr__(name: str) -> _typing.Any:
        if name in _LATER:
            return _importlib.import_module(f".{name}", __name__)
        if name in _ELSEWHERE:
            found = getattr(_importlib.import_module(f".{_ELSEWHERE[name]}", __name__), name)
            return globals().setdefault(name, found)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_ELSEWHERE})


__all__ = [
    "ACTIVATIONS",
    "CELU",
    "ELU",
    "GELU",
    "LOSSES",
    "MAE",
    "MSE",
    "SELU",
    "Activation",
    "ArrayEquation",
    "BCEWithLogits",
    "BackendError",
    "BatchNorm",
    "Cos",
    "Dropout",
    "Elementwise",
    "ElementwiseLoss",
    "Equation",
    "GELUTanh",
    "Graph",
    "GraphNet",
    "HalfSquaredError",
    "HalfSumSq",
    "HardSigmoid",
    "HardSwish",
    "HardTanh",
    "Huber",
    "Identity",
    "Input",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSigmoid",
    "Loss",
    "Mish",
    "Net",
    "Operation",
    "ReLU",
    "ReLU6",
    "Residual",
    "SiLU",
    "Sigmoid",
    "Sin",
    "SoftmaxCrossEntropy",
    "Softplus",
    "Softsign",
    "Tanh",
    "Tensor",
    "check_gradients",
    "get_activation",
    "get_backend",
    "get_loss",
]
