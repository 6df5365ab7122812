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
    first_call,
    grid,
    heat_map,
    limits,
    limits_gpu,
    report,
    sass,
    training,
    worker,
)
from backprop_xp.bench.cases import ARTICLE, DEFAULT, DERIVATIVES, GPU, Case, chain, parse_net
from backprop_xp.bench.output import Run
from backprop_xp.bench.run import run_case, sweeps
from backprop_xp.bench.settings import Settings
from backprop_xp.bench.worker import Worker

from backprop_xp import engines, get_backend
from backprop_xp.backend import Backend
from backprop_xp.files import check_outputs

PLOTTED_BATCHES = tuple(1 << k for k in range(0, 21, 2))


def run(arguments: argparse.Namespace, threads: int) -> int:
    """Measure what was asked for and print it; returns the exit code: 1 if a gradient was wrong.

    A busy machine is no error: the tables, the files and the last lines say that nothing is to be quoted.
    """
    load_before, begin = busy.load(), time.monotonic()
    settings = _settings(arguments, threads)
    backend = get_backend(settings.backend)
    _check_outputs(arguments, backend)
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
        results: list[report.Result] = []
        left_out = list(cases)
        for case in cases:
            if not _fits(arguments.within, time.monotonic() - begin, len(results)):
                break
            result = _case(case, settings, progress, workers, backend)
            watch.after([result])
            if backend.on_gpu:
                result.notes += sass.reached(result, backend, watch.limits)
            results.append(result)
            left_out.remove(case)
            progress.write("\n" + report.table([result], watch.limits))
            Run(watch, about, results, {}, left_out=left_out).write_unfinished(arguments)
        trained = []
        whole = arguments.net is arguments.dtype is arguments.batch is None
        if whole and settings.backend == "numpy" and training.available():
            chosen = (training.CASES, training.MANY_SEEDS) if arguments.full else (training.QUICK, training.SEEDS)
            trained = training.run(chosen[0], threads, chosen[1], progress.show)
            progress.write("\n" + training.table(trained))
        families: dict[str, list[report.Result]] = {}
        steps, first_calls = [], []
        if arguments.full and not backend.on_gpu:
            for case in ablation.CASES:
                progress.show(f"what each step brings: {case.name}", 0.0)
                steps += ablation.run(case, threads)
            progress.write("\n" + ablation.table(steps))
        if arguments.full:
            families = sweeps(settings, progress.show, workers)
            if not backend.on_gpu:
                quick = replace(settings, engines=("auto",), memory=False)
                derived = [run_case(case, quick, progress.show, workers) for case in DERIVATIVES]
                families["losses with derivatives"] = derived
        elif arguments.plot is not None:
            quick = replace(settings, budget=1.0, memory=False)
            swept = [cases[0].with_samples(n) for n in PLOTTED_BATCHES]
            families = {"batch": [run_case(case, quick, progress.show, workers) for case in swept]}
        if whole and settings.backend == "numpy" and contenders.available("torch"):
            parts = grid.WHOLE if arguments.full else grid.QUICK
            points = grid.run(parts, settings, progress.show, workers)
            for part in parts:
                for rival in (contenders.EAGER, grid.FASTEST) if arguments.full else (contenders.EAGER,):
                    progress.write("\n" + grid.table(part, points[part.family], rival))
            families |= points
            if arguments.full:
                first_calls = first_call.run(*grid.first_calls(), settings, progress.show)
                progress.write("\n" + first_call.table(first_calls))
        for swept_results in families.values():
            watch.after(swept_results)
    ended = Run(watch, about, results, families, steps, trained, left_out, first_calls)
    for family, swept_results in families.items():
        if not family.startswith(grid.FAMILY):
            print(f"\nover {family}\n" + report.table(swept_results, watch.limits))
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
        others = engines.ON_GPU if backend.on_gpu else engines.ON_CPU
        chosen = ("auto", *(engine for engine in others if engine != "fused"))
    for engine in chosen:
        if engine not in ("auto", *engines.ENGINES):
            raise ValueError(f"--engines takes auto, {', '.join(engines.ENGINES)}, got {engine!r}")
    for name, value in (("--seconds", arguments.seconds), ("--within", arguments.within)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    with_jax = arguments.jax or (arguments.full and contenders.available("jax"))
    compiled = arguments.compile or arguments.full
    return Settings(threads, chosen, compiled, with_jax, backend.name, arguments.seconds, memory=not backend.on_gpu)


def _check_outputs(arguments: argparse.Namespace, backend: Backend) -> None:
    """Refuse what could not be written after the measurements."""
    outputs = {f"--{name}": path for name in ("json", "markdown") if (path := getattr(arguments, name)) is not None}
    pictures = {} if arguments.plot is None else {"--plot": arguments.plot}
    if arguments.results is not None:
        arguments.results.mkdir(parents=True, exist_ok=True)
        device = limits_gpu.describe(backend)["device"] if backend.on_gpu else environment.processor()
        named = arguments.results / report.file_name(device)
        outputs |= {f"--results ({kind})": named.with_suffix(kind) for kind in (".json", ".md")}
        pictures |= {"--results (.png)": named.with_suffix(".png")} if arguments.full else {}
    if arguments.full:
        pictures |= {f"{name}, of the grid": heat_map.beside(path) for name, path in pictures.items()}
    check_outputs(outputs | pictures)
    if pictures and not contenders.available("matplotlib"):
        raise ValueError("--plot needs matplotlib: pip install 'backprop-xp[bench]'")


def _cases(arguments: argparse.Namespace, suite: Sequence[Case]) -> Sequence[Case]:
    cases = suite
    if arguments.net is not None:
        sizes = parse_net(arguments.net)
        same = [case for case in suite if case.sizes == sizes and case.form == "chain" and not case.equation]
        new = Case(arguments.net, sizes, chain("tanh", len(sizes) - 1), 1 << 16)
        cases = same or [replace(new, dtype=arguments.dtype or "float32")]
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
    """A bar on a terminal, nothing elsewhere; results are printed above it."""

    def __enter__(self) -> _Progress:
        self._bar: Any = None
        if sys.stderr.isatty() and contenders.available("tqdm"):
            from tqdm import tqdm

            self._bar = tqdm(total=100, leave=False, bar_format="{desc:45} {bar:30} {percentage:3.0f} %")
        return self

    def show(self, what: str, share: float) -> None:
        if self._bar is not None:
            self._bar.set_description_str(what[:45], refresh=False)
            self._bar.n = round(100 * share)
            self._bar.refresh()

    def write(self, text: str) -> None:
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
