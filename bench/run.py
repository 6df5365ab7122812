"""One run of the benchmark: cases, contenders, proof, timing, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import threadpoolctl
from backprop_xp.bench import contenders, measure, memory
from backprop_xp.bench.cases import BATCHES, DEPTHS, WIDTHS, Case
from backprop_xp.bench.contenders import EAGER, Contender
from backprop_xp.bench.report import Result, Row

from backprop_xp import get_backend, repeated


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
        result = Result(case)
        everybody = _contenders(case, settings, result.notes)
        eager = [c for c in everybody if c.name == EAGER]
        if eager:
            others = [c for c in everybody if c is not eager[0]]
            try:
                result.difference = measure.prove_equal(eager[0], others, case.dtype, case.samples)
            except measure.WrongGradient as error:
                result.refused = str(error)
                return result
        else:
            for contender in everybody:
                contender.step()
        if eager and _only_proves(settings):
            everybody = [c for c in everybody if c not in eager]
            result.notes.append("PyTorch has no CUDA here: it proved the gradients on the CPU, and is not timed")
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


def _contenders(case: Case, settings: Settings, notes: list[str]) -> list[Contender]:
    everybody = [contenders.ours(case, engine, settings.threads, settings.backend) for engine in settings.engines]
    if get_backend(settings.backend).on_gpu and everybody[0].form in repeated.CAPTURED:
        everybody.append(contenders.ours(case, "auto", settings.threads, settings.backend, repeated=True))
    if contenders.available("torch"):
        import torch

        torch.set_num_threads(settings.threads)
        number = get_backend(settings.backend).device
        device = "cpu" if number is None or _only_proves(settings) else f"cuda:{number}"
        everybody += [contenders.torch_eager(case, form, device=device) for form in ("nn", "matmul")]
        if settings.compile and not _only_proves(settings):
            compiled = contenders.torch_eager(case, "nn", compiled=True, device=device)
            try:
                compiled.step()
            except Exception as error:  # it needs compilers of its own, and fails in many ways without them
                notes.append(f"torch.compile is left out, it failed: {str(error).strip().partition(chr(10))[0][:200]}")
            else:
                everybody.append(compiled)
    if settings.jax and contenders.available("jax"):
        everybody.append(contenders.jax_jit(case))
    return everybody


def _only_proves(settings: Settings) -> bool:
    """Whether our net is on a GPU where PyTorch, built without CUDA, can't follow."""
    if not get_backend(settings.backend).on_gpu:
        return False
    import torch

    return not torch.cuda.is_available()
