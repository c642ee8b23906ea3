"""Errors, grouped by what to do next.

    EtlError
    ├── SettingsError     stop; the user fixes the settings (exit 2)
    ├── TransientError    try again; when the attempts are used up, the stream fails and the others go on
    ├── FatalError        stop the stream (exit 1)
    │   ├── KeyRefused    stop everything (exit 3)
    │   └── LockLost      another process took the stream over; nothing more may be committed
    ├── DatabaseError     the database cannot be reached or used (exit 4)
    └── RecordError       quarantine the one item; the others of its page go on

Each carries a `hint`: one sentence that says what to do, shown under the message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etl.app import SyncSummary


class EtlError(Exception):
    """Base of all errors that cortex-etl raises on purpose; `hint` says what to do about it ('' when nothing can).

    `summary` is the `SyncSummary` of the sync that it ended, None where it ended none.
    """

    exit_code = 1
    summary: SyncSummary | None = None

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling with all attributes, whatever a subclass adds."""
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(kind: type[EtlError], state: dict[str, object]) -> EtlError:
    error = kind.__new__(kind)
    Exception.__init__(error, state.get("message"))
    error.__dict__.update(state)
    return error


class SettingsError(EtlError):
    """The settings or the command line cannot be used."""

    exit_code = 2


class TransientError(EtlError):
    """The same request may succeed later."""


class FatalError(EtlError):
    """This stream cannot go on; the others can."""


class NotFoundError(FatalError):
    """The API answered 404: an unknown app, workflow or run."""


class KeyRefusedError(FatalError):
    """The API refused the key: nothing can go on."""

    exit_code = 3


class LockLostError(FatalError):
    """This process no longer owns the stream, so it must not write to it."""


class DatabaseError(EtlError):
    """The database cannot be reached or used."""

    exit_code = 4


class RecordError(EtlError):
    """One item cannot be normalized. `reason` is a stable code for `etl_rejects.reason`."""

    def __init__(self, reason: str, message: str, *, run_id: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.run_id = run_id
