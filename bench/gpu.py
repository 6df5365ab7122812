"""What `make gpu` runs where there is a CUDA device: the proof and the speed, in stages (`stages.py`) of some minutes.

facts        the machine, and every engine once against NumPy in float64 (`smoke.py`)
tests        the GPU tests, in several processes where pytest-xdist is installed; beside them `warm.py`
bench        the most important case first; results are on disk after each
sanitizers   memcheck without CuPy's pools, racecheck, synccheck and initcheck, side by side
profile      Nsight Compute on the two kernels that matter most

python -m backprop_xp.bench.gpu --minutes 8
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backprop_xp.bench import profile, stages
from backprop_xp.bench.stages import Command, Stage

#: Of a run's time, in proportion.
SHARES = {"facts": 40, "tests": 120, "bench": 170, "sanitizers": 100, "profile": 25}
MOST_WORKERS = 12  # of pytest: each has a context on the device, and the compiler is what they share
FOUND = 9  # the code by which a sanitizer says that it found something
#: Seconds that the benchmark keeps back of its box, to write and to end; and cases that it is to fit into a box, with
#: proofs and compilations about as long again as the timing.
CLOSING, CASES = 5.0, 20
ELSEWHERE = ("/usr/local/cuda/bin",)  # where tools are that aren't on the PATH
PYTEST = ("-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider")
#: It runs all of this.
ITSELF = "tests/test_makefile.py"


@dataclass(frozen=True)
class Check:
    """Tests under one of the tools of compute-sanitizer; ``chosen`` is pytest's -k."""

    tool: str
    what: str
    tests: tuple[str, ...]
    chosen: str = ""


FUSED, COOPERATIVE = "tests/engines/test_fused_gpu.py", "tests/engines/test_cooperative.py"
EQUATIONS = "tests/engines/test_cooperative_equation.py"
SMALL = "article or any_grid or odd_batch"
OTHERS = (
    "tests/test_repeated.py", "tests/test_torch_layer.py", "tests/toolchain", "tests/programs", "tests/graph",
    "tests/training",
)  # fmt: skip
CHECKS = (
    Check("memcheck", "engines", ("tests/engines", "tests/passes", "tests/ready", "tests/sums")),
    Check("memcheck", "others", OTHERS),
    Check("memcheck", "layered", ("tests/test_net_gpu.py",)),
    Check("racecheck", "fused", (FUSED,), "article or any_grid or uneven"),
    Check("racecheck", "cooperative", (COOPERATIVE,), "odd_batch or slices or 128 or probabilities"),
    Check("racecheck", "equations", (EQUATIONS,), "loops or added"),
    Check("racecheck", "layered", ("tests/test_net_gpu.py",), "odd_batch_sizes or every_loss"),
    Check("synccheck", "blocks", (FUSED, COOPERATIVE), SMALL),
    Check("initcheck", "blocks", (FUSED, COOPERATIVE), SMALL),
)  # fmt: skip


def plan(results: Path, tests: Sequence[str] = (), bench: Sequence[str] = (), small: bool = False) -> list[Stage]:
    """The stages.

    Args:
        results: a folder for the benchmark's results.
        tests: arguments for pytest in the place of all tests and of those of every check.
        bench: arguments for the benchmark.
        small: the least of everything, to see that it runs.
    """
    least = ("--small",) if small else ()

    def facts(seconds: float) -> list[Command]:
        return [Command("facts", _module("smoke", *least))]

    def test(seconds: float) -> list[Command]:
        workers = min(MOST_WORKERS, os.cpu_count() or 1)
        together = workers > 1 and not small and importlib.util.find_spec("xdist") is not None
        several = ("-n", str(workers), "--dist", "worksteal") if together else ()
        shown = ("-rfE", "--tb=short", "--durations=15", f"--ignore={ITSELF}")
        return [
            Command("tests", (sys.executable, *PYTEST, *several, *shown, *tests)),
            Command("warm", _module("warm", *least), counts=False),
        ]

    def measure(seconds: float) -> list[Command]:
        within = max(1.0, seconds - CLOSING)
        limits = ("--within", f"{within:.0f}", "--seconds", f"{within / CASES:.2f}")
        command = (sys.executable, "-m", "backprop_xp", "bench", "--backend", "cupy", "--results", str(results))
        return [Command("bench", (*command, *limits, *bench))]

    def check(seconds: float) -> list[Command]:
        return [_sanitized(one, tests) for one in CHECKS]

    def profiled(name: str) -> Stage:
        kernel = profile.CASES[name].kernel
        options = ("--clock-control", "none", "--set", "full", "-k", kernel, "-s", "1", "-c", "1")
        command = (_tool("ncu"), *options, *_module("profile", name, *least))
        lacking = _lacking("ncu")
        return Stage(
            f"profile-{name}", SHARES["profile"], lambda seconds: [Command(f"profile-{name}", command)], lacking
        )

    return [
        Stage("facts", SHARES["facts"], facts),
        Stage("tests", SHARES["tests"], test),
        Stage("bench", SHARES["bench"], measure),
        Stage("sanitizers", SHARES["sanitizers"], check, _lacking("compute-sanitizer")),
        *map(profiled, profile.CASES),
    ]


def _sanitized(check: Check, tests: Sequence[str]) -> Command:
    sanitizer = (
        _tool("compute-sanitizer"),
        "--tool",
        check.tool,
        "--error-exitcode",
        str(FOUND),
        "--report-api-errors",
        "no",
    )
    alone = ("-p", "backprop_xp.bench.nopool", "-p", "no:xdist", "-x", "--tb=short", f"--ignore={ITSELF}")
    chosen = tests or (*check.tests, *(("-k", check.chosen) if check.chosen else ()))
    return Command(f"{check.tool}-{check.what}", (*sanitizer, sys.executable, *PYTEST, *alone, *chosen))


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return sys.executable, "-m", f"backprop_xp.bench.{name}", *arguments


def _tool(name: str) -> str:
    """Where this program is, "" if nowhere."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(ELSEWHERE)) or ""


def _lacking(name: str) -> str:
    return "" if _tool(name) else f"{name} is not installed"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m backprop_xp.bench.gpu", description="the proof, then the speed", allow_abbrev=False
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="of the whole run, about (default: 8)")
    parser.add_argument("--out", type=Path, default=Path("build", "gpu"), help="folder for what is printed")
    parser.add_argument(
        "--results", type=Path, default=Path("bench", "results"), help="folder for the benchmark's results"
    )
    parser.add_argument("--tests", default="", help="arguments for pytest, in the place of all tests")
    parser.add_argument("--bench", default="", help="arguments for the benchmark")
    parser.add_argument("--small", action="store_true", help="the least of everything, to see that it runs")
    chosen = parser.parse_args(arguments)
    if not 0 < chosen.minutes < float("inf"):
        parser.error(f"--minutes must be a positive number, got {chosen.minutes}")
    planned = plan(chosen.results, shlex.split(chosen.tests), shlex.split(chosen.bench), chosen.small)
    return stages.run(planned, 60 * chosen.minutes, chosen.out, lambda line: print(line, flush=True))


if __name__ == "__main__":
    sys.exit(main())
