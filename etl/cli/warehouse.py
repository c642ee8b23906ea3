"""Which warehouse a command means: the one of the settings, or the demo's as long as there is no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etl.cli.invocation import Invocation
    from etl.config import Settings

_MADE = ("postgres", "PG_VERSION")


def demo_settings(settings: Settings) -> Settings:
    """Return settings that mean the demo's own embedded PostgreSQL, apart from any real data."""
    database = settings.database.model_copy(update={"url": None, "schema_name": "cortex", "auto_migrate": True})
    return settings.model_copy(update={"database": database, "data_dir": settings.data_dir / "demo"})


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
    own = settings.database.url is not None or settings.data_dir.joinpath(*_MADE).exists()
    theirs = demo_settings(settings)
    if demo or (not own and theirs.data_dir.joinpath(*_MADE).exists()):
        if not demo:
            call.say("(the demo's data: there is no warehouse of yours yet)")
        return theirs
    return settings
