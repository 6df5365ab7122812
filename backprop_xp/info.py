"""What this machine offers and what the package makes of it, for `backprop-xp info`."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import warnings

import threadpoolctl

from . import __version__, environment, threads
from .backend import get_backend
from .toolchain import cache, compiler
from .toolchain.compiler import CompileError

PACKAGES = ("numpy", "cupy-cuda13x", "cupy-cuda12x", "torch", "jax", "threadpoolctl", "ziglang")


def text() -> str:
    """Lines of "what: which"."""
    rows = [("backprop_xp", __version__), ("Python", f"{sys.version.split()[0]}, {platform.platform()}")]
    rows += [(name, version) for name in PACKAGES if (version := _version(name))]
    rows += [("backend", _backend())]
    rows += _compiler()
    rows.append(("kernel cache", cache.describe()))
    rows.append(("threads", f"{threads.count()} ({environment.NUM_THREADS.name} changes it)"))
    for library in threadpoolctl.threadpool_info():
        rows.append(
            (library["user_api"], f"{library['internal_api']} {library['version']}, {library['num_threads']} threads")
        )
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _backend() -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backend = get_backend()
    if backend.on_gpu:
        properties = backend.xp.cuda.runtime.getDeviceProperties(backend.device)
        return f"{backend.name} on {properties['name'].decode()}"
    reason = "; ".join(str(warning.message).removeprefix("computing with NumPy: ") for warning in caught)
    if not reason and not (_version("cupy-cuda13x") or _version("cupy-cuda12x")):
        reason = "CuPy is not installed"
    return f"{backend.name}" + (f" ({reason})" if reason else "")


def _compiler() -> list[tuple[str, str]]:
    try:
        found = compiler.find()
    except CompileError as error:
        return [("C++ compiler", f"{error}; the fused engine is not available")]
    features = compiler.cpu_features()
    width = 512 if "avx512f" in features else 256 if "avx" in features else 128
    package = f", of the package {found.package}" if found.package else ""
    return [
        ("C++ compiler", f"{' '.join(found.command)}, {found.version}{package}"),
        ("flags", " ".join(found.flags)),
        ("vector registers", f"{width} bits"),
    ]
