"""Random graphs, and the same computation in PyTorch."""

import numpy as np
import torch
from hypothesis import strategies as st

from backprop_xp.graph import Activate, Add, Concatenate, Dropout, Input, LayerNorm, Linear, Multiply

#: Smooth ones: near a kink two ways of summing may fall to either side.
SMOOTH = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "softplus": torch.nn.functional.softplus,
}


@st.composite
def descriptions(draw, most_nodes=9, widths=(1, 3, 17), extra=("dropout", "layer_norm", "shared")):
    """A graph with one or two inputs, whose ends are concatenated to one output."""
    made = {f"x{i}": Input(draw(st.sampled_from(widths))) for i in range(draw(st.integers(1, 2)))}
    width = {name: operation.features for name, operation in made.items()}
    linears = {}
    for k in range(draw(st.integers(1, most_nodes))):
        name = f"n{k}"
        first = draw(st.sampled_from(list(width)))
        alike = [other for other in width if width[other] == width[first]]
        others = tuple(draw(st.lists(st.sampled_from(alike), min_size=1, max_size=2)))
        kinds = ["linear", "linear", "activation", "activation", "add", "multiply", "concatenate", *extra]
        kind = draw(st.sampled_from(kinds))
        shape = width[first]
        if kind == "shared" and (fitting := [o for o, i in linears.items() if i == shape]):
            owner = draw(st.sampled_from(fitting))
            shape = width[owner]
            made[name] = (Linear(shape, made[owner][0].bias, share=owner), first)
        elif kind in ("linear", "shared"):
            shape, linears[name] = draw(st.sampled_from(widths)), shape
            made[name] = (Linear(shape, draw(st.booleans())), first)
        elif kind == "activation":
            made[name] = (draw(st.sampled_from(list(SMOOTH))), first)
        elif kind in ("add", "multiply"):
            made[name] = (kind, first, *others)
        elif kind == "concatenate":
            others = tuple(draw(st.lists(st.sampled_from(list(width)), min_size=1, max_size=2)))
            made[name] = (kind, first, *others)
            shape = width[first] + sum(width[other] for other in others)
        else:
            made[name] = (kind, first)
        width[name] = shape
    used = {other for entry in made.values() if isinstance(entry, tuple) for other in entry[1:]}
    made["end"] = ("concatenate", *[name for name in made if name not in used])
    return made


def arrays(net, samples, seed=0):
    """A batch for every input, and a target."""
    random = np.random.default_rng(seed)
    x = {name: random.normal(size=(samples, width)).astype(net.dtype) for name, width in net.inputs.items()}
    return x, random.normal(size=(samples, net.nodes[-1].width)).astype(net.dtype)


def in_torch(net, x, y):
    """Loss (the net's is "mse", summed), output, and gradients of parameters and inputs by name, in float64."""
    parameters = {
        name: torch.tensor(t.data, dtype=torch.float64, requires_grad=True) for name, t in net.tensors.items()
    }
    values = {name: torch.tensor(array, dtype=torch.float64, requires_grad=True) for name, array in x.items()}
    leaves = [*parameters.values(), *values.values()]
    output = output_in_torch(net, values, parameters)
    loss = ((output - torch.tensor(y, dtype=torch.float64)) ** 2).sum()
    gradients = torch.autograd.grad(loss, leaves)
    found = dict(zip([*parameters, *x], (g.numpy() for g in gradients)))
    return loss.item(), output.detach().numpy(), found


def output_in_torch(net, x, parameters):
    """The output (n, width), in use, from a tensor for every input and parameter by name."""
    values = dict(x)
    for node in net.nodes:
        if not isinstance(node.operation, Input):
            values[node.name] = _value(node, [values[name] for name in node.inputs], parameters)
    return values[net.nodes[-1].name]


def _value(node, inputs, parameters):
    operation, first = node.operation, inputs[0]
    own = {name.rpartition(".")[2]: p for name, p in parameters.items() if name.rpartition(".")[0] == node.owner}
    if isinstance(operation, Linear):
        return torch.nn.functional.linear(first, own["weight"], own.get("bias"))
    if isinstance(operation, Activate):
        return SMOOTH[operation.name](first)
    if isinstance(operation, Concatenate):
        return torch.cat(inputs, 1)
    if isinstance(operation, LayerNorm):
        return torch.nn.functional.layer_norm(first, first.shape[1:], own["gain"], own["bias"], operation.eps)
    if isinstance(operation, Dropout):
        return first
    assert isinstance(operation, (Add, Multiply))
    for other in inputs[1:]:
        first = first + other if isinstance(operation, Add) else first * other
    return first
