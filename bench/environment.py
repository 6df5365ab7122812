"""What a run ran on: written into its JSON, so that a figure can be traced."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backprop_xp.bench import contenders, limits_gpu
from backprop_xp.bench.settings import Settings

from backprop_xp import __version__, get_backend
from backprop_xp.toolchain import compiler
from backprop_xp.toolchain.compiler import CompileError

PACKAGES = ("numpy", "torch", "jax", "jaxlib", "cupy-cuda12x", "cupy-cuda13x", "scikit-learn")


def describe(settings: Settings, memory: str) -> dict[str, Any]:
    """Date, code, machine, versions and settings; "machine" is the text for people.

    Args:
        memory: a sentence on the memory settings, see `worker.processes`.
    """
    backend = get_backend(settings.backend)
    device = processor()
    about: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "compiler": compiler_version(),
        "system": platform.platform(),
        "processor": device,
        "threads": settings.threads,
        "memory": memory,
    }
    found_versions = versions()
    machine = f"{device}, {settings.threads} threads"
    if contenders.available("torch"):
        import torch

        found_versions["torch TF32"] = "on" if torch.backends.cuda.matmul.allow_tf32 else "off"
    if backend.on_gpu:
        found_versions["cupy"] = backend.xp.__version__
        about["gpu"] = found = limits_gpu.describe(backend)
        device = found["device"]
        tf32 = f"TF32 in CuPy: {found['TF32 in CuPy']}, in PyTorch: {found_versions.get('torch TF32', 'not installed')}"
        machine = f"{device}, {found['multiprocessors']} multiprocessors, {found['memory']}\n"
        machine += f"clocks: {found['clocks']}; {tf32}"
    machine += f"\n{about['date']}, backprop_xp {about['commit']}\n{memory}"
    return about | {"device": device, "machine": machine, "versions": found_versions, "settings": asdict(settings)}


def versions() -> dict[str, str]:
    """Of this package, Python, and the packages here that contenders are made of."""
    found = {"backprop_xp": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def commit(file: Path = Path(__file__)) -> str:
    """What git calls the checkout that this file belongs to, with "-dirty" after changes; without git, the version."""
    folder = ["git", "-C", str(file.parent)]
    try:
        subprocess.run([*folder, "ls-files", "--error-unmatch", file.name], check=True, capture_output=True, timeout=10)
        command = [*folder, "describe", "--always", "--dirty", "--tags"]
        found = subprocess.run(command, check=True, capture_output=True, timeout=10, text=True)
    except (OSError, subprocess.SubprocessError):
        return __version__
    return found.stdout.strip()


def compiler_version() -> str:
    """The first line of what the compiler says of itself, or why there is none."""
    try:
        return compiler.find().version
    except CompileError as error:
        return str(error)


def processor() -> str:
    """What the machine calls its processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
