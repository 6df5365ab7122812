"""Every operation, by one harness. A new one is a line in CASES."""

import numpy as np
import pytest
import torch
from here import needs_compiler
from operations import harness
from operations.harness import Case

from backprop_xp import Operation
from backprop_xp.graph import (
    Activate,
    Add,
    BatchNorm,
    Concatenate,
    Dropout,
    Input,
    LayerNorm,
    Linear,
    Multiply,
    Softmax,
)
from backprop_xp.operations import draws, dropout, kinds

functional = torch.nn.functional


class Centred(Operation):
    """One of the user's: z minus the batch's mean, times a factor; in use minus a running mean."""

    name = "centred"
    scope = "batch in training"

    def initial(self, widths, draw):
        return {"factor": np.ones(widths[0])}

    def initial_buffers(self, widths):
        return {"mean": np.zeros(widths[0])}

    def from_context(self, context, z):
        whole = context.training and len(z)
        return {"centre": z.mean(axis=0) if whole else context.buffers["mean"], "training": context.training}

    def forward(self, z, factor, centre, training):
        return (z - centre) * factor

    def backward(self, grad, z, factor, centre, training):
        below = grad * factor
        if training and len(grad):
            below = below - below.mean(axis=0)
        return below, (grad * (z - centre)).sum(axis=0)

    def new_buffers(self, context, z, centre, training):
        return {"mean": 0.5 * context.buffers["mean"] + 0.5 * centre}


def centred(inputs, own, moment):
    centre = inputs[0].mean(0) if moment.training else own["mean"]
    if moment.training:
        own["mean"].copy_(0.5 * own["mean"] + 0.5 * centre.detach())
    return (inputs[0] - centre) * own["factor"]


def dropped(inputs, own, moment):
    if not moment.training:
        return inputs[0]
    key = draws.key(moment.net.seed, moment.draws, 0)
    return inputs[0] * torch.tensor(dropout.kept(np, key, 0.4, 1 / 0.6, 0, inputs[0].shape, np.dtype("float64")))


def batch_normal(inputs, own, moment):
    running = own["running_mean"], own["running_var"]
    return functional.batch_norm(inputs[0], *running, own["gain"], own["bias"], moment.training, 0.3, 1e-3)


CASES = {
    "input": Case(lambda: Input(4), lambda i, own, m: i[0], widths=()),
    "linear": Case(lambda: Linear(5), lambda i, own, m: functional.linear(i[0], own["weight"], own["bias"])),
    "linear without bias": Case(lambda: Linear(5, bias=False), lambda i, own, m: functional.linear(i[0], own["weight"])),
    "activation": Case(lambda: Activate("gelu"), lambda i, own, m: functional.gelu(i[0])),
    "add": Case(Add, lambda i, own, m: i[0] + i[1] + i[2], (4, 4, 4)),
    "multiply": Case(Multiply, lambda i, own, m: i[0] * i[1] * i[2], (4, 4, 4)),
    "concatenate": Case(Concatenate, lambda i, own, m: torch.cat(i, 1), (2, 17, 1)),
    "dropout": Case(lambda: Dropout(0.4), dropped),
    "layer_norm": Case(lambda: LayerNorm(1e-3), lambda i, own, m: functional.layer_norm(i[0], (5,), own["gain"], own["bias"], 1e-3), (5,)),
    "softmax": Case(Softmax, lambda i, own, m: functional.softmax(i[0], 1)),
    "batch_norm": Case(lambda: BatchNorm(1e-3, 0.3), batch_normal, (18,)),
    "a user's": Case(Centred, centred),
}  # fmt: skip

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
in_both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "in use"])
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def test_all_of_them_are_here():
    assert {type(case.make()) for case in CASES.values()} >= set(kinds().values())


@every_case
@in_both_modes
def test_finite_differences(case, training):
    harness.gradients_by_finite_differences(case, training)


@every_case
@in_both_modes
@both_dtypes
@pytest.mark.parametrize("samples", [2, 9])
def test_pytorch(case, training, dtype, samples):
    harness.the_same_in_pytorch(case, training, dtype, samples)


@every_case
@in_both_modes
@both_dtypes
def test_pytorchs_own_operations(case, training, dtype):
    harness.pytorchs_own_operations(case, training, dtype)


@every_case
@in_both_modes
def test_tiles(case, training):
    harness.a_batch_cut_into_tiles(case, training)


@every_case
@in_both_modes
def test_threads(case, training):
    harness.the_same_bits_for_any_number_of_threads(case, training)


@every_case
@both_dtypes
def test_files(case, dtype, tmp_path):
    harness.a_file(case, dtype, tmp_path / "net.safetensors")


@every_case
@both_dtypes
def test_onnx(case, dtype, tmp_path):
    harness.an_onnx_file(case, dtype, tmp_path / "net.onnx")


@needs_compiler
@every_case
@in_both_modes
@both_dtypes
def test_compiled_code(case, training, dtype):
    for samples in (1, 5, 700):
        if samples > 1 or harness.may_be_cut(harness.net_of(case), training):
            harness.the_compiled_form(case, training, dtype, samples)


@needs_compiler
@every_case
@in_both_modes
@both_dtypes
def test_one_sample(case, training, dtype):
    harness.one_sample(case, training, dtype)


@every_case
@pytest.mark.parametrize("engine", ["layered", pytest.param("fused", marks=needs_compiler)])
def test_odd_numbers(case, engine):
    harness.odd_numbers(case, engine)


@every_case
@in_both_modes
def test_an_empty_batch(case, training):
    harness.no_sample_at_all(case, training)


@every_case
@in_both_modes
def test_strides(case, training):
    harness.arrays_of_any_strides_which_it_leaves_alone(case, training)


@every_case
def test_copies(case):
    harness.a_copy_of_its_net(case)


@pytest.mark.gpu
@every_case
@in_both_modes
@both_dtypes
def test_on_the_device(case, training, dtype):
    harness.on_the_device(case, training, dtype)
