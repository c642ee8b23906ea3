"""Runs as no client wants to receive them: raw bytes made from a good document, by kind of damage."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from etl.sandbox.answers import encode

if TYPE_CHECKING:
    from collections.abc import Callable

Json = Any
_MARK: Final = "\ufdd0mark\ufdd0"


def _with(document: dict[str, Json], **fields: Json) -> bytes:
    return encode(document | fields)


def _spliced(document: dict[str, Json], field: str, raw: bytes) -> bytes:
    """The document with raw bytes where the JSON of a field belongs."""
    return encode(document | {field: _MARK}).replace(encode(_MARK), raw)


def _without(document: dict[str, Json], field: str) -> bytes:
    return encode({key: value for key, value in document.items() if key != field})


def _bad_page_item(raw: bytes) -> Callable[[dict[str, Json]], bytes]:
    return lambda _document: raw


KINDS: Final[dict[str, Callable[[dict[str, Json]], bytes]]] = {
    # What the warehouse can take, once cleaned.
    "nul": lambda run: _with(run, input={"text": "a\x00b", "k\x00": 1}, error="no\x00thing"),
    "lone_surrogate": lambda run: _spliced(run, "result", b'{"preview": "\\ud83d", "\\udc00": "x"}'),
    "huge_numbers": lambda run: _spliced(run, "result", b'{"id":123456789012345678901234567890,"e":1e400,"d":0.10}'),
    "huge_version": lambda run: _spliced(run, "version", b"99999999999999999999"),
    "huge_retention": lambda run: _spliced(run, "retention", b'{"max_age_in_seconds":1e30}'),
    "deep": lambda run: _spliced(run, "result", b"[" * 200 + b"]" * 200),
    "abyss": lambda run: _spliced(run, "result", b"[" * 50_000 + b"]" * 50_000),
    "megabytes": lambda run: _with(run, result="0123456789abcdef" * 262_144),
    "duplicate_keys": lambda run: encode(run)[:-1] + b',"error":"first","error":"last"}',
    "unknown_enums": lambda run: _with(run, status="HIBERNATING", origin="PIGEON"),
    "unknown_fields": lambda run: _with(run, brand_new={"a": [1, 2.50]}, another=None),
    "white_space": lambda run: json.dumps(run, indent=2, ensure_ascii=True).encode(),
    "day_only": lambda run: _with(run, updated_at="2026-10-12", created_at="2026-10-12"),
    "no_zone": lambda run: _with(run, updated_at="2026-10-12T09:00:00.123456", created_at="2026-10-12T09:00:00"),
    "no_times": lambda run: _with(run, updated_at=None, created_at=None, started_at=None, ended_at=None),
    # What cannot be read as a run of this workflow.
    "nan": lambda run: _spliced(run, "result", b"NaN"),
    "infinity": lambda run: _spliced(run, "result", b'{"ratio": -Infinity}'),
    "bad_utf8": lambda run: _spliced(run, "error", b'"caf\xe9"'),
    "bad_escape": lambda run: _spliced(run, "error", b'"\\x41"'),
    "unquoted": lambda run: _spliced(run, "error", b"undefined"),
    "number": _bad_page_item(b"42"),
    "null": _bad_page_item(b"null"),
    "string": _bad_page_item(b'"run"'),
    "list": _bad_page_item(b"[]"),
    "empty_object": _bad_page_item(b"{}"),
    "missing_id": lambda run: _without(run, "id"),
    "null_id": lambda run: _with(run, id=None),
    "number_id": lambda run: _with(run, id=7),
    "empty_id": lambda run: _with(run, id=""),
    "foreign_workflow": lambda run: _with(run, workflow_id="wf_of_somebody_else"),
    "bad_date": lambda run: _with(run, created_at="yesterday"),
    "status_number": lambda run: _with(run, status=5),
    "output_text": lambda run: _with(run, output="done"),
    "usage_list": lambda run: _with(run, usage=[]),
    # What spoils the page around it: the array can no longer be split for certain.
    "cut": lambda run: encode(run)[: len(encode(run)) // 2],
}
"""How to make each kind of damage from a good run document."""
