"""Read pages of listings, and single documents, from responses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING

from etl.api.retry import http_date
from etl.decode.items import split_page
from etl.errors import NoDocumentError, TransientError

if TYPE_CHECKING:
    from datetime import datetime

    from etl.api.transport import Response

_http_date = lru_cache(maxsize=16)(http_date)  # many responses have the same date


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing.

    Attributes:
        items: the raw bytes of each element.
        number: number of the page, from 1; that of the request if the API sent none; 0 for a single run.
        size: number of items per page; that of the request if the API sent none.
        count: number of all matching items; None if the API sent none.
        url: the URL of the request, which contains no secret.
        received_at: when the response was complete, as a value of `time.monotonic()`.
        server_time: the `Date` header; None if it is missing or malformed.
        next_token: the token for the next page; None if the API sent none.
        tells_size: whether the API sent `size`.
    """

    items: list[bytes]
    number: int
    size: int
    count: int | None
    url: str
    received_at: float
    server_time: datetime | None
    next_token: str | None
    tells_size: bool = True

    @classmethod
    def of_run(cls, raw: bytes, url: str) -> Page:
        """Return a page with the document of a single run, which is not a page of a listing."""
        return cls([raw], 0, 1, None, url, monotonic(), None, None)

    @property
    def is_listed(self) -> bool:
        """Whether this is a page of a listing."""
        return self.number > 0

    @property
    def bytes(self) -> int:
        """The total size of the items in bytes."""
        return sum(map(len, self.items))


def read_page(answer: Response, url: str, number: int, size: int) -> Page:
    """Read a page from the response for `url`; `number` and `size` are those of the request.

    Raises:
        TransientError: the body is not a complete JSON array.
    """
    headers = answer.headers
    used = _integer(headers.get("pagination-take"))
    return Page(
        items=split_page(answer.body) if answer.items is None else answer.items,
        number=_integer(headers.get("pagination-page")) or number,
        size=used or size,
        count=_integer(headers.get("pagination-count")),
        url=url,
        received_at=answer.received_at,
        server_time=_http_date(headers.get("Date")),
        next_token=headers.get("pagination-next") or None,
        tells_size=bool(used),
    )


def read_document(answer: Response) -> bytes:
    """Return the JSON object in a response body, without surrounding white space.

    Raises:
        TransientError: the body is not one complete JSON object.
        NoDocumentError: the body is JSON, but not an object. A subclass of TransientError.
    """
    try:
        documents = split_page(b"[%b]" % answer.body) if answer.items is None else answer.items
    except TransientError:
        raise TransientError("cut body: the JSON document has no end") from None
    if len(documents) != 1 or not documents[0].startswith(b"{"):
        found = "a JSON list" if answer.body.lstrip().startswith(b"[") else "something else"
        is_json = len(documents) == 1 and documents[0][:1] in b'["-0123456789tfn'
        kind = NoDocumentError if is_json else TransientError
        raise kind(f"not a JSON document: {found if answer.body.strip() else 'an empty body'}")
    return documents[0]


def _integer(text: str | None) -> int | None:
    """Return the value of a header as an integer; None if it is missing or not a non-negative integer."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None
