"""Every engine is what plan/engine.py says one is: the functions, their parameters and their annotations."""

import inspect
import pkgutil

import pytest

from backprop_xp import engines
from backprop_xp.engines import on_gpu
from backprop_xp.plan import engine as protocol

EVERY = {
    **{f"{name} on the CPU": e for name, e in engines.ON_CPU.items()},
    **{f"{name} on the GPU": e for name, e in on_gpu.ON_GPU.items()},
}
CASES = [
    *[(name, engine, protocol.Engine) for name, engine in EVERY.items()],
    *[(name, engine, protocol.Yielding) for name, engine in EVERY.items() if hasattr(engine, "yields")],
    *[(name, engine, protocol.Chunked) for name, engine in EVERY.items() if hasattr(engine, "pieces")],
]


def functions(kind):
    return {
        name: f
        for cls in kind.__mro__
        for name, f in vars(cls).items()
        if inspect.isfunction(f) and not name.startswith("_")
    }


@pytest.mark.parametrize(("name", "engine", "kind"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_every_engine_has_these_functions_with_these_annotations(name, engine, kind):
    for function, declared in functions(kind).items():
        given = inspect.signature(getattr(engine, function))
        expected = inspect.signature(declared)
        without_self = expected.replace(parameters=list(expected.parameters.values())[1:])
        assert given == without_self, f"{function} of {name}"
        assert inspect.getdoc(getattr(engine, function)), f"{function} of {name}"


def test_every_engine_of_the_folder_is_listed():
    there = {m.name for m in pkgutil.iter_modules(engines.__path__)} - {"on_gpu"}  # the list itself
    assert there == {engine.__name__.rpartition(".")[2] for engine in EVERY.values()}
    assert set(engines.ENGINES) == {*engines.ON_CPU, *on_gpu.ON_GPU}


def test_those_that_yield_or_work_in_chunks_are_known_by_it():
    assert [name for name, engine in EVERY.items() if isinstance(engine, protocol.Chunked)] == [
        "fused on the GPU",
        "cooperative on the GPU",
    ]
    assert [name for name, engine in EVERY.items() if isinstance(engine, protocol.Yielding)] == [
        "tiled on the CPU",
        "fused on the GPU",
        "cooperative on the GPU",
    ]
