"""`docs/compose.yaml`: it is parsed, and its command lines run as processes, without containers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
import yaml
from command_fixtures import clean_environment

from etl.db import embedded

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "compose.yaml").read_text()
GIVEN = {
    "CORTEX_APP_ID": "app_of_the_test", "CORTEX_API_KEY": "key-of-the-test", "POSTGRES_PASSWORD": "p",
    "CORTEX_PASSWORD": "it's @ secret", "GRAFANA_PASSWORD": "g", "READER_PASSWORD": "r/e:a'd",
}  # fmt: skip


def interpolated(value: Any, given: dict[str, str]) -> Any:
    """Replace `${NAME:?}` and `$$` as Compose does."""
    if isinstance(value, dict):
        return {name: interpolated(each, given) for name, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, given) for each in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\$|\$\{(\w+):\?\}", lambda found: given[found[1]] if found[1] else "$", value)


def composed(**given: str) -> dict[str, Any]:
    return interpolated(yaml.safe_load(TEXT), GIVEN | given)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[dict[str, list[str]]]:
    """The host and port of a separate server, because roles are shared by all databases of a server."""
    url = await asyncio.to_thread(embedded.start, tmp_path / "pg")
    yield parse_qs(urlsplit(url).query)
    await asyncio.to_thread(embedded.stop, tmp_path / "pg")


async def test_command_lines_of_the_services_work_together(server, sandbox, tmp_path: Path) -> None:
    running = await sandbox()
    (app, *_) = running.world.apps
    document = composed(CORTEX_APP_ID=app, CORTEX_API_KEY=running.key)
    services = document["services"]
    (host,), (port,) = server["host"], server["port"]
    roles = tmp_path / "roles.sql"
    roles.write_text(document["configs"]["roles"]["content"])
    psql = [embedded.program("psql"), "-v", "ON_ERROR_STOP=1", "-h", host, "-p", port, "-U", "postgres", "-f", roles]
    subprocess.run(psql, env=os.environ | services["postgres"]["environment"], check=True, capture_output=True)

    environment = clean_environment() | services["sync"]["environment"] | {
        "PGHOST": host, "PGPORT": port, "CORTEX_ETL__API__BASE_URL": running.url, "XDG_CONFIG_HOME": "/nonexistent",
    }  # fmt: skip
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    folder = tmp_path / "empty"
    folder.mkdir()
    setup = subprocess.run(
        services["setup"]["entrypoint"], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert setup.returncode == 0, setup.stderr

    syncing = await asyncio.create_subprocess_exec(
        "cortex-etl", *services["sync"]["command"], env=environment, cwd=folder,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert syncing.stdout
    async with asyncio.timeout(60):
        while not (line := (await syncing.stdout.readline()).decode()).startswith("sync "):
            assert line, await syncing.stderr.read()  # it ended
    assert line.startswith("sync succeeded"), line
    syncing.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        await syncing.communicate()
    assert syncing.returncode in {0, 130}  # between two rounds, or still in the first one
    assert list(folder.iterdir()) == []

    source = yaml.safe_load(document["configs"]["datasource"]["content"])["datasources"][0]
    reader = await asyncpg.connect(
        host=host, port=int(port), user=source["user"], database=source["jsonData"]["database"]
    )
    assert await reader.fetchval("SELECT count(*) FROM run_facts") > 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await reader.execute("DELETE FROM runs")
    await reader.close()


def test_services_fit_together() -> None:
    document = composed()
    services, configs = document["services"], document["configs"]
    assert set(services) == {"postgres", "setup", "sync", "grafana"}
    used = {each["source"] for service in services.values() for each in service.get("configs", [])}
    assert used == set(configs)
    named = {each.partition(":")[0] for service in services.values() for each in service.get("volumes", [])}
    assert {each for each in named if not each.startswith(".")} == set(document["volumes"])
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
    environment = services["sync"]["environment"]
    assert environment["PGHOST"] == "postgres"
    assert json.loads(environment["CORTEX_ETL__APPS"]) == [{"id": "app_of_the_test"}]
    assert environment["PGPASSWORD"] == services["postgres"]["environment"]["CORTEX_PASSWORD"]
    build = services["sync"]["build"]
    assert (DOCS / build["context"] / build["dockerfile"]).samefile(DOCS / "Containerfile")


def test_grafana_finds_the_warehouse_and_the_dashboard() -> None:
    document = composed()
    grafana = document["services"]["grafana"]
    source = yaml.safe_load(document["configs"]["datasource"]["content"])["datasources"][0]
    dashboard = json.loads((DOCS / "grafana" / "cortex.json").read_text())
    (variable,) = (each for each in dashboard["templating"]["list"] if each["name"] == "datasource")
    assert source["type"] == variable["query"]
    assert source["secureJsonData"]["password"] == "$READER_PASSWORD"
    assert "READER_PASSWORD" in grafana["environment"]
    (provider,) = yaml.safe_load(document["configs"]["dashboards"]["content"])["providers"]
    assert f"./grafana:{provider['options']['path']}:ro" in grafana["volumes"]


def test_every_variable_is_required_and_explained() -> None:
    comment = TEXT.partition("name: cortex-etl\n")[0]
    assert set(re.findall(r"\$\{(\w+):\?\}", TEXT)) == set(GIVEN)
    assert set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", comment)) == set(GIVEN)
    assert not re.search(r"(?<!\$)\$(?!\{\w+:\?\}|\$)", TEXT)
