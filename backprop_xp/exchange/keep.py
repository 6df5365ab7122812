"""Saving and loading nets: what a net is, as JSON, and back.

A description names everything: built-in activations and losses with their parameters, a user's own by their
names alone. :data:`KINDS` says how each kind of net is described and built; a new kind is one entry.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import inputs
from ..activations import ACTIVATIONS, METHODS, Elementwise, get_activation
from ..backend import NUMPY, Backend
from ..losses import LOSSES, ElementwiseLoss, get_loss
from ..messages import unknown
from ..model import REDUCTIONS
from ..net import Net
from .container import LONGEST_NAME, ModelFileError, field, number, read, short_text, write

FORMAT = 1

Custom = Mapping[str, Any]
Arrays = dict[str, np.ndarray]


def save(net: Any, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None) -> None:
    """Write a net to a safetensors file; an older file of that name is replaced when the new one is complete.

    Sizes, activations, loss, reduction and parameters are kept; gradients, signals, engine, threads and backend
    are not. Activations and losses of your own are kept by name: give them to :func:`load`.

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
    arrays = {f"weights.{i}": NUMPY.take(layer.weight) for i, layer in enumerate(layers)}
    arrays |= {f"biases.{i}": NUMPY.take(layer.bias) for i, layer in enumerate(layers) if layer.bias is not None}
    activations = [describe_object(layer.activation, ACTIVATIONS) for layer in layers]
    _distinct(zip(activations, (layer.activation for layer in layers)))
    description = {
        "sizes": list(net.sizes),
        "activations": activations,
        "loss": describe_object(get_loss(net.loss), LOSSES),
        "reduction": net.reduction,
        "bias": bool(net.biases),
        "dtype": net.dtype.name,
    }
    return description, arrays


def _build_chain(description: dict[str, Any], arrays: Arrays, custom: Custom, backend: Any) -> Net:
    sizes = inputs.as_sizes(field(description, "sizes", list))
    bias, dtype = field(description, "bias", bool), inputs.as_dtype(short_text(description, "dtype"))
    shapes: dict[str, tuple[int, ...]] = {f"weights.{i}": shape for i, shape in enumerate(zip(sizes[1:], sizes[:-1]))}
    if bias:
        shapes |= {f"biases.{i}": (n,) for i, n in enumerate(sizes[1:])}
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
    for i, tensor in enumerate(net.biases):
        tensor.data = net.backend.asarray(arrays[f"biases.{i}"], dtype, f"biases.{i}")
    return net


class Kind(NamedTuple):
    """How nets of one type are described, as JSON and arrays, and built again."""

    type: type
    describe: Callable[[Any], tuple[dict[str, Any], Arrays]]
    build: Callable[[dict[str, Any], Arrays, Custom, Any], Any]


KINDS = {"chain": Kind(Net, _describe_chain, _build_chain)}


def describe_object(thing: Any, known: Mapping[str, type]) -> dict[str, Any]:
    """An activation or a loss: the name and parameters of a built-in one, the name of a user's own."""
    name = getattr(thing, "name", "")
    overridden = (METHODS | {"weighted"}) & getattr(thing, "__dict__", {}).keys()
    if known.get(name) is type(thing) and not overridden:
        return {"name": name, "params": _parameters(thing)}
    own = name if isinstance(name, str) and name and name not in known else type(thing).__name__
    return {"custom": own, "params": _parameters(thing)}


def build_object(what: str, saved: Any, known: Mapping[str, type], get: Callable[[Any], Any], custom: Custom) -> Any:
    """What :func:`describe_object` described; ``get`` refuses what can't be one."""
    if not isinstance(saved, dict):
        raise ModelFileError(f"its {what} must be a JSON object with a name and params")
    parameters = field(saved, "params", dict)
    params = {key: number(parameters, key) for key in parameters}
    if "custom" not in saved:
        name = short_text(saved, "name")
        if name not in known:
            raise ModelFileError(unknown(what, name, known))
        return known[name](**params)
    name = short_text(saved, "custom")
    if name not in custom:
        raise ModelFileError(f"its {what} {name!r} is not built in: give it with load(..., custom={{{name!r}: ...}})")
    thing = get(custom[name])
    mine = {key: float(value) for key, value in _parameters(thing).items()}
    if str(mine) != str(params):  # as text, NaN is equal to itself
        raise ModelFileError(f"its {what} {name!r} was saved with {params or 'no parameters'}, custom has {mine}")
    return thing


def check_arrays(arrays: Arrays, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype) -> None:
    """That the file holds just these arrays, of these shapes, in this dtype."""
    if arrays.keys() != shapes.keys():
        odd = sorted(arrays.keys() ^ shapes.keys())[0][:LONGEST_NAME]
        raise ModelFileError(f"the array {odd!r} is {'missing' if odd in shapes else 'not part of the net'}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].dtype != dtype:
            having = f"{arrays[name].dtype} {arrays[name].shape}"
            raise ModelFileError(f"the array {name!r} must be {dtype} {shape}, got {having}")


def _parameters(thing: Any) -> dict[str, Any]:
    names = thing.text[3] if isinstance(thing, Elementwise) else ()
    if isinstance(thing, ElementwiseLoss):
        names = tuple(thing.params)
    values = {name: float(getattr(thing, name)) for name in names}
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


def _distinct(described: Iterator[tuple[dict[str, Any], Any]]) -> None:
    """Two activations under one name couldn't be told apart on loading."""
    seen: dict[str, Any] = {}
    for saved, thing in described:
        if "custom" in saved and not _same(seen.setdefault(saved["custom"], thing), thing):
            raise ValueError(
                f"two different activations are called {saved['custom']!r}: give them names of their own to save them"
            )


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Elementwise):
        return a.text == b.text and a.parameters == b.parameters
    mine, yours = getattr(a, "__dict__", {}), getattr(b, "__dict__", {})
    return a is b or (mine.keys() == yours.keys() and all(np.array_equal(mine[k], yours[k]) for k in mine))
