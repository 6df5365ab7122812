"""What is wrong with data, said so that it can be found."""

from __future__ import annotations

from typing import Any


class DataError(ValueError):
    """Data that can't be used; the message says where: file, row and column.

    Attributes:
        rows: (n,) bool, the rows that can't be used for this reason; None where the reason isn't one of single rows.
    """

    def __init__(self, message: str, rows: Any = None) -> None:
        super().__init__(message)
        self.rows = rows
