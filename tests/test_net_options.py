"""The net that a command line names."""

import argparse

import pytest

from backprop_xp import net_options


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("5-10-4", (5, 10, 4)), ("5-0", (5, 0)), ("5", None), ("", None), ("5-", None), ("5--4", None), ("5-x", None)],
)
def test_widths(text, sizes):
    assert net_options.widths(text) == sizes


@pytest.mark.parametrize(
    ("names", "depth", "layers"),
    [
        ("relu", 3, ["relu", "relu", "identity"]),
        ("relu", 1, ["relu"]),
        ("relu,tanh", 2, ["relu", "tanh"]),
        ("relu,tanh", 3, ["relu", "tanh"]),  # which is for the net to refuse
    ],
)
def test_one_function_stands_for_all_layers_but_the_last(names, depth, layers):
    assert net_options.functions(names, depth) == layers


def test_a_command_has_some_of_the_options():
    command = argparse.ArgumentParser()
    net_options.add_to(command)
    command.add_argument("--other")
    arguments = command.parse_args(["--activations", "relu", "--loss", "mse", "--bias"])
    chosen = net_options.chosen(arguments)
    assert chosen == {"activations": "relu", "loss": "mse", "bias": True}
    net = net_options.made("3-4-2", **chosen, backend="numpy")
    assert (
        net.sizes == (3, 4, 2) and net.loss.name == "mse" and [f.name for f in net.activations] == ["relu", "identity"]
    )
    assert all(bias is not None for bias in net.biases)
