"""What the fused engine must survive: huge batches, interrupts, many calls, many threads, bad compilers, sanitizers."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from backprop_xp import Activation, Net
from backprop_xp.engines import warn_uncompiled
from backprop_xp.programs import fused, narrow
from backprop_xp.programs.narrow import Narrow
from backprop_xp.toolchain import cache, compiler

needs_compiler = pytest.mark.skipif(bool(compiler.missing()), reason="no C++ compiler on this machine")
pytestmark = needs_compiler


def article(**options):
    return Net((5, 10, 4, 12), ("tanh", "sigmoid", "identity"), rng=0, dtype="float32", **options)


def test_a_batch_of_more_than_two_to_the_31_elements():
    n = (1 << 31) // 5 + 4097
    row = np.linspace(-1, 1, 5, dtype=np.float32)
    net, x = article(engine="fused"), np.broadcast_to(row, (n, 5))  # one row, seen n times
    one = net.loss_and_grad(row[None])
    grad = net.weights[0].grad
    assert net.loss_and_grad(x) == pytest.approx(n * float(one), rel=1e-5)
    np.testing.assert_allclose(net.weights[0].grad, n * grad.astype(np.float64), rtol=1e-4, atol=n * 1e-6)


def test_the_end_of_a_large_file_is_read_where_it_lies(tmp_path):
    path, n = tmp_path / "sparse", (1 << 31) // 3 + 5
    x = np.memmap(path, np.float32, "w+", shape=(n, 3))  # 8 GiB of zeros that take no room
    x[-1] = [1.0, 2.0, 3.0]
    net = Net((3, 2), ("tanh",), rng=0, dtype="float32", engine="fused")
    assert net.loss_and_grad(x[-5000:]) == pytest.approx(float(net.loss_and_grad(np.array(x[-1:]))), rel=1e-6)
    sample = x[:: (n - 1) // 7]  # strides of a gigabyte
    assert net.loss_and_grad(sample) == pytest.approx(float(net.loss_and_grad(np.array(sample))), rel=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_is_honoured_within_a_second(threads):
    program = textwrap.dedent(f"""
        import signal
        import numpy as np
        from backprop_xp import Net
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts without
        net = Net((5, 10, 4, 12), ("tanh", "sigmoid", "identity"), rng=0, dtype="float32", threads={threads})
        x = np.broadcast_to(np.ones(5, np.float32), (1 << 36, 5))
        net.loss_and_grad(x[:10000])
        print("ready", flush=True)
        try:
            net.loss_and_grad(x)
        except KeyboardInterrupt:
            net.loss_and_grad(x[:10000])
            print("interrupted", flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0] == "interrupted\n"  # the whole call would take minutes
        assert process.returncode == 0
    finally:
        process.kill()


def test_nothing_leaks():
    net, x = article(engine="fused"), np.ones((300, 5), np.float32)
    sample = np.ones(5, np.float32)

    def memory():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * resource.getpagesize()

    for _ in range(200):
        net.loss_and_grad(x)
        net.loss_and_grad(sample)
    before = memory()
    for _ in range(5000):
        net.loss_and_grad(x)
        net.loss_and_grad(sample)
    assert memory() - before < 4 << 20


def test_extra_memory_is_small():
    program = textwrap.dedent("""
        import resource
        import numpy as np
        from backprop_xp import Net
        net = Net((5, 10, 4, 12), rng=0, dtype="float32", engine="fused")
        x = np.broadcast_to(np.ones(5, np.float32), (1 << 24, 5))
        net.loss_and_grad(x[:1])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        net.loss_and_grad(x)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert int(result.stdout) < 64 << 10  # KiB


def test_forward_from_several_threads_at_once(random):
    net, x = article(engine="fused"), random.normal(size=(20_000, 5)).astype(np.float32)
    expected, failures = net(x), []

    def work():
        for _ in range(10):
            if not np.array_equal(net(x), expected):
                failures.append(1)

    running = [threading.Thread(target=work) for _ in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not failures


def test_gradients_from_several_threads_at_once_are_all_complete(random):
    net, x = article(engine="fused"), random.normal(size=(20_000, 5)).astype(np.float32)
    loss = net.loss_and_grad(x)
    expected, losses = [w.grad for w in net.weights], []

    def work():
        for _ in range(10):
            losses.append(net.loss_and_grad(x))

    running = [threading.Thread(target=work) for _ in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert set(losses) == {loss}
    for w, grad in zip(net.weights, expected):
        np.testing.assert_array_equal(w.grad, grad)


def test_a_net_it_cannot_run_is_refused_by_name_and_run_otherwise_by_auto(random):
    class Plain(Activation):
        def __call__(self, x):
            return x * 2

        def grad(self, x):
            return np.full_like(x, 2)

    x = random.normal(size=(10, 3))
    with pytest.raises(ValueError, match="the fused engine can't run this call: an activation is written in Python"):
        Net((3, 2), (Plain(),), engine="fused").loss_and_grad(x)
    net = Net((3, 2), (Plain(),), rng=0)
    assert "not fused: an activation is written in Python" in net.plan(x).reason
    assert np.isfinite(net.loss_and_grad(x))


@pytest.fixture
def broken_compiler(tmp_path, monkeypatch, new_functions):
    """A compiler that answers to --version and then prints an error."""
    script = tmp_path / "broken"
    script.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && { echo broken 1; exit 0; }\necho "kernel.cpp:1: error: no" >&2\nexit 1\n',
        encoding="utf-8",
    )
    script.chmod(0o700)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("BACKPROP_XP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_loaded", {})
    monkeypatch.setattr(narrow, "_programs", {})
    warn_uncompiled.cache_clear()


@pytest.mark.parametrize("outputs", [3, 40])
def test_targets_are_read_wherever_their_numbers_lie(outputs, random):
    net = Net((9, 70, outputs), loss="mse", bias=True, dtype="float32", rng=0, backend="numpy", engine="fused")
    for n in (1, 33, 500):
        x, y = random.normal(size=(n, 9)).astype(np.float32), random.normal(size=(n, outputs)).astype(np.float32)
        for there in (y[::-1], y[:, ::-1], np.asfortranarray(y)):
            found = [
                (net.loss_and_grad(x, each), *(p.grad.copy() for p in net.parameters)) for each in (there, there.copy())
            ]
            for a, b in zip(*found, strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_failing_compiler_is_one_warning_and_another_engine(broken_compiler, random):
    x = random.normal(size=(100, 5))
    expected = article(engine="layered").loss_and_grad(x)
    net = article()
    with pytest.warns(UserWarning, match="running without compiled kernels, .*error: no") as caught:
        for _ in range(3):
            assert net.loss_and_grad(x) == pytest.approx(expected, rel=1e-6)
            assert np.isfinite(net.loss_and_grad(x[0]))
    assert len(caught) == 1


SANITIZED = """
import numpy as np
from backprop_xp import Equation, Net
random = np.random.default_rng(0)
net = Net((7, 9, 5), ("gelu", "identity"), "softmax_cross_entropy", True, "float32", rng=0, engine="fused")
for n in (1, 15, 129, 4097):
    x, y = random.normal(size=(n, 7)).astype(np.float32), random.integers(0, 5, n)
    net.loss_and_grad(x, y, sample_weight=np.ones(n), input_grad=True)
    net.loss_and_grad(x[::-1, ::-1], y[::-1], sample_weight=np.ones(2 * n)[::2], input_grad=True)
    net(x)
wide = Net((33, 70, 40), ("gelu", "identity"), "mse", True, "float32", rng=0, engine="fused")
for n in (1, 7, 481, 1500):
    x, y = random.normal(size=(n, 33)).astype(np.float32), random.normal(size=(n, 40))
    wide.loss_and_grad(x, y, sample_weight=np.ones(n), input_grad=True)
    wide.loss_and_grad(x[::-1, ::-1], y, sample_weight=np.ones(n), input_grad=True)
    wide(x)
# rows longer than few samples read at once, several blocks of W, several chunks, several threads
deep = Net((515, 130, 3), ("gelu", "identity"), "mse", True, "float32", rng=0, init="glorot_normal", engine="fused")
for n, deep.threads in ((1, 1), (3, 3), (24, 3), (25, 3), (2100, 3)):
    x, y = random.normal(size=(n, 515)).astype(np.float32), random.normal(size=(n, 3)).astype(np.float32)
    deep.loss_and_grad(x, y)
    deep.loss_and_grad(x[:, ::-1], y, input_grad=True)
    deep(x)
equation = Equation("u_xx + v_yy - f", "v * u_y", inputs="x y", outputs="u v", targets="f")
derived = Net((2, 19, 26, 2), ("tanh", "tanh", "identity"), "mse", True, "float32", rng=0, engine="fused")
for n, derived.threads in ((1, 1), (33, 3), (300, 3)):
    x, y = random.normal(size=(n, 2)).astype(np.float32), random.normal(size=n).astype(np.float32)
    derived.loss_and_grad(x, y, loss=equation)
    derived.loss_and_grad(x[:, ::-1], y, sample_weight=np.ones(2 * n)[::2], input_grad=True, loss=equation)
single = Net((7, 9, 5), ("tanh", "identity"), "mse", True, rng=0)
single.loss_and_grad(np.ones(7), np.ones(5))
print("clean")
"""


def test_address_and_undefined_behaviour_sanitizers(tmp_path):
    cxx = compiler.find().command[0]
    library = subprocess.run([cxx, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(library):
        pytest.skip("no AddressSanitizer with this compiler")
    wrapped = tmp_path / "c++"  # what is asked for here stands behind the flags of kernels, -O3 among them
    wrapped.write_text(
        f'#!/bin/sh\nexec {cxx} "$@" -fsanitize=address,undefined -fno-sanitize-recover=all -g1 -O1\n', encoding="utf-8"
    )
    wrapped.chmod(0o700)
    environment = {
        **os.environ,
        "CXX": str(wrapped),
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",
        "BACKPROP_XP_CACHE": str(tmp_path / "cache"),
        "BACKPROP_XP_BACKEND": "numpy",
    }
    result = subprocess.run(
        [sys.executable, "-c", SANITIZED], env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.stdout.endswith("clean\n"), result.stderr[-3000:]
    assert "runtime error" not in result.stderr


def test_the_whole_package_without_a_compiler(tmp_path):
    program = textwrap.dedent("""
        import warnings
        import numpy as np
        from backprop_xp import Net
        net = Net((5, 10, 4, 12), ("tanh", "sigmoid", "identity"), rng=0)
        x = np.random.default_rng(0).normal(size=(5000, 5))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss = net.loss_and_grad(x)
            net.loss_and_grad(x)
        (warning,) = caught
        assert "no C++ compiler was found ($CXX is '/nonexistent')" in str(warning.message)
        assert net.plan(x).engine == "layered", net.plan(x)
        assert "no C++ compiler was found" in net.plan(x).reason
        assert net.plan(np.tile(x, (8, 1))).engine == "tiled"
        net.engine = "layered"
        assert np.isclose(loss, net.loss_and_grad(x))
        net.loss_and_grad(x[0])
    """)
    environment = {**os.environ, "CXX": "/nonexistent", "PATH": str(tmp_path), "BACKPROP_XP_BACKEND": "numpy"}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("weighted", [False, True])
def test_any_widths_keeps_batches_out_of_the_form_for_one_net(weighted, monkeypatch, random):
    """Also of a net whose calls are prepared: what is asked around a run counts in every call."""
    net = Net((3, 5, 2), loss="mse", rng=0, backend="numpy", reduction="mean")
    x, y = random.normal(size=(4096, 3)), random.normal(size=(4096, 2))
    weight = {"sample_weight": np.ones(4096)} if weighted else {}
    runs: list = []
    monkeypatch.setattr(Narrow, "run", counted(runs, Narrow.run))
    found = []
    for wide in (False, True, False, True):
        token = fused.any_widths.set(wide)
        try:
            loss = net.loss_and_grad(x, y, **weight)
        finally:
            fused.any_widths.reset(token)
        found.append((float(loss), net.weights[0].grad))
        assert bool(runs) != wide
        runs.clear()
    for loss, grad in found[1:]:
        assert loss == pytest.approx(found[0][0])
        np.testing.assert_allclose(grad, found[0][1], rtol=1e-10, atol=1e-14)


def counted(calls, function):
    return lambda *arguments: calls.append(1) or function(*arguments)
