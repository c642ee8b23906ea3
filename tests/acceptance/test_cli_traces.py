"""OpenTelemetry traces: the spans that a collector receives, and the behaviour without a collector."""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from loopback import serving
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from etl.sandbox.faults import Status, any_request, lists_runs

ROOT = Path(__file__).parents[2]
HEADERS = "Authorization=Bearer%20collector-hunter2"


@dataclass
class Collector:
    """An OTLP receiver that responds with `status` after `pause_s` seconds."""

    url: str = ""
    status: int = 200
    pause_s: float = 0.0
    bodies: list[bytes] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body)
        self.headers.append(request.headers.get("Authorization", ""))
        await asyncio.sleep(self.pause_s)
        return web.Response(status=self.status, text="collector-hunter2 is wrong")

    @property
    def resources(self) -> list[dict[str, Any]]:
        return [values(each.resource.attributes) for request in self._requests() for each in request.resource_spans]

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self._requests()
            for each in request.resource_spans
            for scope in each.scope_spans
            for span in scope.spans
        ]

    def _requests(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(body) for body in self.bodies]


def values(attributes) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@asynccontextmanager
async def collecting():
    collector = Collector()
    async with serving("POST", "/v1/traces", collector.take) as collector.url:
        yield collector


@pytest.fixture
async def collector():
    async with collecting() as running:
        yield running


async def test_a_sync_is_one_trace(at_work, collector, warehouse) -> None:
    command, running = at_work
    command.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_HEADERS": HEADERS}
    ended = await command("sync", "--json")
    assert ended.code == 0, ended.err
    spans = collector.spans
    assert len({span.trace_id for span in spans}) == 1
    (root,) = [span for span in spans if not span.parent_span_id]
    assert root.name == "cortex-etl sync"
    told = values(root.attributes)
    for name in ("requests", "runs_inserted", "pages", "exit_code", "status"):
        assert told[f"cortex_etl.{name}"] == ended.json[name], name
    streams = {span.span_id: span for span in spans if span.name == "stream"}
    assert {values(span.attributes)["cortex_etl.workflow_id"] for span in streams.values()} == {
        each["workflow_id"] for each in ended.json["streams"]
    }
    assert {span.parent_span_id for span in streams.values()} == {root.span_id}
    kinds = Counter(span.name for span in spans)
    assert kinds["GET"] == ended.json["requests"]
    batches = [values(span.attributes) for span in spans if span.name == "load batch"]
    assert sum(each["cortex_etl.inserted"] for each in batches) == ended.json["runs_inserted"]
    assert all(span.parent_span_id in streams for span in spans if span.name == "load batch")
    assert all(root.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano for span in spans)
    assert collector.resources[0]["service.name"] == "cortex-etl"
    assert set(collector.headers) == {"Bearer collector-hunter2"}
    everything = b"".join(collector.bodies)
    assert running.key.encode() not in everything
    assert b"hunter2" not in everything
    assert "hunter2" not in ended.out + ended.err


async def test_variables_are_read_from_dotenv(at_work, collector) -> None:
    command, _ = at_work
    (command.folder / ".env").write_text(
        f"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT={collector.url}/v1/traces\nOTEL_SERVICE_NAME=runs\n"
    )
    assert (await command("sync", "--dry-run", "--quiet")).code == 0
    assert collector.resources[0]["service.name"] == "runs"
    command.environment["OTEL_SDK_DISABLED"] = "true"
    collector.bodies.clear()
    assert (await command("sync", "--quiet")).code == 0
    assert collector.bodies == []


async def test_errors_are_recorded_on_spans(at_work, collector) -> None:
    command, running = at_work
    command.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
    one = next(iter(running.world.workflows))
    running.faults.on(lambda request: lists_runs(request) and one in request.path, Status(403))
    ended = await command("sync", "--quiet")
    assert ended.code == 1
    bad = {span.name for span in collector.spans if span.status.code == 2}
    assert bad == {"cortex-etl sync", "stream", "GET"}
    collector.bodies.clear()
    running.faults.on(any_request, Status(401))
    assert (await command("sync", "--quiet")).code == 3
    (root,) = [span for span in collector.spans if not span.parent_span_id]
    assert (root.status.code, values(root.attributes)["cortex_etl.exit_code"]) == (2, 3)


@pytest.mark.parametrize("trouble", ["refuses", "breaks", "sleeps", "is away"])
async def test_failing_collector_does_not_affect_the_sync(at_work, collector, trouble) -> None:
    command, _ = at_work
    collector.status = {"refuses": 401, "breaks": 503}.get(trouble, 200)
    collector.pause_s = 60 if trouble == "sleeps" else 0
    url = "http://127.0.0.1:9" if trouble == "is away" else collector.url
    await command("sync", "--quiet")  # so that the measured syncs do not load the history
    began = time.monotonic()
    assert (await command("sync", "--quiet")).code == 0
    without_s = time.monotonic() - began
    command.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_HEADERS": HEADERS}
    began = time.monotonic()
    ended = await command("sync", "--log-format", "json")
    assert time.monotonic() - began < without_s + 15  # three seconds, and the import of the SDK on a busy machine
    assert ended.code == 0
    assert ended.err.count("traces.failed") == 1
    assert "hunter2" not in ended.out + ended.err
    ended = await command("sync", "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "use http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "traces.failed"),
    ],
)
async def test_invalid_variables_are_reported(at_work, collector, variables, says) -> None:
    command, _ = at_work
    command.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url} | variables
    ended = await command("sync", "--log-format", "json")
    assert ended.code == 0
    assert says in ended.err


async def test_missing_extra_is_reported(at_work, collector) -> None:
    command, _ = at_work
    hidden = command.folder / "hidden" / "opentelemetry"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError(name='opentelemetry')\n")
    command.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "PYTHONPATH": str(hidden.parent)}
    ended = await command("sync", "--log-format", "json")
    assert ended.code == 0
    assert f"-m pip install --editable '{ROOT}[otel]'" in ended.err
    assert "OpenTelemetry is not installed" in (await command("doctor")).out


async def test_opentelemetry_is_not_imported_when_off(at_work) -> None:
    command, _ = at_work
    program = (
        "import sys; sys.argv = ['cortex-etl', 'sync', '--quiet']\n"
        "import atexit; atexit.register(lambda: print(sorted(n for n in sys.modules if n.startswith('opentelemetry'))))\n"
        "from etl.cli import main; main()"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=command.folder, env=command.environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert (process.returncode, out.decode().strip()) == (0, "[]")


async def test_redirects_are_not_followed(at_work, collector) -> None:
    """The headers would be sent to another host."""
    command, _ = at_work

    async def redirect(_request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect(f"{collector.url}/v1/traces")

    async with serving("POST", "/v1/traces", redirect) as url:
        command.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_HEADERS": HEADERS}
        ended = await command("sync")
    assert ended.code == 0
    assert "traces.failed" in ended.err
    assert collector.bodies == []
