"""Results as a table for people, Markdown for documents, and JSON for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backprop_xp.bench import allocator
from backprop_xp.bench.cases import Case
from backprop_xp.bench.limits import Limits
from backprop_xp.bench.quiet import Spell
from backprop_xp.bench.standing import OURS, Point

from backprop_xp.files import replacing


@dataclass
class Row:
    """One contender in one case, by its fastest form in the memory setting that is better for it.

    Attributes:
        samples_per_second: the median over the rounds that count.
        spread: half the distance between the slowest round and the fastest, over the median.
        speedup: over PyTorch eager in its best form, the median of the ratios round by round; None without PyTorch.
        extra_bytes: peak memory of a step beyond inputs and parameters; None if not measured.
        over_rival: over the fastest rival in its best form, in the same way; None without a rival.
        memory: the better setting, "kept" or "default".
        by_default: samples/s by the fastest form in default memory; None if not measured.
        seconds: of a step, in the rounds that count.
        rounds: every form in every setting, with what each round showed; a slower form has the first ones alone.
    """

    contender: str
    form: str
    samples_per_second: float
    spread: float
    speedup: float | None
    extra_bytes: int | None = None
    over_rival: float | None = None
    memory: str = allocator.DEFAULT
    by_default: float | None = None
    seconds: list[float] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Result:
    """One case: who was how fast, and how far the gradients were apart. Without rows: why not.

    Attributes:
        notes: sentences on who was left out.
        busy: why nothing here is to be quoted; empty if it may be.
        spells: what the machine did besides, round by round.
        counted: numbers of the rounds that count.
        peaks: numbers of the multiply-add peaks of the run before and after it; -1 where none was run.
    """

    case: Case
    rows: list[Row] = field(default_factory=list)
    difference: float | None = None
    refused: str = ""
    notes: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    spells: list[Spell] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)
    peaks: tuple[int, int] = (-1, -1)

    @property
    def name(self) -> str:
        """Case, batch and dtype."""
        return f"{self.case.name}, {self.case.samples:,} x {self.case.dtype}"


BUSY = "busy: not to be quoted"
LINE = 120  # characters
HEAD = (
    f"{'':24}{'samples/s':>10}{'spread':>8}{'default':>10}{'x PyTorch':>11}{'x rival':>9}"
    f"{'% GEMM':>8}{'% FMA':>7}{'memory':>11}"
)


def table(results: list[Result], limits: Limits) -> str:
    """Text of at most 100 columns; a line of its own for a busy machine."""
    lines = []
    for result in results:
        case = result.case
        lines += ["", f"{case.name}  {case.samples:,} x {case.dtype}, {case.flops:,} flop a sample", HEAD]
        lines += [_line(case, row, limits) for row in result.rows]
        if result.refused:
            lines.append(f"  no speed is shown: {result.refused}")
        elif result.difference is not None:
            lines.append(f"  gradients equal PyTorch's: within {result.difference:.1e} of their norms")
        else:
            lines.append("  gradients not compared: PyTorch is not installed")
        lines += [f"  {note}" for note in result.notes]
        lines += [f"  {BUSY}: {reason}" for reason in result.busy]
    return "\n".join(lines[1:])


def markdown(results: list[Result], limits: Limits) -> str:
    """The same as one Markdown table; the cases of a busy machine say so."""
    lines = [
        "| case | batch | contender | samples/s | spread | by default | x PyTorch eager | x fastest rival | % of GEMM "
        "| % of FMA peak | extra memory |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        case = result.case
        for row in result.rows:
            cells = (
                f"{case.name} ({BUSY})" if result.busy else case.name,
                f"{case.samples:,} x {case.dtype}", f"{row.contender} ({row.form})", _rate(row.samples_per_second),
                f"{row.spread:.0%}", _rate(row.by_default), _ratio(row.speedup), _ratio(row.over_rival),
                _share(case, row, limits.gemm), _share(case, row, limits.fma), _bytes(row.extra_bytes),
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def points(results: Sequence[Result]) -> list[Point]:
    """What claims are made of."""
    made = []
    for result in results:
        seconds = {row.contender: row.seconds for row in result.rows}
        rivals = {name: times for name, times in seconds.items() if not name.startswith(OURS)}
        made.append(Point(result.name, seconds.get(OURS, []), rivals, bool(result.busy)))
    return made


def describe(limits: Limits, machine: str) -> str:
    """The machine, and its limits as measured."""
    gemm = ", ".join(f"{limits.gemm[d] / 1e9:.0f} ({d})" for d in limits.gemm)
    fma = (
        ", ".join(f"{limits.fma[d] / 1e9:.0f} ({d})" for d in limits.fma)
        if limits.fma
        else "not measured (no compiler)"
    )
    return (
        f"{machine}\n"
        f"limits measured in this run: matrix product {gemm} Gflop/s; multiply-add peak {fma} Gflop/s; "
        f"copy {limits.copy / 1e9:.1f} GB/s"
    )


def file_name(device: str) -> str:
    """A device's name in lower-case letters, digits and hyphens."""
    return re.sub("[^a-z0-9]+", "-", device.lower()).strip("-") or "device"


def as_json(content: Any, margin: str = "\n") -> str:
    """JSON with one line for whatever fits in one, for a list of numbers and for an object of these: a round is one."""

    def is_line(entry: Any) -> bool:
        if isinstance(entry, list | tuple):
            return all(isinstance(number, int | float) for number in entry)
        return not isinstance(entry, dict)

    text, below = json.dumps(content), f"{margin} "
    if is_line(content) or len(text) <= LINE or (isinstance(content, dict) and all(map(is_line, content.values()))):
        return text
    if isinstance(content, dict):
        entries = [f"{json.dumps(str(key))}: {as_json(entry, below)}" for key, entry in content.items()]
        return f"{{{below}{f',{below}'.join(entries)}{margin}}}"
    return f"[{below}{f',{below}'.join(as_json(entry, below) for entry in content)}{margin}]"


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def _line(case: Case, row: Row, limits: Limits) -> str:
    name = f"  {row.contender}" + (f" ({row.form})" if row.form not in row.contender else "")
    return (
        f"{name:24}{_rate(row.samples_per_second):>10}{spread(row.spread):>8}{_rate(row.by_default):>10}"
        f"{_ratio(row.speedup):>11}{_ratio(row.over_rival):>9}{_share(case, row, limits.gemm):>8}"
        f"{_share(case, row, limits.fma):>7}{_bytes(row.extra_bytes):>11}"
    )


def spread(share: float) -> str:
    """A spread as it stands behind a number, with a space before it however large it is."""
    return f" +-{share:.0%}"


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _share(case: Case, row: Row, limit: dict[str, float] | None) -> str:
    return f"{row.samples_per_second * case.flops / limit[case.dtype]:.0%}" if limit else "-"


def _bytes(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value / 2**20:.1f} MiB" if value < 2**30 else f"{value / 2**30:.2f} GiB"
