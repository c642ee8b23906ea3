"""What is done about an answer, and when the next try comes."""

from datetime import UTC, datetime

import pytest

from etl.api.refusals import api_message, refusal
from etl.api.retry import Action, RetryPolicy, Tries, action_for, retry_after_s
from etl.api.transport import Answer
from etl.errors import FatalError, KeyRefusedError, NotFoundError, TransientError

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "action"),
    [
        (200, Action.USE),
        (204, Action.RETRY),
        (302, Action.FAIL),
        (400, Action.FAIL),
        (401, Action.REFUSED),
        (403, Action.FAIL),
        (404, Action.MISSING),
        (408, Action.RETRY),
        (422, Action.FAIL),
        (429, Action.SLOW_DOWN),
        (500, Action.RETRY),
        (503, Action.RETRY),
        (520, Action.RETRY),
        (999, Action.RETRY),
    ],
)
def test_each_status_has_its_action(status, action):
    assert action_for(status) is action


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
def test_retry_after_is_read_in_seconds_and_as_a_date(value, date, seconds):
    assert retry_after_s(value, date, NOON) == seconds


def test_pauses_grow_are_jittered_and_bounded():
    policy = RetryPolicy(first_pause_s=1, longest_pause_s=10, jitter=0.5)
    assert [policy.pause_s(n, 0) for n in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 8, 10, 10]
    assert [policy.pause_s(n, 1) for n in (1, 2, 5)] == [1.5, 3, 15]


def test_what_the_server_asks_for_is_obeyed_within_bounds():
    policy = RetryPolicy(first_pause_s=0.5, longest_obeyed_s=300)
    assert policy.obeyed_s(7, 1, 0) == 7
    assert policy.obeyed_s(0, 1, 0) == 0.5
    assert policy.obeyed_s(86_400, 1, 0) == 300
    assert policy.obeyed_s(None, 1, 0) < policy.obeyed_s(None, 4, 0)


def test_tries_end_after_the_attempts():
    told = []
    tries = Tries(RetryPolicy(attempts=4), lambda *each: told.append(each))
    decisions = [tries(TransientError("down")) for _ in range(4)]
    assert decisions[3] is False
    assert [pause for _, _, pause in told] == decisions[:3]
    assert [n for n, _, _ in told] == [1, 2, 3]


@pytest.mark.parametrize("error", [FatalError("no"), NotFoundError("no"), KeyRefusedError("no"), ValueError("no")])
def test_what_cannot_pass_is_not_tried_again(error):
    assert Tries(RetryPolicy(), lambda *_: None)(error) is False


def test_a_pause_is_no_shorter_than_the_server_asks():
    assert Tries(RetryPolicy(), lambda *_: None)(TransientError("down", retry_after_s=42)) == 42


def test_rate_limits_use_no_attempts_up_and_patience_ends():
    tries = Tries(RetryPolicy(attempts=2, patience_s=1000), lambda *_: None)
    assert all(tries.rate_limited(1) == 1 for _ in range(50))
    assert tries(TransientError("down"))
    impatient = Tries(RetryPolicy(patience_s=0), lambda *_: None)
    assert impatient.rate_limited(1) == 1
    assert impatient.rate_limited(1) is None


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
def test_the_message_of_an_error_body(body, message):
    assert api_message(body) == message


def test_a_long_message_is_shortened():
    assert len(api_message(b'{"message":"%b"}' % (b"x" * 10_000))) == 500


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"message":"m"}', FatalError),
        (401, b"<html>", KeyRefusedError),
        (404, b'{"message":"m"}', NotFoundError),
        (404, b'{"error":{"code":"not_found"}}', NotFoundError),
        (404, b"{}", NotFoundError),
        (404, b"[]", TransientError),
        (404, b"not found", TransientError),
        (404, b"<html>", TransientError),
        (404, b"", TransientError),
        (500, b"", TransientError),
        (599, b"", TransientError),
    ],
)
def test_refusals_are_errors_of_the_right_family(status, body, kind):
    error = refusal(Answer(status, {}, body, 0.0), action_for(status), "/apps/c", None)
    assert type(error) is kind
    assert str(status) in error.message
    assert "/apps/c" in error.message
