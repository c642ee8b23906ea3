"""All output of the commands: results on stdout, messages on stderr; lines, tables, CSV and JSON.

Nothing else in the package writes to either, except the logs and the progress bars (a lint rule checks it): `Output`
masks secrets and escapes control characters. The result of a query is written while it is received, so that its size is
not limited.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import select
import sys
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import typer

from etl.errors import SettingsError
from etl.files import replacing
from etl.text import colored, counted, visible, visible_json, visible_lines

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from etl.db.querying import Query
    from etl.observe.secrets import Mask

    Write = Callable[[str], Awaitable[None]]

_WIDEST_CELL = 72  # characters of a table cell; longer text is cut with an ellipsis
_NARROWEST_CELL = 8  # characters; if cells would be narrower, each value is shown on its own line
_GAP = 3  # between columns
_SOFT_HYPHEN = "\u00ad"  # where a heading may wrap
_ID = re.compile(r"(?:.*_)?ids?", re.IGNORECASE)  # columns of ids are not cut, because users copy the values
_DELIMITING = re.compile(r'[\s,{}"\\]')  # an array element that contains one of these is quoted
_SIGNALS_WAIT_MS = 100
_STYLES = {"bold": "1", "green": "32", "yellow": "33", "red": "1;31", "cyan": "1;36"}
_NUMBERS = ("int2", "int4", "int8", "numeric", "float4", "float8", "money", "oid")

Form = Literal["table", "csv", "json", "jsonl"]


class Output:
    """What a command prints; secrets are masked, and control characters are escaped.

    Args:
        mask: removes secrets.
    """

    def __init__(self, mask: Mask) -> None:
        self._mask = mask

    def line(self, text: str, *, mark: str = "", style: str = "", err: bool = False) -> None:
        """Write one line; the text may contain any characters.

        Args:
            text: the line.
            mark: text of our own in front of it.
            style: of the mark, on a terminal: a key of `_STYLES`.
            err: write to stderr.
        """
        stream = sys.stderr if err else sys.stdout
        if style and colored(stream):
            mark = f"\x1b[{_STYLES[style]}m{mark}\x1b[0m"
        stream.write(f"{mark}{visible(self._mask(text))}\n")
        stream.flush()

    def error(self, message: str, hint: str) -> None:
        """Write an error to stderr. Lines after the first are indented, so that they do not look like hints."""
        first, *others = self._mask(message).split("\n")
        self.line(first, mark="error: ", style="red", err=True)
        for each in others:
            self.line(f"       {each}", err=True)
        if hint:
            self.line(hint, mark="  hint: ", err=True)

    def lines(self, text: str, *, err: bool = False) -> None:
        """Write text of several lines, such as a traceback."""
        stream = sys.stderr if err else sys.stdout
        stream.write(f"{visible_lines(self._mask(text)).rstrip()}\n")

    def raw(self, text: str) -> None:
        """Write a file, or data of the user, to stdout. It is unchanged unless stdout is a terminal."""
        sys.stdout.write(visible_lines(text) if sys.stdout.isatty() else text)

    def json(self, value: Any) -> None:
        """Write one JSON document to stdout."""
        import msgspec

        plainly = msgspec.to_builtins(value, builtin_types=(Decimal, datetime), enc_hook=plain)
        sys.stdout.write(f"{visible_json(encode_json(self._mask(plainly)))}\n")

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        title: str = "",
        numeric: Iterable[int] = (),
        whole: Iterable[int] = (),
        cut: bool = True,
    ) -> None:
        """Write a table to stdout.

        Args:
            columns: headings; see `fitted`.
            rows: values.
            title: line above the table, if any.
            numeric: indexes of columns that are numeric even if all values are None.
            whole: indexes of other columns that are not cut.
            cut: cut text until the table fits the terminal.
        """
        if title:
            self.line("", mark=title, style="bold")
        self._show(columns, [[self._mask(value) for value in row] for row in rows], numeric, whole, cut=cut)

    def ask(self, question: str) -> bool:
        """Ask a question on stderr; return whether the answer is yes."""
        return typer.confirm(visible(self._mask(question)), err=True)

    def ask_for(self, what: str, *, hide: bool = False) -> str:
        """Prompt for a text on stderr; `hide` disables the echo."""
        return str(typer.prompt(what, default="", hide_input=hide, show_default=False, err=True)).strip()

    def _show(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        numeric: Iterable[int],
        whole: Iterable[int],
        *,
        cut: bool = True,
    ) -> None:
        out = _console()
        made = fitted(columns, rows, width=out.width, numeric=numeric, whole=whole) if cut else table(columns, rows)
        out.print(made, markup=False, soft_wrap=isinstance(made, str))


def on_terminal() -> bool:
    """Return whether stderr is a terminal, so that a person reads messages as they appear."""
    return sys.stderr.isatty()


def stdout_width() -> int:
    """Return the width of stdout in characters, which is very large for files and pipes."""
    return _console().width


def stdout_is_terminal() -> bool:
    """Return whether stdout is a terminal, so that a person reads the results."""
    return sys.stdout.isatty()


async def stream(text: str, *, is_escaped: bool = False) -> None:
    """Write data of the user to stdout like `Output.raw`, in small parts, so that a signal can interrupt it."""
    sys.stdout.flush()
    shown = visible_lines(text) if sys.stdout.isatty() and not is_escaped else text
    await write_pieces(sys.stdout.fileno(), shown.encode(sys.stdout.encoding, sys.stdout.errors or "strict"))


async def write_pieces(file: int, data: bytes) -> None:
    """Write to a file descriptor; a full pipe does not block the event loop for long."""
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    rest = memoryview(data)
    while rest:
        while not poll.poll(_SIGNALS_WAIT_MS):  # noqa: ASYNC110 - a regular file cannot wake the event loop
            await asyncio.sleep(0)  # raises CancelledError after a signal
        rest = rest[os.write(file, rest[: select.PIPE_BUF]) :]


def flush() -> None:
    """Flush stdout."""
    sys.stdout.flush()


def drop_output() -> None:
    """Redirect stdout to the null device if it cannot be written; otherwise Python reports an error on exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _console(*, to_file: bool = False) -> Console:
    """Return a console that does not wrap in a pipe or a file, so that each row stays one line.

    It raises `BrokenPipeError` on a closed pipe, as `print` does, instead of exiting.
    """
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704 - called while the error is handled

    found = Plain(highlight=False, emoji=False)
    if found.is_terminal and not to_file:
        return found
    return Plain(highlight=False, emoji=False, width=100_000, force_terminal=False)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    numeric: Iterable[int] = (),
    whole: Container[int] = (),
) -> Table:
    """Make a table: numbers right-aligned, one line per row, long text cut.

    Args:
        columns: headings.
        rows: values; None is shown as an empty cell.
        numeric: indexes of columns that are numeric even if all values are None.
        whole: indexes of columns that are not cut.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    body = list(rows)
    right = _numeric(len(columns), body, numeric)
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, name in enumerate(columns):
        heading = Text("\n".join(map(_shortened, name.split("\n"))))
        made.add_column(heading, justify="right" if place in right else "left", no_wrap=True, overflow="ellipsis")
    for row in body:
        made.add_row(*(Text(_cell(value, is_whole=place in whole)) for place, value in enumerate(row)))
    return made


def table_text(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numeric: Iterable[int] = (), to_file: bool = False
) -> str:
    """Return a table as text that fits the width of stdout; lines of files and pipes have no limit."""
    out = _console(to_file=to_file)
    made = fitted(columns, rows, width=out.width, numeric=numeric)
    with out.capture() as captured:
        out.print(made, markup=False, soft_wrap=isinstance(made, str))
    return captured.get()


def _numeric(columns: int, body: Sequence[Sequence[Any]], known: Iterable[int]) -> set[int]:
    """Return the indexes of numeric columns."""
    found = set(known)
    for place in range(columns):
        values = [row[place] for row in body if row[place] is not None]
        if values and all(isinstance(value, int | float | Decimal) and not isinstance(value, bool) for value in values):
            found.add(place)
    return found


def fitted(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    width: int,
    numeric: Iterable[int] = (),
    whole: Iterable[int] = (),
) -> Table | str:
    """Make a table that fits into a line: text columns are cut as needed, numbers never.

    Args:
        columns: headings; one with a soft hyphen wraps there before any text is cut.
        rows: values.
        width: characters per line.
        numeric: indexes of columns that are numeric even if all values are None.
        whole: indexes of other columns that are not cut; columns of ids never are.

    Returns:
        The table; if it cannot be made narrow enough, each row as lines of name and value.
    """
    numbers = _numeric(len(columns), rows, numeric)
    columns = [" ".join(name.split()) for name in columns]
    plainly = [name.replace(_SOFT_HYPHEN, "") for name in columns]
    kept = {*whole, *(place for place, name in enumerate(columns) if _ID.fullmatch(name))}
    cells = [[_cell(row[place], is_whole=place in kept) for row in rows] for place in range(len(columns))]
    broken = [name.replace(_SOFT_HYPHEN, "-\n") for name in columns]
    if broken == plainly:
        attempts = [(plainly, _GAP, range(_WIDEST_CELL, _NARROWEST_CELL - 1, -1))]
    else:
        attempts = [(plainly, _GAP, range(_WIDEST_CELL, _WIDEST_CELL - 1, -1))]
        attempts += [(broken, _GAP - 1, range(_WIDEST_CELL, _NARROWEST_CELL - 1, -1))]
    for headings, gap, limits in attempts:
        widths = [_widest(column, heading) for column, heading in zip(cells, headings, strict=True)]
        room = width - gap * (len(columns) - 1)
        for most in limits:
            cut = [each if place in numbers or place in kept else min(each, most) for place, each in enumerate(widths)]
            if sum(cut) <= room:
                made = table(headings, rows, numeric=numbers, whole=kept)
                made.collapse_padding = gap < _GAP
                for column, each in zip(made.columns, cut, strict=True):
                    column.width = each
                return made
    return _records(plainly, rows) if rows else table(plainly, rows)


def _widest(cells: Sequence[str], heading: str) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, (*map(_shortened, heading.split("\n")), *cells)))


def _cell(value: Any, *, is_whole: bool) -> str:
    text = plain(value)
    return visible(" ".join(text.split())) if is_whole else _shortened(text)


def _records(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    names = [_shortened(name) for name in columns]
    widest = max(map(len, names))
    lines = []
    for number, row in enumerate(rows, 1):
        lines.append(f"row {number:,}")
        lines += [
            f"  {name:<{widest}}  {visible(plain(value))}".rstrip() for name, value in zip(names, row, strict=True)
        ]
    return "\n".join(lines)


def plain(value: Any) -> str:
    """Format a value from the database for display."""
    match value:
        case None:
            text = ""
        case bool():
            text = str(value).lower()
        case Decimal() if value.is_finite():
            text = format(value, "f")
        case float() if not math.isfinite(value):
            text = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case datetime():
            text = value.isoformat(sep=" ")
        case bytes() | memoryview():
            text = "\\x" + bytes(value).hex()
        case list():
            text = "{" + ",".join(_element(each) for each in value) + "}"
        case _ if isinstance(value, tuple) or hasattr(
            value, "values"
        ):  # a row; rows of a table type have named columns
            fields = value if isinstance(value, tuple) else value.values()
            text = "(" + ",".join("" if each is None else _element(each) for each in fields) + ")"
        case _ if hasattr(value, "isempty"):
            text = _range(value)
        case _:
            text = str(value)
    return text


def _range(value: Any) -> str:
    """Format a range as PostgreSQL does: `[1,5)`."""
    if value.isempty:
        return "empty"
    ends = ",".join("" if end is None else _element(end) for end in (value.lower, value.upper))
    return f"{'[' if value.lower_inc else '('}{ends}{']' if value.upper_inc else ')'}"


def _element(value: Any) -> str:
    """Format an array element as PostgreSQL does, so that it can be parsed again."""
    if value is None:
        return "NULL"
    text = plain(value)
    if isinstance(value, list) or (text and text.upper() != "NULL" and not _DELIMITING.search(text)):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _shortened(text: str) -> str:
    line = visible(" ".join(text.split()))
    return line if len(line) <= _WIDEST_CELL else line[: _WIDEST_CELL - 1] + "…"


def encode_json(value: Any) -> str:
    """Encode as compact JSON: decimals as numbers with all digits, times in ISO 8601."""
    import msgspec

    return msgspec.json.Encoder(decimal_format="number", enc_hook=plain).encode(value).decode()


async def write_result(query: Query, form: Form, output: Path | None) -> None:
    """Write the result of a query.

    Args:
        query: the query, not read yet.
        form: `table`; `csv`, as PostgreSQL writes it; `json`, a list of row objects; or `jsonl`, an object per line.
        output: the file to replace when the result is complete; None for stdout.

    Raises:
        SettingsError: the file cannot be written, or the query fails.
        DatabaseError: the connection is lost.
    """
    if output is None:
        await _write(query, form, partial(stream, is_escaped=form == "table"))
        return
    try:
        with replacing(output) as file:

            async def write(text: str) -> None:
                await write_pieces(file.fileno(), text.encode())

            await _write(query, form, write, to_file=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SettingsError(
            f"cannot write {output}: {error.strerror}", hint="Name a writable file with --output FILE."
        ) from None


async def _write(query: Query, form: Form, write: Write, *, to_file: bool = False) -> None:
    if form == "csv":
        await query.copy("csv", write)
    elif form == "table":
        await _write_table(query, write, to_file=to_file)
    elif form == "jsonl":
        await query.copy("jsonl", partial(_write_json, write))
    else:
        await _write_list(query, partial(_write_json, write))


async def _write_json(write: Write, text: str) -> None:
    await write(visible_json(text))


async def _write_list(query: Query, write: Write) -> None:
    before = "["  # what precedes the next line: nothing is written if the query fails before its first row

    async def write_items(lines: str) -> None:
        nonlocal before
        text = before + lines
        before = "\n" if text.endswith("\n") else ""  # a comma follows only if another line does
        await write(text.removesuffix("\n").replace("\n", ",\n "))

    await query.copy("jsonl", write_items)
    await write("[]\n" if before == "[" else "]\n")


async def _write_table(query: Query, write: Write, *, to_file: bool) -> None:
    """Write a table; a long result is written as several tables, one per block of rows."""
    numeric = [place for place, kind in enumerate(query.types) if kind in _NUMBERS]
    count = 0
    async for rows in query.blocks():
        await write(table_text(query.columns, rows, numeric=numeric, to_file=to_file))
        count += len(rows)
    await write(f"({counted(count, 'row')})\n")
