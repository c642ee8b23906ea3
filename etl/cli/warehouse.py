"""Which warehouse a command means: the one of the settings, or the demo's as long as there is no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from etl.cli.invocation import Invocation
    from etl.config import Settings

DemoOption = Annotated[bool, typer.Option("--demo", help="The demo's data, in any case.")]


def is_made(settings: Settings) -> bool:
    """Tell whether there is a warehouse: one that the settings name, or an embedded one that was made before."""
    return settings.names_database or settings.data_dir.joinpath("postgres", "PG_VERSION").exists()


def demo_settings(settings: Settings) -> Settings:
    """Return settings that mean the demo's own embedded PostgreSQL, apart from any real data and the apps it is of."""
    own = {"url": None, "url_file": None, "schema_name": "cortex", "auto_migrate": True}
    database = settings.database.model_copy(update=own)
    return settings.model_copy(update={"database": database, "data_dir": settings.data_dir / "demo", "apps": []})


def readable_settings(call: Invocation, *, demo: bool = False) -> Settings:
    """Return the settings for a command that only reads.

    Args:
        call: the invocation.
        demo: ask for the demo's data in any case.

    Returns:
        The settings as they are; those of the demo where they name no database, none has been made yet, and the demo
        has run.
    """
    settings = call.settings
    theirs = demo_settings(settings)
    if demo or (not is_made(settings) and is_made(theirs)):
        if not demo:
            call.say("(the demo's data: there is no warehouse of yours yet)")
        return theirs
    return settings


def database_url(settings: Settings) -> str:
    """Return the URL of the warehouse; starts the embedded PostgreSQL where the settings name no other.

    The same as the app's, without all that the app imports: a question is answered sooner.

    Raises:
        SettingsError: the URL cannot be read.
        DatabaseError: it cannot be started.
    """
    if (url := settings.database_url()) is not None:
        return url
    from etl.db import embedded

    return embedded.start(settings.data_dir)


async def make_ready(settings: Settings) -> None:
    """Migrate an embedded warehouse before a question, so that one without data answers with nothing, not an error.

    One that the settings name is left to the commands that load: whoever asks may have no right to change it.

    Raises:
        DatabaseError: it cannot be started or migrated.
    """
    if settings.names_database or not settings.database.auto_migrate:
        return
    from etl.db.connect import connect
    from etl.db.migrate import migrate

    connection = await connect(database_url(settings), settings.database.schema_name)
    try:
        await migrate(connection, settings.database.schema_name)
    finally:
        await connection.close()
