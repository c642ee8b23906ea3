"""Rows of a generated world, compared with an independent implementation of the contract."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from normalized import plain

from etl import tables
from etl.decode.items import digest
from etl.normalize.definitions import normalize_workflow
from etl.normalize.normalizer import Normalizer
from etl.normalize.rows import RunRows
from etl.sandbox import World

Json = Any
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RUN_COLUMNS = ["app_id", "workflow_app_id", "status", "origin", "error", "collection_id", "record_id"]
TIMES = ["started_at", "ended_at", "created_at", "updated_at", "retention_due_at"]
RUN_FIELDS = {
    *("id", "workflow_id", "version", "input", "result", "output", "usage", "retention"),
    *("workflow_version", "workflow_version_draft", *RUN_COLUMNS, *TIMES),
}
STEP_FIELDS = {"status", "type", "key", "output", "logs", "calls", "start", "end", "error"}
CALL_FIELDS = {"id", "status", "index", "key", "type", "output", "logs", "start", "end", "error"}
BODY_FIELDS = {"key", "input", "input_default", "input_options", "steps"}
VERSION_TEXTS = ["app_id", "workflow_id", "description", "notes"]
VERSION_FIELDS = BODY_FIELDS | {*VERSION_TEXTS, "id", "version", "rollback_version", "created_by", "created_at"}
PLAIN_STEP_FIELDS = ["key", "type", "display", "conditional", "loop", "throw_on_error", "input_connected", "note"]


def cleaned(text: str) -> str:
    return "".join("\ufffd" if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in text)


def clean(value: Json) -> Json:
    if isinstance(value, str):
        return cleaned(value)
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {cleaned(key): clean(item) for key, item in value.items()}
    return value


def exact(text: str | bytes) -> Json:
    return json.loads(text, parse_float=Decimal)


def time_of(text: str | None) -> datetime | None:
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def ms_time(number: Json) -> datetime | None:
    return None if number is None else EPOCH + timedelta(microseconds=round(Decimal(number) * 1000))


def rest(document: dict[str, Json], known: set[str]) -> dict[str, Json]:
    return {key: value for key, value in document.items() if key not in known}


def under(tree: dict[str, Json], path: list[str], value: dict[str, Json]) -> None:
    if value:
        for key in path:
            tree = tree.setdefault(key, {})
        tree.update(value)


TOKEN_NAMES = {
    "input_tokens": [("usage", "prompt_tokens"), ("usage", "input_tokens"), ("usageMetadata", "promptTokenCount")],
    "output_tokens": [
        ("usage", "completion_tokens"),
        ("usage", "output_tokens"),
        ("usageMetadata", "candidatesTokenCount"),
    ],
}


def model_of(kind: str | None, output: Json) -> dict[str, Json]:
    made = output if kind == "model" and isinstance(output, dict) else {}
    raw = made.get("raw") or {}
    counts = {column: [raw.get(at, {}).get(name) for at, name in names] for column, names in TOKEN_NAMES.items()}
    tokens = {column: next((each for each in found if each is not None), None) for column, found in counts.items()}
    return {"provider": made.get("provider"), "model": made.get("model"), **tokens}


def usage_rows(run_id: str, step_key: str, usage: dict[str, Json], extra: dict[str, Json], at: list[str]) -> list[Json]:
    rows = []

    def walk(node: dict[str, Json], parent: str | None, depth: int) -> None:
        for place, call in enumerate(node.get("calls") or []):
            path = str(place) if parent is None else f"{parent}.{place}"
            rows.append((run_id, step_key, path, parent, depth, call.get("id"), call.get("total")))
            under(extra, [*at, "calls", path], rest(call, {"id", "total", "calls"}))
            walk(call, path, depth + 1)

    walk(usage, None, 1)
    return rows


def output_pairs(output: Json) -> list[tuple[str, Json]]:
    """Return step keys and outputs; a repeated key becomes `key#2` and so on."""
    pairs = list(output.items()) if isinstance(output, dict) else [(item["key"], item) for item in output or []]
    seen: Counter[str] = Counter()
    result = []
    for key, item in pairs:
        name = cleaned(key)
        seen[name] += 1
        result.append((name if seen[name] == 1 else f"{name}#{seen[name]}", clean(item)))
    return result


def definition(document: dict[str, Json], version_id: str, head: dict[str, Json], known: set[str]) -> dict[str, Json]:
    options = document.get("input_options")
    display = (options or {}).get("display") or {}
    author = document.get("created_by") or {} if "created_by" in known else {}
    extra = rest(document, known)
    under(extra, ["created_by"], rest(author, {"id", "name"}))
    row = {
        **head,
        "id": version_id,
        "key": document.get("key"),
        "input": document.get("input"),
        "input_default": document.get("input_default"),
        "input_options": options,
        "display_field": display.get("field"),
        "display_container": display.get("container"),
        "display_hidden": display.get("hidden"),
        "extra": extra or None,
    }
    steps, links = [], set()
    for ordinal, step in enumerate(document.get("steps") or []):
        steps.append(step_definition(version_id, ordinal, step))
        ways = [("destination", step.get("destinations")), ("else", step.get("else"))]
        ways += [
            (f"branch:{name}", branch.get("destinations")) for name, branch in (step.get("conditions") or {}).items()
        ]
        links |= {(version_id, step["key"], to, via) for via, keys in ways for to in keys or []}
    return {"row": row, "steps": steps, "links": links}


def step_definition(version_id: str, ordinal: int, step: dict[str, Json]) -> dict[str, Json]:
    auto = step.get("auto") or {}
    config = rest(step, {*PLAIN_STEP_FIELDS, "destinations", "else", "position", "size", "auto"})
    under(config, ["auto"], rest(auto, {"provider", "model", "temperature"}))
    x, y = ([*(step.get("position") or []), None, None])[:2]
    width, height = ([*(step.get("size") or []), None, None])[:2]
    return {
        **{name: step.get(name) for name in PLAIN_STEP_FIELDS},
        **{f"auto_{name}": auto.get(name) for name in ("provider", "model", "temperature")},
        "workflow_version_id": version_id,
        "ordinal": ordinal,
        "config": config or None,
        "position_x": x,
        "position_y": y,
        "width": width,
        "height": height,
    }


def children(step: dict[str, Json], credit: dict[str, Json]) -> list[str]:
    output, kind = step.get("output"), step.get("type")
    made = [(kind, each) for each in (output if isinstance(output, list) else [output])]
    made += [(call.get("type") or kind, call.get("output")) for call in step.get("calls") or []]
    return [
        each["run_id"]
        for kind, each in made
        if isinstance(each, dict)
        and each.get("run_id")
        and (kind == "workflow" or ("workflow_id" in each and credit.get("total")))
    ]


def recompute(served: bytes, app_id: str, workflow_id: str) -> dict[str, Json]:
    raw_run = exact(served)
    run = clean(raw_run)
    usage, retention = run.get("usage") or {}, run.get("retention") or {}
    extra = rest(run, RUN_FIELDS)
    under(extra, ["usage"], rest(usage, {"total", "calls", "steps"}))
    under(extra, ["retention"], rest(retention, {"max_age_in_seconds", "preserve_on_failure"}))
    usage_table = usage_rows(run["id"], "", usage, extra, ["usage"])
    outputs = output_pairs(raw_run.get("output"))
    credit_of = {cleaned(key): value or {} for key, value in (usage.get("steps") or {}).items()}
    steps, calls, started = [], [], set()
    every = [*outputs, *((key, None) for key in credit_of if key not in dict(outputs))]
    for ordinal, (key, given) in enumerate(every):
        step, credit = given or {}, credit_of.get(key, {})
        at = ["usage", "steps", key]
        under(extra, at, rest(credit, {"total", "calls"}))
        usage_table += usage_rows(run["id"], key, credit, extra, at)
        output = step.get("output")
        made = output if isinstance(output, dict) else {}
        steps.append(
            {
                "run_id": run["id"],
                "step_key": key,
                "ordinal": ordinal,
                "output": output,
                **{name: step.get(name) for name in ("type", "status", "error", "logs")},
                "started_at": ms_time(step.get("start")),
                "ended_at": ms_time(step.get("end")),
                **model_of(step.get("type"), output),
                "http_status": made.get("status") if step.get("type") in {"http_request", "browser"} else None,
                "child_run_id": made.get("run_id") if step.get("type") == "workflow" else None,
                "looped": isinstance(output, list),
                "credits": credit.get("total"),
                "extra": rest(step, STEP_FIELDS) or None,
            }
        )
        started |= {(run["id"], key, child) for child in children(step, credit) if child != run["id"]}
        for place, call in enumerate(step.get("calls") or []):
            kind = call.get("type") or step.get("type")
            child = call["output"] if kind == "workflow" and isinstance(call.get("output"), dict) else {}
            calls.append(
                {
                    "run_id": run["id"],
                    "step_key": key,
                    "ordinal": place,
                    "call_id": call.get("id"),
                    **{name: call.get(name) for name in ("index", "key", "type", "status", "error", "output", "logs")},
                    "started_at": ms_time(call.get("start")),
                    "ended_at": ms_time(call.get("end")),
                    **model_of(kind, call.get("output")),
                    "child_run_id": child.get("run_id"),
                    "extra": rest(call, CALL_FIELDS) or None,
                }
            )
    definitions = {}
    version, draft = run.get("workflow_version"), run.get("workflow_version_draft")
    draft_id = None
    if draft is not None:
        # The numbers of the sandbox are Python floats, so plain floats reproduce their digits.
        text = json.dumps(
            clean(json.loads(served))["workflow_version_draft"],
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )
        draft_id = "draft:" + hashlib.sha256(f"{workflow_id}\n{text}".encode()).hexdigest()[:32]
        head = dict.fromkeys(("version", "rollback_version", "description", "notes", "created_at"))
        head |= {"created_by_id": None, "created_by_name": None, "is_draft": True, "workflow_id": workflow_id}
        head["app_id"] = run["workflow_app_id"]
        definitions[draft_id] = definition(draft, draft_id, head, BODY_FIELDS)
    if version is not None:
        author = version.get("created_by") or {}
        head = {name: version.get(name) for name in (*VERSION_TEXTS, "version", "rollback_version")}
        head |= {"created_by_id": author.get("id"), "created_by_name": author.get("name"), "is_draft": False}
        head["created_at"] = time_of(version.get("created_at"))
        definitions[version["id"]] = definition(version, version["id"], head, VERSION_FIELDS)
    row = {
        **{name: run.get(name) for name in ("id", "workflow_id", "version", "input", "result", *RUN_COLUMNS)},
        **{name: time_of(run.get(name)) for name in TIMES},
        "workflow_version_id": draft_id if version is None else version["id"],
        "workflow_draft_id": draft_id,
        "updated_on_day": len(run.get("updated_at") or "") == 10,
        "credits": usage.get("total"),
        "own_credits": usage.get("total"),
        "retention_max_age_s": retention.get("max_age_in_seconds"),
        "retention_preserve_on_failure": retention.get("preserve_on_failure"),
        "extra": extra or None,
        "content_hash": hashlib.sha256(served).digest(),
        "stream_app_id": app_id,
        "listed_under_app_id": None,
        "listed_under_workflow_id": None,
    }
    return {
        "run": row,
        "steps": steps,
        "calls": calls,
        "usage": usage_table,
        "child_runs": started,
        "definitions": definitions,
    }


def named(table: tables.Table, row: tuple[Json, ...]) -> dict[str, Json]:
    """Return a row by column names, with decoded values."""
    assert len(row) == len(table.columns)
    return {
        name: exact(plain(kind, value)) if kind == "jsonb" and value is not None else plain(kind, value)
        for (name, kind), value in zip(table.types.items(), row, strict=True)
    }


def made(rows: RunRows) -> dict[str, Json]:
    definitions = {}
    for version in rows.versions:
        row = named(tables.WORKFLOW_VERSIONS, version.row)
        assert row.pop("content_hash") == version.digest
        assert row.pop("as_of") is None
        steps = [named(tables.WORKFLOW_STEPS, step) for step in version.steps]
        assert len(version.links) == len(set(version.links))
        definitions[version.id] = {"row": row, "steps": steps, "links": set(version.links)}
    return {
        "run": named(tables.RUNS, rows.run),
        "steps": [named(tables.RUN_STEPS, row) for row in rows.steps],
        "calls": [named(tables.RUN_STEP_CALLS, row) for row in rows.calls],
        "usage": [tuple(named(tables.RUN_USAGE_CALLS, row).values()) for row in rows.usage],
        "child_runs": set(rows.child_runs),
        "definitions": definitions,
    }


def differences(actual: Any, expected: Any, path: str = "") -> list[str]:
    """List where two documents differ, with both values."""
    if isinstance(actual, dict) and isinstance(expected, dict):
        keys = {**expected, **actual}
        return [line for key in keys for line in differences(actual.get(key), expected.get(key), f"{path}.{key}")]
    if isinstance(actual, list) and isinstance(expected, list) and len(actual) == len(expected):
        pairs = enumerate(zip(actual, expected, strict=True))
        return [line for index, both in pairs for line in differences(*both, f"{path}[{index}]")]
    return [] if actual == expected else [f"{path}: got {actual!r}, expected {expected!r}"]


def served_as(run: Json, *, escaped: bool) -> bytes:
    text = json.dumps(run, ensure_ascii=escaped, indent=2 if escaped else None, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


@pytest.fixture(scope="module")
def world() -> World:
    world = World.generate(seed=7, runs=1000)
    runs = next(iter(world.runs.values()))
    items = list(
        next(run["output"] for run in runs.values() if isinstance(run["output"], dict) and run["output"]).values()
    )
    child = {"run_id": "child", "workflow_id": "w"}
    runs["parent"] = next(iter(runs.values())) | {
        "id": "parent",
        "output": {kind: {"type": kind, "output": child} for kind in ("model", "branch", "note")},
        "usage": {"total": 3, "steps": {"model": {"total": 2}, "branch": {"total": 0}, "note": {"total": 1}}},
    }
    runs["doubled"] = next(iter(runs.values())) | {"id": "doubled", "output": [*items, items[0], items[0]]}
    return world


@pytest.mark.parametrize("escaped", [False, True], ids=["compact", "escaped"])
def test_rows_match_an_independent_recomputation(world: World, escaped: bool) -> None:
    met: Counter[str] = Counter()
    for workflow_id, runs in world.runs.items():
        normalizer = Normalizer("app_of_the_listing", workflow_id)
        for run in runs.values():
            served = served_as(run, escaped=escaped)
            expected = recompute(served, "app_of_the_listing", workflow_id)
            actual = made(normalizer.normalize(served, digest(served)))
            for rows in (actual, expected):
                rows["usage"].sort(key=lambda row: (row[1], row[2]))  # step key and path; their order is free
            if actual != expected:
                pytest.fail("\n".join(differences(actual, expected)[:20]))
            met.update(step["type"] for step in expected["steps"])
            met.update(tokens=sum(step["input_tokens"] is not None for step in expected["steps"]))
            met.update(
                extra=expected["run"]["extra"] is not None, drafts=expected["run"]["workflow_draft_id"] is not None
            )
            met.update(doubled=any("#" in step["step_key"] for step in expected["steps"]), calls=len(expected["calls"]))
    # The comparison is meaningful only if the world contains every kind of value.
    kinds = {"code", "model", "http_request", "browser", "workflow", "service", "branch", "input"}
    assert all(met[kind] for kind in (*kinds, "tokens", "extra", "drafts", "doubled", "calls", None)), met


def test_workflows_match_an_independent_recomputation(world: World) -> None:
    for document in world.workflows.values():
        row, app = normalize_workflow(served_as(document, escaped=False))
        workflow = exact(served_as(document, escaped=False))
        actual = named(tables.WORKFLOWS, row)
        retention, extra = workflow.get("retention") or {}, actual.pop("extra") or {}
        assert actual == {
            **{name: workflow.get(name) for name in ("id", "name", "description", "enabled", "deleted", "runs_count")},
            "app_id": workflow["app"]["id"],
            "template_id": workflow.get("template_id"),
            "retention_max_age_s": retention.get("max_age_in_seconds"),
            "retention_preserve_on_failure": retention.get("preserve_on_failure"),
            "tags": [tag["name"] for tag in workflow["tags"]],
            "current_version_id": (workflow["version"] or {}).get("id"),
            "created_at": time_of(workflow["created_at"]),
            "updated_at": time_of(workflow["updated_at"]),
        }
        assert app == tuple(workflow["app"].get(name) for name in ("id", "name", "verified"))
        for name in ("steps", "input", "key", "tests_stats"):
            assert extra.get(name) == workflow.get(name)
