"""Every step, and the arithmetic that is shown of it, against what the library computes."""

import re

import numpy as np
import pytest
from arrays import target
from formulas_written import evaluated
from graphs import descriptions
from hypothesis import given

from backprop_xp import (
    ACTIVATIONS,
    LOSSES,
    Activation,
    Elementwise,
    ElementwiseLoss,
    GraphNet,
    Net,
    SoftmaxCrossEntropy,
)
from backprop_xp.explain import math as explained_math
from backprop_xp.formulas import notation
from backprop_xp.graph import BatchNorm, Dropout, Graph, Input


@pytest.fixture
def every_digit(monkeypatch):
    monkeypatch.setattr(notation, "DIGITS", 17)
    monkeypatch.setattr(notation, "CONSTANT_DIGITS", 17)
    monkeypatch.setattr(explained_math, "MOST_TERMS", 10**6)


def check_arithmetic(explanation, rel=1e-9):
    """That the arithmetic of every step has the result that it is said to have."""
    count = 0
    for step in explanation.steps:
        if step.worked:
            names = {}
            for line in step.worked_where:
                name, text = line.split(" = ", 1)
                names[name] = evaluated(text, names)
            worked = re.sub(r" for sample \d+$", "", step.worked)
            if worked == step.worked:  # else it is a part of the number
                assert evaluated(worked, names) == pytest.approx(step.number, rel=rel, abs=1e-12), step
            count += 1
    return count


def test_the_steps_of_a_chain_are_the_articles():
    net = Net((3, 4, 2), ("tanh", "sigmoid"), bias=True, rng=0)
    x = np.array([1.0, -0.5, 2.0])
    explanation = net.explain(x)
    assert [step.symbol.text for step in explanation.steps] == [
        "t_0", "z_0", "t_1", "z_1", "l",
        "grad z_1", "grad t_1", "grad W_1", "grad b_1", "grad z_0", "grad t_0", "grad W_0", "grad b_0", "grad x",
    ]  # fmt: skip
    assert net.weights[0].grad is None  # it was explained on a copy
    loss, grad_x = net.loss_and_grad(x, input_grad=True)
    assert explanation.loss == pytest.approx(loss, rel=1e-14)
    arrays = {step.symbol.text: step.array for step in explanation.steps}
    for i in range(2):
        np.testing.assert_allclose(arrays[f"t_{i}"][0], net.linear_outputs[i].data, rtol=1e-13)
        np.testing.assert_allclose(arrays[f"grad z_{i}"][0], net.nonlinear_outputs[i].grad, rtol=1e-13)
        np.testing.assert_allclose(arrays[f"grad W_{i}"], net.weights[i].grad, rtol=1e-13)
        np.testing.assert_allclose(arrays[f"grad b_{i}"], net.biases[i].grad, rtol=1e-13)
    np.testing.assert_allclose(arrays["grad x"][0], grad_x, rtol=1e-13)
    formulas = {step.symbol.text: step.formula.text for step in explanation.steps}
    assert formulas["t_1"] == "W_1 z_0 + b_1"
    assert formulas["z_1"] == "sigmoid(t_1) = 1 / (1 + exp(-t_1))"
    assert formulas["l"] == "sum_k 0.5 * z_1[k]^2"
    assert formulas["grad t_1"] == "grad z_1 * sigmoid'(t_1)"
    assert formulas["grad W_1"] == "outer(grad t_1, z_0)"
    assert formulas["grad z_0"] == "W_1^T grad t_1"
    (slope,) = next(step.where for step in explanation.steps if step.symbol.text == "grad t_1")
    assert slope.text == "sigmoid'(t_1) = z_1 * (1 - z_1)"
    latex = {step.symbol.text: step.formula.latex for step in explanation.steps}
    assert latex["grad W_1"] == r"\frac{\partial l}{\partial t_{1}}\,{z_{0}}^\top"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_arithmetic_of_every_activation(name, every_digit, random):
    net = Net((3, 4, 2), (name, name), "mse", True, rng=2, reduction="mean")
    explanation = net.explain(random.normal(size=(2, 3)), random.normal(size=(2, 2)))
    assert check_arithmetic(explanation, 1e-8) == 14
    assert explanation.ok


@pytest.mark.parametrize("name", [*LOSSES, "probabilities"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_arithmetic_of_every_loss(name, reduction, samples, weighted, every_digit, random):
    loss = "softmax_cross_entropy" if name == "probabilities" else name
    net = Net((3, 2), ("identity",), loss, rng=2, reduction=reduction)
    weight = random.uniform(1, 2, samples) if weighted else None
    x, y = random.normal(size=(samples, 3)), target(name, samples, 2, random)
    explanation = net.explain(x, y, sample_weight=weight)
    assert check_arithmetic(explanation) == 7
    assert explanation.loss == pytest.approx(float(net.loss_and_grad(x, y, sample_weight=weight)), rel=1e-12)
    assert explanation.ok


def test_settings_of_losses_are_in_their_targets_and_weights(every_digit):
    loss = SoftmaxCrossEntropy(weight=[1.0, 2.0, 0.5], label_smoothing=0.25)
    net = Net((2, 3), ("identity",), loss, rng=0)
    explanation = net.explain([0.5, -1.0], 1)
    assert explanation.ok and check_arithmetic(explanation)
    vector = ElementwiseLoss("own", "a * (z - y) ** 2", params={"a": [1.0, 3.0, 0.5]})
    named = ElementwiseLoss("named", "d * d * d * d", let={"d": "z - y"})
    explanation = Net((2, 3), ("identity",), named, rng=0).explain([0.5, -1.0], [1.0, 2.0, 3.0])
    assert explanation.ok and check_arithmetic(explanation)
    explanation = Net((2, 3), ("identity",), vector, rng=0).explain([0.5, -1.0], [1.0, 2.0, 3.0])
    assert explanation.ok and check_arithmetic(explanation)
    assert "a * (z_0[k] - y[k])^2" in explanation.text


def test_a_graph_with_everything(every_digit, random):
    g = Graph()
    x, z = g.input(4, "x"), g.input(2, "z")
    h = g.linear(x, 4, name="h")
    a = g.layer_norm(g.apply("gelu", h, name="a") * h + x, name="norm")
    b = g.batch_norm(g.dropout(a, 0.5, name="drop"), name="bn")
    s = g.linear(b, 4, share=h, name="s")
    net = g.net(g.linear(g.concatenate(s, z, name="cat"), 3, name="out"), loss="softmax_cross_entropy", rng=0)
    given = {"x": random.normal(size=(3, 4)), "z": random.normal(size=(3, 2))}
    explanation = net.explain(given, [0, 1, 2])
    assert net.draws == 0 and not net.signals["h"].data
    assert explanation.ok and check_arithmetic(explanation, 1e-6)
    net.loss_and_grad(given, [0, 1, 2])
    for step in explanation.steps:
        if step.parameter:
            np.testing.assert_allclose(
                step.array, net.tensors_of(step.node)[step.parameter].grad, rtol=1e-9, atol=1e-12
            )
    formulas = [step.symbol.text for step in explanation.steps]
    assert formulas.count("grad h.weight") == 1  # where both nodes that take it have sent theirs
    assert formulas.index("grad h.weight") > formulas.index("grad h")
    in_use = net.explain(given, [0, 1, 2], training=False)
    assert in_use.ok and check_arithmetic(in_use, 1e-6)


@given(descriptions(most_nodes=6, widths=(1, 3)))
def test_any_graph(description):
    net = GraphNet(description, rng=0)
    random = np.random.default_rng(1)
    explanation = net.explain({name: random.normal(size=width) for name, width in net.inputs.items()})
    digits, terms = notation.DIGITS, explained_math.MOST_TERMS
    notation.DIGITS, explained_math.MOST_TERMS = 17, 10**6
    try:
        check_arithmetic(net.explain({n: a[0] for n, a in explanation.case.call.inputs.items()}), 1e-6)
    finally:
        notation.DIGITS, explained_math.MOST_TERMS = digits, terms
    assert all(step.symbol.text in explanation.text for step in explanation.steps)


def test_code_of_the_users_is_shown_by_its_numbers():
    class Cube(Activation):
        def __call__(self, x):
            return x**3

        def grad(self, x):
            return 3 * x**2

    class Wrong(Cube):
        def grad(self, x):
            return x**2

    explanation = Net((2, 2), (Cube(),), rng=0).explain([1, 2])
    assert explanation.ok
    assert next(step for step in explanation.steps if step.symbol.text == "z_0").worked == ""
    wrong = Net((2, 2), (Wrong(),), rng=0).explain([1, 2])
    assert not wrong.ok and "WRONG" in wrong.text


def test_a_tensor_in_two_places_and_a_step_with_it():
    net = Net((3, 3, 3), ("tanh", "tanh"), rng=0)
    net.weights[1] = net.weights[0]
    x = np.array([0.5, -1.0, 2.0])
    explanation = net.explain(x, lr=0.05)
    net.loss_and_grad(x)
    net.weights[0].data = net.weights[0].data - 0.05 * net.weights[0].grad
    assert explanation.after == pytest.approx(net.loss_and_grad(x), rel=1e-12)
    assert explanation.slope == pytest.approx((net.weights[0].grad ** 2).sum(), rel=0.5)


def test_a_net_of_float32_is_explained_in_float64(random):
    net = Net((3, 2), dtype="float32", rng=0)
    before = net.weights[0].data.copy()
    explanation = net.explain(random.normal(size=3))
    assert explanation.steps[0].array.dtype == np.float64
    np.testing.assert_array_equal(net.weights[0].data, before)


def test_dropout_and_batch_norm_stay_as_they_were():
    net = GraphNet({"x": (Dropout(0.5), "i"), "i": Input(3), "n": (BatchNorm(), "x")}, rng=0)
    before = {name: tensor.data.copy() for name, tensor in net.buffers.items()}
    net.explain(np.ones((4, 3)))
    assert net.draws == 0
    for name, tensor in net.buffers.items():
        np.testing.assert_array_equal(tensor.data, before[name])


def test_what_is_wrong_is_said():
    net = Net((3, 2), loss="mse", rng=0)
    with pytest.raises(ValueError, match="x must have 3 features"):
        net.explain([1, 2], [0, 0])
    with pytest.raises(ValueError, match="needs a target"):
        net.explain([1, 2, 3])
    with pytest.raises(ValueError, match="without samples"):
        net.explain(np.ones((0, 3)), np.ones((0, 2)))
    with pytest.raises(ValueError, match="lr must be a number"):
        net.explain([1, 2, 3], [0, 0], lr=-1)


def test_formulas_of_ones_own():
    bump = Elementwise("bump", value="exp(-width * t ** 2)", params={"width": 2.0})
    text = str(Net((2, 2), (bump,), rng=0).explain([1.0, 0.5]))
    assert "bump(t_0) = exp(-2 * t_0^2)" in text or "bump(t_0) = exp((-2) * t_0^2)" in text


def test_layers_with_normalisation_and_dropout(every_digit, random):
    net = Net((3, 4, 2), (["layer_norm", "relu", "dropout"], ["identity"]), "mse", True, rng=0)
    explanation = net.explain(random.normal(size=(4, 3)), random.normal(size=(4, 2)))
    assert explanation.ok and check_arithmetic(explanation, 1e-6) > 12
    assert explanation.html and explanation.latex


@pytest.mark.gpu
def test_a_net_on_a_device_is_explained_on_the_host(cupy, random):
    net = Net((3, 2), ("tanh",), "mse", rng=0, backend="cupy")
    x, y = random.normal(size=(4, 3)), random.normal(size=(4, 2))
    explanation = net.explain(cupy.asarray(x), cupy.asarray(y))
    assert explanation.ok and explanation.loss == pytest.approx(float(net.loss_and_grad(x, y)), rel=1e-12)
    assert all(isinstance(step.array, np.ndarray) for step in explanation.steps)
    assert net.explain(x, y, training=False).loss == explanation.loss
