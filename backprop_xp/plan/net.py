"""What the rooms below nets know of a net; :class:`backprop_xp.model.Model` says what each of its methods is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..backend import Backend
from ..literals import EngineName, PrecisionName, Reduction
from ..tensor import Tensor
from .call import Buffered, Call, Parameters, Values
from .plan import Plan


class Layered(Protocol):
    """A net that was written as a list of layers, :class:`backprop_xp.Net`."""

    sizes: tuple[int, ...]
    weights: list[Tensor]
    biases: list[Tensor]
    activations: list[Any]
    backend: Backend
    dtype: np.dtype

    @property
    def bias(self) -> tuple[bool, ...]: ...
    @property
    def layers(self) -> list[tuple[Tensor, Tensor | None, Any]]: ...


class AnyNet(Protocol):
    """A net that can be called, whose Tensors a call fills."""

    backend: Backend
    dtype: np.dtype
    engine: EngineName
    precision: PrecisionName
    loss: Any
    reduction: Reduction
    threads: int | None
    buffers: dict[str, Tensor]
    _kept: tuple[Call, Values | Buffered] | None
    _prepared: Any

    @property
    def parameters(self) -> Sequence[Tensor]: ...
    def loss_and_grad(self, x: Any, y: Any = None, *, sample_weight: Any = None) -> Any: ...
    def plan(self, x: Any) -> Any: ...
    def _plan(self) -> Plan: ...
    def _places(self) -> list[Tensor]: ...
    def _tensors(self) -> Mapping[str, Mapping[str, Tensor]]: ...
    def _arrays(self) -> Parameters: ...
    def _signals(self) -> Mapping[str, Tensor]: ...
    def tensors_of(self, node: str) -> dict[str, Tensor]: ...
    def _buffers(self) -> Parameters: ...
    def _keys(self) -> dict[str, int]: ...
    def _now(self) -> tuple[list[Any], list[Any], list[Any], str]: ...
    def _call(self, x: Any, keep_signals: bool | None, training: bool, loss: Any = None) -> Call: ...
    def _aim(self, call: Call, y: Any, sample_weight: Any) -> None: ...
    def _keep(self, call: Call | None, values: Values | None) -> None: ...
