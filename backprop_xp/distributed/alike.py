"""What must be the same on all ranks, as texts that can be compared: code, data, nets."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import on_host
from ..frames import is_sparse
from ..tensor import tensors_of
from ..toolchain import compiler
from ..toolchain.compiler import CompileError

ROOT = Path(__file__).parents[1]
#: Bytes of an array that are looked at whole; of a larger one this number of rows, evenly spread.
WHOLE, ROWS = 1 << 26, 1024


def versions() -> dict[str, str]:
    """What the bits of a run depend on beside its data: code, libraries, compiler and processor."""
    code = hashlib.blake2b(digest_size=8)
    for path in sorted(ROOT.rglob("*.py")):
        code.update(path.read_bytes())
    try:
        cxx = compiler.find().version
    except CompileError:
        cxx = "none"
    return {
        "the code of backprop_xp": code.hexdigest(),
        "the version of Python": platform.python_version(),
        "the version of NumPy": np.__version__,
        "the compiler": cxx,
        "the processor's features": _short(" ".join(compiler.cpu_features()).encode()),
    }


def described(named: dict[str, Any]) -> dict[str, str]:
    """Shape, dtype and content of arrays, or of arrays by name; None where there is none."""
    return {name: array for what, data in named.items() for name, array in _each(what, data)}


def of_net(net: Any) -> dict[str, str]:
    """A net's parameters and buffers, and what it will draw."""
    facts = {"the net": repr(net)} if type(net).__repr__ is not object.__repr__ else {}
    for name in ("reduction", "engine", "seed", "draws"):
        if hasattr(net, name):
            facts[f"the net's {name}"] = str(getattr(net, name))
    return facts | {f"the net's {tensor.name or i}": _array(tensor.data) for i, tensor in enumerate(tensors_of(net))}


def _each(what: str, data: Any) -> Iterator[tuple[str, str]]:
    if isinstance(data, dict):
        for name, array in data.items():
            yield from _each(f"{what}[{name!r}]", array)
    else:
        yield what, "nothing" if data is None else _array(data)


def _array(array: Any) -> str:
    what = f"{array.dtype} {array.shape}"
    if is_sparse(array):
        parts = (array.data, array.indices, array.indptr)
        return f"{what} {_short(b''.join(np.ascontiguousarray(part).tobytes() for part in parts))}"
    if array.nbytes > WHOLE and len(array) > ROWS:
        array = array[np.linspace(0, len(array) - 1, ROWS).astype(np.int64)]
    host = np.ascontiguousarray(on_host(array))
    return f"{what} {_short(host.reshape(-1).view(np.uint8).data)}"


def _short(data: Any) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
