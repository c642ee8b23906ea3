"""PostgreSQL stores and returns the rows of hostile runs unchanged."""

from __future__ import annotations

from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from normalized import normalized, plain

from etl import tables
from etl.db.connect import connect, set_loading_codecs
from etl.db.refusals import describe_refusal
from etl.db.store import REFUSALS
from etl.decode.json_text import parse
from etl.errors import RecordError
from etl.normalize.fitting import JSONB, numeric_of
from etl.normalize.rows import with_storable_numbers
from etl.sandbox import World
from etl.sandbox.odd_runs import KINDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REFUSED = {
    *("nan", "infinity", "bad_utf8", "bad_escape", "unquoted", "number", "null", "string", "list", "empty_object"),
    *("missing_id", "null_id", "number_id", "empty_id", "bad_date", "status_number", "output_text"),
    *("usage_list", "cut"),
}
TOO_LARGE = 10**15  # for credits
TOO_DEEP = {"abyss"}  # the depth of jsonb depends on a server setting; the loader quarantines such a run


@pytest.fixture
async def connection(empty_database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await connect(empty_database_url, "public")
    await set_loading_codecs(connection)
    yield connection
    await connection.close()


def good_run() -> dict[str, Any]:
    runs = [run for runs in World.generate(runs=60, rough_edges=False).runs.values() for run in runs.values()]
    return max(runs, key=lambda run: len(run["output"] or {})) | {"workflow_id": "wf"}


async def test_hostile_values_are_stored(connection: asyncpg.Connection[Any]) -> None:
    for kind in sorted(KINDS.keys() - REFUSED):
        rows = normalized(KINDS[kind](good_run()))
        for (name, sql_type), value in zip(tables.RUNS.types.items(), rows.run, strict=True):
            if kind in TOO_DEEP and name == "result":
                with pytest.raises(asyncpg.StatementTooComplexError):
                    await connection.fetchval("SELECT $1::jsonb", value)
                continue
            if sql_type == "jsonb" and value is not None:
                stored = await connection.fetchval("SELECT $1::jsonb::text", value)
                assert parse(stored.encode()) == parse(plain(sql_type, value)), kind
            else:
                stored = await connection.fetchval(f"SELECT $1::{sql_type}", value)
                assert plain(sql_type, stored) == plain(sql_type, value), kind


def test_items_that_are_not_runs_are_refused() -> None:
    for kind in sorted(REFUSED):
        with pytest.raises(RecordError):
            pytest.fail(f"accepted: {kind}: {normalized(KINDS[kind](good_run()))}")


@pytest.mark.parametrize("levels", [200, 2000])
async def test_deep_json_is_stored(connection: asyncpg.Connection[Any], levels: int) -> None:
    raw = b'{"id":"r","result":' + b"[" * levels + b'"\\u0000"' + b"]" * levels + b"}"
    value = dict(zip(tables.RUNS.names, normalized(raw).run, strict=True))["result"]
    stored = await connection.fetchval("SELECT $1::jsonb::text", value)
    assert stored.replace(" ", "") == "[" * levels + '"\ufffd"' + "]" * levels


NUMBERS = [
    *("0", "0.0", "-0.0", "0e5", "0E-5", "7", "-7", "10000", "1e8", "0.0001", "0.00010", "12.50", "99999999.99999999"),
    *("0e200000", "1e131071", "1e-16383", "0.10", "123456789012345678901234567890.5", "-1E+5", "1e5000", "1.50E3"),
    "0." + "3" * 120,
]


async def test_numbers_match_postgresql_text(connection: asyncpg.Connection[Any]) -> None:
    random = Random(1)

    def digits(most: int) -> str:
        return "".join(random.choices("000123456789", k=random.randint(1, most)))

    made = (
        f"{random.choice(['', '-'])}{digits(15)}{random.choice(['', '.' + digits(20)])}"
        f"{random.choice(['', '', f'e{random.randint(-40, 40)}'])}"
        for _ in range(3000)
    )
    numbers = [number for number in (*NUMBERS, *made) if abs(Decimal(number)) < TOO_LARGE]
    texts = "SELECT array_agg(number::numeric::text ORDER BY place) FROM unnest($1::text[]) WITH ORDINALITY _ (number, place)"
    ours = "SELECT array_agg(number::text ORDER BY place) FROM unnest($1::numeric[]) WITH ORDINALITY _ (number, place)"
    as_postgresql = await connection.fetchval(texts, numbers)
    assert await connection.fetchval(ours, [numeric_of(each.encode()) for each in numbers]) == as_postgresql
    theirs = (
        "SELECT array_agg(number::numeric ORDER BY place) FROM unnest($1::text[]) WITH ORDINALITY _ (number, place)"
    )
    read = await connection.fetchval(theirs, numbers)
    assert [plain("numeric", each) for each in read] == [Decimal(each) for each in numbers]


async def test_numbers_keep_their_value_to_the_last_digit(connection: asyncpg.Connection[Any]) -> None:
    for number in NUMBERS:
        raw = f'{{"id":"r","result":{number},"usage":{{"total":{number}}}}}'.encode()
        row = dict(zip(tables.RUNS.names, normalized(raw).run, strict=True))
        in_json, total = await connection.fetchrow(
            "SELECT $1::jsonb::numeric::text, $2::numeric::text", row["result"], row["credits"]
        )
        assert Decimal(in_json) == Decimal(number)
        assert total is None if abs(Decimal(number)) >= TOO_LARGE else Decimal(total) == Decimal(number), number


@pytest.mark.parametrize("number", ["1e131072", "1e-16384", "1e400000", "-1e400000", "1e99999999999999999999"])
async def test_numbers_that_jsonb_cannot_hold_become_text(connection: asyncpg.Connection[Any], number: str) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await connection.fetchval("SELECT $1::jsonb", JSONB + number.encode())
    text = f'{{"{number}":[{number},"\\"{number}",-1.50e3]}}'
    rows = with_storable_numbers(normalized(f'{{"id":"r","result":{text},"usage":{{"total":{number}}}}}'.encode()))
    row = dict(zip(tables.RUNS.names, rows.run, strict=True))
    assert plain("jsonb", row["result"]).decode() == f'{{"{number}":["{number}","\\"{number}",-1.50e3]}}'
    assert await connection.fetchval("SELECT $1::jsonb->'usage'->>'total'", row["extra"]) == number
    assert row["credits"] is None


@pytest.mark.parametrize(
    ("query", "value", "says"),
    [
        ("SELECT $1::text::integer", "hunter2", "invalid text representation error (SQLSTATE 22P02)"),
        ("SELECT $1::text::jsonb", '["hunter2', "invalid text representation error (SQLSTATE 22P02)"),
        ("SELECT $1::text::timestamptz", "hunter2", "invalid datetime format error (SQLSTATE 22007)"),
        ("SELECT $1::integer", "hunter2", "data error (SQLSTATE 22000)"),
        (
            "INSERT INTO apps (id) SELECT $1 FROM generate_series(1, 2)",
            "hunter2",
            "duplicate key value violates unique",
        ),
    ],
)
async def test_refusals_do_not_quote_values(warehouse: Any, query: str, value: str, says: str) -> None:
    with pytest.raises(REFUSALS) as error:
        await warehouse.execute(query, value)
    assert "hunter2" in str(error.value)
    assert describe_refusal(error.value).startswith(says)
    assert "hunter2" not in describe_refusal(error.value)
    assert describe_refusal(ValueError("hunter2")) == "the driver cannot send a value (ValueError)"
