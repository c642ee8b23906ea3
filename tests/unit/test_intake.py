"""A commit that is in hand when all is called off."""

import asyncio
import gc

import pytest

from etl.sync.intake import finish_in_hand


@pytest.mark.parametrize("fails", [False, True])
async def test_a_commit_in_hand_is_waited_for_and_its_failure_writes_nothing_to_stderr(fails) -> None:
    unheard, ended, release = [], [], asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context["message"]))

    async def commit() -> None:
        await release.wait()
        ended.append(True)
        if fails:
            raise OSError("the connection is closed")

    task = asyncio.create_task(finish_in_hand(commit()))
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
