"""A formula that overwrites its own variables: the arithmetic of an optimiser's step, in one pass over memory."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import later, threads
from ..backend import module_of, owner_of
from ..formulas import Formula, blocked
from ..programs import elementwise, structs
from ..toolchain import cache, compiler
from ..toolchain.compiler import CompileError

if TYPE_CHECKING:
    from ..formulas import device
else:
    device = later.Module("backprop_xp.formulas.device")

#: Elements from which the interpreter is let go and threads share the work, each a multiple of SPAN.
LARGE, SPAN = 1 << 16, 1 << 12


class Update:
    """The formula over arrays that stay where they are; each output is named after the variable it overwrites.

    Compiled at the first call, and one kernel launch on CuPy; by NumPy where there is no compiler.

    Args:
        formula: its outputs carry names of its variables.
        arrays: one for every variable, contiguous, all of one length and dtype, no two overlapping.
        what: for the message that announces a compilation.
    """

    def __init__(self, formula: Formula, arrays: Mapping[str, Any], what: str) -> None:
        self.formula, self.arrays, self.what = formula, dict(arrays), what
        self.outputs = tuple(formula.outputs)
        first = self.arrays[formula.variables[0]]
        self.size, self.dtype = first.size, first.dtype
        self.on_gpu = owner_of(first) == "cupy"
        self._scalars = np.zeros(max(1, len(formula.parameters)), self.dtype)

    def __call__(self, parameters: Sequence[float], unless: Any = None) -> None:
        """Compute it once with these scalars; on CuPy, unless this 0-d array of int64 isn't 0 by then."""
        if not self.size:
            return
        if self.on_gpu:
            device.update(module_of(self.arrays["w"]), self.formula, self.arrays, parameters, unless)
        elif self._functions is None:
            outs = [self.arrays[name] for name in self.outputs]
            blocked.tape(self.formula, self.outputs).run(self.arrays, parameters, outs)
        else:
            self._scalars[: len(parameters)] = parameters
            if self.size < LARGE:
                self._functions[0](*self._arguments)
            else:
                self._run_on_threads(self._functions[1])

    def sweep(self, held: list[Any]) -> structs.Sweep:
        """What other compiled code is handed to compute it; its scalars are left to the caller.

        Args:
            held: collects what must live until that code returns.

        Raises:
            CompileError: it can't be compiled.
        """
        function = self._functions
        if function is None:
            raise CompileError(f"{self.what} can't be compiled")
        inputs, outputs = (self._pointers(names, 0) for names in (self.formula.variables, self.outputs))
        held += [self.arrays, inputs, outputs]
        return structs.Sweep(
            run=ctypes.cast(function[1], structs.POINTER).value,
            size=self.size,
            inputs=len(inputs),
            outputs=len(outputs),
            reads=ctypes.addressof(inputs),
            writes=ctypes.addressof(outputs),
        )

    @cached_property
    def _functions(self) -> tuple[Any, Any] | None:
        """The compiled loop, see :func:`_loop`; None if it can't be compiled."""
        try:
            return _loop(self.formula, self.outputs, self.dtype.name, self.what, compiler.find())
        except CompileError:
            return None  # the engines say so once

    @cached_property
    def _arguments(self) -> tuple[Any, ...]:
        pointers = [self._pointers(names, 0) for names in (self.formula.variables, self.outputs)]
        return (self.size, *pointers, self._scalars.ctypes.data)

    def _pointers(self, names: Sequence[str], start: int) -> Any:
        offset = start * self.dtype.itemsize
        return (ctypes.c_void_p * len(names))(*(self.arrays[name].ctypes.data + offset for name in names))

    def _run_on_threads(self, function: Any) -> None:
        workers = min(threads.count(), self.size // SPAN)
        length = -(-self.size // (workers * SPAN)) * SPAN  # whole registers, so that no result depends on the threads
        starts = list(range(0, self.size, length))

        stop = threads.Stop()

        def work() -> None:
            while starts and not stop.raised:
                try:
                    start = starts.pop()
                except IndexError:  # another thread took the last one
                    return
                inputs, outputs = (self._pointers(names, start) for names in (self.formula.variables, self.outputs))
                function(min(length, self.size - start), inputs, outputs, self._scalars.ctypes.data)

        threads.run(work, workers, stop)


@lru_cache(maxsize=64)
def _loop(formula: Formula, outputs: tuple[str, ...], dtype: str, what: str, cxx: compiler.Compiler) -> tuple[Any, Any]:
    """It called with the interpreter held, which takes a microsecond less, and without. Raises CompileError."""
    library = cache.library(elementwise.source(formula, outputs, dtype), what)
    held = ctypes.PyDLL(None, handle=library._handle)
    for function in (held.formula, library.formula):
        function.argtypes = (ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        function.restype = None
    return held.formula, library.formula
