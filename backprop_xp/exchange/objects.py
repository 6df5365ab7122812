"""Parts of a net in a description: built-in ones by name and parameters, a user's own by name alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..activations import METHODS, Elementwise
from ..losses import ElementwiseLoss, SoftmaxCrossEntropy
from ..messages import unknown
from .container import LONGEST_NAME, ModelFileError, field, number, short_text

Custom = Mapping[str, Any]
Arrays = dict[str, np.ndarray]


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
    params = {key: _number_or_vector(parameters, key) for key in parameters}
    if "custom" not in saved:
        name = short_text(saved, "name")
        if name not in known:
            raise ModelFileError(unknown(what, name, known))
        return known[name](**params)
    name = short_text(saved, "custom")
    thing = get(supplied(what, name, custom))
    saved_mine = _parameters(thing)
    mine = {key: _number_or_vector(saved_mine, key) for key in saved_mine}
    if str(mine) != str(params):  # as text, NaN is equal to itself
        raise ModelFileError(f"its {what} {name!r} was saved with {params or 'no parameters'}, custom has {mine}")
    return thing


def supplied(what: str, name: str, custom: Custom) -> Any:
    """A user's own."""
    if name not in custom:
        raise ModelFileError(f"its {what} {name!r} is not built in: give it with load(..., custom={{{name!r}: ...}})")
    return custom[name]


def check_arrays(arrays: Arrays, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype) -> None:
    """That the file holds just these arrays, of these shapes, in this dtype."""
    if arrays.keys() != shapes.keys():
        odd = sorted(arrays.keys() ^ shapes.keys())[0][:LONGEST_NAME]
        raise ModelFileError(f"the array {odd!r} is {'missing' if odd in shapes else 'not part of the net'}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].dtype != dtype:
            having = f"{arrays[name].dtype} {arrays[name].shape}"
            raise ModelFileError(f"the array {name!r} must be {dtype} {shape}, got {having}")


def distinct(what: str, described: Iterable[tuple[dict[str, Any], Any]]) -> None:
    """Two different things under one name couldn't be told apart on loading."""
    seen: dict[str, Any] = {}
    for saved, thing in described:
        if "custom" in saved and not _same(seen.setdefault(saved["custom"], thing), thing):
            raise ValueError(
                f"two different {what} are called {saved['custom']!r}: give them names of their own to save them"
            )


def _parameters(thing: Any) -> dict[str, Any]:
    """For JSON: numbers, or lists of them where a loss has vectors."""
    values: Mapping[str, Any] = {}
    if isinstance(thing, Elementwise):
        values = dict(zip(thing.text[3], thing.parameters))
    elif isinstance(thing, (ElementwiseLoss, SoftmaxCrossEntropy)):
        values = thing.settings
    return {
        name: [_for_json(number) for number in value] if isinstance(value, tuple) else _for_json(value)
        for name, value in values.items()
    }


def _for_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _number_or_vector(parameters: Mapping[str, Any], key: str) -> float | tuple[float, ...]:
    value = parameters[key]
    if type(value) is not list:
        return number(parameters, key)
    return tuple(number({key: element}, key) for element in value)


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Elementwise):
        return a.text == b.text and a.parameters == b.parameters
    mine, yours = getattr(a, "__dict__", {}), getattr(b, "__dict__", {})
    return a is b or (mine.keys() == yours.keys() and all(np.array_equal(mine[k], yours[k]) for k in mine))
