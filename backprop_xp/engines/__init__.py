"""How a whole batch is run, and the choice among the ways.

An engine is a module of this folder with the functions of :class:`backprop_xp.plan.engine.Engine`. "auto" takes
the first of a backend's engines that can run the call and doesn't yield it to the next one. On the GPU: fused, one
sample a thread, while a sample's signals fit into a thread's registers; beyond, cooperative, a tile of samples a block,
or layered, matrix products, by the rule in plan/cost.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from .. import later
from ..backend import Array, owner_of
from ..literals import EngineName
from ..plan.call import Call, Result, Values
from ..plan.engine import Engine, Rounding, Yielding
from ..toolchain import compiler
from ..toolchain.compiler import CompileError
from . import fused, layered, tiled

if TYPE_CHECKING:
    from ..passes import streamed
    from . import on_gpu
else:
    streamed = later.Module("backprop_xp.passes.streamed")
    on_gpu = later.Module("backprop_xp.engines.on_gpu")

__all__ = [
    "ENGINES",
    "ON_CPU",
    "Choice",
    "choice",
    "chosen",
    "forward",
    "in_parts",
    "loss_and_grad",
    "warn_uncompiled",
]

#: The engines for NumPy, the one that "auto" would rather have first; those for CuPy stand in on_gpu.py.
ON_CPU: dict[str, Engine] = {"fused": fused, "tiled": tiled, "layered": layered}
#: The names of all.
ENGINES: tuple[EngineName, ...] = ("fused", "cooperative", "tiled", "layered")

_failures: dict[Any, str] = {}  # why what was compiled in vain in this process can't be: it isn't tried again


def loss_and_grad(name: str, call: Call) -> Result:
    """The loss and all gradients of a call, by the engine of this name or the one "auto" chooses."""
    return _run(name, call, "loss_and_grad")


def in_parts(name: str, call: Call, parts: Sequence[slice], samples: int) -> Iterator[Result]:
    """The loss and all gradients of parts of a call's rows, each for itself; see :func:`fused.in_parts`."""
    if parts and _choose(name, call)[0] == "fused" and not call.backend.on_gpu:
        with suppress(CompileError):
            found = fused.in_parts(call, parts, samples)
            if found is not None:
                return found
    return (loss_and_grad(name, call.rows(rows)) for rows in parts)


def forward(name: str, call: Call) -> tuple[Array, Values | None]:
    """The outputs of a call, and its values where it keeps them."""
    return _run(name, call, "forward")


def chosen(name: str, call: Call) -> str:
    """The engine that would compute the outputs of a call, "layered" or "tiled" where nothing can be compiled."""
    engine, _ = _choose(name, call)
    return _without(call) if _failure(engine, call, "forward") else engine


@dataclass(frozen=True)
class Choice:
    """Which engine runs a call, and why.

    Attributes:
        engine: its name.
        reason: a sentence.
        flops: multiplications and additions of the matrix products, for the loss and all gradients.
        bytes: of the intermediate arrays, beside input, parameters and gradients.
        precision: of the products, see :mod:`backprop_xp.precision`.
    """

    engine: str
    reason: str
    flops: int
    bytes: int
    precision: str = "float32"

    def __str__(self) -> str:
        return f"{self.engine}: {self.reason}; {self.flops:,} flop, about {self.bytes:,} bytes of intermediate arrays"


def choice(name: str, call: Call) -> Choice:
    """Which engine would run a call, in words and numbers."""
    engine, reason = _choose(name, call)
    if failure := _failure(engine, call, "loss_and_grad"):
        engine, reason = _without(call), f"not {engine}: {failure}"
    if call.backend.on_gpu and any(owner_of(x) == "numpy" for x in call.inputs.values()):
        reason += "; the batch stays on the host and is computed in pieces"
    found = _engine(engine, call)
    used, why = found.products(call) if isinstance(found, Rounding) else ("float32", "this engine rounds nothing")
    if used != "float32":
        reason += f"; products in {used}"
    elif call.precision not in ("auto", "float32"):
        reason += f"; products in float32, not {call.precision}: {why}"
    return Choice(engine, reason, 2 * call.samples * call.multiply_adds, found.intermediate_bytes(call), used)


def _run(name: str, call: Call, what: str) -> Any:
    engine, reason = _choose(name, call)
    if not call.backend.on_gpu and engine != "fused" and (lacking := compiler.missing()) and lacking in reason:
        warn_uncompiled(lacking)
    failure = _failure(engine, call, what)
    if not failure:
        try:
            return _run_with(_engine(engine, call), call, what)
        except CompileError as error:
            failure = _failures[_key(engine, call, what)] = str(error)
    warn_uncompiled(failure)
    return _run_with(_engine(_without(call), call), call, what)


def _without(call: Call) -> str:
    """The engine that runs where nothing can be compiled."""
    return "layered" if tiled.why_not(call) or tiled.yields(call) else "tiled"


def _failure(engine: str, call: Call, what: str) -> str:
    """Why this engine couldn't compile such a call before, "" if it could or wasn't asked."""
    return _failures.get(_key(engine, call, what), "") if _failures else ""


def _key(engine: str, call: Call, what: str) -> Any:
    """Calls of one key are compiled, or not, alike."""
    net = tuple((type(n.operation), n.width, n.inputs, _text(n.operation)) for n in call.plan.nodes)
    loss = type(call.loss) if what == "loss_and_grad" else None
    return engine, what, call.backend.on_gpu, call.dtype, call.precision, loss, net


def _text(operation: Any) -> Any:
    activation = getattr(operation, "activation", None)
    return getattr(activation, "text", type(activation))


def _run_with(engine: Engine, call: Call, what: str) -> Any:
    if call.backend.on_gpu:
        return streamed.run(engine, call, what)
    return engine.forward(call) if what == "forward" else engine.loss_and_grad(call)


def _choose(name: str, call: Call) -> tuple[str, str]:
    if call.keep_signals or call.single or not call.samples:
        what = "its signals are kept" if call.keep_signals else "it is one sample" if call.samples else "it is empty"
        return "layered", what
    reasons: list[str] = []
    for engine in _on(call) if name == "auto" else (name,):
        found = _engine(engine, call)
        reason = found.why_not(call)
        if name == "auto" and not reason and isinstance(found, Yielding):
            reason = found.yields(call)
        if not reason:
            return engine, "; ".join(reasons) or ("it is the fastest" if name == "auto" else "it was asked for")
        reasons.append(f"not {engine}: {reason}")
    raise ValueError(f"the {name} engine can't run this call: {reason}")


@cache
def warn_uncompiled(reason: str) -> None:
    """Say once that, and why, what could be compiled runs without."""
    warnings.warn(f"running without compiled kernels, which is slower: {reason}", UserWarning, stacklevel=5)


def _on(call: Call) -> dict[str, Engine]:
    return on_gpu.ON_GPU if call.backend.on_gpu else ON_CPU


def _engine(name: str, call: Call) -> Engine:
    """The engine of this name: the one for the call's backend, or another's, which says that it is."""
    found = _on(call)
    return found[name] if name in found else (ON_CPU | on_gpu.ON_GPU)[name]
