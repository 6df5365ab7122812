"""`python -m backprop_xp.bench.warm`: fills the caches of PyTorch's compiler and of CuPy's for the GPU cases."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

from backprop_xp.bench import contenders
from backprop_xp.bench.cases import GPU
from backprop_xp.bench.contenders import Contender

SMALL = 64  # samples


def main(arguments: Sequence[str]) -> None:
    """Each contender's first step; who fails is told, and doesn't matter here."""
    small = "--small" in arguments
    for case in [GPU[0].with_samples(SMALL)] if small else GPU:
        makers: dict[str, Callable[[], Contender]] = {"ours": partial(contenders.ours, case, backend="cupy")}
        for form in contenders.compiled_forms(case, True):
            makers[f"{contenders.COMPILED} ({form})"] = partial(contenders.torch_compiled, case, form, "cuda:0")
        for name, make in makers.items():
            try:
                make().step()
            except Exception as error:
                print(f"{case.name}: {name}: {type(error).__name__}: {str(error)[:200]}", flush=True)
            else:
                print(f"{case.name}, {case.samples:,} x {case.dtype}: {name}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
