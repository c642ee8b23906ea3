"""Which error decides the exit code where several apply, and how an extra is installed."""

from __future__ import annotations

import ast
import asyncio
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from etl import errors
from etl.app import SyncSummary
from etl.app.summary import Outcomes
from etl.app.sync_invocation import SyncInvocation
from etl.config import Settings
from etl.engine import run_concurrently
from etl.errors import DatabaseError, FatalError, InterruptedSyncError, KeyRefusedError
from etl.events import StreamId, ignore
from etl.sync import Outcome, Task

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_ORDER = [InterruptedSyncError(), KeyRefusedError("no key"), DatabaseError("no database"), FatalError("no stream")]


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("second", range(4))
def test_exit_codes_take_precedence_in_the_order_130_3_4_1(first: int, second: int) -> None:
    summary = SyncSummary("sync")
    summary.end_with(IN_ORDER[first])
    summary.end_with(IN_ORDER[second])
    assert summary.exit_code == (130, 3, 4, 1)[min(first, second)]


@pytest.mark.parametrize("ended", [{}, {StreamId("a", "w"): Outcome(StreamId("a", "w"), "interrupted")}])
def test_invocation_has_not_succeeded_if_a_stream_was_left_unfinished(ended: dict[StreamId, Outcome]) -> None:
    """As when all processes of an engine lost the database at once, and no other took their streams over."""
    invocation = SyncInvocation(Settings(), Task("sync"), ignore, policy=None)
    invocation._outcomes = Outcomes([StreamId("a", "w")], ended)
    invocation._conclude()
    summary = invocation._summary
    assert (summary.status, summary.exit_code, summary.streams[0].status) == ("failed", 1, "failed")
    assert summary.hint


def test_first_of_several_errors_with_the_same_exit_code_is_kept() -> None:
    summary = SyncSummary("sync")
    summary.end_with(FatalError("first"))
    summary.end_with(FatalError("second"))
    assert summary.error == "first"


async def test_gravest_error_of_concurrent_tasks_is_raised() -> None:
    errors = iter(IN_ORDER[1:])

    async def work() -> None:
        error = next(errors)
        try:
            await asyncio.sleep(0 if error is IN_ORDER[2] else 60)
        finally:
            raise error

    with pytest.raises(KeyRefusedError):
        await run_concurrently(3, work)


def test_an_extra_is_installed_from_the_clone_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = Path(__file__).parents[2]
    assert shlex.split(errors.install_extra("report")) == [
        sys.executable, "-m", "pip", "install", "--editable", f"{root}[report]"
    ]  # fmt: skip
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "site-packages" / "etl" / "errors.py"))
    assert errors.install_extra("report") == 'pip install "cortex-etl[report]"'


def test_messages_begin_with_a_small_letter_and_end_without_a_dot() -> None:
    root = Path(errors.__file__).parent
    found = [message for path in root.rglob("*.py") for message in literal_messages(ast.parse(path.read_text()))]
    assert len(found) > 100
    assert [each for each in found if re.match("(?!PostgreSQL|TLS|Dask)[A-Z]", each) or each.endswith(".")] == []


def literal_messages(tree: ast.AST) -> Iterator[str]:
    """Yield the messages of the errors that a module creates, with `{}` for values."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.fullmatch(r"\w+Error", getattr(node.func, "id", "")) and node.args:
            message = node.args[0]
            parts = message.values if isinstance(message, ast.JoinedStr) else [message]
            text = [each.value if isinstance(each, ast.Constant) else "{}" for each in parts]
            yield "".join(map(str, text))
