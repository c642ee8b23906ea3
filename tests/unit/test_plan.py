"""The planner: what is read next, from what is known and what the pages show; no clock, no I/O."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from etl.plan import (
    Checkpoint,
    Extent,
    GoneSearch,
    HeadWatch,
    Listed,
    Order,
    OrderObserver,
    Pass,
    WindowSearch,
    list_by_status,
    resume_offset,
    tie_fits,
    window_is_passed,
)

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
DAY = datetime(2026, 11, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
_names = count()


def item(created: datetime | None, updated: datetime | None = None, *, known: bool = True, fresh: bool = False):
    return Listed(f"run_{next(_names)}", created, updated or created, known=known, fresh=fresh)


def hours(*places: float) -> list[Listed]:
    return [item(NOON - each * HOUR) for each in places]


def head(*, order: Order = Order.CREATED_DESC, by_day: bool = False) -> HeadWatch:
    return HeadWatch(order, watermark=NOON, lookback=HOUR, now=NOON + HOUR, by_day=by_day)


def met(watch: HeadWatch, *items: Listed) -> bool:
    watch.watch(items)
    return watch.met


def test_known_ground_ends_the_head_below_the_ties_of_its_first_item() -> None:
    watch = head()
    assert not met(watch, *hours(0, 0))
    assert not met(watch, *hours(0))
    assert met(watch, *hours(0.1))


def test_after_news_the_head_ends_strictly_below_the_lookback() -> None:
    watch = head()
    assert not met(watch, item(NOON, known=False), *hours(0.5))
    assert not met(watch, *hours(1))
    assert not met(watch, item(NOON - 2 * HOUR, known=False))
    assert not met(watch, item(NOON - 3 * HOUR, fresh=True)), "loaded by a sync that did not come to its end"
    assert met(watch, *hours(4))


def test_a_bare_day_is_no_ground_for_what_may_stand_in_it() -> None:
    assert not met(head(), *hours(2), item(DAY))
    assert met(head(), *hours(2), item(DAY - timedelta(days=1)))


def test_a_change_that_tells_its_day_alone_may_stand_anywhere_in_it() -> None:
    watch = head(order=Order.UPDATED_DESC, by_day=True)
    assert not met(watch, *hours(0, 3, 11))
    assert met(watch, *hours(14))


def test_items_without_a_time_end_nothing() -> None:
    assert not met(head(), item(None), item(None))
    watch = head()
    assert not met(watch, *hours(0), item(None, known=False))


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
def test_the_order_is_what_no_step_speaks_against_and_some_step_shows(items, order) -> None:
    observer = OrderObserver()
    observer.watch(items)
    assert observer.order is order


def test_items_that_come_again_on_the_next_page_are_drift() -> None:
    observer, first = OrderObserver(), hours(0, 1, 2)
    observer.watch(first)
    observer.watch([first[1], first[2], *hours(3)])
    assert observer.order is Order.CREATED_DESC


def test_new_items_show_at_an_end_whose_ties_fit_into_its_page() -> None:
    assert tie_fits(hours(0, 0, 1), Order.CREATED_DESC, 3)
    assert not tie_fits(hours(0, 0, 0), Order.CREATED_DESC, 3)
    assert not tie_fits([item(NOON), item(NOON), item(DAY)], Order.CREATED_DESC, 3)
    assert not tie_fits([item(None), item(None)], Order.CREATED_DESC, 2)


def quiet(**fields) -> Pass:
    reading = Pass(anchored=True, arrived=0)
    reading.observe(1, 4, ["a", "b"], 2)
    reading.observe(2, 4, ["c", "d"], 2)
    for name, value in fields.items():
        setattr(reading, name, value)
    return reading


def test_a_pass_proves_itself_complete_only_where_nothing_could_move_unseen() -> None:
    assert quiet().conclusive
    for spoilt in ({"anchored": False}, {"arrived": 1}, {"arrived": None}, {"base": 5}, {"distinct": 3}):
        assert not quiet(**spoilt).conclusive, spoilt


def test_counts_that_moved_prove_nothing() -> None:
    reading = quiet()
    reading.observe(3, 5, ["e"], 1)
    assert not reading.steady
    assert not reading.conclusive


def test_what_arrived_explains_a_count_that_grew() -> None:
    assert quiet(arrived=2).only_grew(6)
    assert not quiet(arrived=2).only_grew(5), "one has left as well"
    assert not quiet(arrived=2, anchored=False).only_grew(6)


def test_pages_answered_out_of_turn_leave_a_gap() -> None:
    reading = Pass()
    for number, total in ((1, 10), (2, 12), (3, 10)):
        reading.observe(number, total, [], 0)
    assert reading.gaps(Order.CREATED_DESC, 5, 12) == [3]
    assert reading.gaps(Order.CREATED_ASC, 5, 12) == []


@pytest.mark.parametrize(
    ("arrived", "total", "order", "offset"),
    [
        (0, 100, Order.CREATED_DESC, 40),
        (3, 103, Order.CREATED_DESC, 43),
        (0, 95, Order.CREATED_DESC, 35),
        (3, 98, Order.CREATED_DESC, 38),
        (0, 101, Order.CREATED_DESC, 0),
        (0, 95, Order.CREATED_ASC, 0),
        (0, None, Order.CREATED_DESC, 0),
    ],
)
def test_a_load_that_was_cut_off_goes_on_where_all_above_is_surely_here(arrived, total, order, offset) -> None:
    point = Checkpoint(offset=40, count=100, head=("a",), order=order)
    assert resume_offset(point, arrived=arrived, count=total) == offset


def test_what_left_is_found_by_reading_a_few_pages() -> None:
    take, stored = 10, [NOON - n * HOUR for n in range(1000)]
    listed = [moment for n, moment in enumerate(stored) if n not in {137, 700, 701}]
    search, read = GoneSearch(count=len(listed), take=take, warehouse_count=len(stored)), 0
    while (number := search.next_page()) is not None:
        read += 1
        at = search.breaks(number, [item(moment) for moment in listed[(number - 1) * take : number * take]])
        search.observe(number, at, sum(moment > at[1] for moment in stored) if at is not None else 0)
    found = {
        moment
        for each in search.suspects
        for moment in stored
        if (each.upper is None or moment <= each.upper) and (each.lower is None or moment > each.lower)
    }
    assert read < 25
    assert set(stored) - set(listed) <= found
    assert sum(each.surplus for each in search.suspects) == 3


def test_the_first_page_of_a_window_is_found_by_bisection() -> None:
    search, read = WindowSearch(Order.CREATED_DESC, 64, since=None, until=NOON - 200 * HOUR), 0
    while (number := search.next_page()) is not None:
        read += 1
        search.observe(number, hours(*range((number - 1) * 10, number * 10)))
    assert (search.first_page, read) == (21, 6)
    assert window_is_passed(hours(1, 2), Order.CREATED_DESC, since=NOON - HOUR, until=None)
    assert not window_is_passed([item(DAY)], Order.CREATED_DESC, since=NOON, until=None), "it may stand at its evening"


def test_a_short_page_ends_a_listing_only_where_the_count_agrees() -> None:
    extent = Extent(10)
    extent.observe(1, 10, 10, 25)
    extent.observe(2, 10, 10, 25)
    assert extent.wants(3)
    extent.observe(3, 5, 10, 25)
    assert not extent.wants(4)
    capped = Extent(10)
    capped.observe(1, 7, 10, 25)
    assert (capped.take, capped.pages, capped.wants(2)) == (7, 4, True)


def test_many_open_runs_of_a_status_are_listed_and_few_are_asked_for() -> None:
    assert list_by_status({"RUNNING": 2, "PENDING": 40}, 100) == {"PENDING"}
    assert list_by_status({"RUNNING": 3}, 100) == {"RUNNING"}
