"""What is left of a run: its closing lines, and its files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backprop_xp.bench import grid, heat_map, plot, report, standing, training
from backprop_xp.bench.ablation import Step
from backprop_xp.bench.busy import Watch
from backprop_xp.bench.first_call import FirstCall
from backprop_xp.bench.report import Result


class Run:
    """A run that has ended.

    Attributes:
        everything: the results of the table and of the sweeps, in this order.
        busy: why nothing is to be quoted, or which cases are not; empty if all may be.
        claims: lines on who is the fastest where, as far as these results say.
    """

    def __init__(
        self,
        watch: Watch,
        environment: dict[str, Any],
        results: Sequence[Result],
        families: dict[str, list[Result]],
        steps: Sequence[Step] = (),
        trained: Sequence[training.Row] = (),
        first_calls: Sequence[FirstCall] = (),
    ) -> None:
        self._watch, self._families, self._first_calls = watch, families, first_calls
        self.everything = [*results, *(result for swept in families.values() for result in swept)]
        everywhere = watch.end()
        spoiled = [result.name for result in self.everything if result.busy]
        spoiled += dict.fromkeys(f"training on {row.case}" for row in trained if row.busy)
        self.busy = [*everywhere, *([f"the machine was busy during {', '.join(spoiled)}"] if spoiled else [])]
        for one in (*self.everything, *trained):
            one.busy = [*one.busy, *everywhere]
        points = {"cases": report.points(results), "sets, by the time of fit": training.points(trained)}
        points |= {f"points over {family}": report.points(swept) for family, swept in families.items()}
        self.claims = [standing.sentence(some, where) for where, some in points.items() if some]
        self._environment = environment | {
            "load before": watch.load_before,
            "load after": watch.load_after,
            "multiply-add peaks": watch.peaks,
            "ablation": [asdict(step) for step in steps],
            "training": [asdict(row) for row in trained],
            "first calls": [asdict(call) for call in first_calls],
        }

    @property
    def closing(self) -> list[str]:
        """The last lines for people: claims, then whether they may be quoted."""
        return [*self.claims, *([f"{report.BUSY}: {'; '.join(self.busy)}"] if self.busy else [])]

    def content(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "quotable": not self.busy,
            "busy": self.busy,
            "claims": self.claims,
            "environment": self._environment,
            "limits": asdict(self._watch.limits),
            "results": [asdict(result) for result in self.everything],
        }

    def markdown(self) -> str:
        """The closing lines, and all results as one table."""
        return "\n".join(
            [*(f"{line}\n" for line in self.closing), report.markdown(self.everything, self._watch.limits)]
        )

    def write(self, arguments: argparse.Namespace) -> None:
        """The files that were asked for."""
        machine = self._environment["machine"]
        if arguments.json is not None:
            report.write_json(arguments.json, self.content())
        if arguments.markdown is not None:
            report.replace_file(arguments.markdown, f"{self.markdown()}\n".encode())
        if arguments.results is not None:
            named = arguments.results / report.file_name(self._environment["device"])
            report.write_json(named.with_suffix(".json"), self.content())
            about = report.describe(self._watch.limits, machine).replace("\n", "\n\n")
            report.replace_file(named.with_suffix(".md"), f"{about}\n\n{self.markdown()}\n".encode())
            print(f"\nwritten: {named}.json and .md")
            if arguments.full:
                self._draw(named.with_suffix(".png"))
        if arguments.plot is not None:
            self._draw(arguments.plot)

    def _draw(self, path: Path) -> None:
        """Throughput in this file, and the grid in one beside it."""
        machine, date = self._environment["machine"].partition("\n")[0], self._environment["date"].partition("T")[0]
        grids = {family: swept for family, swept in self._families.items() if family.startswith(grid.FAMILY)}
        swept = {family: results for family, results in self._families.items() if family not in grids}
        if swept:
            plot.throughput(path, swept, f"{machine}, {date}")
        if len(grids) > 1:
            heat_map.draw(heat_map.beside(path), grids, self._first_calls, f"{machine}, {date}")
