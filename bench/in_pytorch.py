"""Steps of training in PyTorch, from the outputs to Adam's: a net as a module (`as_torch`) beside nn.Sequential.

Both have PyTorch's loss and PyTorch's optimiser. Its learning rate is 0, which costs the same: every step computes what
the first one did, and gradients remain comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from backprop_xp.bench.cases import Case
from backprop_xp.bench.contenders import EAGER, Contender, torch_loss
from backprop_xp.bench.standing import OURS

from backprop_xp import later
from backprop_xp.exchange import to_torch

torch_layer: Any = later.Module("backprop_xp.torch_layer")

#: What contenders are called by the form of torch.optim.Adam that they use, and its options.
OPTIMISERS: dict[str, dict[str, Any]] = {"": {}, " fused Adam": {"fused": True}}


def family(threads: int) -> str:
    """What the points measured on ``threads`` are called together."""
    return f"steps in PyTorch, threads: {threads}"


def contenders(case: Case, threads: int) -> list[Contender]:
    """Ours with a Parameter for each array and with one for all, and PyTorch's own module, by each form of Adam."""
    import torch

    torch.set_num_threads(threads)
    made = []
    for called, options in OPTIMISERS.items():
        for form in ("as_torch", "as_torch, flat"):
            module = torch_layer.as_torch(case.net(backend="numpy", threads=threads), flat=form.endswith("flat"))
            made.append(_contender(OURS + called, form, case, module, options))
        made.append(_contender(EAGER + called, "nn", case, to_torch(case.net(backend="numpy")), options))
    return made


def _contender(name: str, form: str, case: Case, module: Any, options: dict[str, Any]) -> Contender:
    import torch

    x, y = (torch.from_numpy(array) for array in case.arrays() if array is not None)
    optimiser, loss_of = torch.optim.Adam(module.parameters(), lr=0.0, **options), torch_loss(case.loss)
    last: list[Any] = []

    def step() -> None:
        optimiser.zero_grad()
        loss = loss_of(module(x), y)
        loss.backward()
        optimiser.step()
        last[:] = [loss.detach()]

    def results() -> list[np.ndarray]:
        numbers = np.concatenate([parameter.grad.numpy().ravel() for parameter in _in_order(module)])
        return [each.astype(np.float64) for each in (last[0].numpy(), numbers)]

    return Contender(name, form, step, results)


def _in_order(module: Any) -> Sequence[Any]:
    """A chain's Parameters layer by layer, as nn.Sequential has them."""
    if hasattr(module, "weights"):
        return [parameter for layer in zip(module.weights, module.biases) for parameter in layer]
    return [*module.parameters()]
