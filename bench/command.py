"""`backprop-xp bench`: from its arguments to the table."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from backprop_xp.bench import (
    ablation,
    busy,
    contenders,
    environment,
    estimators,
    first_call,
    grid,
    heat_map,
    in_pytorch,
    limits,
    limits_gpu,
    report,
    sass,
    training,
    worker,
)
from backprop_xp.bench.cases import ARTICLE, DEFAULT, DERIVATIVES, GPU, IN_PYTORCH, Case, own, parse_net
from backprop_xp.bench.output import Found, Run, named
from backprop_xp.bench.run import SWEEPS, run_case, sweep
from backprop_xp.bench.settings import Settings
from backprop_xp.bench.tables import packaged
from backprop_xp.bench.worker import Worker

from backprop_xp import engines, get_backend
from backprop_xp.backend import Backend
from backprop_xp.engines.on_gpu import ON_GPU
from backprop_xp.files import check_outputs
from backprop_xp.inputs import one_of
from backprop_xp.precision import PRECISIONS

PLOTTED_BATCHES = tuple(1 << k for k in range(0, 21, 2))
#: What a run consists of, in this order; and what of it is done without --full.
PARTS = ("cases", "derivatives", "in-pytorch", "training", "estimators", "ablation", "sweeps", "grid", "first-calls")
QUICK_PARTS = ("cases", "training", "grid")


def run(arguments: argparse.Namespace, threads: int) -> int:
    """Measure what was asked for and print it; returns the exit code: 1 if a gradient was wrong.

    A busy machine is no error: the tables, the files and the last lines say that nothing is to be quoted.
    """
    load_before, begin = busy.load(), time.monotonic()
    settings = _settings(arguments, threads)
    backend = get_backend(settings.backend)
    _check_outputs(arguments, backend)
    parts = _parts(arguments, backend)
    cases = _cases(arguments, GPU if backend.on_gpu else DEFAULT)
    for flag, package in (("compile", "torch"), ("jax", "jax")):
        if getattr(arguments, flag) and not contenders.available(package):
            raise ValueError(f"--{flag} needs {package}, which is not installed")
    with _Progress() as progress, _workers(backend) as (workers, memory), _peak(backend) as peak:
        progress.show("limits of this machine", 0.0)
        measured = limits_gpu.measure(backend) if backend.on_gpu else limits.measure(threads, peak)
        watch = busy.Watch(measured, peak, threads, load_before)
        about = environment.describe(settings, memory)  # here a GPU's clocks are those of a busy one
        progress.write(report.describe(watch.limits, about["machine"]))
        found = Found(left_out=list(cases) if "cases" in parts else [])
        for case in tuple(found.left_out):
            if not _fits(arguments.within, time.monotonic() - begin, len(found.results)):
                break
            result = _case(case, settings, progress, workers, backend)
            watch.after(result)
            if backend.on_gpu:
                result.notes += sass.reached(result, backend, watch.limits)
            found.results.append(result)
            found.left_out.remove(case)
            progress.write("\n" + report.table([result], watch.limits))
            Run(watch, about, found).write_unfinished(arguments)
        if "training" in parts:
            chosen = (training.CASES, training.MANY_SEEDS) if arguments.full else (training.QUICK, training.SEEDS)
            found.trained = training.run(chosen[0], threads, chosen[1], progress.show)
            progress.write("\n" + training.table(found.trained))
        if "estimators" in parts:

            def after(rows: list[estimators.Row]) -> None:
                found.estimated = rows
                Run(watch, about, found).write_unfinished(arguments)

            left = (
                estimators.MOST_SECONDS if arguments.within is None else arguments.within - (time.monotonic() - begin)
            )
            estimators.run(packaged(), threads, progress=progress.show, seconds=left, after=after)
            progress.write("\n" + estimators.report(found.estimated))
        if "ablation" in parts:
            for case in ablation.CASES:
                progress.show(f"what each step brings: {case.name}", 0.0)
                found.steps += ablation.run(case, threads)
            progress.write("\n" + ablation.table(found.steps))
        curves = SWEEPS if "sweeps" in parts else {}
        if "derivatives" in parts:
            curves = {"losses with derivatives": DERIVATIVES} | curves
        if "sweeps" not in parts and arguments.plot is not None and "cases" in parts:
            curves |= {"batch": [cases[0].with_samples(n) for n in PLOTTED_BATCHES]}
        swept = [(curves, settings)]
        if "in-pytorch" in parts:
            counts = sorted({1, threads})
            swept += [({in_pytorch.family(n): IN_PYTORCH}, replace(settings, threads=n)) for n in counts]
        for curves, chosen in swept:
            for family, result in sweep(curves, chosen, progress.show, workers):
                watch.after(result)
                found.families.setdefault(family, []).append(result)
                Run(watch, about, found).write_unfinished(arguments)
        if "grid" in parts:
            tables = grid.WHOLE if arguments.full else grid.QUICK
            seconds = grid.MOST_SECONDS if arguments.within is None else arguments.within - (time.monotonic() - begin)
            found.families |= {part.family: [] for part in tables}
            for family, result in grid.run(tables, settings, progress.show, workers, seconds=seconds):
                watch.after(result)
                found.families[family].append(result)
                Run(watch, about, found).write_unfinished(arguments)
            for part in tables:
                for rival in (contenders.EAGER, grid.FASTEST) if arguments.full else (contenders.EAGER,):
                    progress.write("\n" + grid.table(part, found.families[part.family], rival))
        if "first-calls" in parts:
            found.first_calls = first_call.run(*grid.first_calls(), settings, progress.show)
            progress.write("\n" + first_call.table(found.first_calls))
    ended = Run(watch, about, found)
    for family, points in found.families.items():
        if not family.startswith(grid.FAMILY):
            print(f"\nover {family}\n" + report.table(points, watch.limits))
    print("\n" + "\n".join(ended.closing))
    ended.write(arguments)
    return 1 if any(result.refused for result in ended.everything) else 0


def _fits(within: float | None, spent: float, cases: int) -> bool:
    """Whether another case ends in time if it takes what so many did on average; the first one always does."""
    return within is None or not cases or spent + spent / cases <= within


def _case(
    case: Case, settings: Settings, progress: _Progress, workers: Sequence[Worker], backend: Backend
) -> report.Result:
    """One case; on a GPU the run goes on if it fails."""
    try:
        return run_case(case, settings, progress.show, workers)
    except Exception as error:
        if not backend.on_gpu:  # where it is a worker's process that failed, which the other cases need
            raise
        return report.Result(case, refused=f"{type(error).__name__}: {str(error).strip()[:500]}")


@contextmanager
def _workers(backend: Backend) -> Iterator[tuple[Sequence[Worker], str]]:
    """Who holds the contenders, and a sentence on their memory."""
    if backend.on_gpu:
        yield [worker.Here()], "memory of the device: CuPy's and PyTorch's own pools, which keep it"
    else:
        with worker.processes() as found:
            yield found


@contextmanager
def _peak(backend: Backend) -> Iterator[limits.Peak]:
    """The multiply-add loop of the device that is measured."""
    if backend.on_gpu:
        yield lambda threads: limits_gpu.peak(backend)
    else:
        with limits.peak_loop() as peak:
            yield peak


def _settings(arguments: argparse.Namespace, threads: int) -> Settings:
    chosen = tuple(arguments.engines.split(","))
    backend = get_backend(arguments.backend)
    if arguments.full and arguments.engines == "auto":
        others = ON_GPU if backend.on_gpu else engines.ON_CPU
        chosen = ("auto", *(engine for engine in others if engine != "fused"))
    for engine in chosen:
        one_of("engine of --engines", engine, ("auto", *engines.ENGINES))
    if arguments.precision:
        one_of("precision of --precision", arguments.precision, PRECISIONS)
    for name, value in (("--seconds", arguments.seconds), ("--within", arguments.within)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    with_jax = arguments.jax or (arguments.full and contenders.available("jax"))
    compiled = arguments.compile or arguments.full
    return Settings(
        threads, chosen, compiled, with_jax, backend.name, arguments.seconds, not backend.on_gpu, arguments.precision
    )


def _parts(arguments: argparse.Namespace, backend: Backend) -> list[str]:
    """What is to be measured, in the order of PARTS: what --only names, without what can't be done here."""
    wanted = PARTS if arguments.full else QUICK_PARTS
    if arguments.only is not None:
        wanted = tuple(arguments.only.split(","))
        for part in wanted:
            one_of("part of --only", part, PARTS)
    whole = arguments.net is arguments.dtype is arguments.batch is None
    on_cpu = {
        "derivatives": whole,
        "in-pytorch": whole and contenders.available("torch"),
        "training": whole and training.available(),
        "estimators": whole and contenders.available("sklearn"),
        "ablation": True,
        "grid": whole and contenders.available("torch"),
        "first-calls": whole and contenders.available("torch"),
    }
    return [part for part in PARTS if part in wanted and (part not in on_cpu or (not backend.on_gpu and on_cpu[part]))]


def _check_outputs(arguments: argparse.Namespace, backend: Backend) -> None:
    """Refuse what could not be written after the measurements."""
    outputs = {f"--{name}": path for name in ("json", "markdown") if (path := getattr(arguments, name)) is not None}
    pictures = {} if arguments.plot is None else {"--plot": arguments.plot}
    if arguments.results is not None:
        arguments.results.mkdir(parents=True, exist_ok=True)
        device = limits_gpu.describe(backend)["device"] if backend.on_gpu else environment.processor()
        path = named(arguments, device)
        outputs |= {f"--results ({kind})": path.with_suffix(kind) for kind in (".json", ".md")}
        pictures |= {"--results (.png)": path.with_suffix(".png")} if arguments.full else {}
    if arguments.full:
        pictures |= {f"{name}, of the grid": heat_map.beside(path) for name, path in pictures.items()}
    check_outputs(outputs | pictures)
    if pictures and not contenders.available("matplotlib"):
        raise ValueError("--plot needs matplotlib: pip install 'backprop-xp[bench]'")


def _cases(arguments: argparse.Namespace, suite: Sequence[Case]) -> Sequence[Case]:
    cases = suite
    if arguments.net is None and (arguments.activations or arguments.loss or arguments.bias):
        raise ValueError("--activations, --loss and --bias are of the net that --net names")
    if arguments.net is not None:
        sizes = parse_net(arguments.net)
        asked = (arguments.activations, arguments.loss, arguments.bias)
        same = [
            case for case in suite if case.sizes == sizes and case.form == "chain" and not (case.equation or any(asked))
        ]
        cases = same or [own(arguments.net, *asked, arguments.dtype or "float32")]
    if arguments.dtype:
        wanted = [case for case in cases if case.dtype == arguments.dtype]
        cases = wanted or [replace(cases[0], dtype=arguments.dtype)]
    if not contenders.available("sklearn"):
        cases = [case for case in cases if case.data != "digits"]
    if arguments.batch is not None:
        if arguments.batch < 1:
            raise ValueError(f"--batch must be at least 1, got {arguments.batch}")
        cases = list(dict.fromkeys(case.with_samples(arguments.batch) for case in cases))
    return cases or [ARTICLE]


class _Progress:
    """A bar on a terminal, elsewhere a line on standard error for whatever begins; results are printed above it."""

    def __enter__(self) -> _Progress:
        self._bar: Any = None
        self._shown, self._begin = "", time.monotonic()
        if sys.stderr.isatty() and contenders.available("tqdm"):
            from tqdm import tqdm

            self._bar = tqdm(total=100, leave=False, bar_format="{desc:45} {bar:30} {percentage:3.0f} %")
        return self

    def show(self, what: str, share: float) -> None:
        if self._bar is not None:
            self._bar.set_description_str(what[:45], refresh=False)
            self._bar.n = round(100 * share)
            self._bar.refresh()
        elif what != self._shown:
            self._shown = what
            print(f"{time.monotonic() - self._begin:6.0f} s  {what}", file=sys.stderr, flush=True)

    def write(self, text: str) -> None:
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
