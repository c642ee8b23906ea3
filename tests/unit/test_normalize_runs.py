"""Normalization of runs, one rule per test."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from normalized import call_rows, normalized, plain, run_bytes, run_row, step_rows, usage_rows

from etl import tables
from etl.errors import RecordError
from etl.normalize.normalizer import Normalizer
from etl.normalize.rows import effective_updated_at


def steps_of(**run: Any) -> dict[str, dict[str, Any]]:
    return {row["step_key"]: row for row in step_rows(normalized(run_bytes(**run)))}


def result_of(raw: bytes) -> bytes | None:
    """The JSON text for `runs.result`."""
    value = dict(zip(tables.RUNS.names, normalized(raw).run, strict=True))["result"]
    text: bytes | None = plain("jsonb", value)
    return text


def refused(raw: bytes) -> RecordError:
    with pytest.raises(RecordError) as error:
        normalized(raw)
    return error.value


def test_steps_are_the_union_of_output_and_usage_steps() -> None:
    rows = step_rows(
        normalized(
            run_bytes(
                output={"b": {"status": "FAILED"}, "a": None}, usage={"steps": {"c": {"total": 1}, "a": {"total": 2}}}
            )
        )
    )
    assert [(row["step_key"], row["ordinal"], row["status"], row["credits"]) for row in rows] == [
        ("b", 0, "FAILED", None),
        ("a", 1, None, Decimal(2)),
        ("c", 2, None, Decimal(1)),
    ]


def test_repeated_keys_of_the_array_form_are_numbered() -> None:
    output = [{"key": key, "status": str(place)} for place, key in enumerate(["a", "a#2", "a", "b", "a"])]
    rows = steps_of(output=output, usage={"steps": {"a": {"total": 1}}})
    assert [(key, row["status"], row["extra"]) for key, row in rows.items()] == [
        ("a", "0", None),
        ("a#2", "1", None),
        ("a#3", "2", None),
        ("b", "3", None),
        ("a#4", "4", None),
    ]
    assert [row["credits"] for row in rows.values()] == [Decimal(1), None, None, None, None]


def test_keys_made_equal_by_cleaning_are_numbered() -> None:
    half, other_half = "a\ud83d", "a\ude00"
    rows = steps_of(
        output={"a\0": {"status": "1"}, "a\ufffd": {"status": "2"}, half: {"status": "3", "key": half}},
        usage={"steps": {half: {"total": 3}, "a\0": {"total": 1}, other_half: {"total": 4}}},
    )
    assert [(key, row["status"], row["credits"], row["extra"]) for key, row in rows.items()] == [
        ("a\ufffd", "1", Decimal(1), None),
        ("a\ufffd#2", "2", None, None),
        ("a\ufffd#3", "3", Decimal(3), None),
        ("a\ufffd#4", None, Decimal(4), None),
    ]


def test_usage_of_an_unnamed_step_is_separate_from_the_run() -> None:
    tree = {"calls": [{"total": 1}]}
    both = normalized(run_bytes(output={"": {}}, usage={**tree, "steps": {"": tree}}))
    assert [row["step_key"] for row in step_rows(both)] == ["#2"]
    assert [(row["step_key"], row["path"]) for row in usage_rows(both)] == [("", "0"), ("#2", "0")]
    alone = normalized(run_bytes(output={"": {}}, usage={"steps": {"": tree}}))
    assert [row["step_key"] for row in step_rows(alone)] == [""]


def test_usage_tree_is_flattened_at_any_depth() -> None:
    rows = usage_rows(
        normalized(run_bytes(usage={"calls": [{"id": "x", "total": 1, "calls": [{}, {"calls": [{"id": "y"}]}]}]}))
    )
    assert sorted((row["path"], row["parent_path"], row["depth"], row["call_id"], row["credits"]) for row in rows) == [
        ("0", None, 1, "x", Decimal(1)),
        ("0.0", "0", 2, None, None),
        ("0.1", "0", 2, None, None),
        ("0.1.0", "0.1", 3, "y", None),
    ]
    deep = b'{"id":"run","usage":' + b'{"total":1,"calls":[' * 3000 + b'{"total":0.10}' + b"]}" * 3000 + b"}"
    row = usage_rows(normalized(deep))[-1]
    assert (row["depth"], row["call_id"], str(row["credits"])) == (3000, None, "0.10")


def test_credits_are_exact() -> None:
    raw = b'{"id":"run","usage":{"total":0.1000000000000000055511151231257827,"calls":[{"total":1e-7}]}}'
    assert str(run_row(normalized(raw))["credits"]) == "0.1000000000000000055511151231257827"
    assert str(usage_rows(normalized(raw))[0]["credits"]) == "1E-7"


def test_step_outputs_have_columns_by_type() -> None:
    output = {"provider": "p", "model": "m", "status": 404, "run_id": "child"}
    rows = steps_of(
        output={
            kind: {"type": kind, "output": output} for kind in ("model", "http_request", "browser", "workflow", "code")
        }
    )
    columns = ("provider", "model", "http_status", "child_run_id")
    assert {kind: tuple(row[column] for column in columns) for kind, row in rows.items()} == {
        "model": ("p", "m", None, None),
        "http_request": (None, None, 404, None),
        "browser": (None, None, 404, None),
        "workflow": (None, None, None, "child"),
        "code": (None, None, None, None),
    }


def test_loop_outputs_have_columns_on_calls() -> None:
    made = {"provider": "p", "model": "m"}
    calls = [{"output": made}, {"type": "model", "output": made}, {"type": "code", "output": made}]
    looped = normalized(run_bytes(output={"a": {"type": "model", "output": [made, made], "calls": calls}}))
    assert [row["provider"] for row in step_rows(looped)] == [None]
    assert [row["model"] for row in call_rows(looped)] == ["m", "m", None]
    # Without a loop these are tool calls.
    tools = normalized(run_bytes(output={"a": {"type": "model", "output": made, "calls": calls}}))
    assert [row["model"] for row in call_rows(tools)] == ["m", "m", None]
    assert [row["type"] for row in call_rows(tools)] == [None, "model", "code"]


@pytest.mark.parametrize("store_payloads", [True, False])
def test_child_runs_are_recorded_without_payloads(store_payloads: bool) -> None:
    def children(kind: str | None, output: Any, *calls: dict[str, Any]) -> list[str | None]:
        step = {"type": kind, "output": output, "calls": calls}
        rows = call_rows(normalized(run_bytes(output={"a": step}), store_payloads=store_payloads))
        return [row["child_run_id"] for row in rows]

    made = {"run_id": "child"}
    loop: list[dict[str, Any]] = [
        {"output": made},
        {"type": "workflow", "output": made},
        {"type": "code", "output": made},
        {"output": [made]},
    ]
    assert children("workflow", [made], *loop) == ["child", "child", None, None]
    # Without a loop, these are tool calls; a call without a type has the type of the step.
    tools: list[dict[str, Any]] = [*loop, {"type": "workflow", "output": {"run_id": 5}}]
    assert children("workflow", {}, *tools) == ["child", "child", None, None, None]
    assert children("model", {}, *tools) == [None, "child", None, None, None]
    assert children(None, {}, *tools) == [None, "child", None, None, None]


ID = {"run_id": "child"}
IDS = ID | {"workflow_id": "w"}


@pytest.mark.parametrize(
    ("step", "total", "found"),
    [
        ({"type": "workflow", "output": ID}, None, ["child"]),
        ({"type": "workflow", "output": [ID, IDS, {"run_id": "b"}, None, 5]}, 0, ["child", "b"]),
        ({"type": "workflow", "calls": [{"output": ID}, {"type": "code", "output": ID}]}, 1, ["child"]),
        ({"type": "workflow", "output": {"run_id": "c" * 200}}, 1, ["c" * 200]),
        ({"type": "workflow", "output": {"run_id": "c" * 201}}, 1, []),
        ({"type": "workflow", "output": {"run_id": ""}}, 1, []),
        ({"type": "workflow", "output": {"run_id": "run"}}, 1, []),  # the run itself
        ({"type": "code", "output": IDS}, 1, ["child"]),
        ({"type": "code", "output": IDS}, 0, []),
        ({"type": "code", "output": IDS}, None, []),
        ({"type": "code", "output": ID}, 1, []),
        ({"type": "code", "output": [None, ID, IDS]}, 1, ["child"]),
        ({"type": "code", "output": {"result": IDS}}, 1, []),
        ({"type": "model", "output": ID, "calls": [{"type": "model", "output": ID}, {"output": ID}]}, 1, []),
        ({"type": "workflow", "calls": [{"type": "model", "output": IDS}]}, 0, []),
        ({"type": "model", "calls": [{"type": "workflow", "output": ID}]}, 0, ["child"]),
    ],
)
def test_outputs_name_child_runs(step: dict[str, Any], total: int | None, found: list[str]) -> None:
    rows = normalized(run_bytes(output={"a": step}, usage={"steps": {"a": {"total": total}}}))
    assert rows.child_runs == [("run", "a", each) for each in found]


@pytest.mark.parametrize("kind", ["note", "branch", "model", "http_request", "browser", "input", "new", None])
def test_outputs_of_any_type_name_child_runs(kind: str | None) -> None:
    typed, looped = {"type": kind, "output": IDS}, {"type": kind, "output": [IDS]}
    for step in (typed, looped, {"type": kind, "calls": [{"output": IDS}]}, {"type": "code", "calls": [typed]}):
        for total, found in ((1, [("run", "a", "child")]), (0, [])):
            rows = normalized(run_bytes(output={"a": step}, usage={"steps": {"a": {"total": total}}}))
            assert rows.child_runs == found


def test_unusual_outputs_name_child_runs() -> None:
    deep = b"[" * 2000 + b"]" * 2000
    for output in (b'{"run_id":"c","result":%b}' % deep, b'{"run_id":"c","result":1e400}', b'{"run_id":"c\\ud83d"}'):
        for form in (output, b"[%b]" % output):
            rows = normalized(b'{"id":"run","output":{"a":{"type":"workflow","output":%b}}}' % form)
            assert rows.child_runs == [("run", "a", "c\ufffd" if b"ud83d" in output else "c")]
    assert normalized(b'{"id":"r","output":{"a":{"type":"workflow","output":{"run_id":5}}}}').child_runs == []


def test_unexpected_outputs_leave_columns_null() -> None:
    rows = steps_of(
        output={
            "a": {"type": "model", "output": {"model": 5, "provider": None}},
            "b": {"type": "http_request", "output": {"status": "200"}},
            "c": {"type": "workflow", "output": "x"},
        }
    )
    assert [(row["model"], row["http_status"], row["child_run_id"], row["extra"]) for row in rows.values()] == [
        (None,) * 4
    ] * 3


def test_step_times_are_epoch_milliseconds() -> None:
    row = steps_of(output={"a": {"start": 1788369291888, "end": 1788369291888.5}})["a"]
    assert row["started_at"] == datetime(2026, 9, 2, 17, 14, 51, 888000, tzinfo=UTC)
    assert row["ended_at"] == datetime(2026, 9, 2, 17, 14, 51, 888500, tzinfo=UTC)


@pytest.mark.parametrize("ms", [253402300799999, 253402300799999.5, -62135596800000, 4_000_000_000_001, -1])
def test_step_times_are_exact_in_all_years(ms: float) -> None:
    exact = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(ms), microseconds=int(ms % 1 * 1000))
    assert steps_of(output={"a": {"start": ms}})["a"]["started_at"] == exact


@pytest.mark.parametrize("ms", [253402300800000, 253402300800000.0, -62135596800001, -62135596800000.5, 1e300, 10**30])
def test_step_times_beyond_the_calendar_go_to_extra(ms: float) -> None:
    step = steps_of(output={"a": {"start": ms}})["a"]
    assert (step["started_at"], step["extra"]) == (None, {"start": ms})


def test_numbers_too_large_for_columns_go_to_extra() -> None:
    huge = 10**30
    rows = normalized(
        run_bytes(
            version=huge,
            retention={"max_age_in_seconds": huge},
            output={
                "a": {"start": huge, "end": huge, "calls": [{"index": huge, "start": huge}]},
                "b": {"type": "browser", "output": {"status": huge}},
            },
        )
    )
    row, steps, (call,) = run_row(rows), step_rows(rows), call_rows(rows)
    assert (row["version"], row["retention_max_age_s"]) == (None, None)
    assert row["extra"] == {"version": huge, "retention": {"max_age_in_seconds": huge}}
    assert [(step["started_at"], step["http_status"]) for step in steps] == [(None, None)] * 2
    assert [step["extra"] for step in steps] == [{"start": huge, "end": huge}, {"output": {"status": huge}}]
    assert call["extra"] == {"index": huge, "start": huge}


@pytest.mark.parametrize("huge", ["9e131071", "-9e131071", "1e400000", "1e-20000", "1000000000000000", "1e15"])
def test_credits_too_large_for_sums_go_to_extra(huge: str) -> None:
    number = b"{" + f'"total":{huge}'.encode()
    tree = number + b',"calls":[{"id":"c",' + number[1:] + b"}]}"
    raw = b'{"id":"run","usage":%b,"steps":{"a":%b}}}' % (tree[:-1], tree)
    rows = normalized(raw)
    assert (run_row(rows)["credits"], step_rows(rows)[0]["credits"]) == (None, None)
    assert [row["credits"] for row in usage_rows(rows)] == [None, None]
    extra = dict(zip(tables.RUNS.names, rows.run, strict=True))["extra"]
    assert plain("jsonb", extra).count(huge.encode()) == 4
    left = '"total":0,"calls":{"0":{"total":0}}'
    shape = json.loads(f'{{"usage":{{{left},"steps":{{"a":{{{left}}}}}}}}}')
    assert json.loads(plain("jsonb", extra).replace(huge.encode(), b"0")) == shape


def test_largest_credits_fit() -> None:
    for number in ("999999999999999.9999", "-999999999999999", "9e14", "1e-16383"):
        assert run_row(normalized(b'{"id":"run","usage":{"total":%b}}' % number.encode()))["credits"] == Decimal(number)


@pytest.mark.parametrize(("field", "limit"), [("version", 2**31), ("index", 2**63)])
def test_largest_numbers_fit(field: str, limit: int) -> None:
    for value, fits in ((limit - 1, True), (-limit, True), (limit, False), (-limit - 1, False), (1.5, False)):
        rows = normalized(run_bytes(output={"a": {"calls": [{"index": value}]}}, version=value))
        found = run_row(rows) if field == "version" else call_rows(rows)[0]
        assert (found[field], found["extra"]) == ((value, None) if fits else (None, {field: value}))


def test_unknown_fields_are_kept_with_their_path() -> None:
    rows = normalized(
        run_bytes(
            new=None,
            usage={
                "currency": "x",
                "calls": [{"a": 1, "calls": [{"b": 2}]}],
                "steps": {"s": {"c": 3, "calls": [{"d": 4}]}, "t": {"g": 7}},
            },
            retention={"policy": {"name": "p"}},
            output={"s": {"e": 5, "key": "other", "calls": [{"f": 6}]}},
        )
    )
    assert run_row(rows)["extra"] == {
        "new": None,
        "usage": {
            "currency": "x",
            "calls": {"0": {"a": 1}, "0.0": {"b": 2}},
            "steps": {"s": {"c": 3, "calls": {"0": {"d": 4}}}, "t": {"g": 7}},
        },
        "retention": {"policy": {"name": "p"}},
    }
    assert step_rows(rows)[0]["extra"] == {"e": 5, "key": "other"}
    assert call_rows(rows)[0]["extra"] == {"f": 6}


def test_free_form_json_keeps_its_digits_and_is_cleaned() -> None:
    raw = b'{"id":"run","result":{"a":1.50,"b":123456789012345678901234567890,"c\\u0000":"\\ud83d x \\ud83d\\ude00"}}'
    assert result_of(raw) == '{"a":1.50,"b":123456789012345678901234567890,"c\ufffd":"\ufffd x 😀"}'.encode()
    assert result_of(b'{"id":"run","result":{"a":1.50}}') == b'{"a":1.50}'


def test_nul_and_lone_surrogates_are_replaced_everywhere() -> None:
    fields = {"error": "e\ud83d", "input": {"k\0": ["\ude00"]}, "output": {"a": {"key": "b\0"}}, "new\0": "v\0"}
    rows = normalized(run_bytes(id="r\0", **fields))
    row = run_row(rows)
    assert (row["id"], row["error"], row["input"], row["extra"]) == (
        "r\ufffd",
        "e\ufffd",
        {"k\ufffd": ["\ufffd"]},
        {"new\ufffd": "v\ufffd"},
    )
    assert step_rows(rows)[0]["extra"] == {"key": "b\ufffd"}


@pytest.mark.parametrize("null", [{"input": None, "result": None, "output": None}, {}])
def test_null_is_null(null: dict[str, Any]) -> None:
    rows = normalized(run_bytes(**null))
    assert rows.emptied
    assert (run_row(rows)["input"], run_row(rows)["result"]) == (None, None)
    assert not normalized(run_bytes(output={})).emptied
    assert not normalized(run_bytes(input=False)).emptied


@pytest.mark.parametrize(
    ("updated_at", "time", "on_day", "effective"),
    [
        ("2026-09-02", datetime(2026, 9, 2, tzinfo=UTC), True, datetime(2026, 9, 2, 23, 59, 59, 999999, tzinfo=UTC)),
        ("2026-09-02T10:00:00", *[datetime(2026, 9, 2, 10, tzinfo=UTC), False], datetime(2026, 9, 2, 10, tzinfo=UTC)),
        ("2026-09-02T10:00:00+02:00", datetime(2026, 9, 2, 8, tzinfo=UTC), False, datetime(2026, 9, 2, 8, tzinfo=UTC)),
        (
            "9999-12-31",
            datetime(9999, 12, 31, tzinfo=UTC),
            True,
            datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        ),
        ("+10000-01-01", None, False, None),
        (None, None, False, None),
    ],
)
def test_day_without_a_time_counts_as_its_end(updated_at: str | None, time: Any, on_day: bool, effective: Any) -> None:
    rows = normalized(run_bytes(updated_at=updated_at))
    assert (rows.updated_at, rows.updated_on_day) == (time, on_day)
    assert (run_row(rows)["updated_at"], run_row(rows)["updated_on_day"]) == (time, on_day)
    assert effective_updated_at(rows.updated_at, rows.updated_on_day) == effective


def test_times_beyond_the_calendar_go_to_extra() -> None:
    row = run_row(normalized(run_bytes(created_at="+275760-09-13T00:00:00Z", ended_at="9999-12-31T23:59:59-05:00")))
    assert (row["created_at"], row["ended_at"]) == (None, None)
    assert row["extra"] == {"created_at": "+275760-09-13T00:00:00Z", "ended_at": "9999-12-31T23:59:59-05:00"}


def test_run_without_a_workflow_gets_that_of_the_stream() -> None:
    assert run_row(normalized(b'{"id":"run"}'))["workflow_id"] == "wf"
    assert run_row(normalized(b'{"id":"run"}'))["stream_app_id"] == "app"
    assert (
        run_row(Normalizer("app", "w\0").normalize(b'{"id":"r","workflow_id":"w\\u0000"}', b""))["workflow_id"]
        == "w\ufffd"
    )


def test_run_of_another_workflow_has_its_listing() -> None:
    names = ("workflow_id", "stream_app_id", "listed_under_app_id", "listed_under_workflow_id")
    other, own = (run_row(normalized(b'{"id":"run","workflow_id":"%b"}' % each)) for each in (b"x", b"wf"))
    assert [other[name] for name in names] == ["x", None, "app", "wf"]
    assert [own[name] for name in names] == ["wf", "app", None, None]


def test_payloads_can_be_omitted() -> None:
    made = {"provider": "p", "model": "m"}
    for new in ({}, {"new": 1}):
        raw = run_bytes(
            input={"a": 1},
            result=[1],
            output={"s": {"type": "model", "output": made, "logs": [1], "calls": [{"output": 1, "logs": 2}]}},
            **new,
        )
        rows = normalized(raw, store_payloads=False)
        row, (step,), (call,) = run_row(rows), step_rows(rows), call_rows(rows)
        assert [row["input"], row["result"], step["output"], step["logs"], call["output"], call["logs"]] == [None] * 6
        assert (step["provider"], step["model"], rows.emptied) == ("p", "m", False)


def test_unknown_fields_of_steps_are_omitted_with_the_payloads() -> None:
    huge = 10**30
    call = {"new": "secret", "index": huge, "type": "browser", "output": {"status": huge}}
    step = {"new": "secret", "start": huge, "type": "browser", "output": {"status": huge}, "calls": [call]}
    raw = run_bytes(new=1, output={"a": step}, usage={"currency": "x"})
    rows = normalized(raw, store_payloads=False)
    assert run_row(rows)["extra"] == {"new": 1, "usage": {"currency": "x"}}
    assert (step_rows(rows)[0]["extra"], call_rows(rows)[0]["extra"]) == ({"start": huge}, {"index": huge})
    assert step_rows(normalized(raw))[0]["extra"] == {"new": "secret", "start": huge, "output": {"status": huge}}


@pytest.mark.parametrize(
    ("raw", "reason", "says"),
    [
        (b"[]", "not_an_object", "an array"),
        (b"null", "not_an_object", "null"),
        (b'"run"', "not_an_object", "a string"),
        (b"", "invalid_json", "Expecting value"),
        (b'{"id":"run","a":"\n"}', "invalid_json", "Invalid control character at character 17"),
        (b'{"id":"run","a":"', "invalid_json", "Unterminated string starting at character 16"),
        (b'{"id":"run","a":NaN}', "invalid_json", "NaN"),
        (b'{"id":"run","a":"\xff"}', "invalid_json", "UTF-8"),
        (b"{}", "missing_id", "no id"),
        (b'{"id":""}', "missing_id", "no id"),
        (b'{"id":7}', "invalid_field", "id: expected a string, got a number"),
        (b'{"id":[]}', "invalid_field", "id: expected a string, got an array"),
        (b'{"id":"run","status":5}', "invalid_field", "status: expected a string, got a number"),
        (
            b'{"id":"run","created_at":"soon"}',
            "invalid_field",
            "created_at: expected an ISO 8601 date, got a string",
        ),
        (b'{"id":"run","created_at":5}', "invalid_field", "created_at: expected an ISO 8601 date, got a number"),
        (b'{"id":"run","version":true}', "invalid_field", "version: expected a number, got a boolean"),
        (b'{"id":"run","output":"x"}', "invalid_field", "output: expected an object, got a string"),
        (b'{"id":"run","output":[{}]}', "invalid_field", "output.0.key: expected a string, got null"),
        (b'{"id":"run","output":{"a":{"start":"x"}}}', "invalid_field", "output.0.start: expected a number"),
        (
            b'{"id":"run","output":{"a":{"calls":[{"key":1}]}}}',
            "invalid_field",
            "output.0.calls.0.key: expected a string",
        ),
        (b'{"id":"run","usage":[]}', "invalid_field", "usage: expected an object, got an array"),
        (
            b'{"id":"run","usage":{"calls":[{"calls":[null]}]}}',
            "invalid_field",
            "usage.calls.0.0: expected an object, got null",
        ),
        (
            b'{"id":"run","usage":{"steps":{"a":{"total":"1"}}}}',
            "invalid_field",
            "usage.steps.0.total: expected a number",
        ),
        (b'{"id":"run","retention":{"preserve_on_failure":1}}', "invalid_field", "expected a boolean"),
        (
            b'{"id":"run","workflow_version":{}}',
            "invalid_field",
            "workflow_version.id: expected a string that is not empty",
        ),
    ],
)
def test_invalid_run_is_refused_with_a_reason(raw: bytes, reason: str, says: str) -> None:
    error = refused(raw)
    assert error.reason == reason
    assert says in error.message
    assert error.run_id == ("run" if b'"run",' in raw else None)


@pytest.mark.parametrize(
    "raw",
    [
        run_bytes(created_at="hunter2"),
        run_bytes(output="hunter2"),
        run_bytes(version="hunter2"),
        run_bytes(usage={"total": "hunter2"}),
        run_bytes(retention={"preserve_on_failure": "hunter2"}),
        run_bytes(workflow_version={"id": "v", "steps": "hunter2"}),
        run_bytes(output={"hunter2": "hunter2"}),
        run_bytes(output={"hunter2": {"calls": {"hunter2": 5}}}),
        run_bytes(usage={"steps": {"hunter2": "hunter2"}}),
        b'"hunter2"',
    ],
)
def test_error_messages_never_quote_values(raw: bytes) -> None:
    message = refused(raw).message
    assert "hunter2" not in message
