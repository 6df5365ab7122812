"""The examples beside PyTorch: both minimise the same loss, by the same steps."""

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
examples = pytest.importorskip("backprop_xp.bench.examples")

from backprop_xp import exchange  # noqa: E402

NAMES = sorted(path.stem for path in examples.EXAMPLES.glob("*.py") if path.stem != "show")


@pytest.fixture
def case(request, monkeypatch):
    """Net, point sets of a few points and options of an example."""
    monkeypatch.setenv("BACKPROP_XP_BACKEND", "numpy")
    monkeypatch.syspath_prepend(str(examples.EXAMPLES))
    net, sets, options = examples.captured(importlib.import_module(request.param), 1)
    for name in (request.param, "show"):
        sys.modules.pop(name, None)
    some = {
        name: replace(each, x=each.x[::9][:25], y=None if each.y is None else each.y[::9][:25])
        for name, each in sets.items()
    }
    return net, some, options


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_losses_are_the_same_at_first_and_after_some_steps(case):
    net, sets, options = case
    module = exchange.to_torch(net)
    for each in sets.values():
        arrays = [None if a is None else torch.tensor(a) for a in (each.x, each.y)]
        theirs = examples.loss_of(module, each.loss, *arrays).item()
        y = each.y if each.y is None or each.y.ndim == 2 else each.y[:, None]
        assert net.loss_and_grad(each.x, y, loss=each.loss) == pytest.approx(theirs, rel=1e-9)
    net.fit(sets, **options)
    examples.train_in_torch(module, sets, options)
    x = next(iter(sets.values())).x
    with torch.no_grad():
        np.testing.assert_allclose(net(x), module(torch.tensor(x)).numpy(), rtol=1e-3, atol=1e-3)


def test_an_example_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        examples.main(["heart"])
    assert "there is no example 'heart'; there are burgers" in capsys.readouterr().err
