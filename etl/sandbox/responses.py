"""Requests and responses of the simulated API as plain data, which faults can modify before delivery."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec

Json = Any
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Request:
    """A request: `parts` is the unquoted path, `number` counts all requests from 1."""

    number: int
    method: str
    path: str
    parts: tuple[str, ...]
    query: dict[str, str]
    body: bytes = b""


@dataclass(slots=True)
class Response:
    """A response and how it is delivered.

    `items` are the elements of a list, encoded as JSON; otherwise `body` is the whole body. The response is sent after
    `delay_s` seconds and cut after `cut_at` bytes (of a `chunked` body or one of known length); `reset` resets the
    connection instead.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    items: list[bytes] | None = None
    delay_s: float = 0.0
    cut_at: int | None = None
    chunked: bool = False
    reset: bool = False

    def payload(self) -> bytes:
        """Return the bytes of the body."""
        return self.body if self.items is None else b"[" + b",".join(self.items) + b"]"

    def replace_body(self, body: bytes, content_type: str = "application/json; charset=utf-8") -> None:
        """Replace the body."""
        self.items, self.body = None, body
        self.headers["content-type"] = content_type


def encode(document: Json) -> bytes:
    """Encode as compact JSON, preserving lone surrogates (as escapes) and integers beyond 64 bits.

    NaN and infinity become null; to serve them, use `World.raw`.
    """
    try:
        return _encode(document)
    except (UnicodeEncodeError, OverflowError, msgspec.EncodeError):
        return json.dumps(document, separators=(",", ":")).encode()


def document(body: Json, status: int = 200) -> Response:
    """Return a response with one document."""
    return Response(status, {"content-type": "application/json; charset=utf-8"}, encode(body))


def error(status: int, message: str, *, path: str | None = None, code: str = "invalid") -> Response:
    """Return a response with the API's error body; `path` is the invalid parameter, if any."""
    body: dict[str, Json] = {"status": status, "message": message}
    if path is not None:
        body["errors"] = [{"validation": "query", "code": code, "message": message, "path": [path]}]
    return document(body, status)
