"""What tests of interrupted runs share: small runs here, and programs that are killed."""

import os
import subprocess
import sys

import numpy as np

from backprop_xp import Net


def start(code, *arguments, **environment):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | environment)


def finish(code, *arguments):
    """The output of a program that ends well."""
    process = start(code, *arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def net(**options):
    return Net((3, 8, 2), **{"loss": "mse", "bias": True, "rng": 0} | options)


def data():
    x = np.random.default_rng(0).normal(size=(60, 3))
    return x, np.sin(x[:, :2])


def fit(made, folder, **options):
    return made.fit(*data(), **{"epochs": 3, "batch_size": 20, "checkpoint": folder, "checkpoint_every": 2} | options)


def assert_same(a, b):
    for p, q in zip(a.parameters, b.parameters, strict=True):
        np.testing.assert_array_equal(p.data, q.data)
