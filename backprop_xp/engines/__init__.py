"""How a whole batch is run, and the choice among the ways.

An engine is a module of this package with

    refuses(call)             why it can't or shouldn't run this call, "" if it can
    loss_and_grad(call)       -> Gradients
    forward(call)             -> (outputs, kept signals or None)
    intermediate_bytes(call)  how much memory it takes beside input, parameters and gradients
    yields(call)              if it has one: why "auto" leaves a call that it can run to the next engine, "" if not

"auto" takes the first of a backend's engines that doesn't refuse the call; each says in ``refuses`` where the next one
is cheaper. On the GPU: fused, one sample a thread, while a sample's signals fit into a thread's registers; beyond,
cooperative, a tile of samples a block, or layered, matrix products, by the rule in cost.py.

Chains come as a :class:`Call`. Graphs come as a :class:`backprop_xp.graph.call.GraphCall`, and their engines stand in
modules whose names begin with ``graph_``.
"""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..backend import owner_of
from ..messages import unknown
from ..toolchain import compiler
from ..toolchain.compiler import CompileError
from .call import Array, Call

__all__ = ["ENGINES", "Call", "Plan", "forward", "loss_and_grad", "plan"]

#: Every engine by name.
ENGINES = ("fused", "cooperative", "tiled", "layered")
#: Those for NumPy and for CuPy, the one that "auto" would rather have first.
ON_CPU, ON_GPU = ("fused", "tiled", "layered"), ("fused", "cooperative", "layered")
#: The modules of engines whose module isn't called like them on the GPU.
GPU_MODULES = {"fused": "fused_gpu"}
#: The same for graphs, on either backend, in modules graph_fused, graph_tiled, graph_layered.
OF_GRAPHS = ("fused", "tiled", "layered")

_failures: dict[Any, str] = {}  # why what was compiled in vain in this process can't be: it isn't tried again


def loss_and_grad(name: str, call: Any) -> Any:
    """The loss and all gradients of a call, by the engine of this name or the one "auto" chooses."""
    return _run(name, call, "loss_and_grad")


def forward(name: str, call: Any) -> tuple[Array, Any]:
    """The outputs of a call, and its signals where it keeps them."""
    return _run(name, call, "forward")


@dataclass(frozen=True)
class Plan:
    """Which engine runs a call, and why.

    Attributes:
        engine: its name.
        reason: a sentence.
        flops: multiplications and additions of the matrix products, for the loss and all gradients.
        bytes: of the intermediate arrays, beside input, parameters and gradients.
    """

    engine: str
    reason: str
    flops: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.engine}: {self.reason}; {self.flops:,} flop, about {self.bytes:,} bytes of intermediate arrays"


def plan(name: str, call: Any) -> Plan:
    """Which engine would run a call, in words and numbers."""
    engine, reason = _choose(name, call)
    if failure := _failure(engine, call, "loss_and_grad"):
        engine, reason = _without(call), f"not {engine}: {failure}"
    if call.backend.on_gpu and not call.is_graph and owner_of(call.x) == "numpy":
        reason += "; the batch stays on the host and is computed in pieces"
    bytes_ = module(engine, call).intermediate_bytes(call)
    return Plan(engine, reason, 2 * call.samples * call.multiply_adds, bytes_)


def _run(name: str, call: Any, what: str) -> Any:
    engine, reason = _choose(name, call)
    if not call.backend.on_gpu and engine != "fused" and (lacking := compiler.missing()) and lacking in reason:
        _warn(lacking)
    failure = _failure(engine, call, what)
    if not failure:
        try:
            return _run_with(module(engine, call), call, what)
        except CompileError as error:
            failure = _failures[_key(engine, call, what)] = str(error)
    _warn(failure)
    return _run_with(module(_without(call), call), call, what)


def _without(call: Any) -> str:
    """The engine that runs where nothing can be compiled."""
    return "layered" if module("tiled", call).refuses(call) else "tiled"


def _failure(engine: str, call: Any, what: str) -> str:
    """Why this engine couldn't compile such a call before, "" if it could or wasn't asked."""
    return _failures.get(_key(engine, call, what), "") if _failures else ""


def _key(engine: str, call: Any, what: str) -> Any:
    """Calls of one key are compiled, or not, alike."""
    if call.is_graph:
        net: Any = tuple((type(n.operation), n.width, n.inputs, _text(n.operation)) for n in call.nodes)
    else:
        net = (call.sizes, tuple(_text(layer) for layer in call.layers))
    return engine, what, call.backend.on_gpu, call.dtype, type(call.loss) if what == "loss_and_grad" else None, net


def _text(holder: Any) -> Any:
    activation = getattr(holder, "activation", None)
    return getattr(activation, "text", type(activation))


def _run_with(engine: Any, call: Any, what: str) -> Any:
    if call.backend.on_gpu and not call.is_graph:
        return _imported("streamed").run(engine, call, what)
    return getattr(engine, what)(call)


def _choose(name: str, call: Any) -> tuple[str, str]:
    if call.keep_signals or call.single or not call.samples:
        what = "its signals are kept" if call.keep_signals else "it is one sample" if call.samples else "it is empty"
        return "layered", what
    known = ("auto", *(OF_GRAPHS if call.is_graph else ENGINES))
    if name not in known:
        raise ValueError(unknown("engine of graphs" if call.is_graph else "engine", str(name), known))
    reasons: list[str] = []
    preferred = OF_GRAPHS if call.is_graph else ON_GPU if call.backend.on_gpu else ON_CPU
    for engine in preferred if name == "auto" else (name,):
        found = module(engine, call)
        refusal = found.refuses(call)
        if name == "auto" and not refusal and hasattr(found, "yields"):
            refusal = found.yields(call)
        if not refusal:
            return engine, "; ".join(reasons) or ("it is the fastest" if name == "auto" else "it was asked for")
        reasons.append(f"not {engine}: {refusal}")
    raise ValueError(f"the {name} engine can't run this call: {refusal}")


@cache
def _warn(reason: str) -> None:
    warnings.warn(f"running without compiled kernels, which is slower: {reason}", UserWarning, stacklevel=5)


def module(name: str, call: Any) -> Any:
    """The module of an engine for this call."""
    if call.is_graph:
        return _imported(f"graph_{name}")
    return _imported(GPU_MODULES.get(name, name) if call.backend.on_gpu else name)


@cache
def _imported(name: str) -> Any:
    return importlib.import_module(f".{name}", __package__)
