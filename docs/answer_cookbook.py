"""Writes the answers into `cookbook.md`: `python docs/answer_cookbook.py URL`, the URL being the demo warehouse's.

`cortex-etl sql --demo --url --show-password` prints it.
"""

from __future__ import annotations

import asyncio
import re
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etl.db.query import run_query

if TYPE_CHECKING:
    from etl.db.query import QueryResult

PAGE = Path(__file__).with_name("cookbook.md")
SHOWN_ROWS = 10

_QUESTION = re.compile(
    r"^### (?P<title>.+?)\n(?P<note>.*?)^```sql\n(?P<sql>.*?)^```\n(?P<answer>.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL
)


def questions(page: str) -> list[re.Match[str]]:
    """The questions of the page, each with the groups title, note, sql and answer."""
    return list(_QUESTION.finditer(page))


async def answer(page: str, url: str) -> str:
    """The page with every answer written anew."""
    parts = []
    end = 0
    for question in questions(page):
        result = await run_query(url, "cortex", question["sql"], timeout_s=60)
        parts += [page[end : question.start("answer")], "\n", table(result), "\n\n"]
        end = question.end("answer")
    return "".join([*parts, page[end:]]).rstrip() + "\n"


def table(result: QueryResult) -> str:
    """A result as a Markdown table, numbers to the right."""
    if not result.rows:
        return "None."
    numbers = [_is_number([row[place] for row in result.rows]) for place in range(len(result.columns))]
    lines = [result.columns, ["---:" if number else "---" for number in numbers]]
    lines += [[cell(value) for value in row] for row in result.rows[:SHOWN_ROWS]]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    more = len(result.rows) - SHOWN_ROWS
    return text + (f"\n\nand {more} more." if more > 0 else "")


def _is_number(values: list[Any]) -> bool:
    told = [value for value in values if value is not None]
    return bool(told) and all(isinstance(value, int | float | Decimal) for value in told)


def cell(value: Any) -> str:
    """A value as a cell shows it."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    text = f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
    text = " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*")
    return text if len(text) <= 60 else text[:59] + "…"


if __name__ == "__main__":
    PAGE.write_text(asyncio.run(answer(PAGE.read_text(encoding="utf-8"), sys.argv[1])), encoding="utf-8")
