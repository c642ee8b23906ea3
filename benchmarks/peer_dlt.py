"""Load the same pages with dlt, tuned by hand: `python -m benchmarks.peer_dlt PORT APP URL DIRECTORY`.

Tuning: 8 threads read pages and orjson decodes them; the maps of a run become lists, from which dlt creates child
tables up to the second level; columns that are free-form JSON or not text are declared; files are CSV, which dlt loads
with COPY; two normalizing processes and four loading threads; merging uses `delete-insert`, because the MERGE of
`upsert` was seen to take ten minutes on tables that PostgreSQL had not analyzed yet.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 8
TAKE = 100

SETTINGS = {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "ERROR",
    "NORMALIZE__WORKERS": "2",
    "NORMALIZE__DATA_WRITER__FILE_MAX_ITEMS": "100000",
    "DATA_WRITER__BUFFER_MAX_ITEMS": "20000",
    "NORMALIZE__LOADER_FILE_FORMAT": "csv",
    "LOAD__WORKERS": "4",
}

_JSON = {"data_type": "json"}
_CREDITS = {"data_type": "decimal", "precision": 38, "scale": 18}
_FLOAT = {"data_type": "double"}


def pages(port: int, app: str) -> Iterator[list[Any]]:
    """Read and decode every page of every workflow over 8 connections."""
    first = http.client.HTTPConnection("127.0.0.1", port)
    first.request("GET", f"/apps/{app}/workflows?take=100")
    workflows = [each["id"] for each in json.loads(first.getresponse().read())]
    last = -(-int(app.rpartition("-")[2]) // len(workflows) // TAKE)

    def read(wanted: list[tuple[str, int]]) -> Iterator[list[Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for workflow, number in wanted:
            connection.request("GET", f"/apps/{app}/workflows/{workflow}/runs?page={number}&take={TAKE}&status=ALL")
            yield decode(connection.getresponse().read())

    decode = _decoder()
    wanted = [(workflow, number) for workflow in workflows for number in range(1, last + 1)]
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        readers = [read(wanted[position::CONNECTIONS]) for position in range(CONNECTIONS)]
        while readers:
            for reader, page in zip(list(readers), threads.map(lambda each: next(each, None), readers), strict=True):
                if page is None:
                    readers.remove(reader)
                else:
                    yield page


def _decoder() -> Any:
    try:
        import orjson  # noqa: PLC0415 - optional, installed with dlt
    except ImportError:
        return json.loads
    return orjson.loads


def reshape(run: dict[str, Any]) -> dict[str, Any]:
    """Reshape a run for dlt: steps and their credits as one list, the version as JSON."""
    usage = run.get("usage") or {}
    credit = usage.get("steps") or {}
    steps = run.get("output") or {}
    pairs = steps.items() if isinstance(steps, dict) else ((each["key"], each) for each in steps)
    run["steps"] = [{**step, "key": key, "usage": credit.get(key)} for key, step in pairs]
    run["output"], run["usage"] = None, {"total": usage.get("total"), "calls": usage.get("calls")}
    return run


def runs_of(port: int, app: str) -> Any:
    """Return the resource from which dlt creates the child tables."""
    import dlt  # noqa: PLC0415 - reads its settings from the environment on import

    def named(columns: dict[str, Any]) -> dict[str, Any]:
        return {"columns": {name: {"name": name, **kind} for name, kind in columns.items()}}

    step = {"output": _JSON, "logs": _JSON, "usage__total": _CREDITS, "start": _FLOAT, "end": _FLOAT}
    call = {"output": _JSON, "logs": _JSON, "start": _FLOAT, "end": _FLOAT}
    columns = dict.fromkeys(("input", "result", "workflow_version", "workflow_version_draft", "retention"), _JSON)
    return dlt.resource(
        lambda: ([reshape(run) for run in page] for page in pages(port, app)),
        name="runs",
        primary_key="id",
        columns=named({**columns, "usage__total": _CREDITS})["columns"],
        nested_hints={"steps": named(step), ("steps", "calls"): named(call)},
        write_disposition={"disposition": "merge", "strategy": "delete-insert"},
        max_table_nesting=2,
    )


def main(port: int, app: str, url: str, directory: str) -> None:
    """Load everything once and print one JSON object."""
    os.environ.update(SETTINGS)
    import dlt  # noqa: PLC0415 - reads its settings from the environment on import

    parts = urlsplit(url)
    credentials = {
        "host": "localhost",  # required by dlt; libpq uses the Unix socket given in the query
        "database": parts.path[1:],
        "username": parts.username,
        "password": "none",
        "query": {"host": parse_qs(parts.query)["host"][0]},
    }
    destination = dlt.destinations.postgres(credentials)
    pipeline = dlt.pipeline("bench", pipelines_dir=directory, destination=destination, dataset_name="bench")
    started = perf_counter()
    pipeline.run(runs_of(port, app))
    print(json.dumps({"seconds": perf_counter() - started, "version": dlt.__version__}))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:5])
