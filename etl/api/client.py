"""The client for the Cortex API: every request obeys the rate limit and is retried after a temporary failure."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote

from etl.api.pages import Page, read_document, read_page
from etl.api.retry import BadRequestError, Retries, RetryPolicy, refusal, retry_after_s
from etl.api.transport import MAX_RESPONSE_BYTES, PAGE_BYTES, RequestTimeoutError, Response, Sending, Transport
from etl.config.network import Network
from etl.errors import EtlError, FatalError, PageTooLargeError
from etl.events import Listener, RateLimited, RequestRetried, RequestSent, ignore

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from pydantic import SecretStr

    from etl.api.rate_limit import Limiter
    from etl.config import ApiSettings

_T = TypeVar("_T")
_DEFAULT_POLICY = RetryPolicy()
_DIRECT = Network()
_SMALL_PAGE = 13
"""`PAGE_BYTES` limits only larger pages, so that pages of this size can always overlap (see `next_span`)."""

USUAL_SIZE = 100
"""The page size that the API documents as its default. The API may refuse a request because of a larger one."""


class CortexClient:
    """Reads workflows and runs. An async context manager around one HTTP session, which tasks may share.

    Every request, including retries, passes the limiter first. None is sent while the task that opened the client is
    being cancelled: it may have to wait for a commit before it cancels the tasks that read. All methods raise:

        TransientError: the last retry failed.
        FatalError: the request failed, and a retry cannot succeed.
        NotFoundError: the API answered 404.
        KeyRefusedError: the API refused the key.
        DatabaseError: the shared request budget cannot be used.
    """

    def __init__(
        self,
        settings: ApiSettings,
        key: SecretStr,
        limiter: Limiter,
        listener: Listener = ignore,
        *,
        policy: RetryPolicy = _DEFAULT_POLICY,
        network: Network = _DIRECT,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self._settings = settings
        self._key = key
        self._limiter = limiter
        self._listener = listener
        self._policy = policy
        self._network = network
        self._max_response_bytes = max_response_bytes
        self._transport: Transport | None = None
        self._opened_by: asyncio.Task[Any] | None = None
        self.readers = 0
        """The number of listings that are being read, which share the memory for pages."""

    async def __aenter__(self) -> Self:
        self._opened_by = asyncio.current_task()
        self._transport = Transport(
            f"Bearer {self._key.get_secret_value()}",
            timeout_s=self._settings.timeout_s,
            max_response_bytes=self._max_response_bytes,
            proxy=self._network.proxy_for(self._settings.base_url),
            tls=self._network.tls(),
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
        size: int,
        *,
        status: str = "ALL",
        origin: str = "ALL",
        next_token: str | None = None,
        divisible: bool = False,
        failures: int = 0,
    ) -> Page:
        """Read one page of a workflow's runs.

        Args:
            app_id: the app whose listing to read.
            workflow_id: the workflow.
            page: number of the page, from 1.
            size: number of runs per page.
            status: return only runs with this status.
            origin: return only runs with this origin.
            next_token: `next_token` of the previous page.
            divisible: whether the caller can read smaller pages instead. Then a page that is too slow is not requested
                again in this size.
            failures: how many larger pages in a row were too slow. If there are any, this page is requested in place of
                them: the request counts as a retry.

        Raises:
            PageTooLargeError: the page has too many bytes. If `divisible`, also: the page did not arrive in time, or
                the API refused a request that may have been too large.
        """
        query = self._verbose({"page": page, "take": size, "status": status, "origin": origin})
        longest = min(PAGE_BYTES, self._max_response_bytes) if size > _SMALL_PAGE else None
        try:
            return await self._page(
                _path(app_id, "workflows", workflow_id, "runs"),
                query,
                next_token,
                longest,
                once=divisible,
                failures=failures,
            )
        except BadRequestError as error:
            if not divisible or size <= USUAL_SIZE:
                raise
            raise PageTooLargeError(error.message, hint=error.hint) from None

    async def probe_count(
        self, app_id: str, workflow_id: str, *, size: int = 1, status: str = "ALL", origin: str = "ALL"
    ) -> Page:
        """Read the first `size` runs. The `count` of the page is the number of all matching runs."""
        return await self.list_runs(app_id, workflow_id, 1, size, status=status, origin=origin)

    async def get_run(self, app_id: str, workflow_id: str, run_id: str) -> bytes:
        """Read one run as the bytes of its JSON document."""
        path = _path(app_id, "workflows", workflow_id, "runs", run_id)
        return await self._get(path, self._verbose({}), lambda answer, _: read_document(answer))

    async def list_workflows(self, app_id: str, page: int, size: int, *, next_token: str | None = None) -> Page:
        """Read one page of an app's workflows; `page` counts from 1."""
        query: dict[str, str | int] = {"page": page, "take": size}
        return await self._page(_path(app_id, "workflows"), query, next_token, self._max_response_bytes)

    async def get_workflow(self, app_id: str, workflow_id: str) -> bytes:
        """Read one workflow as the bytes of its JSON document."""
        path = _path(app_id, "workflows", workflow_id)
        return await self._get(path, {}, lambda answer, _: read_document(answer), self._max_response_bytes)

    def _verbose(self, query: dict[str, str | int]) -> dict[str, str | int]:
        return {**query, "verbose": "all"} if self._settings.verbose else query

    async def _page(
        self,
        path: str,
        query: dict[str, str | int],
        next_token: str | None,
        longest: int | None = None,
        *,
        once: bool = False,
        failures: int = 0,
    ) -> Page:
        number, size = int(query["page"]), int(query["take"])
        if next_token is not None:
            query = {**query, "next": next_token}
        return await self._get(
            path,
            query,
            lambda answer, url: read_page(answer, url, number, size),
            longest,
            once=once,
            failures=failures,
        )

    async def _get(
        self,
        path: str,
        query: dict[str, str | int],
        read: Callable[[Response, str], _T],
        longest: int | None = None,
        *,
        once: bool = False,
        failures: int = 0,
    ) -> _T:
        """Send a request, with retries, until `read` accepts the response.

        Args:
            path: path of the URL.
            query: query parameters of the URL.
            read: converts the response to the result.
            longest: see `Transport.get`.
            once: whether to leave a retry after a timeout to the caller: `PageTooLargeError` is raised after the pause.
            failures: the failed attempts before this request.
        """
        url = f"{self._settings.base_url}{path}{_query(query)}"
        retries = Retries(self._policy, failures)
        while True:
            await self._limiter.acquire()
            if self._opened_by is not None and self._opened_by.cancelling():
                raise asyncio.CancelledError
            answer = None
            try:
                answer = await self._send(url, path, longest, is_retry=retries.count > 0)
                return read(_accepted(answer, path), url)
            except EtlError as error:
                self._hide_key(error)
                asked_s = retry_after_s(answer, datetime.now(UTC)) if answer else None
                pause = retries.after(error, asked_s)
                if pause.everyone_s:
                    self._listener(RateLimited(pause.everyone_s, path))
                    await self._limiter.pause(pause.everyone_s)
                if pause.own_s is None:
                    raise
                wait_s = max(pause.own_s, pause.everyone_s)
                self._listener(RequestRetried(path, retries.count, error.message, wait_s))
                if once and isinstance(error, RequestTimeoutError):
                    await asyncio.sleep(wait_s)
                    raise PageTooLargeError(error.message, hint=error.hint, because="time") from None
            await asyncio.sleep(pause.own_s)

    async def _send(self, url: str, path: str, longest: int | None, *, is_retry: bool) -> Response:
        """Send one request and report it, unless it was cancelled before the API could receive it."""
        if self._transport is None:
            raise RuntimeError("the client is not open: use it as an async context manager")
        sent_at = monotonic()
        status, size = None, 0
        sending, cancelled = Sending(), False
        try:
            answer = await self._transport.get(url, sending, longest)
            status, size = answer.status, len(answer.body)
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            if sending.sent or not cancelled:
                self._listener(RequestSent(path, status, monotonic() - sent_at, size, is_retry))
        return answer

    def _hide_key(self, error: EtlError) -> None:
        """Mask the key in an error message, which may quote a response that contains it."""
        key = self._key.get_secret_value()
        if key and key in error.message:
            error.message = error.message.replace(key, "***")
            error.args = (error.message,)


def _accepted(answer: Response, path: str) -> Response:
    """Return the response if its status is 200.

    Raises:
        EtlError: the status is not 200.
    """
    if answer.status != HTTPStatus.OK:
        raise refusal(answer, path)
    return answer


def _query(query: dict[str, str | int]) -> str:
    pairs = [f"{name}={quote(value, safe='') if isinstance(value, str) else value}" for name, value in query.items()]
    return f"?{'&'.join(pairs)}" if pairs else ""


@lru_cache(maxsize=256)
def _path(app_id: str, *parts: str) -> str:
    return "/apps/" + "/".join(map(_quoted, (app_id, *parts)))


def _quoted(part: str) -> str:
    """Quote one segment of a path, so that an id with `/` or `?`, or with only dots, stays one segment.

    Raises:
        FatalError: the segment is empty.
    """
    if not part:
        raise FatalError("an id is empty", hint="Check the ids under apps in the settings.")
    text = quote(part, safe="", errors="surrogatepass")
    return text if text.strip(".") else text.replace(".", "%2E")
