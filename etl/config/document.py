"""Find the settings file, and read it as plain values with the place of each, so that errors can name file and line.

The values come from `config.yaml`, in which `${NAME}` is replaced by a variable of the environment or of `.env`.
Variables such as `CORTEX_ETL__SECTION__KEY` override them. Secrets that are still missing are read from files
(`key_file`, `url_file`), or from `CORTEX_API_KEY` and `DATABASE_URL`. The models define the defaults.
"""

from __future__ import annotations

import errno
import io
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from etl.config.sections import expand_home
from etl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_VARIABLE = "CORTEX_ETL_CONFIG"
_CONFIG_NAME = "config.yaml"
PREFIX = "CORTEX_ETL__"
DOTENV = ".env"
_DEEPEST = 20  # levels; the settings use four
_LARGEST = 1 << 20  # maximum size of a file in bytes
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{(?P<bad>[^}]*)\}?")

KeyPath = tuple[str | int, ...]


def candidates(environment: Mapping[str, str]) -> list[Path]:
    """Return the paths to search, in order: the path in `CORTEX_ETL_CONFIG`, or else the default paths."""
    if named := environment.get(CONFIG_VARIABLE):
        return [Path(named)]
    shared = environment.get("XDG_CONFIG_HOME") or ""
    if not shared and (home := environment.get("HOME")):
        shared = f"{home}/.config"
    usual = [Path(_CONFIG_NAME)]
    return [*usual, Path(shared, "cortex-etl", _CONFIG_NAME)] if Path(shared).is_absolute() else usual


def find_file(environment: Mapping[str, str]) -> Path | None:
    """Return the path in `CORTEX_ETL_CONFIG`, or else the first default path that exists; None if none exists."""
    found = candidates(environment)
    # Not Path.exists, which raises if the user's directory cannot be read.
    return next((path for path in found if environment.get(CONFIG_VARIABLE) or os.path.lexists(path)), None)


@dataclass(slots=True)
class Document:
    """The values of the settings and their places. Many commands need no secret, so missing secrets are only recorded.

    Attributes:
        name: path of the settings file; '' if there is none.
        origins: places of variables that are not in the environment, by name.
        values: the values by section and key.
        places: the place of each value: `config.yaml:4`, `environment variable X`, or both.
        empty: names of variables that are set to an empty text.
        unset: for values with a `${NAME}` that is not set or empty, the name of the variable.
        unread: for secrets whose file cannot be read, the error.
    """

    name: str
    origins: Mapping[str, str] = field(default_factory=dict)
    empty: frozenset[str] = frozenset()
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    unset: dict[KeyPath, str] = field(default_factory=dict)
    unread: dict[KeyPath, SettingsError] = field(default_factory=dict)

    def origin(self, variable: str) -> str:
        """Return the place of a variable."""
        return self.origins.get(variable, f"environment variable {variable}")

    def lacks(self, variable: str) -> str:
        """Return that a variable is not set, or that it is empty."""
        if variable in self.empty:
            return f"the {self.origin(variable)} is empty"
        return f"the environment variable {variable} is not set"

    def remedy(self, variable: str) -> str:
        """Return how to set a variable: in `.env`, which a schedule reads too, unless an empty one precedes it."""
        export = f"`export {variable}=...`"
        if variable in self.empty and variable not in self.origins:
            return f"Run {export}"
        return f"Add {variable}=... to {Path(self.name).parent / DOTENV}, or run {export}"

    def set_place(self, place: str, path: KeyPath, value: Any) -> None:
        """Record the place of a value and of all values in it, replacing earlier places."""
        for known in [each for each in self.places if each[: len(path)] == path]:
            del self.places[known]
        self._place_all(place, path, value, _DEEPEST)

    def _place_all(self, place: str, path: KeyPath, value: Any, levels: int) -> None:
        self.places[path] = place
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, each in inner if levels else ():
            self._place_all(place, (*path, key), each, levels - 1)

    def place(self, path: KeyPath) -> str:
        """Return the place of the value at `path`, or of a value in it, or of the nearest value around it, or ''."""
        if path in self.places:
            return self.places[path]
        within = (place for other, place in self.places.items() if other[: len(path)] == path)
        around = (self.places[path[:length]] for length in range(len(path), 0, -1) if path[:length] in self.places)
        return next(within, next(around, ""))


def dotted(path: KeyPath) -> str:
    """Format a path: `apps[1].id`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def read_document(path: Path | None, environment: Mapping[str, str], folder: Path) -> tuple[Document, dict[str, str]]:
    """Read the settings file, the overriding variables and the secrets.

    Args:
        path: the settings file; None if there is none.
        environment: the environment variables.
        folder: the directory of `.env`, and of relative paths.

    Returns:
        The document, and the variables of the environment and of `.env`. The environment takes precedence.

    Raises:
        SettingsError: a file cannot be read, is not a YAML mapping or refers to a variable that is not set, or an
            overriding variable does not name a setting.
    """
    dotenv = read_dotenv(folder / DOTENV)
    variables = {**dotenv, **environment}
    origins = {name: f"variable {name} in {folder / DOTENV}" for name in dotenv if name not in environment}
    empty = frozenset(name for name, value in variables.items() if not value)
    document = Document(str(path) if path else "", origins=origins, empty=empty)
    if path is not None:
        _read_file(path, variables, document)
    for variable in sorted(variables):
        if variable.upper().startswith(PREFIX):
            _override(document, variable, variables[variable])
    _refuse_unset(document)
    _fill_secrets(document, variables, folder)
    return document, variables


def sets_anything(variables: Mapping[str, str]) -> bool:
    """Return whether the variables contain settings; an API key alone does not count."""
    return bool(variables.get("DATABASE_URL")) or any(name.upper().startswith(PREFIX) for name in variables)


class _RefusedError(yaml.YAMLError):
    """A YAML feature that settings files may not use."""

    def __init__(self, line: int, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem
        self.hint = hint


class _Loader(yaml.SafeLoader):
    """A loader that refuses aliases (and so merge keys) and deep nesting, which can use unlimited memory."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose the next node."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise _RefusedError(line, f"aliases such as *{event.anchor} are not supported", "Write the value again.")
        if self._depth > _DEEPEST:
            raise _RefusedError(line, "nested too deeply", "Write it like the file that `cortex-etl init` writes.")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _read_text(path: Path) -> str:
    """Read a text file of limited size.

    Raises:
        OSError: the file cannot be read, or is too large.
        UnicodeDecodeError: the file is not UTF-8 text.
    """
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise OSError(errno.EFBIG, f"larger than {_LARGEST >> 20} MiB", str(path))
    return content.decode("utf-8-sig")


def _read_file(path: Path, environment: Mapping[str, str], document: Document) -> None:
    text = ""
    try:
        text = _read_text(path)
        root = yaml.compose(text, Loader=_Loader)
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot read the settings file: {error.strerror}", hint=_fix_unreadable(error)
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{path}:{line}: not UTF-8 text", hint="Save the file as UTF-8, or name another with --config PATH."
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SettingsError(
            f"{path}:{line}: invalid YAML: unprintable character", hint="Remove the character."
        ) from None
    except _RefusedError as error:
        raise SettingsError(f"{path}:{error.line}: {error.problem}", hint=error.hint) from None
    except yaml.YAMLError as error:
        raise _syntax_error(path, error, text) from None
    if root is None or (isinstance(root, yaml.ScalarNode) and root.value == ""):
        return
    if not isinstance(root, yaml.MappingNode):
        raise SettingsError(
            f"{path}:{root.start_mark.line + 1}: expected sections such as `api:`, got {_kind(root)}",
            hint="Write a new file with `cortex-etl init --config PATH` and compare.",
        )
    reader = _Reader(document, environment)
    document.values = reader.mapping(root, ())
    for name in [name for name, value in document.values.items() if value is None]:
        del document.values[name]  # `api:` without keys is an empty section


def _fix_unreadable(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "Write one with `cortex-etl init`, or name another with --config PATH."
    if isinstance(error, PermissionError):
        return "Give this user permission to read it."
    return "Name a text file with --config PATH."


def _syntax_error(path: Path, error: yaml.YAMLError, text: str) -> SettingsError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "syntax error"
    if "\\t" in problem:
        return SettingsError(
            f"{where}: YAML does not allow tabs for indentation", hint="Replace the tab with two spaces."
        )
    column = f", column {mark.column + 1}" if mark else ""
    if mark and re.search(r"[\[{,]\s*\$\{", text.splitlines()[mark.line] if mark.line < text.count("\n") else ""):
        hint = 'Quote references in brackets: ["${NAME}"].'
        return SettingsError(f"{where}: invalid YAML: {problem}{column}", hint=hint)
    return SettingsError(
        f"{where}: invalid YAML: {problem}{column}",
        hint="Fix that line or the one above it: look for a missing colon, quote or space, or a wrong indentation.",
    )


def _kind(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"


class _Reader:
    """Converts YAML nodes to values and records the place of each value."""

    def __init__(self, document: Document, environment: Mapping[str, str]) -> None:
        self._document = document
        self._environment = environment
        self._scalars = yaml.SafeLoader("")

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            place = f"{self._document.name}:{line}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise SettingsError(f"{place}: expected a key, got {_kind(key_node)}", hint="Write the name of a key.")
            key = str(key_node.value)
            here = (*path, key)
            if key in values:
                raise SettingsError(
                    f"{place}: {dotted(here)}: duplicate key, first set on line {lines[key]}",
                    hint="Keep one of the two.",
                )
            self._document.places[here] = place
            lines[key] = line
            values[key] = self.value(value_node, here)
        return values

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
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
            value = node.value  # YAML 1.1 parses 010 as 8 and 1:30 as 90, which is never intended
        if isinstance(value, str) and "${" in value:
            return self._fill(value, path)
        return value

    def _fill(self, text: str, path: KeyPath) -> str | None:
        def replace(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            if match["bad"] is not None or "${" in (match["default"] or ""):
                wrong = "is not a reference" if match["default"] is None else "is nested, which is not supported"
                raise SettingsError(
                    f"{self._document.place(path)}: {dotted(path)}: {match[0]} {wrong}",
                    hint="Write ${NAME} or ${NAME:-default}.",
                )
            if found := self._environment.get(match["name"]):
                used.append(self._document.origin(match["name"]))
                return found
            if match["default"] is None:
                self._document.unset[path] = match["name"]
            return match["default"] or ""

        used: list[str] = []
        filled = _REFERENCE.sub(replace, text)
        if used:
            self._document.places[path] = ", ".join([self._document.places[path], *dict.fromkeys(used)])
        return None if path in self._document.unset else filled or None


def _override(document: Document, variable: str, text: str) -> None:
    """Set a.b to the value of `CORTEX_ETL__A__B`. The value of a list or a mapping is JSON."""
    path: KeyPath = tuple(part.lower() for part in variable[len(PREFIX) :].split("__"))
    if "" in path:
        raise SettingsError(
            f"environment variable {variable}: the name of a key is missing", hint=f"Write {PREFIX}SECTION__KEY."
        )
    value: Any = text
    if text.lstrip()[:1] in ("[", "{"):
        try:
            value = yaml.load(text, Loader=_Loader)  # noqa: S506 -- a safe one
        except _RefusedError as error:
            message = f"environment variable {variable}: {error.problem}"
            raise SettingsError(message, hint=f"Simplify it, or unset {variable}.") from None
        except (yaml.YAMLError, ValueError):
            raise SettingsError(f"environment variable {variable}: invalid JSON", hint="Fix its value.") from None
    elif text in ("", "null"):
        value = None
    target = document.values
    for part in path[:-1]:
        inner = target.get(str(part))
        if inner is None and part != "apps":
            inner = target[str(part)] = {}
        if not isinstance(inner, dict) or part == "apps":
            raise SettingsError(
                f"environment variable {variable}: {part} is not a section",
                hint=f"Set {PREFIX}{str(path[0]).upper()} to a JSON value instead.",
            )
        target = inner
    target[str(path[-1])] = value
    document.set_place(document.origin(variable), path, value)
    for each in [each for each in document.unset if each[: len(path)] == path]:
        del document.unset[each]


def read_dotenv(path: Path) -> dict[str, str]:
    """Read the variables of a `.env` file; there are none if it does not exist.

    Raises:
        SettingsError: the file cannot be read, or a line is invalid.
    """
    if not path.is_file():
        return {}
    from dotenv.parser import parse_stream  # noqa: PLC0415 -- start-up time, and rarely needed

    try:
        found = list(parse_stream(io.StringIO(_read_text(path))))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(
            f"{path}: cannot read it: {reason}", hint="Fix its permissions, or save it as UTF-8."
        ) from None
    for each in found:
        if each.error:  # the message must not quote the line, which may contain a secret
            text = each.original.string
            line = each.original.line + text.count("\n", 0, len(text) - len(text.lstrip()))
            raise SettingsError(f"{path}:{line}: invalid line", hint="Write it as NAME=value.")
    return {each.key: each.value for each in found if each.key is not None and each.value is not None}


def _refuse_unset(document: Document) -> None:
    """Raise SettingsError for a `${NAME}` that is not set, except in an API key, which many commands do not need."""
    for path, variable in document.unset.items():
        if path[-1] != "key":
            raise SettingsError(
                f"{document.place(path)}: {dotted(path)}: {document.lacks(variable)}",
                hint=f"{document.remedy(variable)}, or set a default: ${{{variable}:-value}}.",
            )


def _fill_secrets(document: Document, variables: Mapping[str, str], folder: Path) -> None:
    """Set missing secrets from the files in `key_file` and `url_file`, and from `CORTEX_API_KEY` and `DATABASE_URL`."""
    for section, key, variable in (("api", "key", "CORTEX_API_KEY"), ("database", "url", "DATABASE_URL")):
        values = document.values.get(section)
        if values is None:
            values = document.values[section] = {}
        if not isinstance(values, dict):
            continue
        _fill_from_file(document, values, (section,), key, folder)
        named = (section, key) in document.unset or (section, key) in document.unread
        if values.get(key) is None and not named and variables.get(variable):
            values[key] = variables[variable]
            document.places[section, key] = document.origin(variable)
    apps = document.values.get("apps")
    for index, app in enumerate(apps if isinstance(apps, list) else []):
        if isinstance(app, dict):
            _fill_from_file(document, app, ("apps", index), "key", folder)


def _fill_from_file(document: Document, values: dict[str, Any], section: KeyPath, key: str, folder: Path) -> None:
    name = values.get(f"{key}_file")
    if values.get(key) is not None or not isinstance(name, str):
        return
    try:
        path = folder / expand_home(Path(name))
    except ValueError:
        return  # the validation of the settings reports it
    where = f"{document.place((*section, f'{key}_file'))}: {dotted((*section, key))}_file"
    try:
        text = _read_text(path).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        unreadable = SettingsError(f"{where}: cannot read {path}: {reason}", hint="Fix the path or its permissions.")
        document.unread[(*section, key)] = unreadable
        return
    if not text:
        document.unread[(*section, key)] = SettingsError(f"{where}: {path} is empty", hint=f"Write the {key} to it.")
        return
    values[key] = text
    document.places[(*section, key)] = f"file {path}"
