"""What makes the machine run the sync by itself: a line for cron, units for systemd, a manifest for Kubernetes."""

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
    """Where the program and its files are; all paths are absolute.

    Attributes:
        program: the words of the command line that start `cortex-etl`.
        config: the settings file.
        data_dir: where the program may write.
        embedded: whether PostgreSQL is the program's own, which goes on running between syncs.
        user: the account that it runs as.
        log: the file that output goes to; None for where the scheduler puts it.
        metrics: the file that metrics are written to; None for none.
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
        """The file of variables beside the settings, which the program reads by itself as well."""
        return self.config.parent / ".env"

    @property
    def command(self) -> tuple[str, ...]:
        """The words of the command line of one sync."""
        return (*self.program, "sync", "--config", str(self.config), "--log-format", "json")


def cron_times(every: timedelta) -> str:
    """The five time fields of a crontab.

    Raises:
        SettingsError: cron knows no such rhythm; names the nearest that it knows.
    """
    minutes = every.total_seconds() / 60
    rhythms = [number for number in range(1, 60) if 60 % number == 0]
    rhythms += [60 * hours for hours in range(1, 25) if 24 % hours == 0]
    if minutes not in rhythms:
        near = min(rhythms, key=lambda each: abs(each - minutes))
        raise SettingsError(
            f"--every {format_duration(every)}: cron has no such rhythm",
            hint=f"Take the nearest that it has, --every {format_duration(timedelta(minutes=near))}, or systemd.",
        )
    if minutes == _MINUTES_A_DAY:
        return "0 0 * * *"
    if minutes >= 60:
        hours = int(minutes / 60)
        return "0 * * * *" if hours == 1 else f"0 */{hours} * * *"
    return "* * * * *" if minutes == 1 else f"*/{minutes:.0f} * * * *"


def cron_line(made: Installation, every: timedelta) -> str:
    """A crontab for one user: comments and one line.

    What the sync says goes to the log and, by cron, to the user's mail; a sync that went well says nothing.

    Raises:
        SettingsError: cron knows no such rhythm, or a path cannot stand in a crontab.
    """
    log = made.log or made.config.parent / "cortex-etl.log"
    command = f"{shlex.join((*made.command, '--quiet'))} 2>&1 | tee -a {shlex.quote(str(log))}"
    if "\n" in command:
        raise SettingsError("a path holds a line break, which no crontab takes", hint="Rename it.")
    # cron reads a bare % as the end of the line.
    line = f"{cron_times(every)} {command}".replace("%", "\\%")
    return _filled("cron", line=line, words=format_duration(every), log=str(log), environment=str(made.environment))


def systemd_units(made: Installation, every: timedelta) -> dict[str, str]:
    """The service and the timer, by file name.

    Raises:
        SettingsError: `every` is less than a second, or a path cannot stand in a unit.
    """
    if every < timedelta(seconds=1):
        raise SettingsError("--every is less than a second", hint="Take 1m or more.")
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
        # Under control-group the embedded server would be stopped after each sync, and started before the next.
        kill_mode="process" if made.embedded else "mixed",
    )
    timer = _filled("timer", every=f"{every.total_seconds():g}s", words=format_duration(every))
    return {"cortex-etl.service": service, "cortex-etl.timer": timer}


def _systemd_word(word: str) -> str:
    """One word of ExecStart=: `%` and `$` are taken as they are, blanks and quotes stay inside the word."""
    escaped = _specifier_free(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[^\w/.:@%+=,$-]", escaped) or not escaped else escaped


def _quoted_path(path: str) -> str:
    return f'"{path}"' if " " in path else path


def _specifier_free(text: str) -> str:
    if "\n" in text:
        raise SettingsError("a path holds a line break, which no unit takes", hint="Rename it.")
    return text.replace("%", "%%")


def kubernetes_manifest(every: timedelta, *, image: str, config: Path, environment: Path) -> str:
    """A CronJob; its settings come from a ConfigMap and its secrets from a Secret, which the comments say how to make.

    Args:
        every: how often.
        image: the container image.
        config: the settings file here, for the ConfigMap.
        environment: the file of variables here, for the Secret.

    Raises:
        SettingsError: cron knows no such rhythm.
    """
    if not re.fullmatch(r"[\w./:@-]+", image):
        raise SettingsError(f"--image {image!r} is no name of an image", hint="Write it like registry/cortex-etl:1.0.")
    return _filled(
        "k8s",
        times=cron_times(every),
        image=image,
        config=shlex.quote(str(config)),
        environment=shlex.quote(str(environment)),
    )


def _filled(name: str, **values: str) -> str:
    """A template with each `{{name}}` in it replaced."""
    text = _TEMPLATES.joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], text)
