"""Batches: the rows that one transaction writes, and the result of that transaction."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from etl.errors import RejectReason
    from etl.normalize.rows import RunRows


class Item(NamedTuple):
    """An item as received: its bytes and their hash, the id of its run (None if it has no id), and its origin.

    `received_at` is a value of `time.monotonic()`.
    """

    raw: bytes
    digest: bytes
    run_id: str | None
    url: str
    page: int
    received_at: float

    @property
    def key(self) -> str:
        """The key that identifies the item in the listing: the run id, or the hash of an item without an id."""
        return self.digest.hex() if self.run_id is None else self.run_id


ID_TAKEN: Final = "the workflow {} lists a run with the same id"
"""Error message of rejects with the reason `id_taken`."""


@dataclass(frozen=True, slots=True)
class Reject:
    """One item for the quarantine, identified by its digest."""

    run_id: str | None
    item: Item
    reason: RejectReason
    error: str

    @property
    def digest(self) -> bytes:
        """The hash of the item's bytes as received."""
        return self.item.digest


@dataclass(slots=True)
class Batch:
    """The content of one transaction.

    Attributes:
        new: runs that are probably not in the warehouse.
        changed: runs that may be in the warehouse.
        items: the new and changed runs as received, by run id, to be quarantined if they cannot be stored.
        restored: ids of unchanged runs that had `gone_at` and are listed again.
        claimed: ids of runs that moved from the listing of another workflow to the listing of this one.
        shared: ids of runs that another app's listing contained first.
        gone: ids of runs that this app no longer lists.
        rejects: items for the quarantine.
        resolved: ids of runs whose rejects are resolved: a valid copy of the run is listed, or the run is not listed.
        cursor: where an interrupted backfill resumes; None leaves the stored cursor unchanged.
        authoritative: whether the runs were requested by id. Such a copy replaces the stored one even if it is older.
    """

    new: list[RunRows] = field(default_factory=list)
    changed: list[RunRows] = field(default_factory=list)
    items: dict[str, Item] = field(default_factory=dict)
    restored: list[str] = field(default_factory=list)
    claimed: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    cursor: str | None = None
    authoritative: bool = False

    def __bool__(self) -> bool:
        runs = self.new or self.changed or self.restored or self.claimed or self.shared or self.gone
        return bool(runs or self.rejects or self.resolved) or self.cursor is not None

    def halves(self) -> tuple[Batch, Batch]:
        """Split the new and changed runs, with their resolved ids, into halves.

        `claimed` is in both halves, everything else in the second.
        """
        of_new = (len(self.new) + len(self.changed)) // 2
        of_changed = max(0, of_new - len(self.new))
        first = Batch(self.new[:of_new], self.changed[:of_changed], self.items, authoritative=self.authoritative)
        first.claimed = self.claimed
        early = {rows.run_id for rows in (*first.new, *first.changed)}
        first.resolved = [run_id for run_id in self.resolved if run_id in early]
        late = [run_id for run_id in self.resolved if run_id not in early]
        return first, replace(self, new=self.new[of_new:], changed=self.changed[of_changed:], resolved=late)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of a transaction: numbers of runs, of rows written, and its duration."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    gone: int = 0
    rows: int = 0
    seconds: float = 0.0

    def __add__(self, other: Loaded) -> Loaded:
        return Loaded(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))
