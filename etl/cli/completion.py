"""Values for shell completion, read from the warehouse if it responds quickly. Nothing is started or changed."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Annotated

import typer

_TIMEOUT_S = 2.0

# Shells insert values into the command line unchanged, and some evaluate the descriptions.
_WORD = re.compile(r"[\w@%+=,./][\w@%+=:,./-]*", re.ASCII)
_UNUSUAL = re.compile(r"[^\w .,:()/+-]")

Values = list[tuple[str, str]]


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
    from etl.cli.target import demo_settings
    from etl.config import load
    from etl.db.reading import connect_to_read, url_without_start
    from etl.db.statements import statements

    path, demo = ctx.params.get("config") or ctx.find_root().params.get("config"), ctx.params.get("demo", False)
    settings = load(Path(path) if path else None, optional=demo)
    settings = demo_settings(settings) if demo else settings
    url = url_without_start(settings)
    if url is None:
        return []
    async with asyncio.timeout(_TIMEOUT_S):
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
