"""One run of the benchmark: cases, contenders, proof, timing, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import threadpoolctl
from backprop_xp.bench import contenders, measure, memory
from backprop_xp.bench.cases import BATCHES, DEPTHS, WIDTHS, Case
from backprop_xp.bench.contenders import EAGER, Contender
from backprop_xp.bench.report import Result, Row


@dataclass(frozen=True)
class Settings:
    """What to measure and how.

    Attributes:
        threads: of every contender.
        engines: of ours; "auto" is what a user gets.
        compile, jax: whether torch.compile and JAX take part.
        backend: of ours; PyTorch goes to the same device.
        budget: seconds of timing a case.
        memory: whether to measure it, in processes of their own.
    """

    threads: int
    engines: tuple[str, ...] = ("auto",)
    compile: bool = False
    jax: bool = False
    backend: str | None = "numpy"
    budget: float = 10.0
    memory: bool = True


Progress = Callable[[str, float], None]


def run(cases: Sequence[Case], settings: Settings, progress: Progress = lambda what, share: None) -> Iterator[Result]:
    """Results case by case."""
    for case in cases:
        yield run_case(case, settings, progress)


def run_case(case: Case, settings: Settings, progress: Progress = lambda what, share: None) -> Result:
    """Prove the gradients equal, then time everybody in turn, then measure memory."""
    title = f"{case.name} {case.samples:,} x {case.dtype}"
    progress(title, 0.0)
    with threadpoolctl.threadpool_limits(settings.threads, "blas"):
        everybody = _contenders(case, settings)
        result = Result(case)
        eager = [c for c in everybody if c.name == EAGER]
        if eager:
            others = [c for c in everybody if c is not eager[0]]
            try:
                result.difference = measure.prove_equal(eager[0], others, case.dtype)
            except measure.WrongGradient as error:
                result.refused = str(error)
                return result
        else:
            for contender in everybody:
                contender.step()
        timings = measure.alternate(everybody, settings.budget, lambda share: progress(title, share))
    baseline = measure.fastest_form(timings, EAGER)
    for name in dict.fromkeys(c.name for c in everybody):
        timing = measure.fastest_form(timings, name)
        assert timing is not None
        extra = None
        if settings.memory:
            progress(f"{title}: memory of {name}", 1.0)
            extra = memory.extra_bytes(case, name, timing.contender.form, settings.threads)
        speedup = timing.speedup_over(baseline) if baseline else None
        rate = case.samples / timing.median
        result.rows.append(Row(name, timing.contender.form, rate, timing.spread, speedup, extra))
    return result


def sweeps(settings: Settings, progress: Progress = lambda what, share: None) -> dict[str, list[Result]]:
    """Throughput over batch size, width and depth, with little time for each point."""
    quick = replace(settings, budget=2.0, memory=False)
    from backprop_xp.bench.cases import ARTICLE

    families = {"batch": [ARTICLE.with_samples(n) for n in BATCHES], "width": WIDTHS, "depth": DEPTHS}
    return {name: list(run(cases, quick, progress)) for name, cases in families.items()}


def _contenders(case: Case, settings: Settings) -> list[Contender]:
    everybody = [contenders.ours(case, engine, settings.threads, settings.backend) for engine in settings.engines]
    if contenders.available("torch"):
        import torch

        torch.set_num_threads(settings.threads)
        device = _torch_device(settings)
        everybody += [contenders.torch_eager(case, form, device=device) for form in ("nn", "matmul")]
        if settings.compile:
            everybody.append(contenders.torch_eager(case, "nn", compiled=True, device=device))
    if settings.jax and contenders.available("jax"):
        everybody.append(contenders.jax_jit(case))
    return everybody


def _torch_device(settings: Settings) -> str:
    from backprop_xp import get_backend

    backend: Any = get_backend(settings.backend)
    return f"cuda:{backend.device}" if backend.on_gpu else "cpu"
