"""Convert validation errors of the settings to messages with place, key, expected and actual value."""

from __future__ import annotations

import difflib
import re
from functools import reduce
from operator import getitem
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, SecretStr

from etl.config.document import PREFIX, Document, KeyPath, dotted
from etl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_EXPECTED = {
    "int_parsing": "an integer",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing_size": "a smaller number",
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
_FILLED = re.compile(r":\d+, (?:environment )?variable (.+)")
"""Matches the variable in the place of a value with a `${NAME}`."""


def settings_error(error: ValidationError, document: Document, model: type[BaseModel]) -> SettingsError:
    """Return one error for all problems that pydantic found, with a line for each: place, key, expected, actual value.

    Args:
        error: the error from pydantic.
        document: the document with the places of the values.
        model: the model of the settings, for the names of the keys.
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
        return _unknown_key(where, path, model, is_variable=place.startswith(("environment", "variable")))
    if found["type"] in ("missing", "no_salt"):
        return f"{where} is missing", f"Add `{path[-1]}: ...`."
    if found["type"] == "duplicate_app":
        return f"{where}: duplicate app", "Merge the two, or remove one."
    value = reduce(getitem, found.get("ctx", {}).get("path", ()), found["input"])
    return f"{where}: expected {expected(found)}, got {_shown(path, value, model)}", _hint(found, place)


def _real_path(found: ErrorDetails) -> KeyPath:
    """Return pydantic's location without the names of union members, plus the path reported by a validator."""
    if found["type"] == "extra_forbidden":
        return found["loc"]
    path = tuple(part for part in found["loc"] if isinstance(part, int) or part.isidentifier())
    return (*path, *found.get("ctx", {}).get("path", ()))


def _unknown_key(where: str, path: KeyPath, model: type[BaseModel], *, is_variable: bool) -> tuple[str, str]:
    names = key_names(model, path[:-1])
    spelled = variable_of if is_variable else dotted
    message = f"{where}: unknown key; expected one of {', '.join(names)}"
    for each in all_keys(model):
        if len(each) > 1 and "_".join(map(str, each)) == path[-1]:
            return message, f"Did you mean {spelled(each)}?"
    if near := nearest(str(path[-1]), names):
        return message, f"Did you mean {near}?"
    elsewhere = [spelled(each) for each in all_keys(model) if each[-1] == path[-1]]
    if elsewhere:
        return message, f"Move it to {elsewhere[0]}."
    return message, "Remove it."


def variable_of(path: KeyPath) -> str:
    """Return the name of the variable that overrides a setting."""
    return PREFIX + "__".join(map(str, path)).upper()


def refuse_misspelled(document: Document, variables: Iterable[str], model: type[BaseModel]) -> None:
    """Refuse misspelled variables such as `CORTEX_ETL_API__KEY`, which would have no effect.

    Other variables with the same prefix are ignored, such as `CORTEX_ETL_SERVICE_HOST`, which Kubernetes sets for a
    service named `cortex-etl`.

    Raises:
        SettingsError: a variable is misspelled.
    """
    keys = {"_".join(map(str, path)).upper(): variable_of(path) for path in all_keys(model)}
    for name in sorted(variables):
        start, ours, rest = name.upper().partition("CORTEX_ETL_")
        if start or not ours or rest.startswith("_"):
            continue
        meant = keys.get(rest.replace("__", "_"))
        if meant or "__" in rest:
            raise SettingsError(
                f"{document.origin(name)}: the variables of settings begin with {PREFIX}, with two underscores",
                hint=f"Rename it to {meant or 'CORTEX_ETL__SECTION__KEY'}, or unset it.",
            )


def expected(found: ErrorDetails) -> str:
    """Return the expected value as a noun phrase."""
    kind, context = found["type"], found.get("ctx", {})
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "").replace('"', "")
    for sign, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if sign in context:
            limit = context[sign]
            return f"{words} {int(limit) if limit == int(limit) else limit}"
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


def _hint(found: ErrorDetails, place: str) -> str:
    if found["type"] == "literal_error" and isinstance(found["input"], str):
        options = [each.strip(" '\"") for each in expected(found).replace(" or ", ",").split(",")]
        near = nearest(found["input"], options)
        if near:
            return f"Did you mean {near}?"
    if place.startswith("environment"):
        return f"Set {place.removeprefix('environment variable ')} to a valid value, or unset it."
    if filled := _FILLED.search(place):
        return f"Set {filled[1]} to a valid value."
    file, _, line = place.rpartition(":")
    return f"Change line {line} of {file}." if line.isdigit() else f"Change {place or 'it'}."


def nearest(word: str, names: Iterable[str]) -> str:
    """Return the name of which `word` is probably a misspelling; '' if there is none."""
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
    """Return the paths of all keys of the settings, including sections."""
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
