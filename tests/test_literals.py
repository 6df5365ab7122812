"""What type checkers know of the arguments of nets is what nets take, and a user's mistakes are found by mypy."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from backprop_xp import activations, engines, initialisers, literals, operations, precision, training
from backprop_xp.data.nets import NORMALISATIONS
from backprop_xp.dtypes import DTYPES
from backprop_xp.losses import LOSSES
from backprop_xp.model import REDUCTIONS
from backprop_xp.training import schedules

ROOT = Path(__file__).parents[1]

RIGHT = """
import numpy as np
import backprop_xp
from backprop_xp import Activation, Dropout, Graph, GraphNet, LayerNorm, Net, Tanh
from backprop_xp.data import Recipe
from backprop_xp.literals import LossName
from backprop_xp.losses import Huber, SoftmaxCrossEntropy
from backprop_xp.sklearn import BackpropClassifier, BackpropRegressor
from backprop_xp.training import SGD

net = Net((3, 4, 2), ("relu", None), loss="softmax_cross_entropy", dtype=np.float32, init="he_normal", reduction="mean")
Net((3, 2), dtype=np.dtype("float64"), engine="layered", rng=np.random.default_rng(0))
history = net.fit(np.ones((3, 3)), np.zeros(3, int), epochs=3, optimiser="adam")
losses: list[float] = [epoch.loss for epoch in history.epochs]
backprop_xp.training.fit(net, np.ones((3, 3)), np.zeros(3, int))
backprop_xp.exchange.save(net, "net.safetensors")
backprop_xp.data.read("iris")
backprop_xp.check.check_gradients(net, np.ones((3, 3)), np.zeros(3, int))
backprop_xp.torch_layer.as_torch(net)
loss, grad_x = net.loss_and_grad(np.ones((3, 3)), np.zeros(3, int), input_grad=True, accumulate=True)
wanted: bool = bool(grad_x.any())
net.loss_and_grad(np.ones((3, 3)), np.zeros(3, int), input_grad=wanted)
print(net.loss_and_grad(np.ones((3, 3)), np.zeros(3, int), sample_weight=np.ones(3)) / 3)
net.backward(np.ones((3, 2)))
print(net.backward(np.ones((3, 2)), input_grad=True).sum())
chosen: LossName = "mae"
Net((3, 4, 4, 2), [[LayerNorm(), "relu", Dropout(0.2)], ["layer_norm", Tanh()], "swish"], loss=chosen, precision="tf32")
Net((3, 2), ["gelu"], loss=Huber(delta=2.0), init=lambda rng, shape: np.zeros(shape))


class Bent(Activation):
    pass


g = Graph()
h = g.apply("add", g.apply("tanh", g.linear(g.input(3), 3)), g.apply(Bent(), g.input(3)))
g.net(g.chain(h, "dropout", "relu"), loss="mse")
net.fit(np.ones((3, 3)), np.zeros(3, int), optimiser=SGD(lr=0.1), schedule="cosine")
net.fit(np.ones((3, 3)), np.zeros(3, int), optimiser="lbfgs", schedule=lambda step: 0.9**step)
backprop_xp.training.steps(net, np.ones((3, 3)), optimiser="adamw", schedule=None)
Recipe(activation="tanh", optimiser="sgd", schedule="constant", normalisation="layer")
BackpropClassifier((8, 4), ("tanh", "relu"), loss=SoftmaxCrossEntropy(), optimiser="adamw", schedule="cosine")
BackpropRegressor(8, "gelu", loss="poisson", batch_size="auto", init="he_normal", dtype="float32", backend="cupy:1")
"""
#: A line -> a part of what is said of it.
WRONG = {
    "net.fit(np.ones((3, 3)), epoch=3)": 'Unexpected keyword argument "epoch"',
    'net.fit(np.ones((3, 3)), epochs="three")': 'Argument "epochs"',
    'Net((3, 2), reduction="avg")': 'Argument "reduction" to "Net"',
    'Net((3, 2), dtype="float16")': 'Argument "dtype" to "Net"',
    'Net((3, 2), engine="quick")': 'Argument "engine" to "Net"',
    'GraphNet({}, reduction="avg")': 'Argument "reduction" to "GraphNet"',
    'Graph().net(Graph().input(3), reduction="avg")': 'Argument "reduction" to "net"',
    'net.reduction = "avg"': "Incompatible types in assignment",
    "net.loss_and_grad(np.ones((3, 3)), input_grad=True) / 3": 'Unsupported operand types for / ("tuple[Any, Any]"',
    "net.loss_and_grad(np.ones((3, 3)), input_grads=True)": 'No overload variant of "loss_and_grad"',
    "print(net.backward(np.ones((3, 2))).sum())": '"None" has no attribute "sum"',
    "net.backward(np.ones((3, 2)), accumulate=2.5)": 'No overload variant of "backward"',
    "backprop_xp.trainig": 'Module has no attribute "trainig"',
    'Net((3, 2), ["tahn"])': "List item 0 has incompatible type \"Literal['tahn']\"",
    'Net((3, 2), [["layer_norm", "rely"]])': "List item 1 has incompatible type \"Literal['rely']\"",
    'Net((3, 2), "relu")': 'Argument 2 to "Net"',
    'Net((3, 2), loss="cross_entropy")': 'Argument "loss" to "Net"',
    'Net((3, 2), init="glorot")': 'Argument "init" to "Net"',
    'Net((3, 2), precision="half")': 'Argument "precision" to "Net"',
    'net.fit(np.ones((3, 3)), optimiser="adm")': 'Argument "optimiser"',
    'net.fit(np.ones((3, 3)), schedule="cosin")': 'Argument "schedule"',
    'backprop_xp.training.steps(net, np.ones((3, 3)), optimiser="adm")': 'Argument "optimiser" to "steps"',
    'net.loss_and_grad(np.ones((3, 3)), loss="mes")': 'No overload variant of "loss_and_grad"',
    'net.per_sample_norms(np.ones((3, 3)), loss="mes")': 'Argument "loss"',
    'GraphNet({}, loss="mes")': 'Argument "loss" to "GraphNet"',
    'Graph().net(Graph().input(3), init="glorot")': 'Argument "init" to "net"',
    'Graph().apply("ad")': 'Argument 1 to "apply"',
    'Recipe(optimiser="adm")': 'Argument "optimiser" to "Recipe"',
    'Recipe(schedule="cosin")': 'Argument "schedule" to "Recipe"',
    'BackpropClassifier(activation="rely")': 'Argument "activation" to "BackpropClassifier"',
    'BackpropClassifier(loss="mse")': 'Argument "loss" to "BackpropClassifier"',
    'BackpropRegressor(optimiser="adm")': 'Argument "optimiser" to "BackpropRegressor"',
    'BackpropRegressor(normalisation="batch")': 'Argument "normalisation" to "BackpropRegressor"',
}


def test_names_are_those_that_nets_take():
    assert set(get_args(literals.EngineName)) == {"auto", *engines.ENGINES}
    assert get_args(literals.Reduction) == REDUCTIONS
    assert get_args(get_args(literals.Dtype)[0]) == DTYPES
    names = {
        literals.PrecisionName: {"auto", *precision.PRECISIONS},
        literals.ActivationName: {*activations.ACTIVATIONS, *activations.ALIASES},
        literals.LossName: {*LOSSES},
        literals.InitName: {*initialisers.INITIALISERS},
        literals.OptimiserName: {*training.OPTIMISERS},
        literals.ScheduleName: {*schedules.NAMES},
        literals.NormalisationName: {*NORMALISATIONS},
        literals.LayerName: {name for name, operation in operations.BUILT_IN.items() if operation.arity == 1},
        literals.JoinName: {name for name, operation in operations.BUILT_IN.items() if operation.arity != 1},
    }
    assert all({*get_args(literal)} == known for literal, known in names.items())
    told = {name for name in vars(literals) if name.endswith("Name")}
    assert len(told) == len(names) + 1  # and that of engines


def said_by(command, tmp_path):
    """What a type checker says of a program that holds everything above, and at which lines the mistakes stand."""
    program = tmp_path / "program.py"
    program.write_text(RIGHT + "\n".join(WRONG) + "\n", encoding="utf-8")
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    result = subprocess.run([*command, str(program)], cwd=tmp_path, capture_output=True, text=True, env=environment)
    return result.stdout + result.stderr, {RIGHT.count("\n") + 1 + i: line for i, line in enumerate(WRONG)}


def test_mypy_finds_the_mistakes_of_a_user_and_no_others(tmp_path):
    pytest.importorskip("mypy")
    options = ("--config-file=", "--strict", "--ignore-missing-imports", "--follow-imports=silent")
    options += ("--no-error-summary", "--hide-error-codes", f"--cache-dir={ROOT / '.mypy_cache' / 'user'}")
    output, wrong = said_by([sys.executable, "-m", "mypy", *options], tmp_path)
    said = [line for line in output.splitlines() if "program.py" in line and ": error: " in line]
    found = [(int(line.rpartition("program.py:")[2].partition(":")[0]), line) for line in said]
    assert {number for number, _ in found} == set(wrong), output
    for number, line in wrong.items():
        assert any(at == number and WRONG[line] in told for at, told in found), (line, output)


@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright isn't installed")
def test_pyright_finds_the_mistakes_of_a_user_and_no_others(tmp_path):
    settings = {"extraPaths": [str(ROOT)], "reportAttributeAccessIssue": "error"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    output, wrong = said_by(["pyright", f"--pythonpath={sys.executable}", "--outputjson"], tmp_path)
    said = [each for each in json.loads(output)["generalDiagnostics"] if each["severity"] == "error"]
    assert {each["range"]["start"]["line"] + 1 for each in said} == set(wrong), output
