"""Who takes part in a case: ours by each engine asked for, PyTorch in two forms and as CUDA graphs, torch.compile
and JAX if asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from backprop_xp.bench import contenders as make
from backprop_xp.bench import in_pytorch
from backprop_xp.bench.cases import Case
from backprop_xp.bench.contenders import Contender
from backprop_xp.bench.settings import Settings

from backprop_xp import get_backend, repeated
from backprop_xp.messages import first_line


def contenders(case: Case, settings: Settings, notes: list[str]) -> list[Contender]:
    """All of them, ready for their first step; ``notes`` gets a sentence on whoever can't take part."""
    if case.optimiser:
        return in_pytorch.contenders(case, settings.threads)
    backend = get_backend(settings.backend)
    everybody = [make.ours(case, engine, settings.threads, settings.backend) for engine in settings.engines]
    if backend.on_gpu and everybody[0].form in repeated.CAPTURED:
        everybody.append(make.ours(case, "auto", settings.threads, settings.backend, repeated=True))
    rounded = settings.precision if case.dtype == "float32" else ""
    if rounded:
        try:
            everybody.append(make.ours(case, "auto", settings.threads, settings.backend, precision=rounded))
        except RuntimeError as error:
            notes.append(f"ours isn't measured in {rounded}: {error}")
    if make.available("torch"):
        import torch

        torch.set_num_threads(settings.threads)
        device = f"cuda:{backend.device}" if backend.on_gpu and not only_proves(settings) else "cpu"
        everybody += [make.torch_eager(case, form, device) for form in make.eager_forms(case)]
        rivals: list[tuple[str, Callable[[], Contender]]] = []
        if device != "cpu":
            rivals += [(make.GRAPH, partial(make.torch_graph, case, form, device)) for form in make.eager_forms(case)]
        if rounded in make.HALVES:
            forms = make.eager_forms(case)
            rivals += [(make.AUTOCAST, partial(make.torch_autocast, case, form, device, rounded)) for form in forms]
        if settings.compile and not only_proves(settings):
            forms = make.compiled_forms(case, backend.on_gpu)
            rivals += [(make.COMPILED, partial(make.torch_compiled, case, form, device)) for form in forms]
        for name, rival in rivals:
            try:
                contender = rival()
                contender.step()
            except Exception as error:  # they need compilers and captures of their own, and fail in many ways
                notes.append(f"{name} is left out, it failed: {first_line(error)[:200]}")
            else:
                everybody.append(contender)
    if settings.jax and make.available("jax"):
        try:
            everybody += [make.jax_jit(case, backend.device, form) for form in make.jax_forms(case)]
        except RuntimeError as error:  # a JAX without CUDA
            notes.append(f"JAX is left out: {first_line(error)[:200]}")
    return everybody


def only_proves(settings: Settings) -> bool:
    """Whether our net is on a GPU where PyTorch, built without CUDA, can't follow."""
    if not get_backend(settings.backend).on_gpu:
        return False
    import torch

    return not torch.cuda.is_available()
