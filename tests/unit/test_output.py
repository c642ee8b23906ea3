"""Output of results: values, CSV, JSON, tables."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.main import get_command

from etl.cli.output import Output, encode_json, fitted, plain, table, table_text
from etl.cli.root import load_commands
from etl.cli.status import span
from etl.observe.secrets import Mask
from etl.text import counted

HOSTILE = "a\x1b[31mb\x07\x9b1m\u202ec\r\nhint: d"
ESCAPED = "a\\x1b[31mb\\x07\\x9b1m\\u202ec\\r\\nhint: d"


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
    lines = shown(["key", "credits", "error"], [["x" * 30, Decimal("0.00084969000000000001"), "y" * 90]], 60)
    assert lines[0].split() == ["key", "credits", "error"]
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


@pytest.fixture
def out() -> Output:
    mask = Mask()
    mask.add("sk-hunter2")
    mask.add("sk-hunter2-longer")
    mask.add('pass"word')
    mask.add("2026")
    return Output(mask)


def test_message_stays_on_one_line(out, capsys) -> None:
    out.line(HOSTILE, mark="ok ", style="green")
    out.line(HOSTILE, err=True)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (f"ok {ESCAPED}\n", f"{ESCAPED}\n")


def test_only_symbols_are_styled(out, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    out.line(HOSTILE, mark="ok ", style="green")
    assert capsys.readouterr().out == f"\x1b[32mok \x1b[0m{ESCAPED}\n"


def test_an_error_of_several_lines_contains_no_hint_of_its_own(out, capsys) -> None:
    out.error("one\n  hint: rm -rf\x1b", "two\n  hint: three")
    assert capsys.readouterr().err == "error: one\n         hint: rm -rf\\x1b\n  hint: two\\n  hint: three\n"


def test_control_characters_in_tables_are_escaped(out, capsys) -> None:
    joined = ESCAPED.replace("\\r\\n", " ")
    out.table([HOSTILE], [[HOSTILE]], title=HOSTILE.splitlines()[0][:1])
    assert capsys.readouterr().out.count(joined) == 2
    assert table_text([HOSTILE], [[HOSTILE]]).count(joined) == 2


def test_json_is_escaped_and_masked_without_a_change_of_numbers(out, capsys) -> None:
    out.json(
        {"text": HOSTILE, "key": "Bearer sk-hunter2", "sk-hunter2": 2026, "more": ['pass"word', Decimal("2026.0")]}
    )
    piped = capsys.readouterr().out
    assert not set(piped) & set("\x1b\x07\x9b\u202e\r")
    assert json.loads(piped) == {"text": HOSTILE, "key": "Bearer ***", "***": 2026, "more": ["***", 2026.0]}


def test_secrets_are_masked_everywhere(out, capsys) -> None:
    for text in ("sk-hunter2", "sk-hunter2-longer", json.dumps('pass"word')):
        out.line(text)
        out.line(text, err=True)
        out.lines(f"Traceback\n{text}", err=True)
        out.error(text, text)
        out.table(["a" * 20], [[f"{'x' * 70}{text}"]], title="t")
        out.json([text])
    captured = capsys.readouterr()
    for part in ("sk-hunt", "longer", "pass", "word"):
        assert part not in captured.out + captured.err


def test_nothing_else_may_print() -> None:
    """The lint rules refuse output that bypasses `Output`."""
    code = """
import sys
import traceback
from sys import stderr

import typer
from rich.console import Console

print("x")
sys.stdout.write("x")
stderr.write("x")
typer.echo("x")
Console().print("x")
traceback.print_exc()
"""
    for place in ("etl/cli/status.py", "etl/app/stream_health.py", "etl/observe/webhooks.py"):
        ended = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--select", "T20,TID251", "--output-format", "concise",
             "--stdin-filename", place, "-"],
            input=code, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False,
        )  # fmt: skip
        found = {int(line.split(":")[1]) for line in ended.stdout.splitlines() if line.startswith(place)}
        for lines in ({9}, {10}, {4, 11}, {12}, {7, 13}, {14}):  # an import or a use
            assert found & lines, ended.stdout + ended.stderr


def test_encode_json_writes_times_and_decimals() -> None:
    assert encode_json({"at": datetime(2026, 11, 1, tzinfo=UTC), "n": Decimal("1.10")}) == (
        '{"at":"2026-11-01T00:00:00Z","n":1.10}'
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (864000, "10d")]
)
def test_spans(seconds, text) -> None:
    assert span(seconds) == text


def test_counts_agree_with_their_nouns() -> None:
    assert [counted(number, "run") for number in (0, 1, 2, 1204)] == ["0 runs", "1 run", "2 runs", "1,204 runs"]
    assert [counted(number, "history", "histories") for number in (1, 2)] == ["1 history", "2 histories"]


NOUNS = r"(?:runs|requests|pages|rows|streams|workflows|apps|items|files|connections|rounds|kills|credits|invocations)"


def test_no_message_puts_a_number_before_a_plural() -> None:
    """`1 requests`: a number that may be 1 goes through `counted`."""
    found = []
    for source in (Path(__file__).parents[2] / "etl").rglob("*.py"):
        if source.is_relative_to(Path(__file__).parents[2] / "etl" / "sandbox"):
            continue
        for number, line in enumerate(source.read_text().splitlines(), 1):
            if re.search(rf"\{{[^{{}}]+\}} {NOUNS}\b(?!/)", line) and not re.search(
                r"/\{|counted\(|formatting\.count\(", line
            ):
                found.append(f"{source.name}:{number}: {line.strip()}")
    assert [each for each in found if not any(known in each for known in MORE_THAN_ONE)] == []


MORE_THAN_ONE = (
    "rounds in a row have failed",  # only after the second
    "locks streams", "holds streams",
    "connections are opened", "connections, and PostgreSQL accepts",  # a process opens several
    "one address needs", "may be too many for one PostgreSQL",  # only for more requests or runs than a limit
    "pages in this sync, more than",  # than a share that is not 0
)  # fmt: skip


def test_defaults_are_shown_as_they_are_typed() -> None:
    """`--every` used to show 0:10:00."""
    tree: list[Any] = [get_command(load_commands())]
    while tree:
        group = tree.pop()
        tree += getattr(group, "commands", {}).values()
        for each in group.params:
            if isinstance(each.default, timedelta):
                assert isinstance(each.show_default, str), (group.name, each.name)


def test_ids_are_never_truncated() -> None:
    columns, row = ["run_id", "workflow_name", "id", "error"], ["r" * 80, "name " * 9, "i" * 30, "error " * 20]
    for width in range(40, 200, 7):
        lines = shown(columns, [row], width)
        assert row[0] in "".join(lines)  # a terminal wraps lines that are too long
        assert row[2] in "".join(lines)
    assert "…" in "\n".join(shown(columns, [row], 190))
