"""Handle SIGINT and SIGTERM: the first signal cancels the command; a second signal or a timeout ends the process."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import contextmanager
from select import select
from threading import Timer
from typing import TYPE_CHECKING, Any, TypeVar

from etl.errors import EXIT_INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

Result = TypeVar("Result")

END_TIMEOUT_S = 9.0
"""How long a cancelled command may take to finish commits and close its connections, in seconds."""

_SHOW_CURSOR = b"\x1b[?25h"


class Signals:
    """Handles the signals of the process, for one command."""

    def __init__(self) -> None:
        self._message = b""
        self._received = 0
        self._is_held = self._is_pending = False
        self._task: asyncio.Task[Any] | None = None

    def handle(self, message: str) -> None:
        """Install the handlers, even if the parent ignored the signals; `message` is written before a forced exit."""
        self._message, self._received = message.encode(), 0
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, self._receive)

    def done(self, code: int) -> None:
        """From now on, let a signal end the process with `code`: only the shutdown of Python remains."""
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, lambda *_: os._exit(code))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delay the first signal until the end of the block, in which an event loop is opened and closed.

        Inside `cancelling`, signals are not delayed.
        """
        self._is_held, self._is_pending = True, False
        try:
            yield
        finally:
            self._is_held = False
        if self._is_pending:
            raise KeyboardInterrupt

    async def cancelling(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Await `work`; the first signal cancels it."""
        task = self._task = asyncio.current_task()
        if self._is_pending and task is not None:
            self._is_pending = False
            task.cancel()
        try:
            return await work
        finally:
            self._task = None

    def _receive(self, _number: int, _frame: object) -> None:
        self._received += 1
        if self._received > 1:
            self._end()
        watchdog = Timer(END_TIMEOUT_S, self._end)
        watchdog.daemon = True
        watchdog.start()
        if self._task is not None:
            self._task.cancel()
            self._task.get_loop().call_soon_threadsafe(lambda: None)  # wakes the loop
        elif self._is_held:
            self._is_pending = True
        else:
            raise KeyboardInterrupt

    def _end(self) -> None:
        """Exit immediately, without waiting for other threads or their locks."""
        message = _SHOW_CURSOR + self._message if os.isatty(2) else self._message
        if select([], [2], [], 0)[1]:  # if stderr is a full pipe, writing would block
            os.write(2, message)
        os._exit(EXIT_INTERRUPTED)


SIGNALS = Signals()
"""The signal handlers of this process."""
