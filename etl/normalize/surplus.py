"""The fields of a run that no column holds, set aside from its bytes, so that what is left can be read as usual.

The API grows by such fields, and then on every run. Looked through is where that is likely: the run, its usage and
retention, and its steps; elsewhere an unknown field is for the careful path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from etl.normalize.shapes import RetentionShape, RunShape, RunUsageShape, StepShape
from etl.wire import JSONB

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_STEPS: Final = msgspec.json.Decoder(dict[str, dict[str, Raw] | None])
_NOTED: Final = (("usage", RunUsageShape), ("retention", RetentionShape))
_BRACE: Final = ord("{")


@dataclass(frozen=True, slots=True)
class Surplus:
    """What the `extra` columns of a run and of its steps hold; there are few of either."""

    run: bytes | None = None
    steps: Mapping[str, bytes] = field(default_factory=dict)


NONE: Final = Surplus()


def set_aside(raw: bytes) -> tuple[bytes, Surplus]:
    """A run without the fields that no column holds, and those.

    Raises:
        msgspec.ValidationError: it, its usage, its retention or a step is no object.
    """
    run = _FIELDS.decode(raw)
    extra: dict[str, Any] = _unknown(run, RunShape)
    for name, shape in _NOTED:
        if _is_object(run.get(name)):
            fields = _FIELDS.decode(run[name])
            if unknown := _unknown(fields, shape):
                extra[name], run[name] = unknown, Raw(msgspec.json.encode(fields))
    extras: dict[str, bytes] = {}
    if _is_object(run.get("output")):
        steps = _STEPS.decode(run["output"])
        for key, step in steps.items():
            if step is not None and (unknown := _unknown(step, StepShape)):
                extras[key] = _jsonb(unknown)
        if extras:
            run["output"] = Raw(msgspec.json.encode(steps))
    return msgspec.json.encode(run), Surplus(_jsonb(extra) if extra else None, extras)


def _unknown(fields: dict[str, Raw], shape: type[msgspec.Struct]) -> dict[str, Raw]:
    """Take the fields that `shape` does not have out of `fields`."""
    return {name: fields.pop(name) for name in list(fields) if name not in shape.__struct_fields__}


def _is_object(raw: Raw | None) -> bool:
    return raw is not None and memoryview(raw)[0] == _BRACE


def _jsonb(fields: dict[str, Any]) -> bytes:
    return JSONB + msgspec.json.encode(fields)
