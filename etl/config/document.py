"""`config.yaml` as plain values, each with the place it came from, so that an error can name file and line.

Three layers, the later ones win: the file, with `${NAME}` filled from the environment; variables of the form
`CORTEX_ETL__SECTION__KEY`; and, where the file says nothing, the defaults of the models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from etl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PREFIX = "CORTEX_ETL__"
_DEEPEST = 20  # levels; the settings use four, and an alias to its own anchor has no end
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{(?P<bad>[^}]*)\}?")

KeyPath = tuple[str | int, ...]


@dataclass(slots=True)
class Document:
    """The values read, the place of each (`config.yaml:4`, `environment variable X`), and variables found unset.

    `origins` has the places of variables that are not of the environment; `unread` what is wrong with files of secrets,
    by the secret, which many commands do without.
    """

    name: str
    origins: Mapping[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    unset: dict[KeyPath, str] = field(default_factory=dict)
    unread: dict[KeyPath, SettingsError] = field(default_factory=dict)

    def came_from(self, path: KeyPath, variable: str) -> None:
        """Note that the value at `path` is that of a variable."""
        self.places[path] = self.origins.get(variable, f"environment variable {variable}")

    def place(self, path: KeyPath) -> str:
        """Return where the value at `path`, or else the nearest thing in or around it, was written; or ''."""
        if path in self.places:
            return self.places[path]
        within = (place for other, place in self.places.items() if other[: len(path)] == path)
        around = (self.places[path[:length]] for length in range(len(path), 0, -1) if path[:length] in self.places)
        return next(within, next(around, ""))


def dotted(path: KeyPath) -> str:
    """Write a path as people do: `apps[1].id`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def read_document(
    path: Path | None, environment: Mapping[str, str], origins: Mapping[str, str] | None = None
) -> Document:
    """Read the settings file and the overriding variables.

    Args:
        path: the file; None for none.
        environment: the environment variables.
        origins: what to call the place of those that come from elsewhere.

    Raises:
        SettingsError: the file cannot be read or is no YAML mapping, or an override cannot be placed.
    """
    document = Document(str(path) if path else "", origins=origins or {})
    if path is not None:
        _read_file(path, environment, document)
    for variable in sorted(environment):
        if variable.upper().startswith(PREFIX):
            _override(document, variable, environment[variable])
    return document


def _read_file(path: Path, environment: Mapping[str, str], document: Document) -> None:
    try:
        text = path.read_text(encoding="utf-8-sig")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot read the settings: {error.strerror}", hint=_fix_unreadable(error)
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{path}:{line}: this is not UTF-8 text", hint="Save the file as UTF-8, or name another with --config PATH."
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SettingsError(
            f"{path}:{line}: this is not YAML: a character that cannot be printed", hint="Remove it."
        ) from None
    except yaml.YAMLError as error:
        raise _syntax_error(path, error, text) from None
    except RecursionError:
        raise SettingsError(f"{path}: nested too deeply", hint="Write it flat, as `cortex-etl init` does.") from None
    if root is None or (isinstance(root, yaml.ScalarNode) and root.value == ""):
        return
    if not isinstance(root, yaml.MappingNode):
        raise SettingsError(
            f"{path}:{root.start_mark.line + 1}: the settings are {_kind(root)}, not sections such as `api:`",
            hint="Write a fresh file with `cortex-etl init` elsewhere and compare.",
        )
    reader = _Reader(document, environment)
    document.values = reader.mapping(root, ())
    for name in [name for name, value in document.values.items() if value is None]:
        del document.values[name]  # `api:` with nothing under it is an empty section


def _fix_unreadable(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "Write one with `cortex-etl init`, or name another with --config PATH."
    if isinstance(error, PermissionError):
        return "Give this user the right to read it."
    return "Name a text file with --config PATH."


def _syntax_error(path: Path, error: yaml.YAMLError, text: str) -> SettingsError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    if "\\t" in problem:
        return SettingsError(f"{where}: a tab stands where YAML wants blanks", hint="Replace the tab by two blanks.")
    column = f", column {mark.column + 1}" if mark else ""
    if mark and re.search(r"[\[{,]\s*\$\{", text.splitlines()[mark.line] if mark.line < text.count("\n") else ""):
        hint = 'Between brackets, put references in quotes: ["${NAME}"].'
        return SettingsError(f"{where}: this is not YAML: {problem}{column}", hint=hint)
    return SettingsError(
        f"{where}: this is not YAML: {problem}{column}",
        hint="Fix that line or the one above it: look for a missing colon, quote or blank, or a wrong indentation.",
    )


def _kind(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


class _Reader:
    """Turns YAML nodes into values and notes where each stood."""

    def __init__(self, document: Document, environment: Mapping[str, str]) -> None:
        self._document = document
        self._environment = environment
        self._scalars = yaml.SafeLoader("")

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = f"{self._document.name}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise SettingsError(
                    f"{place}: {_kind(key_node)} stands where a key belongs", hint="Write a name there."
                )
            key = str(key_node.value)
            here = (*path, key)
            if key in values:
                first = self._document.places[here].rpartition(":")[2]
                raise SettingsError(
                    f"{place}: {dotted(here)} stands here twice, first in line {first}", hint="Keep one."
                )
            self._document.places[here] = place
            values[key] = self.value(value_node, here)
        return values

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        if len(path) > _DEEPEST:
            place = self._document.place(path)
            raise SettingsError(f"{place}: {dotted(path[:2])} is nested too deeply", hint="Remove what is too much.")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            for index, each in enumerate(node.value):
                self._document.places[(*path, index)] = f"{self._document.name}:{each.start_mark.line + 1}"
            return [self.value(each, (*path, index)) for index, each in enumerate(node.value)]
        try:
            value = self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError):
            value = node.value
        if isinstance(value, int) and not isinstance(value, bool) and not _DECIMAL.fullmatch(node.value):
            value = node.value  # 010 is no eight to people, nor 1:30 ninety
        if isinstance(value, str) and "${" in value:
            return self._fill(value, path)
        return value

    def _fill(self, text: str, path: KeyPath) -> str | None:
        def replace(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            if match["bad"] is not None or "${" in (match["default"] or ""):
                wrong = "names no variable" if match["default"] is None else "has another within, which is not read"
                raise SettingsError(
                    f"{self._document.place(path)}: {dotted(path)}: {match[0]} {wrong}",
                    hint="Write ${NAME} or ${NAME:-default}, the default a plain text.",
                )
            found = self._environment.get(match["name"]) or match["default"]
            if found is None:
                self._document.unset[path] = match["name"]
                return ""
            return found

        filled = _REFERENCE.sub(replace, text)
        return None if path in self._document.unset else filled or None


def _override(document: Document, variable: str, text: str) -> None:
    """Put the value of `CORTEX_ETL__A__B` at a.b; a list or a mapping is written as JSON."""
    path: KeyPath = tuple(part.lower() for part in variable[len(PREFIX) :].split("__"))
    if "" in path:
        raise SettingsError(f"environment variable {variable}: names no key", hint=f"Write {PREFIX}SECTION__KEY.")
    value: Any = text
    if text.lstrip()[:1] in ("[", "{"):
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise SettingsError(f"environment variable {variable}: not JSON", hint="Fix its value.") from None
    elif text in ("", "null"):
        value = None
    target = document.values
    for part in path[:-1]:
        inner = target.get(str(part))
        if inner is None and part != "apps":
            inner = target[str(part)] = {}
        if not isinstance(inner, dict) or part == "apps":
            raise SettingsError(
                f"environment variable {variable}: {part} is no section",
                hint=f"Override it as a whole: {PREFIX}{str(path[0]).upper()} with a JSON value.",
            )
        target = inner
    target[str(path[-1])] = value
    for known in [each for each in document.places if each[: len(path)] == path]:
        del document.places[known]
    document.came_from(path, variable)
    document.unset.pop(path, None)
