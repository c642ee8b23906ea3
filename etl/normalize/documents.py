"""Read the API's documents into msgspec structs, which are generated from the columns of `etl.tables`.

A run is decoded in one call. Where that fails, and for the small documents, fields are read one by one: the value of a
field is cleaned and fitted, and unknown fields are collected in `extra`. The result is the same struct, so a single
function makes the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Union

import msgspec
from msgspec import Raw

from etl.decode.json_text import UNREADABLE, Json, clean_json, clean_text, dump, parse
from etl.errors import RecordError
from etl.normalize.fitting import FITTERS, Part, refuse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from etl.tables import Column, Table


def fields_at(table: Table, parent: str) -> list[Column]:
    """Return the columns of a table that hold a field of the object at `parent`."""
    return [column for column in table.columns if column.path and column.parent == parent]


class _Never:
    """The type of struct fields that the document does not have; no JSON value decodes to it."""


class Document(Part):
    """One kind of object in the API.

    The attribute `extra` of its struct is None if the object was decoded in one call. Otherwise it has the fields
    without a column and those whose columns cannot hold them.

    Args:
        name: name of the struct.
        columns: the columns that hold a field of this object.
        others: further fields, such as nested documents.
        known: the fields of the object, if it has only some of the struct's fields.
        strict: whether unknown fields are kept and values of unexpected types refused; otherwise both are ignored.
        module: the module that defines the struct's name, if the type of a field refers to it.
    """

    def __init__(
        self,
        name: str,
        columns: Iterable[Column],
        others: Mapping[str, Part] | None = None,
        *,
        known: Iterable[str] | None = None,
        strict: bool = True,
        module: str = __name__,
    ) -> None:
        fields: dict[str, Part] = {}
        for column in columns:
            fields.setdefault(column.field, FITTERS[column.fitter])
        fields |= others or {}
        self.fields = fields if known is None else {field: fields[field] for field in known}
        self._strict = strict
        types = {field: part.decoded if field in self.fields else _Never for field, part in fields.items()}
        self.struct = msgspec.defstruct(
            name,
            [*((field, types[field], part.default) for field, part in fields.items()), ("extra", _Never, None)],
            module=module,
            forbid_unknown_fields=strict,
            gc=False,  # the structs cannot be part of a cycle
        )
        self.decoded: Any = self.struct | None
        self.empty: Any = self.struct()

    def _read(self, raw: bytes | Raw, place: str, *, at_once: bool) -> Any:
        members = members_of(raw, place)
        return None if members is None else self.fill(members, place, at_once=at_once)

    def fill(self, members: dict[str, Raw], place: str, *, at_once: bool) -> Any:
        """Read a document from the JSON texts of its fields; see `read`."""
        document: Any = self.struct()
        extra: dict[str, Raw] = {}
        for field, raw in members.items():
            part = self.fields.get(field)
            try:
                if part is not None:
                    at = f"{place}.{field}" if place else field
                    setattr(document, field, part.read(raw, at, at_once=at_once))
                elif self._strict:
                    extra[field] = raw
            except OverflowError:
                extra[field] = raw
            except RecordError:
                if self._strict:
                    raise
        document.extra = extra and {clean_text(field): Raw(clean_json(bytes(raw))) for field, raw in extra.items()}
        return document


class Each(Part):
    """A field with several objects of one kind, in a JSON object (by key) or in an array.

    Args:
        document: the kind of the objects. Null counts as an empty object, except in an array.
        keyed: whether the field may be an object.
        listed: whether the field may be an array.
    """

    def __init__(self, document: Document, *, keyed: bool = False, listed: bool = False) -> None:
        self._document = document
        self._keyed = keyed
        self._listed = listed
        by_key, in_list = dict[str, document.decoded], list[document.struct]  # type: ignore[name-defined]
        self.decoded: Any = Union[(None, *[by_key] * keyed, *[in_list] * listed)]

    def _read(self, raw: bytes | Raw, place: str, *, at_once: bool) -> Any:
        if self._keyed and not (self._listed and memoryview(raw)[0] == _BRACKET):
            members = members_of(raw, place)
            return members and {  # a key may contain personal data, so messages use its position instead
                key: self._document.read(each, f"{place}.{ordinal}", at_once=at_once)
                for ordinal, (key, each) in enumerate(members.items())
            }
        items = items_of(raw, place)
        places = [f"{place}.{ordinal}" for ordinal in range(len(items or ()))]
        return items and [
            self._document.read(each, at, at_once=at_once) or refuse(at, "an object", None)
            for each, at in zip(items, places, strict=True)
        ]


_BRACKET: Final = ord("[")
_MEMBERS: Final[msgspec.json.Decoder[dict[str, Raw] | None]] = msgspec.json.Decoder(dict[str, Raw] | None)
_ITEMS: Final[msgspec.json.Decoder[list[Raw] | None]] = msgspec.json.Decoder(list[Raw] | None)


def members_of(raw: bytes | Raw, place: str) -> dict[str, Raw] | None:
    """Return the fields of an object; None for null. Values may be nested to any depth.

    Raises:
        RecordError: `invalid_json`; `not_an_object` or `invalid_field` if the value is not an object.
    """
    try:
        return _MEMBERS.decode(raw)
    except UNREADABLE:
        return {key: Raw(dump(value)) for key, value in parse_object(bytes(raw), place).items()}


def parse_object(raw: bytes, place: str = "") -> dict[str, Json]:
    """Parse an object; raises like `members_of`."""
    value = parse(raw)
    return value if isinstance(value, dict) else refuse(place, "an object", value)


def items_of(raw: bytes | Raw, place: str) -> list[Raw] | None:
    """Return the items of an array; None for null. Items may be nested to any depth. Raises like `members_of`."""
    try:
        return _ITEMS.decode(raw)
    except UNREADABLE:
        value = parse(bytes(raw))
        return [Raw(dump(item)) for item in value] if isinstance(value, list) else refuse(place, "an array", value)
