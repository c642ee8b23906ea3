"""`python -m etl` is `cortex-etl`."""

from __future__ import annotations

from etl.cli import main

main()
