"""`backprop-xp bench`: from its arguments to the table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from backprop_xp.bench import ablation, contenders, limits, limits_gpu, plot, report, sass, training
from backprop_xp.bench.cases import ARTICLE, DEFAULT, GPU, Case, chain, parse_net
from backprop_xp.bench.run import Settings, run_case, sweeps

from backprop_xp import __version__, engines, get_backend
from backprop_xp.backend import Backend
from backprop_xp.files import check_outputs

PLOTTED_BATCHES = tuple(1 << k for k in range(0, 21, 2))


def run(arguments: argparse.Namespace, threads: int) -> int:
    """Measure what was asked for and print it; returns the exit code: 1 if a gradient was wrong."""
    settings = _settings(arguments, threads)
    backend = get_backend(settings.backend)
    _check_outputs(arguments, backend)
    cases = _cases(arguments, GPU if backend.on_gpu else DEFAULT)
    for flag, package in (("compile", "torch"), ("jax", "jax")):
        if getattr(arguments, flag) and not contenders.available(package):
            raise ValueError(f"--{flag} needs {package}, which is not installed")
    with _Progress() as progress:
        progress.show("limits of this machine", 0.0)
        machine = limits_gpu.measure(backend) if backend.on_gpu else limits.measure(threads)
        environment = _environment(settings)  # here a GPU's clocks are those of a busy one
        progress.write(report.describe(machine, environment["machine"]))
        results = []
        for case in cases:
            result = run_case(case, settings, progress.show)
            if backend.on_gpu:
                result.notes += sass.reached(result, backend, machine)
            results.append(result)
            progress.write("\n" + report.table([result], machine))
        trained = []
        whole = arguments.net is arguments.dtype is arguments.batch is None
        if whole and settings.backend == "numpy" and training.available():
            chosen = (training.CASES, training.MANY_SEEDS) if arguments.full else (training.QUICK, training.SEEDS)
            trained = training.run(chosen[0], threads, chosen[1], progress.show)
            progress.write("\n" + training.table(trained))
        families = {}
        steps = []
        if arguments.full and not backend.on_gpu:
            for case in ablation.CASES:
                progress.show(f"what each step brings: {case.name}", 0.0)
                steps += ablation.run(case, threads)
            progress.write("\n" + ablation.table(steps))
        if arguments.full:
            families = sweeps(settings, progress.show)
        elif arguments.plot is not None:
            quick = replace(settings, budget=1.0, memory=False)
            families = {"batch": [run_case(cases[0].with_samples(n), quick, progress.show) for n in PLOTTED_BATCHES]}
    for family, swept in families.items():
        print(f"\nover {family}\n" + report.table(swept, machine))
    everything = [*results, *(result for swept in families.values() for result in swept)]
    environment |= {"ablation": [asdict(step) for step in steps], "training": [asdict(row) for row in trained]}
    markdown = f"{report.markdown(everything, machine)}\n"
    if arguments.json is not None:
        report.write_json(arguments.json, everything, machine, environment)
    if arguments.markdown is not None:
        report.replace_file(arguments.markdown, markdown.encode())
    if arguments.results is not None:
        named = arguments.results / report.file_name(environment["device"])
        report.write_json(named.with_suffix(".json"), everything, machine, environment)
        about = report.describe(machine, environment["machine"]).replace("\n", "\n\n")
        report.replace_file(named.with_suffix(".md"), f"{about}\n\n{markdown}".encode())
        print(f"\nwritten: {named}.json and .md")
    if arguments.plot is not None:
        plot.throughput(arguments.plot, families)
    return 1 if any(result.refused for result in everything) else 0


def _settings(arguments: argparse.Namespace, threads: int) -> Settings:
    chosen = tuple(arguments.engines.split(","))
    backend = get_backend(arguments.backend)
    if arguments.full and arguments.engines == "auto":
        others = engines.ON_GPU if backend.on_gpu else engines.ON_CPU
        chosen = ("auto", *(engine for engine in others if engine != "fused"))
    for engine in chosen:
        if engine not in ("auto", *engines.ENGINES):
            raise ValueError(f"--engines takes auto, {', '.join(engines.ENGINES)}, got {engine!r}")
    if not arguments.seconds > 0:
        raise ValueError(f"--seconds must be positive, got {arguments.seconds}")
    with_jax = arguments.jax or (arguments.full and contenders.available("jax"))
    compiled = arguments.compile or arguments.full
    return Settings(threads, chosen, compiled, with_jax, backend.name, arguments.seconds, memory=not backend.on_gpu)


def _check_outputs(arguments: argparse.Namespace, backend: Backend) -> None:
    """Refuse what could not be written after the measurements."""
    names = ("json", "markdown", "plot")
    outputs = {f"--{name}": path for name in names if (path := getattr(arguments, name)) is not None}
    if arguments.results is not None:
        arguments.results.mkdir(parents=True, exist_ok=True)
        device = limits_gpu.describe(backend)["device"] if backend.on_gpu else report.processor()
        named = arguments.results / report.file_name(device)
        outputs |= {f"--results ({kind})": named.with_suffix(kind) for kind in (".json", ".md")}
    check_outputs(outputs)
    if arguments.plot is not None and not contenders.available("matplotlib"):
        raise ValueError("--plot needs matplotlib: pip install 'backprop-xp[bench]'")


def _cases(arguments: argparse.Namespace, suite: Sequence[Case]) -> Sequence[Case]:
    cases = suite
    if arguments.net is not None:
        sizes = parse_net(arguments.net)
        same = [case for case in suite if case.sizes == sizes and case.form == "chain"]
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


def _environment(settings: Settings) -> dict[str, Any]:
    versions = {"backprop_xp": __version__, "numpy": np.__version__, "python": sys.version.split()[0]}
    backend = get_backend(settings.backend)
    device, machine = report.processor(), f"{report.processor()}, {settings.threads} threads"
    about: dict[str, Any] = {"processor": device}
    if contenders.available("torch"):
        import torch

        versions["torch"] = torch.__version__
        versions["torch TF32"] = "on" if torch.backends.cuda.matmul.allow_tf32 else "off"
    if backend.on_gpu:
        versions["cupy"] = backend.xp.__version__
        about["gpu"] = found = limits_gpu.describe(backend)
        device = found["device"]
        tf32 = f"TF32 in CuPy: {found['TF32 in CuPy']}, in PyTorch: {versions.get('torch TF32', 'not installed')}"
        machine = f"{device}, {found['multiprocessors']} multiprocessors, {found['memory']}\n"
        machine += f"clocks: {found['clocks']}; {tf32}"
    return about | {"device": device, "machine": machine, "versions": versions, "settings": asdict(settings)}


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
