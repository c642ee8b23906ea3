"""A command repeated at an interval until it is stopped."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from etl.cli.invocation import report
from etl.cli.output import flush
from etl.config import format_duration
from etl.errors import EXIT_INTERRUPTED, EXIT_KEY_REFUSED, EXIT_OK, EXIT_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from etl.app import SyncSummary
    from etl.cli.invocation import Invocation

_LONGEST_BACK_OFF = timedelta(minutes=15)
_ENDS = (EXIT_SETTINGS, EXIT_KEY_REFUSED, EXIT_INTERRUPTED)


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
