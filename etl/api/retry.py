"""Convert error responses to exceptions, and decide when to retry a request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import inf
from random import random
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from etl.api.transport import RequestTimeoutError
from etl.decode.json_text import UNREADABLE
from etl.errors import (
    TRY_LATER,
    EtlError,
    FatalError,
    KeyRefusedError,
    NotFoundError,
    PageTooLargeError,
    TransientError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from etl.api.transport import Response

_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]+)?")
_LONGEST_MESSAGE = 500  # characters of a message from the API
_TOOK_TOO_LONG = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GATEWAY_TIMEOUT})


class BadRequestError(FatalError):
    """The API answered 400 or 422."""


class RateLimitedError(FatalError):
    """The API answered 429."""


_REFUSALS: Mapping[int, tuple[type[FatalError], str]] = MappingProxyType(
    {
        HTTPStatus.UNAUTHORIZED: (
            KeyRefusedError,
            "Set a valid key: api.key, or CORTEX_API_KEY in the environment.",
        ),
        HTTPStatus.FORBIDDEN: (FatalError, "Give the key permission to read this app's runs."),
        HTTPStatus.NOT_FOUND: (
            NotFoundError,
            "Check the ids under apps in the settings, and that the key belongs to that app.",
        ),
        HTTPStatus.TOO_MANY_REQUESTS: (
            RateLimitedError,
            "Lower api.requests_per_minute: something else at this IP address uses the rate limit.",
        ),
    }
)
"""The error and the hint for statuses that a retry does not change (for 429: after `rate_limit_timeout_s`)."""

_MOVED = (FatalError, "Check api.base_url: the address has moved.")
_BAD_REQUEST = (BadRequestError, "Check the ids, the filters and api.page_size in the settings.")
_TOO_LARGE = (PageTooLargeError, "Lower api.page_size.")
_NOT_THE_API = (FatalError, "Check api.base_url and the network: something in front of the API refuses the request.")
_CLIENT_ERRORS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
_ABOUT_THE_SIZE = re.compile(r"\b(take|page.?size|limit)\b", re.IGNORECASE)  # in a message from the API


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long to retry a request.

    Attributes:
        attempts: maximum number of attempts; those answered with 429 do not count.
        first_pause_s: pause after the first failure, in seconds. Each further pause is twice as long.
        longest_pause_s: maximum of these pauses, in seconds.
        jitter: maximum share of a pause that is added at random.
        rate_limit_timeout_s: time since the first 429 after which the request fails, in seconds.
        longest_obeyed_s: maximum pause for a `Retry-After` header, in seconds. A limit is necessary because a nonsense
            header, such as a date years ahead, would stop all syncs of a warehouse.
        longest_wait_s: the request fails at once if the header asks for a longer pause, in seconds.
    """

    attempts: int = 6
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    jitter: float = 0.5
    rate_limit_timeout_s: float = 600.0
    longest_obeyed_s: float = 3600.0
    longest_wait_s: float = inf

    def pause_s(self, failures: int, chance: float) -> float:
        """Return the pause after `failures` failures (at least 1); `chance` is a random number from 0 to 1."""
        doublings = min(failures - 1, 32)  # prevents an overflow; the pause is limited anyway
        return min(self.longest_pause_s, self.first_pause_s * 2.0**doublings) * (1 + self.jitter * chance)


@dataclass(frozen=True, slots=True)
class Pause:
    """The pauses after a failure, in seconds.

    `own_s` is the pause before the next attempt of this request; None to give up. `everyone_s` is the pause for all
    requests.
    """

    own_s: float | None
    everyone_s: float = 0.0


class Retries:
    """Counts the failures of one request, and decides whether and when to retry it.

    `failures` is the number of failed attempts so far.
    """

    __slots__ = ("_failures", "_limited_since", "_limits", "_policy")

    def __init__(self, policy: RetryPolicy, failures: int = 0) -> None:
        self._policy = policy
        self._failures = failures
        self._limits = 0
        self._limited_since = 0.0

    @property
    def count(self) -> int:
        """The number of failed attempts."""
        return self._failures + self._limits

    def after(self, error: EtlError, asked_s: float | None) -> Pause:
        """Return the pause after an attempt that ended with `error`.

        Args:
            error: the error.
            asked_s: the `Retry-After` header of the response in seconds; None if there is none.
        """
        policy, asked = self._policy, 0.0
        if asked_s is not None:
            asked = min(max(asked_s, policy.first_pause_s), policy.longest_obeyed_s)
        if asked > policy.longest_wait_s:
            return Pause(None, asked)
        if isinstance(error, RateLimitedError):
            now = monotonic()
            if self._limits == 0:
                self._limited_since = now
            elif now - self._limited_since >= policy.rate_limit_timeout_s:
                return Pause(None, asked)
            self._limits += 1
            return Pause(0.0, asked or policy.pause_s(self._limits + 1, _chance()))
        if not isinstance(error, TransientError):
            return Pause(None, asked)
        self._failures += 1
        if self._failures >= policy.attempts:
            return Pause(None, asked)
        return Pause(policy.pause_s(self._failures, _chance()), asked)


def _chance() -> float:
    return random()  # noqa: S311 - jitter, not a secret


def retry_after_s(answer: Response, now: datetime) -> float | None:
    """Return the `Retry-After` header of a response in seconds.

    Args:
        answer: the response. If `Retry-After` is a date, it is compared with the `Date` header.
        now: the current time, used if there is no `Date` header.

    Returns:
        Seconds from now, at least 0; None if the header is missing or malformed.
    """
    value = answer.headers.get("Retry-After")
    if value is None:
        return None
    if _SECONDS.fullmatch(value.strip()):
        return float(value)
    until = http_date(value)
    if until is None:
        return None
    return max(0.0, (until - (http_date(answer.headers.get("Date")) or now)).total_seconds())


def http_date(value: str | None) -> datetime | None:
    """Parse an HTTP date; return None if it is missing or malformed."""
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError, TypeError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def refusal(answer: Response, path: str) -> EtlError:
    """Return the error for a response with a status other than 200; it quotes the message of the API.

    Other 2xx statuses are errors that may be retried, because the API answers 200. Redirects are not followed, so that
    the key is not sent to another host.
    """
    status = answer.status
    message = f"the API answered {_status(status)} for {path}: {api_message(answer.body) or _describe(answer.body)}"
    if status == HTTPStatus.NOT_FOUND and not _is_document(answer.body):
        # The response is not from the API, and a proxy's 404 must not mark runs as gone.
        return TransientError(message, hint="Check api.base_url; if other requests succeed, ask whoever runs the API.")
    if status in _TOOK_TOO_LONG:
        return RequestTimeoutError(message)
    if status == HTTPStatus.TOO_EARLY or not 300 <= status < 500:
        return TransientError(message)
    kind, hint = _kind_and_hint(status, answer.body)
    return kind(message, hint=hint)


def _kind_and_hint(status: int, body: bytes) -> tuple[type[FatalError], str]:
    """Return the exception type and the hint for a status that a retry does not change."""
    words = api_message(body) or ""
    if status < HTTPStatus.BAD_REQUEST:
        return _MOVED
    if status == HTTPStatus.FORBIDDEN and not _is_document(body):
        return _NOT_THE_API
    if status in _REFUSALS:
        return _REFUSALS[status]
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or (status in _CLIENT_ERRORS and _ABOUT_THE_SIZE.search(words)):
        return _TOO_LARGE
    if status in _CLIENT_ERRORS:
        return _BAD_REQUEST if words else (BadRequestError, TRY_LATER)
    return FatalError, TRY_LATER


class _Issue(msgspec.Struct):
    message: str = ""
    path: list[str | int] = []


class _ErrorBody(msgspec.Struct):
    message: str
    errors: list[_Issue] | None = None


def api_message(body: bytes) -> str | None:
    """Return the messages in an error document of the API; None if the body is not one."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody)
    except UNREADABLE:
        return None
    parts = [error.message]
    parts += [f"{'.'.join(map(str, issue.path))}: {issue.message}".removeprefix(": ") for issue in error.errors or ()]
    text = " ".join("; ".join(parts).split())
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"


def _is_document(body: bytes) -> bool:
    """Return whether a body is a JSON object; proxies answer with HTML, text or an empty body."""
    try:
        msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        return False
    return True


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _describe(body: bytes) -> str:
    body = body.lstrip()
    if not body:
        return "an empty body"
    if body.startswith(b"<"):
        return "an HTML page, so not from the API itself"
    return "an error document without a message" if _is_document(body) else "not an error document of the API"
