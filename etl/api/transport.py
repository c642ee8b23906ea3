"""One HTTP request and its answer, with a body of bounded size; every failure becomes an `EtlError`."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Literal

import aiohttp
from yarl import URL

from etl.errors import FatalError, TransientError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import SimpleNamespace

    from aiohttp.client_middlewares import ClientHandlerType

    from etl.config.network import Named

MAX_RESPONSE_BYTES = 256 * 1024 * 1024
"""The largest body that is accepted, decompressed."""

_DECODED = frozenset({"", "identity", "gzip", "x-gzip", "deflate", "br", "zstd"})  # the last two if installed
_ENCODING = re.compile(r"content-encoding: (\w+)", re.IGNORECASE)
_BUFFER_BYTES = 256 * 1024  # pages are large; with aiohttp's 64 KiB the socket is paused more often


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response. `headers` ignores case, `body` is decompressed, `received_at` is a `monotonic` reading."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: float


@dataclass(slots=True)
class Sending:
    """The progress of a request: `sent` once the API may have received it."""

    sent: bool = False


async def _note_sent(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.sent = True


class _ConnectionLostError(aiohttp.ClientError):
    """The connection broke before the answer came."""


async def _send_once(request: aiohttp.ClientRequest, send: ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from resending a request when a connection breaks, which would bypass the limiter."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLostError(str(error)) from error


class Transport:
    """A session with one API. Each `get` is one request: no redirects, no cookies, nothing sent twice."""

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
        tracing.on_request_headers_sent.append(_note_sent)
        self._timeout_s = timeout_s
        self._max_response_bytes = max_response_bytes
        self._proxy = proxy
        self._session = aiohttp.ClientSession(
            # limit=0: a request that has passed the limiter must not wait for a connection.
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

    async def get(self, url: str, sending: Sending) -> Answer:
        """Send one request and read its answer, whatever its status.

        Args:
            url: absolute and fully quoted.
            sending: updated as the request proceeds.

        Raises:
            TransientError: no answer, or an incomplete one.
            FatalError: the certificate was rejected, or the body is too large.
        """
        try:
            async with self._session.get(
                URL(url, encoded=True), allow_redirects=False, trace_request_ctx=sending
            ) as response:
                body = await self._read(response)
                return Answer(response.status, response.headers, body, monotonic())
        except TimeoutError:
            raise TransientError(
                f"no complete answer within {self._timeout_s:g} s", hint="Raise api.timeout_s or lower api.page_size."
            ) from None
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
        return kind(message, hint=f"Check {place}, or add the API's host to NO_PROXY.")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in _DECODED:
            raise _undecodable(encoding)
        chunks: list[bytes] = []
        size = response.content_length or 0
        if size <= self._max_response_bytes:
            size = 0
            while chunk := await response.content.readany():
                chunks.append(chunk)
                size += len(chunk)
                if size > self._max_response_bytes:
                    break
            else:
                return b"".join(chunks) if len(chunks) != 1 else chunks[0]
        raise FatalError(
            f"the answer is longer than {self._max_response_bytes // 2**20} MiB", hint="Lower api.page_size."
        )


def _tls_error(error: aiohttp.ClientError) -> FatalError | TransientError:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return FatalError(
            f"the certificate of the API was rejected: {cause.verify_message}",
            hint="Check api.base_url, this machine's clock and its CA certificates (SSL_CERT_FILE).",
        )
    return TransientError(f"TLS failed: {_first_line(cause)}")


def _undecodable(encoding: str) -> TransientError:
    """Make the error for a body that is not what its Content-Encoding says, or has one that was not asked for."""
    return TransientError(
        f"the body cannot be decoded as {encoding}", hint="Check api.base_url: a proxy may change what the API answers."
    )


def _reason(error: aiohttp.ClientPayloadError) -> str:
    """Return aiohttp's reason without its frame: `<ContentLengthError: 400, message='Not enough data'>`."""
    text = " ".join(str(error).split())
    found = re.search(r"message(?:=|: )['\"]?(.+?)['\"]?>?$", text)
    return (found[1] if found else text)[:200]


def _first_line(error: object) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
