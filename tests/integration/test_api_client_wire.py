"""The API client against raw bytes on a socket."""

import asyncio
import gzip
import ssl
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from api_clients import client_of

from etl.errors import FatalError, TransientError

PAGE = b'[{"id":"a"},{"id":"b"}]'


@asynccontextmanager
async def serving(*answers, tls=None):
    """Serve each request the next response, repeating the last; yield the address and the requests."""
    requests = []
    conversations = set()

    async def converse(reader, writer):
        conversations.add(asyncio.current_task())
        try:
            while True:
                requests.append(await reader.readuntil(b"\r\n\r\n"))
                answer = answers[min(len(requests), len(answers)) - 1]
                writer.write(answer)
                await writer.drain()
                if b"Connection: close" in answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", requests
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*conversations), 5)


def http(body, *headers, status="200 OK", length=None):
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def items(address, *, scheme="http", **options):
    async with client_of(f"{scheme}://{address}", timeout_s=2, **options) as client:
        return (await client.list_workflows("c", 1, 10)).items


GOOD = http(PAGE)
PACKED = gzip.compress(PAGE, mtime=0)


@pytest.mark.parametrize(
    "bad",
    [
        http(PACKED[: len(PACKED) // 2], "Content-Encoding: gzip", "Connection: close"),
        http(b"no gzip at all", "Content-Encoding: gzip", "Connection: close"),
        http(PAGE[:9], "Connection: close", length=len(PAGE)),
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\n[{"id\r\n',
        b"SSH-2.0-OpenSSH_9.2 Connection: close\r\n\r\n",
        b"\r\n\r\nConnection: close",
        http(b"", "Connection: close", status="200"),
        http(b"\xff\xfe\x00", "Connection: close"),
    ],
    ids=["gzip cut", "gzip broken", "length", "chunk", "ssh", "blank", "no reason", "binary"],
)  # fmt: skip
async def test_broken_responses_are_retried(bad):
    async with serving(bad, GOOD) as (address, requests):
        assert await items(address) == [b'{"id":"a"}', b'{"id":"b"}']
    assert len(requests) == 2


async def test_broken_responses_are_retried_a_limited_number_of_times():
    async with serving(http(PACKED[:-9], "Content-Encoding: gzip", "Connection: close")) as (address, requests):
        with pytest.raises(TransientError, match=r"cut body|not a JSON list"):
            await items(address)
    assert len(requests) == 6


@pytest.mark.parametrize(
    ("encoding", "body", "name"),
    [
        ("gzip", b"no gzip at all", "gzip"),
        ("deflate", b"no deflate", "deflate"),
        ("br", b"\x0b\x05\x80abc", "brotli"),
        ("zstd", b"no zstandard", "zst(d|andard)"),
        ("compress", b"abc", "compress"),
        ("gzip, gzip", gzip.compress(PACKED, mtime=0), "gzip, gzip"),
    ],
)
async def test_body_that_cannot_be_decoded_is_named(encoding, body, name):
    async with serving(http(body, f"Content-Encoding: {encoding}", "Connection: close")) as (address, _):
        with pytest.raises(TransientError, match=f"^the body cannot be decoded as {name}$") as refused:
            await items(address)
    assert "proxy" in refused.value.hint


async def test_cut_body_is_named():
    async with serving(http(PAGE[:9], "Connection: close", length=len(PAGE))) as (address, _):
        with pytest.raises(TransientError, match=r"^cut body: Not enough data to satisfy content length header [^']*$"):
            await items(address)


async def test_gzip_bomb_is_refused():
    bomb = http(gzip.compress(b"[" + b" " * 50_000_000 + b"]"), "Content-Encoding: gzip", "Connection: close")
    async with serving(bomb) as (address, requests):
        with pytest.raises(FatalError, match="larger than 1 MiB"):
            await items(address, limit=2**20)
    assert len(requests) == 1


async def test_body_with_excessive_content_length_is_not_read():
    async with serving(http(b"[", length=10**12)) as (address, requests):
        with pytest.raises(FatalError, match="larger"):
            await items(address)
    assert len(requests) == 1


async def test_key_is_not_sent_after_a_redirect():
    async with serving(GOOD) as (elsewhere, misled):
        moved = http(b"", f"Location: http://{elsewhere}/", status="302 Found")
        async with serving(moved) as (address, requests):
            with pytest.raises(FatalError, match="302 Found") as caught:
                await items(address)
    assert "base_url" in caught.value.hint
    assert (len(requests), misled) == (1, [])


async def test_cookies_are_not_kept():
    async with serving(http(PAGE, "Set-Cookie: a=b; Path=/")) as (address, requests):
        await items(address)
        async with client_of(f"http://{address}") as client:
            await client.list_workflows("c", 1, 10)
            await client.list_workflows("c", 2, 10)
    assert b"ookie" not in b"".join(requests)


async def test_request_headers():
    async with serving(GOOD) as (address, requests):
        await items(address)
    head, *headers = requests[0].decode().split("\r\n")
    assert head == "GET /apps/c/workflows?page=1&take=10 HTTP/1.1"
    assert {"Authorization: Bearer sk-sandbox", "Accept-Encoding: gzip", "Accept: application/json"} <= set(headers)


async def test_invalid_paging_headers_are_ignored():
    odd = http(PAGE, "pagination-page: one", "pagination-take: -5", "pagination-count: 1e3", "Date: yesterday")
    async with serving(odd) as (address, _), client_of(f"http://{address}") as client:
        page = await client.list_workflows("c", 3, 10)
    assert (page.number, page.size, page.count, page.server_time) == (3, 10, None, None)


async def test_page_longer_than_requested_is_accepted():
    long = http(PAGE, "pagination-take: 2", "pagination-count: 2")
    async with serving(long) as (address, _), client_of(f"http://{address}") as client:
        page = await client.list_workflows("c", 1, 1)
    assert (len(page.items), page.size, page.count) == (2, 2, 2)


async def test_untrusted_certificate_is_refused_immediately():
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(Path(__file__).with_name("self_signed.pem"))
    async with serving(GOOD, tls=tls) as (address, requests):
        with pytest.raises(FatalError, match="certificate") as caught:
            await items(address.replace("127.0.0.1", "localhost"), scheme="https")
    assert "SSL_CERT_FILE" in caught.value.hint
    assert requests == []


async def test_plain_http_server_behind_https_url(sandbox):
    server = await sandbox()
    async with client_of(server.url.replace("http:", "https:")) as client:
        with pytest.raises(TransientError, match=r"TLS failed|the connection broke"):
            await client.list_workflows("c", 1, 10)
