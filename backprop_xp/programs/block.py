"""A net as a pass of blocks of threads: the kernels around kernels/block_cuda.h, or tensor_cuda.h, and their choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from typing import Any

from ..backend import cupy
from ..kernels import source as kernel_source
from ..losses import KernelLoss
from ..toolchain import cuda
from . import fused, structs, tensor_tiling, tiling
from .fused_cuda import WRITTEN_OUT
from .tiling import Tiling

#: Numbers in the packed parameters: indices into them are 32 bits wide.
MOST_PARAMETERS = (1 << 31) - 1
#: The kernels of a unit: the pass, and the one that packs parameters for it.
ENTRY, PACK = "bpx_block", "bpx_block_pack"


FIRST_ARGUMENTS = "const bpx::Batch<S> batch", "const S* packed"


@dataclass(frozen=True, eq=False)
class Program:
    """The kernels of a net on a device, and how to launch them.

    Attributes:
        packed: how many numbers the packed parameters are.
    """

    pack: Any
    run: Any
    threads: int
    shared_bytes: int
    packed: int


_programs: dict[tuple[int, fused.Shape], Program] = {}


def program(shape: fused.Shape, activations: Sequence[Any]) -> Program:
    """The first tiling whose kernel spills nothing on the current device. Raises CompileError."""
    device = cupy().cuda.runtime.getDevice()
    if (device, shape) not in _programs:
        ways = tilings(shape, shared_limit(device))
        sources = [source(shape, activations, way) for way in ways]
        shared = [shared_bytes(shape, way) for way in ways]
        _programs[device, shape] = first_fitting(ways, sources, shared, packed(shape))
    return _programs[device, shape]


def first_fitting(
    ways: Sequence[Tiling], sources: Sequence[str], shared: Sequence[int], packed_numbers: int
) -> Program:
    """The first of these units whose kernel spills nothing on the current device."""
    number = cuda.first_fitting(sources, ENTRY, [way.threads for way in ways])
    run, pack = cuda.kernel(sources[number], ENTRY), cuda.kernel(sources[number], PACK)
    if shared[number] > cuda.UNASKED:
        run.max_dynamic_shared_size_bytes = shared[number]
    return Program(pack, run, ways[number].threads, shared[number], packed_numbers)


@cache
def shared_limit(device: int) -> int:
    """Bytes of shared memory that a block may have on this device."""
    return cupy().cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"]


@lru_cache(maxsize=512)
def tilings(shape: fused.Shape, limit: int) -> tuple[Tiling, ...]:
    """Ways to cut a net's pass where a block may have ``limit`` bytes of shared memory, best first."""
    if packed(shape) > MOST_PARAMETERS:
        return ()
    return tuple((tensor_tiling if _by_tensor_cores(shape) else tiling).tilings(shape, limit))


def shared_bytes(shape: fused.Shape, way: Tiling) -> int:
    """Dynamic shared memory of a block."""
    return _shared_numbers(shape, way) * shape.itemsize


def packed(shape: fused.Shape) -> int:
    """How many numbers the packed parameters are, or words of their size."""
    return (tensor_tiling if _by_tensor_cores(shape) else tiling).packed(shape)


def source(shape: fused.Shape, activations: Sequence[Any], way: Tiling) -> str:
    """The unit with the kernels ``bpx_block_pack(W and b of every layer..., packed)`` and ``bpx_block``.

    The arguments of the latter are ``bpx::Batch``, the packed parameters, and those of the activations and of the loss.
    """
    constants = asdict(way) | {
        "gap": 16 // shape.itemsize,
        "shared": _shared_numbers(shape, way),
        "packed": packed(shape),
    }
    scalars = sum(len(f.parameters) for f in activations) + loss_scalars(shape.loss, shape.sizes[-1])
    arrays = [f"{kind}{i}" for i, has in enumerate(shape.bias) for kind in ("w", "b")[: 1 + has]]
    table = [f"w{i}, {f'b{i}' if has else 'nullptr'}" for i, has in enumerate(shape.bias)]
    values = [f"s{k}" for k in range(scalars)]
    facts = []
    if _by_tensor_cores(shape):
        facts = [f"  using Precision = bpx::{tensor_tiling.FORMS[shape.precision].name};"]
    kind = f"bpx::{'Tensor' if facts else 'Block'}Pass<TiledNet>"
    return "\n".join(
        [
            kernel_source("tensor_cuda.h" if facts else "block_cuda.h"),
            fused.declarations(shape, activations, WRITTEN_OUT),
            "struct TiledNet : Net {",
            f"  static constexpr int {', '.join(f'{name} = {n}' for name, n in constants.items())};",
            *facts,
            "};",
            "using S = Net::S;",
            *structs.assertions(structs.BATCHES[shape.dtype]),
            f"BPX_ENTRY void {PACK}({', '.join(f'const S* {a}' for a in arrays)}, S* packed) {{",
            f"  const S* const from[] = {{{', '.join(table)}}};",
            f"  {kind}::pack(from, packed);",
            "}",
            "BPX_ENTRY void __launch_bounds__(TiledNet::threads, TiledNet::resident)",
            f"{ENTRY}({', '.join([*FIRST_ARGUMENTS, *(f'S {value}' for value in values)])}) {{",
            "  extern __shared__ __align__(16) unsigned char memory[];",
            f"  const S scalars[] = {{{', '.join(values) or 'S(0)'}}};",
            "  const bpx::BlockArgs<S> args = {batch, packed, scalars};",
            f"  bpx::run_block<{kind}>(args, (S*)memory);",
            "}",
            "",
        ]
    )


def loss_scalars(loss: Any, outputs: int) -> int:
    """How many parameters the loss of a shape has."""
    return loss.parameters(outputs) if isinstance(loss, KernelLoss) else 0


def _by_tensor_cores(shape: fused.Shape) -> bool:
    return shape.precision != "float32"


def _shared_numbers(shape: fused.Shape, way: Tiling) -> int:
    if _by_tensor_cores(shape):
        return tensor_tiling.shared_words(shape, way)
    return tiling.shared_numbers(shape, way)
