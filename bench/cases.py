"""What is measured: nets, batches and their data. One definition for the command line and for pytest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from backprop_xp.bench import equations, graphs

from backprop_xp import Net, net_options
from backprop_xp.exchange.torch_modules import MODULES
from backprop_xp.losses import LOSSES
from backprop_xp.messages import unknown

#: A relu is near its kink if its input is less than this part of its layer's root mean square: some ten times the
#: rounding error of a float32 sum of a thousand products. Samples that are looked at together: few, for the memory of
#: contenders is measured as well.
NEAR_KINK, LOOKED_AT = 2.0**-16, 256
#: Activations with a kink at 0.
KINKED = {"relu", "leaky_relu"}


@dataclass(frozen=True)
class Case:
    """One net and one batch.

    Attributes:
        name: for the table.
        sizes: widths of the layers, input first.
        activations: a name a layer.
        samples: rows of the batch.
        dtype: "float32" or "float64".
        loss: a name; "softmax_cross_entropy" takes class indices, "half_sum_sq" nothing, others numbers.
        bias: whether the layers have one.
        data: "normal" (standard normal numbers) or "digits" (scikit-learn's, repeated).
        form: "chain", "residual" (two layers at a time are a block, to whose result its input is added; the last layer
            stands alone) or "dense" (each layer sees the outputs of all earlier ones and the input).
        equation: the loss of a chain with biases and one output, instead of ``loss``: a name in equations.py, or "".
        optimiser: "adam" if it is a step of training in PyTorch (in_pytorch.py) of a chain with biases and a target.
    """

    name: str
    sizes: tuple[int, ...]
    activations: tuple[str, ...]
    samples: int
    dtype: str = "float32"
    loss: str = "half_sum_sq"
    bias: bool = False
    data: str = "normal"
    form: str = "chain"
    equation: str = ""
    optimiser: str = ""

    @property
    def multiply_adds(self) -> int:
        """Of one sample: forward and weight gradients of every layer, signal gradients of all but the input; of an
        equation for each signal that ours carries."""
        outputs = self.sizes[1:]
        if self.form == "dense":
            return 3 * sum(sum(self.sizes[:i]) * n for i, n in enumerate(outputs, 1)) - self.sizes[0] * sum(outputs)
        products = [a * b for a, b in zip(self.sizes, outputs)]
        signals = len(equations.ours(self.equation, self.sizes[0]).reads.way.carried.stack) if self.equation else 1
        return signals * (3 * sum(products) - products[0])

    @property
    def flops(self) -> int:
        """Of one sample's matrix products, two a multiply-add; activations come on top."""
        return 2 * self.multiply_adds

    def with_samples(self, samples: int) -> Case:
        return replace(self, samples=samples)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Case:
        """A case from what JSON makes of its ``asdict``."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})

    def arrays(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The batch and its targets, the same for every contender, which must not change them."""
        return _digits(self.samples, self.dtype) if self.data == "digits" else _normal(self)

    def net(self, **options: Any) -> Any:
        """Our net for this case, always with the same weights."""
        options |= {"loss": self.loss, "dtype": self.dtype, "rng": 0, "init": "glorot_normal"}
        if self.form == "chain":
            return Net(self.sizes, self.activations, bias=self.bias, **options)
        return graphs.net(self, **options)

    def parameters(self, net: Any) -> tuple[list[Any], list[Any]]:
        """The weights and the biases of our net, layer by layer."""
        if self.form == "chain":
            return net.weights, net.biases
        kinds = ("weight", "bias") if self.bias else ("weight",)
        found = [[net.tensors[f"{i}.{kind}"] for i in range(len(self.activations))] for kind in kinds]
        return found[0], found[1] if self.bias else []


def chain(hidden: str, depth: int) -> tuple[str, ...]:
    """The same activation everywhere but at the output."""
    return (hidden,) * (depth - 1) + ("identity",)


ARTICLE = Case("article's net", (5, 10, 4, 12), ("tanh", "sigmoid", "identity"), 1 << 20)
NARROW = Case("64-64-64-64-10", (64, 64, 64, 64, 10), chain("tanh", 4), 1 << 16)
WIDE = Case("784-512-512-10", (784, 512, 512, 10), chain("relu", 3), 1 << 15)
DOUBLE = Case("256-256-256-10", (256, 256, 256, 10), chain("tanh", 3), 1 << 14, "float64")
DIGITS = Case("digits", (64, 128, 10), chain("relu", 2), 57_504, "float32", "softmax_cross_entropy", True, "digits")

LAPLACIAN = Case(
    "Laplacian of 2-64-64-64-1", (2, 64, 64, 64, 1), chain("tanh", 4), 1 << 16, bias=True, equation="Laplacian"
)

RESIDUAL = Case("8 residual blocks", (*(64,) * 17, 10), chain("tanh", 17), 1 << 16, form="residual", bias=True)
DENSE = Case("densely connected", (*(64,) * 9, 10), chain("tanh", 9), 1 << 16, form="dense", bias=True)

#: What `backprop-xp bench` measures by default.
DEFAULT = (ARTICLE, replace(ARTICLE, dtype="float64"), NARROW, RESIDUAL, DENSE, WIDE, DOUBLE, DIGITS, LAPLACIAN)

#: Losses that contain derivatives, for a full run.
DERIVATIVES = (
    LAPLACIAN, LAPLACIAN.with_samples(4096),
    replace(LAPLACIAN, name="eikonal of 2-64-64-64-1", equation="eikonal"),
    replace(LAPLACIAN, name="eikonal of 2-64-64-64-1", equation="eikonal", samples=4096),
    Case("Burgers of 2-20 (8 times)-1", (2, *(20,) * 8, 1), chain("tanh", 9), 10_000, bias=True, equation="Burgers"),
    replace(LAPLACIAN, name="Laplacian of 3-128-128-128-1", sizes=(3, 128, 128, 128, 1), samples=4096),
)  # fmt: skip

#: Steps of training in PyTorch, for a full run.
IN_PYTORCH = tuple(
    Case(name, sizes, activations, samples, loss="mse", bias=True, optimiser="adam")
    for name, sizes, activations in (
        ("2-64-64-1 tanh in PyTorch", (2, 64, 64, 1), chain("tanh", 3)),
        ("3-256-256-256-4 relu in PyTorch", (3, 256, 256, 256, 4), chain("relu", 4)),
    )
    for samples in (256, 4096, 65_536)
)

#: And on a GPU, which needs more samples to be busy; what matters most comes first, for a run that has little time.
GPU = (
    ARTICLE.with_samples(1 << 24), ARTICLE.with_samples(1 << 20), ARTICLE.with_samples(1 << 10),
    NARROW.with_samples(1 << 20), WIDE.with_samples(1 << 17), DIGITS.with_samples(1 << 20),
    replace(ARTICLE, samples=1 << 22, dtype="float64"), DOUBLE.with_samples(1 << 17), NARROW.with_samples(1 << 14),
)  # fmt: skip

#: Batch sizes, widths and depths of the sweeps of a full run.
BATCHES = tuple(1 << k for k in range(0, 23, 2))
WIDTHS = tuple(
    Case(f"width {w}", (w, w, w, 10), chain("tanh", 3), max(1024, (1 << 22) // w))
    for w in (4, 8, 16, 32, 64, 128, 256, 512, 1024)
)
DEPTHS = tuple(Case(f"depth {d}", (16,) * (d + 1), chain("tanh", d), 1 << 17) for d in (1, 2, 4, 8, 16))


def own(
    net: str, activations: str | None, loss: str | None, bias: bool, dtype: str = "float32", samples: int = 1 << 16
) -> Case:
    """A case from the words of a command line.

    Args:
        net: widths, "5-10-4-12".
        activations: names with commas, one a layer, or one for all layers but the last; None: tanh.
        loss: a name; None: half_sum_sq.
    """
    sizes = parse_net(net)
    depth = len(sizes) - 1
    names = tuple(net_options.functions(activations, depth)) if activations else chain("tanh", depth)
    if len(names) != depth:
        raise ValueError(f"--activations takes {depth} names for {net}, one a layer, or a single one, got {len(names)}")
    for each in names:
        if each not in MODULES:
            raise ValueError(f"--activations: {unknown('activation', each, MODULES)}")
    name = " ".join(filter(None, (net, activations, loss, "bias" if bias else "")))
    loss = loss or "half_sum_sq"
    if loss not in LOSSES:
        raise ValueError(f"--loss: {unknown('loss', loss, LOSSES)}")
    return Case(name, sizes, names, samples, dtype, loss, bias)


def parse_net(text: str) -> tuple[int, ...]:
    """Layer widths from text such as "5-10-4-12"."""
    sizes = net_options.widths(text)
    if sizes is None or min(sizes) < 1:
        raise ValueError(f"--net must be widths such as 5-10-4-12, got {text!r}")
    return sizes


@lru_cache(maxsize=1)
def _normal(case: Case) -> tuple[np.ndarray, np.ndarray | None]:
    random = np.random.default_rng(0)
    x = random.standard_normal((case.samples, case.sizes[0]), np.float32).astype(case.dtype)
    y = None
    if case.loss == "softmax_cross_entropy":
        y = random.integers(0, case.sizes[-1], case.samples)
    elif case.loss != "half_sum_sq":  # between 0 and 1, as probabilities are
        y = random.random((case.samples, case.sizes[-1]), np.float32).astype(case.dtype)
    if KINKED & set(case.activations):
        _leave_kinks(x, case)
    return x, y


def _leave_kinks(x: np.ndarray, case: Case) -> None:
    """Replace each sample in which rounding could decide the slope at a kink by another.

    Whether such a unit counts differs from contender to contender. One of them changes the gradient of n samples and m
    units by about 1 / sqrt(n m) of its norm: more than the proof of equal gradients lets through.
    """
    net = case.net(backend="numpy", engine="layered")
    near = np.zeros(len(x), bool)
    for first in range(0, len(x), LOOKED_AT):
        rows = slice(first, first + LOOKED_AT)
        net.forward(x[rows], keep_signals=True)
        for f, t in zip(case.activations, net.linear_outputs):
            if f in KINKED:
                near[rows] |= (np.abs(t.data) < NEAR_KINK * np.sqrt(np.mean(t.data**2))).any(axis=1)
    safe = np.flatnonzero(~near)
    if safe.size:
        x[near] = x[np.resize(safe, np.count_nonzero(near))]


def _digits(samples: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError("the case on digits needs scikit-learn: pip install 'backprop-xp[bench]'") from None
    x, y = load_digits(return_X_y=True)
    rows = np.arange(samples) % len(x)
    return (x[rows] / 16).astype(dtype), y[rows].astype(np.int64)
