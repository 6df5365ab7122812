"""Nets that are no chains: directed acyclic graphs of named nodes."""

from ..operations import (
    Activate,
    Add,
    BatchNorm,
    Chain,
    Concatenate,
    Dropout,
    Input,
    LayerNorm,
    Linear,
    Multiply,
    Operation,
    Residual,
    Softmax,
)
from .builder import Graph, Handle
from .net import GraphNet

__all__ = [
    "Activate",
    "Add",
    "BatchNorm",
    "Chain",
    "Concatenate",
    "Dropout",
    "Graph",
    "GraphNet",
    "Handle",
    "Input",
    "LayerNorm",
    "Linear",
    "Multiply",
    "Operation",
    "Residual",
    "Softmax",
]
