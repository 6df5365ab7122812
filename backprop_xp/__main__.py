"""`python -m backprop_xp` is `backprop-xp`."""

from .cli import main

raise SystemExit(main())
