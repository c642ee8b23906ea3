"""Odd run documents: rare shapes found in real data, and raw bytes by kind of damage."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from etl.sandbox.responses import encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

Json = Any


def add_rough_edge(random: Random, run: dict[str, Json]) -> None:
    """Give about one run in twelve a rare but legal shape, in place."""
    luck = random.random()
    for chance, edge in _EDGES:
        if luck < chance:
            edge(random, run)
            return
        luck -= chance


def _array_output(random: Random, run: dict[str, Json]) -> None:
    """Use the older form of `output`, a list, in which keys may repeat."""
    if isinstance(run["output"], dict) and run["output"]:
        items = list(run["output"].values())
        if random.random() < 0.3:
            items.append(dict(items[0]))
        run["output"] = items


def _odd_id(random: Random, run: dict[str, Json]) -> None:
    # The id of a child is also in its parent's output.
    if run["origin"] != "WORKFLOW":
        run["id"] = run["id"][:9] + random.choice(("/a b", "?x=1#é", "%2F+&", "日本 🎌"))


def _unknown_fields(random: Random, run: dict[str, Json]) -> None:
    run["trace_id"] = f"{random.getrandbits(64):016x}"
    if run.get("usage"):
        run["usage"] = run["usage"] | {"currency": "credits"}
    if run.get("retention"):
        run["retention"] = run["retention"] | {"policy": {"name": "default"}}


def _unknown_status(_random: Random, run: dict[str, Json]) -> None:
    run["status"] = "PAUSED"


def _unknown_origin(_random: Random, run: dict[str, Json]) -> None:
    run["origin"] = "EMAIL" if run["origin"] != "WORKFLOW" else "WORKFLOW"


def _no_times(random: Random, run: dict[str, Json]) -> None:
    for key in random.choice((("created_at", "updated_at"), ("updated_at",), ("started_at",), ("ended_at",))):
        run[key] = None


def _day_only(_random: Random, run: dict[str, Json]) -> None:
    run["updated_at"] = run["updated_at"][:10]


def _no_zone(_random: Random, run: dict[str, Json]) -> None:
    for key in ("created_at", "updated_at", "started_at"):
        run[key] = run[key].removesuffix("Z")


def _nul(_random: Random, run: dict[str, Json]) -> None:
    run["input"] = {"text": "Scanned by OCR:\x00\x00 total 1\x002,00", "key\x00": True}


def _lone_surrogate(_random: Random, run: dict[str, Json]) -> None:
    run["result"] = {"preview": "Thank you so much \ud83d"}


def _big_number(random: Random, run: dict[str, Json]) -> None:
    run["result"] = {"order_number": random.getrandbits(90), "exact": 0.1 + 0.2, "small": 1e-7}


def _nested(_random: Random, run: dict[str, Json]) -> None:
    deep: Json = "bottom"
    for level in range(60):
        deep = [deep] if level % 2 else {"down": deep}
    run["result"] = deep


def _nothing_used(_random: Random, run: dict[str, Json]) -> None:
    run["usage"] = None


def _nothing_put_out(_random: Random, run: dict[str, Json]) -> None:
    run["output"] = None


_EDGES: Final[tuple[tuple[float, Callable[[Random, dict[str, Json]], None]], ...]] = (
    (0.02, _array_output),
    (0.004, _odd_id),
    (0.005, _unknown_fields),
    (0.0008, _unknown_status),
    (0.0008, _unknown_origin),
    (0.004, _no_times),
    (0.004, _day_only),
    (0.004, _no_zone),
    (0.003, _nul),
    (0.002, _lone_surrogate),
    (0.003, _big_number),
    (0.001, _nested),
    (0.01, _nothing_used),
    (0.01, _nothing_put_out),
)

_MARK: Final = "\ufdd0mark\ufdd0"


def _with(document: dict[str, Json], **fields: Json) -> bytes:
    return encode(document | fields)


def _spliced(document: dict[str, Json], field: str, raw: bytes) -> bytes:
    """Encode the document with raw bytes as the value of a field."""
    return encode(document | {field: _MARK}).replace(encode(_MARK), raw)


def _without(document: dict[str, Json], field: str) -> bytes:
    return encode({key: value for key, value in document.items() if key != field})


def _bad_page_item(raw: bytes) -> Callable[[dict[str, Json]], bytes]:
    return lambda _document: raw


KINDS: Final[dict[str, Callable[[dict[str, Json]], bytes]]] = {
    # Loadable after cleaning.
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
    # Not a valid run of this workflow.
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
    # Breaks the whole page: the array can no longer be split reliably.
    "cut": lambda run: encode(run)[: len(encode(run)) // 2],
}
"""Functions that turn a valid run document into bytes, by kind of damage."""
