"""Common parts of all commands: options, settings, logs, hints and exit codes, and repetition at an interval."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import logging
import sys
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from etl import events
from etl.cli.help import COMMON, COMMON_IN_SHORT, EVERYWHERE, Command
from etl.cli.output import Output, drop_output, flush, on_terminal
from etl.cli.signals import SIGNALS
from etl.config import format_duration, load
from etl.errors import (
    EXIT_INTERRUPTED,
    EXIT_KEY_REFUSED,
    EXIT_OK,
    EXIT_SETTINGS,
    EtlError,
    InterruptedSyncError,
    explain,
)
from etl.observe.logs import Logs, take_over_stderr
from etl.observe.secrets import Mask

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from etl.app import SyncSummary
    from etl.config import Settings

Result = TypeVar("Result")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="PATH", help="Settings file.", rich_help_panel=EVERYWHERE)
]
FormatOption = Annotated[
    Literal["console", "json"] | None,
    typer.Option(
        "--log-format",
        help="Format of the logs on stderr; by default console on a terminal, json otherwise.",
        rich_help_panel=EVERYWHERE,
    ),
]
VerboseOption = Annotated[
    int,
    typer.Option(
        "-v",
        "--verbose",
        count=True,
        show_default=False,
        help="Log more, with tracebacks.",
        rich_help_panel=EVERYWHERE,
    ),
]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print nothing unless something is wrong.", rich_help_panel=EVERYWHERE),
]

_LONGEST_BACK_OFF = timedelta(minutes=15)
_ENDS = (EXIT_SETTINGS, EXIT_KEY_REFUSED, EXIT_INTERRUPTED)
_WORKFLOW_OPTION = " --workflow "
_MOST_SELECTED = 5  # workflows that a hint names; for more, the command is run for all


@dataclass
class Invocation:
    """One call of a command: its common options, and the settings and output that depend on them."""

    config: Path | None = None
    log_format: Literal["console", "json"] | None = None
    verbose: int = 0
    quiet: bool = False
    mask: Mask = field(default_factory=Mask)

    @cached_property
    def settings(self) -> Settings:
        """The settings, read at first use; their secrets are masked in all output from then on.

        Raises:
            SettingsError: there are none, or they cannot be used.
        """
        return self._read(optional=False)

    @cached_property
    def settings_if_any(self) -> Settings:
        """The settings, or the defaults if there are none: for commands that run without settings too.

        Raises:
            SettingsError: they cannot be used.
        """
        return self._read(optional=True)

    def _read(self, *, optional: bool) -> Settings:
        settings = load(self.config, optional=optional)
        for secret in settings.secrets():
            self.mask.add(secret)
        for url in settings.database_urls():
            self.mask.add_password_of(url)
        return settings

    @property
    def out(self) -> Output:
        """The output of the command."""
        return Output(self.mask)

    @property
    def form(self) -> Literal["console", "json"]:
        """The format of the logs."""
        return self.log_format or ("console" if on_terminal() else "json")

    def logs(self, level: str = "info") -> Logs:
        """Return the logs of this call; `level` is the lowest level shown unless -v or --quiet is given."""
        return Logs(self.form, "error" if self.quiet else "debug" if self.verbose else level, self.mask)

    @contextmanager
    def listening(self, requests_per_minute: int, *, level: str = "info") -> Iterator[events.Listener]:
        """Yield a listener: progress bars on a terminal, else logs; with --quiet only errors.

        Args:
            requests_per_minute: rate limit, for the bars.
            level: lowest level logged where there are no bars.
        """
        if not (on_terminal() and self.form == "console") or self.quiet or self.verbose:
            yield self.logs(level).listen
            return
        from etl.observe.progress import ProgressView

        with ProgressView(requests_per_minute, self.mask) as view:
            yield events.tee(view.listen, self.logs("warning").listen)

    def say(self, text: str) -> None:
        """Write a line to stderr unless --quiet; as an event if the log format is JSON."""
        if self.quiet:
            return
        if self.form == "json":
            self.logs().write("info", "command.said", text=text)
        else:
            self.out.line(text, err=True)


def run_async(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on the fastest event loop that is installed."""
    # The driver logs tracebacks of errors that are retried; commands report them themselves.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL + 1)
    if not gc.isenabled():
        # `main` disables the collector for the imports. Their objects are never freed.
        gc.freeze()
        gc.enable()
    try:
        import uvloop
    except ImportError:
        factory = asyncio.new_event_loop
    else:
        factory = uvloop.new_event_loop
    with SIGNALS.held(), asyncio.Runner(loop_factory=factory) as runner:
        try:
            return runner.run(SIGNALS.cancelling(work))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


def command(
    group: typer.Typer, name: str, *, commits_runs: bool = False, **options: Any
) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Register a command that takes the common options in addition to its own.

    Args:
        group: group of the command.
        name: name of the command.
        commits_runs: whether it commits runs as it goes, which an interruption keeps.
        options: options for typer.

    Returns:
        A decorator for a function whose first parameter is the `Invocation` and which returns its exit code (None: 0).
    """

    def register(function: Callable[..., int | None]) -> Callable[..., None]:
        def run(
            ctx: typer.Context,
            config: Path | None,
            log_format: Literal["console", "json"] | None,
            verbose: int,
            quiet: bool,
            **own: Any,
        ) -> None:
            before: Invocation = ctx.obj or Invocation()
            call = Invocation(
                config or before.config,
                log_format or before.log_format,
                verbose or before.verbose,
                quiet or before.quiet,
            )
            raise typer.Exit(finish(call, lambda: function(call, **own), commits_runs=commits_runs))

        run.__doc__ = function.__doc__
        run.__signature__ = _joined_signature(run, function)  # type: ignore[attr-defined]  # inspect and typer read it
        run.__annotations__ = {each.name: each.annotation for each in run.__signature__.parameters.values()}  # type: ignore[attr-defined]  # set above
        group.command(name, epilog=COMMON_IN_SHORT, **{"cls": Command, **options})(run)
        return run

    return register


_COMMON_OPTIONS: tuple[tuple[Any, Any], ...] = (
    (ConfigOption, None),
    (FormatOption, None),
    (VerboseOption, 0),
    (QuietOption, False),
)


def _joined_signature(run: Callable[..., None], function: Callable[..., int | None]) -> inspect.Signature:
    """Return the parameters of the command followed by the common ones, for typer."""
    context = inspect.signature(run, eval_str=True, globals={**globals(), "typer": typer}).parameters["ctx"]
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in zip(COMMON, _COMMON_OPTIONS, strict=True)
    ]
    keyword_only = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    return inspect.Signature([context, *keyword_only, *common])


def finish(call: Invocation, work: Callable[[], int | None], *, commits_runs: bool = False) -> int:
    """Run a command and turn any error into an exit code and one message; see `command`."""
    take_over_stderr(call.logs())
    interrupted = InterruptedSyncError() if commits_runs else InterruptedSyncError("interrupted")
    SIGNALS.handle(_interruption(call, interrupted))
    code = _finish(call, work, interrupted)
    SIGNALS.done(code)
    return code


def _interruption(call: Invocation, error: InterruptedSyncError) -> str:
    """Return the message that is written before a forced exit."""
    if call.form == "json":
        return f"{json.dumps({'event': 'command.failed'} | _fields(error))}\n"
    return f"error: {error.message}\n"


def _finish(call: Invocation, work: Callable[[], int | None], interrupted: InterruptedSyncError) -> int:
    try:
        code = work() or 0
        flush()
    except EtlError as error:
        return report(call, error)
    except (KeyboardInterrupt, typer.Abort):  # typer.Abort is raised at a prompt
        return report(call, interrupted)
    except BrokenPipeError:
        drop_output()  # the reader closed the pipe, as `| head` does
        return 0
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:  # noqa: BLE001 -- last resort: a message instead of a traceback
        code = report(call, _database_error(error) or explain(error))
        drop_output()
        return code
    return code


def report(call: Invocation, error: EtlError) -> int:
    """Report an error on stderr; return its exit code."""
    found = traceback.format_exc() if call.verbose and sys.exc_info()[0] else ""
    if call.form == "json":
        more = {"traceback": found} if found else {}
        call.logs().write("error", "command.failed", **_fields(error), **more)
        return error.exit_code
    call.out.error(error.message, error.hint)
    if found:
        call.out.lines(found, err=True)
    return error.exit_code


def _fields(error: EtlError) -> dict[str, Any]:
    return {"error": error.message, "hint": error.hint or None, "exit_code": error.exit_code}


def _database_error(error: Exception) -> EtlError | None:
    """Convert an error of the database driver to an EtlError with a hint; return None for other exceptions."""
    if "asyncpg" not in sys.modules:
        return None
    from etl.db.refusals import DRIVER_ERRORS, unusable

    is_lost = isinstance(error, (*DRIVER_ERRORS, TimeoutError, ConnectionError))
    return unusable(error) if is_lost else None


def pause_after(every: timedelta, failures: int) -> timedelta:
    """Return the time between the starts of two rounds, which is longer after several failures in a row."""
    pause = every.total_seconds() * 2.0 ** min(max(failures - 1, 0), 20)
    return min(timedelta(seconds=pause), max(every, _LONGEST_BACK_OFF))


def repeat(call: Invocation, every: timedelta, run_round: Callable[[], SyncSummary]) -> int:
    """Run rounds until one shows that the next cannot do better, or a signal arrives.

    Args:
        call: the invocation.
        every: the interval between the beginnings of two rounds.
        run_round: runs one and prints its summary.

    Returns:
        The exit code of the last round, or 0 if a signal arrived between two.
    """
    failures = 0
    call.say(f"Repeating it every {format_duration(every)}, until stopped.")
    while True:
        began = time.monotonic()
        summary = run_round()
        if summary.cause is not None:
            report(call, summary.cause)
        if summary.exit_code in _ENDS:
            return summary.exit_code
        failures = failures + 1 if summary.status == "failed" else 0
        pause = pause_after(every, failures)
        try:
            flush()
            if pause > every:
                call.say(f"{failures} rounds in a row have failed; the next one begins in {format_duration(pause)}")
            time.sleep(max(0.0, began + pause.total_seconds() - time.monotonic()))
        except KeyboardInterrupt:
            return EXIT_OK


def shared_hints(hints: Sequence[str]) -> list[str]:
    """Return the hints. Hints that name the same command for one workflow each are merged into one hint for all."""
    parts = [hint.partition(_WORKFLOW_OPTION) for hint in hints]
    selected: dict[str, list[str]] = {}
    for start, option, workflow in parts:
        if option and workflow not in (known := selected.setdefault(start, [])):
            known.append(workflow)
    return [
        start
        + (
            _WORKFLOW_OPTION + _WORKFLOW_OPTION.join(selected[start])
            if option and len(selected[start]) <= _MOST_SELECTED
            else ""
        )
        for start, option, _ in parts
    ]
