"""A whole graph as one compiled pass over a single sample, which keeps every value and every gradient."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ..plan.plan import Node
from ..toolchain import cache as kernel_cache
from . import structs
from .graph_source import Shape, Writer
from .packing import RowPacking
from .structs import POINTER, SampleArgs


class SampleWriter(Writer):
    """Writes the pass: no buffer is used again, and every node has a value and, but for inputs, a gradient."""

    packing: RowPacking
    _packing = RowPacking

    def unit(self) -> tuple[str, list[int]]:
        """The translation unit, and where every buffer begins; the last number is where all end."""
        self._write()
        places = [0, *accumulate(self.tape.sizes)]
        return self._unit("sample.h", dict(enumerate(places[:-1])), 1, "", "BPX_GRAPH_SAMPLE(Graph)"), places

    def _forward(self, node: Node, lists: set[str]) -> None:
        self.pieces[node.name] = (node.name,)
        to = self.values[node.name] = self.tape.buffer(node.width)
        if self._passes_on(node):
            self.copy(node.width, self.values[node.inputs[0]], to)
        elif not node.form.is_input:  # those the caller puts there
            node.form.write(self, node, node.inputs, to)

    def _backward(self, node: Node) -> None:
        grad = self.gradients[node.name]
        if not self._passes_on(node):
            node.form.write_below(self, node, node.inputs, grad)
        elif node.inputs[0] in self.gradients:
            self.pass_on(node.inputs[0], grad)
        elif node.inputs[0] in self.wanted:
            self.copy(node.width, grad, self.target(node.inputs[0])[0])

    def _passes_on(self, node: Node) -> bool:
        return node.form.passes_on(len(node.inputs), self.shape.dropping)

    def _loss(self, out: str) -> None:
        grad = self.tape.buffer(self.width(out))
        self.copy(self.width(out), self.values[out], grad)
        self._loss_in(grad, out)

    def _result(self, out: str) -> None:
        """Nothing: the outputs are kept as all values are."""

    def _lists(self) -> set[str]:
        return set()

    def _wanted(self) -> set[str]:
        return {node.name for node in self.nodes if not node.form.is_input}


@dataclass(frozen=True)
class SampleProgram:
    """A compiled graph for one sample.

    Attributes:
        run: ``bpx_graph_sample`` of kernels/sample.h, called without letting go of the interpreter: it takes a
            microsecond or so.
        memory: numbers that the tile takes.
        values, gradients: where these begin in it, for every node; None where there is no gradient.
        packing: where parameters and their gradients lie.
    """

    run: Any
    memory: int
    values: tuple[int, ...]
    gradients: tuple[int | None, ...]
    packing: RowPacking


_programs: dict[Shape, SampleProgram] = {}


def program(shape: Shape, nodes: Sequence[Node], what: str) -> SampleProgram:
    """The compiled pass; ``what`` it is of, for the message that announces a compilation. Raises CompileError."""
    if shape not in _programs:
        writer = SampleWriter(shape, nodes)
        text, places = writer.unit()
        kind = f" ({shape.loss})" if isinstance(shape.loss, str) else ""
        library = kernel_cache.library(
            text, f"{what} for {'one sample' if shape.loss else 'outputs of one sample'}{kind}"
        )
        structs.check(library, SampleArgs)
        run = ctypes.PyDLL(None, handle=library._handle).bpx_graph_sample
        run.argtypes, run.restype = (POINTER,), None
        values = tuple(places[writer.values[node.name]] for node in nodes)
        buffers = [writer.gradients.get(node.name) for node in nodes]
        gradients = tuple(None if buffer is None else places[buffer] for buffer in buffers)
        _programs[shape] = SampleProgram(run, places[-1], values, gradients, writer.packing)
    return _programs[shape]
