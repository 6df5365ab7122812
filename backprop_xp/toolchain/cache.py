"""Compiled kernels on disk: a folder of the user's own, one file per source, flags, compiler and processor.

A file ends with a seal, the SHA-256 of its key and of what precedes it, so one that is truncated, damaged or another
key's is never loaded. Files appear by renaming, so any number of processes may start on an empty cache at once.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from .. import environment, later
from ..files import replacing
from ..show_source import show
from . import building, compiler
from .built import telling
from .compiler import CompileError

hashlib = later.Module("hashlib")  # which loads OpenSSL
shutil = later.Module("shutil")
tempfile = later.Module("tempfile")

FORMAT = b"backprop_xp 2"
SUFFIX, NOTE_SUFFIX = ".kernel", ".variant"  # a note says which variant of a GPU kernel fits, see toolchain/cuda.py
DIGEST_BYTES = 32  # of SHA-256
LARGEST = 1 << 28  # bytes of a file that is read

_loaded: dict[tuple[compiler.Compiler, str], ctypes.CDLL | CompileError] = {}  # by SHA-256 of the source


def folder() -> Path:
    """Where compiled kernels are kept, an absolute path: $BACKPROP_XP_CACHE, else one in the user's cache folder.

    Raises:
        OSError: no such folder can be named.
    """
    if named := environment.CACHE.read():
        return Path(named).absolute()
    if Path(base := environment.XDG_CACHE_HOME.read()).is_absolute():
        return Path(base, "backprop_xp")
    try:
        return Path.home().absolute() / ".cache" / "backprop_xp"
    except RuntimeError:
        raise FileNotFoundError(2, f"there is no home folder; {environment.CACHE.name} can name another") from None


def sha256(content: bytes) -> bytes:
    """The digest of this content."""
    return hashlib.sha256(content).digest()


def library(source: str, what: str) -> ctypes.CDLL:
    """The library compiled from this C++ text: from memory, from disk, or by the compiler.

    Args:
        source: a whole translation unit, headers included.
        what: for the message that announces a compilation.

    Raises:
        CompileError: it can't be compiled here; said again without another attempt by the same compiler.
    """
    memory = compiler.find(), sha256(source.encode()).hex()
    found = _loaded.get(memory)
    if found is None:
        show(source, what)
        try:
            with telling(what) as compiles:
                found = _load(source, what, compiles)
        except CompileError as error:
            found = error
        _loaded[memory] = found
    if isinstance(found, CompileError):
        raise found
    return found


def size() -> tuple[int, int]:
    """How many compiled kernels the cache holds, and their bytes."""
    with contextlib.suppress(OSError):
        sizes = [path.lstat().st_size for path in folder().glob(f"*{SUFFIX}")]
        return len(sizes), sum(sizes)
    return 0, 0


def describe() -> str:
    """Which folder it is, and what is in it."""
    try:
        where = str(folder())
    except OSError as error:
        return f"none: {error.strerror}"
    count, total = size()
    return f"{where}: {count} compiled kernels, {total / 1024:.0f} KiB"


def clear() -> int:
    """Delete every compiled kernel; returns how many.

    What stopped compilations left goes too, and what the compiler of a wheel keeps there; nothing else does.
    """
    building.sweep(folder())
    shutil.rmtree(folder() / compiler.WHEEL_FOLDER, ignore_errors=True)
    count = 0
    for path in folder().glob(f"*{SUFFIX}"):
        path.unlink(missing_ok=True)
        count += 1
    for path in folder().glob(f"*{NOTE_SUFFIX}"):
        path.unlink(missing_ok=True)
    return count


def _load(source: str, what: str, compiles: Callable[[], None]) -> ctypes.CDLL:
    cxx = compiler.find()
    parts = (FORMAT, source.encode(), *map(os.fsencode, (*cxx.command, cxx.version, *cxx.flags)))
    parts += tuple(map(os.fsencode, compiler.cpu_features()))
    key = sha256(b"\0".join(parts)).hex()
    path = home() / f"{key}{SUFFIX}"
    if not _intact(path, key):
        compiles()
        content = _compile(cxx, source, path.parent, what)
        with _as_compile_errors(path.parent), replacing(path) as file:
            file.write(content + _seal(key, content))
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CompileError(f"the compiled kernel can't be loaded: {error}") from None


def _compile(cxx: compiler.Compiler, source: str, where: Path, what: str) -> bytes:
    with _as_compile_errors(where), building.folder(where) as work:
        text, built = Path(work, "kernel.cpp"), Path(work, "kernel.so")
        text.write_text(source, encoding="utf-8")
        cxx.build(text, built, what)
        return built.read_bytes()


@contextlib.contextmanager
def _as_compile_errors(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CompileError(f"a compiled kernel can't be written to {where}: {error.strerror}") from None


def _seal(key: str, content: bytes) -> bytes:
    return sha256(key.encode() + content)


def _intact(path: Path, key: str) -> bool:
    content = read(path)
    if content is None:
        return False
    if _seal(key, content[:-DIGEST_BYTES]) == content[-DIGEST_BYTES:]:
        return True
    path.unlink(missing_ok=True)  # a process that has loaded it must keep what it has
    warnings.warn(f"the cached kernel {path.name} is damaged and is compiled again", RuntimeWarning, stacklevel=2)
    return False


def read(path: Path) -> bytes | None:
    """A file of the cache, None where there is none; "" for one too large. Nothing but a regular file is opened."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            return None
        return path.read_bytes() if state.st_size <= LARGEST else b""
    except OSError:
        return None


def home() -> Path:
    """The cache folder, made if need be; a folder for this process alone where it can't be used."""
    wanted: Path | str = "no folder"
    try:
        wanted = folder()
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = wanted.stat()
        if hasattr(os, "geteuid") and (state.st_uid != os.geteuid() or state.st_mode & 0o022):
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
