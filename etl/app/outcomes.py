"""The outcomes of an invocation's streams, and their changes when the invocation ends."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from etl.db.session import Session
from etl.errors import InterruptedSyncError
from etl.events import Notice
from etl.sync import Outcome
from etl.sync.intake import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl.app.warehouse import Warehouse
    from etl.errors import EtlError
    from etl.events import Listener, StreamId


@dataclass(slots=True)
class Outcomes:
    """The streams of an invocation, and the outcomes of those that have ended."""

    streams: Sequence[StreamId] = ()
    ended: dict[StreamId, Outcome] = field(default_factory=dict)
    _unrecorded: list[Outcome] = field(default_factory=list)

    async def compare_again(self, warehouse: Warehouse, listener: Listener) -> None:
        """Compare all counts again, because a stream may have loaded runs that another stream had counted before."""
        succeeded = [each for each in self.ended.values() if each.status == "succeeded" and each.api_count is not None]
        counted = {each.stream: each.state for each in succeeded if each.state is not None}
        if not counted:
            return
        for stream, row in (await warehouse.ask(lambda session: session.compare_again(counted))).items():
            error, hint = row["last_error"], row["last_hint"]
            changes = {"warehouse_count": row["accounted_for"], "error": error, "hint": hint}
            self.ended[stream] = replace(self.ended[stream], status="partial", **changes)
            listener(Notice("stream.incomplete", {"stream": str(stream), **changes}, level="warning"))

    def end_with(self, error: EtlError) -> None:
        """Set the outcomes of streams that have not ended, from the error that ended the invocation."""
        status = "interrupted" if isinstance(error, InterruptedSyncError) else "failed"
        for stream in self.streams:
            ended = self.ended.get(stream)
            if ended is None or ended.status == "interrupted":
                tally, state = (Tally(), None) if ended is None else (ended.tally, ended.state)
                outcome = Outcome(stream, status, error=error.message, hint=error.hint, tally=tally, state=state)
                self.ended[stream] = outcome
                self._unrecorded += [outcome] if status == "failed" else []

    async def record_failures(self, warehouse: Warehouse) -> None:
        """Store the errors of streams that `end_with` has marked as failed."""
        for each in self._unrecorded:
            fence = None if each.state is None else each.state.fence
            failure: dict[str, Any] = {"stream": each.stream, "fence": fence, "error": each.error, "hint": each.hint}
            await warehouse.ask(partial(Session.fail_stream, **failure))
