"""The sizes and dependencies of the code, as in `docs/architecture.md`."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
STALE = 0.25  # tolerated difference of a size, so that the page need not change with every commit


@pytest.fixture
def structure(monkeypatch):
    spec = importlib.util.spec_from_file_location("structure", DOCS / "structure.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "structure", module)  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module


def test_no_modules_import_each_other(structure) -> None:
    assert structure.import_cycle() == []


def test_no_file_name_means_two_things(structure) -> None:
    assert structure.file_names_in_two_packages() == []


def test_the_page_is_up_to_date(structure) -> None:
    page = (DOCS / "architecture.md").read_text()
    shown = dict(re.findall(r"^\| `([\w.]+)` \| \d+ \| (\d+) \|", page, re.MULTILINE))
    hint = "run: python docs/structure.py"
    assert set(shown) == {each.name for each in structure.sizes()}, hint
    for each in structure.sizes():
        assert abs(int(shown[each.name]) - each.lines) <= max(100, STALE * each.lines), f"{each.name}: {hint}"
    for what, name in structure.EXAMPLES:
        assert structure.files_naming(name)
        assert f"| {what} | `{name}`: " in page, hint


def test_every_file_in_the_walkthrough_exists(structure) -> None:
    page = (DOCS / "architecture.md").read_text()
    story = page.partition("## One run")[2].partition("## Sizes")[0]
    files = set(re.findall(r"`((?:\w+/)?\w+\.py)`", story))
    assert len(files) > 20
    assert [name for name in sorted(files) if not (structure.ROOT / "etl" / name).exists()] == []


def test_every_name_in_the_walkthrough_exists(structure) -> None:
    page = (DOCS / "architecture.md").read_text()
    story = page.partition("## One run")[2].partition("## The parts")[0]
    code = "".join(path.read_text() for path in (structure.ROOT / "etl").rglob("*.py"))
    names = set(re.findall(r"`([A-Z]\w+(?:\.\w+)?|\w+_\w+)`", story)) - {
        "etl_syncs",
        "etl_streams",
        "etl_queue",
        "gone_at",
    }
    assert len(names) > 8
    for name in sorted(names):
        owner, _, method = name.rpartition(".")
        assert re.search(rf"\b(def|class) {method}\b", code), name
        assert not owner or f"class {owner}" in code, name


@pytest.mark.parametrize(
    ("code", "cycle"),
    [
        ("import etl.b", ["etl.b", "etl.a", "etl.b"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from etl import b", ["etl.b", "etl.a", "etl.b"]),
        ("def late():\n    from etl.b import Thing", ["etl.b", "etl.a", "etl.b"]),
        ("from etl import c", []),
    ],
)
def test_a_cycle_of_any_kind_is_found(structure, tmp_path, monkeypatch, code, cycle) -> None:
    package = tmp_path / "etl"
    package.mkdir()
    for name, text in (("__init__", ""), ("a", code), ("b", "from etl.a import Thing"), ("c", "")):
        (package / f"{name}.py").write_text(text)
    monkeypatch.setattr(structure, "ROOT", tmp_path)
    assert set(structure.import_cycle()) == set(cycle)
