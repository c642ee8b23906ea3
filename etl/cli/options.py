"""Options that several commands share: apps and workflows, durations, and the demo instead of one's own data.

Values for shell completion are read from the warehouse if it responds quickly. Nothing is started or changed.
"""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etl.config import format_duration, parse_duration
from etl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from etl.cli.invocation import Invocation
    from etl.config import Settings

_COMPLETION_TIMEOUT_S = 2.0

# Shells insert values into the command line unchanged, and some evaluate the descriptions.
_WORD = re.compile(r"[\w@%+=,./][\w@%+=:,./-]*", re.ASCII)
_UNUSUAL = re.compile(r"[^\w .,:()/+-]")

Values = list[tuple[str, str]]

DemoOption = Annotated[bool, typer.Option("--demo", help="Use the demo data.")]


def relations(ctx: typer.Context, incomplete: str) -> Values:
    """Complete the name of a table or view."""
    return _complete(ctx, "relations", incomplete)


def workflows(ctx: typer.Context, incomplete: str) -> Values:
    """Complete the id of a workflow."""
    return _complete(ctx, "workflows", incomplete)


def apps(ctx: typer.Context, incomplete: str) -> Values:
    """Complete the id of an app."""
    return _complete(ctx, "apps", incomplete)


def _complete(ctx: typer.Context, subject: str, incomplete: str) -> Values:
    try:
        found = asyncio.run(_ask(ctx, subject))
    except Exception:  # noqa: BLE001 -- a message would appear in the command line of the user
        return []
    return [
        (value, _UNUSUAL.sub(" ", text.partition(". ")[0]))
        for value, text in found
        if value.startswith(incomplete) and _WORD.fullmatch(value)
    ]


async def _ask(ctx: typer.Context, subject: str) -> Values:
    from etl.config import load
    from etl.db.reading import connect_to_read, url_without_start
    from etl.db.statements import statements

    path, demo = ctx.params.get("config") or ctx.find_root().params.get("config"), ctx.params.get("demo", False)
    settings = load(Path(path) if path else None, optional=demo)
    settings = demo_settings(settings) if demo else settings
    url = url_without_start(settings)
    if url is None:
        return []
    async with asyncio.timeout(_COMPLETION_TIMEOUT_S):
        connection = await connect_to_read(url, settings.database.schema_name, purpose="completion")
        try:
            return [tuple(row) for row in await connection.fetch(statements("completion")[subject])]
        finally:
            await connection.close()


AppOption = Annotated[
    list[str] | None, typer.Option("--app", metavar="ID", help="Select this app; repeatable.", autocompletion=apps)
]
WorkflowOption = Annotated[
    list[str] | None,
    typer.Option("--workflow", metavar="ID", help="Select this workflow; repeatable.", autocompletion=workflows),
]


def at_least(shortest: timedelta) -> Callable[[str], timedelta]:
    """Return a parser of durations that rejects durations shorter than `shortest`."""

    def parse(text: str) -> timedelta:
        try:
            found = parse_duration(text)
        except ValueError as expected:
            raise typer.BadParameter(f"expected {expected}") from None
        if found < shortest:
            raise typer.BadParameter(f"expected at least {format_duration(shortest)}")
        return found

    return parse


def time_limit(what: str, *, default: str) -> Any:
    """Return the option `--timeout`, a time limit; `default` is a text such as `30s`."""
    return typer.Option(
        parser=at_least(timedelta(milliseconds=1)),
        show_default=default,
        metavar="DURATION",
        help=f"{what}: 30s, 5m, or a number of seconds.",
    )


def is_made(settings: Settings) -> bool:
    """Return whether a warehouse exists: one named in the settings, or an embedded one that was created before."""
    return settings.names_database or settings.data_dir.joinpath("postgres", "PG_VERSION").exists()


def demo_settings(settings: Settings) -> Settings:
    """Return settings for the embedded PostgreSQL of the demo, which is separate from real data."""
    own = {"url": None, "url_file": None, "read_url": None, "schema_name": "cortex", "auto_migrate": True}
    database = settings.database.model_copy(update=own)
    return settings.model_copy(update={"database": database, "data_dir": settings.data_dir / "demo", "apps": []})


def readable_settings(call: Invocation, *, demo: bool = False) -> Settings:
    """Return the settings for a command that only reads.

    Args:
        call: the invocation.
        demo: use the demo's data, which needs no settings.

    Raises:
        SettingsError: there are no settings, or there is no demo data.
    """
    if not demo:
        return call.settings
    settings = demo_settings(call.settings_if_any)
    if not is_made(settings):
        raise SettingsError(
            f"there is no demo data in {settings.data_dir}", hint="Run it in this folder: cortex-etl demo"
        )
    return settings


def database_url(settings: Settings) -> str:
    """Return the URL of the warehouse; start the embedded PostgreSQL if the settings name no other.

    Like `etl.app.warehouse.database_url`, without its imports, for a quick start.

    Raises:
        SettingsError: the URL cannot be read.
        DatabaseError: it cannot be started.
    """
    if (url := settings.database_url()) is not None:
        return url
    from etl.db import embedded

    return embedded.start(settings.data_dir)
