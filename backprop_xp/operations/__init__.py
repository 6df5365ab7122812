"""What nodes of a graph compute: each operation is one class, in a file of its own with all there is about it."""

from .activate import Activate
from .add import Add
from .base import Context, Operation, WholeBatch
from .batch_norm import BatchNorm
from .chain import Chain, Residual
from .concatenate import Concatenate
from .dropout import Dropout
from .input import Input
from .layer_norm import LayerNorm
from .linear import Linear
from .multiply import Multiply
from .registry import BUILT_IN, as_operation, is_built_in, kinds
from .softmax import Softmax

__all__ = [
    "BUILT_IN",
    "Activate",
    "Add",
    "BatchNorm",
    "Chain",
    "Concatenate",
    "Context",
    "Dropout",
    "Input",
    "LayerNorm",
    "Linear",
    "Multiply",
    "Operation",
    "Residual",
    "Softmax",
    "WholeBatch",
    "as_operation",
    "is_built_in",
    "kinds",
]
