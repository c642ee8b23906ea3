"""Abridge items for the quarantine, and decide when their payloads are due for removal."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from etl.decode.json_text import UNREADABLE, dump, parse
from etl.errors import RecordError
from etl.normalize.dates import time_of
from etl.normalize.redaction import redactor_of
from etl.tables import RUNS

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from etl.config import PayloadSettings
    from etl.normalize.redaction import Redactor

_FREE_TEXT: Final = "error"
_KEPT: Final = [each for each in RUNS.columns if each.path and each.type != "jsonb" and each.name != _FREE_TEXT]


def abridge_of(payloads: PayloadSettings) -> Callable[[bytes], bytes] | None:
    """Return the function that abridges quarantined items; None if they are kept as received.

    Raises:
        SettingsError: a path of `payloads.redact` is invalid.
    """
    if payloads.store == "full" and not payloads.redact:
        return None
    return partial(abridge, redactor=redactor_of(payloads))


def abridge(raw: bytes, redactor: Redactor | None = None) -> bytes:
    """Return the part of an item to keep if payloads are redacted or not stored: ids, status, times and numbers.

    The item may have any structure, so only known fields are kept, instead of removing those at known paths. The result
    is empty if the item is not an object, or cannot be parsed or redacted.
    """
    try:
        run = parse(raw)
        if not isinstance(run, dict):
            return b""
        if redactor is not None:
            redactor.redact(run)
    except RecordError:
        return b""
    kept: dict[str, Any] = {}
    for column in _KEPT:
        source = run.get(column.parent) if column.parent else run
        value = source.get(column.field) if isinstance(source, dict) else None
        if value is not None and not isinstance(value, dict | list):
            target = kept.setdefault(column.parent, {}) if column.parent else kept
            target[column.field] = value
    return dump(kept)


_DUE_AT: Final = re.compile(rb'"retention_due_at"[ \t\n\r]*:[ \t\n\r]*"([^"\\]*)"')


class _Retention(msgspec.Struct):
    retention_due_at: Any = None
    retention: Any = None
    status: Any = None


_RETENTION: Final = msgspec.json.Decoder(_Retention)


def is_due(raw: bytes, now: datetime) -> bool | None:
    """Return whether the payloads of a run are due for removal; None if the run has no valid due date.

    Args:
        raw: the run as received, which may be invalid JSON.
        now: the current time.
    """
    try:
        run = _RETENTION.decode(raw)
    except UNREADABLE:
        found = _DUE_AT.search(raw)
        run = _Retention(None if found is None else found[1].decode(errors="replace"))
    try:
        due_at = time_of(run.retention_due_at)
    except (TypeError, ValueError, OverflowError):
        return None
    preserve_on_failure = isinstance(run.retention, dict) and run.retention.get("preserve_on_failure") is True
    return due_at <= now and not (preserve_on_failure and run.status == "FAILED")
