"""What type checkers know of the arguments of nets is what nets take, and a user's mistakes are found by mypy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from backprop_xp import engines, literals
from backprop_xp.dtypes import DTYPES
from backprop_xp.model import REDUCTIONS

ROOT = Path(__file__).parents[1]

RIGHT = """
import numpy as np
import backprop_xp
from backprop_xp import Graph, GraphNet, Net

net = Net((3, 4, 2), ("relu", None), loss="softmax_cross_entropy", dtype=np.float32, init="he_normal", reduction="mean")
Net((3, 2), dtype=np.dtype("float64"), engine="layered", rng=np.random.default_rng(0))
history = net.fit(np.ones((3, 3)), np.zeros(3, int), epochs=3, optimiser="adam")
losses: list[float] = [epoch.loss for epoch in history.epochs]
backprop_xp.training.fit(net, np.ones((3, 3)), np.zeros(3, int))
backprop_xp.exchange.save(net, "net.safetensors")
backprop_xp.data.read("iris")
backprop_xp.check.check_gradients(net, np.ones((3, 3)), np.zeros(3, int))
backprop_xp.torch_layer.as_torch(net)
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
    "backprop_xp.trainig": 'Module has no attribute "trainig"',
}


def test_names_are_those_that_nets_take():
    assert set(get_args(literals.EngineName)) == {"auto", *engines.ENGINES}
    assert get_args(literals.Reduction) == REDUCTIONS
    assert get_args(get_args(literals.Dtype)[0]) == DTYPES


def test_mypy_finds_the_mistakes_of_a_user_and_no_others(tmp_path):
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(RIGHT + "\n".join(WRONG) + "\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file=",
        "--strict",
        "--ignore-missing-imports",
        "--follow-imports=silent",
    ]
    command += [
        "--no-error-summary",
        "--hide-error-codes",
        f"--cache-dir={ROOT / '.mypy_cache' / 'user'}",
        str(program),
    ]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    first = RIGHT.count("\n") + 1
    said = [line for line in result.stdout.splitlines() if "program.py" in line and ": error: " in line]
    found = {int(line.rpartition("program.py:")[2].partition(":")[0]): line for line in said}
    assert len(said) == len(WRONG), result.stdout + result.stderr
    for number, (line, part) in enumerate(WRONG.items(), first):
        assert part in found.get(number, ""), (line, result.stdout)
