"""Prints the lowest versions that pyproject.toml allows, as constraints for pip; tools for CUDA are left alone."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in [
    *project["dependencies"],
    *(r for name in ("bench", "data", "exchange", "sklearn", "compiler", "dev") for r in extras[name]),
]:
    if found := re.match(r"([\w.-]+)>=([\d.]+)$", requirement):
        print(f"{found[1]}=={found[2]}")
