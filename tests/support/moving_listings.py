"""Crawls of small listings that change while they are read: every interleaving of answers and changes.

`Crawls` runs the product's own `Pass`, `closing_pass`, `Paging` and `verdict`. A page is answered atomically; pages in
flight are answered in any order; equal states are followed once. If the verdict is complete, three things are checked:

old   a run that was listed from the first answer to the last one was seen
new   a run created before the head was read for the last time, and still listed, was seen
gone  a run that is in the warehouse, and is listed, was seen: otherwise it would be marked as gone

A loss is classified by the kinds of changes that led to it; `KNOWN` has the kinds that this API cannot reveal. Kinds:

H     created at the head (at any place of a listing without an order)
T     created among the runs with the newest time
L     committed late, one place below the newest
X     created further down
R     removed
C     a removed id, created again at the head (at any place of a listing without an order)
V     a removed id, back at its old place
U     changed, which moves a run to the head of a listing by change

Usage: make verify [ARGS="--runs 6 --events 3"]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from etl.plan.order import Listed, Order
from etl.plan.paging import LINK, MAX_SIZE, Answer, Paging
from etl.plan.passes import Checkpoint, Pass, closing_pass
from etl.plan.verdict import verdict
from etl.plan.window import BEHIND, IN_FRONT, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ORDERS = {
    "newest first": Order.CREATED_DESC,
    "oldest first": Order.CREATED_ASC,
    "by change": Order.UPDATED_DESC,
    "fixed": Order.NONE,
    "shuffled": Order.NONE,
}
KINDS = {
    "newest first": "HTLXRCV",
    "oldest first": "HTLXRCV",
    "by change": "HRCVU",
    "fixed": "HRCV",
    "shuffled": "HR",
}
LINKED, ALIGNED = "linked", "aligned"

KNOWN: dict[tuple[str, str], dict[str, set[str]]] = {
    # Created below the head, in a part already read: X and V, and T if the newest runs fill a page.
    (LINKED, "newest first"): {"new": {"X", "V", "T"}, "gone": {"C", "V"}},
    # The closing pass reads two runs. If one of them returns, it is seen in two places.
    (LINKED, "oldest first"): {"new": {"X", "V", "T", "L", "C"}, "gone": {"C", "V"}},
    (LINKED, "by change"): {"new": {"V"}, "gone": {"C", "V"}},
    # Without an order, there is no head to read again.
    (LINKED, "fixed"): {"new": {"H", "C", "V"}, "gone": {"C", "V"}},
    # Pages this small may link by chance. If the count agrees nevertheless, a run must have been removed.
    (LINKED, "shuffled"): {"old": {"R"}, "new": {"H"}, "gone": {"R"}},
    (LINKED, "shuffled, not counted"): {"old": {""}, "gone": {""}},
    # Counts cannot distinguish a run created far down from one removed further up.
    (ALIGNED, "newest first"): {"old": {"XR", "RV"}, "new": {"X", "V"}, "gone": {"XR", "V"}},
}
"""Per rule, order and check: the smallest sets of kinds that may lead to a loss (docs/delivery.md)."""

MAX_REPEATS = 5
MAX_STEPS = 200
INSIDE = 0
SINCE, UNTIL = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
TIMES = {IN_FRONT: UNTIL, INSIDE: datetime(2026, 1, 2, tzinfo=UTC), BEHIND: datetime(2025, 12, 31, tzinfo=UTC)}


@dataclass(frozen=True)
class Case:
    """One listing and one way to read it.

    Attributes:
        order: the order of the listing.
        runs: the number of runs listed at the start. They are in the warehouse, and another run that is not listed.
        events: the maximum number of changes.
        size: the page size.
        window: the maximum number of pages in flight.
        counts: whether the server sends counts.
        tie: the number of newest runs that were created at the same time.
        paging: "anywhere" (a page may begin at any place), "real" or "aligned".
        tells_size: whether the server sends the page size that it used.
        reading: "whole"; "resumed" from a checkpoint; "tail" first; or "since", "until", "since and until": a window.
        overlap: the number of runs that pages with paging "anywhere" share.
        large: a run that can be read only on a page of at most three runs; -1 if there is none.
    """

    order: str = "newest first"
    runs: int = 4
    events: int = 2
    size: int = 3
    window: int = 1
    counts: bool = True
    tie: int = 1
    paging: str = "anywhere"
    tells_size: bool = True
    reading: str = "whole"
    overlap: int = LINK
    large: int = -1

    def __str__(self) -> str:
        """Describe the case on one line."""
        counts = "counts" if self.counts else "no counts"
        sizes = "" if self.tells_size else ", sizes not told"
        sizes += "" if self.large < 0 else f", run {self.large} large"
        return (
            f"{self.order}, {self.runs} runs (tie of {self.tie}), {self.events} changes, {self.reading}, "
            f"{self.paging} pages of {self.size}, overlap {self.overlap}, {self.window} in flight, {counts}{sizes}"
        )

    @property
    def has_since(self) -> bool:
        return "since" in self.reading

    @property
    def has_until(self) -> bool:
        return "until" in self.reading

    @property
    def rule(self) -> tuple[str, str]:
        uncounted = self.order == "shuffled" and not self.counts
        return (ALIGNED if self.paging == "aligned" else LINKED), self.order + ", not counted" * uncounted


# --- The listing and its changes


class Entry(NamedTuple):
    """A run, listed or removed, at its place: newest first, or in any order for a listing without an order."""

    run: int
    listed: bool = True
    tied: bool = False  # created at the same time as the previous entry
    zone: int = INSIDE  # position relative to the window of creation times


World = tuple[Entry, ...]


class Change(NamedTuple):
    """A change, the listing after it, and the id of the run that is created next."""

    kind: str
    what: str
    world: World
    new: int


def first_world(case: Case) -> World:
    zones = [INSIDE] * case.runs
    if case.has_until:
        zones[0] = IN_FRONT
    if case.has_since:
        zones[-1] = BEHIND
    entries = [Entry(run, tied=0 < run < case.tie, zone=zone) for run, zone in enumerate(zones)]
    middle = case.runs // 2
    return (*entries[:middle], Entry(case.runs, listed=False, zone=zones[middle]), *entries[middle:])


def changes(case: Case, world: World, new: int) -> Iterator[Change]:
    """Yield every single change."""
    places = [place for place, entry in enumerate(world) if entry.listed]
    if ORDERS[case.order].by_creation:
        yield from _created_below_the_newest(world, places, new)
    anywhere, newest = case.order == "fixed", IN_FRONT if case.has_until else INSIDE
    for place in range(len(world) + 1) if anywhere else (0,):
        yield Change("H", f"{new} created at place {place}", _insert(world, place, Entry(new, zone=newest)), new + 1)
    for place in places:
        gone = world[place]._replace(listed=False)
        yield Change("R", f"{world[place].run} removed", (*world[:place], gone, *world[place + 1 :]), new)
        if case.order == "by change":
            moved = (world[place], *world[:place], *world[place + 1 :])
            yield Change("U", f"{world[place].run} changed", moved, new)
    for place, entry in enumerate(world):
        if not entry.listed and case.order != "shuffled":
            back = entry._replace(listed=True)
            yield Change("V", f"{entry.run} back at its place", (*world[:place], back, *world[place + 1 :]), new)
            rest = _drop(world, place)
            for at in range(len(rest) + 1) if anywhere else (0,):
                again = _insert(rest, at, Entry(entry.run, zone=newest))
                yield Change("C", f"{entry.run} created again at place {at}", again, new)


def _created_below_the_newest(world: World, places: list[int], new: int) -> Iterator[Change]:
    """Yield the changes T, L and X."""
    if places:
        top = world[places[0]]
        first = _insert(world, places[0], Entry(new, tied=top.tied, zone=top.zone))
        after = (*first[: places[0] + 1], top._replace(tied=True), *first[places[0] + 2 :])
        yield Change("T", f"{new} created in front of the newest tie", after, new + 1)
        for place in itertools.takewhile(lambda at: at == places[0] or world[at].tied, places):
            after = _insert(world, place + 1, Entry(new, tied=True, zone=top.zone))
            yield Change("T", f"{new} created in the newest tie, behind {world[place].run}", after, new + 1)
    if len(places) > 1 and not world[places[1]].tied:
        after = _insert(world, places[1], Entry(new, zone=world[places[0]].zone))
        yield Change("L", f"{new} committed late, behind {world[places[0]].run}", after, new + 1)
    for place in [*places[2:], len(world)] if len(places) > 1 else ():
        entry = Entry(new, tied=place < len(world) and world[place].tied, zone=world[place - 1].zone)
        yield Change("X", f"{new} created behind {world[place - 1].run}", _insert(world, place, entry), new + 1)


def _insert(world: World, place: int, entry: Entry) -> World:
    return (*world[:place], entry, *world[place:])


def _drop(world: World, place: int) -> World:
    rest = world[place + 1 :]
    if rest and rest[0].tied and not world[place].tied:
        rest = (rest[0]._replace(tied=False), *rest[1:])
    return (*world[:place], *rest)


def bits(runs: Iterable[int]) -> int:
    """Return a set of runs as a number."""
    return sum(1 << run for run in set(runs))


def runs_of(number: int) -> list[int]:
    return [run for run in range(number.bit_length()) if number >> run & 1]


@cache
def with_kind(kinds: str, kind: str) -> str:
    return "".join(sorted({*kinds, kind}, key="HTLXRCVU".index))


# --- Its pages


class AnySpan(NamedTuple):
    """A page that starts at any place. The API has no such pages, but large pages can approximate them."""

    start: int
    size: int

    @property
    def number(self) -> int:
        return 1 if self.start == 0 else 2

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(slots=True)
class PagingAnywhere(Paging):
    """Pages that start exactly where the overlap begins."""

    overlap: int = LINK

    def next(self, position: int, overlap: int = LINK, most: int = MAX_SIZE, *, capped: bool = False) -> Any:
        overlap = min(overlap, LINK) if capped else overlap
        start = max(position - (self.overlap if overlap == LINK else overlap), 0)
        return AnySpan(start, max(min(self.size, most), position - start + 1))


class Page(NamedTuple):
    """The relevant facts about a page and the time of its answer."""

    met: int
    listed: int  # at that time; 0 if it does not matter
    in_front: bool  # the page has a run before the window
    behind: bool
    tie_ends: bool  # not all runs of the page were created at the same time


def answers(case: Case, world: World, span: Any, *, keep: bool) -> list[Answer[Page] | None]:
    """Return the possible answers to a request; None is a refusal. `keep`: whether the listed runs matter."""
    entries = tuple(entry for entry in world if entry.listed)
    if case.order == "oldest first":
        entries = entries[::-1]
    here = entries[span.start : span.end]
    if span.size > LINK + 1 and any(entry.run == case.large for entry in here):
        return [None]
    found: list[Answer[Page] | None] = []
    for some in itertools.combinations(entries, len(here)) if case.order == "shuffled" else [here]:
        keys = tuple(entry.run for entry in some)
        in_front, behind = _window_ends(case, tuple(entry.zone for entry in some))
        page = Page(
            met=bits(keys),
            listed=bits(entry.run for entry in entries) if keep else 0,
            in_front=in_front,
            behind=behind,
            tie_ends=case.paging == "aligned" and any(not entry.tied for entry in some[1:]),
        )
        count, size = len(entries) if case.counts else None, span.size if case.tells_size else None
        found.append(Answer(page, keys, count, size))  # type: ignore[arg-type]
    return found


@cache
def _window_ends(case: Case, zones: tuple[int, ...]) -> tuple[bool, bool]:
    items = [Listed(str(place), TIMES[zone], None, known=False) for place, zone in enumerate(zones)]
    window = Window(SINCE if case.has_since else None, UNTIL if case.has_until else None)
    sides = window.sides(items, ORDERS[case.order], is_proven=True).values()
    return IN_FRONT in sides, BEHIND in sides


# --- The crawl


class Facts(NamedTuple):
    """The facts about a pass for the verdict: about its first page while it runs, then about all pages.

    `main` is the number of the state of the main pass, as far as the verdict needs it.
    """

    begun: bool | None = None  # None: no page yet
    tie_ends: bool = False
    main: int | None = None


class State(NamedTuple):
    """A state of a crawl."""

    world: World
    new: int
    kinds: str  # kinds of changes so far
    left: int  # changes that may follow
    stage: str  # "early" (the tail, or the part before a checkpoint), "main" or "closing"
    reading: int  # number of the state of its pass
    in_flight: tuple[Any, ...]
    facts: Facts
    owed: int | None  # listed since the first answer, but not seen; None: no answer yet
    met: int
    last_look: int  # listed when the head was read for the last time


class Step(NamedTuple):
    """The result of an answer for a pass."""

    pages: tuple[Page, ...]
    reading: int
    in_flight: tuple[Any, ...]  # () if the pass has ended
    linked: bool


class Readings:
    """The states of passes by number, and the result of each answer, computed once."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._states: list[tuple[Any, ...]] = []
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._steps: dict[Any, Step] = {}

    def number(self, reading: Pass[Page]) -> int:
        state = tuple((name, _freeze(value)) for name, value in vars(reading).items())
        if state not in self._numbers:
            self._numbers[state] = len(self._states)
            self._states.append(state)
        return self._numbers[state]

    def pass_(self, number: int) -> Pass[Page]:
        reading: Pass[Page] = Pass.__new__(Pass)
        for name, value in self._states[number]:
            setattr(reading, name, _thaw(value))
        return reading

    def ask(self, reading: Pass[Page], in_flight: list[Any]) -> tuple[Any, ...]:
        """Return the requests in flight after the pass has sent as many as it may."""
        while len(in_flight) < self._window and (span := reading.next_request()) is not None:
            in_flight.append(span)
        return tuple(sorted(in_flight))

    def receive(self, number: int, in_flight: tuple[Any, ...], span: Any, answer: Answer[Page] | None) -> Step:
        key = number, in_flight, span, answer
        if key not in self._steps:
            reading, rest = self.pass_(number), list(in_flight)
            pages: tuple[Page, ...] = ()
            if answer is None:
                reading.refuse(span)
            else:
                pages = tuple(reading.receive(span, answer))
            if any(page.behind for page in pages):
                reading.stop()
            rest.remove(span)
            going_on = not reading.ended and reading.repeats < MAX_REPEATS
            asked = self.ask(reading, rest) if going_on else ()
            self._steps[key] = Step(pages, self.number(reading), asked, reading.linked)
        return self._steps[key]


class _Frozen(NamedTuple):
    kind: type
    value: Any


def _freeze(value: Any) -> Any:
    if isinstance(value, Paging):
        return _Frozen(type(value), tuple(getattr(value, each.name) for each in fields(value)))
    if isinstance(value, dict):
        return _Frozen(dict, tuple(value.items()))
    return _Frozen(set, frozenset(value)) if isinstance(value, set) else value


def _thaw(value: Any) -> Any:
    if not isinstance(value, _Frozen):
        return value
    kind: Any = value.kind
    return kind(*value.value) if issubclass(kind, Paging) else kind(value.value)


@dataclass
class Result:
    """The result of following all crawls of a case; `lost` has a trace per check and kinds."""

    states: int = 0
    complete: int = 0
    again: set[str] = field(default_factory=set)
    lost: dict[tuple[str, str], str] = field(default_factory=dict)
    seconds: float = 0.0

    def unknown(self, case: Case) -> dict[tuple[str, str], str]:
        """Return the losses that no known loss explains."""
        known = KNOWN.get(case.rule, {})
        return {
            (check, kinds): trace
            for (check, kinds), trace in self.lost.items()
            if not any(set(fewer) <= set(kinds) for fewer in known.get(check, ()))
        }


class Crawls:
    """All crawls of one case.

    Args:
        case: the listing and the way of reading it.
        traced: whether to record the steps that lead to losses.
    """

    def __init__(self, case: Case, *, traced: bool = False) -> None:
        self.case = case
        self.result = Result()
        self._order = ORDERS[case.order]
        self._readings = Readings(case.window)
        self._parents: dict[State, tuple[State, str] | None] | None = {} if traced else None
        self._changes: dict[tuple[World, int], list[tuple[Change, int]]] = {}
        self._answers: dict[tuple[World, Any, bool], list[Answer[Page] | None]] = {}
        self._now: State | None = None

    def follow(self) -> Result:
        """Follow every interleaving."""
        began = time.monotonic()
        known = set(self._starts())
        waiting, depth = list(known), 0
        if self._parents is not None:
            self._parents.update(dict.fromkeys(known))
        while waiting:
            depth += 1
            assert depth < MAX_STEPS, f"a pass never ends: {self.case}"
            level, waiting = waiting, []
            for state in level:
                self._now = state
                for following, label in self._following(state):
                    if following not in known:
                        known.add(following)
                        waiting.append(following)
                        if self._parents is not None:
                            self._parents[following] = state, label
        self.result.states = len(known)
        self.result.seconds = time.monotonic() - began
        return self.result

    def _starts(self) -> Iterator[State]:
        """Yield the states before the first request. A window may start at any page, and so may a tail."""
        case, world = self.case, first_world(self.case)
        front_is_cut = case.has_until if self._order is Order.CREATED_DESC else case.has_since
        places = range(case.runs) if front_is_cut else range(1, case.runs) if case.reading == "tail" else (0,)
        stage = "early" if case.reading in {"tail", "resumed"} else "main"
        for place in places:
            reading = self._pass(position=place)
            asked = self._readings.ask(reading, [])
            number = self._readings.number(reading)
            yield State(world, case.runs + 1, "", case.events, stage, number, asked, Facts(), None, 0, 0)

    def _pass(self, position: int = 0, **places: Any) -> Pass[Page]:
        if self.case.paging == "anywhere":
            paging: Paging = PagingAnywhere(self.case.size, overlap=self.case.overlap)
        else:
            paging = Paging(self.case.size, aligned=self.case.paging == "aligned")
        return Pass(paging, Checkpoint(position, **places), ahead=self.case.window)

    def _following(self, state: State) -> Iterator[tuple[State, str]]:
        if state.left and state.owed is not None:
            for change, listed in self._changes_of(state.world, state.new):
                following = state._replace(
                    world=change.world,
                    new=change.new,
                    kinds=with_kind(state.kinds, change.kind),
                    left=state.left - 1,
                    owed=state.owed & listed,
                )
                yield following, change.what
        for span in dict.fromkeys(state.in_flight):
            keep = state.stage == "closing" or span.number == 1 or self._order is Order.NONE
            for answer in self._answers_of(state.world, span, keep=keep):
                yield from self._answered(state, span, answer)

    def _changes_of(self, world: World, new: int) -> list[tuple[Change, int]]:
        key = world, new
        if key not in self._changes:
            self._changes[key] = [(each, self._wanted(each.world)) for each in changes(self.case, world, new)]
        return self._changes[key]

    def _answers_of(self, world: World, span: Any, *, keep: bool) -> list[Answer[Page] | None]:
        key = world, span, keep
        if key not in self._answers:
            self._answers[key] = answers(self.case, world, span, keep=keep)
        return self._answers[key]

    def _wanted(self, world: World) -> int:
        return bits(entry.run for entry in world if entry.listed and entry.zone == INSIDE)

    def _answered(self, state: State, span: Any, answer: Answer[Page] | None) -> Iterator[tuple[State, str]]:
        step = self._readings.receive(state.reading, state.in_flight, span, answer)
        owed = self._wanted(state.world) if state.owed is None else state.owed
        met, last_look, facts = state.met, state.last_look, state.facts
        for page in step.pages:
            met |= page.met
            if state.stage == "main":
                facts = self._begun(state, page) if facts.begun is None else facts
                last_look = page.listed
            elif state.stage == "closing" and page.met and (not last_look or self._order is Order.CREATED_ASC):
                last_look = page.listed
        following = state._replace(
            reading=step.reading, in_flight=step.in_flight, facts=facts, owed=owed & ~met, met=met, last_look=last_look
        )
        shown = "is refused"
        if answer is not None:
            shown = f"shows {list(answer.keys)}" + ("" if answer.total is None else f" of {answer.total}")
        label = f"{state.stage}: {span.start}-{span.end} {shown}"
        if state.stage == "early" and self.case.reading == "resumed" and step.pages:
            yield self._resume(following), f"{label}; killed here"
        if not step.linked and self.case.order == "shuffled":
            self.result.again.add("not linked")  # never complete, and there are too many continuations
        elif step.in_flight:
            yield following, label
        else:
            yield from self._ended(following, label)

    def _begun(self, state: State, page: Page) -> Facts:
        """Record the facts about the first page of the main pass."""
        return Facts(self._readings.pass_(state.reading).start == 0 or page.in_front, page.tie_ends)

    def _begin(self, state: State, stage: str, reading: Pass[Page], facts: Facts) -> State:
        asked = self._readings.ask(reading, [])
        number = self._readings.number(reading)
        return state._replace(stage=stage, reading=number, in_flight=asked, facts=facts, last_look=0)

    def _resume(self, state: State) -> State:
        """Resume at a checkpoint after the last page."""
        early = self._readings.pass_(state.reading)
        main = self._pass(position=early.reach, first=early.first, last=early.last, count=early.count)
        return self._begin(state, "main", main, Facts())

    def _ended(self, state: State, label: str) -> Iterator[tuple[State, str]]:
        """Start the next pass, or decide."""
        reading = self._readings.pass_(state.reading)
        if state.stage == "early":
            if self.case.reading == "tail" and reading.first:
                main = self._pass(tail=(reading.start, reading.first))
                yield self._begin(state, "main", main, Facts()), label
            return  # a backfill that has ended is not resumed
        if state.stage == "closing":
            self._decide(state, reading, label)
            return
        reduced = self._reduced(reading)
        facts = state.facts._replace(main=self._readings.number(reduced))
        # No run is created in a window of the past.
        look = None if reduced.is_single or self.case.has_until else closing_pass(reading, self._order)
        if look is None:
            self._decide(state._replace(facts=facts), None, label)
        else:
            yield self._begin(state, "closing", look, facts), label

    def _reduced(self, main: Pass[Page]) -> Pass[Page]:
        """Return a pass with what the verdict reads of the main pass; fewer differences result in fewer states."""
        reduced = self._pass()
        reduced.pages, reduced.start = min(main.pages + (self.case.reading == "tail"), 2), min(main.start, 1)
        reduced.ended, reduced.linked = main.ended and main.pages > 0, main.linked
        reduced.count, reduced.counts = main.count, main.counts
        reduced.first = main.first if self.case.paging == "aligned" else ()
        return reduced

    def _decide(self, state: State, look: Pass[Page] | None, label: str) -> None:
        assert state.facts.main is not None
        reason = verdict(
            self._readings.pass_(state.facts.main),
            look,
            begun=bool(state.facts.begun) or self.case.reading == "resumed",
            tie_ends=self._order is Order.CREATED_DESC and state.facts.tie_ends,
            met=state.met.bit_count() if self.case.reading in {"whole", "tail"} else None,
        )
        if reason:
            self.result.again.add(reason)
            return
        self.result.complete += 1
        listed, first_runs = self._wanted(state.world), (1 << self.case.runs) - 1
        held = first_runs | 1 << self.case.runs
        self._check("old", state, state.owed or 0, label)
        self._check("new", state, listed & ~first_runs & state.last_look & ~state.met, label)
        self._check("gone", state, listed & held & ~state.met, label)

    def _check(self, check: str, state: State, lost: int, label: str) -> None:
        if lost and (check, state.kinds) not in self.result.lost:
            steps, at = [label], self._now
            while self._parents is not None and at is not None and (parent := self._parents[at]) is not None:
                at, label = parent
                steps.append(label)
            self.result.lost[check, state.kinds] = "\n    ".join([f"not met: {runs_of(lost)}", *reversed(steps)])


def follow(case: Case) -> Result:
    """Follow all crawls of a case; if there is an unknown loss, repeat with traces."""
    result = Crawls(case).follow()
    return Crawls(case, traced=True).follow() if result.unknown(case) else result


# --- Which cases


def cases(runs: int, events: int) -> Iterator[Case]:
    """Yield every way to read listings of up to `runs` runs with up to `events` changes."""
    # Without counts, no pages are read ahead.
    for order, (counts, window) in itertools.product(list(ORDERS)[:4], ((True, 1), (True, 2), (False, 1))):
        usual: dict[str, Any] = {"order": order, "counts": counts, "window": window}
        by_creation = ORDERS[order].by_creation
        for tie in (1, 2) if by_creation else (1,):
            yield Case(**usual, runs=runs, events=events, size=4, tie=tie)
        yield Case(**usual, runs=5, events=events)
        yield Case(**usual, runs=5, events=1, size=4, large=2)
        yield Case(**usual, size=2, overlap=1)  # as if the server refused larger pages
        for tells_size in (True, False):
            yield Case(**usual, runs=8, size=6, paging="real", tells_size=tells_size)
        yield Case(**usual, runs=max(runs - 1, 4), reading="resumed")
        for reading in ("tail", "since", "until", "since and until") if by_creation else ():
            yield Case(**usual, runs=max(runs - 1, 5), reading=reading)
    for (size, tie), window in itertools.product(((2, 1), (3, 1), (3, 2)), (1, 2)):
        yield Case(runs=max(runs, 6), events=events, size=size, tie=tie, window=window, paging="aligned")
    yield Case("shuffled", events=1)
    yield Case("shuffled", events=0, counts=False)


def quiet_cases(runs: int) -> Iterator[Case]:
    """Yield all ways to read whole listings of up to `runs` runs that do not change."""
    for order, counts, window in itertools.product(list(ORDERS)[:4], (True, False), (1, 2, 3)):
        for number, size in itertools.product(range(1, runs + 1), (3, 4, 5)):
            yield Case(order, number, 0, size, window, counts)
            if size == 4 and number in {1, 5, runs}:
                yield Case(order, number, 0, size, window, counts, large=number // 2)
        for number, size, tells in itertools.product(range(1, 3 * runs), (6, 7, 13), (True, False)):
            yield Case(order, number, 0, size, window, counts, paging="real", tells_size=tells)


def main() -> int:
    """Follow the cases of larger bounds on all processors."""
    parser = argparse.ArgumentParser(
        description="Check what a pass proves, for small listings that change in every way."
    )
    parser.add_argument("--runs", type=int, default=6, help="runs listed in the beginning")
    parser.add_argument("--events", type=int, default=3, help="changes at most")
    chosen = parser.parse_args()
    began, states, complete, bad, number = time.monotonic(), 0, 0, 0, 0
    every = sorted(cases(chosen.runs, chosen.events), key=lambda case: (-case.events, -case.runs, case.size))
    with ProcessPoolExecutor() as pool:
        for number, (case, result) in enumerate(zip(every, pool.map(follow, every), strict=True), 1):
            unknown = result.unknown(case)
            states, complete, bad = states + result.states, complete + result.complete, bad + len(unknown)
            lost = ", ".join(f"{check} {kinds}" for check, kinds in sorted(unknown)) or "ok"
            print(f"{number}/{len(every)} {case}: {result.states} states, {result.seconds:.0f} s: {lost}", flush=True)
            for (check, kinds), trace in unknown.items():
                print(f"  {check} lost by {kinds}: {trace}")
    seconds = time.monotonic() - began
    print(f"{number} cases, {states} states, {complete} ends called complete, {bad} unknown losses, {seconds:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
