from collections import Counter

import pytest

from etl.api.pages import Page
from etl.decode import digest, guess_id, peek_id
from etl.sync.received import receive

TWICE = b'{"id":"first","status":"FAILED","id":"second"}'
PLAIN = b'{"id":"run-1","version":{"id":"v"}}'
LATE = b'{"status":"FAILED", "id": "run-2"}'
ESCAPED = rb'{"id":"a\u0041"}'
NAMELESS = b'{"status":"FAILED"}'


def page(*items):
    return Page(list(items), 1, 100, None, "", 0.0, None, None)


@pytest.mark.parametrize(("raw", "guess"), [(PLAIN, "run-1"), (TWICE, "first"), (LATE, None), (ESCAPED, None)])
def test_the_guess_is_what_the_item_begins_with(raw, guess):
    assert guess_id(raw) == guess


async def received(held, *items):
    """What becomes of a page, where the warehouse holds runs with the given bytes; and all that it was asked for."""
    asked = []

    async def known_runs(idents):
        asked.extend(idents)
        return {ident: {"content_hash": digest(held[ident])} for ident in idents if ident in held}

    told, known = await receive([page(*items)], known_runs, Counter())
    return told[0], known, asked


async def test_an_unchanged_item_is_known_by_its_guess():
    told, known, asked = await received({"run-1": PLAIN}, PLAIN)
    assert [item.ident for item in told] == ["run-1"]
    assert asked == ["run-1"]
    assert known["run-1"]["content_hash"] == told[0].digest


async def test_a_wrong_guess_never_stands():
    told, known, asked = await received({"first": PLAIN, "second": TWICE}, TWICE, LATE)
    assert [item.ident for item in told] == ["second", "run-2"]
    assert known["second"]["content_hash"] == told[0].digest
    assert sorted(asked) == ["first", "run-2", "second"]


@pytest.mark.parametrize("raw", [PLAIN, TWICE, LATE, ESCAPED])
async def test_every_item_has_the_id_that_reading_it_gives(raw):
    told, _, _ = await received({}, raw)
    assert told[0].ident == peek_id(raw)


async def test_guesses_are_taken_where_that_is_wanted_and_marked():
    async def known_runs(_idents):
        return {}

    told, _ = await receive([page(PLAIN, TWICE, LATE, NAMELESS)], known_runs, Counter(), guess=True)
    assert [(item.ident, item.guessed) for item in told[0]] == [
        ("run-1", True), ("first", True), ("run-2", False), (None, False)
    ]  # fmt: skip


async def test_equal_items_without_an_id_are_told_apart():
    told, _, _ = await received({}, NAMELESS, NAMELESS)
    assert [item.ident for item in told] == [None, None]
    assert told[0].key == told[0].digest == told[1].digest != told[1].key
