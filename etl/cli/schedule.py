"""Commands that print schedules: schedule cron, systemd, k8s."""

from __future__ import annotations

import getpass
import os
import re
import sys
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etl.cli.help import Group
from etl.cli.invocation import Invocation, command
from etl.cli.options import at_least
from etl.cli.root import app
from etl.cli.units import Installation, cron_line, kubernetes_manifest, systemd_units
from etl.config import load
from etl.config.document import PREFIX
from etl.errors import SettingsError, cannot_write
from etl.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from etl.config import Settings

_READABLE = 0o644  # as other units
_INSTALL = """\
# To install: sudo cortex-etl schedule systemd --write /etc/systemd/system, with --config, then:
#   systemctl daemon-reload && systemctl enable --now cortex-etl.timer
"""

schedule_group = typer.Typer(cls=Group, no_args_is_help=True, help="Print a schedule for the sync.")
app.add_typer(schedule_group, name="schedule")


EveryOption = Annotated[
    timedelta,
    typer.Option(
        "--every",
        parser=at_least(timedelta(minutes=1)),
        show_default="10m",
        metavar="DURATION",
        help="Interval: 5m, 1h, 1d.",
    ),
]
LogOption = Annotated[Path | None, typer.Option("--log", metavar="PATH", help="File for the output.")]


@command(schedule_group, "cron")
def cron(call: Invocation, *, every: EveryOption = timedelta(minutes=10), log: LogOption = None) -> None:
    """Print a crontab that runs the sync of this installation.

    Example: `cortex-etl schedule cron --every 10m`
    """
    made = _installation(call, log)
    line = cron_line(made, every)
    _warn(call, made)
    call.out.raw(line)


@command(schedule_group, "systemd")
def systemd(
    call: Invocation,
    *,
    every: EveryOption = timedelta(minutes=10),
    log: LogOption = None,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="DIR", help="Write the two files to this directory.")
    ] = None,
) -> None:
    """Print a systemd service and timer that run the sync of this installation; logs go to the journal.

    Example: `cortex-etl schedule systemd --every 10m`
    """
    made = _installation(call, log)
    units = systemd_units(made, every)
    if write is None:
        _warn(call, made)
        for name, text in units.items():
            call.out.raw(f"# /etc/systemd/system/{name}\n{text}\n")
        call.out.lines(_INSTALL)
        return
    for name, text in units.items():
        try:
            write_atomically(write / name, text.encode(), mode=_READABLE)
        except OSError as error:
            raise cannot_write(write / name, error, hint="Choose another directory.") from None
        call.out.line(f"wrote {write / name}")
    _warn(call, made)


@command(schedule_group, "k8s")
def k8s(
    call: Invocation,
    *,
    every: EveryOption = timedelta(minutes=10),
    image: Annotated[str | None, typer.Option("--image", metavar="NAME", help="Container image.")] = None,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, max=1000, help="How many pods share each sync.")
    ] = 1,
) -> None:
    """Print a Kubernetes CronJob that runs the sync with these settings.

    Example: `cortex-etl schedule k8s --image registry.example/cortex-etl:1.0`
    """
    from etl import __version__

    made = _installation(call, None)
    if made.embedded:
        raise SettingsError(
            "a pod cannot use the embedded PostgreSQL: it keeps no files",
            hint="Set database.url to a PostgreSQL server that the cluster can reach.",
        )
    image = image or f"cortex-etl:{__version__}"
    files = {"config": made.config, "environment": made.environment}
    manifest = kubernetes_manifest(every, image=image, workers=workers, **files)
    _warn(call, made)
    call.out.raw(manifest)


def _installation(call: Invocation, log: Path | None) -> Installation:
    """Describe this installation.

    Raises:
        SettingsError: there is no settings file.
    """
    settings = call.settings
    if settings.file is None:
        raise SettingsError("a schedule needs a settings file; there is none", hint="Create one: cortex-etl init")
    config = settings.file.absolute()
    script = Path(sys.executable).parent / "cortex-etl"
    return Installation(
        program=(str(script),) if os.access(script, os.X_OK) else (sys.executable, "-m", "etl"),
        config=config,
        embedded=not settings.names_database,
        user=os.environ.get("SUDO_USER") or _account(),
        log=log.absolute() if log is not None else None,
        writable=tuple(_writable(settings)),
    )


def _writable(settings: Settings) -> Iterator[Path]:
    """Yield the directories that a sync writes to."""
    data_dir = settings.data_dir.absolute()
    yield next(each for each in (data_dir, *data_dir.parents) if each.exists())  # a sync creates it
    if not settings.names_database:
        yield Path(tempfile.gettempdir())
    if settings.metrics.file is not None:
        yield settings.metrics.file.absolute().parent


def _account() -> str:
    """Return the name of the account, or its number if it has no name, as in a pod with `runAsUser`."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def _warn(call: Invocation, made: Installation) -> None:
    """Warn about variables that only this shell has. Call it once nothing can fail any more."""
    for warning in _lacking(made.config):
        call.say(warning)


def _lacking(config: Path) -> list[str]:
    """Return warnings about environment variables that are set only in this shell."""
    hint = f"  hint: Put them into {config.parent / '.env'}, one NAME=value per line (chmod 600)."
    try:
        here, there = _effect(config, os.environ), _effect(config, {})
    except SettingsError as error:
        return [f"warning: without this shell's variables: {error.message}", hint]
    if here == there:
        return []
    needed = dict(os.environ)
    for name in sorted(_usable(config)):
        rest = {other: value for other, value in needed.items() if other != name}
        with suppress(SettingsError):
            needed = rest if _effect(config, rest) == here else needed
    only = ", ".join(sorted(_usable(config) & needed.keys()))
    return [f"warning: set only in this shell, which the schedule does not see: {only}", hint]


def _usable(config: Path) -> set[str]:
    """Return the environment variables that settings can come from."""
    text = re.sub(r"(?m)(^|\s)#.*$", "", config.read_text(encoding="utf-8", errors="replace"))
    named = {*re.findall(r"\$\{(\w+)", text), "CORTEX_API_KEY", "DATABASE_URL"}
    proxies = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
    return {
        name
        for name in os.environ
        if name in named or name.startswith("PG") or name.upper().startswith(PREFIX) or name.upper() in proxies
    }


def _effect(config: Path, environment: Mapping[str, str]) -> tuple[object, ...]:
    """Return what a command with these variables would work with, regardless of where it is set."""
    settings = load(config, environment)
    proxies = {scheme: proxy.value for scheme, proxy in settings.network.proxies.items()}
    return settings.model_dump(), settings.database_urls(), proxies, settings.network.no_proxy
