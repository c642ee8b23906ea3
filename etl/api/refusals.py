"""Answers that are no success, as errors with the API's own words and what to do."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from etl.api.retry import Action
from etl.errors import EtlError, FatalError, KeyRefusedError, NotFoundError, TransientError

if TYPE_CHECKING:
    from etl.api.transport import Answer

_LONGEST_MESSAGE = 500


class _Issue(msgspec.Struct):
    message: str = ""
    path: list[str | int] = []


class _ErrorBody(msgspec.Struct):
    message: str
    errors: list[_Issue] | None = None


def refusal(answer: Answer, action: Action, path: str, retry_after_s: float | None) -> EtlError:
    """Make the error for an answer.

    Args:
        answer: the answer; its status asked for `action`.
        action: anything but `USE`.
        path: what was asked for.
        retry_after_s: what the server asked for, if it did.
    """
    said = api_message(answer.body)
    message = f"the API answered {_status(answer.status)} for {path}: {said or _what_came(answer)}"
    if action is Action.MISSING and not _is_document(answer.body):
        # Only the API itself knows what exists; a proxy's page would have runs marked as gone.
        return TransientError(message, hint="check api.base_url")
    if action is Action.MISSING:
        return NotFoundError(message, hint="check the ids under apps in the settings, and that the key is of that app")
    if action is Action.REFUSED:
        return KeyRefusedError(message, hint="set a valid key: api.key, or CORTEX_API_KEY in the environment")
    if action is Action.FAIL:
        return FatalError(message, hint=_hint(answer.status))
    return TransientError(message, retry_after_s=retry_after_s)


def api_message(body: bytes) -> str | None:
    """Read the message of an error body, with what it says of single parameters; None where it is not the API's."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    parts = [error.message]
    parts += [f"{'.'.join(map(str, issue.path))}: {issue.message}".removeprefix(": ") for issue in error.errors or ()]
    text = " ".join("; ".join(parts).split())
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"


def _is_document(body: bytes) -> bool:
    """Whether a body is a JSON object, whatever it says: proxies answer HTML, text or nothing."""
    try:
        msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _what_came(answer: Answer) -> str:
    body = answer.body.lstrip()
    if not body:
        return "an empty body"
    if body.startswith(b"<"):
        return "an HTML page, so not by the API itself"
    return "no message in its error document" if _is_document(body) else "no error document of the API"


def _hint(status: int) -> str:
    if 300 <= status < 400:
        return "check api.base_url: the address moved"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "lower api.requests_per_minute: something else at this IP address uses the allowance"
    if status == HTTPStatus.FORBIDDEN:
        return "give the key the right to read this app's runs"
    return "check the ids and the filters in the settings"
