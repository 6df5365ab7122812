"""What is left of a run: its closing lines, and its files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from backprop_xp.bench import ablation, estimators, first_call, grid, heat_map, plot, report, standing, training
from backprop_xp.bench.ablation import Step
from backprop_xp.bench.busy import Watch
from backprop_xp.bench.cases import Case
from backprop_xp.bench.first_call import FirstCall
from backprop_xp.bench.report import Result


@dataclass
class Found:
    """What a run has measured so far.

    Attributes:
        results: of the cases; ``left_out`` are those that were not measured.
        families: of the sweeps and of the grid, by what is varied.
    """

    results: list[Result] = field(default_factory=list)
    families: dict[str, list[Result]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    trained: Sequence[training.Row] = ()
    estimated: Sequence[estimators.Row] = ()
    left_out: list[Case] = field(default_factory=list)
    first_calls: Sequence[FirstCall] = ()


class Run:
    """A run that has ended, or as far as it has come.

    Attributes:
        everything: the results of the cases, the sweeps and the grid, in this order.
        busy: why nothing is to be quoted, or which results are not; empty if all may be.
        claims: lines on who is the fastest where, as far as these results say.
    """

    def __init__(self, watch: Watch, environment: dict[str, Any], found: Found) -> None:
        everywhere = watch.end()

        def judged(results: Sequence[Result]) -> list[Result]:  # copies: the run may go on
            return [replace(one, busy=[*one.busy, *watch.around(one)]) for one in results]

        results = judged(found.results)
        families = {family: judged(swept) for family, swept in found.families.items()}
        spoiled = [one.name for one in (*results, *(one for swept in families.values() for one in swept)) if one.busy]
        spoiled += dict.fromkeys(f"training on {row.case}" for row in found.trained if row.busy)
        spoiled += dict.fromkeys(f"estimators on {row.table}" for row in found.estimated if row.busy)
        self.busy = [*everywhere, *([f"the machine was busy during {'; '.join(spoiled)}"] if spoiled else [])]
        trained = [replace(row, busy=[*row.busy, *everywhere]) for row in found.trained]
        estimated = [replace(row, busy=[*row.busy, *everywhere]) for row in found.estimated]
        for one in (*results, *(one for swept in families.values() for one in swept)):
            one.busy += everywhere
        self._watch, self._families, self._first_calls = watch, families, found.first_calls
        self._left_out = [Result(case).name for case in found.left_out]
        self.everything = [*results, *(result for swept in families.values() for result in swept)]
        points = {"cases": report.points(results), "sets, by the time of fit": training.points(trained)}
        points |= {f"points over {family}": report.points(swept) for family, swept in families.items()}
        self.claims = [standing.sentence(some, where) for where, some in points.items() if some]
        self.claims += estimators.claims(estimated) if estimated else []
        tables = (
            training.table(trained) if trained else "",
            estimators.report(estimated) if estimated else "",
            ablation.table(found.steps) if found.steps else "",
            first_call.table(found.first_calls) if found.first_calls else "",
        )
        self._tables = [table.strip("\n") for table in tables if table]
        self._environment = environment | {
            "load before": watch.load_before,
            "load after": watch.load_after,
            "multiply-add peaks": watch.peaks,
            "ablation": [asdict(step) for step in found.steps],
            "training": [asdict(row) for row in trained],
            "estimators": [asdict(row) for row in estimated],
            "first calls": [asdict(call) for call in found.first_calls],
        }

    @property
    def closing(self) -> list[str]:
        """The last lines for people: claims, then whether they may be quoted."""
        lines = [*self.claims]
        lines += [f"not measured, for lack of time: {'; '.join(self._left_out)}"] if self._left_out else []
        return lines + ([f"{report.BUSY}: {'; '.join(self.busy)}"] if self.busy else [])

    def content(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "quotable": not self.busy,
            "busy": self.busy,
            "claims": self.claims,
            "left out": self._left_out,
            "environment": self._environment,
            "limits": asdict(self._watch.limits),
            "results": [asdict(result) for result in self.everything],
        }

    def markdown(self) -> str:
        """The closing lines, all results as one table, and what else was measured as people saw it."""
        parts = [*self.closing]
        parts += [report.markdown(self.everything, self._watch.limits)] if self.everything else []
        return "\n\n".join([*parts, *(f"```text\n{table}\n```" for table in self._tables)])

    def write(self, arguments: argparse.Namespace) -> None:
        """The files that were asked for."""
        for path, content in self._files(arguments).items():
            report.replace_file(path, content)
            unfinished(path).unlink(missing_ok=True)
        if arguments.results is not None:
            print(f"\nwritten: {self._named(arguments)}.json and .md")
            if arguments.full:
                self._draw(self._named(arguments).with_suffix(".png"))
        if arguments.plot is not None:
            self._draw(arguments.plot)

    def write_unfinished(self, arguments: argparse.Namespace) -> None:
        """The same files so far, beside those of a run before: whenever this one ends, nothing is lost."""
        for path, content in self._files(arguments).items():
            report.replace_file(unfinished(path), content)

    def _files(self, arguments: argparse.Namespace) -> dict[Path, bytes]:
        """The contents of the files that were asked for, but for pictures."""
        whole, table = f"{report.as_json(self.content())}\n".encode(), self.markdown()
        files: dict[Path, bytes] = {}
        if arguments.json is not None:
            files[arguments.json] = whole
        if arguments.markdown is not None:
            files[arguments.markdown] = f"{table}\n".encode()
        if arguments.results is not None:
            path = self._named(arguments)
            about = report.describe(self._watch.limits, self._environment["machine"]).replace("\n", "\n\n")
            files[path.with_suffix(".json")] = whole
            files[path.with_suffix(".md")] = f"{about}\n\n{table}\n".encode()
        return files

    def _draw(self, path: Path) -> None:
        """Throughput in this file, and the grid in one beside it."""
        machine, date = self._environment["machine"].partition("\n")[0], self._environment["date"].partition("T")[0]
        grids = {family: swept for family, swept in self._families.items() if family.startswith(grid.FAMILY)}
        swept = {family: results for family, results in self._families.items() if family in plot.X_OF}
        if swept:
            plot.throughput(path, swept, f"{machine}, {date}")
        if len(grids) > 1:
            heat_map.draw(heat_map.beside(path), grids, self._first_calls, f"{machine}, {date}")

    def _named(self, arguments: argparse.Namespace) -> Path:
        return named(arguments, self._environment["device"])


def named(arguments: argparse.Namespace, device: str) -> Path:
    """The files of --results without their suffixes: another device's, or another part's, are others."""
    return arguments.results / report.file_name(f"{device} {arguments.only or ''}")


def unfinished(path: Path) -> Path:
    """Where the file of a run stands until the run has ended."""
    return path.with_name(f"{path.stem}.unfinished{path.suffix}")
