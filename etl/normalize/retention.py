"""The due date of a run's payloads, read from its bytes, which may be invalid."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from etl.normalize.dates import read_moment

if TYPE_CHECKING:
    from datetime import datetime

_DUE_AT: Final = re.compile(rb'"retention_due_at"[ \t\n\r]*:[ \t\n\r]*"([^"\\]*)"')


class _Retained(msgspec.Struct):
    retention_due_at: Any = None
    retention: Any = None
    status: Any = None


_RETAINED: Final = msgspec.json.Decoder(_Retained)


def is_due(raw: bytes, now: datetime) -> bool | None:
    """Return whether the payloads of a run are due for removal; None if its bytes do not say.

    Args:
        raw: the received run, which may be invalid JSON.
        now: the current time.
    """
    try:
        run = _RETAINED.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = _DUE_AT.search(raw)
        run = _Retained(None if found is None else found[1].decode(errors="replace"))
    try:
        due_at = read_moment(run.retention_due_at).time
    except (TypeError, ValueError):
        return None
    if due_at is None:
        return None
    spared = isinstance(run.retention, dict) and run.retention.get("preserve_on_failure") is True
    return due_at <= now and not (spared and run.status == "FAILED")
