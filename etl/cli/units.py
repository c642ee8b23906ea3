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
_NOT_IN_PROGRAMS = set("\"'\\")  # characters that systemd rejects
_TEMPLATES = files("etl.cli").joinpath("templates")


@dataclass(frozen=True, slots=True)
class Installation:
    """The paths of an installation, all absolute.

    Attributes:
        program: the command that starts `cortex-etl`, as a list of words.
        config: the settings file.
        embedded: whether the embedded PostgreSQL is used, which keeps running between syncs.
        user: account to run as.
        log: file for the output; None leaves it to the scheduler.
        writable: directories that the program writes to.
    """

    program: tuple[str, ...]
    config: Path
    embedded: bool
    user: str
    log: Path | None = None
    writable: tuple[Path, ...] = ()

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
        SettingsError: cron cannot express the interval, or a path contains a control character.
    """
    log = made.log or made.config.parent / "cortex-etl.log"
    command = f"{shlex.join((*made.command, '--quiet'))} 2>&1 | tee -a {shlex.quote(str(log))}"
    _refuse_control_characters(command, "a crontab")
    # cron reads a bare % as the end of the line.
    line = f"{cron_times(every)} {command}".replace("%", "\\%")
    lock = shlex.quote(str(made.config.parent / "cortex-etl.lock")).replace("%", "\\%")
    places = {"log": str(log), "lock": lock, "environment": str(made.environment)}
    return _filled("cron", line=line, words=format_duration(every), **places)


def systemd_units(made: Installation, every: timedelta) -> dict[str, str]:
    """Return the service and the timer, by file name.

    Raises:
        SettingsError: `every` is less than a second, or a unit file cannot express a path.
    """
    if every < timedelta(seconds=1):
        raise SettingsError("--every is less than a second", hint="Use 1m or more.")
    program, *arguments = made.command
    folder, log = str(made.config.parent), "" if made.log is None else _literal(str(made.log))
    if log.endswith((" ", "\\")):
        raise SettingsError("the path of the log ends with a blank or a backslash", hint="Name another with --log.")
    if set(program) & _NOT_IN_PROGRAMS:
        program, arguments = "/usr/bin/env", list(made.command)
    words = [_literal(program), *(_literal(each).replace("$", "$$") for each in arguments)]
    service = _filled(
        "service",
        command=" ".join(map(_quoted, words)),
        user=_literal(made.user),
        # The slash keeps a blank or a backslash at the end.
        folder=_literal(f"{folder}/" if folder.endswith((" ", "\\")) else folder),
        environment=re.sub(
            r"([\\*?[])", r"\\\1", _literal(str(made.environment))
        ),  # EnvironmentFile= is a glob pattern
        log=f"append:{log}" if log else "journal",
        writable=" ".join(_quoted(f"-{_literal(str(each))}") for each in made.writable),
        # With control-group, systemd would stop the embedded server after each sync.
        kill_mode="process" if made.embedded else "mixed",
        # As root, the embedded server runs under another account, and the settings may belong to another user.
        capabilities="CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_SETGID CAP_SETUID" if made.user == "root" else "",
        # Isolate the service from other users; keep the shared memory of the embedded server between syncs.
        private_users="no" if made.user == "root" or made.embedded else "yes",
        remove_ipc="no" if made.embedded else "yes",
    )
    timer = _filled("timer", every=f"{every.total_seconds():g}s", words=format_duration(every))
    return {"cortex-etl.service": service, "cortex-etl.timer": timer}


def _literal(text: str) -> str:
    """Escape a text so that systemd expands nothing in it.

    Raises:
        SettingsError: it contains a line break or another control character.
    """
    _refuse_control_characters(text, "a unit file")
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """Quote a word of a list, so that blanks, quotes and backslashes are literal."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if re.search(r"[^\w/.:@%+=,$-]", escaped) or not escaped else escaped


def _refuse_control_characters(text: str, place: str) -> None:
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise SettingsError(
            f"a path contains a line break or control character, which {place} cannot", hint="Rename it."
        )


def kubernetes_manifest(every: timedelta, *, image: str, config: Path, environment: Path, workers: int = 1) -> str:
    """Return a CronJob with settings from a ConfigMap and secrets from a Secret; its comments say how to create both.

    Args:
        every: interval between syncs.
        image: the container image.
        config: local settings file, for the ConfigMap.
        environment: local `.env` file, for the Secret.
        workers: number of pods that share each sync.

    Raises:
        SettingsError: cron cannot express the interval, the image name is invalid, or a path has control characters.
    """
    _refuse_control_characters(f"{config}{environment}", "a manifest")
    if not re.fullmatch(r"[\w./:@-]+", image):
        raise SettingsError(f"invalid image name {image!r}", hint="Write it like registry/cortex-etl:1.0.")
    return _filled(
        "k8s",
        times=cron_times(every),
        image=image,
        config=shlex.quote(str(config)),
        environment=shlex.quote(str(environment)),
        shares="".join(f"\n      {line}" for line in _shares(workers)),
        join=" --join cortex-etl" if workers > 1 else "",
    )


def _shares(workers: int) -> list[str]:
    """Return the part of a Job that runs several pods."""
    if workers == 1:
        return []
    return ["completionMode: Indexed", f"completions: {workers}", f"parallelism: {workers}"]


def _filled(name: str, **values: str) -> str:
    """Return a template with each `{{name}}` replaced."""
    text = _TEMPLATES.joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], text)
