"""`docs/recipes.md`: its files can be parsed, and its commands and queries run where possible."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import yaml
from command_fixtures import clean_environment

from etl.app import SyncSummary
from etl.config.schema import starter

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
RECIPES = {
    title: re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}


def block(title: str, language: str) -> str:
    return next(text for kind, text in RECIPES[title] if kind == language)


def test_each_recipe_names_what_was_tested() -> None:
    assert len(RECIPES) >= 12
    for text in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        assert re.search(r"\b([Tt]ried|not opened|No container was started)\b", text), text.partition("\n")[0]


def test_files_can_be_parsed() -> None:
    parsers: dict[str, Any] = {"python": ast.parse, "yaml": yaml.safe_load, "json": json.loads}
    for title, found in RECIPES.items():
        for language, text in found:
            assert parsers.get(language, str)(text), title


def test_counts_that_recipes_read_are_in_the_summary() -> None:
    known = SyncSummary("sync").as_dict()
    (counts,) = re.findall(r"^COUNTS = (\(.*\))$", block("Dagster", "python"), re.MULTILINE)
    named = set(ast.literal_eval(counts)) | set(re.findall(r"summary\['(\w+)'\]", PAGE))
    assert len(named) > 5
    assert named <= set(known)


async def test_github_actions_step_syncs_with_its_variables(sandbox, database_url: str, warehouse, tmp_path) -> None:
    running = await sandbox()
    (app, *_) = running.world.apps
    step = yaml.safe_load(block("GitHub Actions", "yaml"))["jobs"]["sync"]["steps"][-1]
    given = {
        "secrets.CORTEX_API_KEY": running.key, "secrets.DATABASE_URL": database_url, "vars.CORTEX_APP_ID": app,
    }  # fmt: skip
    variables = {
        name: re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda found: given[found[1]], value)
        for name, value in step["env"].items()
    }
    (tmp_path / "config.yaml").write_text(starter())  # the version in the source tree
    environment = clean_environment() | variables | {"CORTEX_ETL__API__BASE_URL": running.url}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = await asyncio.to_thread(  # the simulated API answers in this process
        subprocess.run, shell, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert await warehouse.fetchval("SELECT count(*) FROM runs") > 100


async def test_statements_of_the_text_search_run(warehouse: asyncpg.Connection) -> None:
    if not await warehouse.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'"):
        pytest.skip("this PostgreSQL has no pg_trgm")
    for _, statements in RECIPES["Full-text search in results and errors"]:
        for statement in filter(str.strip, re.sub("--.*", "", statements).split(";")):
            await warehouse.execute(statement)


async def test_sandbox_serves_a_client_under_test() -> None:
    async def my_client(url: str, key: str) -> None:
        async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {key}"}) as session:
            for _ in range(3):
                async with session.get("/apps/c/workflows", params={"take": 1}):
                    pass

    names: dict[str, Any] = {"my_client": my_client}
    exec(block("A client of your own: the sandbox", "python"), names)  # noqa: S102 - our own
    await names["test_my_client"]()
