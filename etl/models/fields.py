"""What the documents are made of: field types, the base of all documents, and validation with readable errors."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, PlainValidator, Strict, ValidationError
from pydantic_core import PydanticCustomError

from etl.errors import RecordError
from etl.models.moments import Moment, read_moment


def _refuse(expected: str) -> NoReturn:
    raise PydanticCustomError("expected", "{expected}", {"expected": expected})


def _number(value: object) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    _refuse("a number")


def _moment(value: object) -> Moment:
    if isinstance(value, str):
        try:
            return read_moment(value)
        except ValueError:
            _refuse("an ISO 8601 date")
    _refuse("an ISO 8601 date")


def _object(value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    _refuse("an object")


def _list(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    _refuse("a list")


Text = Annotated[str, Strict()]
Flag = Annotated[bool, Strict()]
Numeric = Annotated[Decimal, PlainValidator(_number)]
Date = Annotated[Moment, PlainValidator(_moment)]
Object = Annotated[dict[str, Any], PlainValidator(_object)]
"""An object that is validated later, or never."""
Items = Annotated[list[Any], PlainValidator(_list)]
"""A list whose items are validated later, or never."""


class Document(BaseModel):
    """Any document of the API; fields that no model knows are kept."""

    # Most commands never validate most of these: each is made ready when it is first used, not when it is imported.
    model_config = ConfigDict(extra="allow", defer_build=True)

    @property
    def unknown(self) -> dict[str, Any]:
        """The fields that the model does not know, in the order in which they came."""
        return self.model_extra or {}


Model = TypeVar("Model", bound=Document)

_EXPECTED: Final = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "missing": "a value",
}


def validated(model: type[Model], value: object, path: str = "") -> Model:
    """Validate one document that stands at `path` of the payload.

    Raises:
        RecordError: `invalid_field`, naming the first wrong field, what was expected there and what was found.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in ([path] if path else []) + list(first["loc"])) or "the item"
        expected = _EXPECTED.get(first["type"], first["msg"])
        found = "nothing" if first["type"] == "missing" else describe(first["input"])
        raise RecordError("invalid_field", f"{place}: expected {expected}, found {found}") from None


def describe(value: object) -> str:
    """What a JSON value is, for a message; of text no more than its beginning."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value[:40]!r}{'...' if len(value) > 40 else ''}"
    if isinstance(value, Decimal | int | float):
        return "a number"
    return "a list" if isinstance(value, list) else "an object"
