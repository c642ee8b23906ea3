"""Find the streams that the settings request, by their ids or by listing the workflows of each app."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from etl.api.pages import Page
from etl.api.retry import BadRequestError
from etl.db.health import clear_app_errors, record_app_errors, record_requested
from etl.db.workflows import mark_workflows_gone, misses_workflows, name_workflows, save_workflows
from etl.decode.items import peek_id
from etl.errors import FatalError, KeyRefusedError, RecordError, SettingsError, TransientError
from etl.events import Notice, StreamId
from etl.normalize.definitions import normalize_workflow
from etl.plan.paging import Paging
from etl.plan.passes import Pass
from etl.sync.listing import REPEATED_PAGES, answer_of
from etl.tables import LONGEST_ID_BYTES
from etl.text import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg

    from etl.api.client import CortexClient
    from etl.config import AppSettings, Settings
    from etl.events import Listener
    from etl.normalize.redaction import Redactor
    from etl.normalize.rows import Row

_PASSES = 4
_SMALL_PAGE = 10  # which no API refuses for its size


def chosen_apps(settings: Settings, apps: Sequence[str]) -> list[AppSettings]:
    """Return the selected apps, or all configured apps if none is selected.

    Raises:
        SettingsError: no app is configured, or a selected app is not configured.
    """
    if not settings.apps:
        raise _no_app(settings)
    configured = [app.id for app in settings.apps]
    for name in apps:
        if name not in configured:
            raise SettingsError(f"the app {name} is not configured", hint=f"Use one of: {', '.join(configured)}.")
    return [app for app in settings.apps if not apps or app.id in apps]


def _no_app(settings: Settings) -> SettingsError:
    if settings.file is None:
        hint = """Run: export CORTEX_ETL__APPS='[{"id": "YOUR_APP_ID"}]'"""
        return SettingsError("no app is configured, and there is no settings file", hint=hint)
    place = settings.place("apps")
    place = str(settings.file) if place == "default" else place
    return SettingsError(f"{place}: no app is configured", hint="Add one under `apps:`: `- id: YOUR_APP_ID`.")


async def find_streams(
    app: AppSettings,
    client: CortexClient,
    pool: asyncpg.Pool | None,
    listener: Listener,
    *,
    size: int,
    redactor: Redactor | None = None,
) -> tuple[list[StreamId], str]:
    """Return the streams of an app, from the settings or by discovery, which stores the workflows that it finds.

    Args:
        app: the settings of the app.
        client: a client with the app's key.
        pool: connections to the warehouse; None to write nothing.
        listener: receives an event for each invalid workflow.
        size: page size.
        redactor: redacts each workflow before it is normalized.

    Returns:
        The streams, and why the list may be incomplete ('' if it is complete).

    Raises:
        FatalError, TransientError: the app's workflows cannot be listed.
    """
    if app.workflows != "all":
        if pool is not None:
            await name_workflows(pool, app.workflows)
        return [StreamId(app.id, workflow_id) for workflow_id in app.workflows], ""
    found = await _discover(app.id, client, listener, size, redactor)
    if pool is not None:
        rows = [row for row in found.workflows.values() if row is not None]
        bare = [workflow_id for workflow_id, row in found.workflows.items() if row is None]
        refused = await save_workflows(pool, rows, bare=bare)
        for workflow_id, error in refused.items():
            _report_refused(listener, app.id, f"PostgreSQL refused {workflow_id}: {error}")
    return [StreamId(app.id, workflow_id) for workflow_id in found.workflows], found.trouble


@dataclass(slots=True)
class _Discovered:
    """The rows of listed workflows by id (None if only the id is valid), and why the list may be incomplete."""

    workflows: dict[str, tuple[Row, Row | None] | None] = field(default_factory=dict)
    trouble: str = ""


async def _discover(
    app_id: str, client: CortexClient, listener: Listener, size: int, redactor: Redactor | None
) -> _Discovered:
    """Read the list of workflows by linked pages; repeat if workflows may have been missed."""
    before = None
    for _ in range(_PASSES):
        found, listed, reading = _Discovered(), set[str](), Pass[Page](Paging(size))
        while reading.repeats < REPEATED_PAGES and (span := reading.next_request()) is not None:
            token = reading.token if span.number > 1 else None
            try:
                answer = answer_of(await client.list_workflows(app_id, span.number, span.size, next_token=token))
            except BadRequestError:
                if span.size <= _SMALL_PAGE:
                    raise
                reading.paging.lower(span.size)  # the API may refuse large pages
                reading.refuse(span)
                continue
            listed.update(answer.keys)
            for page in reading.receive(span, answer):
                for raw in page.items:
                    _take(raw, app_id, found, listener, redactor)
        doubt = _doubt(reading, len(listed))
        if doubt in ("", before):  # a further pass would have the same result
            break
        before = doubt
    found.trouble = found.trouble or doubt
    return found


def _doubt(reading: Pass[Page], listed: int) -> str:
    """Return why a pass over the list of workflows may have missed some; '' if it has not."""
    if reading.count is not None and listed < reading.count:
        return f"the API counts {counted(reading.count, 'workflow')} and lists {listed:,}"
    is_linked = reading.linked or reading.paging.aligned
    if reading.ended and (reading.pages <= 1 or (is_linked and len(reading.counts) == 1)):
        return ""
    return "the list of workflows kept changing while it was read"


def _take(raw: bytes, app_id: str, found: _Discovered, listener: Listener, redactor: Redactor | None) -> None:
    """Add a workflow. Only the id of an invalid workflow is added, because its runs can still be read."""
    workflow_id, rows, error = peek_id(raw), None, "it has no id"
    try:
        rows = normalize_workflow(raw, redactor)
        workflow_id = str(rows[0][0])
    except RecordError as refusal:
        error = refusal.message
        _report_refused(listener, app_id, error)
    if workflow_id is not None and len(workflow_id.encode()) > LONGEST_ID_BYTES:
        workflow_id, error = None, f"id: expected at most {LONGEST_ID_BYTES} bytes"
    if workflow_id is None:
        found.trouble = f"a listed workflow cannot be read: {error}"
    elif rows is not None:
        found.workflows[workflow_id] = rows
    else:
        found.workflows.setdefault(workflow_id)


def _report_refused(listener: Listener, app_id: str, error: str) -> None:
    listener(Notice("workflow.refused", {"app_id": app_id, "error": error}, level="warning"))


def only(streams: Sequence[StreamId], workflows: Sequence[str], *, all_listed: bool = True) -> list[StreamId]:
    """Return the streams of the selected workflows, or all streams if none is selected.

    Args:
        streams: the streams found.
        workflows: ids of the selected workflows.
        all_listed: whether `streams` is complete.

    Raises:
        SettingsError: a selected workflow is in none of the apps.
    """
    selected = [stream for stream in streams if not workflows or stream.workflow_id in workflows]
    missing = set(workflows).difference(stream.workflow_id for stream in selected)
    if missing and all_listed:
        raise SettingsError(
            f"the workflow {min(missing)} is in none of the selected apps",
            hint="Add it under `workflows:` in the settings, or correct --workflow.",
        )
    return selected


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the workflows of an app could not be listed completely; `is_partial` is true if some were listed."""

    error: str
    hint: str
    is_partial: bool


@dataclass(frozen=True, slots=True)
class Discovery:
    """The streams that the settings request, and the problems of apps by id."""

    streams: list[StreamId] = field(default_factory=list)
    problems: dict[str, Problem] = field(default_factory=dict)


async def discover(
    apps: Sequence[AppSettings],
    clients: Mapping[str, CortexClient],
    pool: asyncpg.Pool | None,
    listener: Listener,
    *,
    size: int,
    redactor: Redactor | None,
) -> Discovery:
    """Find the streams of several apps; see `find_streams`. The failure of an app does not affect other apps.

    Raises:
        KeyRefusedError: the API refused a key.
    """
    found, empty = Discovery(), list[str]()
    for app in apps:
        try:
            streams, trouble = await find_streams(app, clients[app.id], pool, listener, size=size, redactor=redactor)
        except KeyRefusedError:
            raise
        except (FatalError, TransientError) as error:
            message = f"the workflows of the app were not listed: {error.message}"
            found.problems[app.id] = Problem(message, error.hint, is_partial=False)
            continue
        found.streams.extend(streams)
        if not streams and not trouble:
            empty.append(app.id)
        if trouble:
            hint = "List the missing workflows under `workflows:` in the settings."
            found.problems[app.id] = Problem(trouble, hint, is_partial=True)
    listed = [stream.workflow_id for stream in found.streams]
    for app_id in empty:
        if pool is not None and await misses_workflows(pool, app_id, listed):
            message = "the app lists no workflows, although it did before"
            hint = (
                "If they were deleted, remove the app from `apps:` in the settings; if not, ask whoever runs the API."
            )
            found.problems[app_id] = Problem(message, hint, is_partial=False)
        else:
            fields = {"app_id": app_id, "hint": "Check the app's id, unless it has no workflows yet."}
            listener(Notice("app.lists_nothing", fields, level="warning"))
    return found


async def record_discovery(
    pool: asyncpg.Pool, settings: Settings, apps: Sequence[AppSettings], found: Discovery
) -> None:
    """Record which streams the settings request, and which workflows are gone.

    Args:
        pool: connections to the warehouse.
        settings: the settings. Streams of apps that are not in the settings are retired.
        apps: the apps that were discovered. Streams of other configured apps stay unchanged.
        found: the result of discovery.
    """
    whole = [app for app in apps if app.id not in found.problems]
    kept = [app.id for app in settings.apps if app not in whole]
    await record_requested(pool, found.streams, reconcile_every=settings.sync.reconcile_every, kept_apps=kept)
    await clear_app_errors(pool, kept)
    await record_app_errors(pool, [(app_id, problem.error, problem.hint) for app_id, problem in found.problems.items()])
    await mark_workflows_gone(pool, [app.id for app in whole if app.workflows == "all"])
