"""Values in the binary form in which PostgreSQL takes them: what rows hold of the types that Python has no match for.

Made here, where most of them repeat, they cost COPY a copy of their bytes and no call into Python. The forms are those
of PostgreSQL's `jsonb_recv` and `numeric_recv`, the same in all versions since 9.4.
"""

from __future__ import annotations

from decimal import Decimal
from struct import pack
from typing import Final

JSONB: Final = b"\x01"
"""What stands before the JSON text in a jsonb: the version of the form."""

# Of numeric: how many groups of four decimal digits, the weight of the first one (a power of 10,000), the sign, and how
# many digits stand behind the point; then the groups.
_NUMERIC_HEAD: Final = "!HhHH"
_NEGATIVE: Final = 0x4000
_USUAL_LENGTH: Final = 100
_TO_WHOLE_GROUPS: Final = (1, 1000, 100, 10)  # what to multiply by, after how many digits of the last group


def numeric(text: str) -> bytes:
    """The number that `text` says, with its digits as they are; JSON's way of writing, or Python's for a `Decimal`.

    Raises:
        ArithmeticError: it is no number.
        struct.error: it has more digits than the form can tell.
    """
    whole, _, part = text.partition(".")
    if len(text) > _USUAL_LENGTH or not (whole + part).isdecimal():
        return _unusual(Decimal(text))
    left, behind = int(whole + part) * _TO_WHOLE_GROUPS[len(part) % 4], -(-len(part) // 4)
    groups: list[int] = []
    while left:
        left, group = divmod(left, 10_000)
        groups.append(group)
    groups.reverse()
    count = len(groups)
    return pack(f"{_NUMERIC_HEAD}{count}H", count, count - behind - 1, 0, len(part), *groups)


def _unusual(number: Decimal) -> bytes:
    """Of a number with a sign, an exponent or very many digits."""
    whole, _, part = format(number.copy_abs(), "f").partition(".")
    before, behind = -(-len(whole) // 4), -(-len(part) // 4)
    digits = whole.zfill(before * 4) + part.ljust(behind * 4, "0")
    groups = [int(digits[at : at + 4]) for at in range(0, len(digits), 4)]
    filled = [place for place, group in enumerate(groups) if group] or [0]
    used = groups[filled[0] : filled[-1] + 1]
    sign = _NEGATIVE if number.is_signed() else 0
    return pack(f"{_NUMERIC_HEAD}{len(used)}H", len(used), before - 1 - filled[0], sign, len(part), *used)
