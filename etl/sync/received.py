"""Items of pages as they came in, each with the id and the hash that it is known by."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from etl.decode import digest, guess_id, peek_id

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import asyncpg

    from etl.api.pages import Page

LONGEST_ID_BYTES = 1000
"""Longer ids fit no index of PostgreSQL; no API means them."""


class Received(NamedTuple):
    """An item, its content hash, the key under which the quarantine would hold it, its run's id, and its page.

    `guessed`: the id is the one that it seems to have.
    """

    raw: bytes
    digest: bytes
    key: bytes
    ident: str | None
    page: Page
    guessed: bool


async def receive(
    pages: Sequence[Page],
    known_runs: Callable[[Sequence[str]], Awaitable[Mapping[str, asyncpg.Record]]],
    nameless: Counter[bytes],
    *,
    guess: bool = False,
) -> tuple[list[list[Received]], dict[str, asyncpg.Record]]:
    """Tell what the items of some pages are, and what the warehouse holds of them.

    An unchanged item is never read: the id that it seems to have is the right one where the warehouse holds the very
    same bytes under it.

    Args:
        pages: what was read.
        known_runs: what the warehouse holds of runs, by their ids.
        nameless: how often each item without an id was met; it is brought up to date.
        guess: take the id that an item seems to have for its id, which saves reading it once more; whoever makes rows
            of it finds out whether that is right.
    """
    hashed = [[(raw, digest(raw), guess_id(raw)) for raw in page.items] for page in pages]
    guesses = [seeming for items in hashed for _, _, seeming in items if seeming is not None]
    known = dict(await known_runs(guesses))
    told: list[list[Received]] = []
    for page, items in zip(pages, hashed, strict=True):
        told.append([])
        for raw, content, seeming in items:
            stored = known.get(seeming) if seeming is not None else None
            is_known = stored is not None and stored["content_hash"] == content
            guessed = guess and seeming is not None and not is_known
            ident = seeming if is_known or guessed else read_id(raw)
            told[-1].append(Received(raw, content, _key(content, ident, nameless), ident, page, guessed))
    idents = {item.ident for items in told for item in items if item.ident is not None}
    if unasked := idents.difference(guesses):
        known |= await known_runs(list(unasked))
    return told, known


def read_id(raw: bytes) -> str | None:
    """The id of an item, cleaned; None where it has none, or one that is too long for any index."""
    ident = peek_id(raw)
    return None if ident is not None and len(ident.encode("utf-8", "surrogatepass")) > LONGEST_ID_BYTES else ident


def key_of_copy(content: bytes, number: int) -> bytes:
    """The key of the so manieth of equal items without ids, from 1."""
    return content if number == 1 else digest(b"%b#%d" % (content, number))


def _key(content: bytes, ident: str | None, nameless: Counter[bytes]) -> bytes:
    if ident is not None:
        return content
    nameless[content] += 1
    return key_of_copy(content, nameless[content])
