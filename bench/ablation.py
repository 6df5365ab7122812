"""What each idea brings: engines, threads and vector width, one after another on one case.

Each step runs in a process of its own, since a compiler's flags and the number of threads belong to a process. Memory
is kept where it can be.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass

from backprop_xp.bench import allocator
from backprop_xp.bench.cases import ARTICLE, NARROW, Case

from backprop_xp import environment
from backprop_xp.toolchain import compiler
from backprop_xp.toolchain.compiler import CompileError

CASES = (ARTICLE, NARROW)
SECONDS = 2.0  # for which a step is timed, at least


@dataclass(frozen=True)
class Step:
    """One configuration, and samples/s with it."""

    case: str
    what: str
    samples_per_second: float


def run(case: Case, threads: int) -> list[Step]:
    """From the plain loop to everything; without a compiler, the steps that need none."""
    plans = [("layered, 1 thread", "layered", 1, ""), (f"layered, {threads} threads", "layered", threads, "")]
    plans.append((f"tiled, {threads} threads", "tiled", threads, ""))
    try:
        command = " ".join(compiler.find().command)
    except CompileError:
        command = ""
    if command:
        for size in (16, 32):
            plans.append(
                (f"fused, 1 thread, {8 * size}-bit registers", "fused", 1, f"{command} -DBPX_VECTOR_BYTES={size}")
            )
        plans += [("fused, 1 thread", "fused", 1, ""), (f"fused, {threads} threads", "fused", threads, "")]
    return [Step(case.name, what, _measure(case, engine, count, cxx)) for what, engine, count, cxx in plans]


def table(steps: list[Step]) -> str:
    """Text, each step beside the first."""
    lines = []
    for case in dict.fromkeys(step.case for step in steps):
        mine = [step for step in steps if step.case == case]
        lines.append(f"{case}: what each step brings")
        for step in mine:
            times = step.samples_per_second / mine[0].samples_per_second
            lines.append(f"  {step.what:38}{step.samples_per_second / 1e6:9.2f} M samples/s{times:9.1f} x")
    return "\n".join(lines)


def _measure(case: Case, engine: str, threads: int, cxx: str) -> float:
    request = json.dumps({"case": asdict(case), "engine": engine, "threads": threads, "seconds": SECONDS})
    with tempfile.TemporaryDirectory() as cache:
        changes = {"OPENBLAS_NUM_THREADS": str(threads), environment.NUM_THREADS.name: str(threads)}
        if cxx:
            changes |= {environment.CXX.name: cxx, environment.CACHE.name: cache}
        command = [sys.executable, "-m", "backprop_xp.bench.ablation", request]
        result = subprocess.run(command, capture_output=True, text=True, env=environment.passed_on(changes), check=True)
    return float(result.stdout.split()[-1])


def main(request: str) -> None:
    asked = json.loads(request)
    allocator.keep()
    case = Case.from_json(asked["case"])
    net, (x, y) = case.net(engine=asked["engine"], threads=asked["threads"], backend="numpy"), case.arrays()
    net.loss_and_grad(x, y)
    seconds = []
    begin = time.perf_counter()
    while len(seconds) < 5 or time.perf_counter() - begin < asked["seconds"]:
        start = time.perf_counter()
        net.loss_and_grad(x, y)
        seconds.append(time.perf_counter() - start)
    print(case.samples / sorted(seconds)[len(seconds) // 2])


if __name__ == "__main__":
    main(sys.argv[1])
