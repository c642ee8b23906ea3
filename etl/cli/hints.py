"""Combine the hints of several streams, without duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_OPTION = " --workflow "
_MOST_SELECTED = 5  # workflows that a hint names; for more, the command is run for all


def shared(hints: Sequence[str]) -> list[str]:
    """Return the hints. Hints that name the same command for one workflow each are merged into one hint for all."""
    parts = [hint.partition(_OPTION) for hint in hints]
    selected: dict[str, list[str]] = {}
    for start, option, workflow in parts:
        if option and workflow not in (known := selected.setdefault(start, [])):
            known.append(workflow)
    return [
        start + (_OPTION + _OPTION.join(selected[start]) if option and len(selected[start]) <= _MOST_SELECTED else "")
        for start, option, _ in parts
    ]
