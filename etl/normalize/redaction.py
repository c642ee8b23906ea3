"""What must not be stored of a run, by the settings of payloads.

Redaction replaces values before a run is normalized. An item in quarantine is abridged. Payloads whose retention has
ended are due for removal.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from etl.decode.json_text import UNREADABLE, Json, canonical, dump, parse
from etl.errors import RecordError, SettingsError
from etl.normalize.fitting import time_of
from etl.tables import DEFINITIONS, RUN_CHILDREN, RUN_STEP_CALLS, RUN_STEPS, RUNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from etl.config import PayloadSettings

REDACTED: Final = "[redacted]"

Mode: TypeAlias = Literal["replace", "hash"]
_Parts: TypeAlias = tuple[int | str, ...]
_Place: TypeAlias = tuple[_Parts, Any, Json]  # the location of a value in a run, its container, and the value

# Fields that identify rows.
_VERSION: Final = "workflow_version"
_DRAFT: Final = "workflow_version_draft"
_IDENTITY: Final[frozenset[_Parts]] = frozenset(
    {
        ("id",),
        ("workflow_id",),
        (_VERSION, "id"),
        (_DRAFT, "id"),
        (_DRAFT, "app", "id"),
        (_DRAFT, "version", "id"),
    }
)
# Fields that are never replaced, and why.
_NEVER_REPLACED: Final[dict[_Parts, str]] = dict.fromkeys(_IDENTITY, "which identifies rows") | {
    ("record_id",): "by which forget finds the runs of a record",
    ("origin",): "with which api.origin is compared",
    ("status",): "with which api.status is compared",
}
# Fields that the rows of steps and calls require. They are kept if a path selects a whole step or call, or all of them.
_FRAME: Final = {"key"} | {
    column.field
    for column in (*RUN_STEPS.columns, *RUN_STEP_CALLS.columns)
    if column.parent in {"output.*", "output.*.calls[*]"} and column.fit != "payload" and column.name != "error"
}

_DEEPEST: Final = 300  # levels that `..` searches; Python's recursion limit is not much higher

_FREE_TEXT: Final = "error"
_KEPT: Final = [each for each in RUNS.columns if each.path and each.type != "jsonb" and each.name != _FREE_TEXT]


class Redactor:
    """Replaces the values that JSON paths (RFC 9535) select in a run, such as `$.input.email` or `$..password`.

    Null and the fields in `_NEVER_REPLACED` are never replaced. If a path selects a step, a call, or all of them
    (`$.output`), their fields are replaced except for key, type, status and times. If a path selects the value of
    another typed column (`$.usage.total`), the run is quarantined. `redactor_of` refuses the paths of such fields.

    Args:
        paths: the paths, relative to the run's document.
        mode: `replace` replaces a value by "[redacted]", `hash` by a hash of its canonical JSON, so that equal values
            stay recognizable as equal.
        salt: a secret without which the hashes of guessable values cannot be computed.

    Raises:
        SettingsError: a path is invalid.
    """

    def __init__(self, paths: Iterable[str], *, mode: Mode = "replace", salt: bytes = b"") -> None:
        import jsonpath  # noqa: PLC0415 - takes a tenth of the start-up time and is needed only for redaction

        environment = jsonpath.JSONPathEnvironment()
        environment.max_recursion_depth = _DEEPEST
        self._failures = (jsonpath.JSONPathError, RecursionError)
        self._mode = mode
        self._salt = salt
        self._paths = []
        for path in paths:
            try:
                compiled = environment.compile(path)
            except jsonpath.JSONPathError as error:
                message = f"the JSON path {path!r} cannot be read: {str(error).splitlines()[0]}"
                raise SettingsError(message, hint="Write it like $.input.email or $..password.") from None
            if path.strip() in {"", "$"}:
                raise SettingsError("a JSON path selects the whole run", hint="Name what is to be replaced: $.input.")
            self._paths.append(compiled)

    def redact(self, document: Json) -> Json:
        """Replace the selected values in a parsed run in place, and return it; raises like `select`."""
        for parts, container, value in self.select(document):  # the original value, even if two paths select it
            if parts not in _NEVER_REPLACED:
                container[parts[-1]] = self._replacement(value)
        return document

    def select(self, document: Json) -> list[_Place]:
        """Return the values that the paths select in a parsed run, with their containers and locations.

        Raises:
            RecordError: `not_redactable` if the document is nested too deeply to be searched.
        """
        try:
            matches = [match for path in self._paths for match in path.finditer(document)]
        except self._failures:
            raise RecordError("not_redactable", "nested too deeply for the JSON paths of payloads.redact") from None
        places = (_places(match.parent.obj, match.parts, match.obj) for match in matches if match.parent is not None)
        return [place for each in places for place in each if place[2] is not None]

    def redact_workflow(self, document: dict[str, Json]) -> None:
        """Replace the selected values in a listed workflow in place: in its version, and in the workflow as a draft."""
        self.redact({_VERSION: document.get("version"), _DRAFT: document})

    def _replacement(self, value: Json) -> str:
        if self._mode == "replace":
            return REDACTED
        text = canonical(value)
        made = hmac.new(self._salt, text, hashlib.sha256) if self._salt else hashlib.sha256(text)
        return f"sha256:{made.hexdigest()}"


def _places(container: Any, parts: _Parts, value: Json) -> Iterator[_Place]:
    """Yield the values to replace if a path selects `value`, which is in `container` at the location `parts` of a run.

    These are the value itself or, for steps and calls, all fields except for those in `_FRAME`.
    """
    in_frame = len(parts) <= 4 and parts[0] == "output" and parts[2:3] in {(), ("calls",)}
    if not in_frame or not isinstance(value, dict | list):
        yield parts, container, value
        return
    is_single = len(parts) % 2 == 0  # one step or call, not all of them
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if not (is_single and key in _FRAME):
            yield from _places(value, (*parts, key), item)


# Settings


def redactor_of(payloads: PayloadSettings) -> Redactor | None:
    """Return the configured redactor; None if no paths are configured.

    Raises:
        SettingsError: a path is invalid, or selects a field that must be kept.
    """
    for path in payloads.redact:
        required = _replaced_required_field(_redactor([path], payloads))
        if required is not None:
            raise SettingsError(
                f"payloads.redact: {path} would replace {required}",
                hint="Name what people wrote: in input, result, output, logs, error; or set payloads.store: none.",
            )
    return _redactor(payloads.redact, payloads) if payloads.redact else None


def _redactor(paths: Sequence[str], payloads: PayloadSettings) -> Redactor:
    salt = payloads.redact_salt.get_secret_value().encode() if payloads.redact_salt is not None else b""
    return Redactor(paths, mode=payloads.redact_by, salt=salt)


def _replaced_required_field(redactor: Redactor) -> str | None:
    """Return the path of a field that the redactor selects although it must be kept, and why; else None."""
    required = dict(_NEVER_REPLACED)
    fields = list(_NEVER_REPLACED)
    columns = [column for table in (RUNS, *RUN_CHILDREN, *DEFINITIONS) for column in table.columns]
    for column in columns:
        if not column.path or column.step_types:
            continue
        for path in (column.path, column.path.replace(_VERSION, _DRAFT)):
            keys = tuple(path.replace("[*]", ".*").split("."))
            fields.append(keys)
            if column.type not in {"text", "jsonb"}:
                required.setdefault(keys, "without which no run can be stored")
    selected = [parts for parts, _, _ in redactor.select(_sample(fields))]
    replaced = [parts for parts in selected if parts not in _IDENTITY] or selected  # `$..id` selects other ids too
    found = (keys for keys in required if any(keys[: len(each)] == each for each in replaced))
    return next((f"$.{'.'.join(map(str, keys))}, {required[keys]}" for keys in found), None)


def _sample(fields: Iterable[_Parts]) -> Json:
    """Return a run with all fields, and with objects in place of arrays."""
    sample: dict[Any, Any] = {}
    for keys in fields:
        value = sample
        for key in keys:
            value = value.setdefault(key, {})
    return sample


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
