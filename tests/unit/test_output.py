"""Output of results: values, CSV, JSON, tables."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from rich.console import Console

from etl.cli.output import encode_json, fitted, plain, table, write_csv, write_json, write_result
from etl.cli.status import span


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (Decimal("1E+3"), "1000"),
        (Decimal("0.10"), "0.10"),
        (Decimal("NaN"), "NaN"),
        (1.5, "1.5"),
        (float("-inf"), "-Infinity"),
        (datetime(2026, 11, 1, 12, tzinfo=UTC), "2026-11-01 12:00:00+00:00"),
        (b"\x00\xff", "\\x00ff"),
        (["a", None, 1, [2, 3]], "{a,NULL,1,{2,3}}"),
        (
            ["", "null", "a b", "a,b", 'q"', "b\\", "{x", [1.5, None]],
            r"""{"","null","a b","a,b","q\"","b\\","{x",{1.5,NULL}}""",
        ),
        ("ü🌍", "ü🌍"),
    ],
)
def test_readable_values(value, text) -> None:
    assert plain(value) == text


def test_csv_round_trip(capsys) -> None:
    values = ["plain", 'quo"ted', "com,ma", "li\nne", "cr\r", " blank ", "\\.", "🌍"]
    write_csv(["a"], [[value] for value in values])
    read = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert [row[0] for row in read] == ["a", *values]


def test_csv_distinguishes_null_from_empty(capsys) -> None:
    write_csv(["a", "b"], [[None, ""]])
    assert capsys.readouterr().out == 'a,b\n,""\n'


def test_json_keeps_digits_and_documents(capsys) -> None:
    row = [Decimal("12345678901234567890.10"), '{"x": 1.000}', ['{"y": 2.00}', None], float("nan"), Decimal("Infinity")]
    write_json(["n", "doc", "docs", "nan", "inf"], ["numeric", "jsonb", "jsonb[]", "float8", "numeric"], [row])
    out = capsys.readouterr().out
    assert '"n":12345678901234567890.10,"doc":{"x": 1.000}' in out
    assert json.loads(out)[0]["nan"] == "NaN"
    assert json.loads(out)[0]["inf"] == "Infinity"


def test_json_renames_duplicate_columns(capsys) -> None:
    write_json(["n", "n"], ["int4", "int4"], [[1, 2]])
    assert json.loads(capsys.readouterr().out) == [{"n": 1, "n_2": 2}]


def test_singular_and_plural(capsys) -> None:
    write_result("table", ["n"], ["int4"], [[1]])
    assert capsys.readouterr().out.endswith("(1 row)\n")


def test_markup_in_data_is_escaped() -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(table(["[red]head"], [["[bold]cell[/bold]"]]))
    assert "[red]head" in out.getvalue()
    assert "[bold]cell[/bold]" in out.getvalue()


def test_narrow_terminal_truncates() -> None:
    out = io.StringIO()
    Console(file=out, width=30).print(table(["a", "b"], [["x" * 50, "y" * 50]]))
    assert len(out.getvalue().splitlines()) == 3
    assert max(len(line) for line in out.getvalue().splitlines()) <= 30


def shown(columns, rows, width, **options) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(fitted(columns, rows, width=width, **options), markup=False)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_numbers_are_never_truncated() -> None:
    lines = shown(["id", "credits", "error"], [["x" * 30, Decimal("0.00084969000000000001"), "y" * 90]], 60)
    assert lines[0].split() == ["id", "credits", "error"]
    assert "0.00084969000000000001" in lines[2]
    assert lines[2].count("…") == 2
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize(("width", "cut"), [(53, False), (42, False), (36, True)])
def test_headings_wrap_before_text_is_truncated(width: int, *, cut: bool) -> None:
    columns = ["workflow", "state", "recon\u00adciled", "quaran\u00adtined"]
    lines = shown(columns, [["Nightly refresh", "complete", "2d", 1_000_000]], width, whole=(1, 2))
    assert ("quarantined" in lines[0]) == (width == 53)
    assert ("…" in lines[-1]) == cut
    assert lines[-1].split()[-3:] == ["complete", "2d", "1000000"]
    assert max(map(len, lines)) <= width


def test_wide_characters_take_two_columns() -> None:
    lines = shown(["name", "n"], [["中文" * 10, 1], ["x", 2]], 20)
    assert [line[-1] for line in lines[2:]] == ["1", "2"]


def test_very_narrow_terminal_shows_one_value_per_line() -> None:
    columns = [f"column_{place}" for place in range(8)]
    assert shown(columns, [[10**12 + place for place in range(8)], ["text\x1b", *[None] * 7]], 40) == [
        "row 1",
        *(f"  column_{place}  {10**12 + place}" for place in range(8)),
        "row 2",
        "  column_0  text\\x1b",
        *(f"  column_{place}" for place in range(1, 8)),
    ]


def test_control_characters_in_data_are_escaped(capsys) -> None:
    hostile = "a\x1b[31mb\x07\x9b1m\u202ec\r👩\u200d👩"
    write_result("table", [hostile], ["text"], [[hostile]])
    out = capsys.readouterr().out
    assert out.count("a\\x1b[31mb\\x07\\x9b1m\\u202ec 👩\u200d👩") == 2
    assert not set(out) & set("\x1b\x07\x9b\u202e\r")


def test_encode_json_writes_times_and_decimals() -> None:
    assert encode_json({"at": datetime(2026, 11, 1, tzinfo=UTC), "n": Decimal("1.10")}) == (
        '{"at":"2026-11-01T00:00:00Z","n":1.10}'
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (864000, "10d")]
)
def test_spans(seconds, text) -> None:
    assert span(seconds) == text
