"""Cancellation during a commit."""

import asyncio
import gc

import pytest

from etl.db.liveness import finish_commit


@pytest.mark.parametrize("fails", [False, True])
async def test_running_commit_is_awaited_on_cancellation(fails) -> None:
    unheard, ended, release = [], [], asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context["message"]))

    async def commit() -> None:
        await release.wait()
        ended.append(True)
        if fails:
            raise OSError("the connection is closed")

    task = asyncio.create_task(finish_commit(commit()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    gc.collect()
    await asyncio.sleep(0)
    assert ended
    assert unheard == []
