"""The file: arrays as safetensors, and one JSON object in its metadata that says what they are.

Nothing here knows about nets. A file from anywhere may be read: it is data, and whatever is wrong with it
becomes one :class:`ModelFileError`.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing

KEY = "backprop_xp"  # of the metadata
DTYPES = {"F32": "float32", "F64": "float64"}
LONGEST_DESCRIPTION = 1 << 24  # characters
LONGEST_NAME = LONGEST_SHOWN = 200


class ModelFileError(ValueError):
    """A file that can't be read as a net; the message says which file, and what is wrong with it."""


def write(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], description: Mapping[str, Any]) -> None:
    """Write the file with :func:`~backprop_xp.files.replacing`."""
    need_safetensors()
    from safetensors.numpy import save

    text = json.dumps(description, allow_nan=False)
    if len(text) > LONGEST_DESCRIPTION:
        raise ValueError(f"a description may have {LONGEST_DESCRIPTION} characters, this one has {len(text)}")
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = save(contiguous, {KEY: text})
    with replacing(path) as file:
        file.write(content)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays, float32 or float64.

    Raises:
        ModelFileError: anything else than a whole file that :func:`write` could have written.
        OSError: no such file, or it can't be read.
    """
    need_safetensors()
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):
        raise ModelFileError(f"{path} is no regular file")
    try:
        with safe_open(str(path), framework="numpy") as file:
            description = _description(path, file.metadata() or {})
            arrays = {}
            for name in file.keys():  # noqa: SIM118  it is no mapping
                if (dtype := file.get_slice(name).get_dtype()) not in DTYPES:
                    raise ModelFileError(f"{path}: {_short(name)} holds {dtype}; expected F32 or F64")
                arrays[name] = np.array(file.get_tensor(name))
    except ModelFileError:
        raise
    except (SafetensorError, ValueError, TypeError, OverflowError) as error:
        raise ModelFileError(f"{path} is no whole safetensors file: {_short(str(error))}") from None
    except MemoryError:
        raise ModelFileError(f"{path} is larger than the memory there is") from None
    return description, arrays


def need_safetensors() -> None:
    """Say what to install where it is missing. Raises ImportError."""
    try:
        import safetensors  # noqa: F401
    except ImportError:
        raise ImportError("keeping nets in files needs safetensors: pip install 'backprop-xp[exchange]'") from None


def field(saved: Mapping[str, Any], key: str, kind: type) -> Any:
    """A part of a description, which must be of just this type."""
    value = saved.get(key)
    if type(value) is not kind:
        raise ModelFileError(f"{key!r} of its description must be of type {kind.__name__}, got {type(value).__name__}")
    return value


def as_object(saved: Any, what: str) -> dict[str, Any]:
    """A part that is one of several JSON objects; ``what`` are all of them."""
    if not isinstance(saved, dict):
        raise ModelFileError(f"{what} must be JSON objects")
    return saved


def short_text(saved: Mapping[str, Any], key: str) -> str:
    """A part that is a short text."""
    text = field(saved, key, str)
    if len(text) > LONGEST_NAME:
        raise ModelFileError(f"{key!r} of its description may have {LONGEST_NAME} characters, got {len(text)}")
    return text


def number(saved: Mapping[str, Any], key: str) -> float:
    """A part that is a number; JSON has no infinities and no NaN, so these are texts."""
    value = saved.get(key)
    if type(value) in (int, float) or value in ("inf", "-inf", "nan"):
        return float(value)  # type: ignore[arg-type]
    raise ModelFileError(f"{_short(key)!r} of its description must be a number, got {type(value).__name__}")


def _description(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if KEY not in metadata:
        raise ModelFileError(f"{path} is a safetensors file without a net's description, not one that save() wrote")
    text = metadata[KEY]
    if len(text) > LONGEST_DESCRIPTION:
        raise ModelFileError(f"{path}: its description has {len(text)} characters; {LONGEST_DESCRIPTION} are allowed")
    try:
        description = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: its description is no JSON: {_short(str(error))}") from None
    if not isinstance(description, dict):
        raise ModelFileError(f"{path}: its description is no JSON object")
    return description


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."
