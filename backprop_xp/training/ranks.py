"""A run on many ranks: what they tell each other beside gradients."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..distributed import World
from ..distributed.alike import described, of_net
from ..numbers import as_seed
from .batches import Rows
from .checkpoints import Checkpoint, Folder, read
from .point_sets import PointSets
from .sharded import Sharding, order
from .shards import Shards


class Ranks:
    """The ranks of one run, or no world at all.

    Attributes:
        first: whether this one shows progress and writes checkpoints.
    """

    def __init__(self, world: World | None) -> None:
        self.world = world
        self.first = world is None or world.rank == 0

    def seed(self, seed: Any) -> Any:
        """The seed that was given; in a world, where None was, one that the first rank draws for all."""
        if self.world is None or seed is not None:
            return seed
        return int(self.world.hear(str(as_seed(None)) if self.first else ""))

    def begin(self, run: Any, checkpoint: str | os.PathLike[str] | None, every: Any, resume: Any) -> None:
        """Compare all that the run was given, so that its steps needn't. Raises RankError."""
        loop, rows = run.loop, run.loop.batches
        if loop.optimiser.sharding is not None and (self.world is None or not self.world.shard_state):
            raise ValueError("the optimiser has the state of a part of the parameters: make a new one")
        if self.world is None:
            return
        if loop.optimiser.evaluates or isinstance(rows, PointSets):
            what = (
                "point sets"
                if isinstance(rows, PointSets)
                else f"steps of {type(loop.optimiser).__name__}, which asks for many losses"
            )
            raise ValueError(f"ranks don't share {what}: train it without mpiexec")
        facts = {
            "epochs": repr(loop.options.epochs),
            "the optimiser": f"{type(loop.optimiser).__name__} {loop.optimiser.settings()}",
            "the options": repr(loop.options.of_steps | {"stop_on_nan": loop.options.stop_on_nan}),
            "early_stopping": repr(run.stopping),
            "checkpoints": f"{checkpoint is not None} {every} {resume}",
        }
        if isinstance(rows, Rows):
            facts |= {"batch_size": str(rows.batch_size), "shuffle": str(rows.shuffle), "the seed": str(rows.seed)}
            if isinstance(rows, Shards):
                facts |= rows.kinds()
            else:
                facts |= described({"x": rows.x, "y": rows.y, "sample_weight": rows.weight})
        if run.held_out is not None:
            for held in run.held_out.rows.values():
                if isinstance(held, Shards):
                    facts |= {f"{name} of validation": kind for name, kind in held.kinds().items()}
                else:
                    facts |= described({"x of validation": held.x, "y of validation": held.y})
        self.world.agree(facts | of_net(loop.net))
        if not isinstance(rows, Rows):
            if self.world.shard_state:
                raise ValueError("ranks shard the optimiser's state in runs on arrays, not on an iterable of batches")
            return
        loop.world = self.world.unchecked
        if self.world.shard_state:
            flat = loop.optimiser.bind(loop.net.parameters)
            sharding = Sharding(self.world, flat.data.size)
            loop.world.order, loop.world.bounds = order(flat, loop.net._places()), sharding.bounds
            loop.optimiser.shard(sharding)
        rows.world = loop.world

    def end_epoch(self, run: Any) -> str:
        """Why the run ends here, as the first rank that has a reason says. Raises RankError: parameters differ."""
        stopped = run.history.stopped
        if self.world is None:
            return stopped
        self.world.agree(of_net(run.loop.net))
        return self.world.hear(stopped)

    def read(self, folder: Folder | None) -> Checkpoint | None:
        """The newest checkpoint of the first rank's folder, which every rank reads; None where there is none."""
        found = None if folder is None else folder.newest()
        if self.world is None:
            return found
        path = self.world.hear("" if found is None else str(found.path.resolve()))
        return found if found is not None or not path else read(Path(path))
