"""Faults of the simulated API: deterministic, counted, and off by default."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import TYPE_CHECKING, Final, Literal, Protocol

from etl.sandbox.responses import Request, Response, error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from etl.sandbox.world import World

_HTML: Final = (
    b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"
)


class Fault(Protocol):
    """A fault of one response."""

    def apply(self, response: Response) -> None:
        """Change the response in place."""


@dataclass(frozen=True, slots=True)
class Status:
    """An error status. `retry_after` is in seconds, or a datetime, which is sent as an HTTP date."""

    status: int
    retry_after: float | datetime | None = None
    html: bool = False
    message: str = "Something went wrong"

    def apply(self, response: Response) -> None:
        """Replace the response."""
        replacement = error(self.status, self.message)
        response.status, response.headers = replacement.status, replacement.headers
        response.replace_body(replacement.body)
        if self.html:
            response.replace_body(_HTML, "text/html")
        if isinstance(self.retry_after, datetime):
            response.headers["retry-after"] = format_datetime(self.retry_after.astimezone(UTC), usegmt=True)
        elif self.retry_after is not None:
            response.headers["retry-after"] = f"{self.retry_after:g}"


@dataclass(frozen=True, slots=True)
class CutBody:
    """A truncated body: the connection closes early, or (`half_json`) half of it is sent as if it were complete."""

    how: Literal["length", "chunked", "half_json"] = "length"

    def apply(self, response: Response) -> None:
        """Cut the body in the middle."""
        body = response.payload()
        if self.how == "half_json":
            response.replace_body(body[: len(body) // 2])
        else:
            response.cut_at, response.chunked = len(body) // 2, self.how == "chunked"


@dataclass(frozen=True, slots=True)
class Body:
    """Status 200 with an unexpected body: empty, HTML, or an object instead of a list."""

    body: bytes
    content_type: str = "application/json; charset=utf-8"

    def apply(self, response: Response) -> None:
        """Replace the body."""
        response.replace_body(self.body, self.content_type)


EMPTY_BODY: Final = Body(b"")
HTML_OK: Final = Body(_HTML, "text/html")
OBJECT_BODY: Final = Body(b'{"data":[],"message":"ok"}')


@dataclass(frozen=True, slots=True)
class Reset:
    """A connection reset before the first byte of the response."""

    def apply(self, response: Response) -> None:
        """Reset the connection."""
        response.reset = True


@dataclass(frozen=True, slots=True)
class Delay:
    """A response delayed by `seconds`; an hour simulates a server that hangs."""

    seconds: float

    def apply(self, response: Response) -> None:
        """Delay the response."""
        response.delay_s += self.seconds


HANG: Final = Delay(3600.0)


@dataclass(frozen=True, slots=True)
class BadItem:
    """Raw bytes inserted into a list before the item at index `at`, or replacing it; other responses are unchanged."""

    raw: bytes
    at: int = 0
    replace: bool = False

    def apply(self, response: Response) -> None:
        """Insert the bytes."""
        if response.items is not None:
            response.items[self.at : self.at + self.replace] = [self.raw]


@dataclass(frozen=True, slots=True)
class Headers:
    """Response headers that are set, or removed if the value is None."""

    headers: dict[str, str | None]

    def apply(self, response: Response) -> None:
        """Set and remove headers."""
        for name, value in self.headers.items():
            response.headers.pop(name, None)
            if value is not None:
                response.headers[name] = value


NO_PAGING_HEADERS: Final = Headers({"pagination-page": None, "pagination-take": None, "pagination-count": None})


@dataclass(slots=True)
class Rule:
    """Faults for every `every`th request that `where` matches, at most `times` times (None: no limit)."""

    where: Callable[[Request], bool]
    faults: tuple[Fault, ...]
    every: int = 1
    times: int | None = None
    matched: int = 0

    def due(self, request: Request) -> tuple[Fault, ...]:
        """Count a request and return the faults that are due."""
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
    """Drift: before a page is served, with probability `chance`, runs are created and deleted in its workflow."""

    chance: float = 1.0
    creates: int = 1
    deletes: int = 0
    seed: int = 1
    created: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    _random: Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)

    def change(self, world: World, request: Request) -> None:
        """Create and delete runs, if this request lists runs and is chosen."""
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
    """Match requests for a list of runs."""
    return len(request.parts) == 5 and request.parts[4] == "runs"


def gets_run(request: Request) -> bool:
    """Match requests for one run."""
    return len(request.parts) == 6 and request.parts[4] == "runs"


def page(number: int) -> Callable[[Request], bool]:
    """Match requests for a page of runs."""
    return lambda request: lists_runs(request) and request.query.get("page", "1") == str(number)


def any_request(_request: Request) -> bool:
    """Match every request."""
    return True


@dataclass(frozen=True, slots=True)
class Cap:
    """A maximum page size of lists, and what becomes of a larger `take`.

    It is lowered, which `pagination-take` tells, leaves out (`silent`) or denies (`echoed`); or the request is refused
    with 400, or hangs.
    """

    size: int
    how: Literal["told", "silent", "echoed", "refused", "hangs"] = "told"

    def lower(self, take: str) -> str:
        """Return the page size that the API uses."""
        return str(min(int(take), self.size)) if take.isdigit() else take

    def apply(self, request: Request, response: Response) -> None:
        """Change the response as the cap demands."""
        if self.how == "silent":
            response.headers.pop("pagination-take", None)
        elif self.how == "echoed":
            response.headers["pagination-take"] = request.query.get("take", "100")
        elif self.how != "told" and int(request.query.get("take", "100")) > self.size:
            refusal = Status(400, message=f"take must not be greater than {self.size}")
            (HANG if self.how == "hangs" else refusal).apply(response)


@dataclass(slots=True)
class Faults:
    """The faults of a sandbox.

    Attributes:
        next_responses: faults for the next requests, one each; None is no fault.
        rules: see `on`.
        drift: runs created and deleted between pages.
        repeat_first_page: lists serve page 1 for every page, labelled as the requested one.
        cap: maximum page size of lists.
        count_delta: error of the `pagination-count` of lists.
        no_paging_headers: whether lists lack the `pagination-*` headers.
        clock_offset: error of the `Date` header.
        latency_s: latency of each response.
        before_response: called with (path, query, request number) before a response is made; may be a coroutine.
        after_response: called with the same arguments after the response was sent.
        applied: number of faults applied, by class name.
    """

    next_responses: deque[Fault | None] = field(default_factory=deque)
    rules: list[Rule] = field(default_factory=list)
    drift: Drift | None = None
    repeat_first_page: bool = False
    cap: Cap | None = None
    count_delta: int = 0
    no_paging_headers: bool = False
    clock_offset: timedelta = timedelta(0)
    latency_s: float = 0.0
    before_response: Callable[[str, dict[str, str], int], Awaitable[None] | None] | None = None
    after_response: Callable[[str, dict[str, str], int], Awaitable[None] | None] | None = None
    applied: Counter[str] = field(default_factory=Counter)

    def queue(self, *faults: Fault | None) -> None:
        """Add faults for the next requests, one each."""
        self.next_responses.extend(faults)

    def on(self, where: Callable[[Request], bool], *faults: Fault, every: int = 1, times: int | None = None) -> Rule:
        """Apply faults to every `every`th request that `where` matches, at most `times` times (None: no limit)."""
        rule = Rule(where, faults, every, times)
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Remove all faults; keep the counts."""
        blank = Faults(applied=self.applied)
        for name in self.__slots__:
            setattr(self, name, getattr(blank, name))

    def rewrite(self, request: Request) -> Request:
        """Return the request as the faulty API understands it."""
        changed = dict(request.query)
        if self.repeat_first_page:
            changed["page"] = "1"
        if self.cap is not None:
            changed["take"] = self.cap.lower(changed.get("take", "100"))
        return (
            request
            if changed == request.query
            else Request(request.number, request.method, request.path, request.parts, changed, request.body)
        )

    def apply(self, request: Request, response: Response) -> None:
        """Apply the faults that are due."""
        response.delay_s += self.latency_s
        if response.items is not None:
            self._distort_paging(request, response)
        if self.clock_offset:
            response.headers["date"] = format_datetime(datetime.now(UTC) + self.clock_offset, usegmt=True)
        due = [fault for rule in self.rules for fault in rule.due(request)]
        if self.next_responses:
            scripted = self.next_responses.popleft()
            due += [scripted] if scripted is not None else []
        for fault in due:
            fault.apply(response)
            self.applied[type(fault).__name__] += 1

    def _distort_paging(self, request: Request, response: Response) -> None:
        if self.repeat_first_page:
            response.headers["pagination-page"] = request.query.get("page", "1")
        if self.count_delta:
            response.headers["pagination-count"] = str(
                max(0, int(response.headers["pagination-count"]) + self.count_delta)
            )
        if self.cap is not None:
            self.cap.apply(request, response)
        if self.no_paging_headers:
            NO_PAGING_HEADERS.apply(response)
