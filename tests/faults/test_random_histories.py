"""Random histories: a sync never reports success wrongly, and a reconcile ends equal to the API."""

import asyncio
import os
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sync_trials import APP, WORKFLOW, Stir, one_stream, trial

from etl.sandbox.faults import (
    EMPTY_BODY,
    HTML_OK,
    OBJECT_BODY,
    CutBody,
    Reset,
    Status,
)
from etl.sandbox.odd_runs import KINDS

ORDERS = ("created_desc", "updated_desc", "created_asc", "none", "shuffled")
PASSING = (
    Status(503),
    Status(429, retry_after=0),
    Reset(),
    CutBody(),
    CutBody("half_json"),
    EMPTY_BODY,
    HTML_OK,
    OBJECT_BODY,
)
MAKE_DUE = "UPDATE etl_streams SET last_reconciled_at = now() - interval '25 hours'"
# Damage that affects the whole page, or that takes long.
OTHER_KINDS = ("cut", "megabytes", "abyss")


class Histories(RuleBasedStateMachine):
    """A random history of one workflow, with a real API and warehouse on a separate event loop."""

    url = ""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = one_stream()
        self.context = trial(self.url, self.world)
        self.trial = self._do(self.context.__aenter__())

    def teardown(self):
        try:
            self.trial.sandbox.faults.clear()
            modes = ["reconcile", "sync"]
            if self.in_slices and self.world.order != "shuffled":
                self._do(self._reconcile_by_syncs())
                modes.remove("reconcile")
            for mode in modes:
                if self.world.order == "shuffled":  # it cannot be proved that all pages were read
                    self._do(self.trial.run(mode))
                    found = self._do(self.trial.differences())
                    assert [each for each in found if not each.startswith(("missing", "listed although gone"))] == []
                else:
                    self._do(self.trial.agrees(mode))
        finally:
            self._do(self.context.__aexit__(None, None, None))
            self.loop.close()

    def _do(self, work):
        return self.loop.run_until_complete(work)

    async def _reconcile_by_syncs(self):
        """Sync until everything was compared once more."""
        await self.trial.connection.execute(f"{MAKE_DUE}, reconcile_began_at = NULL, reconciled_since = NULL")
        due = "SELECT bool_or(last_reconciled_at < now() - interval '24 hours') IS NOT FALSE FROM etl_streams"
        for _ in range(100):
            await self.trial.run()
            if not await self.trial.connection.fetchval(due):
                return
        pytest.fail("the reconcile does not end")

    def _pick(self, number):
        runs = list(self.world.runs[WORKFLOW])
        return runs[number % len(runs)] if runs else None

    @initialize(
        order=st.sampled_from(ORDERS),
        runs=st.integers(0, 25),
        size=st.integers(1, 9),
        width=st.integers(1, 4),
        apps=st.sampled_from([(), (), (APP, "c")]),
        pages=st.sampled_from([None, 2, 4]),
    )
    def begin(self, order, runs, size, width, apps, pages):
        self.world.order = order
        self.trial.apps = apps
        self.size = size if order != "shuffled" else size + 5
        self.trial.api = {"page_size": self.size, "concurrency": width}
        self.in_slices = pages is not None
        if self.in_slices:
            self.trial.sync = {"reconcile_share": pages / (100_000 * 60)}
        for _ in range(runs):
            self.world.create_run(WORKFLOW)

    @rule(status=st.sampled_from([None, "PENDING", "RUNNING"]), times=st.sampled_from(["exact", "day", "null", "tie"]))
    def create(self, status, times):
        fields = {} if status is None else {"status": status}
        if times == "day":
            fields |= {"created_at": "2026-10-31", "updated_at": "2026-10-31"}
        elif times == "null":
            fields |= {"created_at": None, "updated_at": None}
        elif times == "tie":
            fields |= {"created_at": "2026-11-01T12:00:00Z", "updated_at": "2026-11-01T12:00:00Z"}
        self.world.create_run(WORKFLOW, **fields)

    @rule(number=st.integers(0, 99))
    def finish(self, number):
        open_runs = [key for key, run in self.world.runs[WORKFLOW].items() if run["status"] in ("PENDING", "RUNNING")]
        if open_runs:
            self.world.finish_run(open_runs[number % len(open_runs)])

    @rule(number=st.integers(0, 99), finish=st.booleans())
    def replay(self, number, finish):
        if run_id := self._pick(number):
            self.world.replay_run(run_id, finish=finish)

    @rule(number=st.integers(0, 99), some=st.integers(1, 12))
    def delete(self, number, some):
        for _ in range(some):
            if run_id := self._pick(number):
                self.world.delete_run(run_id)

    @rule(
        number=st.integers(0, 99),
        kind=st.sampled_from([each for each in KINDS if each not in OTHER_KINDS]),
    )
    def spoil(self, number, kind):
        if run_id := self._pick(number):
            raw = self.world.corrupt(run_id, kind)
            if list(self.world.raw.values()).count(raw) > 1:  # it cannot be proved that both of them were read
                del self.world.raw[run_id]

    @rule(number=st.integers(0, 99))
    def hint(self, number):
        if self.world.raw:
            spoilt = sorted(self.world.raw)
            del self.world.raw[spoilt[number % len(spoilt)]]

    @rule(hours=st.integers(1, 5))
    def live(self, hours):
        self.world.advance(timedelta(hours=hours))

    @rule(number=st.integers(0, 99), age=st.sampled_from([-1, 60, 86_400 * 400]))
    def retain(self, number, age):
        if run_id := self._pick(number):
            self.world.set_retention(run_id, age)

    @rule(
        mode=st.sampled_from(["sync", "sync", "backfill", "reconcile"]),
        drift=st.sampled_from([None, None, "create", "delete", "swap", "flicker", "mixture"]),
        faults=st.lists(st.sampled_from([None, *PASSING]), max_size=4),
        seed=st.integers(0, 9),
    )
    def run(self, mode, drift, faults, seed):
        switches = self.trial.sandbox.faults
        switches.queue(*faults)
        if drift is not None:
            switches.before_response = Stir(self.world, drift, times=6, seed=seed)
        summary = self._do(self.trial.run(mode))
        switches.clear()
        assert summary.status in ("succeeded", "partial"), summary
        if drift is None and mode != "sync" and summary.status == "succeeded":
            assert self._do(self.trial.differences()) == []

    @rule()
    def due(self):
        self._do(self.trial.connection.execute(MAKE_DUE))

    @rule()
    def window(self):
        summary = self._do(self.trial.run("backfill", since=self.world.now - timedelta(hours=10), until=self.world.now))
        assert summary.status == "succeeded" or self.world.order == "shuffled", summary


@pytest.mark.parametrize("share", [1, 2])
@pytest.mark.timeout(300)
def test_random_histories_end_equal_to_the_api(database_url, share, monkeypatch):
    monkeypatch.setattr(Histories, "url", database_url)
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=int(os.environ.get("CORTEX_TEST_HISTORIES", "10")),
            stateful_step_count=12,
            deadline=None,
            phases=(Phase.generate,),  # shrinking a failure takes minutes, so its steps are printed unchanged
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
