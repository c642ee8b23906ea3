"""The questions and queries of `docs/cookbook.md`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SOURCE = Path(__file__).parents[2] / "docs" / "cookbook.md"

_QUESTION = re.compile(
    r"^### (?P<title>.+?)\n(?P<note>.*?)^```sql\n(?P<sql>.*?)^```\n(?P<answer>.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question of the cookbook. `start` and `end` are the indexes of its answer in the page."""

    title: str
    note: str
    sql: str
    answer: str
    start: int
    end: int


def page() -> str:
    """Return the text of the cookbook, from the installed package or from the source tree."""
    installed = files("etl").joinpath("cookbook.md")
    return (installed if installed.is_file() else _SOURCE).read_text(encoding="utf-8")


def questions(text: str) -> list[Question]:
    """Return the questions of a cookbook, in order."""
    return [
        Question(
            title=found["title"],
            note=found["note"].strip(),
            sql=found["sql"].strip(),
            answer=found["answer"].strip(),
            start=found.start("answer"),
            end=found.end("answer"),
        )
        for found in _QUESTION.finditer(text)
    ]


def examples(found: Sequence[Question], words: str) -> Iterator[str]:
    """Yield the questions that contain all words, with their queries; without words, the titles of all questions."""
    wanted = words.lower().split()
    for each in found:
        if not wanted:
            yield f"- {each.title}"
        elif all(word in f"{each.title} {each.note} {each.sql}".lower() for word in wanted):
            yield "\n".join(filter(None, (f"### {each.title}", each.note, f"```sql\n{each.sql}\n```")))
