"""PyTorch's own samples of losses, of its tests' databases: what a batch of vectors can hold has its values and gradients.

``FORMULAS`` and the functions below say how each is expressed, ``LEFT_OUT`` which losses are not, and why.
"""

from __future__ import annotations

import inspect
import random
import sys
import types
import unittest
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from backprop_xp import BCEWithLogits, ElementwiseLoss, Huber, Net, SoftmaxCrossEntropy

torch = pytest.importorskip("torch")
functional = torch.nn.functional

FORMULAS = {
    "mse_loss": lambda k: ElementwiseLoss("mse", "(z - y) ** 2"),
    "l1_loss": lambda k: ElementwiseLoss("l1", "abs(z - y)"),
    "huber_loss": lambda k: Huber(delta=k.get("delta", 1.0)),
    "smooth_l1_loss": lambda k: ElementwiseLoss(
        "smooth_l1",
        "where(abs(d) < beta, 0.5 * d * d / beta, abs(d) - 0.5 * beta)",
        "where(abs(d) < beta, d / beta, sign(d))",
        let={"d": "z - y"},
        params={"beta": k.get("beta", 1.0)},
    ),
    "soft_margin_loss": lambda k: ElementwiseLoss(
        "soft_margin", "maximum(-m, 0) + log1p(exp(-abs(m)))", let={"m": "y * z"}
    ),
    "hinge_embedding_loss": lambda k: ElementwiseLoss(
        "hinge",
        "where(y != -1, z, 0) + where(y != 1, maximum(margin - z, 0), 0)",
        params={"margin": k.get("margin", 1.0)},
    ),
    "binary_cross_entropy": lambda k: ElementwiseLoss(
        "bce", "-(y * maximum(log(z), -100) + (1 - y) * maximum(log1p(-z), -100))"
    ),
    "kl_div": lambda k: ElementwiseLoss(
        "kl", "exp(y) * (y - z)" if k.get("log_target") else "where(y == 0, 0, y * log(y)) - y * z"
    ),
    "poisson_nll_loss": lambda k: ElementwiseLoss(
        "poisson",
        ("exp(z) - y * z" if k.get("log_input", True) else "z - y * log(z + eps)")
        + (" + where(y > 1, y * log(y) - y + 0.5 * log(6.283185307179586 * y), 0)" if k.get("full") else ""),
        params={"eps": k.get("eps", 1e-8)},
    ),
    "binary_cross_entropy_with_logits": lambda k: BCEWithLogits(),
}

LEFT_OUT = {
    "linear_cross_entropy": "a layer and a loss in one: the layer is the net's",
    "margin_ranking_loss": "of two outputs",
    "multi_margin_loss": "of pairs of outputs",
    "multilabel_margin_loss": "of pairs of outputs",
    "triplet_margin_loss": "of three outputs",
    "triplet_margin_with_distance_loss": "of three outputs",
    "cosine_embedding_loss": "of two outputs",
    "ctc_loss": "of sequences",
    "gaussian_nll_loss": "of two outputs, a mean and a variance",
}


@dataclass
class Part:
    """One call; a sample is a sum of such."""

    loss: Any
    z: Any  # (n, width)
    y: Any
    weight: Any = None  # (n,)
    reduction: str = "sum"


def elementwise(name, z, y, k):
    """Every element is a sample of a net of one output; a weight of each element is the sample's."""
    loss, reduction = FORMULAS[name](k), k.get("reduction", "mean")
    z, y = torch.broadcast_tensors(z, y)
    weight = None if k.get("weight") is None else k["weight"].expand(z.shape).reshape(-1)
    if weight is not None and reduction == "mean" and name.startswith("binary"):
        weight, reduction = weight / z.numel(), "sum"  # PyTorch divides by how many there are, whatever their weights
    if reduction == "batchmean":
        weight, reduction = torch.full((z.numel(),), 1 / (len(z) if z.ndim else 1), dtype=z.dtype), "sum"
    return [Part(loss, z.reshape(-1, 1), y.reshape(-1, 1), weight, "mean" if reduction == "mean" else "sum")]


def with_logits(z, y, k):
    if k.get("pos_weight") is None:
        return elementwise("binary_cross_entropy_with_logits", z, y, k)
    weight, mean = k.get("weight"), k.get("reduction", "mean") == "mean"
    if weight is None or weight.numel() in (1, z.shape[-1]):
        vectors = {"pos_weight": k["pos_weight"].tolist()}
        if weight is not None:
            vectors["weight"] = weight.reshape(-1).expand(z.shape[-1]).tolist()
        return [Part(BCEWithLogits(**vectors), z, y, reduction="mean" if mean else "sum")]
    columns = zip(z.T, y.T, (weight / z.numel() if mean else weight).T, k["pos_weight"])
    return [Part(BCEWithLogits(pos_weight=float(p)), a[:, None], b[:, None], w) for a, b, w, p in columns]


def rows(z, y):
    """Classes last, and all else is samples."""
    if z.ndim == 1:
        return z[None], y[None]
    width = z.shape[1]
    classes = y.ndim < z.ndim
    return z.movedim(1, -1).reshape(-1, width), y.reshape(-1) if classes else y.movedim(1, -1).reshape(-1, width)


def cross_entropy(z, y, k):
    z, y = rows(z, y)
    settings = {name: k[name] for name in ("weight", "label_smoothing") if k.get(name) is not None}
    if not y.is_floating_point():
        settings["ignore_index"] = k.get("ignore_index", -100)
    return [Part(SoftmaxCrossEntropy(**settings), z, y, reduction=_summed(k))]


def nll(z, y, k):
    """Minus the output of the class: with the class as ones and zeros, a formula of each output."""
    z, y = rows(z, y)
    known = y != k.get("ignore_index", -100)
    hit = functional.one_hot(y.masked_fill(~known, 0), z.shape[1]).to(z.dtype)
    weight = (torch.ones(z.shape[1]) if k.get("weight") is None else k["weight"]).to(z.dtype)
    return [Part(ElementwiseLoss("nll", "-y * z"), z, hit, hit @ weight * known, _summed(k))]


def multilabel(z, y, k):
    """Binary cross-entropy, averaged over the outputs of each sample."""
    width = z.shape[-1]
    samples = z.numel() // width if _summed(k) == "mean" else 1
    weight = torch.ones_like(z) if k.get("weight") is None else k["weight"].expand(z.shape)
    parts = BCEWithLogits(), z.reshape(-1, 1), y.reshape(-1, 1), weight.detach().reshape(-1) / samples / width
    return [Part(*parts)]


def _summed(k):
    return "mean" if k.get("reduction", "mean") == "mean" else "sum"


def parts_of(name, z, y, k):
    special = {
        "cross_entropy": cross_entropy, "binary_cross_entropy_with_logits": with_logits, "nll_loss": nll,
        "multilabel_soft_margin_loss": multilabel,
    }  # fmt: skip
    return special[name](z, y, k) if name in special else elementwise(name, z, y, k)


def assert_equal(name, z, y, k, compute, engine):
    z = z.detach().requires_grad_()
    theirs = compute(z).sum()
    theirs.backward()
    ours, copy = 0.0, z.detach().requires_grad_()
    grads = []
    parts = parts_of(name, copy, y.detach(), k)
    for part in parts:
        x, width = part.z.detach().numpy(), part.z.shape[1]
        net = Net((width, width), ("identity",), part.loss, reduction=part.reduction, engine=engine)
        net.weights[0].data = np.eye(width)
        weight = None if part.weight is None else part.weight.numpy()
        loss, grad = net.loss_and_grad(x, part.y.numpy(), sample_weight=weight, input_grad=True)
        ours += loss
        grads.append(torch.tensor(grad))
    if name in ("cross_entropy", "nll_loss") and bool((y == k.get("ignore_index", -100)).all()):
        assert ours == 0  # nothing is left: PyTorch's mean is 0 / 0
        return
    # back through what took the sample apart
    torch.autograd.backward([part.z for part in parts], grads)
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(copy.grad.numpy(), z.grad.numpy(), rtol=1e-11, atol=1e-13)


@pytest.fixture(scope="module")
def databases():
    """torch.testing's, which import a package for a class of tests that is not needed here."""
    try:
        import expecttest  # noqa: F401
    except ImportError:
        sys.modules["expecttest"] = types.ModuleType("expecttest")
        sys.modules["expecttest"].TestCase = unittest.TestCase  # type: ignore[attr-defined]
    try:
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db
    except ImportError as error:
        pytest.skip(f"this PyTorch comes without its databases: {error}")
    return op_db, module_db


@pytest.fixture(autouse=True)
def same_samples():
    torch.manual_seed(0)
    random.seed(0)


@pytest.mark.parametrize("engine", ["layered", "fused"], indirect=True)
def test_operators(databases, engine):
    seen: dict[str, int] = {}
    for op in databases[0]:
        name = op.name.removeprefix("nn.functional.").split(".")[0]
        if not op.name.startswith("nn.functional.") or not ("loss" in name or "entropy" in name or name == "kl_div"):
            continue
        if name in LEFT_OUT:
            continue
        for sample in op.sample_inputs("cpu", torch.float64, requires_grad=False):
            compute = lambda z, s=sample, op=op: op(z, *s.args, **s.kwargs)  # noqa: E731
            assert_equal(name, sample.input, sample.args[0], sample.kwargs, compute, engine)
            seen[name] = seen.get(name, 0) + 1
    assert {"cross_entropy", "nll_loss", "multilabel_soft_margin_loss", *FORMULAS} == seen.keys()


MODULES = {
    "L1Loss": "l1_loss", "SmoothL1Loss": "smooth_l1_loss", "KLDivLoss": "kl_div", "MSELoss": "mse_loss",
    "SoftMarginLoss": "soft_margin_loss", "NLLLoss": "nll_loss", "PoissonNLLLoss": "poisson_nll_loss",
    "HingeEmbeddingLoss": "hinge_embedding_loss", "HuberLoss": "huber_loss", "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits", "CrossEntropyLoss": "cross_entropy",
    "MultiLabelSoftMarginLoss": "multilabel_soft_margin_loss",
}  # fmt: skip


@pytest.mark.parametrize("engine", ["layered", "fused"], indirect=True)
def test_modules(databases, engine):
    seen = set()
    for info in databases[1]:
        cls = info.module_cls
        if cls.__name__ not in MODULES:
            continue
        for sample in info.module_inputs_func(
            info, device="cpu", dtype=torch.float64, requires_grad=False, training=True
        ):
            given = sample.constructor_input
            k = inspect.signature(cls).bind(*given.args, **given.kwargs).arguments
            module, (z, y) = cls(*given.args, **given.kwargs), sample.forward_input.args
            assert_equal(MODULES[cls.__name__], z, y, k, lambda z, m=module, y=y: m(z, y), engine)
            seen.add(cls.__name__)
    assert seen == MODULES.keys()
