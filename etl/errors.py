"""The errors of cortex-etl, classified by how they are handled, with exit codes and hints.

EtlError
├── SettingsError     stop; the user has to fix the settings (exit code 2)
├── TransientError    retry; after the last attempt, the stream fails and other streams continue
├── FatalError        stop the stream (exit code 1)
│   ├── PageTooLarge  read smaller pages instead
│   ├── KeyRefused    stop all streams (exit code 3)
│   └── LockLost      another process has taken over the stream; commit nothing more
├── DatabaseError     the database cannot be reached or used (exit code 4)
├── InterruptedSync   SIGINT or SIGTERM (exit code 130)
└── RecordError       quarantine the item; other items of the page are loaded
"""

from __future__ import annotations

import errno
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

RejectReason = Literal[
    "invalid_json",  # not JSON, or not UTF-8
    "not_an_object",  # JSON, but not an object
    "too_large",  # more bytes than are kept in memory
    "missing_id",  # `id` is missing or empty
    "invalid_field",  # a field with a column has the wrong type, or is not a date
    "not_redactable",  # redaction could not be applied, so nothing of the run is stored
    "other_workflow",  # the run belongs to another workflow than the one that lists it, and both are synced
    "id_taken",  # a run with this id was loaded from the listing of another workflow
    "refused_by_database",  # PostgreSQL refused the rows of the run
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
"""Error numbers for a full disk or an exhausted quota."""

FREE_DISK_SPACE = "Free disk space, then run it again; committed data is kept."
"""The hint for a full disk."""

TRY_LATER = "Run it again later; if it lasts, ask whoever runs the API."
"""The hint for an error that persisted after all retries."""

_PRECEDENCE = (EXIT_INTERRUPTED, EXIT_SETTINGS, EXIT_KEY_REFUSED, EXIT_DATABASE, EXIT_INCOMPLETE)


class EtlError(Exception):
    """The base class of cortex-etl's errors. `hint` says what to do about the error; '' if nothing can be done."""

    exit_code = EXIT_INCOMPLETE

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Support pickling with all attributes, including those of subclasses."""
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
    """The same request may succeed later. `TRY_LATER` is its hint unless there is a better one."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint or TRY_LATER)


class NoDocumentError(TransientError):
    """The API answered a request for one document with JSON that is not an object."""


class FatalError(EtlError):
    """The stream cannot continue; other streams can."""


class NotFoundError(FatalError):
    """The API answered 404: the app, workflow or run does not exist."""


class PageTooLargeError(FatalError):
    """A page of this size cannot be read: the API refuses it, it takes too long, or it has too many bytes."""

    def __init__(
        self, message: str, *, hint: str = "", because: Literal["refused", "time", "bytes"] = "refused"
    ) -> None:
        super().__init__(message, hint=hint)
        self.because = because


class KeyRefusedError(FatalError):
    """The API refused the key, so no stream can continue."""

    exit_code = EXIT_KEY_REFUSED


class LockLostError(FatalError):
    """This process no longer owns the stream, so it must not write to it."""


class DatabaseError(EtlError):
    """The database cannot be reached or used."""

    exit_code = EXIT_DATABASE


class InterruptedSyncError(EtlError):
    """The command was interrupted by SIGINT or SIGTERM."""

    exit_code = EXIT_INTERRUPTED

    def __init__(self, message: str = "interrupted; committed data is kept") -> None:
        super().__init__(message)


class RecordError(EtlError):
    """One item cannot be normalized."""

    def __init__(self, reason: RejectReason, message: str, *, run_id: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.run_id = run_id


def cannot_write(place: object, error: OSError, *, hint: str) -> EtlError:
    """Return the error for a file that cannot be written; `hint` is used unless the disk is full."""
    message = f"cannot write {place}: {error.strerror or error}"
    if error.errno in DISK_FULL:
        return EtlError(message, hint=FREE_DISK_SPACE)
    return SettingsError(message, hint=hint)


def install_extra(name: str) -> str:
    """Return the command that installs an optional extra: from the clone, where the program runs from one."""
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").is_file():
        return f'pip install "cortex-etl[{name}]"'
    return f"{shlex.quote(sys.executable)} -m pip install --editable {shlex.quote(f'{root}[{name}]')}"


def explain(error: BaseException) -> EtlError:
    """Convert an exception to an EtlError with a hint; the exception is its `__cause__`."""
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
    """Return the exit code that takes precedence; 0 if `codes` is empty."""
    return min(codes, key=_PRECEDENCE.index, default=EXIT_OK)


def gravest(errors: Iterable[BaseException]) -> BaseException:
    """Return the first error whose exit code takes precedence."""
    return min(errors, key=lambda error: _PRECEDENCE.index(getattr(error, "exit_code", EXIT_INCOMPLETE)))
