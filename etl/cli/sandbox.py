"""Commands that need no key: demo, sandbox, selftest."""

from __future__ import annotations

import asyncio
import os
import shlex
from contextlib import nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import Annotated

import typer

from etl.cli.invocation import Invocation, command, run_async
from etl.cli.root import app
from etl.errors import SettingsError
from etl.text import counted

SeedOption = Annotated[int, typer.Option(metavar="N", help="Seed of the random data.")]


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
    from etl.cli.demo import run_demo

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
