"""The demo, and the help of every command."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from command_fixtures import clean_environment
from typer.main import get_command

from etl.cli.root import load_commands

README = Path(__file__).parents[2] / "README.md"


async def test_demo_runs_the_pipeline_keeps_its_data_separate_and_says_what_is_next(command) -> None:
    command.environment["DATABASE_URL"] = "postgresql://u:p@127.0.0.1:9/must_not_be_touched"
    ended = await command("demo", "--runs", "300")
    assert ended.code == 0, ended.err
    assert ended.err == ""
    for words in (
        "Rows loaded",
        "run_usage_calls",
        "Changes",
        "Which workflows cost most",
    ):
        assert words in ended.out
    del command.environment["DATABASE_URL"]
    shown = ended.out.partition("The data is kept.")[2]
    begin = shown.partition("Your own runs, in a folder of their own:\n")[2].splitlines()[0]
    environment = clean_environment() | {"HOME": str(command.folder)}
    subprocess.run(["/bin/sh", "-ec", begin], cwd="/", env=environment, check=True)
    assert (command.folder / "cortex" / "config.yaml").exists()
    first, second = re.findall(r"^ .* ((?:sql|status) --demo .*)$", shown, re.MULTILINE)
    assert (await command(*shlex.split(first))).out.startswith("day,")
    explained = await command(*shlex.split(second))
    assert (explained.code, "complete" in explained.out) == (0, True)
    assert (await command("sql", "SELECT count(*) FROM runs")).code == 2  # only --demo shows this data
    assert (await command("init")).code == 0
    for asked in (["sql", "SELECT count(*) FROM runs"], ["rejects", "list"], ["export", "files"]):
        assert (await command(*asked, "--demo")).code == 0, asked
    counted = await command("sql", "--demo", "SELECT count(*) FROM runs")
    assert (int(counted.out.split()[1]) >= 300, counted.err) == (True, "")
    command.configure("apps: [{id: some_other_app}]\n")
    streams = (await command("status", "--json", "--demo")).json["streams"]
    assert {each["state"] for each in streams} == {"complete"}
    assert (await command("migrate", "--quiet")).code == 0
    assert (await command("sql", "SELECT count(*) FROM runs")).out == "count\n0\n"
    again = await command("sql", "--demo", "SELECT count(*) FROM runs", "--quiet")
    assert (int(again.out.split()[1]) >= 300, again.err) == (True, "")


async def test_output_in_the_readme_is_that_of_the_demo(command) -> None:
    """The numbers depend on the day and on the number of runs; the words do not."""
    (shown,) = re.findall(r"^```text\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    title, headings, _, *rows = shown.splitlines()
    assert len(rows) == 5
    ended = await command("demo", "--runs", "100")
    assert ended.code == 0, ended
    assert {" ".join(title.split()), " ".join(headings.split())} <= {
        " ".join(x.split()) for x in ended.out.splitlines()
    }
    names = (await command("sql", "--demo", "SELECT name FROM workflows")).out.splitlines()
    assert {re.split(r"\s{2,}\d", row)[0].strip() for row in rows} <= set(names)
    quiet = await command("demo", "--runs", "10", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert "stopped PostgreSQL" in (await command("stop", "--demo")).out


def commands(tree, path=()):
    for name, each in tree.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, (*path, name))
        else:
            yield (*path, name), each


ALL = dict(commands(get_command(load_commands())))
PROMISED = {
    "demo", "init", "migrate", "sync", "backfill", "reconcile", "status", "plan", "doctor", "sql", "rejects list",
    "rejects retry", "sandbox", "stop", "config show", "psql",
}  # fmt: skip


def test_all_documented_commands_exist() -> None:
    assert {" ".join(path) for path in ALL} >= PROMISED


def test_all_commands_take_common_options_and_show_an_example() -> None:
    for path, command in ALL.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--config", "--log-format", "--verbose", "--quiet"} <= options, path
        assert f"Example: `cortex-etl {' '.join(path)}" in command.help, path


async def test_help_version_and_completion(command) -> None:
    shown = await command("sync", "--help")
    assert (shown.code, "Example: cortex-etl sync" in shown.out) == (0, True)
    assert (await command("--version")).out.startswith("cortex-etl ")
    assert (await command()).code == 2
    command.environment |= {"_CORTEX_ETL_COMPLETE": "complete_bash", "COMP_WORDS": "cortex-etl sy", "COMP_CWORD": "1"}
    assert "sync" in (await command()).out


@pytest.mark.parametrize(
    ("variable", "value", "colored"), [("NO_COLOR", "1", False), ("NO_COLOR", "", True), ("", "", True)]
)
async def test_no_color(command, variable, value, colored) -> None:
    command.configure(
        "apps: [{id: app_1}]\napi: {base_url: 'http://127.0.0.1:9'}\ndatabase: {url: 'postgresql://u@127.0.0.1:9/d'}\n"
    )
    command.environment |= {"CORTEX_API_KEY": "k"} | ({variable: value} if variable else {})
    for words in (["--help"], ["doctor"], ["sync", "--verbose"], ["status"]):
        _, shown = await command.on_terminal(*words)
        assert bool(re.search("\x1b\\[(\\d+;)*(3|9)[0-7]m", shown)) == colored, (words, shown)
