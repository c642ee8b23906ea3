"""The `cortex-etl` command: parse, call one function, print, exit."""

from __future__ import annotations

import gc
import os
import signal
import sys

from etl.cli.stdio import prepare


def _replace_unusable_home() -> None:
    """Use the root directory as the home of an account that has none, or cannot read it, as containers do.

    Libraries look for certificates, settings and caches in it, and many fail if they may not.
    """
    home = os.path.expanduser("~")  # noqa: PTH111 -- pathlib would raise an error
    try:
        os.stat(os.path.join(home, ".postgresql", "postgresql.key"))  # noqa: PTH116, PTH118 -- as above
    except PermissionError:
        os.environ["HOME"] = "/"
    except OSError:
        if home == "~":
            os.environ["HOME"] = "/"


def main() -> None:
    """Run the command line and exit with its code."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        # Nothing has started yet, and an exception during imports could get lost.
        signal.signal(sign, lambda *_: os._exit(130))
    prepare()
    _replace_unusable_home()
    gc.disable()  # imports allocate much and free little: this saves a seventh of the start-up time
    gc.set_threshold(50_000)  # batches are thousands of tuples without reference cycles
    from etl.cli.root import run

    sys.exit(run(sys.argv[1:]))
