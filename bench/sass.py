"""The limit on paper, from real machine code: `python -m backprop_xp.bench.sass`. A model, not a measurement.

The fused kernel of the article's net is compiled for three generations of GPUs and disassembled, which needs no
device, and the loop over the samples is counted, instruction by instruction, against the least that it must hold.
Behind it: the kernels by blocks of threads, in each precision (sass_blocks.py).
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from backprop_xp.bench import bounds, machine_code, sass_blocks
from backprop_xp.bench.cases import ARTICLE, Case
from backprop_xp.bench.limits import Limits
from backprop_xp.bench.report import Result

from backprop_xp.backend import Backend
from backprop_xp.messages import first_line
from backprop_xp.programs import fused_cuda

ARCHITECTURES = (80, 90, 100)
ROWS = (
    "fma", "add or multiply", "other arithmetic", "mufu", "shared load", "shared store", "shared wavefronts",
    "constant load", "global load", "global bytes", "global store", "local", "control",
)  # fmt: skip


def kernel_source(case: Case) -> str:
    """CUDA source of the fused kernel ``bpx_backprop`` for this case."""
    return fused_cuda.source(*sass_blocks.shape_of(case))


def per_sample(source: str, kernel: str, architecture: int, program: Path) -> Counter[str]:
    """What the kernel's main loop, a turn of which is one sample, holds of each kind."""
    text = machine_code.disassembled(machine_code.compiled(source, architecture), program)
    return machine_code.count(machine_code.main_loop(*machine_code.parse(text, kernel)))


def report(case: Case, counted: dict[int, Counter[str]]) -> str:
    """Counts beside the minimum, and the bounds that both give."""
    least, least_bytes = bounds.minimum(case)
    minimum = least | {"global bytes": least_bytes}
    lines = [
        f"{case.name}, {case.dtype}: instructions of the loop over samples, one sample in one thread.",
        "A model from machine code, not a measurement.",
        "",
        f"{'':24}{'minimum':>10}" + "".join(f"{f'sm_{a}':>10}" for a in counted),
    ]
    for row in ROWS:
        lines.append(f"{row:24}{minimum.get(row, 0):>10}" + "".join(f"{c[row]:>10}" for c in counted.values()))
    numbers = [bounds.instructions(counts) for counts in counted.values()]
    lines += [
        f"{'instructions':24}{case.multiply_adds:>10}" + "".join(f"{number:>10}" for number in numbers),
        f"{'per multiply-add':24}{1:>10}" + "".join(f"{number / case.multiply_adds:>10.2f}" for number in numbers),
        "",
        "bounds in samples/s, if nothing ever waits:",
    ]
    launches, moved = bounds.eager(case)
    for device in bounds.DEVICES:
        counts = counted[device.architecture]
        theirs, _ = bounds.bound(device, case.dtype, {}, moved)
        shown = {
            "the minimum": bounds.bound(device, case.dtype, least, least_bytes),
            "this machine code": bounds.bound(device, case.dtype, counts, counts["global bytes"]),
            "PyTorch eager": (theirs, f"global memory: {launches} kernels, {moved:,} bytes a sample"),
        }
        for what, (rate, limit) in shown.items():
            lines.append(f"  {device.name}  {what:20}{rate / 1e9:8.2f} G {rate / theirs:7.1f} x  {limit}")
    return "\n".join(lines)


def reached(result: Result, backend: Backend, limits: Limits) -> list[str]:
    """On the article's net, a sentence on how far our fused kernel got, where there is a disassembler."""
    ours = [row for row in result.rows if (row.contender, row.form) == ("backprop_xp", "fused")]
    program = machine_code.disassembler()
    if result.case.with_samples(ARTICLE.samples) != ARTICLE or not ours or program is None:
        return []
    device = bounds.here(backend, limits.copy)
    try:
        counts = per_sample(kernel_source(ARTICLE), "bpx_backprop", device.architecture, program)
    except ValueError as error:  # a device that is newer than the disassembler, say
        return [f"no bound from machine code: {first_line(error)}"]
    rate, limit = bounds.bound(device, ARTICLE.dtype, counts, counts["global bytes"])
    share = ours[0].samples_per_second / rate
    return [f"fused reached {share:.0%} of what its machine code would allow if nothing ever waited ({limit})"]


def main() -> int:
    program = machine_code.disassembler()
    if program is None:
        print("nvdisasm is missing: pip install nvidia-cuda-nvdisasm", file=sys.stderr)
        return 1
    print(report(ARTICLE, {a: per_sample(kernel_source(ARTICLE), "bpx_backprop", a, program) for a in ARCHITECTURES}))
    for case in (sass_blocks.CASE, *sass_blocks.GRAPHS):
        print("\n" + sass_blocks.report(case, sass_blocks.counted(case, program)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
