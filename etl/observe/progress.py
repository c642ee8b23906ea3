"""A progress view for people: one bar a stream that runs, one for all of them, and the use of the request budget."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from etl import events

if TYPE_CHECKING:
    from types import TracebackType

_WINDOW_S = 60.0


class ProgressView:
    """Shows events as bars on stderr while it is entered; `listen` is its listener.

    Args:
        requests_per_minute: the allowance, to show how much of it is used.
        console: where to draw; None takes stderr.
    """

    def __init__(self, requests_per_minute: int, console: Console | None = None) -> None:
        self._allowance = requests_per_minute
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[note]}", style="dim"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console or Console(stderr=True),
            transient=True,
        )
        self._all: TaskID | None = None
        self._bars: dict[events.StreamId, TaskID] = {}
        self._sent: deque[float] = deque()
        self._streams = self._finished = self._runs = 0
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def listen(self, event: events.Event) -> None:
        """Move the bars; a listener."""
        match event:
            case events.SyncStarted():
                self._streams = len(event.streams)
                self._all = self._progress.add_task(event.mode, total=None, unit="pages", note="")
            case events.StreamStarted():
                self._stream_started(event)
            case events.PageRead():
                self._page_read(event)
            case events.RequestSent():
                self._sent.append(time.monotonic())
            case events.StreamFinished():
                self._stream_finished(event)
            case events.RateLimited():
                self._note(f"the API asked for a pause of {event.wait_s:.0f} s")
            case _:
                pass

    def _stream_started(self, event: events.StreamStarted) -> None:
        if event.stream not in self._bars:
            name = f"  {event.stream.workflow_id}"
            self._bars[event.stream] = self._progress.add_task(name, total=event.pages, unit="pages", note="")
        elif event.pages is not None:
            self._progress.update(self._bars[event.stream], total=event.pages)
        self._sum_up()

    def _page_read(self, event: events.PageRead) -> None:
        self._runs += event.items
        bar = self._bars.get(event.stream)
        if bar is not None:
            note = f"{event.new} new, {event.changed} changed" if event.new or event.changed else ""
            self._progress.update(bar, advance=1, note=note)
            total = next(task.total for task in self._progress.tasks if task.id == bar)
            if event.pages_total is not None and (total is None or event.pages_total > total):
                self._progress.update(bar, total=event.pages_total)
        self._sum_up()

    def _stream_finished(self, event: events.StreamFinished) -> None:
        self._finished += 1
        bar = self._bars.get(event.stream)
        if bar is not None:
            self._progress.update(bar, visible=event.outcome == "failed", note=event.error)
        self._sum_up()

    def _sum_up(self) -> None:
        if self._all is None:
            return
        bars = [task for task in self._progress.tasks if task.id != self._all]
        known = all(task.total is not None for task in bars) and len(bars) >= self._streams
        total = sum(task.total or 0 for task in bars) if known else None
        self._progress.update(self._all, completed=sum(task.completed for task in bars), total=total)
        now = time.monotonic()
        while self._sent and self._sent[0] < now - _WINDOW_S:
            self._sent.popleft()
        rate = self._runs / max(now - self._began, 0.001)
        used = f"{len(self._sent)} of {self._allowance} requests/min"
        self._note(f"{self._finished} of {self._streams} streams, {self._runs:,} runs, {rate:,.0f}/s, {used}")

    def _note(self, text: str) -> None:
        if self._all is not None:
            self._progress.update(self._all, note=text)
