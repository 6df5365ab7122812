"""The limit on paper of the kernels by blocks of threads, from real machine code: a model, not a measurement.

`python -m backprop_xp.bench.sass` prints it. The kernel of 64-64-64-64-10 is compiled with all its loops written out,
so that what stands in the loop over tiles is what a thread does for a tile: a loop that stays a loop would be counted
once. It may take all registers there are, which the loops don't need. Nothing is executed, and no device is needed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backprop_xp.bench import bounds, graphs, machine_code
from backprop_xp.bench.cases import Case

from backprop_xp.activations import get_activation
from backprop_xp.losses import get_loss, kernel_of
from backprop_xp.plan.cost import CACHE_SPEEDUP
from backprop_xp.plan.devices import Device
from backprop_xp.precision import PRECISIONS
from backprop_xp.programs import block, block_graph, fused, graph_source
from backprop_xp.programs.tiling import Tiling

CASE = Case("64-wide", (64, 64, 64, 64, 10), ("tanh", "tanh", "tanh", "identity"), 1 << 20, bias=True)
#: The same widths with two skips around two layers each, and with layers that see all before them.
GRAPHS = (
    Case("residual", (64,) * 5 + (10,), ("tanh",) * 4 + ("identity",), 1 << 20, bias=True, form="residual"),
    Case("dense", (64, 64, 64, 10), ("tanh", "tanh", "identity"), 1 << 20, bias=True, form="dense"),
)
ARCHITECTURES = (80, 90, 100, 120)
#: KiB of shared memory that a block may have, by architecture: CUDA's numbers.
SHARED = {80: 163, 90: 227, 100: 227, 120: 99}
ROWS = (
    "tensor", "fma", "add or multiply", "other arithmetic", "mufu", "shared load", "shared store", "shared wavefronts",
    "global load", "global store", "local", "control", "cache bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """A kernel's machine code.

    Attributes:
        sample: what is done for a sample, by kind; a warp's instruction for a tile counts for all its threads. Under
            "global bytes" what global loads and stores move to and from the first-level cache, and under "cache bytes"
            what must come from and go to the second, which has no room for it: a tile's weights and sums, each once.
    """

    precision: str
    architecture: int
    tiling: Tiling
    sample: Counter[str]

    @property
    def warps(self) -> int:
        """At work in a multiprocessor."""
        return self.tiling.resident * self.tiling.threads // 32


@dataclass(frozen=True)
class Kernel:
    """A kernel ``bpx_block`` with its loops written out, and how it is cut.

    Attributes:
        packed, sums: how many numbers the parameters are as it reads them, and their gradients.
    """

    source: str
    tiling: Tiling
    packed: int
    sums: int


def kernel(case: Case, precision: str, architecture: int) -> Kernel:
    """What a case is compiled to, by the first way to cut it."""
    limit = SHARED[architecture] << 10
    found = _chain(case, precision, limit) if case.form == "chain" else _graph(case, precision, limit)
    source = re.sub(r"#pragma unroll \d+\n", "#pragma unroll\n", found.source)
    return replace(found, source=re.sub(r"(__launch_bounds__\(\w+::threads), \w+::resident", r"\1", source))


def shape_of(case: Case, precision: str = "float32") -> tuple[fused.Shape, list[Any]]:
    """What a chain is compiled by, and its activations."""
    activations = [get_activation(name) for name in case.activations]
    texts, loss = tuple(f.text for f in activations), kernel_of(get_loss(case.loss), None)
    biases = (case.bias,) * len(activations)
    return fused.Shape(case.sizes, biases, case.dtype, texts, loss, precision=precision), activations


def _chain(case: Case, precision: str, limit: int) -> Kernel:
    shape, activations = shape_of(case, precision)
    way = block.tilings(shape, limit)[0]
    return Kernel(block.source(shape, activations, way), way, block.packed(shape), shape.parameters)


def _graph(case: Case, precision: str, limit: int) -> Kernel:
    nodes, loss = graphs.net(case, dtype=case.dtype, backend="numpy").nodes, kernel_of(get_loss(case.loss), None)
    shape = graph_source.shape_of(nodes, case.dtype, loss, False, False, False)
    writer = block_graph.BlockWriter(replace(shape, precision=precision), nodes)
    (stage,) = writer.stages
    way = writer.tilings(stage, limit)[0]
    return Kernel(writer.source_for(stage, way), way, writer.packing.params, writer.packing.grads)


def count(case: Case, precision: str, architecture: int, program: Path) -> Counted:
    """Compile, disassemble and count."""
    written = kernel(case, precision, architecture)
    way = written.tiling
    text = machine_code.disassembled(machine_code.compiled(written.source, architecture), program)
    instructions, labels = machine_code.parse(text, "bpx_block")
    tile = max(machine_code.loops(instructions, labels), key=len)
    counts = machine_code.count(tile)
    moved = sum(i.bytes for i in tile if i.kind in ("global load", "global store"))
    sample = Counter({kind: number * way.threads // way.rows for kind, number in counts.items()})
    sample["global bytes"] = moved * way.threads // way.rows
    sample["cache bytes"] = 4 * (written.packed + 2 * written.sums) // way.rows
    return Counted(precision, architecture, way, sample)


def times(on: Device, counted: Counted, case: Case) -> dict[str, float]:
    """Seconds that each unit of a device takes for a sample if it never waits for another."""
    counts = counted.sample
    clocks = {
        "tensor cores": counts["tensor"] / 32 / on.tensor,
        "float arithmetic": (counts["fma"] + counts["add or multiply"]) / on.float32,
        "other arithmetic": counts["other arithmetic"] / on.others,
        "transcendentals": counts["mufu"] / on.mufu,
        "loads and stores": (counts["shared wavefronts"] + counts["global bytes"] / 4 + counts["local"]) / on.lanes,
        "instructions issued": bounds.instructions(counts) / on.issued,
    }
    seconds = {unit: clock / (on.multiprocessors * on.clock) for unit, clock in clocks.items()}
    seconds["second-level cache"] = counts["cache bytes"] / (CACHE_SPEEDUP * on.memory)
    seconds["global memory"] = 4 * case.sizes[0] / on.memory
    return seconds


def report(case: Case, counted: Sequence[Counted]) -> str:
    """Markdown: what stands in the loop over tiles for each sample, and the bounds that follow."""
    head = [f"{c.precision} sm_{c.architecture}" for c in counted]
    what = "-".join(map(str, case.sizes)) + ("" if case.form == "chain" else f" ({case.form})")
    lines = [
        f"{what}: thread instructions for each sample, with all loops written out.",
        "A model from machine code, not a measurement.",
        "",
        "| | " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * len(head),
    ]
    for row in ROWS:
        lines.append(f"| {row} | " + " | ".join(f"{c.sample[row]:,}" for c in counted) + " |")
    facts = {
        "instructions": [f"{bounds.instructions(c.sample):,}" for c in counted],
        "samples in a tile": [str(c.tiling.rows) for c in counted],
        "warps of 64": [str(c.warps) for c in counted],
    }
    lines += [f"| {what} | " + " | ".join(each) + " |" for what, each in facts.items()]
    lines += ["", "| | bound, million samples/s | limited by | tensor cores busy |", "| --- | ---: | --- | ---: |"]
    for on in bounds.DEVICES:
        for c in counted:
            if c.architecture == on.architecture:
                seconds = times(on, c, case)
                limit = max(seconds, key=lambda unit: seconds[unit])
                busy = seconds["tensor cores"] / seconds[limit]
                lines.append(f"| {on.name} {c.precision} | {1e-6 / seconds[limit]:,.0f} | {limit} | {busy:.0%} |")
    return "\n".join(lines)


def counted(case: Case, program: Path) -> list[Counted]:
    """All precisions on all architectures."""
    return [count(case, precision, a, program) for precision in PRECISIONS for a in ARCHITECTURES]
