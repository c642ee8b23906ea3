"""A page of a listing, as the answer to one request gave it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from etl.api.retry import http_date
from etl.decode import split_page
from etl.errors import TransientError

if TYPE_CHECKING:
    from datetime import datetime

    from etl.api.transport import Answer

_http_date = lru_cache(maxsize=16)(http_date)  # many answers bear the same second


@dataclass(frozen=True, slots=True)
class Page:
    """One page.

    `items` are the raw bytes of each element. `number`, `take` and `count` (how many items match in all) are what the
    `pagination-*` headers say; where one is missing, `number` and `take` are what was asked for and `count` is None;
    `tells_take` says whether `take` was told. `received_at` reads `time.monotonic`; `server_time` is the `Date` header.
    `url` holds no secret.
    """

    items: list[bytes]
    number: int
    take: int
    count: int | None
    url: str
    received_at: float
    server_time: datetime | None
    next_token: str | None
    tells_take: bool = True


def read_page(answer: Answer, url: str, number: int, take: int) -> Page:
    """Read the page that `url` gave; `number` and `take` are what was asked for.

    Raises:
        TransientError: the body is not a whole JSON array.
    """
    headers = answer.headers
    used = _whole(headers.get("pagination-take"))
    return Page(
        items=split_page(answer.body),
        number=_whole(headers.get("pagination-page")) or number,
        take=used or take,
        count=_whole(headers.get("pagination-count")),
        url=url,
        received_at=answer.received_at,
        server_time=_http_date(headers.get("Date")),
        next_token=headers.get("pagination-next") or None,
        tells_take=bool(used),
    )


def read_document(answer: Answer) -> bytes:
    """Read the one document of a body, without white space around it.

    Raises:
        TransientError: the body is not one whole JSON object.
    """
    try:
        documents = split_page(b"[%b]" % answer.body)
    except TransientError:
        raise TransientError("cut body: the JSON document has no end") from None
    if len(documents) != 1 or not documents[0].startswith(b"{"):
        found = "a JSON list" if answer.body.lstrip().startswith(b"[") else "something else"
        raise TransientError(f"not a JSON document: {found if answer.body.strip() else 'an empty body'}")
    return documents[0]


def _whole(text: str | None) -> int | None:
    """Read a header that counts; None where it is absent or no whole number from 0."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None
