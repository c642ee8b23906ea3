"""API clients, one per key, that share one request budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.api.client import CortexClient
from etl.api.rate_limit import LocalLimiter, SharedLimiter
from etl.api.retry import RetryPolicy
from etl.db.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AsyncExitStack

    import asyncpg

    from etl.api.rate_limit import Limiter
    from etl.config import AppSettings, Settings
    from etl.events import Listener


async def open_clients(
    stack: AsyncExitStack,
    settings: Settings,
    apps: Sequence[AppSettings],
    leases: asyncpg.Pool | None,
    listener: Listener,
    policy: RetryPolicy | None = None,
) -> dict[str, CortexClient]:
    """Open a client for each app; apps with the same key share one.

    Args:
        stack: the exit stack that closes the clients.
        apps: the apps.
        leases: connection pool for the request budget; None to limit only the requests of this process.
        listener: receives events about requests.
        policy: the retry policy; None for the default.

    Returns:
        The clients by app id.

    Raises:
        SettingsError: an app has no key.
    """
    limiter = _limiter(settings, leases)
    by_key: dict[str, CortexClient] = {}
    clients: dict[str, CortexClient] = {}
    for app in apps:
        key = settings.require_key(app)
        secret = key.get_secret_value()
        if secret not in by_key:
            by_key[secret] = await stack.enter_async_context(
                CortexClient(
                    settings.api,
                    key,
                    limiter,
                    listener,
                    policy=policy or RetryPolicy(),
                    network=settings.api_network,
                )
            )
        clients[app.id] = by_key[secret]
    return clients


def _limiter(settings: Settings, leases: asyncpg.Pool | None) -> Limiter:
    per_minute = settings.api.requests_per_minute
    if leases is None:
        return LocalLimiter(per_minute)
    return SharedLimiter(
        Budget(leases, settings.api.host, per_minute, egress=settings.api.egress), ahead=per_minute // 2000
    )
