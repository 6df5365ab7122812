"""`backprop-xp bench`: from its arguments to the table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from backprop_xp.bench import ablation, contenders, limits, plot, report, training
from backprop_xp.bench.cases import ARTICLE, DEFAULT, Case, chain, parse_net
from backprop_xp.bench.run import Settings, run_case, sweeps

from backprop_xp import __version__, engines, get_backend

PLOTTED_BATCHES = tuple(1 << k for k in range(0, 21, 2))


def run(arguments: argparse.Namespace, threads: int) -> int:
    """Measure what was asked for and print it; returns the exit code: 1 if a gradient was wrong."""
    settings = _settings(arguments, threads)
    cases = _cases(arguments)
    for flag, package in (("compile", "torch"), ("jax", "jax")):
        if getattr(arguments, flag) and not contenders.available(package):
            raise ValueError(f"--{flag} needs {package}, which is not installed")
    with _Progress() as progress:
        progress.show("limits of this machine", 0.0)
        machine = limits.measure(threads)
        progress.write(report.describe(machine, threads))
        results = []
        for case in cases:
            result = run_case(case, settings, progress.show)
            results.append(result)
            progress.write("\n" + report.table([result], machine))
        trained = []
        whole = not (arguments.net or arguments.dtype or arguments.batch)
        if whole and settings.backend == "numpy" and training.available():
            chosen = training.CASES if arguments.full else training.QUICK
            trained = training.run(chosen, threads, progress=progress.show)
            progress.write("\n" + training.table(trained))
        families = {}
        steps = []
        if arguments.full:
            for case in ablation.CASES:
                progress.show(f"what each step brings: {case.name}", 0.0)
                steps += ablation.run(case, threads)
            progress.write("\n" + ablation.table(steps))
            families = sweeps(settings, progress.show)
        elif arguments.plot:
            quick = replace(settings, budget=1.0, memory=False)
            families = {"batch": [run_case(cases[0].with_samples(n), quick, progress.show) for n in PLOTTED_BATCHES]}
    for family, swept in families.items():
        print(f"\nover {family}\n" + report.table(swept, machine))
    everything = [*results, *(result for swept in families.values() for result in swept)]
    if arguments.json:
        environment = _environment(settings) | {
            "ablation": [asdict(step) for step in steps],
            "training": [asdict(row) for row in trained],
        }
        report.write_json(arguments.json, everything, machine, environment)
    if arguments.markdown:
        report.replace_file(arguments.markdown, (report.markdown(everything, machine) + "\n").encode())
    if arguments.plot:
        plot.throughput(arguments.plot, families)
    return 1 if any(result.refused for result in everything) else 0


def _settings(arguments: argparse.Namespace, threads: int) -> Settings:
    chosen = tuple(arguments.engines.split(","))
    if arguments.full and arguments.engines == "auto":
        others = engines.ON_GPU if get_backend(arguments.backend).on_gpu else engines.ON_CPU
        chosen = ("auto", *(engine for engine in others if engine != "fused"))
    for engine in chosen:
        if engine not in ("auto", *engines.ENGINES):
            raise ValueError(f"--engines takes auto, {', '.join(engines.ENGINES)}, got {engine!r}")
    if not arguments.seconds > 0:
        raise ValueError(f"--seconds must be positive, got {arguments.seconds}")
    with_jax = arguments.jax or (arguments.full and contenders.available("jax"))
    backend = get_backend(arguments.backend).name
    return Settings(
        threads, chosen, arguments.compile or arguments.full, with_jax, backend, arguments.seconds, backend == "numpy"
    )


def _cases(arguments: argparse.Namespace) -> Sequence[Case]:
    cases: Sequence[Case] = DEFAULT
    if arguments.net:
        sizes = parse_net(arguments.net)
        same = [case for case in DEFAULT if case.sizes == sizes and case.form == "chain"]
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
        cases = [case.with_samples(arguments.batch) for case in cases]
    return cases or [ARTICLE]


def _environment(settings: Settings) -> dict[str, Any]:
    versions = {"backprop_xp": __version__, "numpy": np.__version__, "python": sys.version.split()[0]}
    if contenders.available("torch"):
        import torch

        versions["torch"] = torch.__version__
        versions["torch TF32"] = str(torch.backends.cuda.matmul.allow_tf32)
    return {"processor": report.processor(), "versions": versions, "settings": asdict(settings)}


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
