"""Measure the code and write the table in `architecture.md`: `python docs/structure.py`.

`python docs/structure.py NAME ...` prints the files that name a column, a setting, a view or a command, as words.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("architecture.md")
EXAMPLES = (
    ("a column of `runs`", "collection_id"),
    ("a setting", "redact_by"),
    ("a view", "run_tree"),
    ("a command", "selftest"),
)
"""What a change adds, and an existing one that stands for it."""

_MARKED = re.compile(r"(?<=<!-- structure: python docs/structure.py -->\n).*?(?=<!-- end of structure -->)", re.DOTALL)
_APART = ("sandbox",)  # shares nothing with the rest on purpose


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a package or of a module at the top of `etl`."""

    name: str
    files: int
    lines: int
    classes: int
    sql_lines: int


def sizes() -> list[Size]:
    """Measure each package, by name."""
    parts: dict[str, list[Path]] = defaultdict(list)
    for path in sorted((ROOT / "etl").rglob("*.py")) + sorted((ROOT / "etl").rglob("*.sql")):
        parts[path.relative_to(ROOT / "etl").parts[0]].append(path)
    parts["migrations"] = sorted((ROOT / "migrations").glob("*.sql"))
    return [_size(name, paths) for name, paths in sorted(parts.items()) if not name.startswith("__")]


def _size(name: str, paths: list[Path]) -> Size:
    code = [path.read_text(encoding="utf-8") for path in paths if path.suffix == ".py"]
    sql = [path.read_text(encoding="utf-8") for path in paths if path.suffix == ".sql"]
    classes = sum(isinstance(node, ast.ClassDef) for text in code for node in ast.walk(ast.parse(text)))
    return Size(name, len(paths), sum(map(_lines, code)), classes, sum(map(_lines, sql)))


def _lines(text: str) -> int:
    return len(text.splitlines())


def files_naming(name: str) -> list[str]:
    """Return the files, apart from tests, docs and the sandbox, that contain a name as a word."""
    word = re.compile(rf"\b{re.escape(name)}\b")
    paths = [*(ROOT / "etl").rglob("*.py"), *(ROOT / "etl").rglob("*.sql"), *(ROOT / "migrations").glob("*.sql")]
    found = [path.relative_to(ROOT) for path in (*paths, ROOT / "config.yaml") if word.search(path.read_text("utf-8"))]
    return sorted(str(path) for path in found if path.parts[1:2] != _APART)


def import_cycle() -> list[str]:
    """Find modules that import each other in a circle, `TYPE_CHECKING` and local imports included; [] if none do."""
    paths = {_module(path): path for path in (ROOT / "etl").rglob("*.py")}
    graph = {module: _imports(path, set(paths)) - {module} for module, path in paths.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path, modules: set[str]) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{each.name}" for each in node.names}
            names |= {each if each in modules else node.module for each in inner}
    return names & modules


def file_names_in_two_packages() -> list[str]:
    """Return the names of modules that occur in more than one package."""
    places: dict[str, set[Path]] = defaultdict(set)
    for path in (ROOT / "etl").rglob("*.py"):
        if not path.name.startswith("__"):
            places[path.stem].add(path.parent)
    return sorted(name for name, folders in places.items() if len(folders) > 1)


def render() -> str:
    """Return the section as Markdown."""
    measured = sizes()
    rows = [(f"`{each.name}`", each.files, each.lines, each.classes, each.sql_lines or "") for each in measured]
    rows.append(("all", *(sum(getattr(each, name) for each in measured) for name in Size.__slots__[1:])))
    lines = ["| part | files | lines | classes | lines of SQL |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    heading = "| to add | files of an existing example, without tests, docs and the simulated API | |"
    lines += ["", heading, "| --- | --- | ---: |"]
    for what, name in EXAMPLES:
        files = files_naming(name)
        lines.append(f"| {what} | `{name}`: {', '.join(f'`{each}`' for each in files)} | {len(files)} |")
    cycle = " → ".join(import_cycle())
    names = ", ".join(f"`{name}.py`" for name in file_names_in_two_packages())
    lines += ["", f"Import cycles, `TYPE_CHECKING` included: {cycle or 'none'}. "]
    lines[-1] += f"File names that occur in two packages: {names or 'none'}."
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the section, or print the files that name what the command line asks for."""
    if len(sys.argv) > 1:
        for name in sys.argv[1:]:
            print(name, *files_naming(name), sep="\n  ")  # noqa: T201
        return
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_MARKED.sub(lambda _: render(), page), encoding="utf-8")


if __name__ == "__main__":
    main()
