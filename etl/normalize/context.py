"""Where the runs come from, and what of them is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etl.normalize.definition_cache import Definitions
    from etl.normalize.redaction import Redactor


@dataclass(frozen=True, slots=True)
class Stream:
    """The listing that runs stand in (its ids cleaned), the definitions they share, and what of them is stored."""

    app_id: str
    workflow_id: str
    definitions: Definitions
    store_payloads: bool
    redactor: Redactor | None
