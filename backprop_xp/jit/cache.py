"""Compiled kernels on disk: a folder of the user's own, one file per source, flags, compiler and processor.

A file ends with the SHA-256 of what precedes it, so a truncated or damaged one is never loaded. Files appear by
renaming, so any number of processes may start on an empty cache at once.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import hashlib
import os
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path

from ..show_source import show
from . import building, compiler
from .compiler import CompileError

FORMAT = b"backprop_xp 1"
SUFFIX, NOTE_SUFFIX = ".kernel", ".variant"  # a note says which variant of a GPU kernel fits, see jit/cuda.py
DIGEST_BYTES = hashlib.sha256().digest_size

_loaded: dict[str, ctypes.CDLL | CompileError] = {}


def folder() -> Path:
    """Where compiled kernels are kept: $BACKPROP_XP_CACHE, else backprop_xp in the user's cache folder."""
    if named := os.environ.get("BACKPROP_XP_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "backprop_xp"


def library(source: str, what: str) -> ctypes.CDLL:
    """The library compiled from this C++ text: from memory, from disk, or by the compiler.

    Args:
        source: a whole translation unit, headers included.
        what: for the message that announces a compilation.

    Raises:
        CompileError: it can't be compiled here; said again without another attempt on later calls.
    """
    memory = hashlib.sha256(source.encode()).hexdigest()
    found = _loaded.get(memory)
    if found is None:
        show(source, what)
        try:
            found = _load(source, what)
        except CompileError as error:
            found = error
        _loaded[memory] = found
    if isinstance(found, CompileError):
        raise found
    return found


def size() -> tuple[int, int]:
    """How many compiled kernels the cache holds, and their bytes."""
    with contextlib.suppress(OSError):
        sizes = [path.stat().st_size for path in folder().glob(f"*{SUFFIX}")]
        return len(sizes), sum(sizes)
    return 0, 0


def clear() -> int:
    """Delete every compiled kernel; returns how many. Leftovers of stopped compilations go too, and nothing else."""
    building.sweep(folder())
    count = 0
    for path in folder().glob(f"*{SUFFIX}"):
        path.unlink(missing_ok=True)
        count += 1
    for path in folder().glob(f"*{NOTE_SUFFIX}"):
        path.unlink(missing_ok=True)
    return count


def _load(source: str, what: str) -> ctypes.CDLL:
    cxx = compiler.find()
    parts = (FORMAT, source.encode(), *(s.encode() for s in (*cxx.command, cxx.version, *cxx.flags)))
    parts += tuple(feature.encode() for feature in compiler.cpu_features())
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()
    path = home() / f"{key}{SUFFIX}"
    if not _intact(path):
        _compile(cxx, source, path, what)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CompileError(f"the compiled kernel can't be loaded: {error}") from None


def _compile(cxx: compiler.Compiler, source: str, path: Path, what: str) -> None:
    try:
        with building.folder(path.parent) as work:
            text, built = Path(work, "kernel.cpp"), Path(work, "kernel.so")
            text.write_text(source, encoding="utf-8")
            cxx.build(text, built, what)
            content = built.read_bytes()
            sealed = Path(work, "sealed")
            sealed.write_bytes(content + hashlib.sha256(content).digest())
            os.replace(sealed, path)
    except OSError as error:
        raise CompileError(f"a compiled kernel can't be written to {path.parent}: {error.strerror}") from None


def _intact(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        return False
    if hashlib.sha256(content[:-DIGEST_BYTES]).digest() == content[-DIGEST_BYTES:]:
        return True
    warnings.warn(f"the cached kernel {path.name} is damaged and is compiled again", RuntimeWarning, stacklevel=2)
    return False


def home() -> Path:
    """The cache folder, made if need be; a folder for this process alone where it can't be used."""
    wanted = folder()
    try:
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = wanted.stat()
        if state.st_uid != os.geteuid() or state.st_mode & 0o022:
            raise PermissionError(1, "it belongs to, or can be written by, somebody else")
        if not os.access(wanted, os.W_OK | os.X_OK):
            raise PermissionError(13, "it can't be written")
        return wanted
    except OSError as error:
        return _private(str(wanted), error.strerror or "it can't be used")


@cache
def _private(wanted: str, reason: str) -> Path:
    try:
        private = tempfile.mkdtemp(prefix="backprop_xp-")
    except OSError as error:
        raise CompileError(f"no folder for compiled kernels: {wanted}: {reason}; temporary: {error.strerror}") from None
    owner = os.getpid()  # a forked child must not delete its parent's folder
    atexit.register(lambda: shutil.rmtree(private, ignore_errors=True) if os.getpid() == owner else None)
    message = f"compiled kernels are not kept: {wanted}: {reason}"
    warnings.warn(message, RuntimeWarning, stacklevel=2)
    return Path(private)
