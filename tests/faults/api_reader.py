"""Read pages for some time: `python api_reader.py API_URL DATABASE_URL APP WORKFLOW LIMIT WINDOW_S SECONDS`.

All such processes share the budget in the database. Prints the numbers of requests sent and refused.
"""

import asyncio
import sys
from time import monotonic

from pydantic import SecretStr

from etl.api.client import CortexClient
from etl.api.rate_limit import SharedLimiter
from etl.api.retry import RetryPolicy
from etl.config import ApiSettings
from etl.db.budget import Budget
from etl.db.connect import create_pool
from etl.events import RateLimited, RequestSent


async def read(url: str, database_url: str, app_id: str, workflow_id: str, limit: int, window_s: float, seconds: float):
    ends_at = monotonic() + seconds
    events: list[object] = []
    pool = await create_pool(database_url, "cortex", size=1)
    limiter = SharedLimiter(Budget(pool, "api.test", limit, window_s=window_s), window_s=window_s)
    policy = RetryPolicy(first_pause_s=0.01, longest_pause_s=0.02)

    async with CortexClient(
        ApiSettings(base_url=url), SecretStr("sk-sandbox"), limiter, events.append, policy=policy
    ) as client:

        async def work() -> None:
            while monotonic() < ends_at:
                await client.list_runs(app_id, workflow_id, 1, 2)

        await asyncio.wait([asyncio.create_task(work()) for _ in range(3)], timeout=seconds)
    pool.terminate()
    print(sum(isinstance(each, RequestSent) for each in events), sum(isinstance(each, RateLimited) for each in events))


if __name__ == "__main__":
    url, database_url, app_id, workflow_id, limit, *seconds = sys.argv[1:]
    asyncio.run(read(url, database_url, app_id, workflow_id, int(limit), *map(float, seconds)))
