"""The reference of all commands, made from them: `python -m etl.cli.reference > docs/commands.md`."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import typer
from typer.main import get_command

from etl.cli.invocation import COMMON_OPTIONS
from etl.cli.root import app
from etl.config import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTRODUCTION = """\
# Commands

Made from the commands by `python -m etl.cli.reference`; `--help` on each says the same. Logs go to stderr, results to
stdout; [operations.md](operations.md) has the exit codes. `cortex-etl --version` prints the version, and
`cortex-etl --install-completion` teaches your shell to complete commands and options.

## On every command
"""


def commands(group: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """All commands by their full name, `rejects list` for one in a group, in the order of the help."""
    root: Any = group or get_command(app)
    for name, each in root.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, f"{path}{name} ")
        else:
            yield path + name, each


def render() -> str:
    """The page as Markdown."""
    every = dict(commands())
    parts = [_INTRODUCTION, _table(next(iter(every.values())), common=True)]
    for name, command in every.items():
        parts += [f"## {name}\n", f"{inspect.cleandoc(command.help or '')}\n", _table(command, common=False)]
    return "\n".join(part for part in parts if part)


def _table(command: Any, *, common: bool) -> str:
    """The command's own options, or those that all have; '' where there are none."""
    shown = [each for each in command.params if (each.name in COMMON_OPTIONS) == common]
    annotations = {name: each.annotation for name, each in inspect.signature(command.callback).parameters.items()}
    rows = ["| option | default | meaning |", "| --- | --- | --- |"]
    rows += [f"| {_names(each, annotations)} | {_default(each)} | {' '.join(each.help.split())} |" for each in shown]
    return "\n".join(rows) + "\n" if shown else ""


def _names(parameter: Any, annotations: dict[str, Any]) -> str:
    """The option as it is typed: its names, and what follows them."""
    value = " or ".join(f"`{choice}`" for choice in _choices(annotations[parameter.name]))
    if parameter.param_type_name == "argument":
        return value or f"`{parameter.name.upper()}`"
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.is_flag or parameter.count:
        return names
    return f"{names} {value or f'`{parameter.metavar or parameter.name.upper()}`'}"


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The values that an annotation lists in a `Literal`, however deep that stands."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for part in get_args(annotation) for choice in _choices(part))


def _default(parameter: Any) -> str:
    shown = parameter.default
    if isinstance(shown, timedelta):
        return f"`{format_duration(shown)}`"
    return "" if callable(shown) or shown in (None, False, 0, "", (), []) else f"`{shown}`"


if __name__ == "__main__":
    typer.echo(render(), nl=False)
