"""A small HTTP server on loopback."""

from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def serving(method, path, handler):
    """Serve one route; yield the server's URL."""
    application = web.Application()
    application.router.add_route(method, path, handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
