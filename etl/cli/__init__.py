"""The `cortex-etl` command: parse, call one function, print, exit."""

from __future__ import annotations

import codecs
import gc
import io
import json
import os
import signal
import sys

_ESCAPES = "cortex_etl_escapes"


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
    _prepare_streams()
    _replace_unusable_home()
    gc.disable()  # imports allocate much and free little: this saves a seventh of the start-up time
    gc.set_threshold(50_000)  # batches are thousands of tuples without reference cycles
    from etl.cli.root import run

    sys.exit(run(sys.argv[1:]))


class _Forgiving(io.FileIO):
    """Ignores write errors, so that a full disk or a closed pipe under the log does not end a sync."""

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]  # narrower is enough
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(data) if written is None else written


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Encode characters that an encoding lacks as JSON escapes."""
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 - registered only for encoding
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def _prepare_streams() -> None:
    """Open closed standard streams on the null device; let stdout escape and stderr drop what they cannot write.

    The number of a closed stream would be reused by the next file or socket that is opened.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 -- open for as long as the command
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 -- as above
    codecs.register_error(_ESCAPES, _escaped)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_ESCAPES)
    encoding = sys.stderr.encoding if sys.stderr else "utf-8"
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Forgiving(2, "w", closefd=False)), encoding, errors="backslashreplace", line_buffering=True
    )
