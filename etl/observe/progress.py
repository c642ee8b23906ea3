"""Progress bars: one per running stream, one for the whole sync, and the share of the request budget in use."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from etl import events
from etl.text import counted, visible

if TYPE_CHECKING:
    from types import TracebackType

    from etl.observe.secrets import Mask

_WINDOW_S = 60.0


@dataclass(slots=True)
class _Bar:
    """The progress bar of a stream: pages read and expected, new and changed runs, rows written."""

    task: TaskID
    began: float
    runs: int = 0
    pages: int = 0
    expected: int | None = None
    new: int = 0
    changed: int = 0
    rows: int = 0
    done: bool = False

    @property
    def share(self) -> float:
        """Progress of the stream, 0 to 1."""
        if self.done:
            return 1.0
        return min(1.0, self.pages / self.expected) if self.expected else 0.0


class ProgressView:
    """A context manager that shows progress bars on stderr; `listen` is the listener.

    Args:
        requests_per_minute: the rate limit, for showing how much of it is used.
        mask: masks secrets in messages of the API.
        console: the console to draw on; None for stderr.
    """

    def __init__(self, requests_per_minute: int, mask: Mask, console: Console | None = None) -> None:
        self._requests_per_minute = requests_per_minute
        self._mask = mask
        # With 80 columns, only the ends of names and notes are truncated.
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False, table_column=_cut(max_width=20)),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[count]}", justify="right", table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=_cut(ratio=1)),
            TimeRemainingColumn(compact=True),
            console=console or Console(stderr=True),
            transient=True,
            expand=True,
        )
        self._all: TaskID | None = None
        self._bars: dict[events.StreamId, _Bar] = {}
        self._sent: deque[float] = deque()
        self._streams = self._runs = 0
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
        """Update the bars."""
        match event:
            case events.SyncStarted():
                self._streams = len(event.streams)
                self._all = self._progress.add_task(event.mode, total=self._streams or None, count="", note="")
            case events.StreamStarted():
                self._bar(event.stream)
                self._draw(event.stream)
            case events.PageRead():
                self._page_read(event)
            case events.BatchLoaded():
                bar = self._bar(event.stream)
                bar.new += event.inserted
                bar.changed += event.updated
                bar.rows += event.rows
                self._draw(event.stream)
            case events.RequestSent():
                self._sent.append(time.monotonic())
            case events.StreamFinished():
                self._stream_finished(event)
            case events.RateLimited():
                self._note(f"rate limited, waiting {event.wait_s:.0f} s")
            case _:
                pass

    def _bar(self, stream: events.StreamId) -> _Bar:
        if stream not in self._bars:
            task = self._progress.add_task(f"  {self._clean(stream.workflow_id)}", total=None, count="", note="")
            self._bars[stream] = _Bar(task, time.monotonic())
        return self._bars[stream]

    def _page_read(self, event: events.PageRead) -> None:
        bar = self._bar(event.stream)
        bar.pages += 1
        if event.pages_total is not None:
            bar.expected = max(bar.expected or 0, event.pages_total)
        if bar.expected is not None:
            bar.expected = max(bar.expected, bar.pages)  # some pages are read again
        bar.runs += event.items
        self._runs += event.items
        self._draw(event.stream)

    def _stream_finished(self, event: events.StreamFinished) -> None:
        bar = self._bar(event.stream)
        bar.done = True
        failed = event.outcome == "failed"
        self._progress.update(bar.task, visible=failed, note=self._clean(event.error) if failed else "")
        self._update_total()

    def _clean(self, text: str) -> str:
        return visible(self._mask(text))

    def _draw(self, stream: events.StreamId) -> None:
        bar = self._bars[stream]
        count = f"{bar.pages}/{bar.expected} pages" if bar.expected else counted(bar.pages, "page")
        counts = ((bar.new, "new"), (bar.changed, "changed"), (bar.rows, "rows"))
        note = ", ".join([_rate(bar.runs, bar.began), *(f"{n:,} {word}" for n, word in counts if n)])
        self._progress.update(bar.task, completed=bar.pages, total=bar.expected, count=count, note=note)
        self._update_total()

    def _update_total(self) -> None:
        if self._all is None:
            return
        now = time.monotonic()
        while self._sent and self._sent[0] < now - _WINDOW_S:
            self._sent.popleft()
        done = sum(bar.done for bar in self._bars.values())
        share = sum(bar.share for bar in self._bars.values())
        self._progress.update(self._all, completed=share, count=f"{done}/{self._streams} streams")
        budget = f"{len(self._sent) / self._requests_per_minute:.0%} of {self._requests_per_minute:,} requests/min"
        self._note(f"{_rate(self._runs, self._began)}, {budget}, {counted(self._runs, 'run')}")

    def _note(self, text: str) -> None:
        if self._all is not None:
            self._progress.update(self._all, note=text)


def _rate(runs: int, began: float) -> str:
    """Format runs per second."""
    return f"{runs / max(time.monotonic() - began, 0.001):,.0f} runs/s"


def _cut(*, max_width: int | None = None, ratio: int | None = None) -> Column:
    """Return a column that is truncated to the available width."""
    return Column(no_wrap=True, overflow="ellipsis", max_width=max_width, ratio=ratio)
