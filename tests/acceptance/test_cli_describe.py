"""`describe`, and shell completion."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from etl.db import embedded


@pytest.fixture
def asking(command, database_url):
    command.configure(f"database: {{url: '{database_url}'}}\n")
    return command


async def test_describe_lists_tables_and_views(asking) -> None:
    ended = await asking("describe")
    assert ended.code == 0
    lines = [line.split(maxsplit=1) for line in ended.out.splitlines() if line.startswith("  ")]
    assert [
        *next(line for line in lines if line[0] == "runs")[:1],
        next(line for line in lines if line[0] == "runs")[1].partition(" A run that")[0],
    ] == ["runs", "One row per run of a workflow, in its latest known state."]
    assert {line[0] for line in lines} >= {"runs", "sync_health", "etl_syncs", "workflows", "rollup_steps"}
    assert all(len(line) == 2 for line in lines)  # each has a comment
    assert {each["name"] for each in (await asking("describe", "--json")).json} == {line[0] for line in lines}


async def test_describe_shows_columns_with_types_and_units(asking) -> None:
    ended = await asking("describe", "runs")
    lines = ended.out.splitlines()
    assert (ended.code, lines[0]) == (0, "runs (table)")
    assert any(
        line.split() == ["id", "text,", "key", "Id", "of", "the", "run,", "as", "given", "by", "the", "API."]
        for line in lines
    )
    assert any(
        line.split()[:4] == ["duration_s", "double", "precision,", "computed"]
        and line.endswith("in seconds; null if either is null.")
        for line in lines
    )
    assert any(line.split()[:2] == ["created_at", "timestamptz"] for line in lines)
    assert (await asking("describe", "cortex.sync_health")).out.startswith("sync_health (view)\nOne row per stream")
    (key, *_) = (await asking("describe", "apps", "--json")).json["columns"]
    assert key == {
        "name": "id", "type": "text", "kind": "key", "comment": "Id of the app, as given by the API.", "nullable": False,
    }  # fmt: skip


async def test_describe_knows_similar_names(asking) -> None:
    for name, hint in (("rnus", "Did you mean runs"), ("zzzzz", "`cortex-etl describe` lists all")):
        ended = await asking("describe", name)
        assert (ended.code, ended.out) == (2, "")
        assert f"there is no table or view {name}" in ended.err
        assert hint in ended.err


async def test_describe_without_a_warehouse_has_a_hint(command, empty_database_url) -> None:
    command.configure(f"database: {{url: '{empty_database_url}'}}\n")
    ended = await command("describe")
    assert (ended.code, "cortex-etl migrate" in ended.err) == (4, True)


async def completed(command, line: str) -> list[str]:
    """Return the completions that bash offers at the end of a line."""
    words = line.split(" ")
    command.environment |= {
        "_CORTEX_ETL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    try:
        ended = await command()
    finally:
        for name in ("_CORTEX_ETL_COMPLETE", "COMP_WORDS", "COMP_CWORD"):
            del command.environment[name]
    assert ended.err == ""
    return ended.out.split()


async def test_shell_completes_relations_workflows_and_apps(asking, warehouse, tmp_path: Path) -> None:
    await warehouse.execute("INSERT INTO apps (id) VALUES ('app_1'), ('other')")
    await warehouse.execute("INSERT INTO workflows (id, name) VALUES ('wf_1', 'One'), ('wf_2', 'Two'), ('x', 'Three')")
    assert await completed(asking, "cortex-etl describe run_s") == ["run_step_calls", "run_steps"]
    assert await completed(asking, "cortex-etl sync --workflow wf") == ["wf_1", "wf_2"]
    assert await completed(asking, "cortex-etl backfill --workflow wf_1 --app ") == ["app_1", "other"]
    elsewhere = tmp_path / "elsewhere.yaml"
    (asking.folder / "config.yaml").rename(elsewhere)
    assert await completed(asking, "cortex-etl plan --workflow wf") == []
    assert await completed(asking, f"cortex-etl --config {elsewhere} plan --workflow wf") == ["wf_1", "wf_2"]
    assert await completed(asking, f"cortex-etl plan --config {elsewhere} --workflow wf") == ["wf_1", "wf_2"]


async def test_completion_is_silent_and_starts_nothing(command) -> None:
    command.configure("database: {url: 'postgresql://127.0.0.1:9/d'}\n")
    assert await completed(command, "cortex-etl describe r") == []
    command.configure("data_dir: .cortex-etl\n")
    assert await completed(command, "cortex-etl describe r") == []
    assert not (command.folder / ".cortex-etl").exists()
    assert (await command("describe", "runs")).code == 0
    assert "runs" in await completed(command, "cortex-etl describe r")
    await asyncio.to_thread(embedded.stop, command.folder / ".cortex-etl")
    assert await completed(command, "cortex-etl describe r") == []
    assert embedded.running_url(command.folder / ".cortex-etl") is None
    command.configure("nonsense: [\n")
    assert await completed(command, "cortex-etl describe r") == []


async def test_completion_offers_no_shell_code(asking, warehouse) -> None:
    """Shells insert values unchanged, and zsh evaluates their descriptions."""
    ids = ["wf_$(reboot)", "wf_`id`", "wf_;reboot", "wf_a b", "wf_\x1b]0;owned\x07", "wf_\nx", "wf_'", "wf_fine"]
    for each in ids:
        await warehouse.execute("INSERT INTO workflows (id, name) VALUES ($1, $2)", each, f'{each} "\\$`\u202e')
    assert await completed(asking, "cortex-etl sync --workflow wf_") == ["wf_fine"]
    asking.environment |= {
        "_CORTEX_ETL_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "cortex-etl sync --workflow wf_"
    }  # fmt: skip
    offered = (await asking()).out
    assert '"wf_fine":"wf_fine ' in offered
    assert not set(offered) & set("$`\\;\x1b\u202e")
