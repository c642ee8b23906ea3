"""Logs, progress bars and masking of secrets."""

from __future__ import annotations

import io
import json
import re
import time
from typing import Any, get_args

import pytest
from rich.console import Console

from etl import events
from etl.observe.logs import Logs
from etl.observe.progress import ProgressView
from etl.observe.secrets import Mask

STREAM = events.StreamId("app_1", "wf_1")
ONE_OF_EACH: list[Any] = [
    events.SyncStarted("sync", (STREAM,), 7),
    events.StreamStarted(STREAM, 250),
    events.RequestSent("/apps/app_1/workflows", 200, 0.12345, 900),
    events.RequestRetried("/apps", 1, "503", 0.5),
    events.RateLimited(3.0, "/apps"),
    events.PageRead(STREAM, 1, 100, count=250, pages_total=3),
    events.BatchLoaded(STREAM, 90, 3, 6, rows=1500, seconds=0.1),
    events.RunQuarantined(STREAM, "run_1", "invalid_field", "status: expected text, found 7"),
    events.StreamFinished(STREAM, "succeeded", 250, 250),
    events.SyncFinished({"status": "succeeded", "requests": 3, "streams": [{"app_id": "app_1"}]}),
    events.Notice("migration.applied", {"name": "0001.sql"}),
]


def lines(captured) -> list[dict]:
    return [json.loads(line) for line in captured.err.splitlines()]


def test_each_event_is_one_log_line(capsys) -> None:
    assert {type(each) for each in ONE_OF_EACH} == set(get_args(events.Event))
    logs = Logs("json", "debug", Mask())
    for each in ONE_OF_EACH:
        logs.listen(each)
    written = lines(capsys.readouterr())
    assert len(written) == len(ONE_OF_EACH)
    for line in written:
        noun, _, verb = line["event"].partition(".")
        assert noun
        assert verb.endswith("ed") or verb in ("sent", "read")
        assert line["timestamp"].endswith("Z")
    assert written[5]["workflow_id"] == "wf_1"
    assert written[9] == {"event": "sync.finished", "status": "succeeded", "requests": 3, "level": "info"} | {
        "timestamp": written[9]["timestamp"]
    }


@pytest.mark.parametrize(("level", "names"), [("warning", 3), ("info", 7), ("error", 0)])
def test_levels(capsys, level, names) -> None:
    logs = Logs("json", level, Mask())
    for each in ONE_OF_EACH:
        logs.listen(each)
    assert len(lines(capsys.readouterr())) == names


@pytest.mark.parametrize(("outcome", "level"), [("failed", "error"), ("partial", "warning"), ("succeeded", "info")])
def test_failures_are_logged_at_a_higher_level(capsys, outcome, level) -> None:
    logs = Logs("json", "info", Mask())
    logs.listen(events.StreamFinished(STREAM, outcome))
    logs.listen(events.SyncFinished({"status": outcome}))
    assert [line["level"] for line in lines(capsys.readouterr())] == [level, level]


def test_console_format(capsys) -> None:
    logs = Logs("console", "info", Mask())
    logs.listen(events.StreamFinished(STREAM, "succeeded", 250, 250))
    logs.listen(events.SyncFinished({"status": "succeeded", "requests": 3, "error": None}))
    assert "stream.finished" in (err := capsys.readouterr().err)
    assert "api_count=250" in err
    assert "None" not in err


def test_console_format_escapes_control_characters(capsys) -> None:
    Logs("console", "info", Mask()).write("error", "stream.failed", error="\x1b[2J\u202egone")
    assert "error=\\x1b[2J\\u202egone" in capsys.readouterr().err


def test_secrets_are_masked_in_nested_values(capsys) -> None:
    mask = Mask()
    mask.add("sk-hunter2")
    mask.add("abc")  # too short: every line would be garbled
    mask.add_password_of("postgresql://user:p%40ss%2Fword@host/db")
    logs = Logs("json", "info", mask)
    logs.write(
        "info", "x.happened", text="Bearer sk-hunter2", deep={"list": ["p@ss/word", 1, "p%40ss%2Fword"]}, plain="abc"
    )
    (line,) = lines(capsys.readouterr())
    assert line["text"] == "Bearer ***"
    assert line["deep"] == {"list": ["***", 1, "***"]}
    assert line["plain"] == "abc"


@pytest.mark.parametrize("width", [80, 200])
def test_progress_shows_streams_and_the_request_budget(width) -> None:
    out = io.StringIO()
    stream = events.StreamId("app_1", "wf_with_a_name_that_is_rather_long")
    with ProgressView(500, Mask(), Console(file=out, force_terminal=True, color_system=None, width=width)) as view:
        view.listen(events.SyncStarted("backfill", (stream, STREAM), 7))
        view.listen(events.StreamStarted(stream, 25_000))
        time.sleep(0.2)  # rates of over 100,000 a second take more room than there is
        for number in range(1, 101):
            view.listen(events.RequestSent("/apps", 200, 0.1, 900))
            view.listen(events.PageRead(stream, number, 100, count=25_000, pages_total=250))
        view.listen(events.BatchLoaded(stream, 10_000, 0, 0, rows=170_000))
        view._progress.refresh()
    drawn = re.split(r"\n|\x1b\[\w+", out.getvalue())
    every, one = ([line for line in drawn if word in line][-1] for word in ("streams", "wf_with_a"))
    assert re.search(r"backfill .* 0/2 streams [\d,]+ runs/s, 20% of .* \d\d:\d\d", every), every
    assert re.search(r"wf_with_a.* 100/250 pages [\d,]+ runs/s, 10,000 new.* \d\d:\d\d", one), one
    assert ("10,000 runs" in every, "170,000 rows" in one) == (width == 200,) * 2


def test_progress_expects_no_fewer_pages_than_were_read() -> None:
    out = io.StringIO()
    with ProgressView(500, Mask(), Console(file=out, force_terminal=True, color_system=None, width=120)) as view:
        for number in (1, 2, 2):
            view.listen(events.PageRead(STREAM, number, 100, count=200, pages_total=2))
        view._progress.refresh()
    assert "3/3 pages" in out.getvalue()


def test_progress_accepts_events_in_any_order() -> None:
    with ProgressView(500, Mask(), Console(file=io.StringIO(), force_terminal=True)) as view:
        for each in (*reversed(ONE_OF_EACH), *ONE_OF_EACH):
            view.listen(each)
