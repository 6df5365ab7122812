"""What sums and products of any number of inputs have in common: inputs of one width, from left to right."""

from __future__ import annotations

from functools import reduce
from typing import Any

from .. import workspace
from ..backend import Array, module_of, owner_of


def same(widths: tuple[int, ...]) -> int:
    """The one width of all inputs; a ValueError if they differ."""
    if len(set(widths)) != 1:
        raise ValueError("its inputs must be of one width")
    return widths[0]


def fold(function: str, arrays: tuple[Array, ...]) -> Array:
    """The sum or product of arrays of one shape, from left to right, in recycled memory where that is allowed."""
    first, *others = arrays
    if not others:
        return first
    ufunc = getattr(module_of(first), function)
    result = None if owner_of(first) == "cupy" else workspace.empty(first.shape, first.dtype)
    result = ufunc(first, others[0], out=result)
    for other in others[1:]:
        ufunc(result, other, out=result)
    return result


def fold_nodes(writer: Any, operator: Any, inputs: Any) -> Any:
    """Values of a graph of ONNX's or PyTorch's under an operator of two inputs, from left to right."""
    return reduce(lambda a, b: writer.add(operator, a, b), inputs)
