"""Methods that stand elsewhere are, to those who ask, the functions they are; modules are there when they are asked."""

import inspect
import pydoc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from backprop_xp import GraphNet, Net, ahead, by_sample, derived, drawn, exchange, explain, later, repeated, training

METHODS = {
    "compile": ahead.compile,
    "derivatives": derived.derivatives,
    "draw": drawn.draw,
    "explain": explain.explain,
    "fit": training.fit,
    "load": exchange.load,
    "per_sample_grads": by_sample.per_sample_grads,
    "per_sample_norms": by_sample.per_sample_norms,
    "repeated": repeated.repeated,
    "residuals": derived.residuals,
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


def test_a_module_is_imported_when_something_of_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "asked_for_later.py").write_text("number = 1\n", encoding="utf-8")
    module = later.Module("asked_for_later")
    assert "asked_for_later" not in sys.modules
    try:
        assert module.number == 1
        sys.modules["asked_for_later"].number = 2  # as a test may
        assert module.number == 2 and module.__name__ == "asked_for_later"
        with pytest.raises(AttributeError, match=r"^module 'asked_for_later' has no attribute 'numbre'$"):
            print(module.numbre)
    finally:
        sys.modules.pop("asked_for_later", None)


def test_threads_that_ask_at_once_get_a_module_that_is_whole(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "import time\ntime.sleep(0.05)\nnumber = 1\n"
    (tmp_path / "asked_for_by_many.py").write_text(text, encoding="utf-8")
    module = later.Module("asked_for_by_many")
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: module.number, range(4))) == [1] * 4
    finally:
        sys.modules.pop("asked_for_by_many", None)
