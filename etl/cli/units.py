"""Schedules of the sync: a crontab, systemd units, a Kubernetes manifest."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from typing import TYPE_CHECKING

from etl.config import format_duration
from etl.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

_MINUTES_A_DAY = 1440
_TEMPLATES = files("etl.cli").joinpath("templates")


@dataclass(frozen=True, slots=True)
class Installation:
    """The paths of an installation, all absolute.

    Attributes:
        program: the command that starts `cortex-etl`, as a list of words.
        config: the settings file.
        data_dir: directory that the program may write to.
        embedded: whether the embedded PostgreSQL is used, which keeps running between syncs.
        user: account to run as.
        log: file for the output; None leaves it to the scheduler.
        metrics: file for metrics, if any.
    """

    program: tuple[str, ...]
    config: Path
    data_dir: Path
    embedded: bool
    user: str
    log: Path | None = None
    metrics: Path | None = None

    @property
    def environment(self) -> Path:
        """The `.env` file beside the settings."""
        return self.config.parent / ".env"

    @property
    def command(self) -> tuple[str, ...]:
        """The command of one sync, as a list of words."""
        return (*self.program, "sync", "--config", str(self.config), "--log-format", "json")


def cron_times(every: timedelta) -> str:
    """Return the five time fields of a crontab.

    Raises:
        SettingsError: cron cannot express the interval; the hint names the nearest one.
    """
    minutes = every.total_seconds() / 60
    intervals = [number for number in range(1, 60) if 60 % number == 0]
    intervals += [60 * hours for hours in range(1, 25) if 24 % hours == 0]
    if minutes not in intervals:
        near = min(intervals, key=lambda each: abs(each - minutes))
        raise SettingsError(
            f"cron cannot run every {format_duration(every)}",
            hint=f"Use the nearest interval, --every {format_duration(timedelta(minutes=near))}, or systemd.",
        )
    if minutes == _MINUTES_A_DAY:
        return "0 0 * * *"
    if minutes >= 60:
        hours = int(minutes / 60)
        return "0 * * * *" if hours == 1 else f"0 */{hours} * * *"
    return "* * * * *" if minutes == 1 else f"*/{minutes:.0f} * * * *"


def cron_line(made: Installation, every: timedelta) -> str:
    """Return a crontab for one user: comments and one line.

    The output of a sync goes to the log and, through cron, to the user's mail; a successful sync prints nothing.

    Raises:
        SettingsError: cron cannot express the interval, or a path contains a line break.
    """
    log = made.log or made.config.parent / "cortex-etl.log"
    command = f"{shlex.join((*made.command, '--quiet'))} 2>&1 | tee -a {shlex.quote(str(log))}"
    if "\n" in command:
        raise SettingsError("a path contains a line break, which a crontab cannot", hint="Rename it.")
    # cron reads a bare % as the end of the line.
    line = f"{cron_times(every)} {command}".replace("%", "\\%")
    lock = shlex.quote(str(made.config.parent / "cortex-etl.lock")).replace("%", "\\%")
    places = {"log": str(log), "lock": lock, "environment": str(made.environment)}
    return _filled("cron", line=line, words=format_duration(every), **places)


def systemd_units(made: Installation, every: timedelta) -> dict[str, str]:
    """Return the service and the timer, by file name.

    Raises:
        SettingsError: `every` is less than a second, or a path contains a line break.
    """
    if every < timedelta(seconds=1):
        raise SettingsError("--every is less than a second", hint="Use 1m or more.")
    folders = [f"-{_specifier_free(str(made.data_dir))}"]
    if made.metrics is not None:
        folders.append(f"-{_specifier_free(str(made.metrics.parent))}")
    service = _filled(
        "service",
        command=" ".join(_systemd_word(word) for word in made.command),
        user=made.user,
        folder=_specifier_free(str(made.config.parent)),
        environment=_specifier_free(str(made.environment)),
        log="journal" if made.log is None else f"append:{_specifier_free(str(made.log))}",
        writable=" ".join(_quoted_path(folder) for folder in folders),
        # With control-group, systemd would stop the embedded server after each sync.
        kill_mode="process" if made.embedded else "mixed",
    )
    timer = _filled("timer", every=f"{every.total_seconds():g}s", words=format_duration(every))
    return {"cortex-etl.service": service, "cortex-etl.timer": timer}


def _systemd_word(word: str) -> str:
    """Quote one word for ExecStart=, so that `%`, `$`, blanks and quotes are literal."""
    escaped = _specifier_free(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[^\w/.:@%+=,$-]", escaped) or not escaped else escaped


def _quoted_path(path: str) -> str:
    return f'"{path}"' if " " in path else path


def _specifier_free(text: str) -> str:
    if "\n" in text:
        raise SettingsError("a path contains a line break, which a unit file cannot", hint="Rename it.")
    return text.replace("%", "%%")


def kubernetes_manifest(every: timedelta, *, image: str, config: Path, environment: Path) -> str:
    """Return a CronJob with settings from a ConfigMap and secrets from a Secret; its comments say how to create both.

    Args:
        every: interval between syncs.
        image: the container image.
        config: local settings file, for the ConfigMap.
        environment: local `.env` file, for the Secret.

    Raises:
        SettingsError: cron cannot express the interval, or the image name is invalid.
    """
    if not re.fullmatch(r"[\w./:@-]+", image):
        raise SettingsError(f"invalid image name {image!r}", hint="Write it like registry/cortex-etl:1.0.")
    return _filled(
        "k8s",
        times=cron_times(every),
        image=image,
        config=shlex.quote(str(config)),
        environment=shlex.quote(str(environment)),
    )


def _filled(name: str, **values: str) -> str:
    """Return a template with each `{{name}}` replaced."""
    text = _TEMPLATES.joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], text)
