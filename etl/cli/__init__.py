"""The `cortex-etl` command: parse, call one function, print, exit."""

from __future__ import annotations

import gc
import os
import signal

from etl.cli.stdio import prepare


def main() -> None:
    """Run the command line and exit with its code."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        # Nothing is begun while modules are imported, and an exception in the midst of that may get lost.
        signal.signal(sign, lambda *_: os._exit(130))
    prepare()
    gc.disable()  # imports make much and drop little: this saves a seventh of the start-up time
    gc.set_threshold(50_000)  # rows are tuples without cycles, thousands a batch: looking for cycles there finds none
    from etl.cli.root import app

    app(prog_name="cortex-etl")
