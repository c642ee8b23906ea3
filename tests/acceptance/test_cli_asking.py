"""`sql` and `psql`: output formats, and read-only queries."""

from __future__ import annotations

import csv
import io
import json

import pytest
from postgres_fixtures import add_owners


@pytest.fixture
def asking(command, database_url):
    command.configure(f"database: {{url: '{database_url}'}}\n")
    return command


QUERY = """SELECT 12345678901234567890.1234567890 AS exact, NULL AS nothing, '' AS empty, 'a,"b' AS quoted, true AS yes,
    '{"n": 1.50}'::jsonb AS document, timestamptz '2026-11-01 12:00Z' AS moment, 1.5::float8 AS half, 1 AS half"""


async def test_pipes_get_csv(asking) -> None:
    ended = await asking("sql", QUERY)
    assert (ended.code, ended.err) == (0, "")
    head, row = ended.out.splitlines()
    assert head == "exact,nothing,empty,quoted,yes,document,moment,half,half"
    assert row == '12345678901234567890.1234567890,,"","a,""b",t,"{""n"": 1.50}",2026-11-01 12:00:00+00,1.5,1'


async def test_json_is_a_list_of_row_objects(asking) -> None:
    ended = await asking("sql", QUERY, "--format", "json")
    assert '"exact":12345678901234567890.1234567890' in ended.out
    assert '"document":{"n": 1.50}' in ended.out
    (row,) = json.loads(ended.out)
    del row["exact"]
    assert row == {
        "nothing": None,
        "empty": "",
        "quoted": 'a,"b',
        "yes": True,
        "document": {"n": 1.5},
        "moment": "2026-11-01T12:00:00+00:00",
        "half": 1.5,
        "half_2": 1,
    }


@pytest.mark.parametrize(
    "query", ["-- How many?\nSELECT 8 AS eight", "--\tHow many?\nSELECT 8 AS eight", "--how\nSELECT 8 AS eight"]
)
async def test_query_may_start_with_a_comment(asking, query) -> None:
    assert (await asking("sql", query, "--format", "csv")).out == "eight\n8\n"
    assert (await asking("sql", "SELECT 8 AS eight", "--how-many")).code == 2


async def test_query_without_rows(asking) -> None:
    assert (await asking("sql", "SELECT id FROM runs")).out == "id\n"
    assert (await asking("sql", "SELECT id FROM runs", "--format", "json")).json == []
    assert "(0 rows)" in (await asking("sql", "SELECT id FROM runs", "--format", "table")).out


async def test_tables_are_aligned_with_one_line_per_row(asking) -> None:
    ended = await asking(
        "sql", "VALUES ('a', 5), (E'two\\nlines', 1000), (repeat('x', 500), NULL)", "--format", "table"
    )
    lines = [line.rstrip() for line in ended.out.splitlines() if line.strip()]
    assert len(lines) == 6
    assert lines[2].endswith("      5")
    assert "two lines" in lines[3]
    assert lines[3].endswith("   1000")
    assert lines[4].endswith("…")
    assert lines[5] == "(3 rows)"


async def test_query_from_a_file_or_stdin(asking) -> None:
    (asking.folder / "q.sql").write_text("-- how many\nSELECT 7 AS seven;\n")
    assert (await asking("sql", "-f", "q.sql")).out == "seven\n7\n"
    assert (await asking("sql", "-", stdin="SELECT 8 AS eight")).out == "eight\n8\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("DELETE FROM runs",), "DELETE"),
        (("WITH gone AS (DELETE FROM runs RETURNING 1) SELECT * FROM gone",), "read-only"),
        (("SELECT 1; DELETE FROM runs",), ""),
        (("SELECT * FROM rnus",), "rnus"),
        (("SELECT pg_sleep(30)", "--timeout", "0.2"), "0.2 s"),
        (("SELECT pg_sleep(30)", "--timeout", "0.005m"), "0.3 s"),
        (("SELECT 1", "--timeout", "5 minutes"), "expected a duration such as 45s"),
        (("SELECT 1", "--timeout", "0"), "expected at least 0.001s"),
        ((), "expected one query"),
        (("SELECT 1", "-f", "q.sql"), "expected one query"),
        (("-f", "nowhere.sql"), "nowhere.sql"),
        (("-f", "/dev/zero"), "longer than 1 MiB"),
        (("SELECT 1", "--url"), "--url"),
    ],
)
async def test_statements_that_are_not_queries_are_refused(asking, arguments, says) -> None:
    ended = await asking("sql", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert ended.err.startswith("error: ")


async def test_url_masks_the_password_by_default(command) -> None:
    command.configure("database: {url: 'postgresql://u:hunter2@127.0.0.1:9/d'}\n")
    assert (await command("sql", "--url")).out == "postgresql://u:***@127.0.0.1:9/d\n"
    assert (await command("sql", "--url", "--show-password")).out == "postgresql://u:hunter2@127.0.0.1:9/d\n"


async def test_closed_pipe_is_not_an_error(asking) -> None:
    process = await asking.start("sql", "SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
    assert await process.stdout.readline()
    process._transport.get_pipe_transport(1).close()
    err = await process.stderr.read()
    await process.wait()
    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize("installed", [True, False])
async def test_psql_opens_the_warehouse(asking, installed) -> None:
    if not installed:
        asking.environment["PATH"] = str(asking.folder)  # psql of the embedded server's package
    ended = await asking("psql", "--", "-At", "-c", "SELECT count(*) FROM runs")
    assert (ended.code, ended.out) == (0, "0\n")


async def test_values_without_a_python_type_are_shown_as_text(asking) -> None:
    values = {
        "interval '1 mon 2 days'": "1 mon 2 days",
        "'infinity'::timestamptz": "infinity",
        "'4713-01-01 BC'::date": "4713-01-01 BC",
        "'10000-01-01'::timestamp": "10000-01-01 00:00:00",
        "'24:00'::time": "24:00:00",
        "0.1::float4": "0.1",
        "int4range(1, 5)": "[1,5)",
        "'empty'::int4range": "empty",
        "numrange(null, 2.50)": "(,2.50)",
        "point(1, 2)": "(1,2)",
        "B'101'": "101",
        "array['a,b', null, '']": '{"a,b",NULL,""}',
        "array[interval '1 mon']": '{"1 mon"}',
        "'2026-11-01 12:00Z'::timestamptz": "2026-11-01 12:00:00+00",
        "'2026-11-01'::date": "2026-11-01",
    }
    ended = await asking("sql", f"SELECT {', '.join(values)}", "--format", "csv")
    assert ended.code == 0, ended.err
    (row,) = list(csv.reader(io.StringIO(ended.out)))[1:]
    assert row == list(values.values())
    ended = await asking(
        "sql", f"SELECT {', '.join(f'{each} AS c{n}' for n, each in enumerate(values))}", "--format", "json"
    )
    assert ended.json[0]["c13"] == "2026-11-01T12:00:00+00:00"
    assert ended.json[0]["c5"] == 0.1


async def test_nested_records_and_arrays_are_shown(asking, warehouse) -> None:
    await warehouse.execute("INSERT INTO apps (id, verified) VALUES ('a \"b\"', true)")
    question = "SELECT a, ARRAY['{\"n\": 1}'::jsonb, NULL] AS documents FROM apps AS a"
    (found,) = (await asking("sql", question, "--format", "json")).json
    assert found == {"a": {"id": 'a "b"', "name": None, "verified": True}, "documents": [{"n": 1}, None]}
    ended = await asking("sql", question, "--format", "csv")
    (row,) = list(csv.reader(io.StringIO(ended.out)))[1:]
    assert row == ['("a ""b""",,t)', '{"{\\"n\\": 1}",NULL}']


async def test_export_reports_rounded_decimals(asking, warehouse) -> None:
    await add_owners(warehouse, "w")
    for run_id, used in (("a", "1"), ("b", "1e-30")):
        await warehouse.execute(
            "INSERT INTO runs (id, app_id, workflow_id, status, credits, content_hash) "
            "VALUES ($1, 'a', 'w', 'COMPLETED', $2::text::numeric, '')", run_id, used,
        )  # fmt: skip
    ended = await asking("export", "files")
    assert (ended.code, "1 amount of credits has more digits than Parquet stores" in ended.err) == (0, True)
