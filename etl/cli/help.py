"""The output of `--help`: commands in groups, flags without a type, and the common options in one place."""

from __future__ import annotations

from typing import Any, Final

from typer.core import TyperCommand, TyperGroup

GROUPS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Start": {
        "demo": ("sandbox", "Try everything on a simulated API; needs no settings."),
        "init": ("setup", "Create the settings."),
        "doctor": ("setup", "Check everything that a sync needs."),
        "config": ("setup", "Show the settings, and their JSON schema for editors."),
    },
    "Sync": {
        "sync": ("syncing", "Load what is new and what has changed."),
        "backfill": ("syncing", "Load the history, or a part of it."),
        "reconcile": ("syncing", "Compare everything: late changes, and runs that are gone."),
        "status": ("status", "Show the streams and what blocks them."),
        "plan": ("status", "Estimate what a sync costs."),
        "rejects": ("rejects", "Show the quarantine, and load its items again."),
    },
    "Ask": {
        "sql": ("query", "Run a read-only query."),
        "psql": ("query", "Open psql, read-only."),
        "describe": ("query", "Explain tables, views and columns."),
        "report": ("query", "Write an HTML page with plots."),
        "export": ("query", "Write Parquet files."),
        "dbt": ("integrations", "Print a sources.yml for dbt."),
        "mcp": ("integrations", "Let assistants query the warehouse (MCP)."),
    },
    "Operate": {
        "schedule": ("schedule", "Print a schedule for cron, systemd or Kubernetes."),
        "alerts": ("alerts", "Show alert rules, and try them."),
        "forget": ("privacy", "Erase a run, or all runs of a record."),
        "grant": ("privacy", "Let a role read the warehouse."),
        "migrate": ("setup", "Apply pending migrations."),
        "stop": ("setup", "Stop the embedded PostgreSQL."),
        "selftest": ("sandbox", "Check on your own PostgreSQL that no run gets lost."),
        "sandbox": ("sandbox", "Serve the simulated API."),
    },
}
"""The commands in the order of the help: the module that registers each, and what it does in one line."""

MODULES: Final = {name: module for commands in GROUPS.values() for name, (module, _) in commands.items()}
"""The module of each command."""

COMMON: Final = ("config", "log_format", "verbose", "quiet")
"""Options of every command; only the help of the command itself explains them."""

EVERYWHERE: Final = "Options of every command, before or after its name"

COMMON_IN_SHORT: Final = "Also `--config`, `--log-format`, `--verbose` and `--quiet`: see `cortex-etl --help`."


class Command(TyperCommand):
    """A command with its own options in its help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the help, without the common options; completion still knows them."""
        for each in self.get_params(ctx):
            if each.name in COMMON:
                each.hidden = True  # type: ignore[attr-defined]  # an option, not an argument
        _without_types_of_flags(self, ctx)
        super().format_help(ctx, formatter)


class Group(TyperGroup):
    """The root command, or a command with subcommands."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the help."""
        names = super().list_commands(ctx)
        first = [name for names in GROUPS.values() for name in names]
        return sorted(names, key=lambda name: first.index(name) if name in first else len(first))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the help."""
        _without_types_of_flags(self, ctx)
        super().format_help(ctx, formatter)


def _without_types_of_flags(command: TyperCommand | TyperGroup, ctx: Any) -> None:
    for each in command.get_params(ctx):
        if getattr(each, "is_flag", False) or getattr(each, "count", False):
            each.metavar = ""


def place(registered: Any, name: str | None) -> None:
    """Add a command or a group of commands to its panel of the help."""
    for title, commands in GROUPS.items():
        if name in commands:
            registered.rich_help_panel, (_, registered.short_help) = title, commands[name]
