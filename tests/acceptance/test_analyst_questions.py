"""Questions of analysts: the answers of the views equal those computed from the JSON of the API."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from served_runs import ENDED, ServedRun, percentile, ratio, served_runs, step_duration_s, total
from sync_trials import WORKFLOW, one_stream, trial

from etl.db.querying import run_query
from etl.sandbox import World

Rows = list[tuple[Any, ...]]
QUESTIONS: dict[str, tuple[str, Callable[[list[ServedRun]], Rows]]] = {}


def question(text: str, sql: str) -> Callable[[Callable[[list[ServedRun]], Rows]], None]:
    """Register a question, the query that answers it, and the computation with which the answer is compared."""

    def register(calculate: Callable[[list[ServedRun]], Rows]) -> None:
        QUESTIONS[text] = (sql, calculate)

    return register


def grouped(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    found = defaultdict(list)
    for each in items:
        found[key(each)].append(each)
    return found


def steps_of(runs: list[ServedRun]) -> list[tuple[ServedRun, str, Any]]:
    return [(run, key, step) for run in runs for key, step in run.steps.items()]


@question(
    "What does each run cost, how long did it take, and what started it?",
    "SELECT run_id, credits, credits_with_children, duration_s, steps, input_tokens, output_tokens, parent_run_id, "
    "failed_step_key FROM run_facts",
)
def _(runs):
    return [
        (
            each.id, each.credits, each.credits_with_children, each.duration_s, len(each.steps), *each.tokens,
            each.parent and each.parent.id, each.first_failed_step[0],
        )
        for each in runs
    ]  # fmt: skip


@question(
    "How are the workflows doing, day by day?",
    "SELECT day, workflow_id, runs, completed, failed, cancelled, skipped, open, failure_rate, p50_duration_s, "
    "p95_duration_s, credits FROM workflow_health_daily",
)
def _(runs):
    rows = []
    for (day, workflow), found in grouped(runs, lambda each: (each.day, each.workflow)).items():
        count = {name: sum(each.status == name for each in found) for name in (*ENDED, "PENDING", "RUNNING")}
        durations = [each.duration_s for each in found]
        rows.append((
            day, workflow, len(found), count["COMPLETED"], count["FAILED"], count["CANCELLED"], count["SKIPPED"],
            count["PENDING"] + count["RUNNING"], ratio(count["FAILED"], sum(count[name] for name in ENDED)),
            percentile(durations, 0.5), percentile(durations, 0.95), total(each.credits for each in found),
        ))  # fmt: skip
    return rows


@question(
    "What was spent each day, on what kind of start?",
    "SELECT day, workflow_id, origin, runs, credits, credits_with_children FROM credits_daily",
)
def _(runs):
    return [
        (*key, len(found), total(e.credits for e in found), total(e.credits_with_children for e in found))
        for key, found in grouped(runs, lambda each: (each.day, each.workflow, each.origin)).items()
    ]


@question(
    "Which steps fail or are slow, and what do they cost?",
    "SELECT workflow_id, step_key, runs, failed, failure_rate, p50_s, p95_s, credits FROM step_performance",
)
def _(runs):
    rows = []
    for (workflow, key), found in grouped(steps_of(runs), lambda each: (each[0].workflow, each[1])).items():
        failed = sum(bool(step) and step.get("status") == "FAILED" for _, _, step in found)
        ended = sum(bool(step) and step.get("status") in ENDED for _, _, step in found)
        durations = [step_duration_s(step) for _, _, step in found]
        rows.append((
            workflow, key, len(found), failed, ratio(failed, ended), percentile(durations, 0.5),
            percentile(durations, 0.95), total(run.step_credits(key) for run, key, _ in found),
        ))  # fmt: skip
    return rows


@question(
    "How often is each model called, and with how many tokens?",
    "SELECT provider, model, sum(calls), sum(failed), sum(input_tokens), sum(output_tokens) FROM model_usage_daily "
    "GROUP BY 1, 2",
)
def _(runs):
    calls = [call for run, key, _ in steps_of(runs) for call in run.model_calls(key)]
    return [
        (*model, len(found), sum(each[4] for each in found), total(e[2] for e in found), total(e[3] for e in found))
        for model, found in grouped(calls, lambda each: each[:2]).items()
    ]


@question(
    "What does each model cost, where one can tell?",
    "SELECT provider, model, sum(credits) FROM model_usage_daily GROUP BY 1, 2",
)
def _(runs):
    costs = defaultdict(list)
    for run, key, step in steps_of(runs):
        models = {call[:2] for call in run.model_calls(key)}
        known = {model for model in models if model[1] is not None} or models
        tells = len(known) == 1 and step["type"] == "model"
        for model in models:
            costs[model].append(run.step_credits(key) if tells and model in known else None)
    return [(*model, total(found)) for model, found in costs.items()]


@question("What does each type of step cost?", "SELECT type, count(*), sum(credits) FROM step_facts GROUP BY 1")
def _(runs):
    by_type = grouped(steps_of(runs), lambda each: each[2].get("type") if each[2] else None)
    return [
        (kind, len(found), total(run.step_credits(key) for run, key, _ in found)) for kind, found in by_type.items()
    ]


@question(
    "What are the loops like?",
    "SELECT workflow_id, step_key, count(*), sum(calls), sum(input_tokens), sum(output_tokens) FROM step_facts "
    "WHERE calls > 0 GROUP BY 1, 2",
)
def _(runs):
    rows = []
    looped = [each for each in steps_of(runs) if each[2] and each[2].get("calls")]
    for (workflow, key), found in grouped(looped, lambda each: (each[0].workflow, each[1])).items():
        calls = [call for run, key, _ in found for call in run.model_calls(key)]
        count = sum(len(step["calls"]) for _, _, step in found)
        rows.append((workflow, key, len(found), count, total(e[2] for e in calls), total(e[3] for e in calls)))
    return rows


@question(
    "What fails, since when, in which versions?",
    "SELECT workflow_id, step_key, message, runs, first_seen, last_seen, versions FROM failure_groups",
)
def _(runs):
    failed = [each for each in runs if each.status == "FAILED"]
    rows = []
    for key, found in grouped(failed, lambda each: (each.workflow, each.first_failed_step[0], each.message)).items():
        times = [each.failed_at for each in found]
        versions = {int(each.document["version"]) for each in found if each.document.get("version") is not None}
        rows.append((*key, len(found), min(times), max(times), sorted(versions)))
    return rows


@question(
    "What do the runs of a tree cost together?", "SELECT root_run_id, count(*), sum(credits) FROM run_tree GROUP BY 1"
)
def _(runs):
    def root(run: ServedRun) -> ServedRun:
        return run if run.parent is None else root(run.parent)

    by_root = grouped(runs, lambda each: root(each).id)
    return [(key, len(found), total(each.credits for each in found)) for key, found in by_root.items()]


@question(
    "How many runs do the runs of each workflow start?",
    "SELECT parent.workflow_id, count(*) FROM run_facts JOIN run_facts AS parent ON parent.run_id = "
    "run_facts.parent_run_id GROUP BY 1",
)
def _(runs):
    by_parent = grouped([each for each in runs if each.parent], lambda each: each.parent.workflow)
    return [(key, len(found)) for key, found in by_parent.items()]


@question(
    "Which records were worked on, and what did that cost?",
    "SELECT record_id, collection_id, count(*), sum(credits) FROM run_facts WHERE record_id IS NOT NULL GROUP BY 1, 2",
)
def _(runs):
    found = [each for each in runs if each.document.get("record_id") is not None]
    by_record = grouped(found, lambda each: (each.document["record_id"], each.document.get("collection_id")))
    return [(*key, len(each), total(run.credits for run in each)) for key, each in by_record.items()]


@question(
    "How long do runs wait before they start?",
    "SELECT workflow_id, percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM started_at - created_at)) "
    "FROM run_facts WHERE started_at >= created_at GROUP BY 1",
)
def _(runs):
    waited = [each for each in runs if each.created and each.started and each.started >= each.created]
    return [
        (key, percentile([(each.started - each.created).total_seconds() for each in found], 0.5))
        for key, found in grouped(waited, lambda each: each.workflow).items()
    ]


@question(
    "What is spent on each customer?",
    "SELECT input #>> '{customer,name}', count(*), sum(own_credits) FROM runs WHERE input #>> '{customer,name}' IS NOT NULL "
    "GROUP BY 1",
)
def _(runs):
    def customer(run: ServedRun) -> Any:
        found = run.document.get("input")
        found = found.get("customer") if isinstance(found, dict) else None
        return found.get("name") if isinstance(found, dict) else None

    known = [each for each in runs if customer(each) is not None]
    return [(key, len(found), total(e.credits for e in found)) for key, found in grouped(known, customer).items()]


@question(
    "What do steps call, and how often does that fail?",
    "SELECT type, key, count(*), count(*) FILTER (WHERE status = 'FAILED') FROM run_step_calls GROUP BY 1, 2",
)
def _(runs):
    calls = [call for _, _, step in steps_of(runs) if step for call in step.get("calls") or []]
    return [
        (*key, len(found), sum(each.get("status") == "FAILED" for each in found))
        for key, found in grouped(calls, lambda each: (each.get("type"), each.get("key"))).items()
    ]


@question(
    "Which called services answer with errors?",
    "SELECT workflow_id, step_key, http_status, count(*) FROM run_steps JOIN runs ON runs.id = run_id "
    "WHERE http_status >= 400 GROUP BY 1, 2, 3",
)
def _(runs):
    answers = [
        (run.workflow, key, step["output"].get("status"))
        for run, key, step in steps_of(runs)
        if step and step.get("type") in {"http_request", "browser"} and isinstance(step.get("output"), dict)
    ]
    errors = [each for each in answers if type(each[2]) is int and each[2] >= 400]
    return [(*key, len(found)) for key, found in grouped(errors, lambda each: each).items()]


@question(
    "Do runs of drafts fail more often?",
    "SELECT is_draft, count(*), count(*) FILTER (WHERE status = 'FAILED') FROM runs "
    "JOIN workflow_versions ON workflow_versions.id = workflow_version_id GROUP BY 1",
)
def _(runs):
    known = [
        each for each in runs if each.document.get("workflow_version") or each.document.get("workflow_version_draft")
    ]
    return [
        (is_draft, len(found), sum(each.status == "FAILED" for each in found))
        for is_draft, found in grouped(known, lambda each: not each.document.get("workflow_version")).items()
    ]


@question(
    "How many tokens does a run use?",
    "SELECT workflow_id, percentile_cont(0.95) WITHIN GROUP (ORDER BY input_tokens + output_tokens) FROM run_facts "
    "WHERE input_tokens + output_tokens > 0 GROUP BY 1",
)
def _(runs):
    used = [(each.workflow, sum(each.tokens)) for each in runs if None not in each.tokens]
    return [
        (key, percentile([float(each[1]) for each in found], 0.95))
        for key, found in grouped(used, lambda each: each[0]).items()
    ]


@question("What is running?", "SELECT run_id, workflow_id, status, created_at FROM open_runs")
def _(runs):
    return [(e.id, e.workflow, e.status, e.created) for e in runs if e.status in {"PENDING", "RUNNING"}]


def near(value: Any) -> Any:
    """Return a value that equals similar values: views round sums of credits, and durations are not exact."""
    if isinstance(value, Decimal):
        return pytest.approx(value, rel=0, abs=Decimal("1e-12"))
    return pytest.approx(value, abs=1e-6) if isinstance(value, float) else value


def sorting(row: tuple[Any, ...]) -> list[str]:
    return ["" if each is None else str(each) for each in row if not isinstance(each, float | Decimal)]


async def test_views_answer_as_the_served_json_does(database_url: str, warehouse: asyncpg.Connection) -> None:
    world = World.generate(seed=77, runs=1500, days=45, now=datetime(2026, 11, 20, tzinfo=UTC))
    async with trial(database_url, world) as api:
        await api.agrees("backfill")
    runs = served_runs(world)
    assert sum(each.parent is not None for each in runs) > 100
    for text in QUESTIONS:
        await answers_as(runs, text, database_url)


async def answers_as(runs: list[ServedRun], text: str, url: str) -> None:
    """Check that the answer to a question is that of the JSON."""
    sql, calculate = QUESTIONS[text]
    found = (await run_query(url, "cortex", sql, timeout_s=60)).rows
    expected = calculate(runs)
    answers = [sorted(found, key=sorting), [tuple(map(near, row)) for row in sorted(expected, key=sorting)]]
    wrong = [pair for pair in zip(*answers, strict=False) if pair[0] != pair[1]]
    assert expected, text
    assert (len(found), wrong[:1]) == (len(expected), []), text


def model_call(model: str | None, tokens: int = 0, **fields: Any) -> dict[str, Any]:
    """A loop iteration of type model; without a model, it failed before it had an output."""
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens + 1}
    output = model and {"provider": "openai", "model": model, "raw": {"usage": usage}}
    return {"type": "model", "status": "COMPLETED" if model else "FAILED", "output": output, **fields}


async def test_models_of_rare_loops(database_url: str, warehouse: asyncpg.Connection) -> None:
    """Iterations without a model, steps of other types that call models, and steps that call several."""
    loops = {
        "one_failed": ("model", [model_call("m-a", 10), model_call(None)], 1.5),
        "all_failed": ("model", [model_call(None), model_call(None)], 0.25),
        "two_models": ("model", [model_call("m-a", 20), model_call("m-b", 30), model_call(None)], 4),
        "untyped": ("model", [model_call("m-b", 40, type=None), {"type": "code", "status": "COMPLETED"}], 8),
        "agent": ("agent", [model_call("m-b", 50), model_call("m-b", 60, type=None)], 16),
        "service": ("service", [model_call("m-a", 70)], 32),
    }
    world = one_stream(1)
    (run,) = world.runs[WORKFLOW].values()
    for key, (kind, calls, credits_used) in loops.items():
        outputs = [each.get("output") for each in calls]
        run["output"][key] = {"key": key, "type": kind, "status": "COMPLETED", "output": outputs, "calls": calls}
        run["usage"]["steps"][key] = {"total": credits_used}
    async with trial(database_url, world) as api:
        await api.agrees("backfill")
    runs = served_runs(world)
    for text in QUESTIONS:
        if "model" in text or "loops" in text or "each run" in text:
            await answers_as(runs, text, database_url)
    costs = await warehouse.fetch("SELECT model, credits FROM model_usage_daily WHERE model LIKE 'm-_'")
    assert {row["model"]: row["credits"] for row in costs} == {"m-a": Decimal("1.5"), "m-b": 8}
    (agree,) = await warehouse.fetchrow(
        "SELECT (SELECT (sum(input_tokens), sum(output_tokens)) FROM run_facts) "
        "= (SELECT (sum(input_tokens), sum(output_tokens)) FROM model_usage_daily)"
    )
    assert agree


async def test_own_credits_add_up_to_those_of_the_roots(database_url: str, warehouse: asyncpg.Connection) -> None:
    """Except for runs without credits in the API: the credits of their children are in no root."""
    world = World.generate(seed=78, runs=800, days=45, now=datetime(2026, 11, 20, tzinfo=UTC))
    async with trial(database_url, world) as api:
        await api.agrees("backfill")
    below = [each for each in served_runs(world) if each.parent and each.parent.credits_with_children is None]
    own = await warehouse.fetchval("SELECT sum(credits) FROM run_facts")
    roots = await warehouse.fetchval("SELECT sum(credits_with_children) FROM run_facts WHERE parent_run_id IS NULL")
    assert abs(own - roots - (total(each.credits_with_children for each in below) or 0)) < Decimal("1e-12")
