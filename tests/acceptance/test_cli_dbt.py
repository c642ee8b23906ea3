"""`dbt` writes sources that dbt accepts; `make dbt` installs dbt in a separate environment."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
import yaml
from command_fixtures import Command, clean_environment

DBT = Path(os.environ.get("CORTEX_TEST_DBT", Path(__file__).parents[2] / ".venv-dbt/bin/dbt"))


@pytest.fixture
def asking(command: Command, database_url: str) -> Command:
    command.configure(f"database: {{url: '{database_url}'}}\n")
    return command


def tables_of(text: str) -> dict[str, Any]:
    (source,) = yaml.safe_load(text)["sources"]
    return {each["name"]: each for each in source["tables"]}


def checks_of(table: dict[str, Any], column: str = "") -> list[Any]:
    if not column:
        return table.get("data_tests", [])
    (found,) = (each for each in table["columns"] if each["name"] == column)
    return found.get("data_tests", [])


async def test_sources_describe_every_table_and_view_that_grant_allows_to_read(asking) -> None:
    ended = await asking("dbt")
    assert ended.code == 0
    (source,) = yaml.safe_load(ended.out)["sources"]
    assert (source["name"], source["schema"]) == ("cortex", "cortex")
    tables = tables_of(ended.out)
    assert {"runs", "run_step_calls", "child_runs", "run_facts", "sync_health", "etl_syncs", "etl_streams"} <= set(
        tables
    )
    assert not {"etl_rejects", "etl_settings", "rollup_steps", "counted_steps", "health_days"} & set(tables)
    assert all(each["description"] for each in [*tables.values(), *(c for t in tables.values() for c in t["columns"])])


async def test_sources_have_tests_of_keys_and_foreign_keys(asking) -> None:
    tables = tables_of((await asking("dbt")).out)
    assert checks_of(tables["runs"], "id") == ["unique", "not_null"]
    app = {"relationships": {"arguments": {"to": "source('cortex', 'apps')", "field": "id"}}}
    assert checks_of(tables["workflows"], "app_id") == [app]
    both = "(run_id, step_key)::text"
    assert checks_of(tables["run_step_calls"]) == [
        {"unique": {"arguments": {"column_name": "(run_id, step_key, ordinal)::text"}}},
        {"relationships": {"arguments": {"column_name": both, "to": "source('cortex', 'run_steps')", "field": both}}},
    ]
    assert checks_of(tables["run_facts"], "run_id") == ["unique", "not_null"]
    daily = {"unique": {"arguments": {"column_name": "(day, workflow_id)::text"}}}
    assert (checks_of(tables["workflow_health_daily"]), checks_of(tables["workflow_health_daily"], "day")) == (
        [daily],
        [],
    )


async def test_freshness_is_when_a_stream_is_late(asking, warehouse: asyncpg.Connection) -> None:
    def freshness(text: str) -> Any:
        return yaml.safe_load(text)["sources"][0]["config"]

    config = freshness((await asking("dbt")).out)
    assert config["freshness"]["error_after"] == {"count": 24 * 60, "period": "minute"}
    epoch = await warehouse.fetchval(config["loaded_at_query"])
    assert epoch.timestamp() == 0
    await warehouse.execute(
        "INSERT INTO etl_streams (app_id, workflow_id, requested, late_after, last_synced_at) VALUES "
        "('a', 'w', true, interval '3 days', '2026-11-01'), ('a', 'x', true, interval '3 days', '2026-11-02'), "
        "('a', 'y', false, interval '9 days', '2026-10-01')"
    )
    config = freshness((await asking("dbt")).out)
    assert config["freshness"] == {
        "warn_after": {"count": 36 * 60, "period": "minute"}, "error_after": {"count": 72 * 60, "period": "minute"},
    }  # fmt: skip
    assert f"{await warehouse.fetchval(config['loaded_at_query']):%m-%d}" == "11-01"


async def test_an_existing_file_is_replaced_only_with_force(asking) -> None:
    path = asking.folder / "sources.yml"
    path.write_text("mine\n")
    ended = await asking("dbt", "--output", "sources.yml")
    assert (ended.code, ended.out, path.read_text()) == (2, "", "mine\n")
    assert "--force" in ended.err
    assert (await asking("dbt", "-o", "sources.yml", "--force")).code == 0
    assert path.read_text() == (await asking("dbt")).out == (await asking("dbt", "-o", "/dev/stdout")).out
    assert (await asking("dbt", "--force")).code == 2
    assert (await asking("dbt", "-o", "nowhere/sources.yml")).code == 2


class Project:
    """A dbt project in a folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self._environment = folder, clean_environment() | {"DO_NOT_TRACK": "1"}
        where = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(where.query).items()}
        output = {
            "type": "postgres", "host": query["host"], "port": int(query["port"]), "user": where.username,
            "password": "", "dbname": where.path[1:], "schema": "analytics", "threads": 2,
        }  # fmt: skip
        folder.mkdir()
        (folder / "models").mkdir()
        for name, content in {
            "dbt_project.yml": {"name": "check", "version": "1.0", "profile": "check"},
            "profiles.yml": {"check": {"target": "demo", "outputs": {"demo": output}}},
        }.items():
            (folder / name).write_text(yaml.safe_dump(content))

    async def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run dbt with warnings, including those of deprecated properties, as errors."""
        command = [DBT, "--warn-error", "--no-use-colors", *arguments, "--profiles-dir", "."]
        return await asyncio.to_thread(
            cast("Any", subprocess.run),
            command,
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def not_passed(self) -> tuple[int, list[str]]:
        """Return the number of tests that the last `dbt test` ran, and the names of those that failed."""
        results = json.loads((self.folder / "target" / "run_results.json").read_text())["results"]
        return len(results), [each["unique_id"].split(".")[2] for each in results if each["status"] != "pass"]


@pytest.mark.skipif(not DBT.exists(), reason="dbt is not installed: run make dbt")
@pytest.mark.timeout(300)
async def test_dbt_accepts_the_sources_and_its_tests_pass_on_the_demo(command: Command) -> None:
    assert (await command("demo", "--runs", "300", "--quiet")).code == 0
    reader = (await command("sql", "--demo", "--url")).out.strip()
    project = Project(command.folder / "project", reader)
    assert (await command("dbt", "--demo", "-o", "project/models/sources.yml")).code == 0
    parsed = await project("parse")
    assert parsed.returncode == 0, parsed.stdout
    tested = await project("test")
    assert tested.returncode == 0, tested.stdout
    count, failed = project.not_passed()
    assert (count > 80, failed) == (True, [])
    fresh = await project("source", "freshness")
    assert fresh.returncode == 0, fresh.stdout

    owner = await asyncpg.connect(reader.replace("cortex_reader@", "postgres@"))
    await owner.execute("SET session_replication_role = replica")  # keys are not checked
    await owner.execute("INSERT INTO cortex.run_steps (run_id, step_key, ordinal) VALUES ('nowhere', 'a', 0)")
    await owner.execute("UPDATE cortex.etl_streams SET last_synced_at = now() - interval '9 days'")
    await owner.close()
    assert (await project("test")).returncode == 1
    (broken,) = project.not_passed()[1]
    assert broken.startswith("source_relationships_cortex_run_steps_run_id")
    assert (await project("source", "freshness")).returncode == 1
