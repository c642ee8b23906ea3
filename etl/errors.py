"""Errors by what to do next, and the exit code and hint of each.

EtlError
├── SettingsError     stop; the user fixes the settings (exit 2)
├── TransientError    try again; when the attempts are used up, the stream fails and the others go on
├── FatalError        stop the stream (exit 1)
│   ├── PageTooLarge  read smaller pages in its place
│   ├── KeyRefused    stop everything (exit 3)
│   └── LockLost      another process took the stream over; nothing more may be committed
├── DatabaseError     the database cannot be reached or used (exit 4)
├── InterruptedSync   SIGINT or SIGTERM (exit 130)
└── RecordError       quarantine the one item; the others of its page go on
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

RejectReason = Literal[
    "invalid_json",  # not JSON, or not UTF-8
    "not_an_object",  # JSON, but not an object
    "too_large",  # more bytes than are kept in memory
    "missing_id",  # no `id`, or an empty one
    "invalid_field",  # a field that a column depends on has the wrong type, or is not a date
    "not_redactable",  # the redaction of payloads could not be applied, so nothing of the run is stored
    "other_workflow",  # the run names another workflow than the one that lists it, and the settings read that one too
    "id_taken",  # the warehouse holds a run with this id for the listing of another workflow
    "refused_by_database",  # PostgreSQL does not take the rows of the run
]
"""Why an item is quarantined (`etl_rejects.reason`)."""

EXIT_OK = 0
EXIT_INCOMPLETE = 1
EXIT_SETTINGS = 2
EXIT_KEY_REFUSED = 3
EXIT_DATABASE = 4
EXIT_HELD = 75
EXIT_INTERRUPTED = 130

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Numbers of system errors that mean a full disk, or an exhausted quota."""

FREE_DISK_SPACE = "Free disk space, then run it again; committed data is kept."
"""The hint for a full disk."""

TRY_LATER = "Run it again later; if it lasts, ask whoever runs the API."
"""Hint for a failure that retries did not cure."""

_PRECEDENCE = (EXIT_INTERRUPTED, EXIT_SETTINGS, EXIT_KEY_REFUSED, EXIT_DATABASE, EXIT_INCOMPLETE)


class EtlError(Exception):
    """Base of the errors that cortex-etl raises on purpose; `hint` says what to do ('' where nothing helps)."""

    exit_code = EXIT_INCOMPLETE

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

    exit_code = EXIT_SETTINGS


class TransientError(EtlError):
    """The same request may succeed later."""


class NoDocumentError(TransientError):
    """The API answered with complete JSON that is not an object, where it was asked for one document."""


class FatalError(EtlError):
    """This stream cannot go on; the others can."""


class NotFoundError(FatalError):
    """The API answered 404: an unknown app, workflow or run."""


class PageTooLargeError(FatalError):
    """A page cannot be read in this size: the API refuses it, it does not come in time, or it has too many bytes."""

    def __init__(
        self, message: str, *, hint: str = "", because: Literal["refused", "time", "bytes"] = "refused"
    ) -> None:
        super().__init__(message, hint=hint)
        self.because = because


class KeyRefusedError(FatalError):
    """The API refused the key: nothing can go on."""

    exit_code = EXIT_KEY_REFUSED


class LockLostError(FatalError):
    """This process no longer owns the stream, so it must not write to it."""


class DatabaseError(EtlError):
    """The database cannot be reached or used."""

    exit_code = EXIT_DATABASE


class InterruptedSyncError(EtlError):
    """The command was interrupted by SIGINT or SIGTERM."""

    exit_code = EXIT_INTERRUPTED

    def __init__(self) -> None:
        super().__init__("interrupted; committed data is kept")


class RecordError(EtlError):
    """One item cannot be normalized."""

    def __init__(self, reason: RejectReason, message: str, *, run_id: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.run_id = run_id


def cannot_write(place: object, error: OSError, *, hint: str) -> EtlError:
    """Return the error for a file that cannot be written; `hint` is for any other reason than a full disk."""
    message = f"cannot write {place}: {error.strerror or error}"
    if error.errno in DISK_FULL:
        return EtlError(message, hint=FREE_DISK_SPACE)
    return SettingsError(message, hint=hint)


def explain(error: BaseException) -> EtlError:
    """Return an error as one that has a hint and an exit code; the original is its `__cause__`."""
    if isinstance(error, EtlError):
        return error
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        hint = FREE_DISK_SPACE if error.errno in DISK_FULL else "Check the path and its permissions."
        explained = EtlError(f"{place}{error.strerror}", hint=hint)
    else:
        explained = EtlError(
            f"unexpected {type(error).__name__}: {error}", hint="Run the command again with -v to see the traceback."
        )
    explained.__cause__ = error
    return explained


def first_code(codes: Iterable[int]) -> int:
    """Return the exit code that takes precedence; 0 if there are none."""
    return min(codes, key=_PRECEDENCE.index, default=EXIT_OK)


def gravest(errors: Iterable[BaseException]) -> BaseException:
    """Return the error whose exit code takes precedence; of several such errors, the first."""
    return min(errors, key=lambda error: _PRECEDENCE.index(getattr(error, "exit_code", EXIT_INCOMPLETE)))
