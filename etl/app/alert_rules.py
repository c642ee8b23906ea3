"""Alert rules, which are queries that return rows if something is wrong. They are checked after syncs."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from etl.config import AlertRule
from etl.db.querying import querying
from etl.db.reading import reading_url
from etl.db.statements import statements
from etl.errors import EtlError, SettingsError
from etl.events import Notice, RuleChange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    import asyncpg

    from etl.config import Settings
    from etl.events import Listener

TIMEOUT_S = 30.0
"""Time limit of the query of a rule, in seconds."""

_SQL = statements("alerts")


@dataclass(frozen=True, slots=True)
class RuleState:
    """The stored state of a rule: the columns of `etl_alert_rules`."""

    checked_at: datetime | None = None
    found_since: datetime | None = None
    firing: bool = False

    def is_due(self, rule: AlertRule, now: datetime) -> bool:
        """Return whether the rule is due for a check."""
        return self.checked_at is None or now - self.checked_at >= rule.every

    def after_check(self, rule: AlertRule, now: datetime, *, found: bool) -> RuleState:
        """Return the state after a check; `found` is whether it found rows."""
        since = (self.found_since or now) if found else None
        return RuleState(now, since, firing=since is not None and now - since >= rule.for_)


def shipped_rules() -> list[AlertRule]:
    """Return the rules that `alerts.enable` can name."""
    return [AlertRule(name=name, sql=sql) for name, sql in statements("alert_rules").items()]


def enabled_rules(settings: Settings) -> list[AlertRule]:
    """Return the rules to check: those that `alerts.enable` names, then those of `alerts.rules`."""
    shipped = [rule for rule in shipped_rules() if rule.name in settings.alerts.enable]
    return shipped + settings.alerts.rules


def rule_named(settings: Settings, name: str) -> AlertRule:
    """Return the rule with a name, whether it is enabled or not.

    Raises:
        SettingsError: there is no such rule.
    """
    rules = {rule.name: rule for rule in (*shipped_rules(), *settings.alerts.rules)}
    if name not in rules:
        raise SettingsError(f"there is no alert rule {name}", hint=f"Name one of: {', '.join(rules)}.")
    return rules[name]


async def check_rules(
    settings: Settings,
    connection: asyncpg.Connection,
    send: Callable[[RuleChange], Awaitable[bool]],
    listener: Listener,
) -> None:
    """Check the enabled rules that are due. Queries run with the role of readers; a failed query is a warning.

    Args:
        connection: a connection that may write the state of rules.
        send: sends a message and returns whether it succeeded; if not, the next sync sends the message again.
        listener: receives a notice for each rule that fails, starts firing or is resolved.

    Raises:
        EtlError: the warehouse cannot be reached.
    """
    url = await reading_url(settings)
    for rule in enabled_rules(settings):
        row = await connection.fetchrow(_SQL["rule"], rule.name)
        assert row is not None  # noqa: S101 -- the statement always gives one row
        before = RuleState(row["checked_at"], row["found_since"], row["firing"])
        if not before.is_due(rule, row["now"]):
            continue
        try:
            columns, rows, more = await _first_rows(url, settings.database.schema_name, rule)
        except EtlError as error:
            fields = {"rule": rule.name, "error": error.message, "hint": error.hint or None}
            listener(Notice("alert_rule.failed", fields, level="warning"))
            continue
        after = before.after_check(rule, row["now"], found=bool(rows))
        if after.firing != before.firing:
            change = RuleChange(rule.name, after.firing, after.found_since, columns, rows, more)
            listener(_notice(change))
            if not await send(change):
                after = replace(after, firing=before.firing, checked_at=None)
        await connection.execute(_SQL["store_rule"], rule.name, after.checked_at, after.found_since, after.firing)


async def _first_rows(url: str, schema: str, rule: AlertRule) -> tuple[tuple[str, ...], list[tuple[Any, ...]], bool]:
    """Return the columns of the result, its first rows, and whether there are more."""
    async with querying(url, schema, rule.sql, timeout_s=TIMEOUT_S) as query, aclosing(query.blocks()) as blocks:
        rows = await anext(blocks)
        return query.columns, rows, await anext(blocks, None) is not None


def _notice(change: RuleChange) -> Notice:
    if change.firing:
        return Notice("alert_rule.firing", {"rule": change.rule, "rows": len(change.rows)}, level="warning")
    return Notice("alert_rule.resolved", {"rule": change.rule})
