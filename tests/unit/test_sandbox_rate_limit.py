"""The simulated rate limit: exact over any window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etl.sandbox.server import RollingLimit


def test_requests_leave_the_window_one_by_one():
    limit = RollingLimit(2, 60)
    assert [limit.acquire("a", now) for now in (0, 50, 55, 60, 61, 110)] == [0, 0, 5, 0, 49, 0]


def test_addresses_are_limited_separately():
    limit = RollingLimit(1, 60)
    assert [limit.acquire(address, 1) for address in ("a", "b", "a")] == [0, 0, 60]


def test_limit_of_zero_refuses_everything():
    assert RollingLimit(0, 60).acquire("a", 0) == 60


@given(st.lists(st.integers(0, 30), max_size=80), st.integers(1, 5))
def test_no_window_exceeds_the_limit_and_waiting_succeeds(pauses, requests):
    limit, now, allowed = RollingLimit(requests, 60), 0, []
    for pause in pauses:
        now += pause
        wait_s = limit.acquire("a", now)
        if wait_s:
            now += wait_s
            assert limit.acquire("a", now) == 0
        allowed.append(now)
    for moment in allowed:
        assert sum(moment - 60 < other <= moment for other in allowed) <= requests
