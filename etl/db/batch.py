"""The content of one transaction, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from etl.errors import RejectReason
    from etl.normalize.rows import RunRows


class Item(NamedTuple):
    """An item as received: its bytes, their hash, its run's id (None where it has none), and where it came from.

    `received_at` is a reading of `time.monotonic`.
    """

    raw: bytes
    digest: bytes
    run_id: str | None
    url: str
    page: int
    received_at: float

    @property
    def key(self) -> str:
        """What identifies the item in the listing."""
        return self.digest.hex() if self.run_id is None else self.run_id


@dataclass(frozen=True, slots=True)
class Reject:
    """One item for the quarantine; its digest identifies it."""

    run_id: str | None
    item: Item
    reason: RejectReason
    error: str

    @property
    def digest(self) -> bytes:
        """The hash of its bytes as received."""
        return self.item.digest


@dataclass(slots=True)
class Batch:
    """The content of one transaction.

    Attributes:
        new: runs that are probably not in the warehouse.
        changed: runs that may be in the warehouse.
        items: these runs as received, by run id, in case PostgreSQL refuses one.
        restored: ids of unchanged runs that had `gone_at` and are listed again.
        claimed: ids of runs that now stand in the listing of this workflow instead of another one.
        shared: ids of runs that were found in another app's listing first.
        gone: ids of runs that this app no longer lists.
        rejects: items for the quarantine.
        settled: ids of runs whose rejects are resolved, because a valid copy or none is listed now.
        cursor: where an interrupted backfill resumes; None leaves it as it is.
        authoritative: whether the runs are the API's answers for each alone, which replace stored copies whatever their
            age.
    """

    new: list[RunRows] = field(default_factory=list)
    changed: list[RunRows] = field(default_factory=list)
    items: dict[str, Item] = field(default_factory=dict)
    restored: list[str] = field(default_factory=list)
    claimed: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    cursor: str | None = None
    authoritative: bool = False

    def __bool__(self) -> bool:
        runs = self.new or self.changed or self.restored or self.claimed or self.shared or self.gone
        return bool(runs or self.rejects or self.settled) or self.cursor is not None

    def halves(self) -> tuple[Batch, Batch]:
        """Split the new and changed runs into halves with their settled ids; everything else goes to the second."""
        of_new = (len(self.new) + len(self.changed)) // 2
        of_changed = max(0, of_new - len(self.new))
        first = Batch(self.new[:of_new], self.changed[:of_changed], self.items, authoritative=self.authoritative)
        first.claimed = self.claimed
        early = {rows.run_id for rows in (*first.new, *first.changed)}
        first.settled = [run_id for run_id in self.settled if run_id in early]
        late = [run_id for run_id in self.settled if run_id not in early]
        return first, replace(self, new=self.new[of_new:], changed=self.changed[of_changed:], settled=late)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of a transaction."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    gone: int = 0
    rows: int = 0
    seconds: float = 0.0

    def __add__(self, other: Loaded) -> Loaded:
        return Loaded(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))
