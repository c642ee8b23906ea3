"""The redactors configured by the settings, tested on a sample run to reject unusable paths."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from etl.errors import RecordError, SettingsError
from etl.normalize.normalizer import Normalizer
from etl.normalize.redaction import Redactor
from etl.tables import ENTITIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl.config import PayloadSettings

_PAYLOADS: Final = tuple(
    f"$.{column.path}" for table in ENTITIES for column in table.columns if column.fit == "payload"
)

_BODY: Final[dict[str, Any]] = {"steps": [{"key": "s", "type": "code", "code": ""}]}
_STEP: Final[dict[str, Any]] = {"key": "s", "type": "code", "status": "FAILED", "start": 1, "end": 2, "output": {}}
_USAGE: Final[dict[str, Any]] = {"total": 1, "calls": [{"id": "", "total": 1}]}
_SAMPLE: Final = json.dumps(
    {
        "id": "run",
        "workflow_id": "workflow",
        "version": 1,
        "status": "FAILED",
        "error": "",
        "input": {"a": ""},
        "result": {"a": ""},
        "output": {"s": _STEP | {"calls": [_STEP | {"index": 0}], "logs": [""], "error": ""}},
        "usage": _USAGE | {"steps": {"s": _USAGE}},
        "retention": {"max_age_in_seconds": 1, "preserve_on_failure": True},
        "workflow_version": _BODY | {"id": "version", "version": 1, "created_at": "2026-01-01T00:00:00Z"},
        "workflow_version_draft": _BODY,
    }
    | dict.fromkeys(("created_at", "updated_at", "started_at", "ended_at", "retention_due_at"), "2026-01-01T00:00:00Z")
).encode()
"""A run with all fields that have columns."""


def redactor_of(payloads: PayloadSettings) -> Redactor | None:
    """Return the configured redactor; None if nothing is to be replaced.

    Raises:
        SettingsError: a path is invalid, or matches a field without which no run can be stored.
    """
    for path in payloads.redact:
        redactor = _redactor([path], payloads)
        try:
            status = Normalizer("app", "workflow", redact=redactor).normalize(_SAMPLE, b"").status
            wrong = "" if status == "FAILED" else "status: an open run could not be told from one that has ended"
        except RecordError as error:
            wrong = error.message
        if wrong:
            raise SettingsError(
                f"payloads.redact: with {path} no run could be stored: {wrong}",
                hint="Name what people wrote: in input, result, output, logs, error; or set payloads.store: none.",
            )
    return _redactor(payloads.redact, payloads)


def quarantine_redactor_of(payloads: PayloadSettings) -> Redactor | None:
    """Return the redactor for the bytes of quarantined items; None if they are stored unchanged.

    Raises:
        SettingsError: a path is invalid.
    """
    return _redactor([*payloads.redact, *(_PAYLOADS if payloads.store == "none" else ())], payloads)


def _redactor(paths: Sequence[str], payloads: PayloadSettings) -> Redactor | None:
    if not paths:
        return None
    salt = payloads.redact_salt.get_secret_value().encode() if payloads.redact_salt is not None else b""
    return Redactor(paths, mode=payloads.redact_by, salt=salt)
