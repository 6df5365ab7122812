"""The chain rule as formulas: for every activation and set of derivatives what the two loops compute with arrays."""

import numpy as np
import pytest

from backprop_xp import ACTIVATIONS, arrays
from backprop_xp.derivatives import loops
from backprop_xp.derivatives.chain_rule import rules
from backprop_xp.derivatives.of_activation import SECOND, chain_rule
from backprop_xp.passes.article import Layer

WANTED = {
    "value": [()],
    "gradient": [(0,), (1,)],
    "heat": [(1,), (0, 0)],
    "mixed": [(0, 1)],
    "third": [(0, 0, 1)],
    "fourth": [(0, 0, 0, 0)],
    "laplacian": [frozenset({0, 1})],
}


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_it_is_what_the_loops_compute(name, wanted, random):
    f, rule = ACTIVATIONS[name](), rules(WANTED[wanted])
    signals = len(rule.stack)
    t, grad_z = random.normal(size=(signals, 6, 5)), random.normal(size=(signals, 6, 5))
    layers = [Layer(np.eye(5), None, f)]
    z, kept = loops.push_forward(layers, t, rule)
    grad_t = loops.pull_back(layers, kept, grad_z, rule)[1]
    formulas = chain_rule(f.text, rule)
    assert formulas.by_value == (f.text in SECOND)
    read = {"t": t[0]} | ({"value": f(t[0]), "derivative": f.grad(t[0])} if formulas.by_value else {})
    read |= {f"t[{k}]": t[k] for k in range(1, signals)}
    found = arrays.elementwise(formulas.forward, tuple(f"z{k}" for k in range(signals)), read, f.parameters)
    np.testing.assert_allclose(found, z, rtol=1e-10, atol=1e-10)
    read |= {f"grad_z[{k}]": grad_z[k] for k in range(signals)}
    found = arrays.elementwise(formulas.backward, tuple(f"grad{k}" for k in range(signals)), read, f.parameters)
    np.testing.assert_allclose(found, grad_t, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", sorted(each.name for each in ACTIVATIONS.values() if each.second))
def test_second_derivatives_by_value_are_the_formulas(name):
    f = ACTIVATIONS[name]()
    t = np.linspace(-20, 20, 301)
    read = {"t": t, "value": f(t), "derivative": f.grad(t), "t[1]": np.ones(301), "t[2]": np.zeros(301)}
    formulas = chain_rule(f.text, rules([(0, 0)]))
    (found,) = arrays.elementwise(formulas.forward, ("z2",), read)
    np.testing.assert_allclose(found, loops.derivatives(f, t, 2)[2], rtol=1e-9, atol=1e-15)
