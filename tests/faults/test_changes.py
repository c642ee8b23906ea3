"""Promises 1, 2 and 5: changes are found in time, and newer copies replace older ones."""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from sync_trials import SCHEMA, WORKFLOW, one_stream, trial

from etl.app import status_report
from etl.db.connect import connect
from etl.sandbox.faults import Body, Headers, Status, lists_runs
from etl.sandbox.responses import encode


def asks_for(run_id):
    return lambda request: request.path.endswith(f"/{run_id}")


async def status_of(t, run_id):
    return await t.connection.fetchval("SELECT status FROM runs WHERE id = $1", run_id)


@pytest.mark.parametrize("order", ["created_desc", "updated_desc", "created_asc", "none"])
async def test_sync_loads_new_runs_and_open_runs(database_url, order):
    world = one_stream(30)
    stuck = [world.create_run(WORKFLOW, status="RUNNING")["id"] for _ in range(3)]
    for _ in range(40):
        world.create_run(WORKFLOW)
    world.order = order
    async with trial(database_url, world) as t:
        t.api = {"page_size": 6}
        await t.agrees()
        world.finish_run(stuck[0])
        world.delete_run(stuck[1])
        for _ in range(9):
            world.create_run(WORKFLOW)
        await t.agrees()
        assert await status_of(t, stuck[0]) == world.find(stuck[0])["status"]
        assert await status_of(t, stuck[2]) == "RUNNING"


@pytest.mark.parametrize("order", ["created_desc", "created_asc"])
async def test_runs_a_few_places_out_of_order_are_found_cheaply(database_url, order):
    world = one_stream()
    world.order = order
    start = world.now - timedelta(hours=400)

    def create(hour):
        moment = (start + timedelta(hours=hour)).isoformat()
        return world.create_run(WORKFLOW, created_at=moment, updated_at=moment)["id"]

    for hour in range(300):
        create(hour)
    late: dict[str, int] = {
        world.listing(WORKFLOW)[place]["id"]: shift for place, shift in ((14, 3), (40, 5), (171, 2))
    }
    listing = world.listing

    def with_late_runs(*given):
        """List some runs a few places behind those that were created after them."""
        runs = listing(*given)
        newest_first = runs if order == "created_desc" else runs[::-1]
        for run_id, shift in late.items():
            place = next((place for place, run in enumerate(newest_first) if run["id"] == run_id), None)
            if place is not None:
                newest_first.insert(place + shift, newest_first.pop(place))
        return newest_first if order == "created_desc" else newest_first[::-1]

    world.listing = with_late_runs
    async with trial(database_url, world) as t:
        t.api, t.sync = {"page_size": 50}, {"reconcile_every": 0}
        await t.agrees()
        assert await t.connection.fetchval("SELECT listing_order FROM etl_streams") == order
        assert await t.requests_of() == 1
        for hour in range(300, 316):
            new = create(hour)
            if hour % 5 == 0:
                late[new] = 4
            assert await t.requests_of() == 1
            assert await t.connection.fetchval("SELECT count(*) FROM runs WHERE id = $1", new) == 1


async def test_many_open_runs_are_found_with_the_status_filter(database_url):
    world = one_stream(10)
    opened = [world.create_run(WORKFLOW, status=("PENDING", "RUNNING")[n % 2])["id"] for n in range(24)]
    for _ in range(30):
        world.create_run(WORKFLOW)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 10}
        await t.agrees()
        world.finish_run(opened[0])
        assert await t.requests_of() <= 1 + 2 * 3 + 2
        assert await t.differences() == []


async def test_few_gone_runs_are_found_without_reading_everything(database_url):
    world = one_stream(200)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5}
        everything = await t.requests_of()
        assert everything > 60
        runs = [run["id"] for run in world.listing(WORKFLOW)]
        scattered = Random(1).sample(runs[:150], 70)
        for gone, most in ((runs[-3:], 10), (scattered[:3], 25), (scattered[3:12], 1.05 * everything + 9)):
            for run_id in gone:
                world.delete_run(run_id)
            assert await t.requests_of() <= most
            assert await t.differences() == []


async def test_change_after_equal_times_is_found(database_url):
    world = one_stream(12)
    world.order = "updated_desc"
    runs = list(world.runs[WORKFLOW].values())
    for run in (runs[2], *runs[7:]):
        run["updated_at"] = "2026-11-02T00:00:00.123Z"
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5}
        await t.agrees()
        for run in runs[:2]:  # listed after the six of the same time
            world.replay_run(run["id"], updated_at="2026-11-02T00:00:00.123Z")
        await t.agrees()


async def test_change_with_a_day_without_a_time_is_found(database_url):
    """A change whose time is only a day is listed after the exact times of that day."""
    world = one_stream(12)
    world.order = "updated_desc"
    runs = list(world.runs[WORKFLOW].values())
    for hour, run in enumerate((runs[2], *runs[7:]), 10):
        run["updated_at"] = f"2026-11-02T{hour}:00:00.123Z"
    runs[3]["updated_at"] = "2026-11-02"
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5}
        await t.agrees()
        world.replay_run(runs[4]["id"], updated_at="2026-11-02")
        await t.agrees()


async def test_changed_listing_order_is_detected(database_url):
    world = one_stream(12)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5}
        await t.agrees()
        world.order = "none"
        for _ in range(3):  # each is the first sync with the new order
            world.create_run(WORKFLOW)
            world.delete_run(world.listing(WORKFLOW)[9]["id"])  # so that the count does not change
            await t.connection.execute("UPDATE etl_streams SET listing_order = 'created_desc'")
            await t.agrees()


@pytest.mark.parametrize("filters", [{}, {"origin": "TRIGGER"}], ids=["all", "filtered"])
async def test_open_run_with_a_cleaned_id_is_found_in_the_listing(database_url, filters):
    """The API does not know the id with which the run is stored."""
    world = one_stream(3)
    run = world.create_run(WORKFLOW, id="run\0of old", status="RUNNING", origin="TRIGGER")
    for _ in range(17):
        world.create_run(WORKFLOW, origin="TRIGGER")
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5} | filters
        await t.run()
        assert await t.requests_of() == 2, "the head and the open runs"
        world.finish_run(run["id"], status="COMPLETED")
        assert (await t.run()).runs_updated == 1
        assert await status_of(t, "run\ufffdof old") == "COMPLETED"
        assert await t.requests_of() == 1
        world.delete_run(run["id"])
        assert (await t.run()).runs_gone == 1


async def test_late_changes_of_old_runs_are_found_by_the_due_reconcile(database_url):
    world = one_stream(40)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5}
        await t.agrees()
        world.replay_run(next(iter(world.runs[WORKFLOW])))
        assert await t.requests_of() == 1
        assert len(await t.differences()) == 1
        await t.connection.execute("UPDATE etl_streams SET last_reconciled_at = now() - interval '25 hours'")
        await t.agrees()
        assert await t.requests_of() == 1


@pytest.mark.parametrize("order", ["created_desc", "updated_desc"])
@pytest.mark.parametrize("ahead", [False, True])
async def test_future_timestamps_do_not_disable_the_lookback(database_url, order, ahead):
    world = one_stream(24)
    world.order = order
    if ahead:
        world.create_run(WORKFLOW, created_at="2099-01-01T00:00:00Z", updated_at="2099-01-01T00:00:00Z")
    async with trial(database_url, world) as t:
        t.api, t.sync = {"page_size": 3}, {"lookback": "30d"}
        await t.agrees()
        assert await t.requests_of() == 1
        world.listing(WORKFLOW)[9]["error"] = "told late"
        world.create_run(WORKFLOW)
        await t.agrees()


async def test_sync_finds_late_updates_in_a_listing_by_update(database_url):
    world = one_stream(40)
    world.order = "updated_desc"
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5}
        await t.agrees()
        for run_id in list(world.runs[WORKFLOW])[:8]:
            world.replay_run(run_id)
        await t.agrees()


@pytest.mark.parametrize("times", ["day", "null", "tie", "mixed"])
@pytest.mark.parametrize("order", ["created_desc", "updated_desc", "created_asc"])
async def test_equal_day_only_and_missing_times_lose_nothing(database_url, order, times):
    stamps = {"day": "2026-10-31", "null": None, "tie": "2026-10-31T12:00:00Z"}
    world = one_stream()

    def create(number):
        stamp = stamps[("day", "null", "tie")[number % 3] if times == "mixed" else times]
        world.create_run(WORKFLOW, created_at=stamp, updated_at=stamp)

    for number in range(31):
        create(number)
    world.order = order
    async with trial(database_url, world) as t:
        t.api = {"page_size": 4}
        await t.agrees()
        for number in range(3):
            create(number)
            await t.agrees()
        world.delete_run(world.listing(WORKFLOW)[17]["id"])
        create(0)
        await t.run()
        here = {row["id"] for row in await t.connection.fetch("SELECT id FROM runs")}
        assert set(world.runs[WORKFLOW]) <= here
        await t.agrees("reconcile")


async def test_naive_times_are_utc(database_url):
    world = one_stream(1, created_at="2026-10-31T12:00:00", updated_at="2026-10-31T12:00:00.5")
    async with trial(database_url, world) as t:
        await t.agrees()
        assert (await t.connection.fetchval("SELECT created_at FROM runs")).isoformat() == "2026-10-31T12:00:00+00:00"


@pytest.mark.parametrize(
    ("stored", "arrives", "wins"),
    [
        ("2026-10-31T12:00:00Z", "2026-10-31T11:59:59Z", False),
        ("2026-10-31T12:00:00Z", "2026-10-31T12:00:00Z", True),
        ("2026-10-31T12:00:00Z", "2026-10-31T12:00:00.001Z", True),
        ("2026-10-31", "2026-10-31T23:00:00Z", False),
        ("2026-10-31", "2026-11-01T00:00:00Z", True),
        ("2026-10-31T12:00:00Z", "2026-10-31", True),
        ("2026-11-01T12:00:00Z", "2026-10-31", False),
        ("2026-10-31", "2026-10-31", True),
        ("2026-10-31T12:00:00Z", None, True),
        (None, "2001-01-01T00:00:00Z", True),
        ("2026-10-31T12:00:00Z", "2026-10-31T13:00:00+02:00", False),
        ("2999-01-01T00:00:00Z", "2026-10-31T12:00:00Z", True),
        ("2999-01-01", "2026-10-31T12:00:00Z", True),
        ("2999-01-02T00:00:00Z", "2999-01-01T00:00:00Z", True),
        ("2026-10-31T12:00:00Z", "2999-01-01T00:00:00Z", True),
    ],
)
async def test_newer_copy_wins(database_url, stored, arrives, wins):
    """The listing has another copy, but the API returns the stored copy for the run itself."""
    world = one_stream(1, updated_at=stored, status="FAILED")
    (run_id,) = world.runs[WORKFLOW]
    async with trial(database_url, world) as t:
        await t.agrees()
        t.sandbox.faults.on(asks_for(run_id), Body(encode(world.find(run_id))))
        world.runs[WORKFLOW][run_id] |= {"updated_at": arrives, "status": "COMPLETED"}
        assert (await t.run("reconcile")).status == "succeeded"
        assert await status_of(t, run_id) == ("COMPLETED" if wins else "FAILED")
        steps = await t.connection.fetchval("SELECT count(*) FROM run_steps")
        await t.run("reconcile")
        assert await t.connection.fetchval("SELECT count(*) FROM run_steps") == steps


@pytest.mark.parametrize("answer", ["as listed", "as stored", Status(404), Status(500), Body(b"null")])
async def test_look_up_decides_whether_an_older_copy_replaces_a_run(database_url, answer):
    world = one_stream(20)
    run_id = world.listing(WORKFLOW)[7]["id"]
    older = dict(world.find(run_id))
    world.replay_run(run_id, finish=True)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 30}
        await t.agrees()
        stored = await t.connection.fetchrow("SELECT * FROM runs WHERE id = $1", run_id)
        if answer == "as stored":
            answer = Body(encode(world.find(run_id)))
        if answer != "as listed":
            t.sandbox.faults.on(asks_for(run_id), answer)
        world.runs[WORKFLOW][run_id] = older
        summary = await t.run("reconcile")
        if answer == "as listed":
            assert (summary.status, summary.runs_updated, summary.runs_unchanged) == ("succeeded", 1, 19)
            assert await t.differences() == []
        else:
            is_answered = isinstance(answer, Body) and answer != Body(b"null")
            assert (summary.status, summary.exit_code) == (("succeeded", 0) if is_answered else ("partial", 1))
            assert is_answered or run_id in summary.error
            assert await t.connection.fetchrow("SELECT * FROM runs WHERE id = $1", run_id) == stored


@pytest.mark.parametrize("mode", ["sync", "reconcile"])
async def test_runs_of_an_api_restored_from_a_backup_are_updated(database_url, mode):
    world = one_stream(60)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 20, "requests_per_minute": 100_000}
        before = {run_id: dict(run) for run_id, run in world.runs[WORKFLOW].items()}
        for run in world.listing(WORKFLOW)[:30]:
            world.replay_run(run["id"], finish=True)
        await t.agrees()
        world.runs[WORKFLOW] = before
        requests = await t.requests_of(mode)
        assert 30 <= requests <= 30 + 6, "one for each run with an older copy"
        assert await t.differences() == []
        assert await t.requests_of() == 1


async def test_time_far_in_the_future_is_ignored(database_url):
    world = one_stream(12)
    ahead = world.create_run(WORKFLOW, updated_at="2999-01-01T00:00:00Z")["id"]
    version = world.find(ahead)["workflow_version"] | {"description": "as it was"}
    world.runs[WORKFLOW][ahead]["workflow_version"] = version
    async with trial(database_url, world) as t:
        await t.agrees()
        assert await t.connection.fetchval("SELECT watermark <= now() + interval '1 day' FROM etl_streams")
        now = {"workflow_version": version | {"description": "as it is"}, "updated_at": "2026-11-02T00:00:00Z"}
        world.runs[WORKFLOW][ahead] |= now
        assert await t.requests_of("reconcile") == 1, "no look-up"
        assert await t.differences() == []
        described = "SELECT description FROM workflow_versions WHERE id = $1"
        assert await t.connection.fetchval(described, version["id"]) == "as it is"


async def test_older_copy_on_a_later_page_is_ignored(database_url):
    world = one_stream(20)
    newest, oldest = list(world.runs[WORKFLOW])[-1], next(iter(world.runs[WORKFLOW]))
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5, "concurrency": 1}
        old_copy = encode(world.runs[WORKFLOW][newest] | {"status": "SKIPPED", "updated_at": "2026-10-01T00:00:00Z"})
        world.raw[oldest] = old_copy
        await t.run("backfill")
        assert await status_of(t, newest) == world.find(newest)["status"]


async def test_older_copy_of_a_definition_is_ignored(database_url):
    world = one_stream(9)
    newest, oldest = list(world.runs[WORKFLOW])[-1], next(iter(world.runs[WORKFLOW]))
    version = {
        "id": "v",
        "app_id": "app_1",
        "workflow_id": WORKFLOW,
        "version": 1,
        "key": "k",
        "input": {},
        "steps": [],
    }
    world.runs[WORKFLOW][newest]["workflow_version"] = version | {"description": "as it is"}
    world.runs[WORKFLOW][oldest]["workflow_version"] = version | {"description": "as it was"}
    async with trial(database_url, world) as t:
        for page_size in (3, 100):
            t.api = {"page_size": page_size, "concurrency": 1}
            await t.run("backfill")
            described = await t.connection.fetchval("SELECT description FROM workflow_versions WHERE id = 'v'")
            assert described == "as it is"
            await t.connection.execute("TRUNCATE runs, workflow_versions, etl_streams CASCADE")


async def test_run_that_is_gone_and_listed_again(database_url):
    world = one_stream(12)
    run_id = list(world.runs[WORKFLOW])[4]
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5}
        await t.agrees()
        document = world.runs[WORKFLOW].pop(run_id)
        await t.agrees()
        assert await t.connection.fetchval("SELECT gone_at FROM runs WHERE id = $1", run_id) is not None
        assert await t.connection.fetchval("SELECT count(*) FROM open_runs WHERE run_id = $1", run_id) == 0
        world.runs[WORKFLOW][run_id] = document
        summary = await t.agrees()
        assert await t.connection.fetchval("SELECT gone_at FROM runs WHERE id = $1", run_id) is None
        assert (summary.runs_updated, summary.runs_unchanged) == (1, summary.runs_seen - 1)


@pytest.mark.parametrize("answer", [Status(500), Body(b"null"), Body(b"[]"), "another run"])
async def test_open_run_that_cannot_be_looked_up_is_found_in_the_listing(database_url, answer):
    world = one_stream()
    open_run = world.create_run(WORKFLOW, status="RUNNING")["id"]
    others = [world.create_run(WORKFLOW)["id"] for _ in range(29)]
    async with trial(database_url, world) as t:
        t.api = {"page_size": 10}
        t.sync = {"reconcile_every": 0}
        await t.agrees()
        world.finish_run(open_run)
        other = Body(encode(world.find(others[0]))) if answer == "another run" else answer
        t.sandbox.faults.on(lambda request: request.path.endswith(open_run), other)
        await t.agrees()
        assert await status_of(t, open_run) not in {"RUNNING", "PENDING"}


async def test_open_run_that_cannot_be_found_is_not_green(database_url):
    world = one_stream(5)
    open_run = world.create_run(WORKFLOW, status="RUNNING")["id"]
    async with trial(database_url, world) as t:
        t.api = {"status": "RUNNING"}
        await t.run()
        world.finish_run(open_run)
        t.sandbox.faults.on(lambda request: request.path.endswith(open_run), Status(500))
        summary = await t.run()
        assert (summary.status, summary.exit_code) == ("partial", 1)
        assert open_run in summary.error
        t.sandbox.faults.clear()
        assert (await t.run()).status == "succeeded"
        assert await status_of(t, open_run) not in {"RUNNING", "PENDING"}


@pytest.mark.parametrize("hours", [0, 3], ids=["in the order of creation", "out of it"])
async def test_window_loads_the_runs_created_in_it(database_url, hours):
    """Runs change in the order of their creation, or not: then the listing is certainly sorted by creation."""
    for order in ("created_desc", "created_asc", "updated_desc", "none"):
        world = one_stream()
        start = world.now
        for number in range(60):
            moment = start - timedelta(hours=60 - number)
            updated = moment + timedelta(hours=hours * (number % 2))
            world.create_run(WORKFLOW, created_at=moment.isoformat(), updated_at=updated.isoformat())
        world.order = order
        async with trial(database_url, world) as t:
            t.api = {"page_size": 3}
            summary = await t.run("backfill", since=start - timedelta(hours=30), until=start - timedelta(hours=10))
            assert summary.status == "succeeded"
            assert await t.connection.fetchval("SELECT count(*) FROM runs") == 20
            for oldest, newest in ((62, 58), (2, 0)):  # at both ends, so that few runs are read
                window = {"since": start - timedelta(hours=oldest), "until": start - timedelta(hours=newest)}
                summary = await t.run("backfill", **window)
                assert (summary.status, summary.runs_inserted) == ("succeeded", 2), summary.error
            await t.agrees("backfill")


async def test_window_of_a_complete_stream_leaves_it_complete(database_url):
    world = one_stream(20)
    async with trial(database_url, world) as t:
        await t.agrees()
        run = world.create_run(WORKFLOW)
        summary = await t.run("backfill", since=datetime.fromisoformat(run["created_at"]))
        assert (summary.status, summary.runs_inserted, summary.streams[0].api_count) == ("succeeded", 1, None)
        health = await t.connection.fetchrow("SELECT state, api_count, watermark FROM sync_health")
        assert tuple(health)[:2] == ("complete", 21)
        gone = world.listing(WORKFLOW)[-1]["id"]
        world.delete_run(gone)
        await t.run("backfill", since=datetime.fromisoformat(run["created_at"]))
        blocker = "the API counts 20 runs, the warehouse has 21"
        assert await t.connection.fetchval("SELECT blocker FROM sync_health") == blocker
        await t.agrees()


@pytest.mark.parametrize(
    ("window", "replayed"),
    [
        ((120, None), {50: 181.6, 40: 181.5}),  # at the end of the first page, which seems to be sorted by creation
        ((120, 160), {50: 181.6, 40: 181.5}),
        ((None, 80), {60: 150.5}),  # on a page that bisection does not read
        ((40, 80), {60: 150.5}),
    ],
)
async def test_window_of_a_listing_sorted_by_change_misses_no_run(database_url, window, replayed):
    world = one_stream()
    world.order = "updated_desc"
    start = world.now - timedelta(hours=200)
    for number in range(200):
        moment = start + timedelta(hours=number)
        updated = start + timedelta(hours=replayed.get(number, number))
        world.create_run(WORKFLOW, created_at=moment.isoformat(), updated_at=updated.isoformat())
    runs = list(world.runs[WORKFLOW])
    bounds = [None if hour is None else start + timedelta(hours=hour) for hour in window]
    async with trial(database_url, world) as t:
        t.api = {"page_size": 20, "concurrency": 1}
        summary = await t.run("backfill", since=bounds[0], until=bounds[1])
        assert summary.status == "succeeded"
        rows = await t.connection.fetch("SELECT id FROM runs")
        assert {row["id"] for row in rows} == set(runs[window[0] or 0 : window[1]])


WINDOWS = ((0, 200), (0, 20), (20, 40), (95, 110), (150, 199), (1, 199), (180, 200), (100, None), (None, 100))


@pytest.mark.parametrize(
    ("order", "window"),
    [*(("created_desc", window) for window in WINDOWS), *(("created_asc", window) for window in WINDOWS[1:5])],
)
async def test_window_costs_no_more_than_everything_and_its_totals_add_up(database_url, order, window):
    world = one_stream()
    world.order = order
    start = world.now - timedelta(hours=200)
    for number in range(200):
        world.create_run(WORKFLOW, created_at=(start + timedelta(hours=number)).isoformat())
    runs = list(world.runs[WORKFLOW])
    bounds = [None if hour is None else start + timedelta(hours=hour) for hour in window]
    inside = set(runs[window[0] or 0 : window[1]])
    gone = {runs[place] for place in (5, 30, 99, 101, 160, 185)}
    async with trial(database_url, world) as t:
        t.api = {"page_size": 13, "concurrency": 4}
        everything = await t.requests_of("backfill")
        watermark = await t.connection.fetchval("SELECT watermark FROM etl_streams")
        for run_id in gone:
            world.delete_run(run_id)
        world.create_run(WORKFLOW)
        summary = await t.run("backfill", since=bounds[0], until=bounds[1])
        assert summary.status == "succeeded"
        assert summary.requests <= everything + len(gone & inside), "each gone run is looked up"
        rows = await t.connection.fetch("SELECT id FROM runs WHERE gone_at IS NOT NULL")
        assert {row["id"] for row in rows} == gone & inside
        ledger = await t.connection.fetchrow("SELECT * FROM etl_syncs ORDER BY id DESC LIMIT 1")
        parts = [ledger[name] for name in ("runs_inserted", "runs_updated", "runs_unchanged", "rejects")]
        new = window[1] is None
        assert (ledger["runs_seen"], sum(parts)) == (len(inside - gone) + new, len(inside - gone) + new)
        assert summary.streams[0].api_count is None
        state = await t.connection.fetchrow("SELECT watermark, backfill_done FROM etl_streams")
        assert tuple(state) == (watermark, True)


async def test_run_out_of_order_at_the_end_of_a_page_does_not_end_a_window_early(database_url):
    world = one_stream()
    start = world.now - timedelta(hours=200)
    for number in range(200):
        moment = start + timedelta(hours=number)
        updated = moment + timedelta(hours=3 * (number % 2))
        world.create_run(WORKFLOW, created_at=moment.isoformat(), updated_at=updated.isoformat())
    in_order = world.listing(WORKFLOW)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 50, "concurrency": 1}
        for place in (*range(46, 53), *range(93, 101)):
            world.listing = lambda *_, at=place: [
                *in_order[:at],
                in_order[at + 3],
                *in_order[at : at + 3],
                *in_order[at + 4 :],
            ]
            summary = await t.run("backfill", since=datetime.fromisoformat(in_order[place + 2]["created_at"]))
            assert summary.status == "succeeded"
            assert await t.connection.fetchval("SELECT count(*) FROM runs") == place + 3


async def test_pages_above_a_window_are_not_read(database_url):
    world = one_stream()
    start = world.now
    for number in range(200):
        moment = start - timedelta(hours=200 - number)
        updated = moment + timedelta(hours=3 * (number % 2))  # runs overlap, so that no order by change fits
        world.create_run(WORKFLOW, created_at=moment.isoformat(), updated_at=updated.isoformat())
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5, "concurrency": 1}
        window = {"since": start - timedelta(hours=180), "until": start - timedelta(hours=170)}
        assert await t.requests_of("backfill", **window) < 15, "of 40 pages"
        assert await t.connection.fetchval("SELECT count(*) FROM runs") == 10


async def test_dry_run_writes_nothing(database_url):
    world = one_stream(20)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5}
        summary = await t.run("sync", dry_run=True)
        assert (summary.status, summary.runs_inserted) == ("succeeded", 20)
        tables = ("runs", "run_steps", "etl_syncs", "etl_streams", "etl_rejects", "workflow_versions", "workflows")
        for table in tables:
            assert await t.connection.fetchval(f"SELECT count(*) FROM {table}") == 0
        await t.agrees()
        world.create_run(WORKFLOW)
        assert (await t.run("sync", dry_run=True)).runs_inserted == 1
        assert await t.connection.fetchval("SELECT count(*) FROM etl_syncs") == 1


async def test_dry_run_counts_gone_runs_once(database_url):
    world = one_stream(60)
    opened = [world.create_run(WORKFLOW, status="RUNNING")["id"] for _ in range(2)]
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5}
        await t.agrees()
        for run_id in (list(world.runs[WORKFLOW])[3], opened[0]):
            world.delete_run(run_id)
        for mode in ("reconcile", "backfill"):
            assert (await t.run(mode, dry_run=True)).runs_gone == 2, mode
        window = {"since": datetime(2000, 1, 1, tzinfo=UTC)}
        assert (await t.run("backfill", dry_run=True, **window)).runs_gone == 2
        assert (await t.run("reconcile")).runs_gone == 2


@pytest.mark.parametrize("filters", [{"status": "COMPLETED"}, {"status": "RUNNING"}, {"origin": "TEST"}])
async def test_counts_are_compared_within_the_filter(database_url, filters):
    world = one_stream(20)
    for status in ("FAILED", "RUNNING", "COMPLETED"):
        for origin in ("TEST", "WEBHOOK"):
            world.create_run(WORKFLOW, status=status, origin=origin)
    async with trial(database_url, world) as t:
        t.api = {"page_size": 5} | filters
        assert (await t.run()).status == "succeeded"
        for run in list(world.runs[WORKFLOW].values()):
            if run["status"] == "RUNNING":
                world.finish_run(run["id"])
        world.create_run(WORKFLOW, status="RUNNING", origin="TEST")
        assert (await t.run()).status == "succeeded"
        reconciled = await t.run("reconcile")
        assert reconciled.status == "succeeded"
        (stream,) = (await status_report(t.settings)).streams
        counts = (reconciled.streams[0].api_count, reconciled.streams[0].warehouse_count)
        assert (stream["state"], stream["api_count"], stream["warehouse_count"]) == ("complete", *counts)
        (health,) = await t.connection.fetch("SELECT api_count, warehouse_count, accounted_for FROM sync_health")
        assert tuple(health) == (counts[0], counts[1], counts[0])
        t.api = {"page_size": 5}
        await t.agrees("reconcile")
        assert await t.connection.fetchval("SELECT warehouse_count FROM sync_health") == len(world.runs[WORKFLOW])


async def test_bad_run_that_does_not_pass_the_filter_is_not_counted(database_url):
    world = one_stream(6)
    opened = [world.create_run(WORKFLOW, status="RUNNING")["id"] for _ in range(12)]
    world.raw[opened[-1]] = encode(world.runs[WORKFLOW][opened[-1]] | {"updated_at": "not a date"})
    async with trial(database_url, world) as t:
        assert (await t.run()).rejects == 1
        t.api = {"status": "COMPLETED"}
        for mode in ("reconcile", "reconcile", "sync", "backfill"):
            summary = await t.run(mode)
            assert (summary.status, summary.rejects) == ("succeeded", 0), summary.error


async def test_run_stays_readable_while_it_is_replaced(database_url):
    """Other connections see either the old or the new state of a run, with its steps."""
    world = one_stream(8)
    async with trial(database_url, world) as t:
        await t.agrees()
        other = await connect(t.url, SCHEMA)
        async with other.transaction(isolation="repeatable_read"):
            before = await other.fetch("SELECT run_id, step_key FROM run_steps ORDER BY 1, 2")
            for run_id in world.runs[WORKFLOW]:
                world.replay_run(run_id)
            await t.agrees("reconcile")
            assert await other.fetch("SELECT run_id, step_key FROM run_steps ORDER BY 1, 2") == before
        await other.close()


@pytest.mark.parametrize("mode", ["sync", "reconcile"])
async def test_run_that_is_neither_listed_nor_answered_for_is_not_green_without_counts(database_url, mode):
    world = one_stream(5)
    run_id = world.create_run(WORKFLOW, status="RUNNING")["id"]
    async with trial(database_url, world) as t:
        t.sandbox.faults.on(lists_runs, Headers({"pagination-count": None}))
        await t.agrees()
        listing = world.listing
        world.listing = lambda *given: [run for run in listing(*given) if run["id"] != run_id]
        t.sandbox.faults.on(lambda request: request.path.endswith(run_id), Status(500))
        summary = await t.run(mode)
        assert (summary.status, run_id in summary.error) == ("partial", True)


async def test_hidden_run_that_the_api_still_knows_is_not_marked_gone(database_url):
    """The listing omits the run, but the look-up finds it: the sync reports that the counts differ."""
    world = one_stream(200)
    hidden = world.listing(WORKFLOW)[-2]["id"]
    async with trial(database_url, world) as t:
        t.api = {"page_size": 10}
        await t.agrees()
        listing = world.listing
        world.listing = lambda *given: [run for run in listing(*given) if run["id"] != hidden]
        for mode in ("sync", "reconcile"):
            assert (await t.run(mode)).status == "partial"
            assert await t.connection.fetchval("SELECT count(*) FROM runs WHERE gone_at IS NOT NULL") == 0
