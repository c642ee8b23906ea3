"""The planner, which decides what to read next without a clock and I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import Any

import pytest

from etl.limits import Work, near_limits
from etl.plan.order import Listed, Order, OrderObserver, head_is_read, tie_ends
from etl.plan.search import Break, break_of, next_page, pages_left, stretches
from etl.plan.window import BEHIND, EVERYTHING, IN_FRONT, Allowance, Window, deadline

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
DAY = datetime(2026, 11, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
_names = count()


def item(created: datetime | None, updated: datetime | None = None, *, known: bool = True):
    return Listed(f"run_{next(_names)}", created, updated or created, known=known)


def hours(*places: float) -> list[Listed]:
    return [item(NOON - each * HOUR) for each in places]


def head(*, order: Order = Order.CREATED_DESC, by_day: bool = False, distance: int = 0) -> Callable[..., bool]:
    """Return a function that processes the next items and returns whether the head ends there."""
    items: list[Listed] = []

    def ends_at(*more: Listed) -> bool:
        items.extend(more)
        bounds: dict[str, Any] = {"watermark": NOON, "lookback": HOUR, "now": NOON + HOUR}
        return head_is_read(items, order, **bounds, by_day=by_day, distance=distance)

    return ends_at


def test_known_items_end_the_head_below_the_ties_of_its_first_item() -> None:
    ends_at = head()
    assert not ends_at(*hours(0, 0))
    assert not ends_at(*hours(0))
    assert ends_at(*hours(0.1))


def test_head_with_new_items_ends_strictly_below_the_lookback() -> None:
    ends_at = head()
    assert not ends_at(item(NOON, known=False), *hours(0.5))
    assert not ends_at(*hours(1))
    assert not ends_at(item(NOON - 2 * HOUR, known=False))
    assert not ends_at(item(NOON - 3 * HOUR, known=False)), "it may have been loaded by a sync that was interrupted"
    assert ends_at(*hours(4))


def test_known_day_without_a_time_does_not_end_the_head_within_the_day() -> None:
    assert not head()(*hours(2), item(DAY))
    assert head()(*hours(2), item(DAY - timedelta(days=1)))


def test_change_with_a_day_without_a_time_may_be_anywhere_in_the_day() -> None:
    ends_at = head(order=Order.UPDATED_DESC, by_day=True)
    assert not ends_at(*hours(0, 3, 11))
    assert ends_at(*hours(14))


def test_head_extends_as_far_as_a_run_may_be_out_of_order() -> None:
    ends_at = head(distance=2)
    assert not ends_at(*hours(0, 0.1, 0.2)[:2])
    assert ends_at(*hours(0.2, 0.3))
    ends_at = head(distance=2)
    assert not ends_at(item(NOON, known=False), *hours(0.5, 1, 1.5))
    assert ends_at(*hours(1.6, 1.7))


@pytest.mark.parametrize("times", [(1, 2, 0, 3, 4, 5), (2, 0, 1, 3, 4, 5), (0, 1, 3, 4, 2, 5)])
def test_run_may_be_a_few_places_out_of_order(times) -> None:
    for distance, order in ((2, Order.CREATED_DESC), (1, Order.NONE)):
        observer = OrderObserver(distance)
        for place in range(0, 6, 2):
            observer.watch(hours(*times[place : place + 2]))
        assert observer.order is order


def test_items_without_a_time_end_nothing() -> None:
    assert not head()(item(None), item(None))
    ends_at = head()
    assert not ends_at(*hours(0), item(None, known=False))


@pytest.mark.parametrize(
    ("items", "order"),
    [
        (hours(0, 1, 2), Order.CREATED_DESC),
        (hours(2, 1, 0), Order.CREATED_ASC),
        (hours(0, 0, 0), None),
        (hours(0, 2, 1), Order.NONE),
        (
            [item(NOON - 3 * HOUR, NOON), item(NOON, NOON - HOUR), item(NOON - HOUR, NOON - 2 * HOUR)],
            Order.UPDATED_DESC,
        ),
        ([item(NOON), item(DAY), *hours(1, 2)], Order.CREATED_DESC),
        ([item(NOON), item(None), item(NOON - HOUR)], Order.CREATED_DESC),
    ],
)
def test_order_is_observed_from_consecutive_items(items, order) -> None:
    observer = OrderObserver()
    observer.watch(items)
    assert observer.order is order


def test_items_repeated_on_the_next_page_are_drift() -> None:
    observer, first = OrderObserver(), hours(0, 1, 2)
    observer.watch(first)
    observer.watch([first[1], first[2], *hours(3)])
    assert observer.order is Order.CREATED_DESC


def test_page_shows_new_runs_if_it_contains_all_ties_of_its_newest_run() -> None:
    assert tie_ends(hours(0, 0, 1))
    assert not tie_ends(hours(0, 0, 0))
    assert not tie_ends([item(NOON), item(NOON), item(DAY)])
    assert not tie_ends([item(None), item(None)])


@pytest.mark.parametrize("gone", [{137, 700, 701}, {*range(990, 1000)}, {*range(3, 1000, 61)}], ids=len)
@pytest.mark.parametrize("order", [Order.CREATED_DESC, Order.CREATED_ASC])
def test_gone_runs_are_found_with_the_expected_number_of_pages(order, gone) -> None:
    size, stored = 10, [NOON - n * HOUR for n in range(1000)]
    listed = [moment for n, moment in enumerate(stored) if n not in gone]
    sign = 1 if order is Order.CREATED_DESC else -1
    stored, listed = stored[::sign], listed[::sign]
    breaks = {0: Break(0), -(-len(listed) // size) + 1: Break(len(stored) - len(listed))}
    expected = []
    while (number := next_page(breaks)) is not None:
        expected.append(len(breaks) - 2 + pages_left(breaks))
        items = [item(moment) for moment in listed[(number - 1) * size : number * size]]
        place = break_of(items, order)
        below = items[place].created_at
        breaks[number] = Break(stored.index(below) - (number - 1) * size - place, below)
    found = [
        stored[stored.index(upper) if upper else 0 : stored.index(lower) if lower else None]
        for upper, lower, _ in stretches(breaks)
    ]
    assert all(later <= earlier + 1 for earlier, later in pairwise(expected)), "so that no search stops early"
    assert len(breaks) - 2 <= expected[0] <= max(len(gone) * 7, 90)
    assert set(stored) - set(listed) <= {moment for some in found for moment in some}
    assert sum(surplus for *_, surplus in stretches(breaks)) == len(gone)


@pytest.mark.parametrize("items", [hours(0, 2, 1), hours(0, 0), [item(NOON), item(None)], []])
def test_page_without_usable_times_has_no_break(items) -> None:
    assert break_of(items, Order.CREATED_DESC) is None


def sides_of(window: Window, *, is_proven: bool) -> Callable[[list[Listed], Order], set[int]]:
    return lambda items, order: set(window.sides(items, order, is_proven=is_proven).values())


def test_window_starts_and_ends_at_pages_with_runs_outside_it() -> None:
    window = Window(since=NOON - 5 * HOUR, until=NOON - 2 * HOUR)
    sides = sides_of(window, is_proven=True)
    newest_first, oldest_first = Order.CREATED_DESC, Order.CREATED_ASC
    assert sides(hours(0, 1, 2), newest_first) == {IN_FRONT}
    assert sides(hours(1, 2, 3), newest_first) == {IN_FRONT, 0}
    assert sides(hours(3, 4), newest_first) == {0}
    assert sides(hours(5, 6), newest_first) == {0, BEHIND}
    assert sides(hours(6, 5), oldest_first) == {IN_FRONT, 0}
    assert sides(hours(3, 2), oldest_first) == {0, BEHIND}
    assert sides(hours(9, 1), Order.UPDATED_DESC) == set(), "it is not sorted by creation"
    day = sides_of(Window(since=NOON), is_proven=True)
    assert day([item(DAY), item(None)], newest_first) == {0}, "a day without a time may be its end"


def test_window_includes_its_start_but_not_its_end() -> None:
    window = Window(since=NOON, until=NOON + HOUR)
    assert [window.holds(NOON + n * HOUR) for n in (-1, 0, 1)] == [False, True, False]
    assert not window.holds(None)
    assert EVERYTHING.holds(None)


def test_window_in_a_listing_by_change_ends_at_runs_unchanged_since_its_start() -> None:
    sides = sides_of(Window(since=NOON - 5 * HOUR, until=NOON - 2 * HOUR), is_proven=False)
    replayed, ended = item(NOON - 6 * HOUR, NOON - HOUR), item(NOON - 6 * HOUR, NOON - 6 * HOUR)
    assert sides([*hours(3, 4), replayed], Order.CREATED_DESC) == set()
    assert sides([replayed, ended], Order.CREATED_DESC) == {BEHIND}
    assert sides(hours(6, 1), Order.CREATED_ASC) == set()


def test_order_is_by_creation_if_a_change_contradicts_order_by_change() -> None:
    for sign in (1, -1):
        observer = OrderObserver()
        observer.watch([item(NOON - sign * n * HOUR, NOON - sign * n * HOUR) for n in range(10)])
        assert (observer.has_enough, observer.is_by_creation) == (True, False)
        observer.watch([item(NOON - sign * 10 * HOUR, NOON - sign * 2 * HOUR)])
        assert observer.is_by_creation
    observer = OrderObserver()
    observer.watch([*hours(*range(9)), item(None)])
    assert not observer.has_enough


SMALL = Work(1000, 8000, 12, 12, timedelta(hours=24), 500)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({}, []),
        ({"requests": 720_000, "reconcile_every": timedelta(0)}, []),
        ({"requests": 720_001}, ["one address needs 24.0 hours for 720,001 requests"]),
        ({"reconcile_requests": 600_000}, ["one address reads everything in 20.0 hours, and sync.reconcile_every"]),
        ({"processes": 11}, ["11 processes open up to 84 connections, and PostgreSQL accepts 100"]),
        (
            {"processes": 10, "apps": 150},
            ["10 processes hold up to 6,040 locks of streams, and PostgreSQL has room for 6,400"],
        ),
        ({"runs": 50_000_000}, ["50,000,000 runs (380 GB) may be too many for one PostgreSQL"]),
    ],
)
def test_limits_are_named_where_they_are_near(changed, named) -> None:
    found = near_limits(replace(SMALL, **changed), connections=100, locks=6400)
    assert [limit[: len(start)] for limit, start in zip(found, named, strict=True)] == named
    assert near_limits(SMALL, connections=None, locks=None) == []


@pytest.mark.parametrize(
    ("share", "pages", "syncs_left", "taken"),
    [
        (300, 200, 100, 200),  # fits
        (300, 1000, 100, 300),  # a slice
        (300, 1000, 2, 500),  # the share would not do
        (300, 1000, 1, 1000),
        (300, 1000, 0.5, 1000),
        (300, 1000, -3, 1000),  # late
        (0, 1000, 100, 10),
    ],
)
def test_a_reconcile_takes_what_the_share_allows_or_what_it_needs_to_end_in_time(share, pages, syncs_left, taken):
    allowance = Allowance(share)
    assert allowance.take(pages, interval=HOUR, remaining=syncs_left * HOUR) == taken
    others = [allowance.take(60, interval=timedelta(0), remaining=HOUR) for _ in range(2)]
    assert others == ([60, 40] if taken == 200 else [0, 0])


def test_a_reconcile_has_to_end_after_its_time_however_late_it_begins() -> None:
    every = 24 * HOUR
    assert deadline(every, DAY - 25 * HOUR, None, DAY) == DAY + 23 * HOUR
    assert deadline(every, DAY - 25 * HOUR, DAY - HOUR, DAY) == DAY + 23 * HOUR
    assert deadline(every, None, None, DAY) == DAY + every
    assert deadline(every, None, DAY + 9 * every, DAY) == DAY + every, "written by a clock that was ahead"
