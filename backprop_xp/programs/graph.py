"""A whole graph as one compiled pass, and the functions it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..plan.plan import Node
from ..toolchain import cache as kernel_cache
from . import structs
from .graph_source import Shape, Writer
from .packing import Packing
from .structs import DOUBLE, INT, POINTER, ChunkArgs, GraphArgs

#: Nodes of a graph that is compiled, at most. One compilation takes 0.007 s a node, measured on one processor of a
#: 2-core EPYC (Zen 4): beyond, some 7 s and more.
MOST_NODES = 1000
#: Features of all nodes together. Calculated: the values of the smallest tile, 96 samples, must fit a few megabytes.
MOST_WIDTH = 8192


@dataclass(frozen=True)
class Program:
    """A compiled graph.

    Attributes:
        run, run_chunk: ``bpx_graph`` and ``bpx_graph_chunk`` of kernels/graph.h.
        rows, memory: samples in a tile, and numbers that it takes.
        packing: where parameters and gradients lie; panel, weight_rows: how, see kernels/panels.h.
    """

    run: Any
    run_chunk: Any
    rows: int
    memory: int
    packing: Packing
    panel: int
    weight_rows: int


_programs: dict[Shape, Program] = {}


def program(shape: Shape, nodes: Sequence[Node]) -> Program:
    """The compiled pass. Raises CompileError."""
    if shape not in _programs:
        writer = Writer(shape, nodes)
        text, rows, features = writer.source()
        library = kernel_cache.library(text, f"a graph of {len(nodes)} nodes in {shape.dtype}")
        structs.check(library, GraphArgs, ChunkArgs)
        run, run_chunk = library.bpx_graph, library.bpx_graph_chunk
        run.argtypes, run.restype = (POINTER, INT, INT, POINTER, POINTER), DOUBLE
        run_chunk.argtypes, run_chunk.restype = (POINTER, INT, POINTER, POINTER), DOUBLE
        for name in ("panel", "weight_rows"):
            getattr(library, f"bpx_graph_{name}").restype = INT
        panel, weight_rows = library.bpx_graph_panel(), library.bpx_graph_weight_rows()
        _programs[shape] = Program(run, run_chunk, rows, features * rows, writer.packing, panel, weight_rows)
    return _programs[shape]
