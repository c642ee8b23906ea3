"""The simulated world: determinism, realistic data, and changes over time."""

from __future__ import annotations

import copy
import json
from collections import Counter
from datetime import datetime, timedelta
from statistics import mean, median

import pytest

from etl.sandbox import World
from etl.sandbox.odd_runs import KINDS
from etl.sandbox.responses import encode
from etl.sandbox.run_documents import epoch_seconds
from etl.sandbox.world import ORDERS

STEP_TYPES = {"note", "branch", "code", "model", "http_request", "browser", "workflow", "service", "input"}


@pytest.fixture(scope="module")
def world() -> World:
    """A default world; tests must not change it."""
    return World.generate()


def all_runs(world: World) -> list[dict]:
    return [run for runs in world.runs.values() for run in runs.values()]


def snapshot(world: World) -> dict[str, bytes]:
    return {run["id"]: encode(run) for run in all_runs(world)}


def steps_of(run: dict) -> list[dict]:
    output = run["output"]
    return list(output.values()) if isinstance(output, dict) else output or []


def test_seed_determines_the_world():
    one, same, other = (World.generate(seed, runs=60) for seed in (7, 7, 8))
    assert (one.runs, one.workflows, one.versions) == (same.runs, same.workflows, same.versions)
    assert one.runs != other.runs
    delta = timedelta(days=3)
    assert one.advance(delta) == same.advance(delta)
    assert one.runs == same.runs


def test_world_has_the_requested_sizes():
    world = World.generate(apps=3, workflows_per_app=5, runs=500, days=10, open_runs=7, rough_edges=False)
    assert len(world.apps) == 3
    assert Counter(each["app"]["id"] for each in world.workflows.values()) == dict.fromkeys(world.apps, 5)
    assert len(all_runs(world)) == 500
    assert sum(run["status"] in {"PENDING", "RUNNING"} for run in all_runs(world)) == 7
    assert all(run["created_at"] >= "2026-10-22" for run in all_runs(world))
    assert {key: len(runs) for key, runs in world.runs.items()} == {
        key: each["runs_count"] for key, each in world.workflows.items()
    }


@pytest.mark.parametrize("seed", range(3))
def test_history_has_ended(seed):
    world = World.generate(seed, runs=300, days=1, open_runs=0, rough_edges=False)
    assert all(epoch_seconds(run["ended_at"]) <= world.now.timestamp() for run in all_runs(world))


def test_runs_have_realistic_sizes(world):
    sizes = [len(encode(run)) for run in all_runs(world)]
    assert 5_000 < mean(sizes) < 10_000
    assert max(sizes) > 20 * median(sizes), "some payloads are large"


def test_all_step_types_statuses_and_origins_occur(world):
    runs = all_runs(world)
    assert {run["status"] for run in runs} >= {"PENDING", "RUNNING", "CANCELLED", "COMPLETED", "SKIPPED", "FAILED"}
    assert {run["origin"] for run in runs} >= {"WORKFLOW", "TRIGGER", "RECORD", "TEST", "ENDPOINT", "WEBHOOK"}
    assert {step["type"] for run in runs for step in steps_of(run)} == STEP_TYPES
    defined = {step["type"] for versions in world.versions.values() for each in versions for step in each["steps"]}
    assert defined == STEP_TYPES


@pytest.mark.parametrize(
    "key",
    ["result", "error", "collection_id", "record_id", "version", "retention", "retention_due_at", "usage"],
)
def test_optional_run_fields_occur(world, key):
    assert 0 < sum(run.get(key) is not None for run in all_runs(world)) < 3000


@pytest.mark.parametrize("key", ["logs", "calls", "end", "error", "output"])
def test_optional_step_fields_occur(world, key):
    steps = [step for run in all_runs(world) for step in steps_of(run)]
    assert 0 < sum(step.get(key) is not None for step in steps) < len(steps)


def test_failed_runs_have_an_error_and_a_failed_step(world):
    failed = [run for run in all_runs(world) if run["status"] == "FAILED" and run["output"]]
    assert len(failed) > 50
    for run in failed:
        assert run["error"]
        assert [step["error"] for step in steps_of(run) if step["status"] == "FAILED"]


def test_loops_output_a_list_with_one_call_per_iteration(world):
    loops = [step for run in all_runs(world) for step in steps_of(run) if isinstance(step.get("output"), list)]
    assert len({len(step["output"]) for step in loops}) > 4
    for step in loops:
        assert [call["index"] for call in step["calls"]] == list(range(len(step["output"])))


def test_agents_call_tools(world):
    calls = [
        call
        for run in all_runs(world)
        for step in steps_of(run)
        if step["key"] == "agent"
        for call in step.get("calls", ())
    ]
    assert len({call["key"] for call in calls}) > 1


def test_workflow_steps_refer_to_existing_runs():
    world = World.generate(rough_edges=False)
    runs = {run["id"]: run for run in all_runs(world)}
    children, depth = [], {}
    for run in sorted(runs.values(), key=lambda each: each["created_at"]):
        for step in steps_of(run):
            outputs = step.get("output") if isinstance(step.get("output"), list) else [step.get("output")]
            for output in outputs if step["type"] == "workflow" else ():
                if output is not None:
                    child = runs[output["run_id"]]
                    assert (child["origin"], child["workflow_id"]) == ("WORKFLOW", output["workflow_id"])
                    assert child["app_id"] == run["app_id"]
                    assert child["created_at"] >= run["created_at"]
                    children.append(child)
                    depth[child["id"]] = depth.get(run["id"], 0) + 1
    assert len(children) > 300
    assert max(depth.values()) == 2
    assert any(child["app_id"] != child["workflow_app_id"] for child in children)


def test_usage_trees_add_up():
    world = World.generate(runs=400, rough_edges=False)
    for run in all_runs(world):
        if run["usage"]:
            steps = run["usage"]["steps"].values()
            assert run["usage"]["total"] == pytest.approx(sum(step["total"] for step in steps))
            for step in steps:
                for call in step.get("calls", ()):
                    assert sum(part["total"] for part in call.get("calls", ())) in (0, pytest.approx(call["total"]))
    texts = [json.dumps(run["usage"]) for run in all_runs(world)]
    assert any(text.count("0000000000") for text in texts), "sums have the digits of a float, as JavaScript sends them"


def test_activity_follows_the_week(world):
    times = [
        datetime.fromisoformat(run["created_at"])
        for run in all_runs(world)
        if run["created_at"] and run["origin"] in {"WEBHOOK", "ENDPOINT"}
    ]
    weekend = sum(each.weekday() > 4 for each in times) / 2
    weekdays = sum(each.weekday() <= 4 for each in times) / 5
    assert weekdays > 2 * weekend
    assert sum(8 <= each.hour < 16 for each in times) > sum(each.hour < 6 for each in times) * 4


def test_durations_have_a_long_tail(world):
    lasted = sorted(
        epoch_seconds(run["ended_at"]) - epoch_seconds(run["started_at"])
        for run in all_runs(world)
        if run["ended_at"] and run["started_at"]
    )
    assert lasted[int(len(lasted) * 0.99)] > 4 * median(lasted)


def test_runs_refer_to_the_version_of_their_day():
    world = World.generate(runs=400, rough_edges=False)
    assert any(len(versions) > 2 for versions in world.versions.values())
    drafts = 0
    for workflow_id, versions in world.versions.items():
        assert [each["version"] for each in versions] == list(range(1, len(versions) + 1))
        assert world.workflows[workflow_id]["version"] == versions[-1]
        for run in world.runs[workflow_id].values():
            version = run["workflow_version"]
            drafts += run["workflow_version_draft"] is not None
            if version is not None:
                due = [each for each in versions if each["created_at"] <= run["created_at"]][-1]
                assert (version["id"], run["version"]) == (due["id"], due["version"])
            else:
                assert run["workflow_version_draft"] is not None
    assert drafts > 5


def test_rough_edges_can_be_disabled(world):
    text = "\n".join(json.dumps(run) for run in all_runs(world))
    for edge in ('"trace_id"', '"PAUSED"', '"EMAIL"', "\\u0000", '\\ud83d"', '"created_at": null', '"output": ['):
        assert edge in text
    runs = all_runs(World.generate(runs=1000, rough_edges=False))
    smooth = "\n".join(json.dumps(run) for run in runs)
    for edge in ('"trace_id"', '"PAUSED"', '"EMAIL"', "\\u0000", '"created_at": null'):
        assert edge not in smooth
    assert all(isinstance(run["output"], dict) for run in runs)


def test_large_worlds_share_documents_between_distinct_runs():
    world = World.generate(runs=3000, distinct=100, rough_edges=False)
    runs = all_runs(world)
    assert len({run["id"] for run in runs}) == 3000
    assert len({id(run["input"]) for run in runs if run["input"]}) <= 100
    assert all(epoch_seconds(run["ended_at"]) <= world.now.timestamp() for run in runs if run["ended_at"])
    assert all(
        epoch_seconds(run["retention_due_at"]) > world.now.timestamp() for run in runs if run.get("retention_due_at")
    )
    before = snapshot(world)
    changed = world.advance(timedelta(hours=12))
    touched = {*changed.created, *changed.finished, *changed.replayed, *changed.deleted}
    after = snapshot(world)
    assert {run_id for run_id in before if after.get(run_id) != before[run_id]} <= touched


def test_finished_run_keeps_the_steps_it_had_started(small_world):
    open_runs = [run for run in all_runs(small_world) if run["status"] == "RUNNING"]
    run = open_runs[0]
    begun = list(run["output"])
    created_at = run["created_at"]
    assert run["ended_at"] is None
    assert run["output"][begun[-1]]["status"] == "RUNNING"
    assert "end" not in run["output"][begun[-1]]
    assert run["usage"]["steps"].keys() <= set(begun[:-1]), "open steps cost nothing"
    before = run["updated_at"]
    assert small_world.finish_run(run["id"], result={"n": 1}) is run
    assert list(run["output"].values())[-1]["end"] == epoch_seconds(run["ended_at"]) * 1000
    assert run["status"] not in {"RUNNING", "PENDING"}
    assert list(run["output"])[: len(begun)] == begun
    assert all("end" in step for step in run["output"].values() if step["status"] != "SKIPPED")
    assert run["updated_at"] > before
    assert (run["created_at"], run["result"]) == (created_at, {"n": 1})


def test_created_run_has_the_overrides(small_world):
    workflow_id = next(iter(small_world.runs))
    count = len(small_world.runs[workflow_id])
    ended = small_world.create_run(workflow_id)
    assert ended["status"] not in {"RUNNING", "PENDING"}
    assert epoch_seconds(ended["updated_at"]) <= small_world.now.timestamp()
    pending = small_world.create_run(workflow_id, status="PENDING", id="my run/1")
    assert (pending["id"], pending["started_at"], pending["ended_at"], pending["usage"]) == (
        "my run/1",
        None,
        None,
        None,
    )
    running = small_world.create_run(workflow_id, status="RUNNING")
    assert running["ended_at"] is None
    assert small_world.listing(workflow_id)[:3] == [running, pending, ended]
    assert small_world.workflows[workflow_id]["runs_count"] == count + 3
    assert small_world.finish_run("my run/1")["started_at"] is not None
    with pytest.raises(KeyError):
        small_world.create_run("wf_unknown")


def test_replay_changes_a_run(small_world):
    workflow_id = "wf_ticket_triage"
    run = small_world.listing(workflow_id)[-1]
    before = copy.deepcopy(run)
    small_world.replay_run(run["id"], finish=False)
    assert (run["status"], run["ended_at"]) == ("RUNNING", None)
    small_world.finish_run(run["id"])
    assert run["status"] not in {"RUNNING", "PENDING"}
    assert run["updated_at"] > before["updated_at"]
    assert (run["created_at"], run["id"]) == (before["created_at"], before["id"])
    assert run["output"] != before["output"]
    first = copy.deepcopy(run)
    small_world.replay_run(run["id"])
    assert run["updated_at"] > first["updated_at"]
    assert small_world.listing(workflow_id)[-1] is run


def test_retention_deletes_runs_when_due(small_world):
    workflow_id = "wf_ticket_triage"
    due, kept = small_world.listing(workflow_id)[:2]
    assert small_world.set_retention(due["id"], 30 * 86_400)["retention_due_at"] is not None
    assert small_world.set_retention(kept["id"], -1)["retention_due_at"] is None
    changes = small_world.advance(timedelta(days=31))
    assert due["id"] in changes.deleted
    assert due["id"] not in small_world.runs[workflow_id]
    assert kept["id"] in small_world.runs[workflow_id]


def test_retention_can_remove_payloads_instead(small_world):
    run = small_world.listing("wf_ticket_triage")[0]
    small_world.on_retention = "empty"
    small_world.set_retention(run["id"], 0)
    updated_at = run["updated_at"]
    changes = small_world.advance(timedelta(hours=1))
    assert run["id"] in changes.emptied
    assert (run["input"], run["output"], run.get("result")) == (None, None, None)
    assert run["updated_at"] > updated_at
    assert run["id"] not in small_world.advance(timedelta(hours=1)).emptied


def test_advance_creates_finishes_replays_and_deletes_runs():
    world = World.generate(runs=1000, days=30)
    before = snapshot(world)
    open_before = {run["id"] for run in all_runs(world) if run["status"] in {"PENDING", "RUNNING"}}
    now = world.now
    changes = world.advance(timedelta(days=7))
    assert world.now == now + timedelta(days=7)
    after = snapshot(world)
    assert set(changes.finished) == open_before
    assert set(changes.created) == after.keys() - before.keys() | (set(changes.created) & set(changes.deleted))
    assert set(changes.deleted) >= before.keys() - after.keys()
    assert 100 < len(changes.created) < 700
    assert changes.replayed
    assert changes.deleted
    touched = {*changes.finished, *changes.replayed, *changes.deleted}
    assert {run_id for run_id in before if after.get(run_id) != before[run_id]} == touched & before.keys()
    times = [epoch_seconds(run["updated_at"]) for run in all_runs(world) if run["updated_at"]]
    assert max(times) <= world.now.timestamp() + 1


def test_advance_by_zero_changes_nothing(small_world):
    before = snapshot(small_world)
    changes = small_world.advance(timedelta(0))
    assert not changes.created
    assert not changes.replayed
    assert snapshot(small_world) == before


def test_workflow_can_be_added(small_world):
    small_world.add_workflow("app_new", "wf/with space")
    run = small_world.create_run("wf/with space")
    assert (run["workflow_id"], run["app_id"], run["workflow_app_id"]) == ("wf/with space", "app_new", "app_new")
    assert small_world.listing("wf/with space") == [run]


@pytest.mark.parametrize("order", ORDERS)
def test_listings_contain_each_run_once_in_any_order(small_world, order):
    small_world.order = order
    for workflow_id, runs in small_world.runs.items():
        # A replay of an old run makes the orders by update and by creation differ.
        small_world.replay_run(next(iter(runs)))
        listed = small_world.listing(workflow_id)
        assert sorted(run["id"] for run in listed) == sorted(runs)
        times = {key: [run[key] for run in listed] for key in ("created_at", "updated_at")}
        assert (times["created_at"] == sorted(times["created_at"], reverse=True)) == (order == "created_desc")
        assert (times["created_at"] == sorted(times["created_at"])) == (order == "created_asc")
        assert (times["updated_at"] == sorted(times["updated_at"], reverse=True)) == (order == "updated_desc")
        assert (small_world.listing(workflow_id) == listed) == (order != "shuffled")


def test_listing_follows_direct_changes(small_world):
    workflow_id = "wf_ticket_triage"
    oldest = small_world.listing(workflow_id)[-1]
    oldest["created_at"] = "2027-01-01"
    assert small_world.listing(workflow_id)[0] is oldest
    oldest["created_at"] = None
    newest = small_world.runs[workflow_id]["by hand"] = dict(oldest, id="by hand", created_at=None)
    assert small_world.listing(workflow_id)[:2] == [newest, oldest], "nulls come first, as PostgreSQL sorts"
    del small_world.runs[workflow_id][oldest["id"]]
    assert oldest not in small_world.listing(workflow_id)
    small_world.order = "by_mood"
    with pytest.raises(ValueError, match="order must be one of"):
        small_world.listing(workflow_id)


def test_listings_are_filtered(small_world):
    workflow_id = "wf_ticket_triage"
    small_world.create_run(workflow_id, status="FAILED", origin="TEST")
    small_world.create_run(workflow_id, status="COMPLETED", origin="TEST")
    found = small_world.listing(workflow_id, "TEST", "FAILED")
    assert found
    assert {(run["origin"], run["status"]) for run in found} == {("TEST", "FAILED")}
    assert {run["status"] for run in small_world.listing(workflow_id, status="FAILED")} == {"FAILED"}


@pytest.mark.parametrize("kind", KINDS)
def test_corrupted_run_is_served_as_bytes(small_world, kind):
    run = small_world.listing("wf_ticket_triage")[0]
    raw = small_world.corrupt(run["id"], kind)
    assert small_world.raw == {run["id"]: raw}
    assert raw != encode(run)


def test_surrogates_and_huge_integers_are_encoded_exactly():
    assert encode({"a": "\ud83d", "é": 1}) == b'{"a":"\\ud83d","\\u00e9":1}'
    assert encode([2**80, 0.1]) == b"[1208925819614629174706176,0.1]"


def test_publish_turns_the_draft_into_the_next_version(small_world):
    workflow_id = "wf_ticket_triage"
    before, draft = len(small_world.versions[workflow_id]), small_world.simulations[workflow_id].drafts[-1]
    published = small_world.publish(workflow_id)
    assert published["version"] == before + 1
    assert published["steps"] == draft["steps"]
    assert small_world.versions[workflow_id][-1] is small_world.workflows[workflow_id]["version"] is published
    assert small_world.workflows[workflow_id]["steps"] != draft["steps"], "the draft is still there"
    runs = [small_world.create_run(workflow_id) for _ in range(20)]
    assert {run["workflow_version"]["id"] for run in runs if run["workflow_version"]} == {published["id"]}


@pytest.mark.parametrize("seed", range(20))
def test_later_changes_have_later_timestamps(seed: int) -> None:
    world = World.generate(seed=seed, apps=1, workflows_per_app=1, runs=0, open_runs=0)
    run = world.create_run(next(iter(world.runs)), status="RUNNING")
    before = run["updated_at"]
    assert world.set_retention(run["id"], -1)["updated_at"] > before
