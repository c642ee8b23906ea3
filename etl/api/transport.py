"""Send single HTTP requests and read responses of limited size; every failure becomes an `EtlError`."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Literal

import aiohttp
from yarl import URL

from etl.config.network import missing_certificates
from etl.decode.items import ItemReader
from etl.errors import FatalError, PageTooLargeError, TransientError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import SimpleNamespace

    from aiohttp.client_middlewares import ClientHandlerType

    from etl.config.network import Named

MAX_RESPONSE_BYTES = 256 * 1024 * 1024
"""The largest body that is kept in memory, decompressed."""

SKIMMED_FACTOR = 4
"""A larger body, whose items may be too large to keep, is read up to this many times `MAX_RESPONSE_BYTES`."""

PAGE_BYTES = 8 * 1024 * 1024
"""Larger bodies are read one at a time, to limit memory; a larger page is replaced by smaller ones."""

_DECODED = frozenset({"", "identity", "gzip", "x-gzip", "deflate", "br", "zstd"})  # the last two only if installed
_ENCODING = re.compile(r"content-encoding: (\w+)", re.IGNORECASE)
_BUFFER_BYTES = 256 * 1024  # with aiohttp's default of 64 KiB, reading large pages pauses the socket often

_SLOW = "Check that the API is up; if it is only slow, raise api.timeout_s or lower api.page_size."


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response.

    Attributes:
        status: the HTTP status.
        headers: the headers, with case-insensitive names.
        body: the decompressed body; empty if `items` is set.
        received_at: when the response was complete, as a value of `time.monotonic()`.
        items: for a large body, the elements of its JSON array (an object counts as an array of one); otherwise None.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: float
    items: list[bytes] | None = None


@dataclass(slots=True)
class Sending:
    """The progress of a request; `sent` is true once the API may have received it."""

    sent: bool = False


async def _record_sent(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.sent = True


class RequestTimeoutError(TransientError):
    """No complete response arrived in time."""


class _ConnectionLostError(aiohttp.ClientError):
    """The connection broke before the response arrived."""


async def _send_once(request: aiohttp.ClientRequest, send: ClientHandlerType) -> aiohttp.ClientResponse:
    """Prevent aiohttp from resending a request after a connection breaks, which would bypass the limiter."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLostError(str(error)) from error


class Transport:
    """An HTTP session with one API. Each `get` sends exactly one request, without redirects and cookies."""

    def __init__(
        self,
        authorization: str,
        *,
        timeout_s: float,
        max_response_bytes: int,
        proxy: Named | None = None,
        tls: ssl.SSLContext | Literal[True] = True,
    ) -> None:
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(_record_sent)
        self._timeout_s = timeout_s
        self._max_response_bytes = max_response_bytes
        self._proxy = proxy
        self._large = asyncio.Lock()
        self._session = aiohttp.ClientSession(
            # No limit: a request that has passed the limiter must not wait for a connection.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "Authorization": authorization,
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "User-Agent": "cortex-etl",
            },
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            read_bufsize=_BUFFER_BYTES,
            middlewares=(_send_once,),
            trace_configs=[tracing],
            proxy=proxy.value if proxy is not None else None,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def get(self, url: str, sending: Sending, longest: int | None = None) -> Response:
        """Send one request and read the response, whatever its status.

        Args:
            url: the URL, absolute and fully quoted.
            sending: updated as the request proceeds.
            longest: maximum size of the body in bytes. None: split a large body into items, and keep only the first
                bytes of items that are too large.

        Raises:
            RequestTimeoutError, TransientError: there was no response, or an incomplete one.
            PageTooLargeError: the body is larger than `longest`.
            FatalError: the certificate was rejected.
        """
        try:
            async with self._session.get(
                URL(url, encoded=True), allow_redirects=False, trace_request_ctx=sending
            ) as response:
                body = await self._read(response, longest)
                items = body if isinstance(body, list) else None
                kept = b"" if isinstance(body, list) else body
                return Response(response.status, response.headers, kept, monotonic(), items)
        except TimeoutError:
            raise RequestTimeoutError(f"no complete answer within {self._timeout_s:g} s", hint=_SLOW) from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
            raise _tls_error(error) from None
        except (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError) as error:
            raise self._proxy_error(error) from None
        except aiohttp.ClientConnectorError as error:
            raise TransientError(
                f"cannot connect to {error.host}:{error.port}: {error.os_error.strerror or error.os_error}",
                hint="Check api.base_url and this machine's network.",
            ) from None
        except aiohttp.ClientPayloadError as error:
            if encoding := _ENCODING.search(str(error)):
                raise _undecodable(encoding[1]) from None
            raise TransientError(f"cut body: {_reason(error)}") from None
        except aiohttp.ClientResponseError as error:
            if encoding := _ENCODING.search(error.message):
                raise _undecodable(encoding[1]) from None
            raise TransientError(f"not an HTTP answer: {_first_line(error.message)}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise TransientError(f"the connection broke: {_first_line(error)}") from None

    def _proxy_error(
        self, error: aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError
    ) -> FatalError | TransientError:
        assert self._proxy is not None  # noqa: S101 -- only a proxy causes these errors
        name, place = self._proxy.shown, self._proxy.place
        if isinstance(error, aiohttp.ClientProxyConnectionError):
            reason = error.os_error.strerror or error.os_error
            return TransientError(f"cannot connect to the proxy {name}: {reason}", hint=f"Check {place}.")
        message = f"the proxy {name} refused the connection to the API: {error.status} {_first_line(error.message)}"
        if error.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return FatalError(message, hint=f"Write USER:PASSWORD@ before the host in {place}.")
        kind = (
            FatalError if HTTPStatus.BAD_REQUEST <= error.status < HTTPStatus.INTERNAL_SERVER_ERROR else TransientError
        )
        obeys = self._proxy.obeys_no_proxy
        advice = "or add the API's host to NO_PROXY" if obeys else "and that this proxy may reach the API"
        return kind(message, hint=f"Check {place}, {advice}.")

    async def _read(self, response: aiohttp.ClientResponse, longest: int | None) -> bytes | list[bytes]:
        """Read a body; return its items instead if it may be too large to keep."""
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in _DECODED:
            raise _undecodable(encoding)
        chunks: list[bytes] = []
        size = response.content_length or 0
        most, usual = longest or SKIMMED_FACTOR * self._max_response_bytes, min(longest or PAGE_BYTES, PAGE_BYTES)
        if size <= most:
            size = 0
            while size <= usual and (chunk := await response.content.readany()):
                chunks.append(chunk)
                size += len(chunk)
            if size <= usual:
                return b"".join(chunks) if len(chunks) != 1 else chunks[0]
            async with self._large:
                if longest is None:
                    return await self._read_items(response, chunks)
                while size <= most and (chunk := await response.content.readany()):
                    chunks.append(chunk)
                    size += len(chunk)
            if size <= most:
                return b"".join(chunks)
        raise _too_large(most)

    async def _read_items(self, response: aiohttp.ClientResponse, chunks: list[bytes]) -> list[bytes]:
        """Split a large body into items while it is being received; keep only the first bytes of too large items."""
        reader, is_list = ItemReader(self._max_response_bytes), chunks[0].lstrip().startswith(b"[")
        if not is_list:
            reader.feed(b"[")
        limit, size = self._max_response_bytes, 0
        chunks.reverse()
        while chunk := chunks.pop() if chunks else await response.content.readany():
            reader.feed(chunk)
            size += len(chunk)
            await asyncio.sleep(0)
            if size > limit and (sum(map(len, reader.items)) > limit or size > SKIMMED_FACTOR * limit):
                raise _too_large(limit)
        if not is_list:
            reader.feed(b"]")
        if not reader.is_complete:
            raise TransientError("cut body: the list has no end")
        return reader.items


def _too_large(limit: int) -> PageTooLargeError:
    message = f"the page is larger than {limit / 2**20:g} MiB"
    return PageTooLargeError(message, hint="Lower api.page_size.", because="bytes")


def _tls_error(error: aiohttp.ClientError) -> FatalError | TransientError:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        hint = "Check api.base_url, this machine's clock and its CA certificates (SSL_CERT_FILE)."
        if missing := missing_certificates():
            hint = f"Correct or unset it: {missing}."
        return FatalError(f"the certificate of the API was rejected: {cause.verify_message}", hint=hint)
    return TransientError(f"TLS failed: {_first_line(cause)}")


def _undecodable(encoding: str) -> TransientError:
    """Return the error for a body that does not match its Content-Encoding, or has an unsupported one."""
    return TransientError(
        f"the body cannot be decoded as {encoding}", hint="Check api.base_url: a proxy may change what the API answers."
    )


def _reason(error: aiohttp.ClientPayloadError) -> str:
    """Return the message in aiohttp's text, such as `<ContentLengthError: 400, message='Not enough data'>`."""
    text = " ".join(str(error).split())
    found = re.search(r"message(?:=|: )['\"]?(.+?)['\"]?>?$", text)
    return (found[1] if found else text)[:200]


def _first_line(error: object) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
