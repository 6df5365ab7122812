"""Every example runs: with a few steps its loss falls, and its picture is drawn. docs/derivatives.md has the full runs."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "show")


@pytest.fixture
def example(request, monkeypatch):
    """The module of an example."""
    monkeypatch.setenv("BACKPROP_XP_BACKEND", "numpy")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module(request.param)
    for name in (request.param, "show"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("example", NAMES, indirect=True)
def test_a_few_steps_of_it_bring_the_loss_down(example, tmp_path, capsys):
    import show

    start = tmp_path / f"{example.__name__}.py"
    histories = []

    def few():
        net, history = example.solve(epochs=2)
        histories.append(history)
        return net, history

    show.run(str(start), few, example.POINTS, np.ones(len(example.POINTS)))
    first, second = (epoch.loss for epoch in histories[0].epochs)
    assert second < first
    assert "relative error" in capsys.readouterr().out
    if importlib.util.find_spec("matplotlib"):
        assert start.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert len((EXAMPLES / start.name).read_text(encoding="utf-8").splitlines()) < 40
