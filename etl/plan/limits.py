"""Where one address, or one PostgreSQL, is not enough for what is to be read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

CONNECTIONS = 7
"""Connections that a process opens at most: its session, four for loading, one for the request budget, one more."""

STREAMS_AT_ONCE = 4
"""Workflows that a process reads at once."""

RUNS_OF_ONE_SERVER = 50_000_000
"""From so many runs on, one PostgreSQL may be too small; see docs/big-warehouses.md."""

STORED_SHARE = 0.95
"""Bytes that a run takes in PostgreSQL, tables and indexes, for each byte of its document."""

NEAR = 0.8
"""A limit is near from this share of it on."""

_DAY = timedelta(days=1)
_ELSEWHERE = "ask the vendor for a higher limit, or share the work over several addresses (--join)"


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be read, and by how many processes.

    Attributes:
        runs: how many the API lists.
        run_bytes: average size of their documents; None if unknown.
        requests: of the command.
        reconcile_requests: of reading everything once.
        reconcile_every: the setting; 0 never.
        requests_per_minute: of one address.
        processes: how many share the work.
        apps: how many list the same workflow, at most.
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
        """How many connections to PostgreSQL are opened at most; the command whose work others do opens some too."""
        return CONNECTIONS * (self.processes + (self.processes > 1))


def near_limits(work: Work, *, connections: int | None, locks: int | None) -> list[str]:
    """Return a sentence for each limit that is near or exceeded.

    Args:
        work: what is to be done.
        connections: that PostgreSQL accepts (`max_connections`); None if unknown.
        locks: that its lock table has room for; None if unknown.
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
