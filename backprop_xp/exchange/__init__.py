"""Keeping nets in files, and exchanging them with PyTorch and ONNX.

What is kept is numbers, and names of what this package defines; never code, and never a pickle.
"""

from .container import ModelFileError
from .keep import load, load_with_extra, save
from .pytorch import from_torch, to_torch
from .to_onnx import to_onnx
from .torch_state import load_state_dict, state_dict

__all__ = [
    "ModelFileError",
    "from_torch",
    "load",
    "load_state_dict",
    "load_with_extra",
    "save",
    "state_dict",
    "to_onnx",
    "to_torch",
]
