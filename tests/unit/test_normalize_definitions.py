"""Definitions, workflows and redaction."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from normalized import call_rows, named, normalized, run_bytes, run_row, step_rows

from etl import tables
from etl.config import PayloadSettings
from etl.errors import RecordError, SettingsError
from etl.normalize.definitions import normalize_workflow
from etl.normalize.fitting import JSONB
from etl.normalize.normalizer import Normalizer
from etl.normalize.redaction import Redactor, abridge, is_due, redactor_of
from etl.normalize.rows import VersionRows

BRANCH = {
    "type": "branch",
    "key": "b",
    "destinations": ["c", "c"],
    "conditions": {"yes": {"condition": "x", "destinations": ["d", "c"], "order": 0}, "no": {"destinations": []}},
    "else": ["e"],
}


def version_of(steps: list[dict[str, Any]] | None = None, **fields: Any) -> VersionRows:
    (version,) = normalized(run_bytes(workflow_version={"id": "v", "steps": steps} | fields)).versions
    return version


def step_of(**step: Any) -> dict[str, Any]:
    return named(tables.WORKFLOW_STEPS, version_of([step]).steps[0])


def test_version_fields_go_to_columns_and_extra() -> None:
    row = named(
        tables.WORKFLOW_VERSIONS,
        version_of(
            app_id="a",
            workflow_id="wf",
            version=3,
            rollback_version=10**12,
            created_by={"id": "u", "name": None, "email": "e"},
            created_at="2026-09-02",
            input_options={"display": {"field": "inline", "hidden": True}, "more": 1},
            new=[1],
        ).row,
    )
    assert (row["version"], row["rollback_version"], row["created_by_id"], row["is_draft"]) == (3, None, "u", False)
    assert (row["display_field"], row["display_container"], row["display_hidden"]) == ("inline", None, True)
    assert row["input_options"] == {"display": {"field": "inline", "hidden": True}, "more": 1}
    assert row["extra"] == {"new": [1], "created_by": {"email": "e"}, "rollback_version": 10**12}


def test_run_refers_to_its_version_and_draft() -> None:
    version, draft = {"id": "v"}, {"key": "d\0", "input": {"b": 1.0, "a": "é\n"}}
    cleaned = json.dumps({"input": {"a": "é\n", "b": 1.0}, "key": "d\ufffd"}, separators=(",", ":"), ensure_ascii=False)
    draft_id = "draft:" + hashlib.sha256(f"wf\n{cleaned}".encode()).hexdigest()[:32]
    both = normalized(run_bytes(workflow_version=version, workflow_version_draft=draft, workflow_app_id="wa"))
    assert (run_row(both)["workflow_version_id"], run_row(both)["workflow_draft_id"]) == ("v", draft_id)
    assert [rows.id for rows in both.versions] == ["v", draft_id]
    alone = normalized(run_bytes(workflow_version_draft=draft, workflow_app_id="wa"))
    assert (run_row(alone)["workflow_version_id"], run_row(alone)["workflow_draft_id"]) == (draft_id, draft_id)
    row = named(tables.WORKFLOW_VERSIONS, alone.versions[0].row)
    assert (row["is_draft"], row["app_id"], row["workflow_id"], row["key"]) == (True, "wa", "wf", "d\ufffd")


def test_equal_drafts_share_an_id() -> None:
    texts = [b'{"key":"d","input":{"a":1,"b":"\\u00e9"}}', '{ "input": {"b":"é", "a":1}, "key":"d" }'.encode()]
    drafts = [normalized(b'{"id":"r","workflow_version_draft":' + text + b"}").versions[0] for text in texts]
    assert drafts[0].id == drafts[1].id
    assert drafts[0].digest == drafts[1].digest
    other = normalized(b'{"id":"r","workflow_version_draft":{"key":"d","input":{"a":1.0,"b":"\\u00e9"}}}').versions[0]
    assert other.id != drafts[0].id  # 1.0 has other digits than 1


def test_links_are_unique_rows() -> None:
    assert version_of([BRANCH]).links == (
        ("v", "b", "c", "destination"),
        ("v", "b", "d", "branch:yes"),
        ("v", "b", "c", "branch:yes"),
        ("v", "b", "e", "else"),
    )
    assert step_of(**BRANCH)["config"] == {"conditions": BRANCH["conditions"]}


def test_steps_of_unknown_types_keep_their_fields() -> None:
    step = {"type": "new", "key": "n", "conditions": {"a": {"destinations": 5}, "b": 1}, "else": "x"}
    assert step_of(**step)["config"] == {"conditions": step["conditions"], "else": "x"}
    with pytest.raises(
        RecordError, match=r"workflow_version.steps.0.else: expected an array of step keys, got a string"
    ):
        version_of([step | {"type": "branch", "conditions": {}}])


@pytest.mark.parametrize(
    ("position", "x", "y", "kept"),
    [
        ([1, 2.5], 1.0, 2.5, None),
        ([1], 1.0, None, None),
        ([], None, None, None),
        (None, None, None, None),
        ([1, 2, 3], 1.0, 2.0, {"position": [1, 2, 3]}),
    ],
)
def test_missing_coordinate_is_null(position: Any, x: float | None, y: float | None, kept: Any) -> None:
    row = step_of(type="code", position=position)
    assert (row["position_x"], row["position_y"], row["config"]) == (x, y, kept)


def test_unknown_fields_of_a_model_are_kept_in_the_configuration() -> None:
    step = step_of(type="model", auto={"provider": "p", "temperature": 0.5, "more": 1})
    assert (step["auto_provider"], step["auto_temperature"], step["config"]) == (
        "p",
        Decimal("0.5"),
        {"auto": {"more": 1}},
    )


def test_huge_coordinate_is_kept_in_the_configuration() -> None:
    raw = b'{"id":"r","workflow_version":{"id":"v","steps":[{"size":[1e400,2]}]}}'
    step = named(tables.WORKFLOW_STEPS, normalized(raw).versions[0].steps[0])
    assert (step["width"], step["height"]) == (None, 2.0)
    assert b"1e400" in normalized(raw).versions[0].steps[0][-1]


def test_repeated_definition_is_normalized_once() -> None:
    normalizer = Normalizer("app", "wf")
    first = normalizer.normalize(run_bytes(workflow_version={"id": "v"}), b"").versions[0]
    careful = normalizer.normalize(b'{"id":"r","new":1,"workflow_version":{"id": "v"}}', b"").versions[0]
    again = normalizer.normalize(run_bytes(id="other", workflow_version={"id": "v"}), b"").versions[0]
    assert again is first
    assert careful == first
    for number in range(1100):
        normalizer.normalize(run_bytes(workflow_version={"id": f"v{number}"}), b"")
    assert len(normalizer._definitions._cache) < 1024, "memory is limited"
    assert normalizer.normalize(run_bytes(workflow_version={"id": "v"}), b"").versions[0] is not first


def test_draft_has_the_app_of_its_run() -> None:
    normalizer = Normalizer("app", "wf")
    apps = [
        normalizer.normalize(run_bytes(workflow_version_draft={"key": "d"}, workflow_app_id=app), b"")
        .versions[0]
        .row[1]
        for app in ("one", "two", None)
    ]
    assert apps == ["one", "two", None]


def test_equal_drafts_of_two_workflows_are_different() -> None:
    normalizer = Normalizer("app", "wf")
    raws = [run_bytes(workflow_id=workflow_id, workflow_version_draft={"key": "d"}) for workflow_id in ("wf", "other")]
    first, second = (normalizer.normalize(raw, b"").versions[0] for raw in raws)
    assert first.id != second.id
    assert [named(tables.WORKFLOW_VERSIONS, each.row)["workflow_id"] for each in (first, second)] == ["wf", "other"]


def test_workflow_and_app_rows() -> None:
    document = {
        "id": "w",
        "name": "W\0",
        "app": {"id": "a", "name": "A", "verified": True, "icon": "i"},
        "version": {"id": "v", "version": 2},
        "tags": [{"id": "t", "name": "blue"}, {"id": "u", "name": None}],
        "runs_count": 10**30,
        "retention": {"max_age_in_seconds": -1, "preserve_on_failure": True, "more": 1},
        "enabled": True,
        "deleted": False,
        "created_at": "2026-09-02",
        "steps": [],
    }
    row, app = normalize_workflow(json.dumps(document).encode())
    workflow = named(tables.WORKFLOWS, row)
    assert app == ("a", "A", True)
    assert (workflow["name"], workflow["app_id"], workflow["tags"], workflow["current_version_id"]) == (
        "W\ufffd",
        "a",
        ["blue"],
        "v",
    )
    assert (workflow["runs_count"], workflow["retention_max_age_s"], workflow["enabled"]) == (None, -1, True)
    kept = {name: document[name] for name in ("steps", "tags", "version")}
    assert workflow["extra"] == kept | {"app": {"icon": "i"}, "retention": {"more": 1}, "runs_count": 10**30}
    assert normalize_workflow(b'{"id":"w"}') == (("w", *[None] * 14), None)
    row, app = normalize_workflow(b'{"id":"w","app":{"name":"A","verified":false}}')
    assert (app, named(tables.WORKFLOWS, row)["extra"]) == (None, {"app": {"name": "A", "verified": False}})
    row, _ = normalize_workflow(b'{"id":"w","version":{"id":5}}')
    assert named(tables.WORKFLOWS, row)["current_version_id"] is None


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"[]", "not_an_object"),
        (b"{}", "missing_id"),
        (b'{"id":[]}', "invalid_field"),
        (b'{"id":"w","name":1}', "invalid_field"),
        (b"{", "invalid_json"),
    ],
)
def test_invalid_workflow_is_refused_with_a_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(RecordError) as error:
        normalize_workflow(raw)
    assert error.value.reason == reason


PATHS = ["$.input.email", "$.output.*.output.headers", "$..password", "$.id", "$..total_secret"]


def test_redaction_happens_before_normalization() -> None:
    redactor = Redactor(PATHS)
    raw = run_bytes(
        input={"email": "me@example.org", "name": "n", "password": None},
        output={"a": {"type": "http_request", "output": {"status": 200, "headers": {"cookie": "c"}}}},
        result=[{"deep": {"password": 5}}],
        workflow_version={"id": "v", "steps": [{"key": "s", "password": "p"}]},
    )
    rows = normalized(raw, redact=redactor)
    row = run_row(rows)
    assert (row["id"], row["input"]) == ("run", {"email": "[redacted]", "name": "n", "password": None})
    assert row["result"] == [{"deep": {"password": "[redacted]"}}]
    assert step_rows(rows)[0]["output"] == {"status": 200, "headers": "[redacted]"}
    assert rows.versions[0].steps[0][-1] == JSONB + b'{"password":"[redacted]"}'
    assert row["content_hash"] == hashlib.sha256(raw).digest()


@pytest.mark.parametrize(
    "path", ["$.output", "$.output.*", "$..output", "$.output.*['output','logs','error','note','calls']"]
)
@pytest.mark.parametrize("older", [False, True])
def test_redacting_all_outputs_keeps_the_steps(path: str, *, older: bool) -> None:
    call = {"id": "c", "index": 0, "key": "k", "status": "COMPLETED", "start": 1, "output": {"text": "secret"}}
    if path != "$..output":
        call["error"] = "secret"
    step = {
        "key": "status",
        "type": "code",
        "status": "FAILED",
        "start": 1000,
        "end": 2000,
        "output": ["secret"],
        "calls": [call],
    }
    if path != "$..output":
        step |= {"logs": ["secret"], "error": "secret", "note": "secret"}
    redactor = Redactor([path])
    raw = run_bytes(output=[step] if older else {"status": step})
    rows = normalized(raw, redact=redactor)
    made, called = step_rows(rows)[0], call_rows(rows)[0]
    assert (made["step_key"], made["type"], made["status"]) == ("status", "code", "FAILED")
    assert made["output"] == called["output"] == "[redacted]"
    assert (made["ended_at"] - made["started_at"]).total_seconds() == 1
    assert (called["call_id"], called["index"], called["status"]) == ("c", 0, "COMPLETED")
    assert "secret" not in repr(rows)


def test_hashes_are_equal_for_equal_values_only() -> None:
    def mail(mode: Any, salt: bytes, value: Any) -> Any:
        redactor = Redactor(["$.input.email"], mode=mode, salt=salt)
        return run_row(normalized(run_bytes(input={"email": value}), redact=redactor))["input"]["email"]

    assert mail("hash", b"", "a") == "sha256:" + hashlib.sha256(b'"a"').hexdigest()
    assert mail("hash", b"s", "a") == mail("hash", b"s", "a") != mail("hash", b"t", "a")
    assert mail("hash", b"s", {"x": 1, "y": 2}) == mail("hash", b"s", {"y": 2, "x": 1})
    twice = Redactor(["$.output", "$.output.a.output"], mode="hash")
    (step,) = step_rows(normalized(run_bytes(output={"a": {"output": "a"}}), redact=twice))
    assert step["output"] == "sha256:" + hashlib.sha256(b'"a"').hexdigest()


def test_path_to_the_whole_run_replaces_only_what_else_it_selects() -> None:
    rows = normalized(run_bytes(input={"a": 1}, result=[1]), redact=Redactor(["$ | $.input"]))
    assert (run_row(rows)["input"], run_row(rows)["result"]) == ("[redacted]", [1])


def test_run_that_cannot_be_redacted_is_not_stored() -> None:
    redactor = Redactor(["$..password"])
    deep = b'{"id":"run","input":' + b'{"a":' * 5000 + b'{"password":"p"}' + b"}" * 5001
    with pytest.raises(RecordError) as error:
        normalized(deep, redact=redactor)
    assert (error.value.reason, error.value.run_id) == ("not_redactable", "run")
    assert abridge(deep, redactor) == b""
    shallow = b'{"id":"run","input":' + b'{"a":' * 200 + b'{"password":"p"}' + b"}" * 201
    assert b'"password":"[redacted]"' in run_value(normalized(shallow, redact=redactor), "input")


def run_value(rows: Any, column: str) -> Any:
    return dict(zip(tables.RUNS.names, rows.run, strict=True))[column]


def test_abridged_item_has_ids_and_numbers_but_no_payloads() -> None:
    fields = {"status": "FAILED", "version": 1.50, "usage": {"total": 0.10, "calls": []}, "retention": "secret"}
    raw = run_bytes(
        **fields,
        record_id="r",
        collection_id="c",
        input="secret",
        output=["secret"],
        origin=["secret"],
        error="secret",
        new="secret",
    )
    kept = (
        b'{"id":"run","workflow_id":"wf","version":1.5,"status":"FAILED",'
        b'"collection_id":"%b","record_id":"r","usage":{"total":0.1}}'
    )
    assert abridge(raw) == kept % b"c"
    assert abridge(raw, Redactor(["$.collection_id"])) == kept % b"[redacted]"
    for other in (b'{"id":"run","input":"secret', b'"secret"', b'["secret"]', b"null", b"5", b"\xff"):
        assert abridge(other) == b""


DUE = b'"retention_due_at":"2026-01-01T00:00:00Z"'
PRESERVED = b'"retention":{"preserve_on_failure":true}'


@pytest.mark.parametrize(
    ("raw", "due"),
    [
        (b"{%b}" % DUE, True),
        (b'{"retention_due_at":"2026-01-01T00:00:01Z"}', False),
        (b'{%b,"status":"FAILED",%b}' % (DUE, PRESERVED), False),
        (b'{%b,"status":"COMPLETED",%b}' % (DUE, PRESERVED), True),
        (b'{%b,"status":"FAILED","retention":"cut"}' % DUE, True),
        (b'{%b,"input":"cut' % DUE, True),
        (b'{"retention_due_at":"+10000-01-01"}', None),
        (b'{"retention_due_at":"soon"}', None),
        (b'{"retention_due_at":5}', None),
        (b"{}", None),
        (b"\xff", None),
    ],
)
def test_payloads_of_a_quarantined_item_are_due(raw: bytes, due: bool | None) -> None:
    assert is_due(raw, datetime(2026, 1, 1, tzinfo=UTC)) is due


@pytest.mark.parametrize("path", ["$.a[", "$..", "", "$", " $ "])
def test_invalid_redaction_path_is_refused(path: str) -> None:
    with pytest.raises(SettingsError):
        Redactor([path])


@pytest.mark.parametrize(
    "path",
    [
        "$.updated_at", "$.created_at", "$.workflow_version", "$.usage", "$.usage.total", "$..total", "$..*", "$.*", "$.version",
        "$.retention", "$.status", "$.output.*.start", "$..created_at", "$..steps", "$.workflow_version_draft",
        "$.record_id", "$..record_id", "$['input', 'record_id']", "$.origin", "$..origin",
        "$.id", "$.workflow_id", "$.workflow_version.id", "$['id', 'workflow_id']", "$.workflow_version_draft.id",
        "$.workflow_version_draft.app", "$.workflow_version_draft.app.id", "$.workflow_version_draft.version.id",
    ],
)  # fmt: skip
def test_redaction_path_matching_required_fields_is_refused(path: str) -> None:
    with pytest.raises(SettingsError) as refused:
        redactor_of(PayloadSettings(redact=["$.input", path]))
    assert refused.value.message.startswith(f"payloads.redact: {path} would replace $.")


def test_refused_redaction_path_says_why() -> None:
    with pytest.raises(SettingsError) as refused:
        redactor_of(PayloadSettings(redact=["$..record_id"]))
    assert refused.value.message == (
        "payloads.redact: $..record_id would replace $.record_id, by which forget finds the runs of a record"
    )


def test_required_fields_are_kept_where_only_a_value_matches() -> None:
    document = {"id": "rec", "record_id": "rec", "status": "rec", "origin": "rec", "collection_id": "rec"}
    Redactor(["$[?@ == 'rec']"]).redact(document)
    assert document == dict.fromkeys(document, "rec") | {"collection_id": "[redacted]"}


@pytest.mark.parametrize(
    "path",
    [
        "$.input", "$.result", "$.output", "$.error", "$..password", "$..email", "$..error", "$..output", "$..logs", "$..id",
        "$.output.*.output", "$.output.*.calls[*].output", "$..message", "$.workflow_version.steps[*].code",
        "$.collection_id", "$..name", "$.input..*", "$.input..record_id", "$.workflow_version..id",
    ],
)  # fmt: skip
def test_redaction_path_to_payloads_is_accepted(path: str) -> None:
    assert redactor_of(PayloadSettings(redact=[path])) is not None
