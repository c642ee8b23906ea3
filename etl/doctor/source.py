"""Check the API: address, key, apps, workflows, clock."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from etl.api.client import CortexClient
from etl.api.rate_limit import LocalLimiter, SharedLimiter
from etl.api.retry import RateLimitedError, RetryPolicy
from etl.config.network import missing_certificates
from etl.db.budget import Budget
from etl.db.connect import create_pool
from etl.doctor.checks import Check, failed, ok, warning
from etl.errors import TRY_LATER, DatabaseError, EtlError, KeyRefusedError, NotFoundError, SettingsError
from etl.events import RequestSent
from etl.text import counted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from etl.api.pages import Page
    from etl.api.rate_limit import Limiter
    from etl.config import AppSettings, Settings
    from etl.events import Event, Listener

_TIMEOUT_S = 10
_LONGEST_PAUSE_S = 60  # the user is waiting
_POLICY = RetryPolicy(attempts=3, rate_limit_timeout_s=_LONGEST_PAUSE_S, longest_wait_s=_LONGEST_PAUSE_S)
_MAX_SKEW_S = 60  # with a larger skew, times are misleading, and `sync.lookback` may be too short


async def examine_source(settings: Settings, listener: Listener, database_url: str | None) -> AsyncGenerator[Check]:
    """Yield the checks of the API, in order of their dependencies.

    Args:
        settings: the settings of a sync.
        listener: receives events about requests.
        database_url: URL of the warehouse, whose request budget is used; None if it cannot be reached.
    """
    if not settings.apps:
        yield failed("apps", "none is set", "Name at least one under `apps:` in the settings.", 2)
        return
    try:
        proxy = settings.api_network.proxy_for(settings.api.base_url)
        settings.api_network.tls()
    except SettingsError as error:
        yield failed("network", error.message, error.hint, error.exit_code)
        return
    if missing := missing_certificates():
        yield warning("network", missing, "Correct or unset it; unset, the certificates of the system are used.")
    if proxy is not None:
        yield ok("proxy", f"{proxy.shown}, named by {proxy.place}")
    async with _open_limiter(settings, database_url) as (limiter, pause_s):
        if pause_s > 2 * _LONGEST_PAUSE_S:  # more than a used up budget takes
            found = f"the API asked for a pause, of which {pause_s / 60:.0f} minutes are left"
            yield warning("rate", found, "The API is not checked before that, and syncs wait for it, too.")
            return
        async with aclosing(_apps(settings, limiter, listener)) as checks:
            async for check in checks:
                yield check


async def _apps(settings: Settings, limiter: Limiter, listener: Listener) -> AsyncGenerator[Check]:
    """Yield the checks of the apps, until one shows that those of the others would fail too."""
    has_answered = False
    failures = set[Check]()
    for app in settings.apps:
        requests = _LastRequest(listener)
        try:
            async with _client(settings, app, limiter, requests) as client:
                page = await client.list_workflows(app.id, 1, 1)
                if not has_answered:
                    has_answered = True
                    yield ok("api", f"{settings.api.base_url} answers in {requests.seconds * 1000:.0f} ms")
                    yield _clock(page, requests.seconds)
                yield _app(app, page)
                async with aclosing(_workflows(client, app)) as checks:
                    async for check in checks:
                        yield check
        except EtlError as error:
            failure = _failure(app, error, requests.status)
            if failure not in failures:  # apps may lack the same key
                yield failure
            failures.add(failure)
            is_silent = requests.is_sent and requests.status is None
            if is_silent or isinstance(error, (DatabaseError, RateLimitedError)):
                return


class _LastRequest:
    """A listener that records whether a request was sent, and status (None: no response) and duration of the last."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.is_sent = False
        self.status: int | None = None
        self.seconds = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, RequestSent):
            self.is_sent, self.status, self.seconds = True, event.status, event.seconds
        self._listener(event)


def _client(settings: Settings, app: AppSettings, limiter: Limiter, listener: Listener) -> CortexClient:
    api = settings.api.model_copy(update={"timeout_s": min(_TIMEOUT_S, settings.api.timeout_s)})
    key = settings.require_key(app)
    return CortexClient(api, key, limiter, listener, policy=_POLICY, network=settings.api_network)


@asynccontextmanager
async def _open_limiter(settings: Settings, database_url: str | None) -> AsyncIterator[tuple[Limiter, float]]:
    """Open the shared request budget of the warehouse; if it is unusable, limit only the requests of this process.

    Also yield the seconds for which the budget grants no request.
    """
    api = settings.api
    limiter: Limiter = LocalLimiter(api.requests_per_minute)
    pause_s = 0.0
    async with AsyncExitStack() as stack:
        try:
            if database_url is not None:
                schema = settings.database.schema_name
                pool = await create_pool(
                    database_url, schema, size=1, application_name="cortex-etl budget", timeout_s=_TIMEOUT_S
                )
                stack.callback(pool.terminate)
                budget = Budget(pool, api.host, api.requests_per_minute, egress=api.egress, retry_for_s=0)
                pause_s = (await budget.lease(0, 0.0)).wait_s  # fails if the schema or a privilege is missing
                limiter = SharedLimiter(budget)
        except DatabaseError:
            pass  # the database checks report the error
        yield limiter, pause_s


def _app(app: AppSettings, page: Page) -> Check:
    """Return the check of an app, from a page of its workflows."""
    listed = "workflows" if page.count is None else counted(page.count, "workflow")
    found = f"{app.id}: the key is accepted; the API lists {listed}"
    return warning("app", found, "Check the app's id.") if page.count == 0 else ok("app", found)


def _clock(page: Page, seconds: float) -> Check:
    if page.server_time is None:
        return warning(
            "clock", "the API's answer has no Date header", "Nothing to do if this machine's clock is right."
        )
    skew = (datetime.now(UTC) - page.server_time).total_seconds() - seconds / 2
    found = f"this machine is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the API"
    if abs(skew) <= _MAX_SKEW_S:
        return ok("clock", found)
    return warning("clock", found, "Set the clock by NTP: timedatectl set-ntp true.")


def _failure(app: AppSettings, error: EtlError, status: int | None) -> Check:
    """Return the failed check for an error of an app; `status` is that of the last response."""
    code = error.exit_code
    if isinstance(error, SettingsError | DatabaseError):
        name = "key" if isinstance(error, SettingsError) else "database"
        return failed(name, error.message, error.hint, code)
    if isinstance(error, KeyRefusedError):
        return failed("key", f"{app.id}: {error.message}", error.hint, code)
    if isinstance(error, NotFoundError):
        return failed("app", f"{app.id}: the API has no such app", "Correct the app's id.", SettingsError.exit_code)
    if status is None:
        return failed("api", error.message, _better(error, "Check the network, proxies and api.base_url."), code)
    if status == 200:
        hint = _better(error, "Check api.base_url: something other than the API answers there.")
        return failed("api", f"{app.id}: {error.message}", hint, code)
    return failed("app", f"{app.id}: {error.message}", error.hint, code)


def _better(error: EtlError, hint: str) -> str:
    """Return the hint of an error, or `hint` if its own only says to wait."""
    return hint if error.hint == TRY_LATER else error.hint


async def _workflows(client: CortexClient, app: AppSettings) -> AsyncGenerator[Check]:
    """Check each workflow that the settings name."""
    for workflow in app.workflows if isinstance(app.workflows, list) else []:
        name = f"{app.id}/{workflow}"
        try:
            document = json.loads(await client.get_workflow(app.id, workflow))
        except NotFoundError:
            hint = f"Remove it from apps[id={app.id}].workflows, or move it to the app that it belongs to."
            yield failed("workflow", f"{name}: the app has no such workflow", hint, SettingsError.exit_code)
        else:
            yield ok("workflow", f"{name}: {document.get('name') or 'found'}")
