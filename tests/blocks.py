"""What the tests of passes by blocks of threads share."""

from arrays import host

from backprop_xp import ACTIVATIONS
from backprop_xp.engines import cooperative
from backprop_xp.losses import LOSSES
from backprop_xp.programs.fused import Shape

#: KiB of shared memory that a block may have, by architecture.
SHARED = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}


def shape(sizes, names, loss, dtype="float32", *, bias=True, factors=True, input_grad=True):
    activations = [ACTIVATIONS[name]() for name in names]
    loss = LOSSES[loss]().kernel if loss in LOSSES else loss
    texts = tuple(f.text for f in activations)
    return Shape(sizes, (bias,) * len(names), dtype, texts, loss, factors, input_grad), activations


def everything(net, x, y=None, weight=None, input_grad=True):
    """Loss, gradient in x, gradients of the parameters, and the outputs."""
    result = net.loss_and_grad(x, y, sample_weight=weight, input_grad=input_grad)
    parts = [*(result if input_grad else (result,)), *(p.grad for p in (*net.weights, *net.biases)), net(x)]
    return [host(part) for part in parts]


def in_pieces(cupy, net, x, pieces):
    """The loss and the gradients of the parameters, one after another."""
    call = net._call(cupy.asarray(x), None, True)
    call.loss, at = net.loss, 0
    computed = cooperative.pieces(call)
    for samples in pieces:
        computed.add(call.rows(slice(at, at + samples)), {})
        at += samples
    result = computed.result({})
    gradients, loss = result.parameters, result.loss
    weights, biases = (gradients[::2], gradients[1::2]) if net.biases else (gradients, [])
    return [host(a) for a in (loss, *weights, *biases)]
