"""The command line: train, predict, explain, demo, picture, bench, check, compile, info, cache."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, info, later, net_options, proofs, threads
from .backend import BackendError
from .data.command import add_to as add_data_commands
from .distributed import launched, world
from .dtypes import DTYPES
from .engines import ENGINES
from .explain.command import add_to as add_explain_commands
from .messages import sentence, unknown
from .pictures.command import add_to as add_picture_command
from .toolchain import cache
from .toolchain.compiler import CompileError

if TYPE_CHECKING:
    from .bench import command as bench
else:
    bench = later.Module("backprop_xp.bench.command")

#: What can only be meant as an option, unlike -1,0 or -inf or -,NA, which are values.
OPTION = re.compile(r"-(?!(inf|infinity|nan)$)[-_]*[^\W\d_][\w-]*", re.IGNORECASE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0; 1 after one sentence on what is wrong; 130 after an interrupt; 141, without a word, where
        whoever reads standard output has stopped, as it is for other programs.
    """
    try:
        return _run(argv)
    except BrokenPipeError:
        _drop_output()
        return 141
    except (ValueError, TypeError, BackendError, CompileError, ImportError, OSError) as error:
        _say(sentence(error))
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = _parsed(argv)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            return arguments.run(arguments)
    finally:
        if sys.stdout is not None:  # which it is where standard output was closed
            sys.stdout.flush()


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    try:
        return _parser().parse_args(argv)
    except ValueError:
        if not launched():
            raise
        with world(brief=True):  # where what all ranks were given wrong is told once
            raise


def _drop_output() -> None:
    """Keep the interpreter from trying, at its end, to write once more what nobody reads."""
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _show_warning(message: Warning | str, *_: object) -> None:
    _say(str(message))


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be listening
        print(f"backprop-xp: {text}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with exit code 1, and which name is nearest to one that is not known.

    Options are written in full. What begins with a hyphen and can't be the name of an option is a value.
    """

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ValueError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Refuses an unknown option first: it may be the required one, or the one whose value is missing."""
        args = sys.argv[1:] if args is None else list(args)
        known = self._option_string_actions
        for before, text in self._named(args):
            if (name := text.partition("=")[0]) not in known:
                said = unknown("option", name, known)
                if not name.startswith("--") and before in known and known[before].nargs != 0:
                    said += f"{' ' if said.endswith('?') else '; '}as the value of {before} write {before}={text}"
                self.error(said)
        namespace, left = super().parse_known_args(args, namespace)
        if left:  # refused here, where a command's own help is known
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return namespace, left

    def _parse_optional(self, arg_string):  # type: ignore[no-untyped-def]
        return super()._parse_optional(arg_string) if _is_option(arg_string) else None

    def _match_arguments_partial(self, actions, arg_strings_pattern):  # type: ignore[no-untyped-def]
        """As many actions as can be; those that need no argument wait for arguments behind the next option."""
        counts = super()._match_arguments_partial(actions, arg_strings_pattern)
        while counts and counts[-1] == 0 and "A" in arg_strings_pattern[sum(counts) :]:
            counts.pop()
        return counts

    def _named(self, args: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The options in ``args``, each behind what stands before it; a command's own are for its own parser."""
        for before, text in pairwise(["", *args]):
            if text == "--" or (self._subparsers is not None and not text.startswith("-")):
                break
            if _is_option(text):
                yield before, text

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind, where = ("value", action) if action.option_strings else (action.dest, None)
            raise argparse.ArgumentError(where, unknown(kind, value, action.choices))


def _is_option(text: str) -> bool:
    """Whether an argument is an option, or one with its value, --lr=0.1."""
    return OPTION.fullmatch(text.partition("=")[0]) is not None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="backprop-xp", description="Explicit backpropagation, at the speed of the machine.")
    parser.add_argument("--version", action="version", version=f"backprop-xp {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    bench = commands.add_parser("bench", help="throughput of loss and all gradients, against PyTorch")
    bench.add_argument("--batch", type=int, metavar="N", help="samples in every case (default: each case's own)")
    net = bench.add_argument_group("a net to measure instead")
    net.add_argument("--net", metavar="5-10-4-12", help="its widths")
    net_options.add_to(net)
    bench.add_argument("--dtype", choices=DTYPES, help="only cases of this dtype, or of --net")
    bench.add_argument("--threads", type=int, metavar="N", help="of every contender (default: all processors)")
    net_options.add_backend(bench)
    ours = ", ".join(("auto", *ENGINES))
    bench.add_argument("--engines", default="auto", metavar="A,B", help=f"engines of ours: {ours}")
    bench.add_argument(
        "--precision",
        default="",
        metavar="NAME",
        help="float32 cases once more, ours with factors of products rounded to it (bfloat16, float16, tf32, tf32x3), "
        "PyTorch with autocast if it is one of the first two",
    )
    bench.add_argument("--compile", action="store_true", help="torch.compile as well")
    bench.add_argument("--jax", action="store_true", help="JAX as well")
    bench.add_argument("--full", action="store_true", help="everybody, and sweeps over batch, width and depth")
    bench.add_argument(
        "--only",
        metavar="A,B",
        help="of cases, derivatives, in-pytorch, training, estimators, ablation, sweeps, grid, first-calls",
    )
    bench.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of timing a case (default: 10)")
    bench.add_argument(
        "--within", type=float, metavar="S", help="leave out the last cases and points if a run would take longer"
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    bench.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown")
    bench.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="write both there, with --full pictures too, named after the device",
    )
    bench.add_argument("--plot", type=Path, metavar="FILE.png", help="draw throughput over batch size, 1 to 2^20")
    bench.set_defaults(run=_bench)

    check = commands.add_parser("check", help="every gradient against finite differences and PyTorch")
    check.add_argument("--activation", metavar="A,B", help="only these (default: all)")
    check.add_argument("--loss", metavar="A,B", help="only these (default: all)")
    check.add_argument("--engine", default="auto", metavar="NAME")
    check.add_argument("--dtype", choices=DTYPES, default="float64")
    net_options.add_backend(check)
    check.set_defaults(run=_check)

    compiled = commands.add_parser("compile", help="compile now what calls of a net will need")
    compiled.add_argument("nets", nargs="+", metavar="NET", help="widths such as 784-128-10, or the file of a net")
    net_options.add_to(compiled)
    net_options.add_reduction(compiled)
    compiled.add_argument("--dtype", choices=DTYPES, help="(default: float64)")
    compiled.add_argument("--sample-weight", action="store_true", help="for calls with sample weights as well")
    compiled.add_argument("--input-grad", action="store_true", help="for gradients in the input as well")
    net_options.add_backend(compiled)
    compiled.set_defaults(run=_compile)

    add_data_commands(commands)
    add_explain_commands(commands)
    add_picture_command(commands)
    info = commands.add_parser("info", help="versions, backend, compiler, cache and threads")
    info.set_defaults(run=_info)
    cache = commands.add_parser("cache", help="compiled kernels: show or clear them")
    cache.add_argument("action", choices=("show", "clear"), nargs="?", default="show")
    cache.set_defaults(run=_cache)
    return parser


def _bench(arguments: argparse.Namespace) -> int:
    return bench.run(arguments, threads.count(arguments.threads))


def _check(arguments: argparse.Namespace) -> int:
    torch = importlib.util.find_spec("torch") is not None
    chosen = (() if text is None else text.split(",") for text in (arguments.activation, arguments.loss))
    settings = proofs.Settings(arguments.engine, arguments.dtype, arguments.backend, torch, *chosen)
    todo = settings.proofs()
    if not torch:
        print("without PyTorch, against central differences alone (pip install 'backprop-xp[bench]' for both)")
    nets, proven, failures, skipped = sum(map(len, todo)), 0, 0, 0
    for number, reports in enumerate(proofs.run(settings, todo), 1):
        for name, report in reports:
            ok = isinstance(report, str) or report.ok
            proven, failures, skipped = proven + 1, failures + (not ok), skipped + isinstance(report, str)
            verdict = "skip" if isinstance(report, str) else "ok  " if ok else "FAIL"
            print(f"{number:{len(str(nets))}}/{nets} {verdict} {name}", flush=True)
            if isinstance(report, str) or not ok:
                print(report)
    print(
        f"{proven - skipped} proofs of {nets} nets: "
        + (f"{failures} failed" if failures else "every gradient is right")
    )
    return 1 if failures else 0


def _compile(arguments: argparse.Namespace) -> int:
    nets = [net_options.made(text, **net_options.chosen(arguments)) for text in arguments.nets]
    for text, net in zip(arguments.nets, nets):
        print(f"{text}: {net!r}", flush=True)
        programs = net.compile(
            lambda built: print(f"  {built}", flush=True),
            sample_weight=arguments.sample_weight,
            input_grad=arguments.input_grad,
        )
        if not programs:
            print("  nothing that isn't there")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    print(info.text())
    return 0


def _cache(arguments: argparse.Namespace) -> int:
    if arguments.action == "clear":
        print(f"{cache.clear()} compiled kernels deleted from {cache.folder()}")
    else:
        print(cache.describe())
    return 0
