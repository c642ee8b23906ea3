"""Send as fast as the shared budget allows: `python rate_limit_sender.py URL LIMIT WINDOW_S SECONDS`.

Print the times of all sends (`time.monotonic`, which is shared by all processes) as JSON.
"""

import asyncio
import json
import sys
from time import monotonic

from etl.api.rate_limit import SharedLimiter
from etl.db.budget import Budget
from etl.db.connect import create_pool

TASKS = 4
PAUSE_S = 0.01  # duration of one request


async def send(url: str, limit: int, window_s: float, seconds: float) -> list[float]:
    sent: list[float] = []
    ends_at = monotonic() + seconds
    pool = await create_pool(url, "cortex", size=1)
    limiter = SharedLimiter(Budget(pool, "api.test", limit, window_s=window_s), window_s=window_s)

    async def work() -> None:
        while monotonic() < ends_at:
            await limiter.acquire()
            sent.append(monotonic())
            await asyncio.sleep(PAUSE_S)

    await asyncio.wait([asyncio.create_task(work()) for _ in range(TASKS)], timeout=seconds + 1)
    pool.terminate()
    return sent


if __name__ == "__main__":
    print(json.dumps(asyncio.run(send(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))))
