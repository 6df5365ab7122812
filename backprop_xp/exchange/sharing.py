"""Tensors that stand in several places of a net, in files: the array is there once, under the name of the first place.

The description's "shared" says of every other place which one that is; where there is no such place, it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..backend import NUMPY, Array
from ..tensor import Tensor
from .container import ModelFileError, field
from .objects import Arrays

KEY = "shared"


def same_tensors(places: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """This part of a description, {} for a net in which each place has its own tensor."""
    first: dict[Tensor, str] = {}
    shared = {name: first[tensor] for name, tensor in places.items() if first.setdefault(tensor, name) != name}
    return {KEY: shared} if shared else {}


def host_arrays(arrays: Mapping[str, Array], description: Mapping[str, Any]) -> Arrays:
    """The arrays that the file holds, on the host."""
    shared = description.get(KEY, {})
    return {name: NUMPY.take(array) for name, array in arrays.items() if name not in shared}


def shared_names(description: Mapping[str, Any]) -> dict[str, str]:
    """Every place that has the tensor of another, and which."""
    return field(description, KEY, dict) if KEY in description else {}


def expanded(description: Mapping[str, Any], arrays: Arrays) -> Arrays:
    """The arrays of all places. Whether they are the net's places, and of their shapes, is for the net to say.

    Raises:
        ModelFileError: a place that shares an array has one of its own, or the other has none.
    """
    shared = shared_names(description)
    for name, other in shared.items():
        if type(other) is not str or other not in arrays or name in arrays:
            raise ModelFileError(f"{KEY!r} of its description must map places without an array to places with one")
    return arrays | {name: arrays[other] for name, other in shared.items()}
