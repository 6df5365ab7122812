"""Matrix products by cuBLAS: what it is asked for, and that it is handed the right matrices."""

import numpy as np
import pytest

from backprop_xp import Net
from backprop_xp.programs import cublas


@pytest.fixture
def asked(cupy, monkeypatch):
    """The kinds of arithmetic that cuBLAS is asked for."""
    kinds = []
    library = cupy.cuda.cublas

    class Spy:
        def __getattr__(self, name):
            return getattr(library, name)

        def gemmEx(self, *arguments):
            kinds.append(arguments[-2])
            return library.gemmEx(*arguments)

    monkeypatch.setattr(cupy.cuda, "cublas", Spy())
    return kinds


@pytest.mark.gpu
@pytest.mark.parametrize("m, k, n", [(5, 3, 4), (1, 7, 1), (4, 1, 4), (1, 1, 1), (0, 3, 2), (3, 0, 2)])
def test_matrices_in_any_layout(cupy, random, asked, m, k, n):
    a, b = (random.normal(size=size).astype("float32") for size in ((m, k), (k, n)))
    ways = [
        lambda array: cupy.asarray(array),
        lambda array: cupy.asarray(np.ascontiguousarray(array.T)).T,
        lambda array: cupy.asarray(np.repeat(array, 2, axis=1))[:, ::2],
    ]
    with cublas.allowing("tf32"):
        for one in ways:
            for other in ways:
                np.testing.assert_allclose(cublas.product(one(a), other(b)).get(), a @ b, rtol=1e-5, atol=1e-6)
    assert set(asked) <= {cupy.cuda.cublas.CUBLAS_COMPUTE_32F_FAST_TF32}
    assert bool(asked) == bool(m * k * n)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "precision, kind, says",
    [
        ("float32", None, ""), ("tf32x3", None, "float32, not tf32x3: cuBLAS has nothing of that kind"),
        ("tf32", "TF32", "tf32"), ("float16", "TF32", "tf32"), ("bfloat16", "16BF", "bfloat16"),
    ],
)  # fmt: skip
def test_the_layered_engine_lets_cublas_do_what_the_net_allows(cupy, random, asked, precision, kind, says):
    net = Net((20, 24, 5), dtype="float32", rng=0, backend="cupy", engine="layered", precision=precision)
    x = cupy.asarray(random.normal(size=(40, 20)).astype("float32"))
    for keep in (False, True):
        net.loss_and_grad(x, input_grad=True, keep_signals=keep)
        net(x)
    net.forward(x, keep_signals=True)
    net.backward(cupy.ones((40, 5), "float32"))
    assert set(asked) == ({getattr(cupy.cuda.cublas, f"CUBLAS_COMPUTE_32F_FAST_{kind}")} if kind else set())
    assert len(asked) == (
        2 * (6 + 2) + 2 + 3 if kind else 0
    )  # every product, of which the backward pass has two a layer
    assert net.plan(x).reason.partition("products in ")[2] == says
    del asked[:]
    with np.errstate(all="ignore"):
        cupy.ones((3, 4), "float32") @ cupy.ones((4, 3), "float32")  # the user's own
    assert not asked


@pytest.mark.gpu
def test_double_stays_double(cupy, asked):
    with cublas.allowing("tf32"):
        assert cublas.product(cupy.ones((3, 4)), cupy.ones((4, 3))).dtype == np.float64
    assert not asked
