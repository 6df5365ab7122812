"""What to measure and how, in every process of a run alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Of a run.

    Attributes:
        threads: of every contender.
        engines: of ours; "auto" is what a user gets.
        compile, jax: whether torch.compile and JAX take part.
        backend: of ours; PyTorch goes to the same device.
        budget: seconds of timing a case.
        memory: whether to measure it, in processes of their own.
        precision: of products, in which ours takes part once more, and PyTorch in a half format; "" for none.
    """

    threads: int
    engines: tuple[str, ...] = ("auto",)
    compile: bool = False
    jax: bool = False
    backend: str | None = "numpy"
    budget: float = 10.0
    memory: bool = True
    precision: str = ""

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Settings:
        """Settings from what JSON makes of their ``asdict``."""
        return cls(**fields | {"engines": tuple(fields["engines"])})
