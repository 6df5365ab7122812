"""Losses with derivatives as a pass of blocks of threads on the GPU: the kernels around kernels/stack_cuda.h.

They are compiled for activations, derivatives and an equation, and not for a net: its layers stand in a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..activations import Identity
from ..backend import Array, cupy
from ..derivatives.chain_rule import Rules
from ..derivatives.equation import Text
from ..derivatives.stacked import Skip, Stacked
from ..derivatives.ways import Tangents
from ..dtypes import C_NAMES
from ..kernels import source as kernel_source
from ..toolchain import cuda
from . import block, stack_source, structs, tiling
from .fused_cuda import WRITTEN_OUT

#: Points in a tile: the most that give at most COLUMNS columns and fit; the last is taken whatever it gives.
POINTS, COLUMNS = (32, 16, 8, 4), 64


class DeviceLayer(NamedTuple):
    """A row of the table: ``bpx::DeviceLayer`` of kernels/stack_cuda.h, which says what each number is."""

    inputs: int
    outputs: int
    skip: int
    before: int
    function: int
    up: int
    down: int
    bias: int
    grad: int
    z: int
    t: int


@dataclass(frozen=True)
class Shape:
    """All that is known of a net and a loss when the pass is chosen.

    Attributes:
        sizes, bias, skips: of the layers.
        functions: of each layer the number of its activation among ``activations``, -1 for the identity.
        activations: their texts, each with its parameters' values: layers of the same share a function.
        carried: the signals of a stack.
        equation: what it says.
    """

    sizes: tuple[int, ...]
    bias: tuple[bool, ...]
    skips: tuple[Skip | None, ...]
    functions: tuple[int, ...]
    activations: tuple[Any, ...]
    carried: Rules
    equation: Text
    dtype: str

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return 4 if self.dtype == "float32" else 8


class Way(NamedTuple):
    """How a pass is cut: points of a tile, threads of a block, blocks of a multiprocessor, sums of a thread."""

    points: int
    threads: int
    resident: int
    sums: int


class Layout(NamedTuple):
    """Where a net's numbers lie.

    Attributes:
        layers: the table.
        packed, grads: numbers of all packed parameters, and of the gradients.
        features: of all stacks in a tile's memory.
    """

    layers: tuple[DeviceLayer, ...]
    packed: int
    grads: int
    features: int


class Program(NamedTuple):
    """The kernels of a net and an equation on a device, and what they are launched with."""

    pack: Any
    run: Any
    layers: Array
    layout: Layout
    way: Way
    shared_bytes: int


def shape(rows: Stacked, carried: Rules, equation: Text, dtype: np.dtype) -> tuple[Shape, list[Any]]:
    """The shape of a net of formulas, and its different activations."""
    functions: dict[Any, int] = {}
    activations, numbers = [], []
    for layer in rows.layers:
        f = layer.activation
        key = f.text, f.parameters
        if f.text != Identity.text and key not in functions:
            functions[key] = len(functions)
            activations.append(f)
        numbers.append(functions.get(key, -1))
    sizes = (rows.layers[0].weight.shape[1], *(len(layer.weight) for layer in rows.layers))
    bias = tuple(layer.bias is not None for layer in rows.layers)
    texts = tuple(f.text for f in activations)
    found = Shape(sizes, bias, tuple(rows.skips), tuple(numbers), texts, carried, equation, dtype.name)
    return found, activations


@lru_cache(maxsize=512)
def layout(shape: Shape) -> Layout:
    """Where the numbers of a net lie."""
    layers: list[DeviceLayer] = []
    packed = grads = 0
    features = shape.sizes[0]
    for inputs, outputs, bias, skip, function in zip(
        shape.sizes, shape.sizes[1:], shape.bias, shape.skips, shape.functions
    ):
        source, before = (-2, False) if skip is None else skip
        up, down = packed, packed + inputs * _padded(outputs)
        end = down + outputs * _padded(inputs)
        z = features
        t = z if function < 0 else z + outputs
        layers.append(
            DeviceLayer(inputs, outputs, source, before, function, up, down, end if bias else -1, grads, z, t)
        )
        packed, grads = end + _padded(outputs) * bias, grads + (inputs + bias) * outputs
        features = t + outputs
    return Layout(tuple(layers), packed, grads, features)


def _padded(width: int) -> int:
    """``bpx::padded``."""
    return -(-width // 8) * 8


@lru_cache(maxsize=512)
def ways(shape: Shape, limit: int) -> tuple[Way, ...]:
    """How to cut the pass where a block may have ``limit`` bytes of shared memory, best first; none if it can't be."""
    if layout(shape).packed > block.MOST_PARAMETERS:
        return ()
    threads = tiling.FEW_THREADS if max(shape.sizes[1:]) <= tiling.NARROW else tiling.THREADS
    signals = len(shape.carried.stack)
    for points in POINTS:
        way = Way(points, threads, 1, tiling.SUMS)
        taken = shared_bytes(shape, way)
        if taken <= limit and (points * signals <= COLUMNS or points == POINTS[-1]):
            fit = (limit + tiling.RESERVED) // (taken + tiling.RESERVED)
            resident = min(fit, 2 * tiling.THREADS // threads)
            return tuple(_fewer_registers(way._replace(resident=resident), shape.itemsize))
    return ()


def _fewer_registers(way: Way, itemsize: int) -> Iterator[Way]:
    """From many sums a thread to few, and at last all registers for one block."""
    most = way.sums * 4 // itemsize
    for sums, resident in ((most, way.resident), (most // 2, way.resident), (8, way.resident), (8, 1)):
        yield way._replace(sums=sums, resident=resident)


def shared_bytes(shape: Shape, way: Way) -> int:
    """Dynamic shared memory of a block."""
    stride = way.points * len(shape.carried.stack) + 16 // shape.itemsize
    return (layout(shape).features * stride + way.threads) * shape.itemsize


_programs: dict[tuple[int, Shape], Program] = {}


def program(shape: Shape, activations: Sequence[Any]) -> Program:
    """The first way to cut it whose kernel spills nothing on the current device. Raises CompileError."""
    device = cupy().cuda.runtime.getDevice()
    if (device, shape) not in _programs:
        limit = block.shared_limit(device)
        tried = ways(shape, limit)
        sources = [source(shape, activations, way) for way in tried]
        number = cuda.first_fitting(sources, block.ENTRY, [way.threads for way in tried])
        run = cuda.kernel(sources[number], block.ENTRY)
        run.max_dynamic_shared_size_bytes = limit  # other nets have other needs of the same kernel
        found = layout(shape)
        _programs[device, shape] = Program(
            cuda.kernel(pack_source(shape.bias, shape.dtype), block.PACK),
            run,
            cupy().asarray(np.array(found.layers, np.int32)),
            found,
            tried[number],
            shared_bytes(shape, tried[number]),
        )
    return _programs[device, shape]


def source(shape: Shape, activations: Sequence[Any], way: Way) -> str:
    """The unit with the kernel ``bpx_block``.

    Its arguments are ``bpx::Batch``, the packed parameters, the table of the layers, how many these are and how many
    numbers their gradients have, and the parameters of the activations and of the equation.
    """
    signals, scalars = len(shape.carried.stack), 0
    code, cases = [], []
    for k, f in enumerate(activations):
        text, *names = stack_source.activation(f.text, f.formula, shape.carried, WRITTEN_OUT, k)
        code.append(text)
        cases.append(f"    if (number == {k}) op(bpx::StackFunction<{', '.join(names)}>(), {scalars});")
        scalars += len(f.parameters)
    axes = [
        f"k == {k} ? {along[0]} : "
        for k, along in enumerate(shape.carried.stack)
        if isinstance(along, tuple) and len(along) == 1
    ]
    constants = way._asdict() | {
        "signals": signals, "rows": way.points * signals, "gap": 16 // shape.itemsize, "equation_scalars": scalars
    }  # fmt: skip
    values = [f"s{k}" for k in range(scalars + len(shape.equation.params))]
    given = [*block.FIRST_ARGUMENTS, "const bpx::DeviceLayer* layers", "bpx::i64 depth", "bpx::i64 parameters"]
    return "\n".join(
        [
            kernel_source("stack_cuda.h"),
            *code,
            stack_source.equation(shape.equation, Tangents(shape.carried)),
            f"using S = {C_NAMES[shape.dtype]};",
            *structs.assertions(structs.BATCHES[shape.dtype]),
            f"static_assert(sizeof(bpx::DeviceLayer) == {4 * len(DeviceLayer._fields)}, "
            '"not as in programs/stack_cuda.py");',
            "struct Pass {",
            "  using S = ::S;",
            "  using Equation = ::Equation;",
            f"  static constexpr int {', '.join(f'{name} = {n}' for name, n in constants.items())};",
            f"  BPX_FN static int axis(int k) {{ return {''.join(axes)}-1; }}",
            "  template <class Op> BPX_FN static void with_function(int number, Op op) {",
            *cases,
            "  }",
            "};",
            "BPX_ENTRY void __launch_bounds__(Pass::threads, Pass::resident)",
            f"{block.ENTRY}({', '.join([*given, *(f'S {value}' for value in values)])}) {{",
            "  extern __shared__ __align__(16) unsigned char memory[];",
            f"  const S scalars[] = {{{', '.join([*values, 'S(0)'])}}};",
            "  const bpx::BlockArgs<S> args = {batch, packed, scalars};",
            "  bpx::run_stack<Pass>(args, layers, int(depth), parameters, (S*)memory);",
            "}",
            "",
        ]
    )


def pack_source(bias: Sequence[bool], dtype: str) -> str:
    """The unit with the kernel ``bpx_block_pack(W and b of every layer..., layers, packed)``."""
    arrays = [f"{kind}{i}" for i, has in enumerate(bias) for kind in ("w", "b")[: 1 + has]]
    table = [f"w{i}, {f'b{i}' if has else 'nullptr'}" for i, has in enumerate(bias)]
    given = [*(f"const S* {array}" for array in arrays), "const bpx::DeviceLayer* layers", "S* packed"]
    return "\n".join(
        [
            kernel_source("stack_cuda.h"),
            f"using S = {C_NAMES[dtype]};",
            f"BPX_ENTRY void {block.PACK}({', '.join(given)}) {{",
            f"  const S* const from[] = {{{', '.join(table)}}};",
            f"  bpx::pack_stack(layers, {len(bias)}, from, packed);",
            "}",
            "",
        ]
    )
