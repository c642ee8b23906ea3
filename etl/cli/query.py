"""Commands that read the warehouse: sql, describe, psql, report, export."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from etl.cli.help import Command
from etl.cli.invocation import Invocation, command, run_async
from etl.cli.options import DemoOption, database_url, readable_settings, relations, time_limit
from etl.cli.output import Form, flush, stdout_is_terminal, stdout_width, write_result
from etl.cli.root import app
from etl.errors import DatabaseError, SettingsError, install_extra
from etl.text import counted

if TYPE_CHECKING:
    from etl.config import Settings
    from etl.dictionary import Dictionary

_LONGEST_QUERY = 1 << 20  # bytes

# Option names contain no space, but their values may.
_COMMENT = re.compile(r"--[^=\s]*\s")

_PROBE = "SELECT current_setting('is_superuser'), current_setting('transaction_read_only')"
_PROBE_TIMEOUT_S = 30
_CONNECT_TIMEOUT_S = "15"  # unless the URL names another


class QueryCommand(Command):
    """Parses an argument that starts like an SQL comment as the query, not as an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; a line break before a comment keeps it from being taken for an option."""
        return super().parse_args(ctx, [f"\n{each}" if _COMMENT.match(each) else each for each in args])


@command(app, "sql", cls=QueryCommand)
def sql(
    call: Invocation,
    query: Annotated[
        str | None, typer.Argument(help="One statement; without it, or with -, it is read from stdin.")
    ] = None,
    *,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", metavar="FILE", help="Read the query from a file.")
    ] = None,
    form: Annotated[
        Literal["table", "csv", "json", "jsonl"] | None,
        typer.Option("--format", help="Output format; by default a table on a terminal, csv elsewhere."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write the result to a file, once complete.")
    ] = None,
    timeout: Annotated[timedelta, time_limit("Time limit in PostgreSQL", default="5m")] = timedelta(minutes=5),
    url: Annotated[
        bool, typer.Option("--url", help="Print the URL of the warehouse instead of running a query.")
    ] = False,
    show_password: Annotated[
        bool, typer.Option("--show-password", help="With --url: do not mask the password.")
    ] = False,
    demo: DemoOption = False,
) -> None:
    """Run a read-only query on the warehouse.

    In JSON, a number is appended to the name of a column that occurs before: runs, runs_2.

    Example: `cortex-etl sql "SELECT workflow_name, sum(credits) FROM credits_daily GROUP BY 1 ORDER BY 2 DESC"`

    Example: `cortex-etl sql -f question.sql -o answer.csv`
    """
    if url:
        if query or file:
            raise SettingsError("--url takes no query", hint="Remove --url or the query.")
        _print_url(call, demo=demo, show_password=show_password)
        return
    text = _query_text(query, file)
    settings = readable_settings(call, demo=demo)
    form = form or ("table" if output is None and stdout_is_terminal() else "csv")
    run_async(_answer(settings, text, timeout.total_seconds(), form, output))


def _query_text(query: str | None, file: Path | None) -> str:
    if query is not None and query != "-" and file is None:
        return query
    if (query is not None and file is not None) or (query is None and file is None and sys.stdin.isatty()):
        raise _expected_one_query()
    name = str(file or "-")
    try:
        with sys.stdin.buffer if name == "-" else Path(name).open("rb") as source:
            content = source.read(_LONGEST_QUERY + 1)
        text = content.decode()
    except OSError as error:
        raise SettingsError(
            f"cannot read {name}: {error.strerror}", hint="Pass a file that contains one query."
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(
            f"cannot read {'stdin' if name == '-' else name}: not UTF-8 text",
            hint="Pass a file that contains one query.",
        ) from None
    if len(content) > _LONGEST_QUERY:
        raise SettingsError(
            f"cannot read {'stdin' if name == '-' else name}: longer than {_LONGEST_QUERY >> 20} MiB",
            hint="Pass a file that contains one query.",
        )
    if query is None and file is None and not text.strip():
        raise _expected_one_query()
    return text


def _expected_one_query() -> SettingsError:
    return SettingsError(
        "expected one query", hint='Pass one: cortex-etl sql "SELECT count(*) FROM runs", or -f FILE, or on stdin.'
    )


async def _answer(settings: Settings, text: str, timeout_s: float, form: Form, output: Path | None) -> None:
    from etl.db.querying import querying

    url, schema = await _reading_url(settings), settings.database.schema_name
    async with querying(url, schema, text, timeout_s=timeout_s) as query:
        await write_result(query, form, output)


def _print_url(call: Invocation, *, demo: bool, show_password: bool) -> None:
    from etl.db.connect import redact_url

    found = run_async(_reading_url(readable_settings(call, demo=demo)))
    call.out.raw(f"{found if show_password else redact_url(found)}\n")


@command(app, "describe")
def describe(
    call: Invocation,
    relation: Annotated[
        str | None, typer.Argument(help="Table or view; without it, all are listed.", autocompletion=relations)
    ] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    demo: DemoOption = False,
) -> None:
    """Describe the tables and views, or the columns of one: types, meanings and units.

    Example: `cortex-etl describe runs`
    """
    from etl.dictionary import description, overview

    found = run_async(_read_dictionary(readable_settings(call, demo=demo)))
    one = None if relation is None else found.relation(relation)
    if json:
        call.out.json(asdict(one) if one else [asdict(each) for each in found.relations])
        return
    for line in description(one, stdout_width()) if one else overview(found.relations, stdout_width()):
        call.out.line(line)


async def _read_dictionary(settings: Settings) -> Dictionary:
    from etl.dictionary import read_dictionary

    return await read_dictionary(await _reading_url(settings), settings.database.schema_name)


@command(app, "psql", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(
    call: Invocation,
    arguments: Annotated[list[str] | None, typer.Argument(help="Arguments for psql.")] = None,
    *,
    write: Annotated[bool, typer.Option("--write", help="Allow changes, with the role of database.url.")] = False,
    demo: DemoOption = False,
) -> None:
    """Open psql on the warehouse, read-only, with its schema as the search path.

    Example: `cortex-etl psql -- -c 'TABLE sync_health'`
    """
    program, settings = find_psql(), readable_settings(call, demo=demo)
    url = run_async(_reading_url(settings))
    if write:
        variables = psql_environment(database_url(settings), settings.database.schema_name)
    else:
        variables = kept_read_only(program, psql_environment(url, settings.database.schema_name))
    flush()
    os.execve(program, [program, *(arguments or [])], variables)  # noqa: S606 -- no shell: nothing to inject into


async def _reading_url(settings: Settings) -> str:
    from etl.db.reading import reading_url

    return await reading_url(settings)


@command(app, "report")
def report(
    call: Invocation,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PATH", help="Path of the page.")] = Path(
        "cortex-report.html"
    ),
    days: Annotated[
        int | None, typer.Option(min=1, max=366, metavar="N", show_default="90", help="Number of days to cover.")
    ] = None,
    demo: DemoOption = False,
) -> None:
    """Write one self-contained HTML page with plots.

    Example: `cortex-etl report --output /var/www/cortex.html`
    """
    try:
        from etl.report import DEFAULT_DAYS, write_report
    except ImportError:
        raise SettingsError(
            "the report needs packages that are not installed", hint=f"Run: {install_extra('report')}"
        ) from None
    settings = readable_settings(call, demo=demo)

    async def write() -> None:
        url, schema = await _reading_url(settings), settings.database.schema_name
        await write_report(url, schema, output, days=days or DEFAULT_DAYS, mask=call.mask)

    run_async(write())
    if output.is_relative_to("/dev"):
        call.say(f"Wrote {output}")  # not into a page written to stdout
    elif not call.quiet:
        call.out.line(f"Wrote {output}")


def _date_or_month(text: str) -> date:
    try:
        return date.fromisoformat(text if text.count("-") > 1 else f"{text}-01")
    except ValueError:
        raise typer.BadParameter(f"expected a date such as 2026-11-01 or 2026-11, got {text!r}") from None


@command(app, "export")
def export(
    call: Invocation,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the files; created if missing.")],
    *,
    form: Annotated[Literal["parquet"], typer.Option("--format", help="File format.")] = "parquet",
    since: Annotated[
        date | None, typer.Option(parser=_date_or_month, metavar="DATE", help="Skip months before this date.")
    ] = None,
    demo: DemoOption = False,
) -> None:
    """Write Parquet files, one per table and month, for the months that changed since the last export.

    Example: `cortex-etl export --format parquet /data/cortex`
    """
    del form  # there is only one
    try:
        from etl.export import export_parquet
    except ImportError:
        raise SettingsError(
            "the export needs packages that are not installed", hint=f"Run: {install_extra('parquet')}"
        ) from None
    settings = readable_settings(call, demo=demo)

    async def write() -> dict[Path, int]:
        url, schema = await _reading_url(settings), settings.database.schema_name
        return await export_parquet(url, schema, directory, since=since)

    written = run_async(write())
    for path in written:
        call.out.line(str(path))
    if inexact := sum(written.values()):
        call.say(
            f"{counted(inexact, 'amount of credits has', 'amounts of credits have')} more digits than Parquet stores: "
            "rounded to 22 places, null from 10^16; see decimals_not_exact in manifest.json"
        )
    call.say(f"Wrote {counted(len(written), 'file')}." if written else "Nothing has changed since the last export.")


def find_psql() -> str:
    """Return the path of psql: the one on the PATH, else that of the embedded server.

    Raises:
        SettingsError: there is none.
    """
    if (program := shutil.which("psql")) is not None:
        return program
    from etl.db import embedded

    try:
        return str(embedded.program("psql"))
    except DatabaseError:
        raise SettingsError(
            "psql is not installed", hint='Install postgresql-client, or use: cortex-etl sql "..."'
        ) from None


def psql_environment(url: str, schema: str) -> dict[str, str]:
    """Return the environment for psql: the URL, so that `ps` does not show the password, and the search_path."""
    from etl.config.libpq import VARIABLES, parameters_of

    given = {VARIABLES.get(name, f"PG{name.upper()}"): value for name, value in parameters_of(url).items()}
    others = {name: value for name, value in os.environ.items() if name not in VARIABLES.values()}
    found = {"PGCONNECT_TIMEOUT": _CONNECT_TIMEOUT_S} | others | given
    return _with_options(found, f"search_path={schema}")


def kept_read_only(program: str, variables: dict[str, str]) -> dict[str, str]:
    """Return an environment for psql in which transactions are read-only, without the rights of a superuser.

    A pooler may ignore these settings, so a first connection checks that they hold.

    Raises:
        DatabaseError: psql cannot connect, or would not be read-only.
    """
    variables = _with_options(variables, "default_transaction_read_only=on")
    probe = [program, "--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align", "--command", _PROBE]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command line
            probe, env=variables, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DatabaseError(
            f"psql got no answer within {_PROBE_TIMEOUT_S} s", hint="Run `cortex-etl doctor`."
        ) from None
    if done.returncode != 0:
        raise DatabaseError(
            f"psql cannot connect: {' '.join(done.stderr.split())}",
            hint="Connect to PostgreSQL directly if this is a pooler (PgBouncer), or run `cortex-etl doctor`.",
        )
    is_superuser, is_read_only = done.stdout.strip().split("|")
    if is_read_only != "on":
        raise DatabaseError(
            "psql would not be read-only: the pooler ignores the option",
            hint="Connect to PostgreSQL directly, or pass --write.",
        )
    return _with_options(variables, "role=pg_read_all_data") if is_superuser == "on" else variables


def _with_options(variables: dict[str, str], setting: str) -> dict[str, str]:
    return variables | {"PGOPTIONS": f"{variables.get('PGOPTIONS', '')} -c {setting}".strip()}
