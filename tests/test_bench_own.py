"""One's own case: from the command line's words, and `bench.compare` of a net or a module."""

import sys

import numpy as np
import pytest
from backprop_xp.bench import cases, command, compare, contenders, measure
from machines import OTHERS, Scripted

import backprop_xp
from backprop_xp import Graph, Net

torch = pytest.importorskip("torch")

X = np.random.default_rng(0).standard_normal((40, 6))
CLASSES = np.arange(40) % 3


@pytest.fixture(autouse=True)
def without_rest(monkeypatch):
    monkeypatch.setattr(measure, "REST", 0.0)
    monkeypatch.setattr(measure, "SHORTEST", 1e-4)


def compared(*arguments, busy=False, **options):
    return compare(*arguments, seconds=1e-9, machine=Scripted(then=busy), **options)


def graph():
    g = Graph()
    x = g.input(6)
    h = g.apply("tanh", g.linear(x, 6)) + x
    return g.net(g.linear(h, 3), loss="softmax_cross_entropy", rng=0, backend="numpy")


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(
    "loss", ["half_sum_sq", "half_squared_error", "mse", "mae", "huber", "bce_with_logits", "softmax_cross_entropy"]
)
def test_a_net_of_any_loss(loss, reduction):
    net = Net((6, 5, 3), ("gelu", None), loss, True, rng=0, reduction=reduction, init="glorot_normal", backend="numpy")
    target = {"half_sum_sq": None, "softmax_cross_entropy": CLASSES}.get(loss, np.abs(X[:, :3]) / 5)
    found = compared(net, X, target)
    assert [row.contender for row in found.rows] == ["backprop_xp", contenders.EAGER]
    assert found.difference < 1e-12 and not found.busy
    assert all(row.samples_per_second > 0 for row in found.rows) and found.rows[1].speedup == 1


def test_what_is_printed_says_net_machine_threads_dtype_and_date():
    net = Net((6, 3), rng=0, threads=1, backend="numpy")
    text = str(compared(net, X, busy=True))
    assert all(part in text for part in ("Net(6-3", "40 samples", ", 1 threads, float64, 20", "x PyTorch", OTHERS))
    assert "not to be quoted" in text and "quoted" not in str(compared(net, X))


def test_a_graph():
    assert compared(graph(), X, CLASSES).difference < 1e-12


def test_a_module_is_measured_as_it_is_and_stays_so():
    module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    before = [parameter.detach().clone() for parameter in module.parameters()]
    threads = torch.get_num_threads()
    found = compared(module, X, CLASSES, loss="softmax_cross_entropy")
    assert found.difference < 1e-5 and "float32" in found.about
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters()))
    assert torch.get_num_threads() == threads


def test_wrong_gradients_have_no_speed():
    module = torch.nn.Sequential(torch.nn.Linear(6, 3))
    module[0].weight.register_hook(lambda grad: 1.01 * grad)
    with pytest.raises(measure.WrongGradient, match="backprop_xp: its gradient 1 is"):
        compared(module, X, loss="half_sum_sq")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.nn.Linear(6, 3), X), {}, TypeError, "a module doesn't say its loss"),
        ((Net((6, 3), rng=0, backend="numpy"), X), {"loss": "mse"}, TypeError, "a net has a loss of its own"),
        (("net", X), {}, TypeError, "compare takes a net or a torch.nn.Module, got str"),
        ((Net((6, 3), rng=0, backend="numpy"), X[0]), {}, ValueError, r"x must be a batch, \(n, features\), got the shape \(6,\)"),
        ((Net((6, 3), rng=0, backend="numpy"), X[:0]), {}, ValueError, "x must be a batch"),
    ],
)  # fmt: skip
def test_what_is_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        compared(*arguments, **options)


def test_it_is_there_after_the_package_is_imported():
    assert backprop_xp.bench.compare is compare


@pytest.mark.parametrize(
    ("words", "activations", "loss", "bias", "name"),
    [
        (("4-5-3", None, None, False), ("tanh", "identity"), "half_sum_sq", False, "4-5-3"),
        (("4-5-3", "gelu", "mse", True), ("gelu", "identity"), "mse", True, "4-5-3 gelu mse bias"),
        (("4-5-3", "relu,tanh", None, False), ("relu", "tanh"), "half_sum_sq", False, "4-5-3 relu,tanh"),
        (("4-3", "sigmoid", "mae", False), ("sigmoid",), "mae", False, "4-3 sigmoid mae"),
    ],
)
def test_the_case_of_a_command_line(words, activations, loss, bias, name):
    case = cases.own(*words)
    assert (case.activations, case.loss, case.bias, case.name) == (activations, loss, bias, name)


@pytest.mark.parametrize(
    "loss", ["mse", "mae", "huber", "bce_with_logits", "half_squared_error", "softmax_cross_entropy"]
)
def test_rivals_compute_what_a_command_line_asks_for(loss):
    case = cases.own("4-5-3", "leaky_relu", loss, True, "float64", 50)
    ours, *others = (contenders.ours(case), *(contenders.torch_eager(case, form) for form in ("nn", "matmul")))
    assert measure.prove_equal(ours, others, "float64") < 1e-10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("4-5-3", "gleu", None, False), "--activations: unknown activation 'gleu'; did you mean 'gelu'"),
        (("4-5-3", "relu,relu,relu", None, False), "--activations takes 2 names for 4-5-3, one a layer, or a single one, got 3"),
        (("4-5-3", "relu,", None, False), "--activations: unknown activation ''"),
        (("4-5-3", None, "msee", False), "--loss: unknown loss 'msee'; did you mean 'mse'"),
    ],
)  # fmt: skip
def test_words_that_mean_nothing(words, message):
    with pytest.raises(ValueError, match=message):
        cases.own(*words)


def test_a_net_of_what_there_is_to_say():
    from backprop_xp import cli

    assert cli.main(["bench", "--activations", "relu"]) == 1


def test_progress_without_a_terminal_is_a_line_for_whatever_begins(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with command._Progress() as progress:
        for share in (0.0, 0.5, 1.0):
            progress.show("one case", share)
        progress.show("another", 0.0)
        progress.write("a table")
    out, err = capsys.readouterr()
    assert out == "a table\n"
    assert [line.split(" s  ")[1] for line in err.splitlines()] == ["one case", "another"]
