"""The data dictionary as plain text."""

from __future__ import annotations

from etl.dictionary import Column, Relation, description, overview

ONE = Relation(
    "runs",
    is_view=False,
    comment="One row per run.",
    columns=(
        Column("id", "text", "key", "Id."),
        Column("created_at", "timestamp with time zone", "", "When it was created, as the API gives it."),
        Column("note", "text", "", ""),
    ),
    references={},
    indexes={},
)
OTHER = Relation("run_tree", is_view=True, comment="One row per run and root.", columns=(), references={}, indexes={})


def test_meanings_are_wrapped_beside_the_columns() -> None:
    assert list(description(ONE, 60)) == [
        "runs (table)",
        "One row per run.",
        "",
        "  id          text, key    Id.",
        "  created_at  timestamptz  When it was created, as the API",
        "                           gives it.",
        "  note        text",
    ]
    assert list(description(ONE, 1000))[4] == "  created_at  timestamptz  When it was created, as the API gives it."
    assert all(len(line) <= 27 + 24 for line in description(ONE, 10))


def test_relations_are_listed_by_chapter() -> None:
    lines = list(overview([ONE, OTHER], 80))
    assert lines[:2] == ["Workflow runs and their steps, calls and usage.", "  runs      One row per run."]
    assert lines[lines.index("Ready-made answers to common questions.") + 1] == "  run_tree  One row per run and root."
