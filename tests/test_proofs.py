"""What `backprop-xp check` proves: everything that is built in, or what is asked for."""

import time

import pytest

from backprop_xp import ACTIVATIONS, LOSSES, check, cli, proofs
from backprop_xp.exchange import pytorch
from backprop_xp.proofs import GRAPHS, OF_GRAPHS, Settings


def run(settings):
    return {name: report for reports in proofs.run(settings, settings.proofs()) for name, report in reports}


@pytest.mark.parametrize("dtype, losses", [("float64", ()), ("float32", OF_GRAPHS)])
def test_every_activation_loss_bias_and_kind_of_graph(dtype, losses):
    pytest.importorskip("torch")
    found = run(Settings("layered", dtype, "numpy", losses=losses))
    for name, report in found.items():
        assert report.ok, f"{name}\n{report}"
    chains = (len(ACTIVATIONS) + len(pytorch.MODULES)) * len(losses or LOSSES) * 2
    assert len(found) == chains + 2 * len(GRAPHS) * len(OF_GRAPHS)


def test_what_pytorch_lacks_is_compared_with_differences_alone(monkeypatch):
    monkeypatch.delitem(pytorch.MODULES, "mish")
    found = run(Settings("layered", backend="numpy", activations=["mish"], losses=["mse"]))
    assert [*found] == [f"mish x mse{bias}: central differences" for bias in ("", " x bias")] + [
        f"{kind}, mish x mse: central differences" for kind in GRAPHS
    ]
    assert all(report.ok for report in found.values())


def test_every_kind_of_graph_is_what_it_is_called():
    operations = {}
    for kind, make in GRAPHS.items():
        net = make("tanh", "mse", rng=0, backend="numpy")
        assert net._plan().chain is None
        operations[kind] = {node.operation.name for node in net._plan().nodes}
    assert "add" in operations["residual"] and "concatenate" in operations["dense"]
    assert {"dropout", "layer_norm", "batch_norm", "multiply"} <= set().union(*operations.values())


def test_the_compiled_pass_of_graphs_is_proven():
    found = run(Settings("fused", backend="numpy", torch=False, activations=["tanh"], losses=["mse"]))
    skipped = {name: reason for name, reason in found.items() if isinstance(reason, str)}
    assert [*skipped] == ["batch normalisation, tanh x mse"]
    assert "node 'z0.0' needs the whole batch in training" in skipped["batch normalisation, tanh x mse"]
    assert all(report.ok for name, report in found.items() if name not in skipped)


def test_an_engine_that_runs_nothing_proves_nothing(capsys):
    assert cli.main(["check", "--engine", "cooperative", "--backend", "numpy"]) == 1
    assert "the cooperative engine can't run this call: it runs on a CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--activation", "tnah"], "unknown activation 'tnah'; did you mean 'tanh'?"),
        (["--loss", "msee"], "unknown loss 'msee'; did you mean 'mse'?"),
        (["--activation="], "unknown activation ''; known are "),
        (["--loss", "mse,"], "unknown loss ''; known are "),
        (["--engine", "fsued"], "unknown engine 'fsued'; did you mean 'fused'?"),
    ],
)
def test_names_that_are_unknown(arguments, message, capsys):
    assert cli.main(["check", "--backend", "numpy", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_the_output_counts_and_narrows(capsys, monkeypatch):
    arguments = ["check", "--engine", "layered", "--backend", "numpy", "--activation", "swish", "--loss", "mse,mae"]
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    nets = 2 * 2 + 2 * len(GRAPHS)
    assert "without PyTorch" in lines[0]
    assert lines[1] == f" 1/{nets} ok   swish x mse: central differences"
    assert lines[-1] == f"{nets} proofs of {nets} nets: every gradient is right"
    assert len(lines) == nets + 2
    monkeypatch.setattr(ACTIVATIONS["silu"], "backprop", lambda self, t, grad_z: grad_z)
    assert cli.main(arguments) == 1
    out = capsys.readouterr().out
    assert f"{nets} proofs of {nets} nets: {nets} failed" in out and "WRONG" in out


def test_what_goes_wrong_ends_it(monkeypatch):
    proven = []

    def broken(net, *arguments):
        proven.append(net)
        time.sleep(0.02)
        raise RuntimeError("broken")

    monkeypatch.setattr(proofs, "check_gradients", broken)
    with pytest.raises(RuntimeError, match="broken"):
        run(Settings("layered", backend="numpy"))
    assert len(proven) < len(ACTIVATIONS) * len(LOSSES) / 2
    assert check.check_gradients is not broken
