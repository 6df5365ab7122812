"""Modules of PyTorch that are no chains, traced or exported, as graph nets: the same numbers, or a refusal by name."""

import warnings

import numpy as np
import pytest

from backprop_xp import GraphNet, Net
from backprop_xp.exchange import from_torch
from backprop_xp.exchange.torch_modules import MODULES

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


def of(function, **modules):
    """A module in float64 with these parts, whose forward is ``function(self, *inputs)``."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            for name, module in modules.items():
                setattr(self, name, module)

        def forward(self, *inputs):
            return function(self, *inputs)

    one = {1: lambda self, x: function(self, x), 2: lambda self, x, y: function(self, x, y)}
    Model.forward = one[function.__code__.co_argcount - 1]
    return Model().double()


def example(net, samples=4):
    torch.manual_seed(1)
    return {name: torch.randn(samples, width, dtype=torch.float64) for name, width in net.inputs.items()}


def assert_equal(net, model, samples=4):
    """Outputs, and gradients of half the sum of squares in all parameters, of the module outside of training."""
    x = example(net, samples)
    tensors = [tensor.requires_grad_() for tensor in x.values()]
    z = model(*tensors)
    arrays = {name: tensor.detach().numpy() for name, tensor in x.items()}
    np.testing.assert_allclose(net(arrays), z.detach(), rtol=1e-11, atol=1e-12)
    (0.5 * z**2).sum().backward()
    net.loss_and_grad(arrays, training=False)
    theirs = dict(model.named_parameters())
    for name, parameter in theirs.items():
        ours = net.tensors[name if name in net.tensors else name.replace(".weight", ".gain")]
        np.testing.assert_allclose(ours.grad, parameter.grad, rtol=1e-6, atol=1e-9)  # Hardsigmoid's is a float32 1 / 6
    assert len(theirs) == len(net.parameters)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.first, self.drop = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Dropout(0.1)
        self.second = nn.Linear(2 * width, width, bias=False)

    def forward(self, x):
        return x + self.second(self.drop(F.gelu(self.first(self.norm(x)))))


def resnet():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 3), Block(3), Block(3), nn.ReLU(), nn.Linear(3, 2)).double()


def dense(self, x, y):
    h = torch.tanh(self.a(x))
    return self.b(torch.cat([h, x, y * y], dim=1))


def in_functions(self, x):
    h = F.linear(x, self.fc.weight, self.fc.bias)
    h = F.layer_norm(h, (4,), self.norm.weight, self.norm.bias, 1e-3)
    return torch.add(h, torch.mul(h.sigmoid(), F.silu(h)))


def in_place(self, x):
    h = self.fc(x)
    h += x
    return F.relu(h.add_(x), inplace=True)


def twice(self, x):
    return self.fc(torch.tanh(self.fc(x))) + self.norm(self.norm(x))


MODELS = {
    "residual blocks": (resnet, (5,)),
    "several inputs": (lambda: of(dense, a=nn.Linear(3, 4), b=nn.Linear(9, 2)), (3, 2)),
    "functions": (lambda: of(in_functions, fc=nn.Linear(3, 4), norm=nn.LayerNorm(4, 1e-3)), (3,)),
    "in place": (lambda: of(in_place, fc=nn.Linear(3, 3)), (3,)),
    "called twice": (lambda: of(twice, fc=nn.Linear(3, 3), norm=nn.LayerNorm(3)), (3,)),
    "a normalisation first": (lambda: nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2)).double(), (3,)),
    "an activation first": (lambda: nn.Sequential(nn.Tanh(), nn.Linear(3, 2)).double(), (3,)),
}


@pytest.mark.parametrize("exported", [False, True], ids=["traced", "exported"])
@pytest.mark.parametrize("make, widths", MODELS.values(), ids=MODELS)
def test_the_same_numbers(make, widths, exported):
    model = make().eval()
    program = model
    if exported:
        rows = torch.export.Dim("rows")
        program = torch.export.export(
            model, tuple(torch.randn(4, width).double() for width in widths), dynamic_shapes=({0: rows},) * len(widths)
        )
    net = from_torch(program, engine="layered")
    assert isinstance(net, GraphNet) and tuple(net.inputs.values()) == widths
    assert_equal(net, model)
    assert not model.training


@pytest.mark.parametrize("name", [name for name in MODULES if name != "identity"])
def test_activations_as_functions(name):
    """With settings of their own, by position and by name, traced and exported; softsign is exported in pieces."""
    module, fixed = MODULES[name]
    settings = {
        "LeakyReLU": {"negative_slope": 0.2}, "ELU": {"alpha": 0.7}, "CELU": {"alpha": 2.0}, "GELU": fixed,
        "Softplus": {"beta": 3.0, "threshold": 5.0}, "Hardtanh": {"min_val": -2.0, "max_val": 0.5},
    }.get(module, {})  # fmt: skip
    function = getattr(F, {"LeakyReLU": "leaky_relu"}.get(module, module.lower()))
    for called in (
        lambda self, x: function(self.fc(x), **settings),
        lambda self, x: function(self.fc(x), *(() if module == "GELU" else settings.values()), **fixed),
        lambda self, x: function(self.fc(x)),
    ):
        model = of(called, fc=nn.Linear(3, 4))
        net = from_torch(model, engine="layered")
        assert_equal(net, model)
        if name != "softsign":
            exported = from_torch(torch.export.export(model, (torch.randn(4, 3).double(),)), engine="layered")
            np.testing.assert_allclose(exported(np.eye(3)), net(np.eye(3)), rtol=1e-12, atol=1e-15)
            assert exported.tensors.keys() == net.tensors.keys() == {"fc.weight", "fc.bias"}


def test_parameters_are_called_as_in_the_state():
    net = from_torch(resnet(), engine="layered")
    state = [name.replace("norm.weight", "norm.gain") for name in resnet().state_dict()]
    assert sorted(net.tensors) == sorted(state)
    assert [node.name for node in net.nodes if type(node.operation).__name__ == "Dropout"] == ["1.drop", "2.drop"]


def test_options_and_dtype():
    net = from_torch(resnet().float(), loss="mse", reduction="mean", threads=1, rng=3, backend="numpy")
    assert (net.dtype, net.loss.name, net.reduction, net.threads) == ("float32", "mse", "mean", 1)
    assert net.seed == from_torch(resnet(), rng=3).seed != from_torch(resnet(), rng=4).seed


def test_dropout_as_a_function_drops_where_the_module_does():
    x = np.ones((1, 1000))

    def zeros(function, training):
        model = of(function, norm=nn.LayerNorm(1000))
        net = from_torch(model.train(training), backend="numpy")
        assert model.training == training and model.norm.training == training
        return [bool((net.forward(x, training=mode) == 0).any()) for mode in (False, True)]

    def dropped(self, x):
        return F.dropout(self.norm(x) + x, 0.3, self.training)

    for training in (False, True):
        assert zeros(dropped, training) == [False, True]
        assert zeros(lambda self, x: F.dropout(self.norm(x) + x, training=False), training) == [False, False]
    always = of(lambda self, x: F.dropout(self.norm(x)), norm=nn.LayerNorm(3))
    with pytest.raises(TypeError, match="dropout drops numbers outside of training as well"):
        from_torch(always)


def test_an_exported_program_drops_if_it_was_exported_in_training():
    model, x = resnet(), (torch.randn(4, 5).double(),)
    for training in (False, True):
        net = from_torch(torch.export.export(model.train(training), x))
        assert any(type(node.operation).__name__ == "Dropout" for node in net.nodes) == training


def test_features_that_nothing_says():
    model = of(lambda self, x, y: torch.cat([self.fc(x), y], 1), fc=nn.Linear(3, 2))
    with pytest.raises(TypeError, match=r"how many features the input y has can't be told: say features={'y': ...}"):
        from_torch(model)
    net = from_torch(model, features={"y": 4})
    assert net.inputs == {"x": 3, "y": 4}
    assert_equal(net, model)
    exported = torch.export.export(model, (torch.randn(2, 3).double(), torch.randn(2, 4).double()))
    assert from_torch(exported).inputs == {"x": 3, "y": 4}


def test_features_are_told_by_what_a_concatenation_leaves():
    model = of(lambda self, x, y: self.fc(torch.cat([x, torch.tanh(x), self.norm(y)], -1)), fc=nn.Linear(10, 2), norm=nn.LayerNorm(4))  # fmt: skip
    net = from_torch(model)
    assert net.inputs == {"x": 3, "y": 4}
    assert_equal(net, model)


class Chooses(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else x


class Differs(Chooses):
    def forward(self, x):
        return torch.tanh(self.fc(x)) if self.training else self.fc(x)


class Makes(Chooses):
    def forward(self, x):
        return self.fc(x) + torch.ones(3, dtype=torch.float64)


class Scaled(Chooses):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))
        self.register_buffer("mean", torch.ones(3, 3))

    def forward(self, x):
        return self.fc(x) * self.gain


class Buffered(Scaled):
    def forward(self, x):
        return F.linear(x, self.mean)


def add(a, b):
    return a - b


torch.fx.wrap("add")

REFUSED = {
    "a function": (lambda self, x: torch.sinh(self.fc(x)), "node sinh has no counterpart: unknown function 'sinh'"),
    "a method": (lambda self, x: self.fc(x).cumsum(1), "unknown function 'cumsum'"),
    "a user's function of a known name": (lambda self, x: add(self.fc(x), x), "unknown function 'add'"),
    "a number": (lambda self, x: self.fc(x) + 1, "node add takes 1, which is computed by no node"),
    "a factor": (lambda self, x: torch.add(self.fc(x), x, alpha=2), "node add has no counterpart"),
    "rows": (lambda self, x: torch.cat([self.fc(x), x]), "concatenates .* along 0, not features, which are dim=1"),
    "several outputs": (lambda self, x: (self.fc(x), x), "a net has one output, an array; got"),
    "no array": (lambda self, x: {"z": self.fc(x)}, "a net has one output, an array; got"),
    "another module": (lambda self, x: self.other(self.fc(x)), r"module other .Softmin. has no counterpart"),
    "changed and used": (lambda self, x: (lambda h: F.relu(h, inplace=True) + h)(self.fc(x)), "relu changes fc in place"),
    "changed by a module": (lambda self, x: (lambda h: self.relu(h) * h)(self.fc(x)), "relu changes fc in place"),
    "changed, unused": (lambda self, x: (lambda h: (h.add_(x), h)[1])(self.fc(x)), "the output 'fc' does not use 'add_'"),
    "no weight": (lambda self, x: F.layer_norm(self.fc(x), (3,)), "the normalisation layer_norm must have a weight"),
    "an unused input": (lambda self, x, y: self.fc(x), "the input y is used by nothing"),
    "other widths": (lambda self, x: self.fc(self.wide(x)), "Linear fc takes 3 features, wide gives 5"),
    "broadcasting": (lambda self, x: self.fc(x) * self.one(x), "its inputs must be of one width"),
}  # fmt: skip


@pytest.mark.parametrize("function, message", REFUSED.values(), ids=REFUSED)
def test_what_has_no_counterpart_is_refused_by_name(function, message):
    model = of(
        function, fc=nn.Linear(3, 3), other=nn.Softmin(1), relu=nn.ReLU(inplace=True), wide=nn.Linear(3, 5),
        one=nn.Linear(3, 1),
    )  # fmt: skip
    with pytest.raises((TypeError, ValueError), match=message):
        from_torch(model)


CLASSES = {
    Chooses: "torch.fx can't trace Chooses: symbolically traced variables cannot be used as inputs to control flow",
    Differs: "Differs computes .*tanh.* in training and .* outside of it",
    Makes: "node add takes _tensor_constant0, which is computed by no node",
    Scaled: "node mul takes gain, which is computed by no node",
    Buffered: "node linear takes mean, which is no Parameter of the module",
}


@pytest.mark.parametrize("cls, message", CLASSES.items(), ids=[cls.__name__ for cls in CLASSES])
def test_models_that_are_no_graph_of_operations(cls, message):
    model = cls().double()
    there = {*vars(model)}
    with pytest.raises(TypeError, match=message):
        from_torch(model)
    assert {*vars(model)} == there and model.training


def test_exported_programs_are_refused_by_name_too():
    x = (torch.randn(4, 3).double(),)
    for cls, message in (
        (Scaled, "mul takes gain"),
        (Buffered, "mean, which is no Parameter"),
        (Makes, "node ones has no counterpart"),
    ):
        with pytest.raises(TypeError, match=message):
            from_torch(torch.export.export(cls().double(), x))
    softsign = torch.export.export(nn.Sequential(nn.Linear(3, 2), nn.Softsign()).double(), x)
    with pytest.raises(TypeError, match=r"node abs_1 has no counterpart: unknown function 'abs.default'"):
        from_torch(softsign)


def test_mixed_dtypes_hooks_and_other_things():
    mixed = of(lambda self, x: self.a(x) + self.b(x), a=nn.Linear(2, 2), b=nn.Linear(2, 2))
    mixed.b.float()
    with pytest.raises(TypeError, match=r"all parameters must have one dtype, got a.weight torch.float64, .*b.bias"):
        from_torch(mixed)
    hooked = of(lambda self, x: self.a(x) + x, a=nn.Linear(2, 2))
    hooked.a.register_forward_pre_hook(lambda module, args: None)
    with pytest.raises(TypeError, match=r"module a \(Linear\) has forward hooks"):
        from_torch(hooked)
    for thing in (None, [nn.Linear(2, 2)], nn.Linear):
        with pytest.raises(TypeError, match=r"from_torch takes a torch.nn.Module or an ExportedProgram, got"):
            from_torch(thing)


def test_a_linear_module_alone_and_a_default_argument():
    assert from_torch(nn.Linear(3, 2)).sizes == (3, 2)

    class Optional(Chooses):
        def forward(self, x, mask=None):
            return self.fc(x)

    net = from_torch(Optional())
    assert net.inputs == {"x": 3}
    assert not isinstance(net, Net)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
