"""Programs on several ranks, for tests: with the mpiexec of the mpich wheel, skipped where it isn't installed."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest


@functools.cache
def mpich():
    """mpiexec and MPI's library, None where the wheel isn't installed."""
    try:
        files = importlib.metadata.distribution("mpich").files or []
        importlib.metadata.distribution("mpi4py")
    except importlib.metadata.PackageNotFoundError:
        return None
    found = {file.name: Path(file.locate()).resolve() for file in files}
    return (found["mpiexec"], found["libmpi.so.12"]) if {"mpiexec", "libmpi.so.12"} <= found.keys() else None


needs_mpi = pytest.mark.skipif(mpich() is None, reason="mpi4py and mpich are not installed")


@contextmanager
def started(ranks, *command, **environment):
    """mpiexec with Python and these arguments on so many ranks, which end with the block."""
    mpiexec, library = mpich()
    variables = os.environ | {"MPI4PY_LIBMPI": str(library), "BACKPROP_XP_NUM_THREADS": "1"} | environment
    process = subprocess.Popen(
        [mpiexec, "-n", str(ranks), sys.executable, *map(str, command)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # mpiexec ends its ranks
            process.communicate()


def launch(ranks, *command, timeout=300, **environment):
    """Python with these arguments on so many ranks; ended with a TimeoutExpired if it hangs."""
    with started(ranks, *command, **environment) as process:
        out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def output(ranks, code, *arguments, timeout=300):
    """What a program prints that ends well."""
    run = launch(ranks, "-c", code, *arguments, timeout=timeout)
    assert run.returncode == 0, run.stderr
    return run.stdout


def ends(ranks, code, *arguments):
    """What a program, and mpiexec, says that ends badly, although some of its ranks would go on for an hour."""
    run = launch(ranks, "-c", code, *arguments, timeout=120)
    assert run.returncode != 0, run.stdout
    return run.stdout + run.stderr
