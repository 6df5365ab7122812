"""Settings for all tests, and what several of them need."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from backprop_xp.programs import matrices, narrow, stack
from backprop_xp.toolchain import compiler

settings.register_profile(
    "here", deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("here")

#: NumPy on every machine: what a GPU computes is tested by the tests marked so.
ENGINES = ["layered", "tiled", "fused"]


@pytest.fixture(autouse=True)
def on_the_host(request, monkeypatch):
    """Nets without an explicit backend are NumPy's, except in GPU tests, which need a device."""
    if request.node.get_closest_marker("gpu"):  # keywords hold the names of folders, too
        request.getfixturevalue("cupy")
    else:
        monkeypatch.setenv("BACKPROP_XP_BACKEND", "numpy")


@pytest.fixture
def cupy():
    """CuPy on a CUDA device that answers, or on an emulation of one."""
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.fail("the GPU tests were asked for, and no CUDA device answers")
    return cupy


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param == "fused" and compiler.missing():
        pytest.skip("no C++ compiler on this machine")
    return request.param


@pytest.fixture
def brief(monkeypatch):
    """A benchmark takes no longer than its processes: small matrices for the limits, turns of one step, and no rests."""
    from backprop_xp.bench import limits, measure

    monkeypatch.setattr(limits, "measure", partial(limits.measure, size=64))
    monkeypatch.setattr(limits, "_copy", lambda: 1e10)
    monkeypatch.setattr(measure, "REST", 0.0)
    monkeypatch.setattr(measure, "SHORTEST", 0.0)


@pytest.fixture
def new_functions():
    """Nothing of the pass for any widths is known yet, nor stays known, for a test that compiles otherwise."""

    def forget():
        for known in (matrices._core, matrices._activation, matrices._loss, narrow._parts):
            known.cache_clear()
        for known in (stack._core, stack._activation, stack._function_of):
            known.cache_clear()

    forget()
    yield
    forget()
