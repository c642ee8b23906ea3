"""Validation errors of the settings as messages with place, key, what was expected and what was found."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, SecretStr

from etl.config.document import Document, KeyPath, dotted
from etl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_EXPECTED = {
    "int_parsing": "an integer",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text (quote it)",
    "list_type": "a list",
    "model_type": "a section",
    "model_attributes_type": "a section",
    "path_type": "a path",
}


def settings_error(error: ValidationError, document: Document, model: type[BaseModel]) -> SettingsError:
    """Make one error of all that pydantic found, a line each: place, key, what was expected and what was found.

    Args:
        error: the error of pydantic.
        document: knows where the values came from.
        model: the settings, for the names of their keys.
    """
    lines: list[str] = []
    hints: list[str] = []
    for each in error.errors(include_url=False):
        line, hint = _problem(each, document, model)
        if line not in lines:
            lines.append(line)
            hints.append(hint)
    return SettingsError("\n".join(lines), hint=hints[0] if len(lines) == 1 else "Fix these lines.")


def _problem(found: ErrorDetails, document: Document, model: type[BaseModel]) -> tuple[str, str]:
    path = _real_path(found)
    place = document.place(path)
    where = f"{place}: {dotted(path)}" if place else dotted(path)
    if found["type"] == "extra_forbidden":
        return _unknown_key(where, path, model)
    if found["type"] in ("missing", "no_salt"):
        return f"{where} is missing", f"Add `{path[-1]}: ...`."
    if found["type"] == "duplicate_app":
        return f"{where}: duplicate app", "Merge the two, or remove one."
    expected = "a number of seconds" if _wants_seconds(path, found) else _expected(found)
    return f"{where}: expected {expected}, got {_shown(path, found['input'], model)}", _hint(found, place)


def _real_path(found: ErrorDetails) -> KeyPath:
    """Drop the names of union members from pydantic's location, and add the part that a validator named."""
    if found["type"] == "extra_forbidden":
        return found["loc"]
    path = tuple(part for part in found["loc"] if isinstance(part, int) or part.isidentifier())
    return (*path, *found.get("ctx", {}).get("path", ()))


def _unknown_key(where: str, path: KeyPath, model: type[BaseModel]) -> tuple[str, str]:
    names = key_names(model, path[:-1])
    near = nearest(str(path[-1]), names)
    elsewhere = [dotted(each) for each in all_keys(model) if each[-1] == path[-1]]
    message = f"{where}: unknown key; expected one of {', '.join(names)}"
    if near:
        return message, f"Did you mean {near}?"
    if elsewhere:
        return message, f"Move it to {elsewhere[0]}."
    return message, "Remove it."


def _expected(found: ErrorDetails) -> str:
    """Return what was expected, as a noun phrase."""
    kind, context = found["type"], found.get("ctx", {})
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "").replace('"', "")
    for sign, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if sign in context:
            return f"{words} {context[sign]:g}"
    return found["msg"].removeprefix("Value error, ")


def _shown(path: KeyPath, value: Any, model: type[BaseModel]) -> str:
    is_secret = any(part in secret_keys(model) for part in path) or isinstance(value, SecretStr)
    if is_secret or (isinstance(value, str) and "@" in value):
        return "a value that is not shown"
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list"
    text = repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _wants_seconds(path: KeyPath, found: ErrorDetails) -> bool:
    return str(path[-1]).endswith("_s") and found["type"].startswith("float")


def _hint(found: ErrorDetails, place: str) -> str:
    if found["type"] == "literal_error" and isinstance(found["input"], str):
        options = [each.strip(" '\"") for each in _expected(found).replace(" or ", ",").split(",")]
        near = nearest(found["input"], options)
        if near:
            return f"Did you mean {near}?"
    if place.startswith("environment"):
        return f"Set {place.removeprefix('environment variable ')} to a valid value, or unset it."
    file, _, line = place.rpartition(":")
    return f"Change line {line} of {file}." if line.isdigit() else f"Change {place or 'it'}."


def nearest(word: str, names: Iterable[str]) -> str:
    """Return the name that `word` is probably a misspelling of, or ''."""
    folded = {name.lower(): name for name in names}
    plain = word.lower().replace("-", "_")
    if plain in folded:
        return folded[plain]
    close = difflib.get_close_matches(plain, folded, n=1, cutoff=0.6)
    if close:
        return folded[close[0]]
    within = [name for name in folded if len(plain) > 2 and (plain in name or name in plain)]
    return folded[within[0]] if len(within) == 1 else ""


def key_names(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys of the section at `path`."""
    for part in path:
        if isinstance(part, int):
            continue
        name, info = next(each for each in model.model_fields.items() if part in (each[0], each[1].alias))
        inner = _section_of(info.annotation)
        if inner is None:
            raise LookupError(f"{name} is not a section")
        model = inner
    return [info.alias or name for name, info in model.model_fields.items()]


def all_keys(model: type[BaseModel]) -> list[KeyPath]:
    """Return the path of every key of the settings, sections included."""
    paths: list[KeyPath] = []
    for name, info in model.model_fields.items():
        here = (info.alias or name,)
        paths.append(here)
        inner = _section_of(info.annotation)
        if inner is not None:
            paths.extend((*here, *rest) for rest in all_keys(inner))
    return paths


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def secret_keys(model: type[BaseModel]) -> set[str]:
    """Return the names of the keys whose values are secrets."""
    names: set[str] = set()
    for name, info in model.model_fields.items():
        inner = _section_of(info.annotation)
        if inner is not None:
            names |= secret_keys(inner)
        elif _is_secret(info.annotation):
            names.add(name)
    return names


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_is_secret(each) for each in get_args(annotation))
