"""What one transaction loads, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from etl.normalize import RunRows

Provenance: TypeAlias = "Callable[[str], tuple[bytes, str, int | None]]"
"""Tells of a run of a batch, by its id, its bytes for the quarantine, the URL it came from, and the page."""


@dataclass(frozen=True, slots=True)
class Reject:
    """One item for the quarantine, with its bytes as received and where it came from."""

    run_id: str | None
    url: str
    page: int | None
    reason: str
    error: str
    payload: bytes
    digest: bytes


@dataclass(slots=True)
class Batch:
    """What one transaction loads.

    `new` runs are not in the warehouse as far as is known, `changed` ones may be. `shared` ones were found in another
    app's listing first. `gone` ones are listed no more, for this app. `settled` are runs of which a good copy, or none
    at all, is listed now: their rejects are done with.
    """

    new: list[RunRows] = field(default_factory=list)
    changed: list[RunRows] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    cursor: str | None = None
    moves_cursor: bool = False

    def __bool__(self) -> bool:
        runs = self.new or self.changed or self.restored or self.shared or self.gone
        return bool(runs or self.rejects or self.settled) or self.moves_cursor

    def halves(self) -> tuple[Batch, Batch]:
        """Its new and changed runs in two halves, each with what it settles; all else goes with the second."""
        of_new = (len(self.new) + len(self.changed)) // 2
        of_changed = max(0, of_new - len(self.new))
        first = Batch(self.new[:of_new], self.changed[:of_changed])
        early = {rows.run_id for rows in (*first.new, *first.changed)}
        first.settled = [run_id for run_id in self.settled if run_id in early]
        late = [run_id for run_id in self.settled if run_id not in early]
        return first, replace(self, new=self.new[of_new:], changed=self.changed[of_changed:], settled=late)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a transaction did."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    gone: int = 0
    rows: int = 0
    seconds: float = 0.0

    def __add__(self, other: Loaded) -> Loaded:
        return Loaded(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))
