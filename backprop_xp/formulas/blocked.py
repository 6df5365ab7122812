"""Formulas on NumPy: ufuncs with ``out=``, over blocks that stay in the cache.

Every temporary is one block long and is reused as soon as its last reader has run, so a formula of a dozen
steps costs one pass over main memory, not a dozen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from .. import threads
from . import special
from .language import MASKS, Formula

#: Elements of a block: so many that threads seldom wait for the interpreter, few enough for the cache (half a megabyte
#: of float32 a register). No figures were kept.
BLOCK = 1 << 17

UFUNCS: dict[str, Callable[..., Any]] = {
    name: getattr(np, name)
    for name in (
        "add", "subtract", "multiply", "divide", "negative", *sorted(MASKS),
        "abs", "sign", "sqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "minimum", "maximum",
    )
} | {"erf": special.erf, "normal_cdf": special.normal_cdf, "normal_pdf": special.normal_pdf}  # fmt: skip

BITS: dict[Any, Any] = {np.dtype(np.float32): np.dtype(np.uint32), np.dtype(np.float64): np.dtype(np.uint64)}


class Tape:
    """Some outputs of a formula as a list of array operations on numbered registers."""

    def __init__(self, formula: Formula, outputs: tuple[str, ...]) -> None:
        self.formula, self.outputs = formula, outputs
        self.results = [formula.outputs[name] for name in outputs]
        nodes = formula.nodes
        needed = formula.reachable(self.results)
        # what depends on no array is a scalar, computed once per call
        self.is_array: dict[int, bool] = {}
        for i in needed:
            self.is_array[i] = nodes[i].op == "variable" or any(self.is_array[a] for a in nodes[i].args)
        self.inputs = [(i, nodes[i].name) for i in needed if nodes[i].op == "variable"]
        self.scalars = [i for i in needed if not self.is_array[i]]
        self.steps = [i for i in needed if self.is_array[i] and nodes[i].op != "variable"]
        self._assign_registers()

    def _assign_registers(self) -> None:
        """Give every step a register (floats and masks apart), freed after its last reader."""
        nodes = self.formula.nodes
        last_use = {arg: i for i in self.steps for arg in nodes[i].args}
        free: dict[bool, list[int]] = {False: [], True: []}
        self.register: dict[int, int] = {}
        self.masks: list[bool] = []  # for each register, whether it holds a mask
        for i in self.steps:
            mask = nodes[i].op in MASKS
            done = [a for a in set(nodes[i].args) if a in self.register and last_use[a] == i]
            if i not in self.results:
                # a ufunc may write over its own input; where() reads its branches after it starts to write
                if nodes[i].op != "where":
                    self._release(done, free)
                    done = []
                if free[mask]:
                    self.register[i] = free[mask].pop()
                else:
                    self.register[i] = len(self.masks)
                    self.masks.append(mask)
            self._release(done, free)

    def _release(self, nodes: list[int], free: dict[bool, list[int]]) -> None:
        for a in nodes:
            free[self.masks[self.register[a]]].append(self.register[a])

    def run(self, arrays: Mapping[str, np.ndarray], parameters: Sequence[float], outs: Sequence[np.ndarray]) -> None:
        """Compute the outputs into ``outs``, block by block along the first axis.

        ``arrays`` and ``outs`` share their first axis and broadcast along the others; an out may be one of
        the arrays, which is then overwritten. All are of one floating dtype.
        """
        length = outs[0].shape[0]
        if length == 0:
            return
        workers = min(threads.count(), outs[0].size // BLOCK) or 1
        edges = [length * i // workers for i in range(workers + 1)]
        spans = [slice(start, stop) for start, stop in pairwise(edges)]

        stop = threads.Stop()

        def work() -> None:
            while spans and not stop.raised:
                with contextlib.suppress(IndexError):  # another thread took the last one
                    span = spans.pop()
                    self._run({name: a[span] for name, a in arrays.items()}, parameters, [out[span] for out in outs])

        threads.run(work, workers, stop)

    def _run(self, arrays: Mapping[str, np.ndarray], parameters: Sequence[float], outs: Sequence[np.ndarray]) -> None:
        dtype, length = outs[0].dtype, outs[0].shape[0]
        rows = min(length, max(1, BLOCK // max(1, outs[0][0].size)))
        shape = (rows, *outs[0].shape[1:])
        # a mask is kept as all ones or all zeros in the width of the dtype: see _select
        registers = [np.empty(shape, BITS[dtype] if mask else dtype) for mask in self.masks]
        comparison = np.empty(shape, bool)
        # an out that overwrites an input must wait until the block is read
        overwrites = (any(np.may_share_memory(out, array) for array in arrays.values()) for out in outs)
        waiting = [np.empty(shape, dtype) if each else None for each in overwrites]
        with np.errstate(all="ignore"):
            scalars = self._scalars(dtype, parameters)
            for start in range(0, length, rows):
                threads.check()
                block = slice(start, min(start + rows, length))
                count = block.stop - start
                values: dict[int, Any] = scalars | {i: arrays[name][block] for i, name in self.inputs}
                destinations = [out[block] for out in outs]
                targets = {i: registers[r][:count] for i, r in self.register.items()}
                for result, destination, wait in zip(self.results, destinations, waiting):
                    targets[result] = destination if wait is None else wait[:count]
                self._block(values, targets, comparison[:count])
                for result, destination in zip(self.results, destinations):
                    if values[result] is not destination:
                        np.copyto(destination, values[result])

    def _block(self, values: dict[int, Any], targets: dict[int, np.ndarray], comparison: np.ndarray) -> None:
        for i in self.steps:
            op, args = self.formula.nodes[i].op, [values[a] for a in self.formula.nodes[i].args]
            out = values[i] = targets[i]
            if op == "where":
                _select(args[0], args[1], args[2], out)
            elif op in MASKS:
                UFUNCS[op](*args, out=comparison)
                np.copyto(out, comparison)
                np.negative(out, out=out)
            else:
                UFUNCS[op](*args, out=out)

    def _scalars(self, dtype: np.dtype, parameters: Sequence[float]) -> dict[int, Any]:
        values: dict[int, Any] = {}
        for i in self.scalars:
            node = self.formula.nodes[i]
            if node.op == "constant":
                values[i] = dtype.type(node.number)
            elif node.op == "parameter":
                values[i] = dtype.type(parameters[self.formula.parameters.index(node.name)])
            elif node.op == "where":
                condition, a, b = (values[arg] for arg in node.args)
                values[i] = a if condition else b
            elif node.op in MASKS:
                holds = UFUNCS[node.op](*(values[a] for a in node.args))
                values[i] = np.array(-int(holds)).astype(BITS[dtype])  # all ones or all zeros, as _select takes masks
            else:
                values[i] = UFUNCS[node.op](*(values[a] for a in node.args))
        return values


def _select(mask: np.ndarray, a: Any, b: Any, out: np.ndarray) -> None:
    """out = a where mask, else b; bit by bit, since NumPy's own where and masked copy run an element at a time."""
    bits: Any = BITS[out.dtype]
    out = out.view(bits)
    np.bitwise_xor(a.view(bits), b.view(bits), out=out)
    np.bitwise_and(out, mask, out=out)
    np.bitwise_xor(out, b.view(bits), out=out)


@lru_cache(maxsize=512)
def tape(formula: Formula, outputs: tuple[str, ...]) -> Tape:
    """The tape for these outputs, compiled once."""
    return Tape(formula, outputs)
