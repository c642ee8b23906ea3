"""Commands in a folder without settings, the search path of the settings, and the example that `init` writes."""

from __future__ import annotations

import pytest

from etl.cli.reference import commands

NEED_SETTINGS = [
    ["migrate"],
    ["migrate", "--check"],
    ["sync"],
    ["sync", "--dry-run"],
    ["backfill"],
    ["reconcile"],
    ["status"],
    ["plan"],
    ["doctor"],
    ["config", "show"],
    ["sql", "SELECT 1"],
    ["sql", "--url"],
    ["describe"],
    ["psql"],
    ["report"],
    ["export", "files"],
    ["rejects", "list"],
    ["rejects", "retry"],
    ["alerts", "list"],
    ["alerts", "test", "stuck_runs"],
    ["forget", "--run", "r", "--yes"],
    ["grant", "somebody"],
    ["selftest"],
    ["schedule", "cron"],
    ["schedule", "systemd"],
    ["schedule", "k8s"],
    ["dbt"],
    ["mcp"],
]
NEED_NONE = {"demo", "init", "sandbox", "stop", "config schema"}
TAKE_DEMO = [
    ["status"],
    ["sql", "SELECT 1"],
    ["sql", "--url"],
    ["describe"],
    ["psql"],
    ["report"],
    ["export", "files"],
    ["rejects", "list"],
]


def contents(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_all_commands_are_tested() -> None:
    known = {name for name, _ in commands()}
    tried = {name for name in known if any(words[: len(name.split())] == name.split() for words in NEED_SETTINGS)}
    assert tried | NEED_NONE == known


async def test_commands_without_settings_name_the_files_and_write_nothing(command) -> None:
    command.environment |= {"XDG_CONFIG_HOME": str(command.folder), "CORTEX_API_KEY": "sk-1"}
    for words in NEED_SETTINGS:
        ended = await command(*words)
        assert (ended.code, ended.out) == (2, ""), (words, ended)
        assert f"neither config.yaml nor {command.folder}/cortex-etl/config.yaml exists" in ended.err, words
        assert "DATABASE_URL" in ended.err, words
        assert "cortex-etl init" in ended.err, words
        assert contents(command.folder) == [], words


async def test_placeholder_app_is_refused(command) -> None:
    """As in the test above, whatever needs settings reads them first."""
    assert (await command("init")).code == 0
    written = contents(command.folder)
    for words in (["sync"], ["doctor"], ["config", "show"], ["sql", "SELECT 1"], ["schedule", "cron"]):
        ended = await command(*words)
        assert (ended.code, ended.out) == (2, ""), (words, ended)
        assert "apps[0].id: app_123 is the example's id" in ended.err, words
        assert "hint: Replace it with the id of your app." in ended.err, words
        assert contents(command.folder) == written, words


async def test_demo_without_its_data_says_so_and_starts_nothing(command) -> None:
    for words in TAKE_DEMO:
        ended = await command(*words, "--demo")
        assert (ended.code, ended.out) == (2, ""), words
        assert "there is no demo data in .cortex-etl/demo" in ended.err, words
        assert "hint: Run it in this folder: cortex-etl demo" in ended.err, words
        assert contents(command.folder) == [], words


async def test_stop_needs_no_settings(command) -> None:
    ended = await command("stop")
    assert (ended.code, ended.err.strip()) == (0, "no embedded PostgreSQL is running")
    assert contents(command.folder) == []


@pytest.mark.parametrize("name", ["DATABASE_URL", "CORTEX_ETL__DATABASE__URL"])
@pytest.mark.parametrize("place", ["environment", ".env"])
async def test_settings_from_a_variable_suffice(command, database_url, name, place) -> None:
    if place == ".env":
        (command.folder / ".env").write_text(f"{name}={database_url}\n")
    else:
        command.environment[name] = database_url
    counted = await command("sql", "SELECT count(*) FROM runs")
    assert (counted.code, counted.out) == (0, "count\n0\n")
    assert "environment variables, without a file" in (await command("doctor")).out


async def test_settings_are_searched_in_this_order(command) -> None:
    shared = command.folder / "shared"
    (shared / "cortex-etl").mkdir(parents=True)
    command.environment["XDG_CONFIG_HOME"] = str(shared)

    async def shown() -> str:
        rows = (await command("config", "show", "--json")).json
        return next(row["from"] for row in rows if row["key"] == "api.page_size")

    (shared / "cortex-etl" / "config.yaml").write_text("api: {page_size: 1}\n")
    assert await shown() == f"{shared}/cortex-etl/config.yaml:1"
    command.configure("api: {page_size: 2}\n")
    assert await shown() == "config.yaml:1"
    (command.folder / "mine.yaml").write_text("\napi: {page_size: 3}\n")
    command.environment["CORTEX_ETL_CONFIG"] = "mine.yaml"
    assert await shown() == "mine.yaml:2"
    (command.folder / "named.yaml").write_text("\n\napi: {page_size: 3}\n")
    assert "named.yaml:3" in (await command("config", "show", "--config", "named.yaml")).out
    command.environment["CORTEX_ETL_CONFIG"] = "nowhere.yaml"
    ended = await command("status")
    assert (ended.code, "nowhere.yaml: cannot read the settings file" in ended.err) == (2, True)
    assert (await command("init")).code == 0
    assert (command.folder / "nowhere.yaml").exists()
