"""Saving and loading nets: what a net is, as JSON and arrays, and back.

:data:`KINDS` says how each kind of net is described and built; a new kind is one entry.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .. import inputs
from ..activations import ACTIVATIONS, get_activation
from ..backend import Backend
from ..dtypes import as_dtype
from ..graph import GraphNet
from ..losses import LOSSES, get_loss
from ..messages import unknown
from ..model import REDUCTIONS
from ..net import Net
from ..tensor import Tensor
from .container import ModelFileError, field, read, short_text, write
from .graphs import build_graph, describe_graph
from .objects import Arrays, Custom, build_object, check_arrays, describe_object, distinct
from .sharing import expanded, host_arrays, same_tensors, shared_names

FORMAT = 1


def save(net: Any, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None) -> None:
    """Write a net to a safetensors file; an older file of that name is replaced when the new one is complete.

    Sizes, activations, loss, reduction, parameters and buffers are kept, and which of these are the same Tensor;
    gradients, signals, engine, threads and backend are not. Activations and losses of your own are kept by name: give
    them to :func:`load`.

    Args:
        net: a net, on any backend.
        path: the file.
        extra: anything else that JSON can hold, for :func:`load_with_extra`.
    """
    kind = next((kind for kind in KINDS if type(net) is KINDS[kind].type), None)
    if kind is None:
        raise TypeError(f"nets of these types can be saved: {', '.join(KINDS)}; got {type(net).__name__}")
    description, arrays = KINDS[kind].describe(net)
    write(path, arrays, {"format": FORMAT, "kind": kind, **description, "extra": dict(extra or {})})


def load(path: str | os.PathLike[str], *, custom: Custom | None = None, backend: str | Backend | None = None) -> Any:
    """The net that :func:`save` wrote.

    Args:
        path: the file.
        custom: activations and losses of your own by the names they were saved under.
        backend: as in :class:`~backprop_xp.Net`.

    Raises:
        ModelFileError: the file is damaged, isn't one of ours, or needs a ``custom`` that isn't given.
        OSError: no such file, or it can't be read.
    """
    return load_with_extra(path, custom=custom, backend=backend)[0]


def load_with_extra(
    path: str | os.PathLike[str], *, custom: Custom | None = None, backend: str | Backend | None = None
) -> tuple[Any, dict[str, Any]]:
    """The net and what was saved with it."""
    description, arrays = read(path)
    try:
        version = field(description, "format", int)
        if version != FORMAT:
            raise ModelFileError(f"its format is {version}; this version of backprop_xp reads {FORMAT}")
        kind = short_text(description, "kind")
        if kind not in KINDS:
            raise ModelFileError(unknown("kind of net", kind, KINDS))
        extra = field(description, "extra", dict)
        return KINDS[kind].build(description, arrays, custom or {}, backend), extra
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelFileError(f"{os.fspath(path)}: {error}") from None


def _describe_chain(net: Net) -> tuple[dict[str, Any], Arrays]:
    layers = inputs.as_layers(net)
    places = _places(net)
    arrays = dict(zip(places, [*(layer.weight for layer in layers), *(b for _, b, _ in layers if b is not None)]))
    shared = same_tensors(places)
    activations = [describe_object(layer.activation, ACTIVATIONS) for layer in layers]
    distinct("activations", zip(activations, (layer.activation for layer in layers)))
    description = {
        "sizes": list(net.sizes),
        "activations": activations,
        "loss": describe_object(get_loss(net.loss), LOSSES),
        "reduction": net.reduction,
        "bias": all(net.bias) if len(set(net.bias)) == 1 else list(net.bias),
        "dtype": net.dtype.name,
        **shared,
    }
    return description, host_arrays(arrays, shared)


def _build_chain(description: dict[str, Any], arrays: Arrays, custom: Custom, backend: Any) -> Net:
    sizes = inputs.as_sizes(field(description, "sizes", list))
    kind = list if isinstance(description.get("bias"), list) else bool
    bias = inputs.as_flags("bias", field(description, "bias", kind), len(sizes) - 1)
    dtype = as_dtype(short_text(description, "dtype"))
    shapes: dict[str, tuple[int, ...]] = {f"weights.{i}": shape for i, shape in enumerate(zip(sizes[1:], sizes[:-1]))}
    shapes |= {f"biases.{i}": (n,) for i, (n, has) in enumerate(zip(sizes[1:], bias)) if has}
    arrays = expanded(description, arrays)
    check_arrays(arrays, shapes, dtype)
    activations = field(description, "activations", list)
    weights = (arrays[f"weights.{i}"] for i in range(len(sizes) - 1))
    net = Net(
        sizes,
        [build_object("activation", f, ACTIVATIONS, get_activation, custom) for f in activations],
        build_object("loss", description.get("loss"), LOSSES, get_loss, custom),
        bias,
        dtype,
        backend=backend,
        init=lambda rng, shape: next(weights),
        reduction=inputs.one_of("reduction", short_text(description, "reduction"), REDUCTIONS),
    )
    places = _places(net)
    depth = len(net.weights)
    for name, tensor in [*places.items()][depth:]:
        tensor.data = net.backend.asarray(arrays[name], dtype, name)
    tensors = [*(places | {name: places[other] for name, other in shared_names(description).items()}).values()]
    net.weights[:], net.biases[:] = tensors[:depth], tensors[depth:]
    return net


def _places(net: Net) -> dict[str, Tensor]:
    """The tensor of every place of a chain by the name of its array in a file."""
    places = {f"weights.{i}": tensor for i, tensor in enumerate(net.weights)}
    return places | {f"biases.{i}": bias for i, (_, bias, _) in enumerate(net.layers) if bias is not None}


class Kind(NamedTuple):
    """How nets of one type are described, as JSON and arrays, and built again."""

    type: type
    describe: Callable[[Any], tuple[dict[str, Any], Arrays]]
    build: Callable[[dict[str, Any], Arrays, Custom, Any], Any]


KINDS = {"chain": Kind(Net, _describe_chain, _build_chain), "graph": Kind(GraphNet, describe_graph, build_graph)}
