"""What this project asks of the Cortex API: within the rate limit, and again where that helps."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import quote

import stamina

from etl.api.pages import Page, read_document, read_page
from etl.api.refusals import refusal
from etl.api.retry import Action, RetryPolicy, Tries, action_for, retry_after_s
from etl.api.transport import MAX_RESPONSE_BYTES, Answer, Sending, Transport
from etl.errors import EtlError, FatalError
from etl.events import Listener, RateLimited, RequestRetried, RequestSent, ignore

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from pydantic import SecretStr

    from etl.api.rate_limit import Limiter
    from etl.config import ApiSettings

_T = TypeVar("_T")
_DEFAULT_POLICY = RetryPolicy()


class CortexClient:
    """Reads workflows and runs; an async context manager around one HTTP session.

    Every request, each retry too, passes the limiter first. Any number of tasks may use one client. All methods raise:

        TransientError: the attempts are used up.
        FatalError: asking again would not help.
        NotFoundError: the API says that it does not exist.
        KeyRefusedError: the API refused the key.
        DatabaseError: the limiter's ledger cannot be used.
    """

    def __init__(
        self,
        settings: ApiSettings,
        key: SecretStr,
        limiter: Limiter,
        listener: Listener = ignore,
        *,
        policy: RetryPolicy = _DEFAULT_POLICY,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self._settings = settings
        self._key = key
        self._limiter = limiter
        self._listener = listener
        self._policy = policy
        self._max_response_bytes = max_response_bytes
        self._transport: Transport | None = None

    async def __aenter__(self) -> Self:
        self._transport = Transport(
            f"Bearer {self._key.get_secret_value()}",
            timeout_s=self._settings.timeout_s,
            max_response_bytes=self._max_response_bytes,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    async def list_runs(
        self,
        app_id: str,
        workflow_id: str,
        page: int,
        take: int,
        *,
        status: str = "ALL",
        origin: str = "ALL",
        next_token: str | None = None,
    ) -> Page:
        """Read one page of a workflow's runs; `page` counts from 1, `next_token` is the one of the page before."""
        query: dict[str, str | int] = {"page": page, "take": take, "status": status, "origin": origin}
        return await self._page(_path(app_id, "workflows", workflow_id, "runs"), self._verbose(query), next_token)

    async def probe_count(
        self, app_id: str, workflow_id: str, *, take: int = 1, status: str = "ALL", origin: str = "ALL"
    ) -> Page:
        """Read the first `take` runs only: `count` of the page tells how many runs match."""
        return await self.list_runs(app_id, workflow_id, 1, take, status=status, origin=origin)

    async def get_run(self, app_id: str, workflow_id: str, run_id: str) -> bytes:
        """Read one run as the bytes of its JSON document."""
        path = _path(app_id, "workflows", workflow_id, "runs", run_id)
        return await self._get(path, self._verbose({}), lambda answer, _: read_document(answer))

    async def list_workflows(self, app_id: str, page: int, take: int, *, next_token: str | None = None) -> Page:
        """Read one page of an app's workflows; `page` counts from 1."""
        return await self._page(_path(app_id, "workflows"), {"page": page, "take": take}, next_token)

    async def get_workflow(self, app_id: str, workflow_id: str) -> bytes:
        """Read one workflow as the bytes of its JSON document."""
        return await self._get(_path(app_id, "workflows", workflow_id), {}, lambda answer, _: read_document(answer))

    def _verbose(self, query: dict[str, str | int]) -> dict[str, str | int]:
        return {**query, "verbose": "all"} if self._settings.verbose else query

    async def _page(self, path: str, query: dict[str, str | int], next_token: str | None) -> Page:
        number, take = int(query["page"]), int(query["take"])
        if next_token is not None:
            query = {**query, "next": next_token}
        return await self._get(path, query, lambda answer, url: read_page(answer, url, number, take))

    async def _get(self, path: str, query: dict[str, str | int], read: Callable[[Answer, str], _T]) -> _T:
        """Ask until `read` takes the answer's body, the attempts are used up, or asking again would not help."""
        url = f"{self._settings.base_url}{path}{_query(query)}"
        tries = Tries(self._policy, lambda n, reason, wait_s: self._listener(RequestRetried(path, n, reason, wait_s)))
        async for attempt in stamina.retry_context(tries, attempts=None, timeout=None):
            with attempt:
                try:
                    return read(await self._used(url, path, tries), url)
                except EtlError as error:
                    self._hide_key(error)
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _used(self, url: str, path: str, tries: Tries) -> Answer:
        """Send until the answer is no 429; give it when its status is a success."""
        while True:
            await self._limiter.acquire()
            answer = await self._send(url, path)
            action = action_for(answer.status)
            if action is Action.USE:
                return answer
            asked_s = retry_after_s(answer.headers.get("Retry-After"), answer.headers.get("Date"), datetime.now(UTC))
            if action is not Action.SLOW_DOWN:
                if asked_s is not None:
                    await self._pause_all(self._policy.obeyed_s(asked_s, 1, 0), path)
                raise refusal(answer, action, path, asked_s)
            pause_s = tries.rate_limited(asked_s)
            if pause_s is None:
                raise refusal(answer, Action.FAIL, path, asked_s)
            await self._pause_all(pause_s, path)

    async def _pause_all(self, seconds: float, path: str) -> None:
        self._listener(RateLimited(seconds, path))
        await self._limiter.pause(seconds)

    async def _send(self, url: str, path: str) -> Answer:
        """Send one request and tell of it, unless it was given up before the API could receive it."""
        if self._transport is None:
            raise RuntimeError("the client is not open: use it as an async context manager")
        sent_at = monotonic()
        status, size = None, 0
        sending, given_up = Sending(), False
        try:
            answer = await self._transport.get(url, sending)
            status, size = answer.status, len(answer.body)
        except asyncio.CancelledError:
            given_up = True
            raise
        finally:
            if sending.sent or not given_up:
                self._listener(RequestSent(path, status, monotonic() - sent_at, size))
        return answer

    def _hide_key(self, error: EtlError) -> None:
        """Take the key out of an error that quotes an answer which quotes the key."""
        key = self._key.get_secret_value()
        if key and key in error.message:
            error.message = error.message.replace(key, "***")
            error.args = (error.message,)


def _query(query: dict[str, str | int]) -> str:
    pairs = [f"{name}={quote(value, safe='') if isinstance(value, str) else value}" for name, value in query.items()]
    return f"?{'&'.join(pairs)}" if pairs else ""


@lru_cache(maxsize=256)
def _path(app_id: str, *parts: str) -> str:
    return "/apps/" + "/".join(map(_quoted, (app_id, *parts)))


def _quoted(part: str) -> str:
    """Quote one part of a path, so that an id with `/`, `?` or only dots stays one part."""
    if not part:
        raise FatalError("an id is empty", hint="check the ids under apps in the settings")
    text = quote(part, safe="", errors="surrogatepass")
    return text if text.strip(".") else text.replace(".", "%2E")
