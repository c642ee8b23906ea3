"""The fast and the careful normalizer accept the same runs and return the same rows."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st
from normalized import comparable, run_bytes

from etl.decode import digest
from etl.errors import RecordError
from etl.normalize.careful import careful_rows
from etl.normalize.context import Stream
from etl.normalize.definition_cache import Definitions
from etl.normalize.fast import fast_rows
from etl.sandbox import World

TAME_DATES = [
    "2026-09-02T17:14:49.960Z",
    "2026-09-02T17:14:49Z",
    "2026-09-02T17:14:49.123456Z",
    "2026-09-02T17:14:49.1234567Z",
    "2026-09-02T17:14:49.960",
    "2026-09-02T17:14:49+02:00",
    "2026-09-02 17:14:49Z",
    "2026-09-02t17:14:49z",
    "2026-09-02",
    "20260902",
    "2016-12-31T23:59:60Z",
    "2023-12-25T24:00:00Z",
    "2023-12-25T24:00:01Z",
]
WILD_DATES = [
    "0001-01-01T00:00:00+01:00",
    "+10000-01-01T00:00:00Z",
    "10000-01-01",
    "2026-02-30",
    "0000-01-01T00:00:00Z",
    "2026-09-02T25:00:00Z",
    "yesterday",
    "",
    5,
]
WILD_NUMBERS = [7.25, 1e300, 2**31, 2**63, 10**30, True, "1", "1.5", "NaN", "1e999"]
WILD_MS = [1788369291888.1235, 10**15, 253402300799999.4999, 1e18, 1e300, "now"]


def runs(*, tame: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Runs that are as documented, or wild ones: of other types, too large, with fields that nobody knows."""

    def wild(values: st.SearchStrategy[Any], odd: list[Any]) -> st.SearchStrategy[Any]:
        return values if tame else values | st.sampled_from(odd)

    def documents(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        nullable = {
            name: values if name in {"id", "workflow_id"} else values | st.none() for name, values in fields.items()
        }
        known: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries({}, optional=nullable)
        new = (
            st.just({})
            if tame
            else st.just({}) | st.dictionaries(st.sampled_from(["new", "id", "type"]), free, max_size=1)
        )
        return st.builds(lambda unknown, document: unknown | document, new, known)

    text = wild(
        st.text(max_size=6).filter(lambda text: "\0" not in text)
        | st.sampled_from(["model", "workflow", "http_request", "browser", "code", ""]),
        ["\0", "\ud83d", 5],
    )
    free = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(text.filter(lambda key: key != 5), inner, max_size=3)
        ),
        max_leaves=5,
    )
    number = wild(st.integers(-5, 5) | st.sampled_from([2**31 - 1, -(2**31)]), WILD_NUMBERS)
    credit = wild(st.integers(0, 5) | st.floats(0, 100) | st.sampled_from([0.10, 1.5e-7, 1e300, -2.5]), WILD_NUMBERS)
    ms = wild(
        st.integers(1_600_000_000_000, 1_800_000_000_000)
        | st.integers(1_600_000_000_000_000, 1_800_000_000_000_000).map(lambda microseconds: microseconds / 1000)
        | st.sampled_from([0, -1, 1.5, 1788369291888.5, 3_999_999_999_999]),
        WILD_MS,
    )
    date = wild(st.sampled_from(TAME_DATES), WILD_DATES)
    keys = string.ascii_lowercase[:5] + "é"
    key = st.sampled_from([*keys, "a#2"] if tame else [*keys, "a#2", "", "a\0", "a\ufffd"])
    made = documents(provider=text, model=text, status=number, run_id=text)
    output = free | made | made | st.lists(free, max_size=2)
    times = {"start": ms, "end": ms}
    call = documents(
        id=text, status=text, index=number, key=text, type=text, output=output, logs=free, error=text, **times
    )
    step_fields = {"status": text, "type": text, "output": output, "logs": free, "calls": st.lists(call, max_size=2)}
    step = documents(error=text, **step_fields, **times, **({} if tame else {"key": key}))
    node = st.recursive(
        documents(id=text, total=credit),
        lambda inner: documents(id=text, total=credit, calls=st.lists(inner, max_size=3)),
        max_leaves=6,
    )
    usage = documents(total=credit, calls=st.lists(node, max_size=2))
    steps = st.lists(documents(type=text, key=key, position=st.lists(number, max_size=3)), max_size=2)
    body = {"key": text, "input": free, "steps": steps}
    outputs = st.dictionaries(key, step | st.none(), max_size=3)
    listed = st.lists(st.tuples(key, step), max_size=3).map(
        lambda steps: [step | {"key": step_key} for step_key, step in steps]
    )
    run_usage = documents(
        total=credit, calls=st.lists(node, max_size=2), steps=st.dictionaries(key, usage | st.none(), max_size=3)
    )
    version = documents(version=number, created_at=date, **body)
    return st.builds(
        lambda required, run: required | run,
        st.just({"id": "run"}),
        documents(
            workflow_id=wild(st.just("wf"), ["other", 5, None]),
            workflow_version=version.map(lambda document: {"id": "v"} | document),
            workflow_version_draft=documents(**body),
            **dict.fromkeys(("app_id", "workflow_app_id", "status", "origin", "error", "record_id"), text),
            **dict.fromkeys(("started_at", "ended_at", "created_at", "updated_at", "retention_due_at"), date),
            **dict.fromkeys(("input", "result"), free),
            version=number,
            output=outputs | listed if tame else outputs | listed | st.lists(step, max_size=2),
            usage=run_usage,
            retention=documents(max_age_in_seconds=number, preserve_on_failure=wild(st.booleans(), ["yes", 1])),
        ),
    )


GOOD_RUN = {
    "id": "run",
    "workflow_version": {"id": "v", "version": 3, "steps": [{"type": "code", "key": "a", "position": [1, 2.5]}]},
    "created_at": "2026-09-02T17:14:49.960Z",
    "updated_at": "2026-09-02",
    "output": {
        "a": {"type": "model", "start": 1788369291888.5, "output": {"provider": "p", "model": "m"}, "calls": [{}]}
    },
    "usage": {
        "total": 0.10,
        "calls": [{"id": "c", "total": 1e-7, "calls": [{"total": 2}]}],
        "steps": {"b": {"total": 3}},
    },
}


def stream(*, store_payloads: bool = True) -> Stream:
    return Stream("app", "wf", Definitions("wf", 8), store_payloads, None)


def careful(raw: bytes, *, store_payloads: bool = True) -> Any:
    try:
        return comparable(careful_rows(raw, digest(raw), stream(store_payloads=store_payloads)))
    except RecordError as error:
        return error.reason


@example(GOOD_RUN, None, False, True)
@given(runs(tame=True) | runs(tame=True) | runs(tame=False), st.sampled_from([None, 1]), st.booleans(), st.booleans())
def test_what_the_fast_path_takes_the_careful_one_makes_the_same_of(
    run: dict[str, Any], indent: int | None, escaped: bool, store_payloads: bool
) -> None:
    raw = json.dumps(run, ensure_ascii=escaped, indent=indent).encode("utf-8", "backslashreplace")
    rows = fast_rows(raw, digest(raw), stream(store_payloads=store_payloads))
    made = careful(raw, store_payloads=store_payloads)
    event("left to the careful path" if rows is None else "taken")
    if rows is not None:
        assert comparable(rows) == made


@pytest.mark.parametrize(
    "raw",
    [
        run_bytes(id=""),
        run_bytes(id=7),
        run_bytes(id=None),
        run_bytes(workflow_id="other"),
        run_bytes(input="\0"),
        run_bytes(input="\ud83d"),
        run_bytes(error="\ude00"),
        run_bytes(version=2**31),
        run_bytes(version=1.5),
        run_bytes(version="1"),
        run_bytes(version=True),
        run_bytes(retention={"max_age_in_seconds": 2**63}),
        run_bytes(created_at="10000-01-01T00:00:00Z"),
        run_bytes(created_at="yesterday"),
        run_bytes(output=[{"status": "FAILED"}]),
        run_bytes(output=[{"key": "a"}, {"key": "a"}], usage={"steps": {"a#2": {}}}),
        run_bytes(output=[None]),
        run_bytes(output={"": {}}),
        run_bytes(output={"a": {"key": "b"}}),
        run_bytes(output={"a": {"start": 1e30}}),
        run_bytes(output={"a": {"start": 1.23456}}),
        run_bytes(output={"a": {"type": "browser", "output": {"status": 2**31}}}),
        run_bytes(output={"a": {"type": "model", "output": {"model": 5}}}),
        run_bytes(output={"a": {"calls": [{"index": 2**63}]}}),
        run_bytes(usage={"total": "1"}),
        run_bytes(usage={"calls": [None]}),
        run_bytes(usage={"calls": [{"new": 1}]}),
        run_bytes(usage={"steps": {"a": {"new": 1}}}),
        run_bytes(output={"a": {"calls": [{"new": 1}]}}),
        run_bytes(output=[{"key": "a", "new": 1}]),
        run_bytes(output={"a": 1}, new=1),
        run_bytes(workflow_version={"id": ""}),
        run_bytes(workflow_version=[]),
        b'{"id":"run","usage":{"total":1e-5000}}',
        b'{"id":"run","usage":{"total":1e5000}}',
        b'{"id":"run","input":NaN}',
        b'{"id":"run","input":"\xff"}',
        b'{"id":"run","usage":' + b'{"calls":[' * 5000 + b"{}" + b"]}" * 5000 + b"}",
        b'{"id":"run"',
        b"[]",
        b"null",
        b"",
    ],
)
def test_the_fast_path_leaves_the_unusual_alone(raw: bytes) -> None:
    assert fast_rows(raw, b"", stream()) is None


@pytest.mark.parametrize(
    "raw",
    [
        run_bytes(new={"a\n": [1.50, "é"]}, result=1),
        run_bytes(usage={"id": "x", "total": 1, "calls": [{}]}, output=None),
        run_bytes(usage={"new": 1}, retention={"new": None, "max_age_in_seconds": 5}, new=None),
        run_bytes(output={"a": {"new": 1, "type": "model", "output": {"model": "m"}}, "b": None, "c": {}}),
        run_bytes(output=[{"key": "a"}], usage=None, retention=None, new=1),
        b'{"new":1,"id":"run","new":1e-400,"new\\u00e9":"\\ud83d\\ude00","usage":{"total":1,"new":2,"total":3}}',
    ],
)
def test_new_fields_of_runs_and_steps_do_not_slow_them_down(raw: bytes) -> None:
    rows = fast_rows(raw, digest(raw), stream())
    assert rows is not None
    assert comparable(rows) == careful(raw)


@pytest.mark.parametrize("keys", ["aa", "aaa", ["a", "a", "a#2"], ["a#2", "a", "a"], ["a", "a#2", "a", "a"]])
def test_steps_of_the_same_key_in_a_list_do_not_slow_a_run_down(keys: Sequence[str]) -> None:
    raw = run_bytes(output=[{"key": key, "error": key} for key in keys], usage={"steps": {"a": {"total": 1}, "b": {}}})
    rows = fast_rows(raw, digest(raw), stream())
    assert rows is not None
    assert comparable(rows) == careful(raw)


def test_json_of_any_depth_comes_out_the_same() -> None:
    """How deep the decoder of the fast path goes depends on the Python: from 3.14 on, as deep as this."""
    raw = b'{"id":"run","input":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    rows = fast_rows(raw, digest(raw), stream())
    assert not isinstance(careful(raw), str)
    assert rows is None or comparable(rows) == careful(raw)


def test_ordinary_runs_take_the_fast_path() -> None:
    taken = [
        fast_rows(json.dumps(run).encode(), b"", Stream("app", workflow_id, Definitions(workflow_id, 8), True, None))
        for workflow_id, runs in World.generate(seed=3, runs=100, rough_edges=False).runs.items()
        for run in runs.values()
    ]
    assert all(taken)
