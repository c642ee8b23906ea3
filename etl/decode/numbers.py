"""JSON values, and numbers that keep their digits."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any, Final, Self, TypeAlias

Json: TypeAlias = Any
"""A parsed JSON value: dict, list, str, `Number`, bool or None."""

# PostgreSQL's numeric: digits before and behind the decimal point.
_NUMERIC_WHOLE: Final = 131072
_NUMERIC_SCALE: Final = 16383


class Number(Decimal):
    """A JSON number that remembers its digits: `literal` is the text as received.

    Its value is infinite where the exponent is beyond what Decimal can hold.
    """

    __slots__ = ("literal",)
    literal: str

    def __new__(cls, literal: str) -> Self:
        """Make the number from its JSON text."""
        try:
            number = super().__new__(cls, literal)
        except InvalidOperation:
            number = super().__new__(cls, "-Infinity" if literal.startswith("-") else "Infinity")
        number.literal = literal
        return number

    @property
    def storable(self) -> bool:
        """Whether PostgreSQL's numeric, which is also what jsonb keeps numbers as, can hold it."""
        literal = self.literal
        if len(literal) < _NUMERIC_SCALE and "e" not in literal and "E" not in literal:
            return True
        exponent = self.as_tuple().exponent
        if not isinstance(exponent, int):
            return False
        return -exponent <= _NUMERIC_SCALE and (not self or self.adjusted() < _NUMERIC_WHOLE)

    def __reduce__(self) -> tuple[type[Number], tuple[str]]:
        """Survive pickling and copying with the literal."""
        return (Number, (self.literal,))
