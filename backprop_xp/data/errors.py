"""What is wrong with data, said so that it can be found."""

from __future__ import annotations


class DataError(ValueError):
    """Data that can't be used; the message says where: file, row and column."""
