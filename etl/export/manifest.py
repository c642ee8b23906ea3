"""The manifest of an export directory: its files and a fingerprint of each month."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from etl.errors import SettingsError
from etl.files import locked as locked_file
from etl.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FORMAT = 1
_NAME = "manifest.json"
_LOCK = ".lock"
_PATH = re.compile(r"\w+/[\w-]+\.parquet")


@dataclass(frozen=True, slots=True)
class Written:
    """An exported file: the numbers of rows, of bytes, and of decimals that were rounded or set to null."""

    rows: int
    bytes: int
    decimals_not_exact: int


@dataclass(frozen=True, slots=True)
class Part:
    """The files written from one snapshot, by path relative to the directory, and the fingerprint of the snapshot."""

    fingerprint: str
    files: dict[str, Written]


@dataclass(slots=True)
class Manifest:
    """The parts of an export (a month, `undated` or `definitions`) and the layout of each table."""

    directory: Path
    layout: dict[str, str]
    parts: dict[str, Part] = field(default_factory=dict)

    def is_current(self, name: str, fingerprint: str) -> bool:
        """Return whether a part has this fingerprint, and all its files exist with the recorded size."""
        part = self.parts.get(name)
        if part is None or part.fingerprint != fingerprint:
            return False
        return all(_size(self.directory / path) == each.bytes for path, each in part.files.items())

    def record(self, name: str, part: Part) -> None:
        """Record a part whose files have been written."""
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
        write_atomically(self.directory / _NAME, json.dumps(document, indent=1).encode() + b"\n")


def read(directory: Path, layout: dict[str, str]) -> Manifest:
    """Read the manifest of a directory.

    Args:
        directory: the export directory.
        layout: the current layout of each table. Files with another layout count as outdated.

    Raises:
        SettingsError: the file is not the manifest of an export.
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
            f"{path} is not a manifest of an export", hint="Remove the file, or choose another directory."
        ) from error
    if not is_same:
        parts = {name: Part("", part.files) for name, part in parts.items()}
    return Manifest(directory, layout, parts)


def _part(document: Any) -> Part:
    if not all(_PATH.fullmatch(path) for path in document["files"]):
        raise ValueError("a file outside of the directory")
    return Part(document["fingerprint"], {path: Written(**each) for path, each in document["files"].items()})


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Create the directory and lock it against other exports.

    Raises:
        SettingsError: another export is writing to the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_file(directory / _LOCK))
        except BlockingIOError:
            raise SettingsError(
                f"another export is writing to {directory}", hint="Wait until it ends, or choose another directory."
            ) from None
        yield


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
