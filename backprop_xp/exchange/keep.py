"""Saving and loading nets: what a net is, as JSON and arrays, and back. kinds.py says what differs between kinds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import inputs
from ..activations import ACTIVATIONS
from ..backend import Backend
from ..dtypes import as_dtype
from ..losses import LOSSES, get_loss
from ..messages import unknown
from ..model import REDUCTIONS, Model
from ..operations import kinds
from ..tensor import Tensor
from .container import ModelFileError, field, read, short_text, write
from .kinds import KINDS, Kind
from .objects import Arrays, Custom, build_object, check_arrays, describe_object, distinct
from .operations import describe_operation, shapes
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
    description, arrays = _describe(net, KINDS[kind])
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
        return _build(KINDS[kind], description, arrays, custom or {}, backend), extra
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelFileError(f"{os.fspath(path)}: {error}") from None


def _describe(net: Model, kind: Kind) -> tuple[dict[str, Any], Arrays]:
    plan = net._plan()
    distinct("operations", [(describe_operation(node.operation), node.operation) for node in plan.nodes])
    activations = [function for node in plan.nodes for function in node.form.functions]
    distinct("activations", [(describe_object(f, ACTIVATIONS), f) for f in activations])
    places, arrays = _places(net, kind), net._kept_arrays()
    shared = same_tensors(places)
    description = {
        **kind.describe(net),
        "loss": describe_object(net.loss, LOSSES),
        "reduction": net.reduction,
        "dtype": net.dtype.name,
        **({"seed": net.seed, "draws": net.draws} if plan.drawing else {}),
        **shared,
    }
    return description, host_arrays({name: arrays[tensor] for name, tensor in places.items()}, shared)


def _build(kind: Kind, description: dict[str, Any], arrays: Arrays, custom: Custom, backend: Any) -> Model:
    nodes, make = kind.build(description, custom)
    dtype = as_dtype(short_text(description, "dtype"))
    known = {kind.place(*name.rsplit(".", 1)): shape for name, shape in shapes(nodes).items()}
    arrays = expanded(description, arrays)
    # widths that no array in the file bears out must not lead to allocations
    own = any(type(node.operation) not in kinds().values() for node in nodes)
    check_arrays({name: a for name, a in arrays.items() if name in known or not own}, known, dtype)
    net = make(
        loss=build_object("loss", description.get("loss"), LOSSES, get_loss, custom),
        dtype=dtype,
        rng=0,
        backend=backend,
        init=lambda rng, shape: np.zeros(shape),
        reduction=inputs.one_of("reduction", short_text(description, "reduction"), REDUCTIONS),
    )
    places = _places(net, kind)
    check_arrays(arrays, {name: tensor.data.shape for name, tensor in places.items()}, dtype)
    for name, tensor in places.items():
        tensor.data = net.backend.asarray(arrays[name], dtype, name)
    for name, other in shared_names(description).items():
        if other not in places or (name in net.buffers) != (other in net.buffers):
            raise ModelFileError(f"{name!r} and {other!r}, a parameter and a buffer, can't share an array")
        places[name] = places[other]
    net._take_in(
        {f"{node}.{name}": places[kind.place(node, name)] for node, own in net._tensors().items() for name in own}
    )
    net.buffers |= {name: places[name] for name in net.buffers}
    if net._plan().drawing or "seed" in description:
        net.seed, net.draws = _count(description, "seed"), _count(description, "draws")
    return net


def _places(net: Model, kind: Kind) -> dict[str, Tensor]:
    """The tensor of every place by the name of its array in a file."""
    return {
        kind.place(node, name): tensor for node, own in net._tensors().items() for name, tensor in own.items()
    } | net.buffers


def _count(description: Mapping[str, Any], key: str) -> int:
    value = field(description, key, int)
    if not 0 <= value < 1 << 53:
        raise ModelFileError(f"{key!r} of its description must be from 0 to 2^53, got {value:.3g}")
    return value
