"""Faults that the simulated API can be told to make: countable, deterministic, and off unless switched on."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import TYPE_CHECKING, Final, Literal, Protocol

from etl.sandbox.answers import Answer, Request, error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from etl.sandbox.world import World

_HTML: Final = (
    b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"
)


class Fault(Protocol):
    """Something that goes wrong with one answer."""

    def spoil(self, answer: Answer) -> None:
        """Change the answer in place."""


@dataclass(frozen=True, slots=True)
class Status:
    """The API answers with an error status. `retry_after` is in seconds, or a moment that is sent as an HTTP date."""

    status: int
    retry_after: float | datetime | None = None
    html: bool = False
    message: str = "Something went wrong"

    def spoil(self, answer: Answer) -> None:
        """Replace the answer."""
        made = error(self.status, self.message)
        answer.status, answer.headers = made.status, made.headers
        answer.replace_body(made.body)
        if self.html:
            answer.replace_body(_HTML, "text/html")
        if isinstance(self.retry_after, datetime):
            answer.headers["retry-after"] = format_datetime(self.retry_after.astimezone(UTC), usegmt=True)
        elif self.retry_after is not None:
            answer.headers["retry-after"] = f"{self.retry_after:g}"


@dataclass(frozen=True, slots=True)
class CutBody:
    """The body breaks off: the connection closes early, or (`half_json`) half of it arrives as if it were all."""

    how: Literal["length", "chunked", "half_json"] = "length"

    def spoil(self, answer: Answer) -> None:
        """Cut the body in its middle."""
        body = answer.payload()
        if self.how == "half_json":
            answer.replace_body(body[: len(body) // 2])
        else:
            answer.cut_at, answer.chunked = len(body) // 2, self.how == "chunked"


@dataclass(frozen=True, slots=True)
class Body:
    """Status 200 with another body than expected: empty, HTML, an object where a list belongs."""

    body: bytes
    content_type: str = "application/json; charset=utf-8"

    def spoil(self, answer: Answer) -> None:
        """Replace the body."""
        answer.replace_body(self.body, self.content_type)


EMPTY_BODY: Final = Body(b"")
HTML_OK: Final = Body(_HTML, "text/html")
OBJECT_BODY: Final = Body(b'{"data":[],"message":"ok"}')


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset before any byte of the answer."""

    def spoil(self, answer: Answer) -> None:
        """Let the server reset the connection."""
        answer.reset = True


@dataclass(frozen=True, slots=True)
class Delay:
    """The answer comes after `seconds`; an hour or so stands for a server that hangs."""

    seconds: float

    def spoil(self, answer: Answer) -> None:
        """Let the server wait."""
        answer.delay_s += self.seconds


HANG: Final = Delay(3600.0)


@dataclass(frozen=True, slots=True)
class BadItem:
    """Raw bytes among the items of a list: before the one at place `at`, or in its stead. Other answers stay."""

    raw: bytes
    at: int = 0
    replace: bool = False

    def spoil(self, answer: Answer) -> None:
        """Splice the bytes in."""
        if answer.items is not None:
            answer.items[self.at : self.at + self.replace] = [self.raw]


@dataclass(frozen=True, slots=True)
class Headers:
    """Response headers that are set, or left out where the value is None."""

    headers: dict[str, str | None]

    def spoil(self, answer: Answer) -> None:
        """Set and remove headers."""
        for name, value in self.headers.items():
            answer.headers.pop(name, None)
            if value is not None:
                answer.headers[name] = value


NO_PAGING_HEADERS: Final = Headers({"pagination-page": None, "pagination-take": None, "pagination-count": None})


@dataclass(slots=True)
class Rule:
    """Faults for the requests that `where` matches: each `every`th of them, `times` times in all (None: for ever)."""

    where: Callable[[Request], bool]
    faults: tuple[Fault, ...]
    every: int = 1
    times: int | None = None
    matched: int = 0

    def due(self, request: Request) -> tuple[Fault, ...]:
        """The faults for this request; counts it."""
        if self.times == 0 or not self.where(request):
            return ()
        self.matched += 1
        if self.matched % self.every:
            return ()
        if self.times is not None:
            self.times -= 1
        return self.faults


@dataclass(slots=True)
class Drift:
    """The listing moves while it is read: before a page is given, with `chance`, runs come and go in its workflow."""

    chance: float = 1.0
    creates: int = 1
    deletes: int = 0
    seed: int = 1
    created: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    _random: Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)

    def stir(self, world: World, request: Request) -> None:
        """Create and delete runs, if this request lists runs and chance has it."""
        if not lists_runs(request) or request.parts[3] not in world.runs or self._random.random() >= self.chance:
            return
        workflow_id = request.parts[3]
        for _ in range(self.creates):
            self.created.append(world.create_run(workflow_id)["id"])
        for _ in range(min(self.deletes, len(world.runs[workflow_id]))):
            run_id = self._random.choice(list(world.runs[workflow_id]))
            world.delete_run(run_id)
            self.deleted.append(run_id)


def lists_runs(request: Request) -> bool:
    """Whether a request asks for a list of runs."""
    return len(request.parts) == 5 and request.parts[4] == "runs"


def gets_run(request: Request) -> bool:
    """Whether a request asks for one run."""
    return len(request.parts) == 6 and request.parts[4] == "runs"


def page(number: int) -> Callable[[Request], bool]:
    """A condition for rules: the request lists runs and asks for that page."""
    return lambda request: lists_runs(request) and request.query.get("page", "1") == str(number)


def anything(_request: Request) -> bool:
    """A condition for rules: every request."""
    return True


@dataclass(slots=True)
class Faults:
    """The switches of a sandbox.

    Attributes:
        next_responses: each request takes the next of these; None lets one pass unharmed.
        rules: see `on`.
        drift: runs that come and go between pages.
        first_page_forever: lists give page 1 whatever page is asked for, and say that it is the one asked for.
        take_cap: lists give at most that many items and say so in `pagination-take`.
        count_delta: `pagination-count` of lists is off by that many.
        no_paging_headers: lists come without the `pagination-*` headers.
        clock_offset: the `Date` header is off by that much.
        latency_s: each answer takes that long.
        before_response: called with (path, query, request number) before the answer is made; may be a coroutine.
        after_response: the same, called after the answer was sent.
        made: how many faults were made, by class name.
    """

    next_responses: deque[Fault | None] = field(default_factory=deque)
    rules: list[Rule] = field(default_factory=list)
    drift: Drift | None = None
    first_page_forever: bool = False
    take_cap: int | None = None
    count_delta: int = 0
    no_paging_headers: bool = False
    clock_offset: timedelta = timedelta(0)
    latency_s: float = 0.0
    before_response: Callable[[str, dict[str, str], int], Awaitable[None] | None] | None = None
    after_response: Callable[[str, dict[str, str], int], Awaitable[None] | None] | None = None
    made: Counter[str] = field(default_factory=Counter)

    def queue(self, *faults: Fault | None) -> None:
        """Let the next requests meet these faults, one each."""
        self.next_responses.extend(faults)

    def on(self, where: Callable[[Request], bool], *faults: Fault, every: int = 1, times: int | None = None) -> Rule:
        """Let each `every`th request that `where` matches meet all these faults, `times` times (None: for ever)."""
        rule = Rule(where, faults, every, times)
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Switch everything off; what was counted stays."""
        blank = Faults(made=self.made)
        for name in self.__slots__:
            setattr(self, name, getattr(blank, name))

    def asked(self, request: Request) -> Request:
        """The request as the faulty API understands it."""
        changed = dict(request.query)
        if self.first_page_forever:
            changed["page"] = "1"
        if self.take_cap is not None:
            take = changed.get("take", "100")
            changed["take"] = str(min(int(take), self.take_cap)) if take.isdigit() else take
        return (
            request
            if changed == request.query
            else Request(request.number, request.method, request.path, request.parts, changed, request.body)
        )

    def spoil(self, request: Request, answer: Answer) -> None:
        """Let everything go wrong with the answer that should."""
        answer.delay_s += self.latency_s
        if answer.items is not None:
            self._bend_paging(request, answer)
        if self.clock_offset:
            answer.headers["date"] = format_datetime(datetime.now(UTC) + self.clock_offset, usegmt=True)
        due = [fault for rule in self.rules for fault in rule.due(request)]
        if self.next_responses:
            scripted = self.next_responses.popleft()
            due += [scripted] if scripted is not None else []
        for fault in due:
            fault.spoil(answer)
            self.made[type(fault).__name__] += 1

    def _bend_paging(self, request: Request, answer: Answer) -> None:
        if self.first_page_forever:
            answer.headers["pagination-page"] = request.query.get("page", "1")
        if self.count_delta:
            answer.headers["pagination-count"] = str(max(0, int(answer.headers["pagination-count"]) + self.count_delta))
        if self.no_paging_headers:
            NO_PAGING_HEADERS.spoil(answer)
