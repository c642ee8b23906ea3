"""What an export directory holds: which state of which month is in its files."""

from __future__ import annotations

import fcntl
import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from etl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FORMAT = 1
_NAME = "manifest.json"
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Written:
    """One file: its rows and bytes, and how many decimals in it were rounded or left out because they did not fit."""

    rows: int
    bytes: int
    decimals_not_exact: int


@dataclass(frozen=True, slots=True)
class Part:
    """Files that were written from one snapshot, by their path below the directory, and that snapshot's fingerprint."""

    fingerprint: str
    files: dict[str, Written]


@dataclass(slots=True)
class Manifest:
    """The parts of an export: a month, `undated`, or `definitions`; `layout` tells the tables' columns."""

    directory: Path
    layout: dict[str, str]
    parts: dict[str, Part] = field(default_factory=dict)

    def is_current(self, name: str, fingerprint: str) -> bool:
        """Whether the part's files are there, as they were written, and hold the state of this fingerprint."""
        part = self.parts.get(name)
        if part is None or part.fingerprint != fingerprint:
            return False
        return all(_size(self.directory / path) == each.bytes for path, each in part.files.items())

    def record(self, name: str, part: Part) -> None:
        """Note a part whose files are in place."""
        self.parts[name] = part
        self._write()

    def drop(self, name: str) -> None:
        """Remove a part and its files."""
        for path in self.parts.pop(name).files:
            (self.directory / path).unlink(missing_ok=True)
        self._write()

    def _write(self) -> None:
        document = {
            "format": _FORMAT,
            "layout": self.layout,
            "parts": {name: asdict(self.parts[name]) for name in sorted(self.parts)},
        }
        temporary = self.directory / f".{_NAME}"
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.directory / _NAME)


def read(directory: Path, layout: dict[str, str]) -> Manifest:
    """Read a directory's manifest.

    Args:
        directory: the export directory.
        layout: the columns of each table as they are now. Files of another layout count as not there; they are
            replaced one by one.

    Raises:
        SettingsError: the manifest is no manifest of this program.
    """
    path = directory / _NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        parts = {name: _part(part) for name, part in document["parts"].items()}
        is_same = document["format"] == _FORMAT and document["layout"] == layout
    except FileNotFoundError:
        return Manifest(directory, layout)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{path} is not a manifest of an export", hint="Remove it and export again, or name another directory."
        ) from error
    if not is_same:
        parts = {name: Part("", part.files) for name, part in parts.items()}
    return Manifest(directory, layout, parts)


def _part(document: Any) -> Part:
    return Part(document["fingerprint"], {path: Written(**each) for path, each in document["files"].items()})


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make the directory, and keep other exports out of it.

    Raises:
        SettingsError: another one is writing there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"another export is writing to {directory}", hint="Wait for it, or name another directory."
            ) from None
        yield


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
