"""The root command, and the registration of all others."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from etl.cli.invocation import ConfigOption, FormatOption, Invocation, QuietOption, VerboseOption

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from etl import __version__

        typer.echo(f"cortex-etl {__version__}")
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
    """Load Cortex workflow runs into PostgreSQL, completely and incrementally.

    Start with `cortex-etl demo`, which needs no settings, or with `cortex-etl init` for your own data.
    """
    del version
    ctx.obj = Invocation(config, log_format, verbose, quiet)


# Each module registers its commands when imported; this is their order in the help.
for _module in ("sandbox", "setup", "syncing", "status", "query", "rejects", "privacy", "schedule"):
    import_module(f"etl.cli.{_module}")
