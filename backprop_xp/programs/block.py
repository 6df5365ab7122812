"""A net as a pass of blocks of threads: how its tiles are cut, and the kernels around kernels/block_cuda.h."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from typing import Any

from ..activations import Identity
from ..backend import cupy
from ..kernels import source as kernel_source
from ..losses import KernelLoss
from ..toolchain import cuda
from . import fused
from .fused_cuda import WRITTEN_OUT

#: ``bpx::BlockArgs`` but for the scalars.
FIELDS = (
    "bpx::i64 n", "bpx::i64 chunk", "const S* x", "bpx::i64 x_row", "bpx::i64 x_column",
    "const void* y", "bpx::i64 y_row", "bpx::i64 y_column", "const S* weight", "bpx::i64 weight_row",
    "S scale", "S* x_grad", "S* sums", "double* losses", "S* output", "const S* params",
)  # fmt: skip
#: Samples in a tile, and input features held at a time: the first that fit are taken. Calculated: every tile reads all
#: weights and updates all sums of its chunk in the second-level cache, so more samples come first; a slice of x is only
#: read once more.
ROWS, SLICES = (64, 32, 16, 8), (128, 64, 32)
#: Threads of a block; of a block of a net whose widest layer has at most NARROW features, which has too few sums to
#: compute at once for more; and that width. Calculated.
THREADS, FEW_THREADS, NARROW = 256, 128, 32
#: Sums that a thread holds at once, in float32 (half of it in float64): where two blocks of 256 threads share a
#: multiprocessor, so that a thread has 128 registers, and where one block has it. Calculated; what fits is found by
#: compiling.
SUMS, MANY_SUMS = 32, 64
#: Numbers in the packed parameters: indices into them are 32 bits wide.
MOST_PARAMETERS = (1 << 31) - 1
#: Bytes of shared memory that a block has without an opt-in, and that the driver keeps for itself beside each block:
#: CUDA's numbers.
UNASKED, RESERVED = 48 << 10, 1 << 10


@dataclass(frozen=True)
class Tiling:
    """The constants of kernels/block_cuda.h, which says what they are."""

    rows: int
    threads: int
    resident: int
    sums: int
    slice: int


@dataclass(frozen=True)
class Program:
    """The kernels of a net on a device, and how to launch them."""

    pack: Any
    run: Any
    threads: int
    shared_bytes: int


_programs: dict[tuple[int, fused.Shape], Program] = {}


def program(shape: fused.Shape, activations: Sequence[Any]) -> Program:
    """The first tiling whose kernel spills nothing on the current device. Raises CompileError."""
    device = cupy().cuda.runtime.getDevice()
    if (device, shape) not in _programs:
        ways = tilings(shape, shared_limit(device))
        sources = [source(shape, activations, tiling) for tiling in ways]
        number = cuda.first_fitting(sources, "bpx_block", ways[0].threads)
        run, pack = cuda.kernel(sources[number], "bpx_block"), cuda.kernel(sources[number], "bpx_block_pack")
        shared = shared_bytes(shape, ways[number])
        if shared > UNASKED:
            run.max_dynamic_shared_size_bytes = shared
        _programs[device, shape] = Program(pack, run, ways[number].threads, shared)
    return _programs[device, shape]


@cache
def shared_limit(device: int) -> int:
    """Bytes of shared memory that a block may have on this device."""
    return cupy().cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"]


@lru_cache(maxsize=512)
def tilings(shape: fused.Shape, limit: int) -> tuple[Tiling, ...]:
    """Ways to cut a net's pass where a block may have ``limit`` bytes of shared memory, best first."""
    if packed(shape) > MOST_PARAMETERS:
        return ()
    threads = FEW_THREADS if max(shape.sizes[1:]) <= NARROW else THREADS
    found: list[Tiling] = []
    for rows, most in itertools.product(ROWS, SLICES):
        features = -(-shape.sizes[0] // -(-shape.sizes[0] // most))
        tiling = Tiling(rows, threads, 1, SUMS, features)
        fit = (limit + RESERVED) // (shared_bytes(shape, tiling) + RESERVED)
        if fit and not (found and found[-1].rows == rows):
            found += _blockings(shape, replace(tiling, resident=min(fit, 2 * THREADS // threads)))
    return tuple(found)


def _blockings(shape: fused.Shape, tiling: Tiling) -> Iterator[Tiling]:
    """From many sums a thread to few, which surely fit its registers."""
    most = MANY_SUMS if tiling.resident * tiling.threads <= THREADS else SUMS
    if shape.dtype == "float64":
        most //= 2
    for sums in (most, most // 2, 8):
        yield replace(tiling, sums=sums)


def shared_bytes(shape: fused.Shape, tiling: Tiling) -> int:
    """Dynamic shared memory of a block."""
    return _shared_numbers(shape, tiling) * _itemsize(shape)


def packed(shape: fused.Shape) -> int:
    """How many numbers the packed parameters are."""
    count = 0
    for i, (inputs, outputs) in enumerate(zip(shape.sizes, shape.sizes[1:])):
        down = shape.loss is not None and (i > 0 or shape.input_grad)
        count += inputs * _padded(outputs) + (outputs * _padded(inputs) if down else 0)
        count += _padded(outputs) if shape.bias[i] else 0
    return count


def source(shape: fused.Shape, activations: Sequence[Any], tiling: Tiling) -> str:
    """The unit with the kernels ``bpx_block_pack(W and b of every layer..., packed)`` and ``bpx_block``.

    The arguments of the latter are the fields of ``bpx::BlockArgs``, with the activations' and the loss's parameters in
    the place of the last.
    """
    constants = asdict(tiling) | {"shared": _shared_numbers(shape, tiling), "packed": packed(shape)}
    scalars = sum(len(f.parameters) for f in activations) + (
        shape.loss.parameters(shape.sizes[-1]) if isinstance(shape.loss, KernelLoss) else 0
    )
    arrays = [f"{kind}{i}" for i, has in enumerate(shape.bias) for kind in ("w", "b")[: 1 + has]]
    table = [f"w{i}, {f'b{i}' if has else 'nullptr'}" for i, has in enumerate(shape.bias)]
    names, values = [field.split()[-1] for field in FIELDS], [f"s{k}" for k in range(scalars)]
    return "\n".join(
        [
            kernel_source("block_cuda.h"),
            fused.declarations(shape, activations, WRITTEN_OUT),
            "struct TiledNet : Net {",
            f"  static constexpr int {', '.join(f'{name} = {n}' for name, n in constants.items())};",
            "};",
            "using S = Net::S;",
            f"BPX_ENTRY void bpx_block_pack({', '.join(f'const S* {a}' for a in arrays)}, S* packed) {{",
            f"  const S* const from[] = {{{', '.join(table)}}};",
            "  bpx::pack<TiledNet, true>(Net::Layers(), from, packed);",
            "}",
            "BPX_ENTRY void __launch_bounds__(TiledNet::threads, TiledNet::resident)",
            f"bpx_block({', '.join([*FIELDS, *(f'S {value}' for value in values)])}) {{",
            "  extern __shared__ __align__(16) unsigned char memory[];",
            f"  const S scalars[] = {{{', '.join(values) or 'S(0)'}}};",
            f"  const bpx::BlockArgs<S> args = {{{', '.join(names)}, scalars}};",
            "  bpx::run_block<TiledNet>(args, (S*)memory);",
            "}",
            "",
        ]
    )


def _shared_numbers(shape: fused.Shape, tiling: Tiling) -> int:
    stride = tiling.rows + 16 // _itemsize(shape)
    last = len(shape.activations) - 1
    features = tiling.slice
    for i, width in enumerate(shape.sizes[1:]):
        slopes = shape.loss is not None and (i < last or shape.activations[i] != Identity.text)
        features += 2 * width if slopes else width
    return features * stride + tiling.threads


def _itemsize(shape: fused.Shape) -> int:
    return 4 if shape.dtype == "float32" else 8


def _padded(width: int) -> int:
    return -(-width // 8) * 8
