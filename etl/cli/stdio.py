"""Prepare the standard streams: they are open, can write all characters, and writing to stderr never fails."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys

_ESCAPES = "cortex_etl_escapes"


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


def prepare() -> None:
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
