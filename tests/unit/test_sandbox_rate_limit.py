"""The simulated rate limit: never more than so many in any window, and no less."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etl.sandbox.rate_limit import RollingLimit


def test_each_request_leaves_the_window_by_itself():
    limit = RollingLimit(2, 60)
    assert [limit.refuse_for("a", now) for now in (0, 50, 55, 60, 61, 110)] == [0, 0, 5, 0, 49, 0]


def test_addresses_are_counted_apart():
    limit = RollingLimit(1, 60)
    assert [limit.refuse_for(address, 1) for address in ("a", "b", "a")] == [0, 0, 60]


def test_nothing_is_allowed_at_zero():
    assert RollingLimit(0, 60).refuse_for("a", 0) == 60


@given(st.lists(st.integers(0, 30), max_size=80), st.integers(1, 5))
def test_no_window_holds_more_and_who_waits_as_told_gets_through(pauses, requests):
    limit, now, allowed = RollingLimit(requests, 60), 0, []
    for pause in pauses:
        now += pause
        wait_s = limit.refuse_for("a", now)
        if wait_s:
            now += wait_s
            assert limit.refuse_for("a", now) == 0
        allowed.append(now)
    for moment in allowed:
        assert sum(moment - 60 < other <= moment for other in allowed) <= requests
