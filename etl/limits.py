"""Limits of the API, of a process and of PostgreSQL, and warnings that one of each is not enough for the work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

WINDOW_S = 60.0
"""The API counts requests in any 60 seconds."""

GUARD_SHARE = 1 / 150
"""A request counts for this share of the window longer, because its way to the API may take longer (0.4 s of 60 s)."""

CONNECTIONS = 7
"""How many connections a process opens at most: one session, four to load, one for the request budget, one spare."""

STREAMS_AT_ONCE = 4
"""How many workflows a process reads concurrently. More would use more memory without being faster: the rate limit or
PostgreSQL is the bottleneck."""

RUNS_OF_ONE_SERVER = 50_000_000
"""With more runs, one PostgreSQL may be too small; see docs/big-warehouses.md."""

STORED_SHARE = 0.95
"""Size of a run in PostgreSQL, including indexes, relative to the size of its document."""

NEAR = 0.8
"""Warn at this fraction of a limit."""

_DAY = timedelta(days=1)
_ELSEWHERE = "ask the vendor for a higher limit, or share the work over several addresses (--join)"


@dataclass(frozen=True, slots=True)
class Work:
    """The work to be done, and by how many processes.

    Attributes:
        runs: number of runs that the API lists.
        run_bytes: mean size of their documents in bytes; None if unknown.
        requests: number of requests of the command.
        reconcile_requests: number of requests to read everything once.
        reconcile_every: the setting; 0: never.
        requests_per_minute: rate limit of one address.
        processes: number of processes that share the work.
        apps: the largest number of apps that list the same workflow.
    """

    runs: int
    run_bytes: int | None
    requests: int
    reconcile_requests: int
    reconcile_every: timedelta
    requests_per_minute: int
    processes: int = 1
    apps: int = 1

    @property
    def connections(self) -> int:
        """The maximum number of connections to PostgreSQL; a command that starts other processes opens some too."""
        return CONNECTIONS * (self.processes + (self.processes > 1))


def near_limits(work: Work, *, connections: int | None, locks: int | None) -> list[str]:
    """Return a sentence for each limit that is nearly reached or exceeded.

    Args:
        work: the work to be done.
        connections: PostgreSQL's `max_connections`; None if unknown.
        locks: number of locks that fit in PostgreSQL's lock table; None if unknown.
    """
    found = []
    minute, rate = timedelta(minutes=1), work.requests_per_minute
    needed, reconcile = (minute * (each / rate) for each in (work.requests, work.reconcile_requests))
    if needed > _DAY:
        found.append(f"one address needs {_span(needed)} for {work.requests:,} requests: {_ELSEWHERE}")
    if work.reconcile_every and reconcile > NEAR * work.reconcile_every:
        found.append(
            f"one address reads everything in {_span(reconcile)}, and sync.reconcile_every is"
            f" {_span(work.reconcile_every)}: set it higher, or {_ELSEWHERE}"
        )
    opened = work.connections
    if connections is not None and opened > NEAR * connections:
        found.append(
            f"{work.processes:,} processes open up to {opened:,} connections, and PostgreSQL accepts {connections:,}:"
            " raise max_connections, or lower engine.workers"
        )
    held = work.processes * STREAMS_AT_ONCE * (work.apps + 1)
    if locks is not None and held > NEAR * locks:
        found.append(
            f"{work.processes:,} processes hold up to {held:,} locks of streams, and PostgreSQL has room for {locks:,}"
            " locks in all: raise max_locks_per_transaction"
        )
    if work.runs > NEAR * RUNS_OF_ONE_SERVER:
        gigabytes = work.runs * (work.run_bytes or 0) * STORED_SHARE / 1e9
        size = f" ({gigabytes:,.0f} GB)" if gigabytes else ""
        found.append(f"{work.runs:,} runs{size} may be too many for one PostgreSQL: see docs/big-warehouses.md")
    return found


def _span(time: timedelta) -> str:
    hours = time / timedelta(hours=1)
    return f"{hours:,.1f} hours" if hours < 48 else f"{hours / 24:,.1f} days"
