"""The documentation matches the code: names in it exist, and it is complete."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Any, get_args

import asyncpg
import pytest
from typer.main import get_command

from etl import errors
from etl.app import SyncSummary
from etl.cli.reference import commands, render
from etl.cli.root import load_commands
from etl.config import Settings
from etl.config.problems import all_keys
from etl.dictionary import read_relations
from etl.observe.logs import _NAMES
from etl.observe.metrics import StreamCounters, WarehouseHealth, _stream_metrics, _sync_metrics

ROOT = Path(__file__).parents[2]
OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
FILES = [*(ROOT / name for name in OUTSIDE), *ROOT.glob("docs/**/*.md")]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}
SOURCES = {path: path.read_text() for path in (ROOT / "etl").rglob("*.py")}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
SHELL_ENDS = {"&&", "||", "|", ">", ">>", ";", "#", "&"}
ROOT_OPTIONS = {"--version", "--help", "-h", "--install-completion", "--show-completion"}
MADE_OF = {"py", "sql", "md", "yaml", "yml", "json", "toml", "html", "service", "timer", "prom", "env", "parquet"}


def prose(page: str) -> str:
    return BLOCK.sub("", PAGES[page])


def spans(page: str) -> list[str]:
    return SPAN.findall(prose(page))


def blocks(page: str, *languages: str) -> list[str]:
    return [text for language, text in BLOCK.findall(PAGES[page]) if language in languages]


def shown_commands(page: str) -> list[list[str]]:
    """Return the arguments of all `cortex-etl` commands; `a|b` stands for alternatives."""
    lines = [line for text in blocks(page, "sh", "cron", "ini", "yaml", "json") for line in text.splitlines()]
    found = []
    for text in [*lines, *spans(page)]:
        for match in re.finditer(r"(?:^|(?<=[\s/=]))cortex-etl(?=((?: .*)?)$)", text):
            try:
                words = shlex.split(match[1].partition(" #")[0])
            except ValueError:
                words = match[1].split()
            ends = [place for place, word in enumerate(words) if word in SHELL_ENDS]
            words = words[: ends[0]] if ends else words
            either = [word.split("|") if re.fullmatch(r"\w+(\|\w+)+", word) else [word] for word in words]
            found += map(list, itertools.product(*either))
    return [words for words in found if words]


def parse(words: list[str]) -> None:
    """Parse the arguments with the real command, without running it."""
    command: Any = get_command(load_commands())
    rest = list(words)
    while hasattr(command, "commands"):
        if not rest or rest[0] in ROOT_OPTIONS:
            return
        name = rest.pop(0)
        if name.startswith("-"):
            (option,) = (each for each in command.params if name in each.opts)
            rest = rest if option.is_flag or option.count else rest[1:]
            continue
        assert name in command.commands, f"no such command: {name}"
        command = command.commands[name]
    command.make_context("cortex-etl", [word for word in rest if word not in ROOT_OPTIONS])


def test_commands_in_the_docs_are_valid() -> None:
    for page, words in [(name, words) for name in PAGES for words in shown_commands(name)]:
        try:
            parse(words)
        except Exception as error:
            raise AssertionError(f"{page}: cortex-etl {shlex.join(words)}: {error}") from error


def test_every_command_has_an_example() -> None:
    assert len(shown_commands("docs/commands.md")) > len(dict(commands()))


def test_invalid_commands_are_detected() -> None:
    parse(["sync", "--app", "a", "--quiet"])
    for wrong in (["synk"], ["sync", "--ap", "a"], ["rejects", "lost"], ["backfill", "--since", "soon"]):
        with pytest.raises(Exception, match=r".+"):
            parse(wrong)


def test_command_reference_is_up_to_date() -> None:
    assert render() == PAGES["docs/commands.md"], "run: python -m etl.cli.reference > docs/commands.md"


def test_options_in_the_docs_exist() -> None:
    known = {option for _, each in commands() for parameter in each.params for option in parameter.opts} | ROOT_OPTIONS
    for page in PAGES.keys() - {"benchmarks/README.md"}:  # which has options of its own
        named = {span.split()[0].partition("=")[0] for span in spans(page) if re.match(r"--?[a-z]", span)}
        assert named <= known, page


def test_exit_codes_in_the_docs_match_the_code() -> None:
    table = PAGES["docs/operations.md"].partition("## Exit codes")[2].partition("\n## ")[0]
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.EtlError)]
    real = {each.exit_code for each in kinds} | {
        value for name, value in vars(errors).items() if name.startswith("EXIT_")
    }
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == real


def test_reject_reasons_in_the_docs_match_the_code() -> None:
    table = PAGES["docs/delivery.md"].partition("## Quarantine")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `(\w+)` \| \S", table, re.MULTILINE)
    assert explained == list(get_args(errors.RejectReason))


def test_links_in_the_docs_are_valid() -> None:
    link = re.compile(r"""(?:\]\(|src(?:set)?=")([^)"\s]+)[)"]""")
    for page, target in [(name, target) for name in PAGES for target in link.findall(prose(name))]:
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_make_targets_in_the_docs_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        text = "\n".join([*spans(page), *blocks(page, "sh")])
        for target in re.findall(r"^make ([a-z]+)", text, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page}: {target}"


def test_files_named_in_the_docs_exist() -> None:
    for page, text in PAGES.items():
        for name in re.findall(r"(?<![\w/.])((?:[a-z_]+/)+[a-z_0-9]+\.(?:py|sql))\b", text):
            assert any((base / name).exists() for base in (ROOT, ROOT / "etl")), f"{page}: {name}"


async def test_dotted_names_in_the_docs_exist(warehouse: asyncpg.Connection) -> None:
    """`runs.gone_at` is a column, `sync.lookback` a setting, `sync.finished` a log line."""
    relations = await read_relations(warehouse, "cortex")
    known = {f"{relation.name}.{column.name}" for relation in relations for column in relation.columns}
    known |= {".".join(map(str, path)).replace("apps.", "apps[].") for path in all_keys(Settings)}
    known |= {name for name, _ in _NAMES.values()}
    logged = r'(?:Notice\(\s*|"event": |\.write\([^\n]*)"([a-z_]+\.[a-z_]+)"'
    known |= {name for source in SOURCES.values() for name in re.findall(logged, source)}
    for page in PAGES:
        for span in spans(page):
            if re.fullmatch(r"[a-z_]+(\[\])?\.[a-z_]+", span) and span.rpartition(".")[2] not in MADE_OF:
                assert span in known, f"{page}: {span}"


async def test_queries_of_the_readme_run(warehouse: asyncpg.Connection) -> None:
    (text,) = blocks("README.md", "sql")
    asked = [question for question in text.split(";") if question.strip()]
    assert len(asked) == 3
    for question in asked:
        await warehouse.fetch(question)


async def test_own_runs_as_in_the_readme(command, sandbox, database_url) -> None:
    running = await sandbox()
    command.environment |= {"CORTEX_ETL__API__BASE_URL": running.url, "DATABASE_URL": database_url}
    steps = [words for words in shown_commands("README.md") if words in (["init"], ["doctor"], ["sync"])]
    assert steps == [["init"], ["doctor"], ["sync"]]
    code, shown = await command.on_terminal(*steps[0], answers=[next(iter(running.world.apps)), running.key])
    assert code == 0, shown
    for words in steps[1:]:
        done = await command(*words)
        assert done.code == 0, done


def test_promises_name_existing_tests() -> None:
    """The promises of docs/delivery.md are numbered, and each names existing tests; the README counts them."""
    promises = re.split(
        r"^### ", PAGES["docs/delivery.md"].partition("## The promises")[2].partition("\n## ")[0], flags=re.MULTILINE
    )[1:]
    assert [int(promise.partition(".")[0]) for promise in promises] == list(range(1, len(promises) + 1))
    assert f"Each of its {len(promises)} promises" in PAGES["README.md"]
    for promise in promises:
        named = re.findall(r"^- `(tests/[\w/]+\.py)::(test_\w+)`$", promise, re.MULTILINE)
        assert named, promise.splitlines()[0]
        for path, test in named:
            assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{test}"


def test_removed_mechanisms_name_existing_tests() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    table = PAGES["docs/delivery.md"].partition("## Mutation checks")[2].partition("\n## ")[0]
    for row in re.findall(r"^\| +\d+ \|.*$", table, re.MULTILINE):
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        for test in named:
            assert re.search(rf"^(async )?def {test}\(", tests, re.MULTILINE), row


def test_metrics_in_the_docs_match_the_code() -> None:
    text = PAGES["docs/operations.md"].partition("## Metrics")[2].partition("\n## ")[0]
    of_streams, of_the_sync = re.split(r"\n\| metric, label", text)[1:]
    explained = {
        span.replace("...", prefix)
        for table, prefix in ((of_streams, "cortex_etl_stream"), (of_the_sync, "cortex_etl"))
        for span in re.findall(r"`((?:cortex_etl|\.\.\.)_\w+)`", table)
    }
    health = WarehouseHealth([], None)
    written = [*_sync_metrics(SyncSummary("sync").as_dict()), *_stream_metrics(health, StreamCounters())]
    assert {family.name for family in written} == explained


async def test_tables_in_the_docs_exist(warehouse: asyncpg.Connection) -> None:
    known = {relation.name for relation in await read_relations(warehouse, "cortex")}
    for page in PAGES:
        named = {span for span in spans(page) if re.fullmatch(r"(etl|rollup)_[a-z_]+(?<!_idx)", span)}
        assert named <= known, page
