"""Telling others how syncs end: a webhook when that changes, and a dead-man's switch at each start and end.

Neither ever fails a sync or holds it up for long: each call has a time limit, is tried twice, and its failure is a line
in the log. The URLs are secrets; of them only the host is ever shown.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from etl import __version__
from etl.db.statements import statements
from etl.events import Notice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import asyncpg

    from etl.events import Listener

TIMEOUT_S = 5.0
"""For one call."""

_TRIES = 2
_PAUSE_S = 0.5
_NEUTRAL = (75, 130)  # held by others, interrupted: they say nothing of how it stands
_MOST_STREAMS = 20  # named in one message

_SQL = statements("alerts")


@dataclass(frozen=True, slots=True)
class SyncEnd:
    """How a sync ended.

    Attributes:
        mode: sync, backfill or reconcile.
        scope: what it was asked for; what is told of one scope says nothing of another.
        exit_code: as of the command.
        error: what went wrong; '' when nothing did.
        hint: what to do about it.
        summary: `SyncSummary.as_dict()`; empty where it came to none.
    """

    mode: str
    scope: str
    exit_code: int
    error: str
    hint: str
    summary: Mapping[str, Any]

    @property
    def state(self) -> str | None:
        """`good` or `bad`; None where it says neither."""
        if self.exit_code in _NEUTRAL:
            return None
        return "bad" if self.exit_code else "good"

    def text(self) -> str:
        """The end in a sentence or two."""
        if not self.exit_code:
            return f"cortex-etl on {socket.gethostname()}: {self.mode} succeeded"
        hint = f" (hint: {self.hint})" if self.hint else ""
        return f"cortex-etl on {socket.gethostname()}: {self.mode} ended with {self.exit_code}: {self.error}{hint}"


class Caller:
    """Calls URLs that nobody waits for.

    Args:
        listener: hears of calls that failed.
        mask: takes secrets out of what is sent.
        timeout_s: for one call.
    """

    def __init__(self, listener: Listener, mask: Callable[[Any], Any], *, timeout_s: float = TIMEOUT_S) -> None:
        self._listener = listener
        self._mask = mask
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def call(self, url: str, body: Mapping[str, Any] | str) -> bool:
        """POST JSON or text; whether it was taken."""
        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_PAUSE_S)
            try:
                async with aiohttp.ClientSession(timeout=self._timeout) as session:
                    masked = self._mask(body)
                    content: dict[str, Any] = {"data": masked} if isinstance(masked, str) else {"json": masked}
                    async with session.post(url, **content) as answer:
                        if answer.status < 300:
                            return True
                        reason = f"status {answer.status}"
                        if 400 <= answer.status < 500 and answer.status != 429:
                            break
            except TimeoutError:
                reason = f"no answer in {self._timeout.total:g} s"
            except (aiohttp.ClientError, OSError, ValueError) as error:
                reason = type(error).__name__
        host = urlsplit(url).hostname or ""
        self._listener(Notice("alert.refused", {"host": host, "error": reason}, level="warning"))
        return False


class Pings:
    """A dead-man's switch as healthchecks.io has it: URL/start, URL when all went well, URL/fail.

    The start is told when the first stream begins, so that an invocation that finds all streams held says nothing.
    """

    def __init__(self, url: str, caller: Caller) -> None:
        self._url = url
        self._caller = caller
        self._start: asyncio.Task[bool] | None = None

    def begin(self) -> None:
        """Tell of the start, without waiting; once."""
        if self._start is None:
            self._start = asyncio.get_running_loop().create_task(self._caller.call(self._with("/start"), ""))

    async def finish(self, end: SyncEnd) -> None:
        """Tell of the end, after the start."""
        if self._start is not None:
            await self._start
        if end.state is not None:
            await self._caller.call(self._with("/fail" if end.state == "bad" else ""), end.text())

    def _with(self, ending: str) -> str:
        parts = urlsplit(self._url)
        return urlunsplit(parts._replace(path=parts.path.rstrip("/") + ending))


class StateAlerts:
    """A webhook that is called when syncs go from good to bad, and when they are good again.

    What was told last stands in the warehouse, so a call that was not taken is made again by the next sync. While the
    warehouse itself cannot be asked, a file stands in for it.

    Args:
        url: of the webhook.
        caller: makes the call.
        marker: the file.
    """

    def __init__(self, url: str, caller: Caller, marker: Path) -> None:
        self._url = url
        self._caller = caller
        self._marker = marker

    async def tell(self, end: SyncEnd, connection: asyncpg.Connection | None) -> None:
        """Call the webhook where the state differs from what was told.

        Args:
            end: of the sync.
            connection: to the warehouse; None where it cannot be reached.
        """
        if end.state is None:
            return
        name = f"alerts.told {end.scope}".strip()
        row = await connection.fetchrow(_SQL["told"], name) if connection is not None else None
        was = "bad" if self._marker.exists() else row["state"] if row is not None else "good"
        since = row["since"] if row is not None else None
        if end.state != was and not await self._caller.call(self._url, _message(end, was, since)):
            return
        if connection is None:
            self._mark()
            return
        if end.state != was or row is None or row["state"] != end.state:
            await connection.execute(_SQL["tell"], name, end.state, datetime.now(UTC).isoformat(timespec="seconds"))
        self._marker.unlink(missing_ok=True)

    def _mark(self) -> None:
        """Note that it was told; where even that cannot be written, it is told again next time."""
        try:
            self._marker.parent.mkdir(parents=True, exist_ok=True)
            self._marker.touch()
        except OSError:
            return


def _message(end: SyncEnd, was: str, since: str | None) -> dict[str, Any]:
    """The webhook's JSON; `text` is what chat systems show."""
    streams: Sequence[Mapping[str, Any]] = end.summary.get("streams") or ()
    troubled = [each for each in streams if each["outcome"] in ("failed", "partial")]
    text = end.text() if end.state == "bad" else f"{end.text()}; all is well again"
    return {
        "text": text,
        "event": f"sync.{end.state}",
        "state": end.state,
        "was": was,
        "was_since": since,
        "mode": end.mode,
        "scope": end.scope or "all",
        "exit_code": end.exit_code,
        "error": end.error,
        "hint": end.hint,
        "sync_id": end.summary.get("sync_id"),
        "streams": [dict(each) for each in troubled[:_MOST_STREAMS]],
        "streams_in_trouble": len(troubled),
        "host": socket.gethostname(),
        "version": __version__,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
