"""Methods that stand elsewhere are, to those who ask, the functions they are."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys

import pytest

from backprop_xp import GraphNet, Net, ahead, drawn, exchange, explain, training

METHODS = {
    "compile": ahead.compile,
    "draw": drawn.draw,
    "explain": explain.explain,
    "fit": training.fit,
    "load": exchange.load,
    "save": exchange.save,
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", [Net, GraphNet])
def test_a_method_is_the_function_with_its_signature_and_its_docstring(kind, name):
    function = METHODS[name]
    assert getattr(kind, name) is function and inspect.getdoc(getattr(kind, name)) == inspect.getdoc(function)
    listed = {each.name: each.kind for each in inspect.classify_class_attrs(kind)}
    assert listed[name] == "method"
    assert inspect.getdoc(function).splitlines()[0] in pydoc.plain(pydoc.render_doc(kind))


def test_a_method_of_an_object_is_bound_to_it():
    net = Net(rng=0)
    assert net.fit.__self__ is net and next(iter(inspect.signature(net.fit).parameters)) == "x"
    assert net.load is exchange.load


def test_a_subclass_may_have_a_method_of_its_own():
    class Mine(Net):
        def fit(self, x):
            return super().fit, x

    inherited, x = Mine(rng=0).fit(3)
    assert x == 3 and inherited.__func__ is training.fit


def test_a_first_pass_imports_no_training():
    program = """
import sys, backprop_xp
net = backprop_xp.Net(rng=0)
net.loss_and_grad([1.0] * 5), net.loss_and_grad([[1.0] * 5] * 3), net.forward([[1.0] * 5]), net.forward([1.0] * 5)
print([name for name in ("training", "distributed", "exchange", "equations") if f"backprop_xp.{name}" in sys.modules])
net.fit
print("backprop_xp.training" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "[]\nTrue\n", result.stderr
