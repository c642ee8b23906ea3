"""Commands for setting up and checking an installation: init, doctor, config, migrate, stop."""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from etl.cli.help import Group
from etl.cli.invocation import Invocation, command, run_async
from etl.cli.options import database_url, demo_settings, is_made
from etl.cli.output import on_terminal
from etl.cli.root import app
from etl.errors import SettingsError, cannot_write, first_code
from etl.files import create_private, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from etl.config import Settings
    from etl.events import Event

_MARKS = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "failed": ("FAIL", "red")}
_KEY_VARIABLE = "CORTEX_API_KEY"
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@command(app, "init")
def init(call: Invocation) -> None:
    """Write a commented starter `config.yaml`, and its JSON schema for editors beside it; never overwrites.

    On a terminal, it asks for the id of your app and the API key, unless `.env` sets the key. The key goes to `.env`,
    which only you can read from then on.

    Example: `cortex-etl init && cortex-etl doctor`
    """
    from etl.config.document import DOTENV, candidates, read_dotenv
    from etl.config.schema import SCHEMA_NAME, render, starter

    path = call.config or candidates(os.environ)[0]
    if os.path.lexists(path):
        raise SettingsError(
            f"{path} already exists; nothing was changed",
            hint=f"Edit it, or remove it first: {shlex.join(['rm', str(path)])}",
        )
    dotenv = path.with_name(DOTENV)
    has_key = bool(read_dotenv(dotenv).get(_KEY_VARIABLE))
    app_id, key = _ask_for_app_and_key(call, has_key=has_key)
    try:
        if key:  # first: if the settings cannot be written, the next `init` finds the key
            _keep_key(dotenv, key)
        create_private(path, starter(app_id))
        with suppress(FileExistsError):
            create_private(path.with_name(SCHEMA_NAME), render())
    except OSError as error:
        raise cannot_write(error.filename or path, error, hint="Choose another path with --config PATH.") from None
    written = f"{path} and {dotenv}" if key else f"{path}; the key in {dotenv} is used" if has_key else str(path)
    steps = [] if app_id else [f"set your app id in {path}"]
    steps += [] if key or has_key else [f"add {_KEY_VARIABLE}=... to {dotenv}"]
    if not call.quiet:
        call.out.line(f"Wrote {written}. Next: {', '.join([*steps, 'then ' if steps else ''])}run `cortex-etl doctor`.")


def _ask_for_app_and_key(call: Invocation, *, has_key: bool) -> tuple[str, str]:
    """Ask on a terminal, for the key only if there is none; return empty texts elsewhere."""
    from etl.config import refuse_example

    if not sys.stdin.isatty() or not on_terminal() or call.form == "json" or call.quiet:
        return "", ""
    app_id = call.out.ask_for("Id of your app (Enter to set it later)")
    refuse_example(app_id)
    return app_id, "" if has_key else call.out.ask_for("API key (not shown; Enter to set it later)", hide=True)


def _keep_key(dotenv: Path, key: str) -> None:
    """Add the key to `.env`, which only its owner can read from then on; whatever else is in it stays.

    Raises:
        OSError: the file cannot be written, or is not a regular file.
    """
    line = f"{_KEY_VARIABLE}={_dotenv_value(key)}\n"
    if not dotenv.exists():
        create_private(dotenv, line)
        return
    if not dotenv.is_file():
        raise OSError(errno.EINVAL, "is not a regular file", str(dotenv))
    kept = dotenv.read_bytes()
    ending = b"" if not kept or kept.endswith(b"\n") else b"\n"
    write_atomically(dotenv, kept + ending + line.encode(), mode=0o600)


def _dotenv_value(text: str) -> str:
    if re.fullmatch(r"[\w.:/+=@-]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


@command(app, "doctor")
def doctor(call: Invocation, *, json: JsonOption = False) -> int:
    """Check settings, key, API, clock, database, privileges and migrations; one line each, with a hint.

    Example: `cortex-etl doctor`
    """
    return run_async(_print_checks(call, json=json))


async def _print_checks(call: Invocation, *, json: bool) -> int:
    """Print each check as it completes; return the exit code that takes precedence among those that failed."""
    from etl.doctor import examine
    from etl.events import RateLimited

    def say_pauses(event: Event) -> None:
        if isinstance(event, RateLimited):
            call.say(f"(the API asked for a pause of {event.wait_s:.0f} s)")

    checks, said = [], set[str]()
    async with aclosing(examine(call.settings, say_pauses)) as found:
        async for check in found:
            checks.append(check)
            if json:
                continue
            mark, style = _MARKS[check.state]
            call.out.line(f" {check.name:<11} {check.found}", mark=mark, style=style)
            if check.hint and check.hint not in said:
                call.out.line(f"  {'':<11} -> {check.hint}")
            said.add(check.hint)
    if json:
        call.out.json(checks)
    return first_code(check.exit_code for check in checks if check.state == "failed")


config_group = typer.Typer(cls=Group, no_args_is_help=True, help="The settings.")
app.add_typer(config_group, name="config")


@command(config_group, "show")
def config_show(call: Invocation, *, json: JsonOption = False) -> None:
    """Print the effective settings and where each comes from; secrets are masked.

    Example: `cortex-etl config show`
    """
    rows = list(_in_force(call.settings))
    if json:
        call.out.json([{"key": key, "value": value, "from": place} for key, value, place in rows])
        return
    call.out.table(["key", "value", "from"], rows, cut=False)


@command(config_group, "schema")
def config_schema(call: Invocation) -> None:
    """Print the JSON schema of `config.yaml`, which editors use for completion and validation.

    Example: `cortex-etl config schema > config.schema.json`
    """
    from etl.config.schema import render

    call.out.raw(render())


def _in_force(settings: Settings) -> list[tuple[str, str, str]]:
    """Return each setting, as text, with its source; those of a list's items one by one."""
    from etl.config.document import dotted

    shown = settings.model_dump(mode="json", by_alias=True)
    return [(dotted(path), _as_text(value), settings.place(*path)) for path, value in _leaves(shown)]


def _leaves(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], object]]:
    inner: Iterable[tuple[str | int, object]] = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        inner = enumerate(value)
    else:
        yield path, value
    for key, each in inner:
        yield from _leaves(each, (*path, key))


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    return "null" if value is None else str(value)


@command(app, "migrate")
def migrate(
    call: Invocation,
    *,
    check: Annotated[bool, typer.Option("--check", help="Apply nothing; exit with 1 if any are pending.")] = False,
    citus: Annotated[bool, typer.Option("--citus", help="Print the script for a Citus cluster.")] = False,
) -> int:
    """Apply pending migrations to the warehouse.

    Example: `cortex-etl migrate --check || cortex-etl migrate`
    """
    if citus:
        from etl.db.citus import citus_script

        call.out.raw(citus_script(call.settings.database.schema_name))
        return 0
    names = run_async(_migrate(call.settings, check=check))
    if check:
        for name in names:
            call.out.line(f"pending  {name}")
        return 1 if names else 0
    for name in names:
        if not call.quiet:
            call.out.line(f"applied  {name}")
    if not names:
        call.say("nothing to do: all migrations are applied")
    return 0


async def _migrate(settings: Settings, *, check: bool) -> list[str]:
    from etl.db.connect import connect
    from etl.db.migrate import migrate as apply
    from etl.db.migrate import migrations, pending

    if check and not is_made(settings):
        return [each.name for each in migrations()]
    schema = settings.database.schema_name
    connection = await connect(database_url(settings), schema)
    try:
        return await (pending if check else apply)(connection, schema)
    finally:
        await connection.close()


@command(app, "stop")
def stop(
    call: Invocation, *, demo: Annotated[bool, typer.Option("--demo", help="Stop that of the demo only.")] = False
) -> None:
    """Stop the embedded PostgreSQL, and that of the demo; the data is kept, and the next command starts it again.

    Example: `cortex-etl stop`
    """
    from etl.db import embedded

    settings = call.settings_if_any
    servers = [demo_settings(settings)] if demo else [settings, demo_settings(settings)]
    stopped = [each.data_dir for each in servers if embedded.stop(each.data_dir)]
    for folder in [] if call.quiet else stopped:
        call.out.line(f"stopped PostgreSQL in {folder}")
    if not stopped:
        call.say("no embedded PostgreSQL is running")
