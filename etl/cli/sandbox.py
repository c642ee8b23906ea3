"""Commands that need no key: demo, sandbox, selftest."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
import time
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etl.cli.invocation import Invocation, command, run_async
from etl.cli.options import database_url, demo_settings
from etl.cli.root import app
from etl.errors import SettingsError
from etl.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from etl.app import SyncSummary
    from etl.cli.output import Output
    from etl.config import Settings
    from etl.db.querying import QueryResult
    from etl.sandbox import Changes, Sandbox, World
    from etl.sync.stream import Mode

SeedOption = Annotated[int, typer.Option(metavar="N", help="Seed of the random data.")]

_KEY = "sk-demo"  # of the demo
_PASSING = timedelta(hours=9)
_QUESTIONS = ("workflows", "steps", "failures")


@command(app, "demo", commits_runs=True)
def demo(
    call: Invocation,
    *,
    runs: Annotated[
        int, typer.Option(min=1, max=1_000_000, metavar="N", help="Number of runs in the simulated API.")
    ] = 3000,
    seed: SeedOption = 1,
) -> int:
    """Run a backfill and a sync against a simulated API and an embedded PostgreSQL, without any settings.

    The data is kept apart from yours; query it with `cortex-etl sql --demo`.

    Example: `cortex-etl demo`
    """
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing) if call.quiet else nullcontext():
        return run_async(run_demo(call, runs=runs, seed=seed))


@command(app, "sandbox")
def sandbox(
    call: Invocation,
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port to listen on; 0 for any free port.")
    ] = 8080,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    runs: Annotated[int, typer.Option(min=0, metavar="N", help="Number of runs at the start.")] = 3000,
    seed: SeedOption = 1,
    key: Annotated[str, typer.Option(metavar="KEY", help="API key to accept.")] = "sk-sandbox",
    requests_per_minute: Annotated[int, typer.Option(min=0, metavar="N", help="Rate limit; 0 for none.")] = 500,
    speed: Annotated[
        float, typer.Option(min=0, metavar="N", help="Simulated seconds per second; 0 stops the clock.")
    ] = 1.0,
) -> None:
    """Serve the simulated Cortex API until stopped by Ctrl-C or SIGTERM.

    Example: `cortex-etl sandbox --port 8080 --speed 600`
    """
    with suppress(KeyboardInterrupt):  # Ctrl-C is the normal end
        run_async(
            _serve(
                call, host, port, seed=seed, runs=runs, key=key, requests_per_minute=requests_per_minute, speed=speed
            )
        )
    call.say("stopped")


async def _serve(
    call: Invocation, host: str, port: int, *, seed: int, runs: int, key: str, requests_per_minute: int, speed: float
) -> None:
    from etl.sandbox import serve

    serving = serve(
        host, port, seed=seed, runs=runs, key=key, requests_per_minute=requests_per_minute or None, speed=speed
    )
    try:
        async with serving as api:
            call.out.line(api.url)
            apps = ", ".join(f"{{id: {each}}}" for each in api.world.apps)
            variables = {"CORTEX_ETL__API__BASE_URL": api.url, "CORTEX_API_KEY": key, "CORTEX_ETL__APPS": f"[{apps}]"}
            export = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
            call.say(f"The simulated API is listening; stop it with Ctrl-C. To use it:  export {export}")
            await asyncio.Event().wait()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            hint="Choose another port with --port, or 0 for any free one.",
        ) from None


@command(app, "selftest", commits_runs=True)
def selftest(
    call: Invocation,
    *,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Number of random histories.")] = 5,
    seed: SeedOption = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Check on your own PostgreSQL that no run is lost: sync from a simulated API with drift, 429, bad runs and kills.

    Uses scratch schemas that are dropped afterwards.

    Example: `cortex-etl selftest --rounds 20`
    """
    from dataclasses import asdict

    from etl.app.selftest import run_selftest

    found = run_async(run_selftest(call.settings, rounds=rounds, seed=seed, report=call.say))
    if json:
        call.out.json(asdict(found))
    else:
        call.out.line(
            f"{counted(found.histories, 'history', 'histories')}, {counted(found.syncs, 'sync')}, "
            f"{counted(found.kills, 'kill')}: "
            f"missing {found.missing}, stale {found.stale}, duplicated {found.duplicated}, "
            f"unfinished {found.unfinished}"
        )
        for failure in found.failures:
            call.out.line(failure)
    return 0 if found.clean else 1


async def run_demo(call: Invocation, *, runs: int, seed: int) -> int:
    """Backfill from a simulated API, let time pass there, sync, and query.

    Args:
        call: the invocation; only `data_dir` of its settings is used.
        runs: number of runs in the simulated API.
        seed: random seed.

    Returns:
        The highest exit code of the three syncs.
    """
    from etl.sandbox import Sandbox, World

    out = call.out
    with _step(out, 1, f"A simulated Cortex API with {counted(runs, 'run')}"):
        now = datetime.now(UTC).replace(microsecond=0)
        world = World.generate(seed, runs=runs, now=now - _PASSING)
    per_minute = max(500, runs // 4)
    async with Sandbox(world, _KEY, requests_per_minute=per_minute) as sandbox:
        settings = _settings(call.settings_if_any, sandbox, per_minute)
        with _step(out, 2, "An embedded PostgreSQL, migrated"):
            await _reset(settings)
        with _step(
            out, 3, f"Backfill of {counted(len(world.apps), 'app')} with {counted(len(world.workflows), 'workflow')}"
        ):
            first = await _run(call, settings, "backfill")
        with _step(out, 4, f"{_PASSING.seconds // 3600} hours pass in the sandbox"):
            changes = world.advance(_PASSING)
            _replay_one(world, changes)
        with _step(out, 5, "Sync"):
            second = await _run(call, settings, "sync")
        with _step(out, 6, "Reconcile, for changes to old runs (a sync does this once a day)"):
            third = await _run(call, settings, "reconcile")
    await _show_rows_loaded(out, settings)
    _show_changes_found(out, changes, second, third)
    await _show_answers(out, settings)
    _show_next_steps(out)
    return max(each.exit_code for each in (first, second, third))


@contextmanager
def _step(out: Output, number: int, title: str) -> Iterator[None]:
    began = time.monotonic()
    out.line(f" {title}", mark=str(number), style="cyan")
    yield
    out.line(f" in {time.monotonic() - began:.1f} s", mark="  done", style="green")


def _settings(settings: Settings, sandbox: Sandbox, requests_per_minute: int) -> Settings:
    """Return settings for the simulated API and the demo's own PostgreSQL."""
    from etl.config import ApiSettings, AppSettings, PayloadSettings, SyncSettings

    api = ApiSettings.model_validate({"base_url": sandbox.url, "key": _KEY, "requests_per_minute": requests_per_minute})
    apps = [AppSettings(id=app_id) for app_id in sandbox.world.apps]
    update = {"api": api, "apps": apps, "sync": SyncSettings(), "payloads": PayloadSettings()}
    return demo_settings(settings).model_copy(update=update)


async def _reset(settings: Settings) -> None:
    from etl.app.warehouse import connected
    from etl.db.connect import connect
    from etl.db.statements import statements

    connection = await connect(database_url(settings), settings.database.schema_name)
    try:
        await connection.execute("SET client_min_messages = warning")
        await connection.execute(statements("demo")["forget"])
    finally:
        await connection.close()
    async with connected(settings):
        pass  # it is migrated now


async def _run(call: Invocation, settings: Settings, mode: Mode) -> SyncSummary:
    from etl.app import run_sync

    with call.listening(settings.api.requests_per_minute, level="error") as listener:
        summary = await run_sync(settings, mode, listener=listener)
    if summary.cause is not None:
        raise summary.cause
    return summary


def _replay_one(world: World, changes: Changes) -> None:
    """Replay a run if none was replayed by chance."""
    if changes.replayed:
        return
    taken = {*changes.created, *changes.finished}
    ended = [
        run_id
        for runs in world.runs.values()
        for run_id, run in runs.items()
        if run.get("status") == "FAILED" and run_id not in taken
    ]
    if ended:
        world.replay_run(ended[0])
        changes.replayed.append(ended[0])


async def _show_rows_loaded(out: Output, settings: Settings) -> None:
    from etl.tables import ENTITIES

    counting = "\nUNION ALL ".join(
        f"SELECT '{each.name}' AS name, (SELECT count(*) FROM {each.name}) AS rows"  # noqa: S608 -- names of our own
        for each in ENTITIES
    )
    found = await _ask(settings, counting)
    out.line("")
    out.table(["table", "rows"], found.rows, title="Rows loaded")


def _show_changes_found(out: Output, changes: Changes, sync: SyncSummary, reconcile: SyncSummary) -> None:
    """Compare what happened in the API with what the sync and the reconcile found."""
    fresh = {*changes.created}
    changed = {*changes.finished, *changes.replayed, *changes.emptied} - fresh - {*changes.deleted}
    rows: list[list[str | int | None]] = [
        ["new runs", len(fresh - {*changes.deleted}), sync.runs_inserted, reconcile.runs_inserted],
        ["changed runs (finished, replayed)", len(changed), sync.runs_updated, reconcile.runs_updated],
        ["gone runs", len({*changes.deleted} - fresh), sync.runs_gone, reconcile.runs_gone],
        ["requests", None, sync.requests, reconcile.requests],
    ]
    headings = ["Changes", "in the API", "by the sync", "by the recon\u00adcile"]
    out.line("")
    out.table(headings, rows)


async def _show_answers(out: Output, settings: Settings) -> None:
    from etl.db.statements import statements

    for name in _QUESTIONS:
        question, _, query = statements("demo")[name].partition("\n")
        found = await _ask(settings, query)
        out.line("")
        out.line("", mark=question.removeprefix("-- "), style="bold")
        out.lines(query)
        out.table(found.columns, found.rows)
    out.line("")


async def _ask(settings: Settings, query: str) -> QueryResult:
    from etl.db.querying import run_query

    return await run_query(database_url(settings), settings.database.schema_name, query, timeout_s=60)


def _show_next_steps(out: Output) -> None:
    program = _program()
    query = "SELECT day, sum(credits) AS credits FROM credits_daily GROUP BY day ORDER BY day DESC"
    lines = [
        "The data is kept. Query it:",
        f'  {program} sql --demo "{query}"',
        f"  {program} status --demo --explain",
        "Your own runs, in a folder of their own:",
        f"  mkdir -p ~/cortex && cd ~/cortex && {program} init",
        f"  {program} doctor && {program} sync",
    ]
    for line in lines:
        out.line(line)


def _program() -> str:
    """Return how to call this program from any directory: its name if it is on the PATH, or else its location."""
    if shutil.which("cortex-etl") is not None:
        return "cortex-etl"
    here = Path(sys.argv[0])
    found = [str(here.absolute())] if here.name == "cortex-etl" and here.exists() else [sys.executable, "-m", "etl"]
    return shlex.join(found)
