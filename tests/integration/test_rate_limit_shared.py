"""The request budget shared by all processes of a warehouse, with a window of seconds."""

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest
from api_clients import busiest, client_of

from etl.api.rate_limit import SharedLimiter
from etl.db.budget import Budget
from etl.db.connect import create_pool
from etl.errors import DatabaseError
from etl.events import RateLimited, RequestSent

HOST = "api.test"
SENDER = Path(__file__).with_name("rate_limit_sender.py")


@asynccontextmanager
async def budget_of(url, limit, *, host=HOST, window_s=60.0, schema="cortex"):
    pool = await create_pool(url, schema, size=1)
    try:
        yield Budget(pool, host, limit, window_s=window_s)
    finally:
        await pool.close()


async def test_three_processes_stay_within_the_limit_and_use_98_percent(database_url):
    limit, window_s, seconds = 120, 8.0, 18.5
    command = [sys.executable, str(SENDER), database_url, str(limit), str(window_s), str(seconds)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    outputs = await asyncio.gather(*(asyncio.to_thread(process.communicate) for process in processes))
    shares = [json.loads(output) for output, _ in outputs]
    sent = sorted(moment for share in shares for moment in share)
    spans = [later - earlier for earlier, later in zip(sent, sent[limit:], strict=False)]
    assert all(share for share in shares)
    assert min(spans) >= window_s
    assert sum(spans) / len(spans) <= window_s / 0.98
    assert sent[limit - 1] - sent[0] < 3  # the whole budget of the first window is available at once


async def test_concurrent_leases_stay_within_the_budget(database_url):
    async with budget_of(database_url, 5) as one, budget_of(database_url, 5) as other:
        leases = [await budget.lease(2, 0.3) for budget in (one, other, one, other)]
    assert [lease.granted for lease in leases] == [2, 2, 1, 0]
    assert leases[0].wait_s == 0
    assert 60 <= leases[3].wait_s <= 61


async def test_each_address_has_a_budget_of_its_own(database_url):
    pool = await create_pool(database_url, "cortex", size=1)
    budgets = [Budget(pool, HOST, 5, egress=name) for name in ("nat-1", "nat-1", "nat-2", None, None)]
    assert [(await budget.lease(4, 0.3)).granted for budget in budgets] == [4, 1, 4, 4, 1]
    await budgets[0].pause(60)
    assert [(await budget.lease(1, 0.3)).granted for budget in budgets] == [0, 0, 1, 0, 0]
    await pool.close()


async def test_late_requests_are_counted_longer(database_url):
    async with budget_of(database_url, 1) as budget:
        await budget.lease(1, 0.3, 3.0)
        assert (await budget.lease(1, 0.3)).wait_s >= 63


async def test_simultaneous_leases_add_up(database_url):
    pool = await create_pool(database_url, "cortex", size=8)
    budget = Budget(pool, HOST, 100)
    leases = await asyncio.gather(*(budget.lease(3, 0.3) for _ in range(60)))
    await pool.close()
    assert sum(lease.granted for lease in leases) == 100


async def test_each_host_has_its_own_budget(database_url):
    async with budget_of(database_url, 1) as one, budget_of(database_url, 1, host="other.test") as other:
        assert (await one.lease(1, 0.3)).granted == 1
        assert (await other.lease(1, 0.3)).granted == 1
        assert (await one.lease(1, 0.3)).granted == 0


async def test_budget_row_stays_small(database_url, warehouse):
    async with budget_of(database_url, 100_000, window_s=0.5) as budget:
        for _ in range(300):
            assert (await budget.lease(1, 0.0025)).granted == 1
    entries, sent = await warehouse.fetchrow(
        "SELECT cardinality(granted_at), (SELECT sum(n) FROM unnest(granted) AS n) FROM etl_rate_budgets"
    )
    assert entries <= 305
    assert entries <= sent <= 300


async def test_clock_set_back_does_not_block_requests(database_url, warehouse):
    async with budget_of(database_url, 2, window_s=1.0) as budget:
        await budget.lease(2, 0.005)
        await warehouse.execute("UPDATE etl_rate_budgets SET granted_at = ARRAY[now() + interval '1 day']")
        assert (await budget.lease(1, 0.005)).wait_s <= 2.1
        await asyncio.sleep(2.1)
        assert (await budget.lease(1, 0.005)).granted == 1


async def test_pause_applies_to_all_processes(database_url):
    async with budget_of(database_url, 100) as one, budget_of(database_url, 100) as other:
        pausing, waiting = SharedLimiter(one), SharedLimiter(other)
        await waiting.acquire()
        await pausing.pause(1)
        await pausing.pause(0.1)  # a shorter pause does not end a longer one
        paused_at = monotonic()
        await asyncio.gather(waiting.acquire(), pausing.acquire())
        assert 0.99 <= monotonic() - paused_at < 3
        assert (await one.lease(1, 0.3)).granted == 1


async def test_pause_of_an_hour_is_kept_and_a_longer_one_is_shortened(database_url, warehouse):
    """It is longer only if the clock was set back: the client asks for an hour at most."""
    async with budget_of(database_url, 100) as budget:
        await budget.pause(3600)
        for _ in range(3):
            assert 3590 < (await budget.lease(1, 0.3)).wait_s <= 3600
        await budget.pause(86_400)
        assert (await budget.lease(1, 0.3)).wait_s > 80_000
        assert (await budget.lease(1, 0.3)).wait_s <= 3600
        await warehouse.execute("UPDATE etl_rate_budgets SET paused_until = now()")
        assert (await budget.lease(1, 0.3)).granted == 1


async def test_one_lease_serves_all_waiting_tasks(database_url):
    async with budget_of(database_url, 1000) as budget:
        counted = Counted(budget)
        limiter = SharedLimiter(counted)
        await asyncio.gather(*(limiter.acquire() for _ in range(50)))
    assert sum(counted.granted) == 50
    assert len(counted.granted) <= 2


async def test_large_budget_can_be_leased_ahead(database_url):
    async with budget_of(database_url, 100_000) as budget:
        counted = Counted(budget)
        limiter = SharedLimiter(counted, ahead=20)
        for _ in range(21):
            await limiter.acquire()
    assert counted.granted == [21]


async def test_expired_lease_is_not_used(database_url):
    async with budget_of(database_url, 1000, window_s=2.0) as budget:
        slow = Counted(budget, delay_s=0.05)
        limiter = SharedLimiter(slow, window_s=2.0)  # tokens are valid for 0.01 s at first
        async with asyncio.timeout(5):
            await limiter.acquire()
    assert len(slow.granted) >= 3
    assert slow.valid_s == sorted(slow.valid_s)


async def test_cancelled_waiter_does_not_block_others(database_url):
    async with budget_of(database_url, 1, window_s=1.0) as budget:
        limiter = SharedLimiter(budget, window_s=1.0)
        await limiter.acquire()
        impatient, patient = asyncio.create_task(limiter.acquire()), asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0.05)
        impatient.cancel()
        async with asyncio.timeout(20):
            await patient


async def test_lost_connection_is_reopened(database_url, warehouse):
    async with budget_of(database_url, 100) as budget:
        await budget.lease(1, 0.3)
        await warehouse.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert (await budget.lease(1, 0.3)).granted == 1


async def test_missing_budget_table_is_reported(empty_database_url):
    async with budget_of(empty_database_url, 100) as budget:
        with pytest.raises(DatabaseError, match="etl_rate_budgets") as caught:
            await SharedLimiter(budget).acquire()
    assert caught.value.hint


async def test_api_with_the_same_limit_never_refuses(sandbox, small_world, database_url):
    api_window_s, limit = 2.0, 40
    window_s = api_window_s + 0.4  # the guard of a window of one minute, for late requests
    server = await sandbox(requests_per_minute=limit, rate_window_s=api_window_s)
    app_id, workflow_id = busiest(small_world)
    events = []
    async with budget_of(database_url, limit, window_s=window_s) as budget:
        limiter = SharedLimiter(budget, window_s=window_s)
        async with client_of(server.url, events.append, limiter=limiter) as client:
            turns = iter(range(100))

            async def work():
                for _ in turns:
                    await client.probe_count(app_id, workflow_id)

            await asyncio.gather(*(work() for _ in range(8)))
    sent = [request.time_monotonic for request in server.requests]
    assert min(later - earlier for earlier, later in zip(sent, sent[limit:], strict=False)) >= api_window_s
    assert {event.status for event in events if isinstance(event, RequestSent)} == {200}
    assert not any(isinstance(event, RateLimited) for event in events)


class Counted:
    """Wraps a ledger: records requests and grants, and responds late."""

    def __init__(self, budget, delay_s=0.0):
        self.budget, self.delay_s = budget, delay_s
        self.granted, self.valid_s = [], []

    async def lease(self, want, valid_s, lag_s=0.0):
        lease = await self.budget.lease(want, valid_s)
        self.granted.append(lease.granted)
        self.valid_s.append(valid_s)
        await asyncio.sleep(self.delay_s)
        return lease

    async def pause(self, seconds):
        await self.budget.pause(seconds)
