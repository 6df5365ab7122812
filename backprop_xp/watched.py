"""Noticing cheaply that a NumPy array is no longer what it was, though it is the same object."""

from __future__ import annotations

import ctypes

import numpy as np

#: What NumPy's C interface keeps of an array behind the part that all objects have, up to its flags: the address of
#: its numbers, the dtype and the memory order, but only the address of its shape.
Head = ctypes.c_char * 52


class Watched:
    """An array, and what it was when this was made; after ``resize``, ``.shape = ...`` and the like it differs.

    Comparing takes a tenth of a microsecond where it is written out:
    ``array.shape != w.shape or w.head.raw != w.raw``.
    """

    __slots__ = ("array", "head", "raw", "shape")

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape = array, array.shape
        self.head = Head.from_address(id(array) + object.__basicsize__)
        self.raw = self.head.raw

    @property
    def changed(self) -> bool:
        """Whether memory, shape, order or dtype are others."""
        return self.array.shape != self.shape or self.head.raw != self.raw
