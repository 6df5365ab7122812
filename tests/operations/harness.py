"""What every operation is asked: a :class:`Case` says which one, and what the same is in PyTorch.

The node "node" stands in a small net, with parameters above and below it::

    x0 -> h0 (linear) -> node -> joined (with x0, or with h0) -> end (linear)
    x1 -> h1 (linear) ---^
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from arrays import assert_central_differences, host

from backprop_xp import GraphNet, Input, Linear
from backprop_xp.exchange import load, save, to_onnx
from backprop_xp.operations import draws, is_built_in
from backprop_xp.operations.built_in import BuiltInOperation
from backprop_xp.ready import calls
from backprop_xp.torch_plain import Plainly

TOLERANCE = {"float32": 2e-4, "float64": 1e-10}


class Case(NamedTuple):
    """An operation to be tested.

    Attributes:
        make: makes it.
        torch: its value in PyTorch, from the inputs (a list of (n, width)), its own tensors by name, and a
            :class:`Moment`. Buffers among its tensors are changed in place in training.
        widths: of the inputs.
    """

    make: Callable[[], Any]
    torch: Callable[[list[Any], dict[str, Any], Moment], Any]
    widths: tuple[int, ...] = (4,)


class Moment(NamedTuple):
    """The call that PyTorch is to repeat."""

    net: GraphNet
    training: bool
    draws: int  # the number of this training call


def net_of(case, alone=True, **options):
    """The net around the operation, with parameters and buffers that are all different; float64 on layered."""
    widths = case.widths
    described = {f"x{i}": Input(width) for i, width in enumerate(widths)}
    described |= {f"h{i}": (Linear(width), f"x{i}") for i, width in enumerate(widths)}
    operation = case.make()
    described["node"] = (operation, *[f"h{i}" for i in range(len(widths))])
    beside = "node" if not widths else "x0" if alone else "h0"
    described["joined"], described["end"] = ("concatenate", "node", beside), (Linear(3), "joined")
    given = {"rng": 0, "init": "glorot_normal", "loss": "mse", "engine": "layered", "backend": "numpy"}
    net = GraphNet(described, **given | options)
    random = np.random.default_rng(1)
    for tensor in (*net.parameters, *net.buffers.values()):
        more = net.backend.asarray(random.uniform(0.1, 0.9, tensor.data.shape), net.dtype, "more")
        tensor.data = tensor.data + more
    return net


def batch(net, samples, seed=2):
    """Inputs by name, and a target."""
    random = np.random.default_rng(seed)
    x = {name: random.normal(size=(samples, width)).astype(net.dtype) for name, width in net.inputs.items()}
    return x, random.normal(size=(samples, 3)).astype(net.dtype)


def everything(net, x, y, **options):
    """The loss, every gradient, the buffers afterwards, and the outputs in use, by name."""
    loss, grads = net.loss_and_grad(x, y, input_grad=True, **options)
    grads = grads if isinstance(grads, dict) else dict.fromkeys(x, grads)
    found = {"the loss": loss} | {f"in {name}": grad for name, grad in grads.items()}
    found |= {f"in {name}": tensor.grad for name, tensor in net.tensors.items()}
    found |= {f"buffer {name}": tensor.data for name, tensor in net.buffers.items()}
    return {name: host(array) for name, array in (found | {"the output": net.forward(x)}).items()}


def assert_close(got, expected, dtype):
    """Within the tolerance, relative to an array's largest number or, where all cancel, to a tenth of any gradient."""
    assert got.keys() == expected.keys()
    tolerance, largest = TOLERANCE[dtype], {name: np.abs(array).max(initial=1e-3) for name, array in expected.items()}
    gradient = max(number for name, number in largest.items() if name.startswith("in "))
    for name, array in expected.items():
        scale = max(largest[name], gradient / 10 if name.startswith("in ") else 0)
        np.testing.assert_allclose(got[name], array, rtol=tolerance, atol=tolerance * scale, err_msg=name)


def assert_same_bits(got, expected):
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def may_be_cut(net, training):
    """Whether the operation says that engines may give it some of the samples."""
    operation = next(node.operation for node in net.nodes if node.name == "node")
    scope = operation.scope
    return scope == "sample" or (scope == "batch in training" and not training)


def is_compiled(net):
    return all(is_built_in(node.operation) and node.form.is_compiled for node in net.nodes)


# ---- the questions ----------------------------------------------------------------------------------------------------


def gradients_by_finite_differences(case, training):
    net = net_of(case, alone=False)
    x, y = batch(net, 3)
    draws = net.draws
    tensors = {f"in {name}": tensor.data for name, tensor in net.tensors.items()}
    tensors |= {f"in {name}": array for name, array in x.items()}

    def loss():
        net.draws = draws  # the same numbers are drawn
        return float(net.loss_and_grad(x, y, training=training))

    found = everything(net, x, y, training=training)
    for name, tensor in net_of(case, alone=False).buffers.items():  # not those that a call in training left
        net.buffers[name].data = tensor.data
    assert_central_differences(found, tensors, loss)


def the_same_in_pytorch(case, training, dtype, samples):
    """Over three calls: what the operation keeps must be PyTorch's as well."""
    net = net_of(case, dtype=dtype)
    x, y = batch(net, samples)
    double = {name: torch.tensor(tensor.data, dtype=torch.float64) for name, tensor in net.tensors.items()}
    buffers = {name: torch.tensor(tensor.data, dtype=torch.float64) for name, tensor in net.buffers.items()}
    for _ in range(3):
        moment = Moment(net, training, net.draws)
        leaves = {name: torch.tensor(a, dtype=torch.float64, requires_grad=True) for name, a in x.items()}
        leaves |= {name: tensor.requires_grad_() for name, tensor in double.items()}
        output = _in_torch(case, leaves | buffers, moment)
        loss = ((output - torch.tensor(y, dtype=torch.float64)) ** 2).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        expected = {"the loss": loss.detach()} | {f"in {name}": g for name, g in zip(leaves, gradients)}
        expected |= {f"buffer {name}": tensor.clone() for name, tensor in buffers.items()}
        with torch.no_grad():
            expected["the output"] = _in_torch(case, leaves | buffers, Moment(net, False, net.draws))
        found = everything(net, x, y, training=training)
        assert_close(found, {name: tensor.numpy() for name, tensor in expected.items()}, dtype)
        assert all(array.dtype == dtype for array in found.values())


def _in_torch(case, tensors, moment):
    linear = torch.nn.functional.linear
    inputs = [linear(tensors[f"x{i}"], tensors[f"h{i}.weight"], tensors[f"h{i}.bias"]) for i in range(len(case.widths))]
    own = {name.removeprefix("node."): tensor for name, tensor in tensors.items() if name.startswith("node.")}
    value = case.torch(inputs or [tensors["node"]], own, moment)
    joined = torch.cat([value, tensors["x0"] if inputs else value], 1)
    return linear(joined, tensors["end.weight"], tensors["end.bias"])


def pytorchs_own_operations(case, training, dtype):
    """What second derivatives, transforms and exports are of; in use of one sample too."""
    net = net_of(case, dtype=dtype)
    x, _ = batch(net, 6)
    named = {name: torch.from_numpy(array) for name, array in x.items()}
    own = {node: {name: torch.from_numpy(a) for name, a in arrays.items()} for node, arrays in net._arrays().items()}
    keys = {name: draws.key(net.seed, net.draws, 0) for name in net._plan().drawing}
    plain = Plainly(net._plan(), net.backend, net._buffers(), training, keys if training else None)
    if not is_built_in(next(node.operation for node in net.nodes if node.name == "node")):
        with pytest.raises(TypeError, match="node 'node' is written in Python"):
            plain(named, own)
        return
    got = plain(named, own)
    tensors = {name: torch.tensor(t.data, dtype=torch.float64) for name, t in (net.tensors | net.buffers).items()}
    tensors |= {name: tensor.double() for name, tensor in named.items()}
    expected = _in_torch(case, tensors, Moment(net, training, net.draws))
    assert str(got.dtype) == f"torch.{dtype}"
    tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    np.testing.assert_allclose(got.numpy(), expected.numpy(), **tolerance)
    if not training:
        one = plain({name: tensor[0] for name, tensor in named.items()}, own)
        np.testing.assert_allclose(one.numpy(), got[0].numpy(), **tolerance)


def a_batch_cut_into_tiles(case, training):
    whole, tiles, auto = (net_of(case, engine=engine) for engine in ("layered", "tiled", "auto"))
    x, y = batch(whole, 2500)
    if may_be_cut(whole, training):
        results = [everything(net, x, y, training=training) for net in (whole, tiles)]
        assert_close(results[1], results[0], "float64")
        return
    with pytest.raises(ValueError, match=r"the tiled engine can't run this call: node 'node' needs the whole batch"):
        tiles.loss_and_grad(x, y, training=training)
    assert auto.plan(x).engine == "layered"
    assert "not tiled: node 'node' needs the whole batch" in auto.plan(x).reason
    assert_close(everything(auto, x, y, training=training), everything(whole, x, y, training=training), "float64")


def the_same_bits_for_any_number_of_threads(case, training):
    results = []
    for threads in (1, 2, 3, 1):
        net = net_of(case, engine="auto", threads=threads, dtype="float32")
        x, y = batch(net, 9000)
        results.append(everything(net, x, y, training=training))
    for other in results[1:]:
        assert_same_bits(other, results[0])


def a_file(case, dtype, path):
    net = net_of(case, dtype=dtype)
    x, y = batch(net, 5)
    net.loss_and_grad(x, y)  # in training: it counts draws and changes buffers
    save(net, path)
    operation = next(node.operation for node in net.nodes if node.name == "node")
    again = load(path, custom={operation.name: operation}, backend="numpy")
    again.engine = "layered"
    assert repr(again.nodes) == repr(net.nodes)
    assert again.tensors.keys() == net.tensors.keys() and again.buffers.keys() == net.buffers.keys()
    for a, b in zip(
        (*net.parameters, *net.buffers.values()), (*again.parameters, *again.buffers.values()), strict=True
    ):
        assert a.data.tobytes() == b.data.tobytes() and a.data.dtype == b.data.dtype
    assert_same_bits(everything(again, x, y), everything(net, x, y))


def an_onnx_file(case, dtype, path):
    runtime = pytest.importorskip("onnxruntime")
    net = net_of(case, dtype=dtype)
    x, y = batch(net, 5)
    net.loss_and_grad(x, y)
    node = next(node for node in net.nodes if node.name == "node")
    if not is_built_in(node.operation) or (not node.form.is_input and type(node.form).onnx is BuiltInOperation.onnx):
        with pytest.raises(TypeError, match=r"node 'node' (is code|has no form in ONNX)"):
            to_onnx(net, path)
        assert not path.exists()
        return
    to_onnx(net, path)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, x)[0]
    tolerance = 1e-4 if dtype == "float32" else 1e-9  # ONNX has an eps in float32
    np.testing.assert_allclose(got, net(x), rtol=tolerance, atol=tolerance)
    assert got.dtype == dtype


def the_compiled_form(case, training, dtype, samples):
    layered, fused = (net_of(case, dtype == "float32", engine=engine, dtype=dtype) for engine in ("layered", "fused"))
    x, y = batch(layered, samples)
    if not is_compiled(fused) or not may_be_cut(fused, training):
        with pytest.raises(ValueError, match=r"the fused engine can't run this call: node 'node' (is written|needs)"):
            fused.loss_and_grad(x, y, training=training)
        return
    weight = np.random.default_rng(3).uniform(0.5, 2, samples)
    options = {"training": training, "sample_weight": weight}
    assert_close(everything(fused, x, y, **options), everything(layered, x, y, **options), dtype)


def one_sample(case, training, dtype):
    """A ready call, where there is one, leaves what layered does, in every signal too, and a backward pass goes on."""
    layered, ready = (net_of(case, dtype == "float32", engine=engine, dtype=dtype) for engine in ("layered", "auto"))
    batches, y = batch(layered, 1)
    x, y = {name: array[0] for name, array in batches.items()}, y[0]
    x = x if len(x) > 1 else x["x0" if "x0" in x else "node"]
    if is_compiled(ready) and may_be_cut(ready, training):
        assert calls.find(ready, x, y, None, training) is not None and calls.find_forward(ready, x, None) is not None
        ready.draws = 0
    for _ in range(2):
        try:
            expected = left_by_a_sample(layered, x, y, training)
        except ValueError as error:
            with pytest.raises(ValueError, match=re.escape(str(error))):
                left_by_a_sample(ready, x, y, training)
            return
        assert_close(left_by_a_sample(ready, x, y, training), expected, dtype)


def left_by_a_sample(net, x, y, training):
    """What there is after a call with gradients, a backward pass, a call for outputs and a backward pass."""
    found = {"the loss": net.loss_and_grad(x, y, training=training)} | _tensors(net, "after the loss")
    inputs = net.backward(np.ones(3), input_grad=True)
    found |= {"in the input": inputs} if not isinstance(inputs, dict) else inputs
    found |= {"the output": net(x)} | _tensors(net, "after the output")
    net.backward(np.ones(3))
    return {name: np.asarray(array) for name, array in (found | _tensors(net, "at last")).items()}


def _tensors(net, when):
    found = {f"in {name} {when}": tensor.grad for name, tensor in net.tensors.items()}
    found |= {f"value of {name} {when}": tensor.data for name, tensor in net.signals.items()}
    found |= {f"in value of {name} {when}": tensor.grad for name, tensor in net.signals.items()}
    return {name: array.copy() for name, array in found.items() if array is not None}


def odd_numbers(case, engine):
    """NaN and infinities stay in their sample where it is treated for itself, and go through."""
    net, plain = net_of(case, engine=engine), net_of(case)
    if engine == "fused" and not is_compiled(net):
        return
    x, _ = batch(net, 7)
    expected = net.forward(x)
    for array in x.values():
        array[1], array[3], array[4] = np.nan, np.inf, -np.inf
    got = net.forward(x)
    if may_be_cut(net, training=False):
        np.testing.assert_allclose(got[[0, 2, 5, 6]], expected[[0, 2, 5, 6]], rtol=1e-12)
        assert np.isnan(got[1]).all()
    np.testing.assert_allclose(got, plain.forward(x), rtol=1e-12, equal_nan=True)


def no_sample_at_all(case, training):
    net = net_of(case)
    x, y = batch(net, 0)
    before = {name: tensor.data.copy() for name, tensor in net.buffers.items()}
    found = everything(net, x, y, training=training)
    assert found["the loss"] == 0 and found["the output"].shape == (0, 3)
    assert not any(array.any() for name, array in found.items() if not name.startswith("buffer"))
    for name, array in before.items():
        np.testing.assert_array_equal(net.buffers[name].data, array)


def arrays_of_any_strides_which_it_leaves_alone(case, training):
    net, other = net_of(case), net_of(case)
    x, y = batch(net, 6)
    strange = {name: np.asfortranarray(np.repeat(array, 2, axis=0)[:, ::-1])[::2, ::-1] for name, array in x.items()}
    kept = copy.deepcopy(strange), y.copy(), [tensor.data.copy() for tensor in net.parameters]
    assert_close(everything(net, strange, y, training=training), everything(other, x, y, training=training), "float64")
    for name, array in kept[0].items():
        np.testing.assert_array_equal(strange[name], array)
    np.testing.assert_array_equal(y, kept[1])
    for tensor, array in zip(net.parameters, kept[2]):
        np.testing.assert_array_equal(tensor.data, array)


def a_copy_of_its_net(case):
    net = net_of(case)
    x, y = batch(net, 5)
    other = copy.deepcopy(net)
    first = everything(net, x, y)
    assert_same_bits(everything(other, x, y), first)  # though the first has changed its buffers since


def on_the_device(case, training, dtype):
    expected, net = (net_of(case, backend=backend, dtype=dtype) for backend in ("numpy", "cupy"))
    x, y = batch(expected, 9)
    assert_close(everything(net, x, y, training=training), everything(expected, x, y, training=training), dtype)
    net.to("numpy")
    assert_close(everything(net, x, y), everything(expected, x, y), dtype)
