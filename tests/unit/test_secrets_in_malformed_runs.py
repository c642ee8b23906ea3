"""Values that must not be stored are in no row, error or kept bytes, whatever the structure of a run."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from normalized import normalized

from etl.errors import RecordError
from etl.normalize.redaction import Redactor, abridge

SECRET = "hunter2"
NAMES = st.sampled_from(["output", "logs", "calls", "input", "result", "steps", "text", "0", "", "\0", "\ud83d"])
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.just(SECRET) | st.just(f"some {SECRET}\0") | VALUES
SHAPES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)
SECRETS = SHAPES | st.dictionaries(st.just(SECRET), SHAPES, min_size=1)


def documents(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


HELD = {"type": st.sampled_from(["model", "browser"]), "output": SECRETS, "logs": SECRETS, "text": SECRETS}
CALL = documents(**HELD)
STEP = documents(**HELD, calls=st.lists(CALL, max_size=2))
STEPS = st.dictionaries(st.sampled_from("ab"), STEP, max_size=2) | st.lists(
    STEP.map(lambda step: step | {"key": "k"}), max_size=2
)
WELL_FORMED = documents(input=SECRETS, result=SECRETS, output=STEPS)
FLAWS = (
    documents(status=VALUES, version=VALUES, usage=VALUES, workflow_id=st.just("other"))
    | documents(output=SHAPES)
    | documents(output=st.dictionaries(st.sampled_from("ab"), STEP | SHAPES, max_size=2))
    | documents(output=st.lists(STEP | SHAPES, max_size=2))
    | documents(output=st.fixed_dictionaries({"a": documents(**HELD, calls=st.lists(CALL | SHAPES) | SHAPES)}))
)
RUNS = st.builds(lambda run, flaw: run | flaw, WELL_FORMED, st.just({}) | FLAWS)


def kept_of(raw: bytes, *, store_payloads: bool, redactor: Redactor | None) -> str:
    """Everything that is stored of a run: its rows, or the error, id and bytes in the quarantine."""
    try:
        rows = normalized(raw, store_payloads=store_payloads, redact=redactor)
    except RecordError as error:
        return repr((error.message, error.run_id, abridge(raw, redactor)))
    return repr(rows)


def damaged(run: dict[str, Any], cut: float) -> bytes:
    raw = json.dumps({"id": "run"} | run, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return raw[: int(len(raw) * cut)] + (b"" if cut == 1 else b"}")


@settings(max_examples=200)
@given(RUNS, st.just(1.0) | st.floats(0, 1))
def test_payloads_that_are_not_stored_are_nowhere(run: dict[str, Any], cut: float) -> None:
    assert SECRET not in kept_of(damaged(run, cut), store_payloads=False, redactor=None)


@settings(max_examples=200)
@given(RUNS, st.just(1.0) | st.floats(0, 1))
def test_redacted_payloads_are_nowhere(run: dict[str, Any], cut: float) -> None:
    redactor = Redactor(["$.input", "$.result", "$.output"])
    assert SECRET not in kept_of(damaged(run, cut), store_payloads=True, redactor=redactor)


@pytest.mark.parametrize(
    "path", ["$.input.mail", "$..mail", "$.output.*.output.mail", "$.output.*.calls[*].output.mail", "$.output.*.logs"]
)
def test_redacted_fields_of_malformed_runs_are_nowhere(path: str) -> None:
    held = {"mail": SECRET}
    step: dict[str, Any] = {"key": "a", "type": "code"}
    if path == "$.output.*.logs":
        step["logs"] = [SECRET]
    elif "calls" in path:
        step["calls"] = [{"output": held}]
    elif "output" in path:
        step["output"] = held
    flaws: list[dict[str, Any]] = [{"status": 5}, {"created_at": "x"}, {"usage": []}, {"id": None}, {"version": ""}]
    for flaw, output in product(flaws, ([step], {"a": step})):
        run = {"output": output} | ({} if "output" in path else {"input": held}) | flaw
        assert SECRET not in kept_of(damaged(run, 1), store_payloads=True, redactor=Redactor([path])), run
