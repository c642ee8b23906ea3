"""What the API answers to one request, before it goes out: pure data that faults can still spoil."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec

Json = Any
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the API sees it: `parts` is the path without its quoting, `number` counts all requests from 1."""

    number: int
    method: str
    path: str
    parts: tuple[str, ...]
    query: dict[str, str]
    body: bytes = b""


@dataclass(slots=True)
class Answer:
    """A response in the making.

    `items` are the elements of a list, already JSON; else `body` holds it whole. The rest says how it is delivered:
    after `delay_s` seconds, cut after `cut_at` bytes (of a `chunked` body or one of known length), or not at all:
    `reset` closes the connection with a TCP reset.
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
        """The bytes of the body."""
        return self.body if self.items is None else b"[" + b",".join(self.items) + b"]"

    def replace_body(self, body: bytes, content_type: str = "application/json; charset=utf-8") -> None:
        """Let the answer carry other bytes than those it was made with."""
        self.items, self.body = None, body
        self.headers["content-type"] = content_type


def encode(document: Json) -> bytes:
    """Compact JSON. Lone surrogates and integers beyond 64 bits stay what they are, as escapes and digits.

    NaN and infinity become null, since a JSON API cannot send them; serve them through `World.raw`.
    """
    try:
        return _encode(document)
    except (UnicodeEncodeError, OverflowError, msgspec.EncodeError):
        return json.dumps(document, separators=(",", ":")).encode()


def document(body: Json, status: int = 200) -> Answer:
    """An answer that carries one document."""
    return Answer(status, {"content-type": "application/json; charset=utf-8"}, encode(body))


def error(status: int, message: str, *, path: str | None = None, code: str = "invalid") -> Answer:
    """An answer with the API's error body; `path` names the parameter that is at fault, where one is."""
    body: dict[str, Json] = {"status": status, "message": message}
    if path is not None:
        body["errors"] = [{"validation": "query", "code": code, "message": message, "path": [path]}]
    return document(body, status)
