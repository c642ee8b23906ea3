"""A webhook on loopback."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from loopback import serving


@dataclass
class Receiver:
    """An HTTP server that records requests and responds with `status`."""

    url: str = ""
    status: int = 200
    location: str = ""
    got: list[tuple[str, str]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((request.path, await request.text()))
        headers = {"Location": self.location} if self.location else {}
        return web.Response(status=self.status, headers=headers)

    def taken(self) -> list[tuple[str, str]]:
        got, self.got = self.got, []
        return got


@asynccontextmanager
async def receiving():
    receiver = Receiver()
    async with serving("*", "/{path:.*}", receiver.take) as receiver.url:
        yield receiver


@pytest.fixture
async def receiver():
    async with receiving() as running:
        yield running
