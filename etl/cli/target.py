"""Choose the warehouse of a command: the one in the settings, or the warehouse of the demo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from etl.errors import SettingsError

if TYPE_CHECKING:
    from etl.cli.invocation import Invocation
    from etl.config import Settings

DemoOption = Annotated[bool, typer.Option("--demo", help="Use the demo data.")]


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
