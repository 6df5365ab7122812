"""Who runs the tests."""

from __future__ import annotations

import os

#: Whether it is root, who may do everything; Windows has no such user.
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
