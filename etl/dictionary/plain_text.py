"""The data dictionary of a warehouse as plain text, for terminals."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from etl.dictionary import CHAPTERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from etl.dictionary import Relation

_INDENT = "  "
_NARROWEST = 24  # minimum width of wrapped text in characters


def overview(relations: Sequence[Relation], width: int) -> Iterator[str]:
    """Yield a line or more for each table and view, by chapter."""
    widest = max(len(relation.name) for relation in relations)
    for number, (chapter, (_, sentence)) in enumerate(CHAPTERS.items()):
        if number:
            yield ""
        yield sentence
        for relation in relations:
            if relation.chapter == chapter:
                yield from _row([(relation.name, widest)], relation.comment, width)


def description(relation: Relation, width: int) -> Iterator[str]:
    """Yield the description of a table or view, and the type and meaning of each column, as lines."""
    yield f"{relation.name} ({'view' if relation.is_view else 'table'})"
    yield from textwrap.wrap(relation.comment, max(width, _NARROWEST))
    yield ""
    types = [f"{column.short_type}, {column.kind}" if column.kind else column.short_type for column in relation.columns]
    widths = [max(map(len, (column.name for column in relation.columns))), max(map(len, types))]
    for column, kind in zip(relation.columns, types, strict=True):
        yield from _row([(column.name, widths[0]), (kind, widths[1])], column.comment, width)


def _row(cells: Sequence[tuple[str, int]], text: str, width: int) -> list[str]:
    """Return the lines of a row: cells padded to their widths, followed by wrapped text."""
    start = _INDENT + "".join(f"{cell:<{size}}{_INDENT}" for cell, size in cells)
    return textwrap.wrap(
        text,
        max(width, len(start) + _NARROWEST),
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
    ) or [start.rstrip()]
