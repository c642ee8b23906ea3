"""One check of `cortex-etl doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """What was checked, the result, the details, and a hint. `exit_code` is that of a failed check."""

    name: str
    state: Literal["ok", "warning", "failed"]
    found: str
    hint: str = ""
    exit_code: int = 0


def ok(name: str, found: str) -> Check:
    """Make a check that passed."""
    return Check(name, "ok", found)


def warning(name: str, found: str, hint: str) -> Check:
    """Make a check that passed but needs attention."""
    return Check(name, "warning", found, hint)


def failed(name: str, found: str, hint: str, exit_code: int) -> Check:
    """Make a check whose failure keeps a sync from working."""
    return Check(name, "failed", found, hint, exit_code)
