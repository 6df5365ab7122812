"""Many ranks, started by ``mpiexec``, that give the bits of one; docs/ranks.md tells how to use them."""

from .world import RankError, World, launched, world

__all__ = ["RankError", "World", "launched", "world"]
