"""What a user hands to a net, checked and brought to the net's backend and dtype."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import later
from .activations import Identity, get_activation
from .backend import Array, Backend, owner_of
from .messages import unknown
from .numbers import flag, whole
from .operations import BUILT_IN, Chain, Operation
from .passes.article import Layer
from .plan.net import Layered
from .plan.plan import Plan

if TYPE_CHECKING:
    from .passes import streamed
else:
    streamed = later.Module("backprop_xp.passes.streamed")

#: One of some names.
Name = TypeVar("Name", bound=str)

LARGEST_WIDTH = 1 << 24


def as_sizes(sizes: Any) -> tuple[int, ...]:
    """Layer widths, input first: at least two positive integers."""
    if isinstance(sizes, (str, bytes)) or not hasattr(sizes, "__iter__"):
        raise TypeError(f"sizes must be a sequence of layer widths such as (5, 10, 4, 12), got {sizes!r}")
    sizes = tuple(sizes)
    if len(sizes) < 2:
        raise ValueError(f"a net needs at least an input and an output width, got sizes {sizes}")
    return tuple(whole("every layer width", size, 1, LARGEST_WIDTH) for size in sizes)


def as_function(function: Any) -> Any:
    """What a layer does to t = W z + b: an activation, or an operation of one input, several of which are one Chain.

    Args:
        function: an activation or its name, None for the identity; an operation such as ``Dropout(0.2)``, or the name
            of one; or a list of these, one after another.

    Raises:
        ValueError: an unknown name, an empty list, or what can't stand in a layer. TypeError: anything else.
    """
    if function is None:
        return Identity()
    if isinstance(function, str) and function in BUILT_IN:
        function = BUILT_IN[function]()
    if isinstance(function, (list, tuple)):
        made = [as_function(part) for part in function]
        return made[0] if len(made) == 1 else Chain(*made).in_layer()
    return function.in_layer() if isinstance(function, Operation) else get_activation(function)


def as_activations(activations: Any, depth: int) -> list[Any]:
    """What each layer does after W z + b, see :func:`as_function`."""
    if activations is None:
        activations = ["tanh"] * (depth - 1) + ["identity"]
    if isinstance(activations, (str, bytes)) or not hasattr(activations, "__iter__"):
        raise TypeError(f"activations must be a sequence of {depth} names or objects, one a layer, got {activations!r}")
    activations = [as_function(activation) for activation in activations]
    if len(activations) != depth:
        raise ValueError(f"{depth} layers need {depth} activations, got {len(activations)}")
    return activations


def as_flags(what: str, value: Any, count: int) -> tuple[bool, ...]:
    """A truth value for each of ``count`` layers, given as such or as one for all."""
    if not hasattr(value, "__iter__") or isinstance(value, (str, bytes)) or getattr(value, "ndim", 1) == 0:
        return (flag(what, value),) * count
    flags = tuple(flag(f"every {what}", one) for one in value)
    if len(flags) != count:
        raise ValueError(f"{what} must be True or False, or {count} of them, one a layer, got {len(flags)}")
    return flags


def one_of(what: str, value: Any, known: tuple[Name, ...]) -> Name:
    """``value`` if it is one of the known names."""
    if value not in known:
        raise ValueError(unknown(what, str(value), known))
    return known[known.index(value)]


def as_layers(net: Layered) -> list[Layer]:
    """The net's layers as they are now, after whatever the user did to its tensors and activations."""
    depth = len(net.sizes) - 1
    for name, having in (("weights", net.weights), ("activations", net.activations)):
        if len(having) != depth:
            raise ValueError(f"net.{name} must hold {depth}, one a layer, got {len(having)}")
    if len(net.biases) != sum(net.bias):
        expected = f"{sum(net.bias)}, one for each layer that has one," if any(net.bias) else f"{depth}, one a layer,"
        raise ValueError(f"net.biases must be empty or hold {expected} got {len(net.biases)}")
    layers = []
    numbers = itertools.count()  # in net.biases
    for i, (weight, bias, activation) in enumerate(net.layers):
        shape = net.sizes[i + 1], net.sizes[i]
        w = as_parameter(weight.data, shape, net.backend, net.dtype, f"weights[{i}].data")
        b = None
        if bias is not None:
            b = as_parameter(bias.data, shape[:1], net.backend, net.dtype, f"biases[{next(numbers)}].data")
        layers.append(Layer(w, b, as_function(activation)))
    return layers


def _most_on_host(backend: Backend, whole: bool) -> int | None:
    """The bytes of an array on the host from which on it stays there, None where none does."""
    if whole or not backend.on_gpu:
        return None
    return streamed.HOST_BYTES


def as_batch(x: Any, features: int, backend: Backend, dtype: np.dtype, what: str = "x", whole: bool = True) -> Array:
    """(n, features), or (features,) for one sample; unless it is needed ``whole``, it may stay on the host."""
    array = backend.asarray(x, dtype, what, _most_on_host(backend, whole))
    if array.ndim == 1:
        array = backend.asarray(array, dtype, what)
    if array.ndim not in (1, 2):
        raise ValueError(f"{what} must be (n, {features}) or ({features},), got {array.ndim} dimensions {array.shape}")
    if array.shape[-1] != features:
        raise ValueError(f"{what} must have {features} features, got {array.shape[-1]} (shape {array.shape})")
    return array


def as_inputs(
    x: Any, plan: Plan, backend: Backend, dtype: np.dtype, whole: bool = True
) -> tuple[dict[str, Array], bool]:
    """Every input of a net by its name, and whether it is one sample; not ``whole``, large ones may stay on the host.

    One sample of a list of layers is (features,), as in the article; operations take it as a batch of one.
    """
    widths = plan.inputs
    if not isinstance(x, Mapping):
        if len(widths) != 1:
            raise TypeError(f"the inputs are {', '.join(map(repr, widths))}: x must map their names to arrays")
        x = dict.fromkeys(widths, x)
    if x.keys() != widths.keys():
        expected, got = (", ".join(map(repr, names)) for names in (widths, x))
        raise ValueError(f"x must hold the inputs {expected}, got {got}")
    called = {name: "x" if plan.layered else f"input {name!r}" for name in widths}
    arrays = {name: as_batch(x[name], width, backend, dtype, called[name], whole) for name, width in widths.items()}
    if len(shapes := {array.shape[:-1] for array in arrays.values()}) != 1:
        found = ", ".join(f"{name!r} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"the inputs must hold equally many samples, got {found}")
    single = shapes == {()}
    if single and not (plan.layered and plan.chain):
        arrays = {name: array[None] for name, array in arrays.items()}
    return arrays, single


def as_target(
    y: Any, loss: Any, output_shape: tuple[int, ...], backend: Backend, dtype: np.dtype, whole: bool = True
) -> Array | None:
    """The target that this loss takes for outputs of this shape; see :func:`as_batch` for ``whole``."""
    name = getattr(loss, "name", type(loss).__name__)
    # a loss in the article's plain style, without this attribute, takes no target
    if not getattr(loss, "needs_target", False):
        if y is not None:
            raise ValueError(f"the loss {name} takes no target, got y")
        return None
    if y is None:
        raise ValueError(f"the loss {name} needs a target: loss_and_grad(x, y)")
    indices = getattr(loss, "takes_indices", False)
    array = backend.asarray(y, None, "y", _most_on_host(backend, whole))
    if indices and array.ndim == len(output_shape) - 1:
        return _as_indices(array, output_shape, backend, getattr(loss, "ignore_index", None))
    if array.shape == output_shape[:-1] and output_shape[-1] == 1:
        array = array.reshape(output_shape)
    if array.shape != output_shape:
        also = f" or class indices of shape {output_shape[:-1]}" if indices else ""
        raise ValueError(f"y must have the shape {output_shape} of the outputs{also}, got {array.shape}")
    return _converted(array, dtype, backend)


def _converted(array: Array, dtype: Any, backend: Backend) -> Array:
    """Of this dtype, unless it stayed on the host, from where it is converted a piece at a time."""
    if backend.on_gpu and owner_of(array) == "numpy":
        return array
    with backend.activate():  # on its device, whichever is the current one
        return array.astype(dtype, copy=False)


def _as_indices(array: Array, output_shape: tuple[int, ...], backend: Backend, ignored: int | None) -> Array:
    classes = output_shape[-1]
    if array.shape != output_shape[:-1]:
        raise ValueError(f"y must hold {output_shape[0]} class indices, one a sample, got shape {array.shape}")
    if array.dtype.kind not in "biu":
        raise TypeError(f"class indices must be integers, got dtype {array.dtype}; y.astype(int) makes them so")
    # looking at values on a device would wait for it
    counting = array if ignored is None or owner_of(array) != "numpy" else array[array != ignored]
    if owner_of(array) == "numpy" and counting.size:
        low, high = int(counting.min()), int(counting.max())
        if low < 0 or high >= classes:
            raise ValueError(f"class indices must be from 0 to {classes - 1}, got {low if low < 0 else high}")
    return _converted(array, np.int64, backend)


def as_sample_weight(weight: Any, batch_shape: tuple[int, ...], backend: Backend, dtype: np.dtype) -> Array | None:
    """(n,), or () for one sample."""
    if weight is None:
        return None
    array = backend.asarray(weight, dtype, "sample_weight")
    if array.shape != batch_shape:
        raise ValueError(f"sample_weight must have shape {batch_shape}, one number a sample, got {array.shape}")
    return array


def as_parameter(data: Any, shape: tuple[int, ...], backend: Backend, dtype: np.dtype, what: str) -> Array:
    """A weight or bias as the user left it: converted to the dtype where needed, never moved between devices."""
    owner = owner_of(data)
    if backend.device is None and owner == "cupy":
        raise TypeError(f"{what} is on a CUDA device and the net is on the host: call net.to('cupy') to move the net")
    if backend.device is not None and (owner != "cupy" or data.device.id != backend.device):
        raise TypeError(
            f"{what} is not on the net's device {backend.name!r}: call net.to({backend.name!r}) to move all parameters"
        )
    array = backend.asarray(data, dtype, what)
    if array.shape != shape:
        raise ValueError(f"{what} must have shape {shape}, got {array.shape}")
    return array
