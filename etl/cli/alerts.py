"""Commands for alert rules: alerts list, alerts test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from etl.cli.help import Group
from etl.cli.invocation import Invocation, command, run_async
from etl.cli.options import DemoOption, readable_settings
from etl.cli.output import Form, stdout_is_terminal, write_result
from etl.cli.root import app

if TYPE_CHECKING:
    from etl.config import AlertRule, Settings

alerts_group = typer.Typer(cls=Group, no_args_is_help=True, help="Show and try alert rules.")
app.add_typer(alerts_group, name="alerts")


@command(alerts_group, "list")
def list_(
    call: Invocation,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document, with the queries.")] = False,
    demo: DemoOption = False,
) -> None:
    """List the alert rules: the shipped ones and those of the settings.

    Example: `cortex-etl alerts list`
    """
    from etl.app.alert_rules import enabled_rules, shipped_rules

    settings = readable_settings(call, demo=demo)
    enabled = [rule.name for rule in enabled_rules(settings)]
    found = [
        {**rule.model_dump(mode="json", by_alias=True), "enabled": rule.name in enabled}
        for rule in (*shipped_rules(), *settings.alerts.rules)
    ]
    if json:
        call.out.json(found)
        return
    names = ["name", "enabled", "for", "every"]
    call.out.table(names, [["yes" if each[name] is True else each[name] or "no" for name in names] for each in found])


@command(alerts_group, "test")
def try_(
    call: Invocation,
    name: Annotated[str, typer.Argument(help="Name of a rule, enabled or not.")],
    *,
    form: Annotated[
        Literal["table", "csv", "json", "jsonl"] | None,
        typer.Option("--format", help="Output format; by default a table on a terminal, csv elsewhere."),
    ] = None,
    demo: DemoOption = False,
) -> None:
    """Show the rows that an alert rule finds now; nothing is sent, and its state does not change.

    Example: `cortex-etl alerts test stuck_runs`
    """
    from etl.app.alert_rules import rule_named

    settings = readable_settings(call, demo=demo)
    run_async(_show(settings, rule_named(settings, name), form or ("table" if stdout_is_terminal() else "csv")))


async def _show(settings: Settings, rule: AlertRule, form: Form) -> None:
    from etl.app.alert_rules import TIMEOUT_S
    from etl.db.querying import querying
    from etl.db.reading import reading_url

    url, schema = await reading_url(settings), settings.database.schema_name
    async with querying(url, schema, rule.sql, timeout_s=TIMEOUT_S) as query:
        await write_result(query, form, None)
