"""Classification of responses as errors, and retries."""

from datetime import UTC, datetime

import pytest

from etl.api.retry import (
    BadRequestError,
    Pause,
    RateLimitedError,
    Retries,
    RetryPolicy,
    api_message,
    refusal,
    retry_after_s,
)
from etl.api.transport import RequestTimeoutError, Response
from etl.errors import TRY_LATER, FatalError, KeyRefusedError, NotFoundError, TransientError

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        (None, None, None),
        ("3", None, 3),
        (" 0 ", None, 0),
        ("1.5", None, 1.5),
        ("-4", None, None),
        ("nan", None, None),
        ("soon", None, None),
        ("Sun, 01 Nov 2026 12:00:30 GMT", None, 30),
        ("Sun, 01 Nov 2026 11:00:00 GMT", None, 0),
        ("Thu, 01 Jan 1970 00:00:07 GMT", "Thu, 01 Jan 1970 00:00:02 GMT", 5),
        ("Thu, 01 Jan 1970 00:00:07", "Thu, 01 Jan 1970 00:00:02 -0000", 5),
        ("Sun, 99 Nov 2026 12:00:30 GMT", None, None),
    ],
)
def test_retry_after_in_seconds_and_as_a_date(value, date, seconds):
    headers = {"Retry-After": value, "Date": date}
    answer = Response(503, {name: text for name, text in headers.items() if text is not None}, b"", 0.0)
    assert retry_after_s(answer, NOON) == seconds


def test_pauses_grow_are_jittered_and_bounded():
    policy = RetryPolicy(first_pause_s=1, longest_pause_s=10, jitter=0.5)
    assert [policy.pause_s(n, 0) for n in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 8, 10, 10]
    assert [policy.pause_s(n, 1) for n in (1, 2, 5)] == [1.5, 3, 15]


def pauses(policy, *failures):
    """Return the pauses after consecutive failures; each is an error, optionally with the server's Retry-After."""
    retries = Retries(policy)
    pairs = (each if isinstance(each, tuple) else (each, None) for each in failures)
    return [retries.after(error, asked_s) for error, asked_s in pairs]


DOWN, LIMITED = TransientError("down"), RateLimitedError("slow down")


@pytest.mark.parametrize("error", [DOWN, LIMITED, FatalError("no")])
def test_retry_after_is_obeyed_within_bounds(error):
    asked = (7, 0, 3600, 86_400)
    assert [pauses(RetryPolicy(), (error, each))[0].everyone_s for each in asked] == [7, 0.5, 3600, 3600]


def test_pauses_grow_after_each_429_without_retry_after():
    first, *_, last = pauses(RetryPolicy(), *[LIMITED] * 4)
    assert 0 < first.everyone_s < last.everyone_s
    assert first.own_s == last.own_s == 0


def test_retries_end_after_the_last_attempt():
    policy = RetryPolicy(attempts=4, first_pause_s=1, jitter=0)
    assert pauses(policy, *[DOWN] * 4) == [Pause(1), Pause(2), Pause(4), Pause(None)]


@pytest.mark.parametrize("error", [FatalError("no"), NotFoundError("no"), KeyRefusedError("no")])
def test_permanent_errors_are_not_retried(error):
    assert pauses(RetryPolicy(), error) == [Pause(None)]


def test_429_uses_no_attempts_and_ends_after_a_limit():
    persistent = pauses(RetryPolicy(attempts=2, rate_limit_timeout_s=1000), *[(LIMITED, 1)] * 50, DOWN)
    assert persistent[:50] == [Pause(0.0, 1)] * 50
    assert persistent[50].own_s
    assert [each.own_s for each in pauses(RetryPolicy(rate_limit_timeout_s=0), LIMITED, LIMITED)] == [0, None]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"status":400,"message":"Bad take"}', "Bad take"),
        (b'{"status":400,"message":"Bad","errors":[{"message":"too big","path":["take"],"code":"x"}]}', "Bad; take: too big"),
        (b'{"message":"two\\nlines"}', "two lines"),
        (b"{}", None),
        (b'{"message":7}', None),
        (b"<html></html>", None),
        (b"", None),
        (b"[]", None),
        (b"\xff\xfe", None),
    ],
)  # fmt: skip
def test_message_of_an_error_body(body, message):
    assert api_message(body) == message


def test_a_long_message_is_shortened():
    assert len(api_message(b'{"message":"%b"}' % (b"x" * 10_000))) == 500


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (204, b"", TransientError),
        (302, b"", FatalError),
        (400, b'{"message":"m"}', BadRequestError),
        (400, b"<html>too large</html>", BadRequestError),  # smaller pages are tried
        (401, b"<html>", KeyRefusedError),
        (403, b"", FatalError),
        (404, b'{"message":"m"}', NotFoundError),
        (404, b'{"error":{"code":"not_found"}}', NotFoundError),
        (404, b"{}", NotFoundError),
        (404, b"[]", TransientError),
        (404, b"not found", TransientError),
        (404, b"<html>", TransientError),
        (404, b"", TransientError),
        (408, b"", RequestTimeoutError),
        (504, b"", RequestTimeoutError),
        (422, b"", BadRequestError),
        (425, b"", TransientError),
        (429, b"", RateLimitedError),
        (500, b"", TransientError),
        (503, b"", TransientError),
        (520, b"", TransientError),
        (599, b"", TransientError),
        (999, b"", TransientError),
    ],
)
def test_status_codes_map_to_error_classes(status, body, kind):
    error = refusal(Response(status, {}, body, 0.0), "/apps/c")
    assert type(error) is kind
    assert error.hint
    assert str(status) in error.message
    assert "/apps/c" in error.message


@pytest.mark.parametrize(
    ("status", "body", "hint"),
    [
        (400, b'{"message": "take must not be greater than 100"}', "Lower api.page_size."),
        (400, b'{"message": "Bad", "errors": [{"path": ["take"], "message": "too large"}]}', "Lower api.page_size."),
        (413, b"<html>too large</html>", "Lower api.page_size."),
        (422, b'{"message": "unknown origin"}', "Check the ids, the filters and api.page_size in the settings."),
        (400, b"<html>no</html>", TRY_LATER),
        (451, b'{"message": "no"}', TRY_LATER),
        (403, b'{"message": "no"}', "Give the key permission to read this app's runs."),
        (
            403,
            b"<html>no</html>",
            "Check api.base_url and the network: something in front of the API refuses the request.",
        ),
    ],
)
def test_hints_of_refusals_name_what_was_refused(status, body, hint):
    assert refusal(Response(status, {}, body, 0.0), "/apps/c").hint == hint
