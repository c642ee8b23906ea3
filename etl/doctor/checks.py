"""One finding of `cortex-etl doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it is, what was found, and what to do about it; `exit_code` counts where it failed."""

    name: str
    state: Literal["ok", "warning", "failed"]
    found: str
    hint: str = ""
    exit_code: int = 0


def ok(name: str, found: str) -> Check:
    """Make a finding that needs nothing done."""
    return Check(name, "ok", found)


def warning(name: str, found: str, hint: str) -> Check:
    """Make a finding that should be looked at, though things work."""
    return Check(name, "warning", found, hint)


def failed(name: str, found: str, hint: str, exit_code: int) -> Check:
    """Make a finding without whose hint a sync cannot work."""
    return Check(name, "failed", found, hint, exit_code)
