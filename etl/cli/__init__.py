"""The `cortex-etl` command: parse, call one function, print, exit."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its code."""
    from etl.cli.root import app

    app(prog_name="cortex-etl")
