"""The result of a check of `cortex-etl doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check: its name, state, details and hint. `exit_code` is that of a failed check."""

    name: str
    state: Literal["ok", "warning", "failed"]
    found: str
    hint: str = ""
    exit_code: int = 0


def ok(name: str, found: str) -> Check:
    """Return the result of a check that passed."""
    return Check(name, "ok", found)


def warning(name: str, found: str, hint: str) -> Check:
    """Return the result of a check that needs attention, but does not prevent a sync."""
    return Check(name, "warning", found, hint)


def failed(name: str, found: str, hint: str, exit_code: int) -> Check:
    """Return the result of a failed check, which prevents a sync."""
    return Check(name, "failed", found, hint, exit_code)
