"""Fill in missing results in `cookbook.md`, with `--all` every result: `python docs/answer_cookbook.py URL`.

The URL is that of the demo's warehouse; `cortex-etl sql --demo --url --show-password` prints it.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etl.assistant.cookbook import questions
from etl.db.querying import run_query

if TYPE_CHECKING:
    from etl.db.querying import QueryResult

PAGE = Path(__file__).with_name("cookbook.md")
SHOWN_ROWS = 10


async def answer(page: str, url: str, *, renew: bool) -> str:
    """Return the page with an answer for each question; `renew` replaces those that are there."""
    parts = []
    end = 0
    for question in questions(page):
        if question.answer and not renew:
            continue
        result = await run_query(url, "cortex", question.sql, timeout_s=60)
        parts += [page[end : question.start], "\n", table(result), "\n\n"]
        end = question.end
    return "".join([*parts, page[end:]]).rstrip() + "\n"


def table(result: QueryResult) -> str:
    """Format a result as a Markdown table, with numbers aligned to the right."""
    if not result.rows:
        return "None."
    numbers = [_is_number([row[index] for row in result.rows]) for index in range(len(result.columns))]
    lines = [result.columns, ["---:" if number else "---" for number in numbers]]
    lines += [[cell(value) for value in row] for row in result.rows[:SHOWN_ROWS]]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    more = len(result.rows) - SHOWN_ROWS
    return text + (f"\n\nand {more} more." if more > 0 else "")


def _is_number(values: list[Any]) -> bool:
    present = [value for value in values if value is not None]
    return bool(present) and all(isinstance(value, int | float | Decimal) for value in present)


def cell(value: Any) -> str:
    """Format a value for a cell."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    text = f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
    text = " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*")
    return text if len(text) <= 60 else text[:59] + "…"


if __name__ == "__main__":
    urls = [each for each in sys.argv[1:] if each != "--all"]
    text = asyncio.run(answer(PAGE.read_text(encoding="utf-8"), *urls, renew="--all" in sys.argv))
    PAGE.write_text(text, encoding="utf-8")
