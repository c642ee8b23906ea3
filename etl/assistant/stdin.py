"""Read lines from stdin asynchronously, without delaying the end of the process."""

from __future__ import annotations

import asyncio
import os
import threading

_CHUNK = 65536  # bytes


class StdinLines:
    """An asynchronous iterator over the lines of stdin. A daemon thread reads them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue(1)
        threading.Thread(target=self._read, daemon=True).start()

    def __aiter__(self) -> StdinLines:
        """Return itself; the lines can be read only once."""
        return self

    async def __anext__(self) -> str:
        """Return the next line."""
        line = await self._lines.get()
        if line is None:
            raise StopAsyncIteration
        return line

    def _read(self) -> None:
        try:
            rest = b""
            while chunk := os.read(0, _CHUNK):  # not sys.stdin, whose lock the interpreter needs at exit
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._put(line.decode(errors="replace"))
            self._put(None)
        except RuntimeError:
            pass  # the loop is closed

    def _put(self, line: str | None) -> None:
        asyncio.run_coroutine_threadsafe(self._lines.put(line), self._loop).result()
