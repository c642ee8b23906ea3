"""Field-by-field decoding returns the same rows as decoding in one call."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from normalized import call_rows, normalized, run_bytes, run_row, step_rows, usage_rows

from etl import tables
from etl.errors import RecordError
from etl.normalize.definitions import normalize_workflow
from etl.normalize.redaction import Redactor
from etl.normalize.run import RUN
from etl.sandbox import World

TEXT = st.text(st.characters(exclude_categories=()), max_size=6) | st.sampled_from(["model", "workflow", "browser", ""])
FREE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
NUMBERS = st.sampled_from([0, 5, -1, 2.5, 7.0, 1e-7, 0.1, 2**31, 2**63, 10**30, 1e300])
DATES = st.sampled_from(
    [
        "2026-09-02T17:14:49.960Z",
        "2026-09-02T17:14:49+02:00",
        "2026-09-02",
        "20260902",
        "2016-12-31T23:59:60Z",
        "+10000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
    ]
)
MS = st.sampled_from([0, -1, 1788369291888, 1788369291888.5, 1788369291888.1235, 253402300799999, 10**15, 1e300])
NEW = "brand_new"


def documents(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of the fields, some of which are null."""
    return st.fixed_dictionaries({}, optional={name: values | st.none() for name, values in fields.items()})


TIMES = {"start": MS, "end": MS}
OUTPUT = FREE | documents(provider=TEXT, model=TEXT, status=NUMBERS, run_id=TEXT, raw=FREE) | st.lists(FREE, max_size=2)
CALL = documents(
    id=TEXT, status=TEXT, index=NUMBERS, key=TEXT, type=TEXT, output=OUTPUT, logs=FREE, error=TEXT, **TIMES
)
STEP = documents(
    status=TEXT, type=TEXT, output=OUTPUT, logs=FREE, calls=st.lists(CALL, max_size=2), error=TEXT, key=TEXT, **TIMES
)
NODE = st.recursive(
    documents(id=TEXT, total=NUMBERS),
    lambda inner: documents(id=TEXT, total=NUMBERS, calls=st.lists(inner, max_size=3)),
    max_leaves=6,
)
USAGE = {"total": NUMBERS, "calls": st.lists(NODE, max_size=2)}
KEYS = st.sampled_from(["a", "b", "a#2", "é", "", "a\0", "a\ud83d"])
RUNS = documents(
    **dict.fromkeys(("app_id", "workflow_app_id", "status", "origin", "error", "record_id"), TEXT),
    **dict.fromkeys(("started_at", "ended_at", "created_at", "updated_at", "retention_due_at"), DATES),
    **dict.fromkeys(("input", "result"), FREE),
    version=NUMBERS,
    output=st.dictionaries(KEYS, STEP | st.none(), max_size=3)
    | st.lists(st.builds(lambda step, key: step | {"key": key}, STEP, KEYS), max_size=3),
    usage=documents(**USAGE, steps=st.dictionaries(KEYS, documents(**USAGE) | st.none(), max_size=3)),
    retention=documents(max_age_in_seconds=NUMBERS, preserve_on_failure=st.booleans()),
)


def grown(run: dict[str, Any]) -> dict[str, Any]:
    """A run from an API that has added a field to every object."""

    def usage(node: dict[str, Any] | None) -> dict[str, Any] | None:
        if node is None:
            return None
        more = {"calls": [usage(each) for each in node["calls"]]} if node.get("calls") is not None else {}
        return {NEW: 1} | node | more

    def step(each: dict[str, Any] | None) -> dict[str, Any] | None:
        if each is None:
            return None
        more = {"calls": [{NEW: 1} | call for call in each["calls"]]} if each.get("calls") is not None else {}
        return {NEW: 1} | each | more

    run = {NEW: 1} | run
    output = run.get("output")
    if output is not None:
        run["output"] = {k: step(v) for k, v in output.items()} if isinstance(output, dict) else [*map(step, output)]
    if run.get("usage") is not None:
        run["usage"] = usage(run["usage"])
        if run["usage"].get("steps") is not None:
            run["usage"]["steps"] = {key: usage(used) for key, used in run["usage"]["steps"].items()}
    if run.get("retention") is not None:
        run["retention"] = {NEW: 1} | run["retention"]
    return run


def without_new(rows: Any) -> Any:
    """All rows by column, without the fields that the API added, and without what identifies the bytes."""

    def pruned(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {key: pruned(item) for key, item in value.items() if key != NEW}
            return {key: item for key, item in kept.items() if item is not None} or None
        return value

    run, steps, calls = run_row(rows), step_rows(rows), call_rows(rows)
    for row in (run, *steps, *calls):
        row["extra"] = pruned(row["extra"])
        row.pop("content_hash", None)
    return run, steps, calls, usage_rows(rows), rows.emptied


@given(RUNS, st.booleans())
def test_field_by_field_decoding_returns_the_same_rows(run: dict[str, Any], escaped: bool) -> None:
    def made(run: dict[str, Any]) -> Any:
        raw = json.dumps({"id": "run"} | run, ensure_ascii=escaped).encode("utf-8", "backslashreplace")
        try:
            return without_new(normalized(raw))
        except RecordError as error:
            return error.reason

    plain = made(run)
    event("refused" if isinstance(plain, str) else "taken")
    assert made(grown(run)) == plain


def test_ordinary_runs_are_decoded_at_once() -> None:
    worlds = World.generate(seed=3, runs=100, rough_edges=False).runs
    assert all(RUN.decode(json.dumps(run).encode()) for runs in worlds.values() for run in runs.values())


@pytest.mark.parametrize("levels", [900, 20_000])
def test_json_of_any_depth_is_preserved(levels: int) -> None:
    deep = b"[" * levels + b"]" * levels
    rows = normalized(b'{"id":"run","input":' + deep + b',"output":{"a":{"type":"model","output":' + deep + b"}}}")
    read = rows.run[tables.RUNS.names.index("input")], rows.steps[0][tables.RUN_STEPS.names.index("output")]
    assert [value.removeprefix(b"\x01") for value in read] == [deep, deep]


@pytest.mark.parametrize(
    "twice",
    [b'"status":"first","status":"last"', b'"status":5,"status":"last"', b'"new":1,"status":"first","status":"last"'],
)
def test_last_duplicate_key_wins_in_runs(twice: bytes) -> None:
    assert run_row(normalized(b'{"id":"run",' + twice + b"}"))["status"] == "last"


def test_steps_with_equal_keys_keep_their_own_credits() -> None:
    usage = {"steps": {"a\0": {"total": 1}, "a\ufffd": {"total": 2}}}
    raw = run_bytes(output=[{"key": "a\0", "error": "x"}, {"key": "a\ufffd", "error": "y"}], usage=usage)
    rows = step_rows(normalized(raw))
    assert [(row["step_key"], row["error"], row["credits"], row["extra"]) for row in rows] == [
        ("a\ufffd", "x", 1, None),
        ("a\ufffd#2", "y", 2, None),
    ]


@pytest.mark.parametrize(
    ("raw", "tokens"),
    [
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 7}}, (5, 7)),
        ({"usage": {"input_tokens": 5, "output_tokens": 0}}, (5, 0)),
        ({"usageMetadata": {"promptTokenCount": 5}}, (5, None)),
        ({"usage": {"prompt_tokens": 5.0, "completion_tokens": 1e2}}, (5, 100)),
        ({"usage": {"prompt_tokens": 1.5, "completion_tokens": -1}}, (None, None)),
        ({"usage": {"prompt_tokens": 1e300, "completion_tokens": -0.5}}, (None, None)),
        ({"usage": {"prompt_tokens": "5", "completion_tokens": True}}, (None, None)),
        ({"usage": {"prompt_tokens": 2**63}}, (None, None)),
        ({"usage": [], "new": 1}, (None, None)),
        ("text", (None, None)),
        (None, (None, None)),
    ],
)
@pytest.mark.parametrize("store_payloads", [True, False])
def test_tokens_are_taken_from_the_provider(raw: Any, tokens: Any, store_payloads: bool) -> None:
    output = {"provider": "p", "model": "m", "raw": raw}
    steps = {
        "one": {"type": "model", "output": output},
        "loop": {"type": "model", "output": [output], "calls": [{"output": output}]},
    }
    rows = normalized(run_bytes(output=steps), store_payloads=store_payloads)
    one, loop = step_rows(rows)
    (call,) = call_rows(rows)
    assert (one["input_tokens"], one["output_tokens"]) == (call["input_tokens"], call["output_tokens"]) == tokens
    assert (loop["input_tokens"], loop["output_tokens"]) == (None, None)
    assert (one["model"], one["extra"]) == ("m", None)


DEEP = b"[" * 2000 + b"]" * 2000


@pytest.mark.parametrize(
    ("raw", "tokens"),
    [
        (b'{"usage":{"input_tokens":5,"output_tokens":6,"z":1e400}}', (5, 6)),
        (b'{"usage":{"input_tokens":5,"output_tokens":1e400}}', (5, None)),
        (b'{"usage":{"input_tokens":-1e99999,"output_tokens":6.0}}', (None, 6)),
        (b'{"usage":{"input_tokens":1e-400,"output_tokens":-0,"z":1e400}}', (None, 0)),
        (b'{"usage":{"prompt_tokens":1e400,"input_tokens":5,"output_tokens":true}}', (5, None)),
        (b'{"usage":{"z":1e400},"usageMetadata":{"promptTokenCount":5,"candidatesTokenCount":6}}', (5, 6)),
        (b'{"usage":1e400,"usageMetadata":{"promptTokenCount":5}}', (5, None)),
        (b'{"usage":{"input_tokens":5,"output_tokens":6},"z":[1e400]}', (5, 6)),
        (b'{"usage":{"input_tokens":5,"output_tokens":"\\ud83d"}}', (5, None)),
        (b'{"usage":{"input_tokens":5,"output_tokens":6,"z":%b}}' % DEEP, (5, 6)),
        (b'{"usage":{"input_tokens":5,"output_tokens":6},"z":%b}' % DEEP, (5, 6)),
        (b"[1e400]", (None, None)),
    ],
)
def test_each_token_count_is_read_on_its_own(raw: bytes, tokens: Any) -> None:
    output = b'{"model":"m","raw":%b}' % raw
    step = b'{"type":"model","output":%b,"calls":[{"output":%b}]}' % (output, output)
    rows = normalized(b'{"id":"run","output":{"a":%b}}' % step)
    for table, row in ((tables.RUN_STEPS, rows.steps[0]), (tables.RUN_STEP_CALLS, rows.calls[0])):
        columns = dict(zip(table.names, row, strict=True))
        assert (columns["input_tokens"], columns["output_tokens"], columns["model"]) == (*tokens, "m")


@pytest.mark.parametrize("path", ["$.output.*.output.raw", "$..usage", "$..prompt_tokens", "$.output.*.output"])
@pytest.mark.parametrize("store_payloads", [True, False])
def test_redacted_tokens_are_null(path: str, store_payloads: bool) -> None:
    output = {"provider": "p", "model": "m", "raw": {"usage": {"prompt_tokens": 5, "completion_tokens": 7}}}
    raw = run_bytes(output={"a": {"type": "model", "output": output}})
    rows = normalized(raw, store_payloads=store_payloads, redact=Redactor([path]))
    (step,) = step_rows(rows)
    left = (None, 7) if path == "$..prompt_tokens" else (None, None)
    assert (step["input_tokens"], step["output_tokens"]) == left


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"error": {"a": 1}}, "error: expected a string, got an object"),
        ({"output": {"a": {"calls": [{}, {"id": 5}]}}}, "output.0.calls.1.id: expected a string, got a number"),
        ({"output": {"a": {"calls": {}}}}, "output.0.calls: expected an array, got an object"),
        ({"output": {"a": {"calls": [None]}}}, "output.0.calls.0: expected an object, got null"),
        ({"usage": {"steps": {"a": {"total": True}}}}, "usage.steps.0.total: expected a number, got a boolean"),
        ({"usage": {"calls": {}}}, "usage.calls: expected an array, got an object"),
        ({"retention": "x"}, "retention: expected an object, got a string"),
        ({"workflow_version": "v"}, "workflow_version: expected an object, got a string"),
        ({"workflow_version": {"id": ""}}, "workflow_version.id: expected a string that is not empty"),
        (
            {"workflow_version": {"id": "v", "steps": [{"position": ["1"]}]}},
            "workflow_version.steps.0.position.0: expected a number, got a string",
        ),
        (
            {"workflow_version": {"id": "v", "steps": [{"size": "1"}]}},
            "workflow_version.steps.0.size: expected an array, got a string",
        ),
        (
            {"workflow_version": {"id": "v", "steps": [{"destinations": ["a"]}]}},
            "workflow_version.steps.0.key: expected a string, got null",
        ),
        (
            {"workflow_version": {"id": "v", "steps": [{"destinations": [1]}]}},
            "workflow_version.steps.0.destinations: expected an array of strings, got an array",
        ),
        (
            {"workflow_version_draft": {"steps": [{"throw_on_error": "true"}]}},
            "workflow_version_draft.steps.0.throw_on_error: expected a boolean, got a string",
        ),
        (
            {"workflow_version_draft": {"input_options": {"display": []}}},
            "workflow_version_draft.input_options.display: expected an object, got an array",
        ),
    ],
)
def test_column_values_are_never_coerced(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError) as error:
        normalized(run_bytes(**fields))
    assert error.value.reason == "invalid_field"
    assert error.value.message == message


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"tags": "x"}, "tags: expected an array, got a string"),
        ({"version": 5}, "version: expected an object, got a number"),
        ({"created_at": False}, "created_at: expected an ISO 8601 date, got a boolean"),
        ({"app": {"verified": 1}}, "app.verified: expected a boolean, got a number"),
    ],
)
def test_values_of_workflows_are_never_coerced(field: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError) as error:
        normalize_workflow(json.dumps({"id": "w"} | field).encode())
    assert error.value.message == message


def test_null_means_absent() -> None:
    run = dict.fromkeys(name for name in RUN.fields if name not in {"id", "workflow_id"})
    null, absent = (run_row(normalized(run_bytes(**fields))) for fields in (run, {}))
    assert null | {"content_hash": b""} == absent | {"content_hash": b""}
