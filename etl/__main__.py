"""`python -m etl` is `cortex-etl`."""

from __future__ import annotations

from etl.cli import main

if __name__ == "__main__":  # a new process of the engine `processes` imports this module too
    main()
