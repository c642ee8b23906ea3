"""dlt, tuned by hand, on the same pages: `python -m benchmarks.peer_dlt PORT APP URL DIRECTORY`.

What is tuned: pages are read over 8 threads and decoded by orjson; the maps of a run are turned into lists, of which
dlt makes child tables down to the second level; free-form JSON is declared as such, and so is all that is no text;
files are CSV, which dlt loads by COPY; two normalizing processes, four loading threads; merging is by `delete-insert`,
since the MERGE of `upsert` was seen to run for ten minutes over tables that PostgreSQL had not analysed yet.
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
    """Every page of every workflow, read over 8 connections, decoded."""
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
        readers = [read(wanted[place::CONNECTIONS]) for place in range(CONNECTIONS)]
        while readers:
            for reader, page in zip(list(readers), threads.map(lambda each: next(each, None), readers), strict=True):
                if page is None:
                    readers.remove(reader)
                else:
                    yield page


def _decoder() -> Any:
    try:
        import orjson  # noqa: PLC0415 - comes with dlt, if at all
    except ImportError:
        return json.loads
    return orjson.loads


def reshape(run: dict[str, Any]) -> dict[str, Any]:
    """A run as dlt can take it apart: steps and their credits as one list, the version as JSON."""
    usage = run.get("usage") or {}
    credit = usage.get("steps") or {}
    steps = run.get("output") or {}
    pairs = steps.items() if isinstance(steps, dict) else ((each["key"], each) for each in steps)
    run["steps"] = [{**step, "key": key, "usage": credit.get(key)} for key, step in pairs]
    run["output"], run["usage"] = None, {"total": usage.get("total"), "calls": usage.get("calls")}
    return run


def runs_of(port: int, app: str) -> Any:
    """The resource of which dlt makes the child tables itself, down to the second level."""
    import dlt  # noqa: PLC0415 - reads its settings from the environment when it is imported

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
    """Load everything once; prints one JSON object."""
    os.environ.update(SETTINGS)
    import dlt  # noqa: PLC0415 - reads its settings from the environment when it is imported

    place = urlsplit(url)
    credentials = {
        "host": "localhost",  # asked for by dlt; libpq goes by the query: a Unix socket, as for all
        "database": place.path[1:],
        "username": place.username,
        "password": "none",
        "query": {"host": parse_qs(place.query)["host"][0]},
    }
    destination = dlt.destinations.postgres(credentials)
    pipeline = dlt.pipeline("bench", pipelines_dir=directory, destination=destination, dataset_name="bench")
    started = perf_counter()
    pipeline.run(runs_of(port, app))
    print(json.dumps({"seconds": perf_counter() - started, "version": dlt.__version__}))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:5])
