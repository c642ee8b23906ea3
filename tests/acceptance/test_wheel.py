"""The built wheel contains everything needed at run time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from etl.config.schema import starter

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(built, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_contents(wheel) -> None:
    names = set(ZipFile(wheel).namelist())
    assert {f"etl/migrations/{each.name}" for each in (ROOT / "migrations").glob("*.sql")} <= names
    assert {"etl/config.yaml", "etl/cookbook.md"} <= names
    package = {str(each.relative_to(ROOT)) for each in (ROOT / "etl").rglob("*") if each.is_file()}
    assert {each for each in package if "__pycache__" not in each} <= names
    assert not [name for name in names if name.startswith("tests")]


async def test_demo_runs_from_the_wheel(wheel, tmp_path, command) -> None:
    target = tmp_path / "installed"
    ZipFile(wheel).extractall(target)
    command.environment["PYTHONPATH"] = str(target)
    where = subprocess.run(
        [sys.executable, "-c", "import etl; print(etl.__file__)"],
        env=os.environ | {"PYTHONPATH": str(target)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert where.startswith(str(target))
    assert (await command("demo", "--runs", "60", "--quiet")).code == 0
    assert (await command("init")).code == 0
    assert (command.folder / "config.yaml").read_text() == starter()
