"""Optimisers step by step against PyTorch's, compiled and by NumPy, and what may be changed between steps."""

from __future__ import annotations

import copy
import math
import pickle
from collections import Counter

import numpy as np
import pytest
from backprop_xp.kernels import source
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp import Net
from backprop_xp.formulas import device
from backprop_xp.tensor import Tensor
from backprop_xp.toolchain import cache, compiler
from backprop_xp.training import OPTIMISERS, SGD, Adagrad, Adam, AdamW, RMSprop, get_optimiser
from backprop_xp.training.optimiser import formula

torch = pytest.importorskip("torch")

TORCH = {SGD: "SGD", Adam: "Adam", AdamW: "AdamW", RMSprop: "RMSprop", Adagrad: "Adagrad"}
VARIANTS = [
    (SGD, {}),
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (Adam, {}),
    (Adam, {"lr": 0.1, "betas": (0.4, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    (Adam, {"lr": 0.1, "amsgrad": True}),
    (AdamW, {}),
    (AdamW, {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True}),
    (RMSprop, {}),
    (RMSprop, {"alpha": 0.8, "momentum": 0.9, "weight_decay": 0.1}),
    (RMSprop, {"centered": True, "eps": 1e-3}),
    (RMSprop, {"centered": True, "momentum": 0.5}),
    (Adagrad, {}),
    (Adagrad, {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5}),
    (SGD, {"lr": 0.1, "maximize": True}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True}),
    (Adam, {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    (AdamW, {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True, "maximize": True}),
    (RMSprop, {"centered": True, "momentum": 0.5, "weight_decay": 0.1, "maximize": True}),
    (Adagrad, {"lr_decay": 0.1, "weight_decay": 0.1, "maximize": True}),
]
SHAPES = [(4, 3), (4,), (2, 4), (2,)]
IDS = [f"{cls.name}-{'-'.join(options) or 'defaults'}" for cls, options in VARIANTS]


@pytest.fixture(params=["compiled", "NumPy"])
def path(request, monkeypatch):
    """With a compiler, and as if there were none."""
    if request.param == "compiled":
        if compiler.missing():
            pytest.skip("no C++ compiler on this machine")
    else:
        monkeypatch.setenv("CXX", "/nonexistent")
        monkeypatch.setattr(cache, "_loaded", {})
    return request.param


def tensors(random, dtype="float64", shapes=SHAPES):
    return [Tensor(random.normal(size=shape).astype(dtype), f"p{i}") for i, shape in enumerate(shapes)]


def twins(parameters):
    return [torch.nn.Parameter(torch.tensor(p.data)) for p in parameters]


def set_gradients(random, ours, theirs):
    for p, q in zip(ours, theirs, strict=True):
        p.grad = random.normal(size=p.data.shape).astype(p.data.dtype)
        q.grad = torch.tensor(p.grad)


def assert_equal(ours, theirs, rtol=1e-13):
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("cls, options", VARIANTS, ids=IDS)
def test_every_step_is_that_of_pytorch(cls, options, path, random):
    ours = tensors(random)
    theirs = twins(ours)
    optimiser, reference = cls(**options), getattr(torch.optim, TORCH[cls])(theirs, **options)
    for step in range(25):
        set_gradients(random, ours, theirs)
        optimiser.lr = reference.param_groups[0]["lr"] = (options.get("lr", 1e-2)) * 0.95**step
        optimiser.step(ours)
        reference.step()
        assert_equal(ours, theirs)


@pytest.mark.parametrize("cls", TORCH)
def test_defaults_are_those_of_pytorch(cls):
    theirs = getattr(torch.optim, TORCH[cls])([torch.nn.Parameter(torch.zeros(1))]).defaults
    ours = cls().settings()
    assert ours.pop("name") == cls.name
    assert ours == {name: theirs[name] for name in ours}


@pytest.mark.parametrize("cls", TORCH)
def test_float32(cls, random):
    ours = tensors(random, "float32")
    theirs = twins(ours)
    optimiser, reference = cls(lr=0.01), getattr(torch.optim, TORCH[cls])(theirs, lr=0.01)
    for _ in range(10):
        set_gradients(random, ours, theirs)
        optimiser.step(ours)
        reference.step()
    assert all(p.data.dtype == np.float32 for p in ours)
    assert_equal(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("cls, options", VARIANTS, ids=IDS)
def test_nan_and_infinity_go_where_pytorch_sends_them(cls, options, random):
    ours = [Tensor(np.array([1.0, np.inf, -np.inf, np.nan, 1.0, 1.0, 1.0, -0.0, 0.0]))]
    theirs = twins(ours)
    optimiser, reference = cls(**options), getattr(torch.optim, TORCH[cls])(theirs, **options)
    for _ in range(2):
        ours[0].grad = np.array([0.0, 1.0, 1.0, 1.0, np.inf, -np.inf, np.nan, 0.0, 0.0])
        theirs[0].grad = torch.tensor(ours[0].grad)
        optimiser.step(ours)
        reference.step()
        np.testing.assert_allclose(ours[0].data, theirs[0].detach().numpy(), rtol=1e-13)


@given(data=st.data())
def test_the_first_step_of_any_numbers(data):
    """Adam and SGD with momentum, whatever the sizes of the gradients."""
    numbers = st.floats(-1e30, 1e30, allow_subnormal=False)
    grad = np.array(data.draw(st.lists(numbers, min_size=1, max_size=9)))
    for cls, options in ((Adam, {"lr": 0.1}), (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True})):
        ours = [Tensor(np.zeros_like(grad))]
        theirs = twins(ours)
        ours[0].grad, theirs[0].grad = grad, torch.tensor(grad)
        cls(**options).step(ours)
        getattr(torch.optim, TORCH[cls])(theirs, **options).step()
        np.testing.assert_allclose(ours[0].data, theirs[0].detach().numpy(), rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_makes_no_variance_negative(dtype, path, random):
    """With gradients that never change PyTorch's centered RMSprop ends in NaN."""
    (p,) = tensors(random, dtype, [(500,)])
    p.grad, optimiser = random.normal(size=500).astype(dtype), RMSprop(centered=True)
    for _ in range(4000):
        optimiser.step([p])
    assert np.isfinite(p.data).all()


@pytest.mark.parametrize("most", [1e-3, 1.0, 1e6])
def test_clipping_is_that_of_pytorch(most, random):
    ours = tensors(random)
    theirs = twins(ours)
    optimiser, reference = SGD(lr=1.0), torch.optim.SGD(theirs, lr=1.0)
    for _ in range(3):
        set_gradients(random, ours, theirs)
        given = [p.grad.copy() for p in ours]
        optimiser.step(ours, clip_norm=most)
        torch.nn.utils.clip_grad_norm_(theirs, most)
        reference.step()
        assert_equal(ours, theirs)
        for p, grad in zip(ours, given):
            np.testing.assert_array_equal(p.grad, grad)  # the gradients themselves are the user's


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_clipping_gradients_that_are_not_finite(bad):
    ours = [Tensor(np.zeros(3))]
    theirs = twins(ours)
    ours[0].grad, theirs[0].grad = np.array([1.0, bad, 0.0]), torch.tensor([1.0, bad, 0.0], dtype=torch.float64)
    SGD(lr=1.0).step(ours, clip_norm=1.0)
    torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    torch.optim.SGD(theirs, lr=1.0).step()
    np.testing.assert_array_equal(ours[0].data, theirs[0].detach().numpy())


def test_the_norm_of_float32_gradients_does_not_overflow():
    p = Tensor(np.zeros(4, np.float32))
    p.grad = np.full(4, 1e30, np.float32)
    SGD(lr=1.0).step([p], clip_norm=1.0)
    np.testing.assert_allclose(p.data, -0.5, rtol=1e-6)


def test_penalties_are_on_matrices_and_come_before_clipping(path, random):
    ours = tensors(random)
    theirs = twins(ours)
    optimiser, reference = SGD(lr=0.1), torch.optim.SGD(theirs, lr=0.1)
    for _ in range(3):
        set_gradients(random, ours, theirs)
        penalty = sum(0.3 * q.abs().sum() + 0.25 * (q * q).sum() for q in theirs if q.ndim == 2)
        penalty.backward()
        torch.nn.utils.clip_grad_norm_(theirs, 1.5)
        reference.step()
        optimiser.step(ours, clip_norm=1.5, l1=0.3, l2=0.5)
        assert_equal(ours, theirs)


def test_penalties_keep_weights_small_in_maximizing_too(path, random):
    up, down = tensors(random), None
    down = [Tensor(p.data.copy(), p.name) for p in up]
    for p, q in zip(up, down):
        p.grad = random.normal(size=p.data.shape)
        q.grad = -p.grad
    SGD(lr=0.1, maximize=True).step(up, l1=0.3, l2=0.5, clip_norm=1.0)
    SGD(lr=0.1).step(down, l1=0.3, l2=0.5, clip_norm=1.0)
    for p, q in zip(up, down):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-14)


@pytest.mark.parametrize("of", [np.float32, np.float64, np.array, np.float16])
@pytest.mark.parametrize("cls", TORCH)
def test_numpys_numbers(cls, of, random):
    """Whatever they are set to, options are Python's numbers, computed with in full precision."""
    plain = {name: 0.25 for name, value in vars(cls()).items() if type(value) is float}
    plain |= {"betas": (0.5, 0.25)} if issubclass(cls, Adam) else {}
    given = {name: tuple(map(of, v)) if name == "betas" else of(v) for name, v in plain.items()}
    a, b, c = cls(**plain), cls(**given), cls()
    for name, value in given.items():
        setattr(c, name, value)
    assert a.settings() == b.settings() == c.settings()
    ours = [[Tensor(np.ones(4))] for _ in range(3)]
    for optimiser, (p,) in zip((a, b, c), ours):
        p.grad = np.arange(4.0)
        optimiser.step([p], factor=of(0.5))
    for (p,) in ours[1:]:
        np.testing.assert_array_equal(p.data, ours[0][0].data)


class TestNothingIsStale:
    def test_arrays_edited_in_place_and_put_anew(self, random):
        ours = tensors(random)
        theirs = twins(ours)
        optimiser, reference = SGD(lr=0.1, momentum=0.9), torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
        for step in range(6):
            set_gradients(random, ours, theirs)
            if step % 2:
                ours[0].data *= 0.5
                ours[1].data = ours[1].data + 1.0
                ours[2].data = np.asfortranarray(ours[2].data)
                with torch.no_grad():
                    theirs[0] *= 0.5
                    theirs[1] += 1.0
            optimiser.step(ours)
            reference.step()
            assert_equal(ours, theirs)

    def test_an_array_handed_in_is_not_written_to(self, random):
        p = Tensor(np.ones(3))
        first = p.data
        optimiser = SGD(lr=1.0)
        p.grad = np.ones(3)
        optimiser.step([p])
        np.testing.assert_array_equal(first, 1.0)
        np.testing.assert_array_equal(p.data, 0.0)

    def test_options_changed_between_steps(self, random):
        ours = tensors(random)
        theirs = twins(ours)
        optimiser, reference = SGD(lr=0.1), torch.optim.SGD(theirs, lr=0.1)
        for step in range(6):
            set_gradients(random, ours, theirs)
            optimiser.weight_decay = reference.param_groups[0]["weight_decay"] = 0.1 * (step > 2)
            optimiser.step(ours)
            reference.step()
            assert_equal(ours, theirs)

    def test_momentum_switched_on(self):
        p = Tensor(np.zeros(1))
        optimiser, x, buffer = SGD(lr=1.0), 0.0, 0.0
        for step in range(4):
            optimiser.momentum = 0.5 if step else 0.0
            p.grad = np.ones(1)
            optimiser.step([p])
            buffer = 0.5 * buffer + 1.0 if step else 0.0
            x -= buffer if step else 1.0
            assert p.data[0] == x

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimiser: pickle.loads(pickle.dumps(optimiser))])
    def test_a_copy_has_the_moments_and_no_addresses(self, copied):
        p, q = Tensor(np.zeros(3)), Tensor(np.zeros(3))
        p.grad = q.grad = np.array([1.0, 2.0, 3.0])
        a = Adam()
        a.step([p])
        b = copied(a)
        a.step([p])
        q.data = p.data * 0.5
        b.step([q])
        np.testing.assert_array_equal(a.state["mean"], b.state["mean"])
        assert q.data[0] == pytest.approx(-0.002)
        other = Tensor(np.zeros(4))
        other.grad = np.ones(4)
        with pytest.raises(ValueError, match="this Adam has trained other parameters: make a new optimiser"):
            copied(a).step([other])

    def test_two_optimisers_of_the_same_parameters(self):
        p = Tensor(np.zeros(2))
        a, b = SGD(lr=1.0), SGD(lr=10.0)
        for optimiser in (a, b, a, b):
            p.grad = np.ones(2)
            optimiser.step([p])
        np.testing.assert_array_equal(p.data, -22.0)

    def test_a_net_sees_every_step(self, engine):
        net = Net((3, 5, 2), bias=True, rng=0, engine=engine)
        x, optimiser = np.linspace(-1, 1, 60).reshape(20, 3), SGD(lr=0.01)
        losses = []
        for _ in range(5):
            losses.append(float(net.loss_and_grad(x)))
            optimiser.step(net.parameters)
        assert losses == sorted(losses, reverse=True) and len(set(losses)) == 5
        fresh = Net((3, 5, 2), bias=True, rng=1, engine=engine)
        for p, q in zip(fresh.parameters, net.parameters):
            p.data = q.data.copy()
        assert fresh.loss_and_grad(x) == net.loss_and_grad(x)


def test_the_result_does_not_depend_on_the_threads(monkeypatch, random):
    start, grad = random.normal(size=300_001), random.normal(size=300_001)
    results = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("BACKPROP_XP_NUM_THREADS", threads)
        p, optimiser = Tensor(start.copy()), Adam()
        for _ in range(3):
            p.grad = grad
            optimiser.step([p])
        results.append(p.data)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kernel_compiles_for_every_architecture(dtype):
    nvrtc = pytest.importorskip("nvrtc")
    rules = [formula(cls(**options).rule()) for cls, options in VARIANTS]
    steps = [
        device.entry(rule, tuple(rule.outputs), (1,) * len(rule.variables), dtype, f"step{k}", in_place=True)
        for k, rule in enumerate(rules)
    ]
    for architecture, entries in nvrtc.spread(steps):
        binary, resources = nvrtc.compile_for(source("math.h") + "".join(entries), architecture)
        assert binary and len(resources) == len(entries)
        assert not [name for name, r in resources.items() if r.spills or r.stack]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scalars_that_are_columns_are_computed_with_as_scalars_are(dtype):
    """... that is, the compiler contracts the same products and sums."""
    nvrtc = pytest.importorskip("nvrtc")

    def arithmetic(code):
        lines = [line.split() for line in nvrtc.ptx(source("math.h") + code, "-std=c++17").splitlines()]
        kinds = ("add.", "sub.", "mul.", "fma.", "div.", "sqrt.", "neg.", "rcp.")
        counts = Counter(line[0] for line in lines if line and line[0].startswith(kinds) and ".f" in line[0])
        copies = math.gcd(*counts.values())  # of the loop's body, which is unrolled
        return {name: count // copies for name, count in counts.items()}

    for cls, options in VARIANTS:
        rule = cls(**options).rule()
        alone, columns = formula(rule), formula(rule, columns=True)
        widths = (1,) * (2 + len(rule.state))
        code = device.entry(alone, tuple(alone.outputs), widths, dtype, "step", in_place=True)
        other = (*widths, *(97,) * len(rule.scalars))
        assert arithmetic(code) == arithmetic(
            device.entry(columns, tuple(alone.outputs), other, dtype, "step", in_place=True, each=97)
        )


class TestMessages:
    def test_names(self):
        assert all(isinstance(get_optimiser(name), cls) for name, cls in OPTIMISERS.items())
        with pytest.raises(ValueError, match="unknown optimiser 'adan'; did you mean 'adam'"):
            get_optimiser("adan")
        with pytest.raises(TypeError, match=r"a name or an object such as Adam\(lr=0.001\), got Adam"):
            get_optimiser(Adam)

    @pytest.mark.parametrize("name", ["lr", "eps", "weight_decay"])
    @pytest.mark.parametrize("value", [-1.0, math.nan, "0.1"])
    def test_numbers(self, name, value):
        with pytest.raises(ValueError, match=f"{name} of Adam must be a number from 0 on, got {value!r}"):
            Adam(**{name: value})

    @pytest.mark.parametrize("name", ["lr", "maximize", "betas"])
    def test_options_that_are_set_later_are_checked_too(self, name):
        optimiser = Adam()
        with pytest.raises(ValueError, match=f"{name} of Adam must be .*, got 'much'"):
            setattr(optimiser, name, "much")
        assert optimiser.settings() == Adam().settings()

    def test_unknown_options(self):
        with pytest.raises(TypeError, match="unknown option of Adam 'weightdecay'; did you mean 'weight_decay'"):
            Adam(weightdecay=0.1)
        with pytest.raises(TypeError, match="unknown option of SGD 'maximise'; did you mean 'maximize'"):
            SGD(maximise=True)

    def test_options(self):
        with pytest.raises(ValueError, match="betas of Adam must be two numbers from 0 to below 1"):
            Adam(betas=(0.9, 1.0))
        with pytest.raises(ValueError, match="nesterov needs a momentum, and a dampening of 0"):
            SGD(nesterov=True)

    def test_other_parameters(self):
        p, q, optimiser = Tensor(np.zeros(2)), Tensor(np.zeros(2)), SGD()
        p.grad = q.grad = np.ones(2)
        optimiser.step([p])
        with pytest.raises(ValueError, match="this SGD has trained other parameters: make a new optimiser"):
            optimiser.step([q])
