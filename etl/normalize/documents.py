"""Decode the API's documents to msgspec structs, which are generated from the columns of `etl.tables`.

A document is decoded in one call. If that fails, it is read field by field: unknown fields are collected in `extra`,
nested documents are read separately, and values of unexpected types are fitted one by one. If a decoded value does not
fit its column, nested documents are read field by field too. The result is the same struct in all cases, so a single
function makes the rows.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeVar, Union

import msgspec
from msgspec import Raw

from etl.decode.json_text import UNREADABLE, dump, parse
from etl.errors import RecordError
from etl.normalize.fitting import FITTERS, UNFIT, UnfitError, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from etl.tables import Column, Table

T = TypeVar("T")


def fields_at(table: Table, parent: str) -> list[Column]:
    """Return the columns of a table that hold a field of the object at `parent`."""
    return [column for column in table.columns if column.path and column.parent == parent]


class Part(Protocol):
    """The reader of a field: `Fitter` for a single value, `Document` for an object, or `Each` for several objects."""

    @property
    def decoded(self) -> Any:
        """The type to which msgspec decodes the field."""

    @property
    def default(self) -> Any:
        """The value of a field that is null or absent."""

    def read(self, raw: Raw, place: str, *, check: bool) -> Any:
        """See `Fitter.read`; without `check`, nested documents are decoded in one call."""


class _Never:
    """The type of struct fields that the document does not have; no JSON value decodes to it."""


class Document:
    """One kind of object in the API.

    The attribute `extra` of its struct holds the fields without a column.

    Args:
        name: name of the struct.
        columns: the columns that hold a field of this object.
        others: further fields, such as nested documents.
        known: the fields of the object, if it has only some of the struct's fields.
        strict: whether unknown fields are kept and values of unexpected types refused; otherwise both are ignored.
        module: the module that defines the struct's name, if the type of a field refers to it.
    """

    default: ClassVar[None] = None

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
        self.struct = msgspec.defstruct(
            name,
            [
                *(
                    (each, part.decoded if each in self.fields else _Never, part.default)
                    for each, part in fields.items()
                ),
                ("extra", _Never, None),
            ],
            module=module,
            forbid_unknown_fields=strict,
            gc=False,  # the structs cannot be part of a cycle
        )
        self.empty: Any = self.struct()

    @property
    def decoded(self) -> Any:
        """The type to which msgspec decodes the object."""
        return self.struct | None

    @cached_property
    def decode(self) -> Callable[[bytes | Raw], Any]:
        """Decode a document in one call; raise one of `UNREADABLE` if it is not as expected."""
        return msgspec.json.Decoder(self.decoded).decode

    def rows(self, raw: bytes | Raw, place: str, make: Callable[[Any], T]) -> T:
        """Decode the document and return the result of `make`; if that raises one of `UNFIT`, fit the values first."""
        try:
            return make(self.read(raw, place))
        except UNFIT:
            return make(self.read(raw, place, check=True))

    def read(self, raw: bytes | Raw, place: str, *, check: bool = False) -> Any:
        """Decode the document at `place`; return None for null.

        Raises:
            RecordError: the document is invalid; the error names the first reason.
        """
        if not check:
            try:
                return self.decode(raw)
            except UNREADABLE:
                pass
        members = members_of(raw, place)
        return None if members is None else self.fill(members, place, check=check)

    def fill(self, members: dict[str, Raw], place: str, *, check: bool) -> Any:
        """Read a document field by field; raises like `read`."""
        document: Any = self.struct()
        extra: dict[str, Any] = {}
        for field, value in members.items():
            part = self.fields.get(field)
            if part is None:
                extra[field] = value
                continue
            try:
                setattr(document, field, part.read(value, f"{place}.{field}" if place else field, check=check))
            except UnfitError:
                extra[field] = value
            except RecordError:
                if self._strict:
                    raise
        if not self._strict:
            extra = {field: value for field, value in extra.items() if field in self.fields}
        document.extra = extra or None
        return document


class Each:
    """A field with several objects of one kind, in a JSON object (by key) or in an array.

    Args:
        document: the kind of the objects. Null counts as an empty object, except in an array.
        keyed: whether the field may be an object.
        listed: whether the field may be an array.
    """

    default: ClassVar[None] = None

    def __init__(self, document: Document, *, keyed: bool = False, listed: bool = False) -> None:
        self._document = document
        self._keyed = keyed
        self._listed = listed

    @property
    def decoded(self) -> Any:
        """The type to which msgspec decodes the field."""
        types: list[Any] = [None]
        if self._keyed:
            types.append(dict[str, self._document.decoded])  # type: ignore[name-defined]
        if self._listed:
            types.append(list[self._document.struct])  # type: ignore[name-defined]
        return Union[tuple(types)]  # noqa: UP007 - built at run time

    @cached_property
    def _decode(self) -> Callable[[bytes | Raw], Any]:
        return msgspec.json.Decoder(self.decoded).decode

    def read(self, raw: Raw, place: str, *, check: bool = False) -> Any:
        """Decode the field at `place`; see `Document.read`."""
        if not check:
            try:
                return self._decode(raw)
            except UNREADABLE:
                pass
        if self._keyed and not (self._listed and memoryview(raw)[0] == _BRACKET):
            members = members_of(raw, place) or {}
            return {  # a key may contain personal data, so messages use its position instead
                key: self._document.read(each, f"{place}.{ordinal}", check=check)
                for ordinal, (key, each) in enumerate(members.items())
            }
        items = []
        for ordinal, each in enumerate(items_of(raw, place)):
            at = f"{place}.{ordinal}"
            items.append(self._document.read(each, at, check=check) or refuse(at, "an object", None))
        return items


_BRACKET: Final = ord("[")
_MEMBERS: Final[msgspec.json.Decoder[dict[str, Raw] | None]] = msgspec.json.Decoder(dict[str, Raw] | None)
_ITEMS: Final[msgspec.json.Decoder[list[Raw] | None]] = msgspec.json.Decoder(list[Raw] | None)


def members_of(raw: bytes | Raw, place: str) -> dict[str, Raw] | None:
    """Return the fields of an object; None for null. Values may be nested to any depth.

    Raises:
        RecordError: `invalid_json`, or `invalid_field` if the value is not an object.
    """
    try:
        return _MEMBERS.decode(raw)
    except UNREADABLE:
        value = parse(bytes(raw))
    if not isinstance(value, dict):
        refuse(place, "an object", value)
    return {key: Raw(dump(item)) for key, item in value.items()}


def items_of(raw: bytes | Raw, place: str) -> list[Raw]:
    """Return the items of an array, which may be nested to any depth; [] for null. Raises like `members_of`."""
    try:
        return _ITEMS.decode(raw) or []
    except UNREADABLE:
        value = parse(bytes(raw))
    if not isinstance(value, list):
        refuse(place, "an array", value)
    return [Raw(dump(item)) for item in value]
