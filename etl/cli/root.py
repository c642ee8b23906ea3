"""The root command, and the registration of all others."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError
from typer.main import get_command

from etl.cli.help import MODULES, Group, place
from etl.cli.invocation import ConfigOption, FormatOption, Invocation, QuietOption, VerboseOption, finish
from etl.config.problems import expected
from etl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_ParseError: Any = typer.BadParameter.__mro__[2]  # of click, or of the copy of it in newer versions of typer


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    return finish(Invocation(log_format=_log_format(arguments)), lambda: _parse_and_run(arguments))


def _parse_and_run(arguments: Sequence[str]) -> int:
    root = get_command(load_commands(*arguments[:1]))
    try:
        code: int | None = root.main(list(arguments), prog_name="cortex-etl", standalone_mode=False)
    except _ParseError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            return SettingsError.exit_code  # the help has been printed
        message = _in_our_words(error).replace(": Value error, ", ": ")
        context = getattr(error, "ctx", None)
        wrong = SettingsError(message, hint=f"Run: {context.command_path if context else 'cortex-etl'} --help")
        if "--json" in arguments and context is not None and MODULES.get(context.info_name or "") == "syncing":
            _print_summary(context.info_name, wrong)
        raise wrong from None
    return code or 0


def _print_summary(command: str, error: SettingsError) -> None:
    """Print the JSON summary of a command that loads, whose options are invalid."""
    from etl.cli.telemetry import summary_of_error

    Invocation().out.json(summary_of_error(command, error).as_dict())


def _in_our_words(error: Any) -> str:
    """Return the message of a parse error, in which a number that pydantic refuses is described as in the settings."""
    message, cause = str(error.format_message()), error.__cause__
    if not isinstance(cause, ValidationError):
        return message
    found = cause.errors()[0]
    words = f"expected {expected(found)}" + (f", got {found['input']!r}" if found["type"].endswith("_parsing") else "")
    return message.replace(found["msg"], words) if found["msg"].startswith(("Input should", "Unable to")) else message


def _log_format(arguments: Sequence[str]) -> Literal["console", "json"] | None:
    """Return the value of --log-format from an invalid command line; None if it has no valid value."""
    words = [word for each in arguments for word in (each.split("=") if each.startswith("--log-format=") else [each])]
    found = [value for option, value in pairwise(words) if option == "--log-format"]
    if found[-1:] == ["json"]:
        return "json"
    return "console" if found[-1:] == ["console"] else None


def _print_version(wanted: bool) -> None:
    if wanted:
        from etl import __version__

        Invocation().out.line(f"cortex-etl {__version__}")
        raise typer.Exit


@app.callback()
def common(
    ctx: typer.Context,
    *,
    config: ConfigOption = None,
    log_format: FormatOption = None,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Load Cortex workflow runs into PostgreSQL: complete, incremental, cheap on requests.

    Start with `cortex-etl demo`, which needs no settings, or with `cortex-etl init` for your own data.
    """
    del version
    ctx.obj = Invocation(config, log_format, verbose, quiet)


def load_commands(name: str = "") -> typer.Typer:
    """Import the module of a command, or those of all commands if there is none of this name; return the root command.

    Importing and building the other commands would delay the start of a sync.
    """
    for module in {MODULES[name]} if name in MODULES else dict.fromkeys(MODULES.values()):
        import_module(f"etl.cli.{module}")
    registered: list[Any] = [*app.registered_commands, *app.registered_groups]
    for each in registered:
        place(each, each.name)
    return app
