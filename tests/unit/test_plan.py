"""The planner: what is read next, from what is known and what the pages show; no clock, no I/O."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from etl.plan import (
    EVERYTHING,
    GoneSearch,
    HeadWatch,
    Listed,
    Order,
    OrderObserver,
    Window,
    tie_ends,
)

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
DAY = datetime(2026, 11, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
_names = count()


def item(created: datetime | None, updated: datetime | None = None, *, known: bool = True, recent: bool = False):
    return Listed(f"run_{next(_names)}", created, updated or created, known=known, recent=recent)


def hours(*places: float) -> list[Listed]:
    return [item(NOON - each * HOUR) for each in places]


def head(*, order: Order = Order.CREATED_DESC, by_day: bool = False) -> HeadWatch:
    return HeadWatch(order, watermark=NOON, lookback=HOUR, now=NOON + HOUR, by_day=by_day)


def met(watch: HeadWatch, *items: Listed) -> bool:
    watch.watch(items)
    return watch.is_done


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
    assert not met(watch, item(NOON - 3 * HOUR, recent=True)), "loaded by a sync that did not come to its end"
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


def test_a_page_shows_what_is_new_where_its_newest_moment_ends_on_it() -> None:
    assert tie_ends(hours(0, 0, 1))
    assert not tie_ends(hours(0, 0, 0))
    assert not tie_ends([item(NOON), item(NOON), item(DAY)])
    assert not tie_ends([item(None), item(None)])


def test_what_left_is_found_by_reading_a_few_pages() -> None:
    take, stored = 10, [NOON - n * HOUR for n in range(1000)]
    listed = [moment for n, moment in enumerate(stored) if n not in {137, 700, 701}]
    search, read = GoneSearch(count=len(listed), size=take, warehouse_count=len(stored)), 0
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


def test_a_window_begins_and_ends_where_pages_show_runs_beyond_it() -> None:
    window = Window(since=NOON - 5 * HOUR, until=NOON - 2 * HOUR)
    assert window.begins_behind(hours(0, 1, 2), Order.CREATED_DESC)
    assert not window.begins_behind(hours(1, 2, 3), Order.CREATED_DESC)
    assert window.begins_after(hours(2, 3), Order.CREATED_DESC)
    assert not window.begins_after(hours(3, 4), Order.CREATED_DESC)
    assert window.ends_before(hours(5, 6), Order.CREATED_DESC)
    assert not window.ends_before(hours(4, 5), Order.CREATED_DESC)
    assert window.begins_after(hours(6, 5), Order.CREATED_ASC)
    assert window.ends_before(hours(3, 2), Order.CREATED_ASC)
    assert not window.ends_before(hours(9, 1), Order.UPDATED_DESC), "its order says nothing about creation"
    assert not Window(since=NOON).ends_before([item(DAY)], Order.CREATED_DESC), "a bare day may be its evening"


def test_a_window_holds_its_beginning_and_not_its_end() -> None:
    window = Window(since=NOON, until=NOON + HOUR)
    assert [window.holds(NOON + n * HOUR) for n in (-1, 0, 1)] == [False, True, False]
    assert not window.holds(None)
    assert EVERYTHING.holds(None)
