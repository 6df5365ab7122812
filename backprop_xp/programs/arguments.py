"""What compiled passes over a whole batch are handed: addresses and strides, and what is known at compile time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import scope
from ..backend import Array
from ..dtypes import name_of
from ..formulas import is_formula
from ..losses import compiles, kernel_of
from ..operations import is_built_in
from ..passes.article import Layer
from ..plan.call import Call, Result
from . import fused, graph_source, structs

if TYPE_CHECKING:
    from ..derivatives.equation import Points

#: Of the 4 KiB that all arguments of a CUDA kernel may take, half for float64.
MOST_SCALARS = 256


def shape(call: Call) -> fused.Shape:
    """What a chain and this kind of call are compiled for."""
    bias = tuple(layer.bias is not None for layer in call.layers)
    texts = tuple(layer.activation.text for layer in call.layers)
    return fused.Shape(call.sizes, bias, name_of(call.dtype), texts, *_of_loss(call))


def graph_shape(call: Call) -> graph_source.Shape:
    """What a graph and this kind of call are compiled for."""
    return graph_source.shape_of(call.plan.nodes, name_of(call.dtype), *_of_loss(call), bool(call.keys))


def _of_loss(call: Call) -> tuple[Any, bool, bool]:
    """The loss's key, whether gradients are multiplied by factors, and whether that in x is wanted."""
    if call.loss is None:
        return None, False, False
    return loss_key(call), call.weight is not None or call.scale != 1.0, call.input_grad


def loss_key(call: Call) -> Any:
    """What a kernel of the call's loss is compiled for."""
    return kernel_of(call.loss, call.y)


def written_in_python(call: Call) -> str:
    """What of a chain's call is no formula, so that it can't be compiled, "" if all of it is."""
    if not all(is_formula(layer.activation) for layer in call.layers):
        return "an activation is written in Python"
    return loss_in_python(call.loss)


def node_in_python(call: Call, whole_batch: bool = False) -> str:
    """The first of a graph's nodes that can't be compiled for this call, and why, "" if all can.

    Args:
        whole_batch: whether the pass can wait for sums over the batch.
    """
    for node in call.plan.nodes:
        form = node.form
        if not (form.is_compiled and is_built_in(form)):
            return f"node {node.name!r} is written in Python"
        for function in form.functions:
            if not is_formula(function):
                return f"the activation of node {node.name!r} is written in Python"
        if call.training and form.constants and form.changes_buffers and not (whole_batch and form.of_batch):
            return scope.first_that_does([(f"node {node.name!r}", form)])
    return ""


def why_no_kernel(call: Call) -> str:
    """Why no kernel of a CUDA device can run this call, whatever its size, "" if one may."""
    if not call.backend.on_gpu:
        return "it runs on a CUDA device"
    if not call.plan.chain:
        return "the graph is no chain"
    return written_in_python(call) or too_many_scalars(call)


def loss_in_python(loss: Any) -> str:
    """Why this loss can't be compiled, "" if it can or if it is None."""
    return "" if loss is None or compiles(loss) else "the loss is written in Python"


def too_many_scalars(call: Call) -> str:
    """What keeps a call from CUDA kernels that take each scalar as an argument, "" if nothing does."""
    return "the activations and the loss have too many parameters" if len(scalars(call)) > MOST_SCALARS else ""


def scalars(call: Call) -> list[float]:
    """The parameters of the activations, then of the loss."""
    functions = [function for node in call.plan.nodes for function in node.form.functions]
    numbers = [number for function in functions for number in function.parameters]
    return [*numbers, *getattr(call.loss, "parameters", ())]


def add_x(args: Any, call: Call | Points, held: list[Any]) -> None:
    """Fill in x of a struct.

    ``held`` collects the arrays whose addresses go into ``args``: keep it until the call of C returns, or their memory
    is freed under the kernel.
    """
    x = readable(call.x)
    args.x, args.x_row, args.x_column = address(x, held), stride(x, 0), stride(x, 1)


def flops(call: Call) -> int:
    """Operations of a graph for one sample, about: those of the matrix products, and some for each activation."""
    return 2 * call.multiply_adds + fused.ACTIVATION_FLOPS * sum(call.plan.widths.values())


def contiguous(layers: Iterable[Layer]) -> list[Layer]:
    """Layers on the CPU with contiguous parameters."""
    own = np.ascontiguousarray
    return [Layer(own(weight), None if bias is None else own(bias), activation) for weight, bias, activation in layers]


def parameters(call: Call) -> list[Array]:
    """Every parameter in the call's order, contiguous."""
    contiguous = call.backend.xp.ascontiguousarray
    return [contiguous(array) for own in call.parameters.values() for array in own.values()]


def add_targets(args: Any, call: Call | Points, held: list[Any]) -> None:
    """Fill in the targets, the sample weights and the scale of a struct; ``held`` as for :func:`add_x`."""
    if call.y is not None:
        y = readable(call.y)
        args.y, args.y_row = address(y, held), stride(y, 0)
        args.y_column = stride(y, 1) if y.ndim == 2 else 0
    if call.weight is not None:
        weight = readable(call.weight)
        args.weight, args.weight_row = address(weight, held), stride(weight, 0)
    args.scale = call.scale


def result(call: Call, total: Array, grad_x: Array | None, loss: Any) -> Result:
    """A chain's, whose parameters' gradients lie one after another in ``total``; without ``grad_x`` if it is None."""
    arrays = [array for own in call.parameters.values() for array in own.values()]
    gradients = [total[at].reshape(array.shape) for array, at in zip(arrays, places(call))]
    return Result(gradients, {} if grad_x is None else dict.fromkeys(call.inputs, grad_x), loss, total=total)


def places(call: Call) -> list[slice]:
    """Where the parameters, or their gradients, lie in an array that has them one after another."""
    found: list[slice] = []
    at = 0
    for own in call.parameters.values():
        for array in own.values():
            found.append(slice(at, at := at + array.size))
    return found


def address(array: np.ndarray, held: list[Any]) -> int:
    """The address of the array's numbers; the array is appended to ``held``, which keeps it alive."""
    held.append(array)
    return structs.address(array)


def readable(array: np.ndarray) -> np.ndarray:
    """The array itself, in place, unless its elements lie at odd addresses."""
    odd = not array.flags.aligned or any(stride % array.itemsize for stride in array.strides)
    return np.ascontiguousarray(array) if odd else array


def stride(array: np.ndarray, axis: int) -> int:
    return array.strides[axis] // array.itemsize


class Written(NamedTuple):
    """The arrays that a launch for some samples writes on a CUDA device; those that it doesn't are None.

    Attributes:
        sums, losses: of each chunk the gradients of all parameters, and the sum of the samples' losses.
        output: the outputs.
        grads: the gradients in the inputs by their names, if there are any.
    """

    sums: Array | None = None
    losses: Array | None = None
    output: Array | None = None
    grads: Mapping[str, Array] = {}


def batch(call: Call, chunk: int, written: Written) -> Any:
    """``bpx::Batch`` of a call on a CUDA device, whose kernel writes these arrays; x and its gradient are a chain's.

    It holds addresses: keep the arrays until the kernel is launched.
    """
    args = structs.BATCHES[call.dtype.name](n=call.samples, chunk=chunk, scale=call.scale)
    for name, array in {"x": call.x if call.plan.chain else None, "y": call.y, "weight": call.weight}.items():
        if array is not None:
            place(args, name, array)
    arrays = {"sums": written.sums, "losses": written.losses, "output": written.output}
    if call.plan.chain:
        arrays["x_grad"] = next(iter(written.grads.values()), None)
    for name, array in arrays.items():
        if array is not None:
            setattr(args, name, array.data.ptr)
    return args


def place(args: Any, name: str, array: Array, row: str = "", column: str = "") -> None:
    """Fill in where an array on a CUDA device lies, and its strides in elements."""
    setattr(args, name, array.data.ptr)
    for field, step in zip((row or f"{name}_row", column or f"{name}_column"), array.strides):
        setattr(args, field, step // array.itemsize)
