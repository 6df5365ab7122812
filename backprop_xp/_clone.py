"""Imports from a clone without installing it: its kernels/ and bench/ stand beside this folder.

An installation has them within it, as ``backprop_xp.kernels`` and ``backprop_xp.bench``. Importing this module makes
them importable in a clone too, and says in one sentence which needed package is not installed.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
FOLDERS = {"backprop_xp.kernels": ROOT / "kernels", "backprop_xp.bench": ROOT / "bench"}
#: Packages that every import of backprop_xp needs.
NEEDED = ("numpy", "threadpoolctl")


class _Beside:
    """A finder of modules: of those that no finder before it found."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in FOLDERS:
            return None
        folder = FOLDERS[name]
        return importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


def _require_packages() -> None:
    """Say in one sentence what to install. Raises ModuleNotFoundError."""
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            where = f"pip install -e . in {ROOT}" if (ROOT / "pyproject.toml").exists() else "pip install backprop-xp"
            raise ModuleNotFoundError(f"backprop_xp needs {package}: {where}", name=package)


_require_packages()
if all((folder / "__init__.py").exists() for folder in FOLDERS.values()):
    sys.meta_path.append(_Beside)
