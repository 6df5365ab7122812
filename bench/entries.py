"""Who takes part in a case: ours by each engine asked for, PyTorch in two forms, torch.compile and JAX if asked for."""

from __future__ import annotations

from backprop_xp.bench import contenders as make
from backprop_xp.bench.cases import Case
from backprop_xp.bench.contenders import Contender
from backprop_xp.bench.settings import Settings

from backprop_xp import get_backend, repeated


def contenders(case: Case, settings: Settings, notes: list[str]) -> list[Contender]:
    """All of them, ready for their first step; ``notes`` gets a sentence on whoever can't take part."""
    everybody = [make.ours(case, engine, settings.threads, settings.backend) for engine in settings.engines]
    if get_backend(settings.backend).on_gpu and everybody[0].form in repeated.CAPTURED:
        everybody.append(make.ours(case, "auto", settings.threads, settings.backend, repeated=True))
    if make.available("torch"):
        import torch

        torch.set_num_threads(settings.threads)
        number = get_backend(settings.backend).device
        device = "cpu" if number is None or only_proves(settings) else f"cuda:{number}"
        everybody += [make.torch_eager(case, form, device=device) for form in ("nn", "matmul")]
        if settings.compile and not only_proves(settings):
            compiled = make.torch_eager(case, "nn", compiled=True, device=device)
            try:
                compiled.step()
            except Exception as error:  # it needs compilers of its own, and fails in many ways without them
                notes.append(f"torch.compile is left out, it failed: {str(error).strip().partition(chr(10))[0][:200]}")
            else:
                everybody.append(compiled)
    if settings.jax and make.available("jax"):
        everybody.append(make.jax_jit(case))
    return everybody


def only_proves(settings: Settings) -> bool:
    """Whether our net is on a GPU where PyTorch, built without CUDA, can't follow."""
    if not get_backend(settings.backend).on_gpu:
        return False
    import torch

    return not torch.cuda.is_available()
