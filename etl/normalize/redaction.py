"""Redaction: replace values that must not be stored, before a run is normalized."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from etl.decode.json_text import Json, canonical
from etl.errors import RecordError, SettingsError
from etl.tables import DEFINITIONS, RUN_CHILDREN, RUN_STEP_CALLS, RUN_STEPS, RUNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from etl.config import PayloadSettings

REDACTED: Final = "[redacted]"

Mode: TypeAlias = Literal["replace", "hash"]
_Parts: TypeAlias = tuple[int | str, ...]
_Place: TypeAlias = tuple[_Parts, Any, Json]  # the location of a value in a run, its container, and the value

# Fields that identify rows and are never replaced.
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
# Fields that the rows of steps and calls require. They are kept if a path selects a whole step or call, or all of them.
_FRAME: Final = {"key"} | {
    column.field
    for column in (*RUN_STEPS.columns, *RUN_STEP_CALLS.columns)
    if column.parent in {"output.*", "output.*.calls[*]"} and column.fit != "payload" and column.name != "error"
}

_DEEPEST: Final = 300  # levels that `..` searches; Python's recursion limit is not much higher


class Redactor:
    """Replaces the values that JSON paths (RFC 9535) select in a run, such as `$.input.email` or `$..password`.

    Null and the ids that identify rows are never replaced. If a path selects a step, a call, or all of them
    (`$.output`), their fields are replaced except for key, type, status and times. If a path selects the value of
    another typed column (`$.usage.total`), the run is quarantined; `redactor_of` refuses such paths.

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
            container[parts[-1]] = self._replacement(value)
        return document

    def select(self, document: Json) -> list[_Place]:
        """Return the values to replace in a parsed run, with their containers and locations.

        Raises:
            RecordError: `not_redactable` if the document is nested too deeply to be searched.
        """
        try:
            matches = [match for path in self._paths for match in path.finditer(document)]
        except self._failures:
            raise RecordError("not_redactable", "nested too deeply for the JSON paths of payloads.redact") from None
        places = (_places(match.parent.obj, match.parts, match.obj) for match in matches if match.parent is not None)
        return [place for each in places for place in each if place[0] not in _IDENTITY and place[2] is not None]

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
        SettingsError: a path is invalid, or selects a field that a run needs in order to be stored.
    """
    for path in payloads.redact:
        required = _replaced_required_field(_redactor([path], payloads))
        if required is not None:
            raise SettingsError(
                f"payloads.redact: with {path} no run could be stored: it replaces $.{required}",
                hint="Name what people wrote: in input, result, output, logs, error; or set payloads.store: none.",
            )
    return _redactor(payloads.redact, payloads) if payloads.redact else None


def _redactor(paths: Sequence[str], payloads: PayloadSettings) -> Redactor:
    salt = payloads.redact_salt.get_secret_value().encode() if payloads.redact_salt is not None else b""
    return Redactor(paths, mode=payloads.redact_by, salt=salt)


def _replaced_required_field(redactor: Redactor) -> str | None:
    """Return the path of a column that cannot hold arbitrary text and whose field the redactor replaces; else None."""
    sample: dict[str, Any] = {}  # a run with every field, and with objects in place of arrays
    required: dict[tuple[str, ...], str] = {}
    columns = [column for table in (RUNS, *RUN_CHILDREN, *DEFINITIONS) for column in table.columns]
    for column in columns:
        if not column.path or column.step_types:
            continue
        for path in (column.path, column.path.replace(_VERSION, _DRAFT)):
            keys = tuple(path.replace("[*]", ".*").split("."))
            field = sample
            for key in keys:
                field = field.setdefault(key, {})
            if column.type not in {"text", "jsonb"} or path == "status":
                required[keys] = path
    replaced = [parts for parts, _, _ in redactor.select(sample)]
    return next((path for keys, path in required.items() if any(keys[: len(each)] == each for each in replaced)), None)
