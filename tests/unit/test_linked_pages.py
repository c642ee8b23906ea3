"""Reading a listing by pages that overlap."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.app.split_streams import SlicesLeft, encode
from etl.plan.order import Order
from etl.plan.paging import LINK, Answer, Paging, Span, link, next_span
from etl.plan.passes import Checkpoint, Pass, closing_pass
from etl.plan.verdict import verdict
from etl.plan.window import Window

PAGES_OF_100 = -(-50_000 // 100)


def read(reading: Pass, listing: Callable[[Span], Sequence[str]], *, counted: bool = True) -> list[str]:
    """Answer the requests of a pass in order; return the items in the order in which the pass yields them."""
    found: list[str] = []
    for number in range(1000):
        span = reading.next_request()
        if span is None:
            return found
        items = listing(span)
        total = len(listing(Span(1, 10**6))) if counted else None
        for page in reading.receive(span, Answer(items, tuple(items), total, span.size)):
            found += page
        assert number < 999
    return found


def served(runs: Sequence[str]) -> Callable[[Span], Sequence[str]]:
    return lambda span: runs[span.start : span.end]


def runs(count: int) -> list[str]:
    return [f"run_{number}" for number in range(count)]


@given(st.integers(0, 10**7), st.integers(1, 1000))
def test_next_page_overlaps_the_previous_one(position: int, size: int) -> None:
    span = next_span(position, size)
    assert span.end > position
    assert span.start <= max(position - min(LINK, position), 0)
    assert span.size <= max(size, 13)


def test_reading_everything_takes_at_most_16_percent_more_pages_than_necessary() -> None:
    position, pages = 0, 0
    while position < 50_000:
        position, pages = next_span(position, 100).end, pages + 1
    assert pages <= 1.16 * PAGES_OF_100


def test_pages_larger_than_the_cap_are_not_requested() -> None:
    assert all(next_span(position, 7, capped=True).size <= 7 for position in range(1000))


@pytest.mark.parametrize(
    ("above", "below", "shared"),
    [
        ("abcd", "cdef", 2),
        ("abcd", "bcdef", 3),
        ("abcd", "efgh", 0),
        ("abcd", "dcef", 0),
        ("abcd", "abef", 0),
        ("abcde", "cexf", 2),
        ("abcd", "xcdef", 2),
        ("zabcy", "bzcy", 3),
        ("", "ab", 0),
    ],
)
def test_two_pages_link_if_one_starts_with_the_end_of_the_other(above, below, shared) -> None:
    assert link(above, below) == shared


@pytest.mark.parametrize("count", [0, 1, 6, 7, 30, 200])
@pytest.mark.parametrize("counted", [True, False])
def test_a_quiet_listing_is_read_in_one_pass(count: int, counted: bool) -> None:
    reading = Pass(Paging(6), ahead=4)
    assert set(read(reading, served(runs(count)), counted=counted)) == set(runs(count))
    assert reading.ended
    assert reading.linked


def test_a_removal_between_two_pages_is_bridged() -> None:
    listing, asked = runs(60), []

    def moving(span: Span) -> Sequence[str]:
        if span.size < 1000:
            asked.append(span)
            if len(asked) == 4:
                del listing[:5]
        return listing[span.start : span.end]

    reading = Pass(Paging(10))
    assert set(runs(60)) - set(read(reading, moving)) == set()
    assert reading.linked


def test_a_shuffled_listing_is_not_linked() -> None:
    listing = runs(60)

    def shuffled(span: Span) -> Sequence[str]:
        turned = listing[span.size * 7 % 60 :] + listing[: span.size * 7 % 60]
        return turned[::-1][span.start : span.end] if span.number % 2 else turned[span.start : span.end]

    reading = Pass(Paging(10))
    read(reading, shuffled)
    assert not reading.linked


@pytest.mark.parametrize("moved", [-7, 0, 5, 40])
def test_pass_resumes_at_a_checkpoint(moved: int) -> None:
    before = runs(100)
    now = before[-moved:] if moved < 0 else [f"new_{number}" for number in range(moved)] + before
    reading = Pass(Paging(10), Checkpoint(50, first=tuple(before[:10]), last=tuple(before[40:50]), count=100))
    assert set(before[50:]) <= set(read(reading, served(now)))
    assert reading.linked
    assert reading.ended


def test_pass_whose_checkpoint_is_not_found_reads_nothing() -> None:
    reading = Pass(Paging(10), Checkpoint(50, last=("lost_1", "lost_2"), count=100))
    assert read(reading, served(runs(100))) == []
    assert (reading.pages, reading.linked) == (0, False)


def test_pass_ends_at_the_part_that_was_read_before() -> None:
    reading, listing = Pass(Paging(10), Checkpoint(0, tail=(80, tuple(runs(100)[80:90])))), runs(100)
    found = read(reading, served(listing))
    assert set(listing[:82]) <= set(found)
    assert reading.joined
    assert listing[-1] not in found


def test_head_is_read_again_until_it_links_with_the_first_page() -> None:
    main = Pass(Paging(10))
    read(main, served(runs(40)))
    look = closing_pass(main, Order.CREATED_DESC)
    assert look is not None
    new = [f"new_{number}" for number in range(25)]
    assert set(new) <= set(read(look, served(new + runs(40))))
    assert look.linked
    assert look.joined
    end = closing_pass(main, Order.CREATED_ASC)
    assert end is not None
    assert set(new) <= set(read(end, served(runs(40) + new)))
    assert end.linked
    assert closing_pass(main, Order.NONE) is None


def test_cap_is_learned_and_rounded_sizes_are_read_by_whole_pages() -> None:
    paging = Paging(100)
    assert paging.observe(Span(1, 100), Answer((), ("a",) * 50, 300, 50)) == Span(1, 50)
    span = paging.next(50)
    assert span.size <= 50
    assert paging.observe(span, Answer((), ("a",) * 50, 300, 50)) == Span(span.number, 50)
    assert paging.aligned
    assert paging.next(100) == Span(3, 50)
    paging = Paging(100, known=100)  # the next invocation, which knows the cap
    assert paging.observe(Span(1, 100), Answer((), ("a",) * 100, 300, 100)) == Span(1, 100)
    for asked, size in ((98, 90), (88, 80)):
        assert paging.observe(Span(2, asked), Answer((), ("a",) * size, 300, size)) == Span(2, size)
    assert (paging.aligned, paging.next(100), paging.known) == (True, Span(2, 100), 100), "pages must not shrink"


def rounded(size: int, to: int, cap: int) -> int:
    return max(to, min(size - size % to, cap))


@pytest.mark.parametrize(("to", "cap"), [(25, 100), (10, 250), (100, 100), (50, 50)])
@pytest.mark.parametrize("run_bytes", [100, 60_000, 1_000_000])
@pytest.mark.parametrize("slow_page", [None, 2])
def test_server_that_rounds_page_sizes_is_read_to_its_end(
    to: int, cap: int, run_bytes: int, slow_page: int | None
) -> None:
    paging, listing, found, requests = Paging(1000), runs(600), set[str](), 0
    reading: Pass[Sequence[str]] = Pass(paging)
    while (span := reading.next_request()) is not None and reading.repeats < 5:
        requests += 1
        if requests == slow_page:
            reading.refuse(span)
            continue
        size = rounded(span.size, to, cap)
        items = tuple(listing[(span.number - 1) * size : span.number * size])
        paging.weigh(len(items), len(items) * run_bytes)
        for page in reading.receive(span, Answer(items, items, 600, size)):
            found.update(page)
    assert found == set(listing)
    assert requests <= 600 // to + 10


@pytest.mark.parametrize(("to", "cap"), [(25, 100), (25, 50), (10, 50), (50, 100), (8, 90)])
@pytest.mark.parametrize("count", [60, 126, 151, 199, 300])
def test_server_that_rounds_page_sizes_without_a_notice_hides_no_run(to: int, cap: int, count: int) -> None:
    paging, listing = Paging(1000), runs(count)
    for _ in range(2):
        reading, found = Pass[Sequence[str]](paging), set[str]()
        while (span := reading.next_request()) is not None and reading.repeats < 5:
            size = rounded(span.size, to, cap)
            items = tuple(listing[(span.number - 1) * size : span.number * size])
            for page in reading.receive(span, Answer(items, items, count)):
                found.update(page)
        assert found == set(listing) or not reading.linked, "a window would count as complete"
    assert found == set(listing)


@pytest.mark.parametrize("cap", [3, 40, 100, 250])
@pytest.mark.parametrize("count", [0, 1, 2, 39, 40, 41, 150, 999])
@pytest.mark.parametrize("skips", ["what was asked for", "what it gives"])
@pytest.mark.parametrize("from_start", [True, False])
@pytest.mark.parametrize("counted", [True, False])
def test_cap_that_no_header_tells_hides_no_run(
    cap: int, count: int, skips: str, from_start: bool, counted: bool
) -> None:
    """The server repeats the requested size, and skips pages of the requested or of the given size."""
    listing = runs(count)

    def capped(span: Span) -> Sequence[str]:
        size = min(span.size, cap)
        start = span.start if skips == "what was asked for" else (span.number - 1) * size
        return listing[start : start + size]

    read_before = 0 if from_start else count // 2
    start = Checkpoint(read_before, tuple(listing[:read_before][-20:]), tuple(listing[:read_before][:20]))
    reading: Pass[Sequence[str]] = Pass(Paging(1000), start)
    found, count_sent = set(listing[:read_before]), count if counted else None
    while (span := reading.next_request()) is not None and reading.repeats < 5:
        items = capped(span)
        for page in reading.receive(span, Answer(items, tuple(items), count_sent, span.size)):
            found.update(page)
    assert found == set(listing) or not reading.linked or not reading.ended
    if from_start:
        assert found == set(listing)


def test_cap_that_is_lowered_without_a_notice_interrupts_no_pass() -> None:
    listing, answered, found = runs(1500), 0, set[str]()
    reading: Pass[Sequence[str]] = Pass(Paging(250), ahead=8)
    while not reading.ended:
        requested = []
        while (span := reading.next_request()) is not None:
            answered += 1
            size = min(span.size, 250 if answered < 4 else 100 if answered < 9 else 40)
            requested.append((span, listing[(span.number - 1) * size : span.number * size]))
        for span, items in requested:
            for page in reading.receive(span, Answer(items, tuple(items), len(listing))):
                found.update(page)
        assert answered < 1500
    assert (found, reading.linked) == (set(listing), True)


def test_short_page_is_not_the_end_if_the_count_is_higher() -> None:
    paging = Paging(100)
    assert paging.observe(Span(1, 100), Answer((), ("a",) * 70, 300)) == Span(1, 70), "a server may cap silently"
    assert paging.size == 70


def test_remaining_slices_of_a_split_backfill_are_not_read_as_a_checkpoint() -> None:
    cursor = encode(SlicesLeft([Window()], datetime(2026, 11, 2, tzinfo=UTC)))
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(cursor, type=Checkpoint)


def verdict_of(
    *,
    pages: int = 3,
    begun: bool = True,
    ended: bool = True,
    linked: bool = True,
    met: int | None = 9,
    count: int | None = 9,
    counts: Sequence[int] = (9,),
    tie_ends: bool = False,
    look: str = "joined",
) -> str:
    main, second = Pass(Paging(3)), Pass(Paging(3), Checkpoint(0, tail=(0, ("a", "b"))))
    main.first, main.pages, main.ended, main.linked = ("a", "b"), pages, ended, linked
    main.count, main.counts, second.count, second.counts = count, set(counts), count, set(counts[-1:])
    second.joined = look == "joined"
    second.first = ("a", "b", "c") if second.joined else ("c", "d")
    return verdict(main, None if look == "none" else second, begun=begun, tie_ends=tie_ends, met=met)


ALIGNED = {"linked": False, "tie_ends": True}


@pytest.mark.parametrize(
    ("seen", "is_complete"),
    [
        ({}, True),
        ({"met": 10}, True),
        ({"met": 8}, False),
        ({"count": None}, True),
        ({"met": None}, True),
        ({"look": "none"}, True),
        ({"look": "another first page"}, False),
        ({"linked": False}, False),
        ({"ended": False}, False),
        ({"begun": False}, False),
        ({"pages": 1, "linked": False, "look": "none"}, True),
        ({"pages": 1, "met": 8}, False),
        ({"pages": 1, "met": 10}, False),
        (ALIGNED, True),
        (ALIGNED | {"counts": (8, 9)}, False),
        (ALIGNED | {"look": "another first page"}, False),
        (ALIGNED | {"tie_ends": False}, False),
        (ALIGNED | {"count": None}, False),
        (ALIGNED | {"met": 10}, False),
    ],
)
def test_the_verdict(seen, is_complete) -> None:
    assert (verdict_of(**seen) == "") is is_complete


@pytest.mark.parametrize("size", range(3, 14))
def test_pages_of_any_size_link(size: int) -> None:
    reading = Pass(Paging(size))
    assert set(read(reading, served(runs(900)))) == set(runs(900))
    assert reading.linked


@pytest.mark.parametrize("ahead", [1, 4])
@pytest.mark.parametrize("large", [0, 1, 7, 250, 496, 499])
def test_unreadable_page_is_replaced_by_smaller_linked_pages(large: int, ahead: int) -> None:
    reading, listing, found, sizes = Pass(Paging(100), ahead=ahead), runs(500), list[str](), list[int]()
    waiting: list[Span] = []
    while True:
        while len(waiting) < ahead and (span := reading.next_request()) is not None:
            waiting.append(span)
        if not waiting:
            break
        span = waiting.pop()  # the one that was asked for last is answered first
        sizes.append(span.size)
        items = tuple(listing[span.start : span.end])
        is_refused = span.size > 13 and listing[large] in items
        if is_refused:
            reading.refuse(span)
            continue
        for page in reading.receive(span, Answer(items, items, 500, span.size)):
            found += page
        assert len(sizes) < 40
    assert set(found) == set(listing)
    assert reading.ended
    assert reading.linked
    assert sum(size > 50 for size in sizes) > 4, "the pages grow again"


def test_pages_of_single_runs_are_read_if_larger_ones_fail() -> None:
    reading, listing, found = Pass(Paging(100), ahead=3), runs(7), list[str]()
    while (span := reading.next_request()) is not None:
        items = tuple(listing[span.start : span.end])
        if span.size > 1:
            reading.refuse(span)
            continue
        for page in reading.receive(span, Answer(items, items, 7, span.size)):
            found += page
    assert found == listing
    assert reading.ended
    assert not reading.linked


def test_the_size_of_pages_follows_their_bytes() -> None:
    paging = Paging(1000)
    paging.weigh(100, 100 * 1024)
    assert paging.next(0).size == 1000
    paging.weigh(250, 250 * 32 * 1024)
    assert paging.next(0).size == 160, "of 32 KiB each"
    paging.weigh(12, 12 * 2**20)
    assert paging.next(0).size == 12, "of 1 MiB each"
    paging.weigh(12, 12 * 100 * 2**20)
    assert paging.next(0).size == LINK + 1
    for size in (6, 12, 24, 48):
        paging.weigh(3, 3 * 1024)
        assert paging.next(0).size == size


def test_smaller_page_is_requested_after_a_refusal() -> None:
    paging, sizes = Paging(1000), []
    for _ in range(6):
        sizes.append(paging.next(0).size)
        paging.lower(sizes[-1])
    assert sizes == [1000, 500, 250, 100, 50, 25]


def test_a_server_may_lower_its_cap_again_and_again() -> None:
    paging = Paging(1000)
    for size in (250, 100, 50):
        span = paging.next(1500)
        assert paging.observe(span, Answer((), ("a",) * size, 3000, size)) == Span(span.number, size)
        span = paging.next(1500)
        assert paging.observe(span, Answer((), ("a",) * span.size, 3000, span.size)) == span
    assert not paging.aligned
