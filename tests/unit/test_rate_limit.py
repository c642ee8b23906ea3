"""The rate limiter of one process, with a window of one second."""

import asyncio
import time
from dataclasses import dataclass
from time import monotonic

from etl.api.rate_limit import LocalLimiter, SharedLimiter

WINDOW_S = 1.0
ALLOWED = 40


async def send(limiter: LocalLimiter, requests: int, tasks: int) -> list[float]:
    """Let tasks send as fast as the limiter allows; return the times."""
    sent: list[float] = []
    turns = iter(range(requests))

    async def work() -> None:
        for _ in turns:
            await limiter.acquire()
            sent.append(monotonic())

    await asyncio.gather(*(work() for _ in range(tasks)))
    return sorted(sent)


async def test_no_window_exceeds_the_limit_and_nearly_all_is_used():
    sent = await send(LocalLimiter(ALLOWED, window_s=WINDOW_S), requests=ALLOWED * 3 + 1, tasks=5)
    spans = [later - earlier for earlier, later in zip(sent, sent[ALLOWED:], strict=False)]
    assert min(spans) >= WINDOW_S
    assert sum(spans) / len(spans) <= WINDOW_S / 0.95  # at this scale the event loop's own delays count


async def test_whole_limit_is_available_at_once():
    started_at = monotonic()
    await send(LocalLimiter(ALLOWED), requests=ALLOWED, tasks=3)
    assert monotonic() - started_at < 1


async def test_longest_pause_applies_to_all_tasks():
    limiter = LocalLimiter(1000)
    await limiter.pause(0.4)
    await limiter.pause(0.01)
    started_at = monotonic()
    sent = await send(limiter, requests=6, tasks=3)
    assert sent[0] - started_at >= 0.39


async def test_pause_applies_to_waiting_tasks():
    limiter = LocalLimiter(1, window_s=0.2)
    await limiter.acquire()
    waiting = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0.05)
    await limiter.pause(0.5)
    started_at = monotonic()
    await waiting
    assert monotonic() - started_at >= 0.49


async def test_cancelled_task_takes_nothing_from_others():
    limiter = LocalLimiter(1, window_s=0.3)
    await limiter.acquire()
    impatient = asyncio.create_task(limiter.acquire())
    patient = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0.01)
    impatient.cancel()
    async with asyncio.timeout(2):
        await patient


async def late(limiter):
    """Block the event loop after a request was allowed."""
    await limiter.acquire()
    asyncio.get_running_loop().call_soon(time.sleep, 0)
    time.sleep(0.2)
    await asyncio.sleep(0.01)


async def test_late_request_counts_from_when_it_was_sent():
    limiter = LocalLimiter(2, window_s=1.0)
    await late(limiter)
    limiter._sent.clear()
    started_at = monotonic()
    await send(limiter, requests=3, tasks=1)
    assert monotonic() - started_at >= 1.08  # a window and the lag, which is allowed for up to a twelfth of it


@dataclass
class Granted:
    granted: int
    wait_s: float
    valid_until: float


async def test_budget_is_passed_the_lag_of_the_event_loop():
    told = []

    class Budget:
        async def lease(self, want, valid_s, lag_s=0.0):
            told.append(lag_s)
            return Granted(1, 0.0, monotonic() + 10)

        async def pause(self, seconds):
            raise AssertionError

    limiter = SharedLimiter(Budget())
    await late(limiter)
    await limiter.acquire()
    assert told[0] == 0
    assert told[1] >= 0.2
