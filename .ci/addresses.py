"""A release says where it is from: `addresses.py URL` writes the address into pyproject.toml and README.md.

Neither has it otherwise: it is that of whoever releases.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGES = {"Documentation": "docs/index.md", "Changelog": "CHANGELOG.md"}


def main(url: str) -> None:
    """Add [project.urls], and make links of the README, which PyPI shows, lead to the repository."""
    urls = {"Repository": url, "Issues": f"{url}/issues"} | {n: f"{url}/blob/main/{page}" for n, page in PAGES.items()}
    with Path("pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("\n[project.urls]\n" + "".join(f'{name} = "{address}"\n' for name, address in urls.items()))
    readme = Path("README.md")
    text = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:|#)", rf"\1{url}/raw/main/", readme.read_text(encoding="utf-8"))
    readme.write_text(re.sub(r"(?<=\]\()(?![a-z]+:|#)", f"{url}/blob/main/", text), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
