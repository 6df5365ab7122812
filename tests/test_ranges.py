"""Parameters outside their range are refused, whenever they got there and whatever runs."""

import numpy as np
import pytest

from backprop_xp import ACTIVATIONS, LOSSES, Elementwise, Graph, Net, ranges
from backprop_xp.activations import CELU, HardTanh, Softplus
from backprop_xp.graph import BatchNorm, Dropout, LayerNorm
from backprop_xp.losses import BCEWithLogits, Huber, SoftmaxCrossEntropy

torch = pytest.importorskip("torch")
NAN, INF = float("nan"), float("inf")

REFUSED = [
    (Huber, {"delta": 0}, "Huber needs delta > 0, got delta=0.0"),
    (Huber, {"delta": -1}, "Huber needs delta > 0, got delta=-1.0"),
    (Huber, {"delta": -INF}, "Huber needs delta > 0"),
    (CELU, {"alpha": 0}, "CELU needs alpha != 0, got alpha=0.0"),
    (CELU, {"alpha": -0.0}, "CELU needs alpha != 0"),
    (Softplus, {"beta": 0}, "Softplus needs beta > 0"),
    (Softplus, {"beta": -1}, "Softplus needs beta > 0"),
    (HardTanh, {"min_val": 1, "max_val": -1}, "HardTanh needs min_val < max_val, got min_val=1.0, max_val=-1.0"),
    (HardTanh, {"min_val": 1}, "HardTanh needs min_val < max_val, got min_val=1.0, max_val=1.0"),
    (BCEWithLogits, {"pos_weight": [1, NAN]}, "BCEWithLogits needs a number as pos_weight, got nan"),
    (SoftmaxCrossEntropy, {"weight": [NAN, 1]}, "SoftmaxCrossEntropy needs a number as weight, got nan"),
    (SoftmaxCrossEntropy, {"label_smoothing": 1.1}, "SoftmaxCrossEntropy needs 0 <= label_smoothing <= 1"),
    (SoftmaxCrossEntropy, {"label_smoothing": -0.1}, "SoftmaxCrossEntropy needs 0 <= label_smoothing <= 1"),
    (Dropout, {"p": 1.5}, "Dropout needs 0 <= p <= 1, got p=1.5"),
    (Dropout, {"p": -0.1}, "Dropout needs 0 <= p <= 1"),
    (LayerNorm, {"eps": -1e-5}, "LayerNorm needs 0 <= eps < inf, got eps=-1e-05"),
    (LayerNorm, {"eps": INF}, "LayerNorm needs 0 <= eps < inf"),
    (BatchNorm, {"eps": -1e-5}, "BatchNorm needs 0 <= eps < inf, got eps=-1e-05"),
    (BatchNorm, {"momentum": 1.5}, "BatchNorm needs 0 <= momentum <= 1, got momentum=1.5"),
]
PARAMETERS = {Dropout: ["p"], LayerNorm: ["eps"], BatchNorm: ["eps", "momentum"]}
OF_NUMBERS = [
    (cls, name)
    for cls in (*ACTIVATIONS.values(), *LOSSES.values(), Dropout, LayerNorm, BatchNorm)
    for name in getattr(cls, "params", None) or PARAMETERS.get(cls, ())
]


@pytest.mark.parametrize("cls, params, message", REFUSED)
def test_construction_refuses_what_is_out_of_range(cls, params, message):
    with pytest.raises(ValueError, match=message):
        cls(**params)


@pytest.mark.parametrize("cls, name", [*OF_NUMBERS, (SoftmaxCrossEntropy, "label_smoothing")])
def test_no_parameter_is_nan_or_text(cls, name):
    with pytest.raises(ValueError, match=f"{cls.__name__} needs a number as {name}, got nan"):
        cls(**{name: NAN})
    with pytest.raises(TypeError, match=f"{name} must be a real number, got '1'"):
        cls(**{name: "1"})


def test_formulas_of_the_users_take_no_nan():
    with pytest.raises(ValueError, match="Elementwise needs a number as width, got nan"):
        Elementwise("bump", "exp(-width * t ** 2)", params={"width": NAN})


@pytest.mark.parametrize("make", [
    lambda: torch.nn.HuberLoss(delta=0.0)(torch.zeros(1), torch.zeros(1)),
    lambda: torch.nn.CELU(alpha=0.0)(torch.zeros(1)), lambda: torch.nn.Hardtanh(1.0, 1.0),
])  # fmt: skip
def test_pytorch_refuses_the_same(make):
    with pytest.raises((RuntimeError, AssertionError)):
        make()


@pytest.mark.parametrize("f", [
    CELU(alpha=-2.0), Softplus(threshold=INF), Softplus(threshold=-5.0), HardTanh(min_val=-INF), HardTanh(max_val=INF),
])  # fmt: skip
def test_what_pytorch_takes_is_taken(f, random):
    from backprop_xp.exchange.pytorch import to_module

    t = 3 * random.normal(size=50)
    np.testing.assert_allclose(f(t), to_module(f)(torch.tensor(t)).numpy(), rtol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (8, 3), (5000, 3)])  # the calls for a sample, a small batch, a large one
@pytest.mark.parametrize("first", [False, True])
def test_an_attribute_changed_later_is_seen_by_the_next_call(shape, first, engine, random):
    net = Net((3, 2), (HardTanh(),), Huber(), engine=engine, rng=0)
    x, y = random.normal(size=shape), np.zeros((*shape[:-1], 2))
    if first:
        net.loss_and_grad(x, y)
    net.activations[0].min_val = 2.0
    for call in (lambda: net.loss_and_grad(x, y), lambda: net(x)):
        with pytest.raises(ValueError, match=r"HardTanh needs min_val < max_val, got min_val=2\.0, max_val=1\.0"):
            call()
    net.activations[0].max_val = 3.0  # one after the other: what is between is never run
    assert (net(x) >= 2).all()
    net.loss.delta = 0.0
    with pytest.raises(ValueError, match="Huber needs delta > 0"):
        net.loss_and_grad(x, y)


def test_operations_check_what_is_assigned():
    g = Graph()
    net = g.net(g.dropout(g.layer_norm(g.linear(g.input(3), 2)), 0.5), rng=0)
    drop, norm = (next(n.operation for n in net.nodes if isinstance(n.operation, cls)) for cls in (Dropout, LayerNorm))
    for operation, name in ((drop, "p"), (norm, "eps")):
        before = getattr(operation, name)
        with pytest.raises(ValueError, match=f"{type(operation).__name__} needs 0 <= {name}"):
            setattr(operation, name, -1)
        assert getattr(operation, name) == before
    assert repr(drop) == "Dropout(p=0.5)"


def test_a_range_names_what_breaks_it():
    ranges.check(Net, {"a": 1.0, "b": 2.0}, ("0 <= a < b", "b != 0"))
    with pytest.raises(ValueError, match=r"needs 0 <= a < b, got a=3\.0, b=2\.0"):
        ranges.check(Net, {"a": 3.0, "b": 2.0}, ("0 <= a < b",))
