"""Nets as ONNX files, for every runtime that reads them.

An activation becomes ONNX's operator of that name where there is one with the same meaning. Everything else,
a user's own formulas included, is spelled out from the formula in elementary operators; so is every activation in
float64, for which ONNX rounds attributes to float32 and onnxruntime has hardly any operators.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..activations import ACTIVATIONS, Elementwise
from ..backend import NUMPY
from ..files import replacing
from ..formulas import Formula, special
from ..model import Model
from ..operations import is_built_in
from ..plan.plan import Plan
from ..tensor import Tensor

OPSET, IR_VERSION = 20, 9  # the first with Gelu; its release's format
LARGEST = 2**31 - 1  # bytes in a protobuf message

Attributes = dict[str, float | str]

#: float32: ONNX's operator and its attributes, made from the activation.
OPERATORS: dict[str, tuple[str, Callable[[Any], Attributes]]] = {
    "identity": ("Identity", lambda f: {}),
    "tanh": ("Tanh", lambda f: {}),
    "sigmoid": ("Sigmoid", lambda f: {}),
    "relu": ("Relu", lambda f: {}),
    "leaky_relu": ("LeakyRelu", lambda f: {"alpha": f.negative_slope}),
    "elu": ("Elu", lambda f: {"alpha": f.alpha}),
    "selu": ("Selu", lambda f: {}),
    "celu": ("Celu", lambda f: {"alpha": f.alpha}),
    "gelu": ("Gelu", lambda f: {"approximate": "none"}),
    "gelu_tanh": ("Gelu", lambda f: {"approximate": "tanh"}),
    "mish": ("Mish", lambda f: {}),
    "softsign": ("Softsign", lambda f: {}),
    "hard_sigmoid": ("HardSigmoid", lambda f: {"alpha": 1 / 6, "beta": 0.5}),
    "hard_swish": ("HardSwish", lambda f: {}),
}

#: The formula language's functions that are operators of ONNX.
DIRECT = {
    "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "negative": "Neg", "abs": "Abs",
    "sign": "Sign", "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "sin": "Sin", "cos": "Cos", "tanh": "Tanh",
    "minimum": "Min", "maximum": "Max", "where": "Where", "less": "Less", "less_equal": "LessOrEqual",
    "greater": "Greater", "greater_equal": "GreaterOrEqual", "equal": "Equal",
}  # fmt: skip


def _polynomial(x: str, coefficients: tuple[float, ...]) -> str:
    text = repr(coefficients[0])
    for c in coefficients[1:]:
        text = f"({text}) * {x} + {c!r}"
    return f"({text})"


_ERFC = {  # as in formulas/special.py; "tail" is erfc(|x|) for |x| > 0.46875
    "a": "abs(x)",
    "near": f"x * {_polynomial('(x * x)', special.A)} / {_polynomial('(x * x)', special.B)}",
    "m": "minimum(a, 4)",
    "u": "1 / (maximum(a, 4) * maximum(a, 4))",
    "far": f"({special.INVERSE_SQRT_PI} - u * {_polynomial('u', special.P)} / {_polynomial('u', special.Q)}) / a",
    "tail": f"exp(-a * a) * where(a <= 4, {_polynomial('m', special.C)} / {_polynomial('m', special.D)}, far)",
}

#: The others in terms of these: variable, subexpressions, value.
COMPOSED: dict[str, tuple[str, dict[str, str], str]] = {
    "expm1": ("x", {}, "tanh(0.5 * x) * (exp(x) + 1)"),  # which keeps every digit of a small x
    "log1p": ("x", {"u": "1 + x"}, "where(u == 1, x, where(u == x, log(u), log(u) * (x / (u - 1))))"),
    "erf": ("x", _ERFC, "where(a <= 0.46875, near, sign(x) * (1 - tail))"),
    "normal_cdf": (
        "t",
        {"x": f"{special.SQRT_HALF} * t", **_ERFC},
        "where(a <= 0.46875, 0.5 + 0.5 * near, where(t < 0, 0.5 * tail, 1 - 0.5 * tail))",
    ),
    "normal_pdf": ("t", {}, f"{special.INVERSE_SQRT_2PI} * exp(-0.5 * t * t)"),
}


def to_onnx(net: Model, path: str | os.PathLike[str]) -> None:
    """Write the net's forward pass as an ONNX file, in which the number of samples is free.

    Input and output of a chain are "x" (n, features) and "z" (n, out), those of a graph have its nodes' names. The
    loss is not part of it, and dropout is none. Parameters are in the file.

    Raises:
        TypeError: an activation or an operation is code. ImportError: the package onnx is not installed.
    """
    try:
        import onnx
        from onnx import helper
    except ImportError:
        raise ImportError("writing ONNX files needs onnx: pip install 'backprop-xp[exchange]'") from None
    if not isinstance(net, Model):
        raise TypeError(f"to_onnx takes a Net or a GraphNet, got {type(net).__name__}")
    plan = net._plan()
    widths, width = plan.inputs, plan.output.width
    output = "z" if plan.layered else plan.output.name
    writer = _Writer(onnx, net.dtype, [*widths, output])
    value = _value(writer, net, plan)
    if output in widths:
        raise ValueError(f"the net's output is its input {output!r}: there is nothing to write")
    writer.nodes.append(helper.make_node("Identity", [value], [output]))
    kind = helper.np_dtype_to_tensor_dtype(net.dtype)
    graph = helper.make_graph(
        writer.nodes,
        "backprop_xp",
        [helper.make_tensor_value_info(name, kind, ["n", features]) for name, features in widths.items()],
        [helper.make_tensor_value_info(output, kind, ["n", width])],
        writer.arrays,
    )
    if graph.ByteSize() > LARGEST:
        raise ValueError(f"an ONNX file may have {LARGEST} bytes, this net needs {graph.ByteSize()}")
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="backprop_xp")
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    with replacing(path) as file:
        file.write(content)


def _value(writer: _Writer, net: Model, plan: Plan) -> str:
    """Write every node; the name of the output's value."""
    named = {tensor: name for name, tensor in (net._by_place() | net.buffers).items()}
    arrays, values = net._kept_arrays(), dict[str, str]()
    for node in plan.nodes:
        if not is_built_in(node.operation):
            raise TypeError(f"node {node.name!r} is code, {node.operation!r}; ONNX takes built-in operations")
        if node.form.is_input:
            values[node.name] = node.name
            continue
        own = {
            name: writer.parameter(tensor, arrays[tensor], named[tensor])
            for name, tensor in net.tensors_of(node.name).items()
        }
        value = node.form.onnx(writer, [values[name] for name in node.inputs], own)
        if value is None:
            raise TypeError(f"node {node.name!r} has no form in ONNX here: {node.operation!r}")
        values[node.name] = value
    return values[plan.output.name]


class _Writer:
    """Nodes and constant arrays of an ONNX graph. Values go by their names."""

    def __init__(self, onnx: Any, dtype: np.dtype, names: Sequence[str]) -> None:
        self.onnx, self.dtype = onnx, dtype
        self.nodes: list[Any] = []
        self.arrays: list[Any] = []
        self._names = set(names)
        self._numbers: dict[str, str] = {}
        self._parameters: dict[Tensor, str] = {}

    def add(self, op: str, *args: str, **attributes: Any) -> str:
        name = self._new(f"v{len(self.nodes)}")
        self.nodes.append(self.onnx.helper.make_node(op, args, [name], **attributes))
        return name

    def array(self, array: np.ndarray, name: str) -> str:
        name = self._new(name)
        self.arrays.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def parameter(self, tensor: Tensor, array: Any, name: str) -> str:
        """The array of a tensor, written once wherever the tensor stands."""
        if tensor not in self._parameters:
            self._parameters[tensor] = self.array(NUMPY.take(array), name)
        return self._parameters[tensor]

    def _new(self, name: str) -> str:
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def number(self, number: float) -> str:
        key = float(number).hex()
        if key not in self._numbers:
            self._numbers[key] = self.array(np.array(number, self.dtype), f"c{len(self._numbers)}")
        return self._numbers[key]

    def activation(self, f: Any, t: str) -> str:
        if not isinstance(f, Elementwise) or not f.is_formula:
            raise TypeError(
                f"the activation {type(f).__name__} is code, of which ONNX has no form: write it as a formula, "
                "Elementwise(name, value=...)"
            )
        if self.dtype == np.float32 and type(f) is ACTIVATIONS.get(f.name) and f.name in OPERATORS:
            op, attributes = OPERATORS[f.name]
            return self.add(op, t, **attributes(f))
        names = {"t": t} | {name: self.number(number) for name, number in zip(f.text[3], f.parameters)}
        return self.formula(f.formula, names)

    def formula(self, formula: Formula, names: dict[str, str]) -> str:
        done: dict[int, str] = {}

        def value(index: int) -> str:
            if index not in done:
                node = formula.nodes[index]
                args = [value(i) for i in node.args]
                match node.op:
                    case "variable" | "parameter":
                        done[index] = names[node.name]
                    case "constant":
                        done[index] = self.number(node.number)
                    case "not_equal":
                        done[index] = self.add("Not", self.add("Equal", *args))
                    case op if op in DIRECT:
                        done[index] = self.add(DIRECT[op], *args)
                    case op:
                        variable, let, text = COMPOSED[op]
                        done[index] = self.formula(Formula((variable,), (), let, {"value": text}), {variable: args[0]})
            return done[index]

        return value(formula.outputs["value"])
