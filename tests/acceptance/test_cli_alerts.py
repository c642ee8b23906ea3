"""Alert rules: checked after syncs, sent when their state changes, and tested with `alerts test`."""

from __future__ import annotations

import json

import pytest
import yaml

from etl.sandbox.faults import Status, lists_runs

RULE = "SELECT id, status, 'sk-test' AS text FROM runs WHERE id = 'trouble'"


@pytest.fixture
def configured(at_work, receiver):
    """Add alert settings with the webhook to the settings of the command."""
    command, _ = at_work
    path = command.folder / "config.yaml"
    before = path.read_text()

    def configure(url: str = f"{receiver.url}/hook", **alerts) -> None:
        path.write_text(before + yaml.safe_dump({"alerts": {"on_state_change": url, **alerts}}))

    return configure


async def make_trouble(warehouse) -> None:
    await warehouse.execute("INSERT INTO runs (id, status) VALUES ('trouble', 'odd')")


async def end_trouble(warehouse) -> None:
    await warehouse.execute("DELETE FROM runs WHERE id = 'trouble'")


async def state_of(warehouse, rule: str) -> tuple:
    return tuple(
        await warehouse.fetchrow(
            "SELECT checked_at IS NOT NULL, found_since IS NOT NULL, firing FROM etl_alert_rules WHERE name = $1", rule
        )
    )


async def test_rule_is_sent_when_it_fires_and_when_it_is_resolved(at_work, receiver, warehouse, configured) -> None:
    command, running = at_work
    configured(rules=[{"name": "mine", "sql": RULE.replace("sk-test", f"<b>\n{running.key}")}])
    assert (await command("sync", "--quiet")).code == 0
    assert receiver.taken() == []
    await make_trouble(warehouse)
    ended = await command("sync", "--log-format", "json")
    ((path, body),) = receiver.taken()
    sent = json.loads(body)
    assert path == "/hook"
    assert (sent["event"], sent["rule"], sent["state"], sent["found"]) == ("alert.firing", "mine", "firing", 1)
    assert sent["rows"] == [{"id": "trouble", "status": "odd", "text": "<b>\n***"}]
    assert sent["text"].endswith("alert mine is firing: 1 row")
    assert running.key not in body
    assert '"alert_rule.firing"' in ended.err
    assert (await command("sync", "--quiet")).code == 0
    assert receiver.taken() == []  # still firing
    await end_trouble(warehouse)
    assert (await command("sync", "--quiet")).code == 0
    ((_, body),) = receiver.taken()
    assert (json.loads(body)["event"], json.loads(body)["rows"]) == ("alert.resolved", [])
    assert await state_of(warehouse, "mine") == (True, False, False)


async def test_rule_with_for_fires_after_rows_were_found_for_that_time(
    at_work, receiver, warehouse, configured
) -> None:
    command, _ = at_work
    configured(rules=[{"name": "mine", "sql": RULE, "for": "1h"}])
    await make_trouble(warehouse)
    for _ in range(2):
        assert (await command("sync", "--quiet")).code == 0
        assert receiver.taken() == []
    assert await state_of(warehouse, "mine") == (True, True, False)
    await warehouse.execute("UPDATE etl_alert_rules SET found_since = now() - interval '61 minutes'")
    assert (await command("sync", "--quiet")).code == 0
    ((_, body),) = receiver.taken()
    assert json.loads(body)["state"] == "firing"


async def test_rule_with_every_is_not_checked_more_often(at_work, receiver, warehouse, configured) -> None:
    command, _ = at_work
    configured(rules=[{"name": "mine", "sql": RULE, "every": "1h"}])
    assert (await command("sync", "--quiet")).code == 0
    await make_trouble(warehouse)
    assert (await command("sync", "--quiet")).code == 0
    assert receiver.taken() == []
    await warehouse.execute("UPDATE etl_alert_rules SET checked_at = now() - interval '1 hour'")
    assert (await command("sync", "--quiet")).code == 0
    assert len(receiver.taken()) == 1


async def test_message_that_cannot_be_sent_is_repeated(at_work, receiver, warehouse, configured) -> None:
    command, _ = at_work
    configured(rules=[{"name": "mine", "sql": RULE, "every": "1h"}])
    await make_trouble(warehouse)
    receiver.status = 400
    assert (await command("sync", "--quiet")).code == 0
    assert len(receiver.taken()) == 1
    receiver.status = 200
    assert (await command("sync", "--quiet")).code == 0
    assert len(receiver.taken()) == 1
    assert await state_of(warehouse, "mine") == (True, True, True)


async def test_failing_rule_is_a_warning(at_work, receiver, warehouse, configured) -> None:
    command, _ = at_work
    failing = ("SELECT 1/0", "SELECT nothing FROM nowhere", "DELETE FROM runs RETURNING id")
    rules = [{"name": f"bad{number}", "sql": sql} for number, sql in enumerate(failing)]
    configured(rules=[*rules, {"name": "mine", "sql": RULE}])
    await warehouse.execute("INSERT INTO etl_alert_rules (name, firing) VALUES ('bad0', true)")
    await make_trouble(warehouse)
    ended = await command("sync", "--log-format", "json")
    lines = [json.loads(line) for line in ended.err.splitlines()]
    found = [(line["level"], line["rule"]) for line in lines if line["event"] == "alert_rule.failed"]
    assert found == [("warning", "bad0"), ("warning", "bad1"), ("warning", "bad2")]
    assert ended.code == 0
    assert [json.loads(body)["rule"] for _, body in receiver.taken()] == ["mine"]  # the next rule is checked
    assert await state_of(warehouse, "bad0") == (False, False, True)
    assert await warehouse.fetchval("SELECT count(*) FROM runs WHERE id = 'trouble'") == 1


async def test_rules_are_checked_without_a_webhook(at_work, warehouse, configured) -> None:
    command, _ = at_work
    configured(None, rules=[{"name": "mine", "sql": RULE}])
    await make_trouble(warehouse)
    ended = await command("sync")
    assert ended.code == 0
    assert "alert_rule.firing" in ended.err
    assert await state_of(warehouse, "mine") == (True, True, True)


@pytest.mark.parametrize(("status", "code", "checked"), [(403, 1, 1), (401, 3, 0)])
async def test_rules_are_checked_after_syncs_that_end_with_0_or_1(
    at_work, receiver, warehouse, configured, status, code, checked
) -> None:
    command, running = at_work
    configured(None, rules=[{"name": "mine", "sql": "SELECT 1"}])
    workflow_id = next(iter(running.world.workflows))
    running.faults.on(lambda request: workflow_id in request.path and lists_runs(request), Status(status))
    assert (await command("sync", "--quiet")).code == code
    assert await warehouse.fetchval("SELECT count(*) FROM etl_alert_rules") == checked


async def test_slack_receives_its_format(at_work, receiver, warehouse, configured) -> None:
    """The receiver is a proxy for the host name of Slack."""
    command, running = at_work
    command.environment["HTTP_PROXY"] = receiver.url
    configured(
        "http://hooks.slack.com/services/T0", rules=[{"name": "mine", "sql": f"SELECT 7 AS n, '{running.key}' AS k"}]
    )
    assert (await command("sync", "--quiet")).code == 0
    ((_, body),) = receiver.taken()
    sent = json.loads(body)
    assert sorted(sent) == ["blocks", "text"]
    assert sent["blocks"][1]["elements"][0]["elements"][0]["text"] == "n: 7, k: ***"


async def test_teams_receives_a_failing_sync_in_its_format(at_work, receiver, configured) -> None:
    command, running = at_work
    command.environment["HTTP_PROXY"] = receiver.url
    configured("http://contoso.webhook.office.com/webhookb2/x")
    workflow_id = next(iter(running.world.workflows))
    running.faults.on(
        lambda request: workflow_id in request.path and lists_runs(request), Status(403, message="not [yours](x)")
    )
    assert (await command("sync", "--quiet")).code == 1
    ((_, body),) = receiver.taken()
    card = json.loads(body)["attachments"][0]["content"]
    text, *streams = [block["inlines"][0]["text"] for block in card["body"]]
    assert "sync ended with 1" in text
    (stream,) = streams
    assert stream.startswith(f"{workflow_id}: ")
    assert "not [yours](x)" in stream


async def test_dry_run_checks_no_rule(at_work, receiver, warehouse, configured) -> None:
    command, _ = at_work
    configured(rules=[{"name": "mine", "sql": "SELECT 1"}])
    assert (await command("sync", "--quiet", "--dry-run")).code == 0
    assert receiver.taken() == []
    assert await warehouse.fetchval("SELECT count(*) FROM etl_alert_rules") == 0


async def test_alerts_test_shows_what_a_rule_finds(at_work, receiver, warehouse, configured) -> None:
    command, _ = at_work
    configured(rules=[{"name": "mine", "sql": "SELECT 7 AS seven"}])
    assert (await command("alerts", "test", "mine")).out == "seven\n7\n"
    assert (await command("alerts", "test", "mine", "--format", "table")).out.endswith("(1 row)\n")
    for name in ("daily_spend", "failure_rate", "stuck_runs", "unknown_values"):
        assert (await command("alerts", "test", name, "--format", "json")).json == []
    ended = await command("alerts", "test", "other")
    assert (ended.code, ended.out) == (2, "")
    assert "Name one of: daily_spend, failure_rate, stuck_runs, unknown_values, mine." in ended.err
    assert receiver.taken() == []
    assert await warehouse.fetchval("SELECT count(*) FROM etl_alert_rules") == 0


async def test_alerts_list_shows_all_rules(at_work, configured) -> None:
    command, _ = at_work
    configured(enable=["stuck_runs"], rules=[{"name": "mine", "sql": "SELECT 7", "for": "30m", "every": 3600}])
    found = (await command("alerts", "list", "--json")).json
    assert [each["name"] for each in found if each["enabled"]] == ["stuck_runs", "mine"]
    assert found[-1] == {"name": "mine", "sql": "SELECT 7", "for": "30m", "every": "1h", "enabled": True}
    rows = [line.split() for line in (await command("alerts", "list")).out.splitlines()]
    assert ["daily_spend", "no", "0s", "0s"] in rows
    assert ["mine", "yes", "30m", "1h"] in rows


async def test_unknown_name_of_a_rule_lists_the_shipped_ones(at_work, configured) -> None:
    command, _ = at_work
    configured(enable=["spending"])
    ended = await command("sync")
    assert ended.code == 2
    for name in ("alerts.enable[0]", "daily_spend", "failure_rate", "stuck_runs", "unknown_values"):
        assert name in ended.err
