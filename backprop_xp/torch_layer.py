"""A net as a layer of a PyTorch model, on the CPU and on CUDA devices. The package imports this only if asked to.

layer = as_torch(Net((64, 32, 10), ("relu", "identity"), bias=True, dtype="float32"))
model = torch.nn.Sequential(torch.nn.Linear(100, 64), layer, torch.nn.Softmax(dim=1))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from .backend import NUMPY
from .graph import GraphNet
from .net import Net
from .numbers import flag
from .torch_backprop import is_transformed, numbered, outputs, outputs_operator, outputs_plainly
from .torch_calls import Calls
from .torch_flat import FlatLink
from .torch_formulas import traced
from .torch_link import Link, backend_of, module_paths

#: What autocast computes in, and nets don't.
HALVES = (torch.float16, torch.bfloat16)


def as_torch(net: Net | GraphNet, flat: bool = False) -> NetModule:
    """A module that computes the net's outputs, whose parameters are the net's.

    They share memory, so an optimizer's step is seen by the net, and an in-place step of the net's user by the module.
    Where one side is given other memory (by ``net.fit``, by a load, a move or a conversion of the module), the other
    takes it over at the next use of the module or of its ``net``, with the dtype and the device; a copy of a module
    has a net of its own. Dropout drops numbers while the module is in training mode, those that the net would drop.

    Args:
        flat: have all numbers in one Parameter (count,), ``module.flat``, of which the net's arrays are views, in the
            order in which the module would have them. PyTorch's optimisers then go over one tensor, which takes a small
            net a fraction of the time; groups of some parameters, and freezing one, aren't possible.
    """
    if isinstance(net, GraphNet):
        return GraphModule(net, flag("flat", flat))
    if not isinstance(net, Net):
        raise TypeError(f"as_torch takes a Net or a GraphNet, got {type(net).__name__}")
    return ChainModule(net, flag("flat", flat))


class NetModule(torch.nn.Module):
    """A net's outputs for tensors of the dtype and device of the parameters. The net's loss is not used."""

    _net: Any

    def __init__(self, net: Net | GraphNet, flat: bool) -> None:
        super().__init__()
        self._kind: type[Link] = FlatLink if flat else Link
        self._net, self._link = net, self._kind(net)
        self._at: list[tuple[torch.nn.Module, str]] = []
        if flat:
            (parameter,) = self._link.make()
            self.register_parameter("flat", parameter)
            self._at = [(self, "flat")]
        else:
            self._take_in(self._link.make())
        self._number, self.features = numbered(self), net._plan().output.width
        self.register_load_state_dict_post_hook(_loaded)

    def _take_in(self, parameters: list[torch.nn.Parameter]) -> None:
        """Register the Parameters of the net's places, as modules of its nodes' names."""
        places = [(node, name) for node, own in self._net._tensors().items() for name in own]
        paths = module_paths(dict.fromkeys(node for node, _ in places))
        for (node, name), parameter in zip(places, parameters, strict=True):
            self._at.append(self._register(node, name, paths[node], parameter))

    def _register(self, node: str, name: str, path: str, parameter: torch.nn.Parameter) -> tuple[torch.nn.Module, str]:
        """Register the Parameter of one place; the module that has it, and its name there."""
        module: torch.nn.Module = self
        for part in ("tensors", *path.split(".")):
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(name, parameter)
        return module, name

    def _in_places(self) -> list[torch.nn.Parameter]:
        """The Parameters of the net's places, or of all places, as they are now."""
        return [_parameter(module, name) for module, name in self._at]

    @property
    def net(self) -> Any:
        """The net, with the module's parameters."""
        self._share()
        return self._net

    def _ready(self) -> list[torch.nn.Parameter]:
        """The parameters for a call: code that is traced shares none, see :meth:`compiled_calls`."""
        return self._in_places() if torch.compiler.is_compiling() else self._share()

    def _share(self) -> list[torch.nn.Parameter]:
        """The parameters, in memory that they share with the net."""
        parameters = self._in_places()
        if _are_own(parameters):
            self._link.renew(parameters)
        return parameters

    def _outputs(self, inputs: list[torch.Tensor], parameters: list[torch.nn.Parameter]) -> torch.Tensor:
        """The outputs (n, out) from every input (n, features)."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._traced(inputs, parameters)
        calls = Calls(self._net, self.training, _are_own(parameters), flat=self._link.flat)
        if is_transformed():
            self._refuse_training("torch.func's transforms")
            return outputs_plainly(calls, inputs, parameters)
        return outputs(calls, inputs, parameters)

    def _traced(self, inputs: list[torch.Tensor], parameters: list[torch.nn.Parameter]) -> torch.Tensor:
        """The outputs as an operator for torch.compile, or as PyTorch's own operations for those who export them."""
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            self._refuse_training("an export")
            return outputs_plainly(Calls(self._net, activated=traced, flat=self._link.flat), inputs, parameters)
        if self.training and _changing(self._net):
            return self._uncompiled(inputs)
        return outputs_operator(self._number, inputs, parameters)

    @torch.compiler.disable
    def _uncompiled(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return self._outputs(inputs, self._share())

    def _refuse_training(self, what: str) -> None:
        if self.training and (name := _changing(self._net)):
            raise RuntimeError(f"node {name!r} changes from call to call in training: call .eval() before {what}")

    def compiled_calls(self, parameters: Sequence[torch.Tensor]) -> Calls:
        """Calls for code that torch.compile has made, which can't let net and module share memory again.

        Raises:
            RuntimeError: the net was given other arrays since they shared them.
        """
        if not self._link.holds():
            raise RuntimeError("the net was given other arrays since this was compiled: call the module itself once")
        return Calls(self._net, False, self._link.shares(parameters), flat=self._link.flat)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._share()
        for parameter in self._in_places():  # before anything is changed
            backend_of(fn(torch.empty(1, dtype=parameter.dtype, device=parameter.device)))
        super()._apply(fn, recurse)
        self._share()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._share()
        return super().state_dict(*args, **kwargs)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in self._net.buffers.items():
            destination[f"{prefix}buffers.{name}"] = torch.tensor(NUMPY.take(tensor.data))

    def _load_from_state_dict(
        self, state: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
    ) -> None:
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)
        for name, tensor in self._net.buffers.items():
            key = f"{prefix}buffers.{name}"
            if key not in state:
                missing += [key] * strict
            elif tuple(state[key].shape) != tensor.data.shape:
                errors.append(f"{key} must be {tensor.data.shape}, got {tuple(state[key].shape)}")
            else:
                array = state[key].detach().cpu().numpy().astype(self._net.dtype)
                tensor.data = self._net.backend.take(array)
            if key in unexpected:
                unexpected.remove(key)

    def __getstate__(self) -> dict[str, Any]:
        self._share()
        return {name: value for name, value in self.__dict__.items() if name not in ("_link", "_number")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._link, self._number = self._kind(self._net, self._in_places()), numbered(self)

    def extra_repr(self) -> str:
        return repr(self._net)


class ChainModule(NetModule):
    """Takes x, (..., features).

    Attributes:
        weights, biases: Parameters that share memory with those of the net.
        tensors: those of normalisations, see :class:`GraphModule`.
        flat: all of them in one Parameter instead, see :func:`as_torch`.
    """

    _net: Net

    def _take_in(self, parameters: list[torch.nn.Parameter]) -> None:
        self.weights, self.biases = torch.nn.ParameterList(), torch.nn.ParameterList()
        super()._take_in(parameters)

    def _register(self, node: str, name: str, path: str, parameter: torch.nn.Parameter) -> tuple[torch.nn.Module, str]:
        if node[0] != "t":
            return super()._register(node, name, path, parameter)
        module = self.weights if name == "weight" else self.biases
        module.append(parameter)
        return module, str(len(module) - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parameters = self._ready()
        x = _checked(x, "x", self._net.sizes[0], parameters[0])
        if x.ndim == 2:
            return self._outputs([x], parameters)
        output = self._outputs([x.reshape(math.prod(x.shape[:-1]), x.shape[-1])], parameters)
        return output.reshape(*x.shape[:-1], output.shape[-1])


class GraphModule(NetModule):
    """Takes the net's inputs in the order of ``net.inputs``, or by their names: (..., features), alike before the last.

    Attributes:
        tensors: Parameters that share memory with those of the net, as modules of its nodes' names: "tensors.h.weight"
            in the state_dict is ``net.tensors["h.weight"]``. Where PyTorch can't have a name, underscores take the
            place of what is wrong with it. Buffers are in the state_dict as well, "buffers.n.running_mean"; the net has
            them.
    """

    _net: GraphNet

    def forward(self, /, *inputs: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        parameters, widths = self._ready(), self._net.inputs
        given = dict(zip(widths, inputs)) | named
        if given.keys() != widths.keys() or len(inputs) + len(named) != len(widths):
            expected = ", ".join(map(repr, widths))
            raise TypeError(f"the inputs are {expected}, got {len(inputs)} in order and by name {[*named]}")
        for name, width in widths.items():
            given[name] = _checked(given[name], f"input {name!r}", width, parameters[0] if parameters else None)
        shape = next(iter(given.values())).shape[:-1]
        if any(x.shape[:-1] != shape for x in given.values()):
            found = ", ".join(f"{name!r} {tuple(x.shape)}" for name, x in given.items())
            raise ValueError(f"the inputs must be alike in all dimensions but the last, got {found}")
        flat = [given[name].reshape(math.prod(shape), width) for name, width in widths.items()]
        output = self._outputs(flat, parameters)
        return output.reshape(*shape, output.shape[-1])


def _parameter(module: torch.nn.Module, name: str) -> torch.nn.Parameter:
    own = module._parameters.get(name)
    return getattr(module, name) if own is None else own  # it is no longer there where it is parametrised


def _are_own(parameters: list[torch.nn.Parameter]) -> bool:
    """Whether these are the module's, and no others stand in for them, as in torch.func.functional_call."""
    return all(type(p) is torch.nn.Parameter or isinstance(p, torch.nn.Parameter) for p in parameters)


def _changing(net: Net | GraphNet) -> str:
    """The name of the first node that draws, or changes its buffers, in training; "" if none does."""
    nodes = (n for n in net._plan().nodes if n.operation.needs_key or n.operation.changes_buffers)
    return next((node.name for node in nodes), "")


def _checked(x: torch.Tensor, name: str, width: int, like: torch.Tensor | None) -> torch.Tensor:
    """An input that the parameters, of which one is ``like``, can be multiplied with; autocast may have rounded it."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a tensor of PyTorch, got {type(x).__name__}")
    if like is not None and (x.dtype != like.dtype or x.device != like.device):
        if x.dtype not in HALVES or x.device != like.device or not torch.is_autocast_enabled(x.device.type):
            raise TypeError(
                f"{name} must be {like.dtype} on {like.device}, as the parameters are; got {x.dtype} on {x.device}"
            )
        x = x.to(like.dtype)
    if x.ndim == 0 or x.shape[-1] != width:
        raise ValueError(f"{name} must be (..., {width}), got shape {tuple(x.shape)}")
    return x


def _loaded(module: NetModule, keys: Any) -> None:
    """After load_state_dict, which may have put other Parameters into the module."""
    module._share()
