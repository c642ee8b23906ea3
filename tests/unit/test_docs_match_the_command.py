"""The documentation matches the command."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from etl.cli.help import GROUPS
from etl.cli.root import load_commands
from etl.config import Settings
from etl.config.problems import all_keys

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
PAGES = {"README.md": README, "operations.md": OPERATIONS, "config.yaml": (ROOT / "config.yaml").read_text()}


def commands(tree, path=""):
    for name, each in tree.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, f"{path}{name} ")
        else:
            yield f"{path}{name}", each


ALL = dict(commands(get_command(load_commands())))


@pytest.mark.parametrize(("page", "text"), PAGES.items(), ids=PAGES)
def test_commands_in_the_docs_exist_with_their_options(page, text) -> None:
    shown = re.findall(
        r"(?m)(?:`|^#? *|bin/|&& )cortex-etl ((?:[a-z]+)(?: (?:show|schema|list|retry|test|cron|systemd|k8s))?)((?: --?[a-z-]+)*)",
        text,
    )
    for name, options in shown:
        assert name in ALL, (page, name)
        known = {option for parameter in ALL[name].params for option in parameter.opts}
        assert set(options.split()) <= known, (page, name, options)


def test_settings_table_matches_the_settings() -> None:
    rows = re.findall(
        r"^\| (`[a-z_`.\[\], ]+`) \|", OPERATIONS.partition("## Settings")[2].partition("## ")[0], re.MULTILINE
    )
    documented = {key for row in rows for key in re.findall(r"`([^`]+)`", row)}
    sections = {path[0] for path in all_keys(Settings) if len(path) > 1}
    real = {
        ".".join(map(str, path)).replace("apps.", "apps[].").replace("rules.", "rules[].")
        for path in all_keys(Settings)
        if path[0] not in sections or len(path) > 1
    }
    assert documented == real, "the table in docs/operations.md, section Settings, differs from the settings"


def test_every_exit_code_is_documented() -> None:
    table = OPERATIONS.partition("## Exit codes")[2].partition("## ")[0]
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == ["0", "1", "2", "3", "4", "75", "130"]


def test_extras_are_in_the_install_command_and_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    source = "".join(path.read_text() for path in (ROOT / "etl").rglob("*.py"))
    named = set(re.findall(r"install_extra\([\"'](\w+)[\"']\)", source))
    assert named == extras.keys() - {"bench", "dev"}
    lines = re.findall(r"install \"\.\[([\w,]+)\]\"", README)
    assert lines
    shown = {each for line in lines for each in line.split(",")}
    assert shown == named - {"otel", "mcp", "dask"}  # set up in operations.md and recipes.md
    assert "cortex-etl[otel]" in OPERATIONS
    assert "cortex-etl[dask]" in OPERATIONS
    assert "cortex-etl[mcp]" in (ROOT / "docs" / "recipes.md").read_text()


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    named = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    outside = re.findall(r'"([\w/]+\.md)"', (ROOT / "docs" / "outside_pages.py").read_text())
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(named) == sorted([*pages, *outside])


def test_every_decision_is_in_the_list_of_decisions() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\]\((\d[\w-]+\.md)\)", (folder / "README.md").read_text())
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))


def test_every_command_has_a_place_and_a_line_in_the_help() -> None:
    """A new command is named in `GROUPS` of `etl/cli/help.py`."""
    named = [name for names in GROUPS.values() for name in names]
    root: Any = get_command(load_commands())
    assert sorted(named) == sorted(root.commands)


ALONE = """
import os
from etl.cli.help import GROUPS
from etl.cli.root import load_commands
for name in [name for names in GROUPS.values() for name in names]:
    if os.fork() == 0:
        app = load_commands(name)
        print(name, *(each.name for each in (*app.registered_commands, *app.registered_groups)), flush=True)
        os._exit(0)
    os.wait()
"""


def test_a_command_is_found_without_the_modules_of_the_others() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    found = {name: loaded for name, *loaded in map(str.split, done.stdout.splitlines())}
    assert found.keys() == {name for names in GROUPS.values() for name in names}
    assert all(name in loaded for name, loaded in found.items()), found
    assert set(found["sync"]) == {"sync", "backfill", "reconcile"}
