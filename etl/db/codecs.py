"""How values travel between Python and PostgreSQL: in the binary form that COPY needs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from struct import pack, unpack_from
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncpg

_JSONB_VERSION: Final = b"\x01"  # the first byte of jsonb's binary form
_TIME_ZERO: Final = datetime(2000, 1, 1, tzinfo=UTC)  # of timestamptz's binary form, which counts microseconds

# Of numeric: how many groups of four decimal digits, the weight of the first one (a power of 10,000), the sign, and how
# many digits stand behind the point; then the groups.
_NUMERIC_HEAD: Final = "!HhHH"
_NEGATIVE: Final = 0x4000
_NO_NUMBERS: Final = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}
_TO_WHOLE_GROUPS: Final = (1, 1000, 100, 10)  # what to multiply by, after how many digits of the last group
_USUAL_LENGTH: Final = 100


async def prepare(connection: asyncpg.Connection) -> None:
    """Let `jsonb` and `timestamptz` travel as the warehouse has them.

    `jsonb` as JSON text: `bytes` or `str` in, `str` out. `timestamptz` as a `datetime` with a zone: asyncpg's own codec
    makes infinities of the first and the last microsecond of the years 1 to 9999, and times without a zone of those.
    An `int` counts microseconds from the year 2000 on, as PostgreSQL does.
    """
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_encode_jsonb, decoder=_decode_jsonb, format="binary"
    )
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=_encode_time, decoder=_decode_time, format="tuple"
    )


async def prepare_to_load(connection: asyncpg.Connection) -> None:
    """Let `numeric`, too, travel as rows have it: as text in; out as a `Decimal`, but slower than by asyncpg's own."""
    await prepare(connection)
    await connection.set_type_codec(
        "numeric", schema="pg_catalog", encoder=_encode_numeric, decoder=_decode_numeric, format="binary"
    )


def _encode_jsonb(text: bytes | str) -> bytes:
    return _JSONB_VERSION + (text.encode() if isinstance(text, str) else text)


def _decode_jsonb(value: bytes) -> str:
    return str(value[1:], "utf-8")


def _encode_time(time: datetime | int) -> tuple[int]:
    if isinstance(time, int):
        return (time,)
    since = time - _TIME_ZERO
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds,)


def _decode_time(value: tuple[int]) -> datetime:
    return _TIME_ZERO + timedelta(microseconds=value[0])


def _encode_numeric(text: str) -> bytes:
    return _short_numeric(text) if len(text) <= _USUAL_LENGTH else _unusual_numeric(Decimal(text))


@lru_cache(maxsize=16_384)  # credits repeat: most of all 0
def _short_numeric(text: str) -> bytes:
    whole, _, part = text.partition(".")
    if not (whole + part).isdecimal():
        return _unusual_numeric(Decimal(text))
    left, behind = int(whole + part) * _TO_WHOLE_GROUPS[len(part) % 4], -(-len(part) // 4)
    groups: list[int] = []
    while left:
        left, group = divmod(left, 10_000)
        groups.append(group)
    groups.reverse()
    count = len(groups)
    return pack(f"{_NUMERIC_HEAD}{count}H", count, count - behind - 1, 0, len(part), *groups)


def _unusual_numeric(number: Decimal) -> bytes:
    """Of a number with a sign, an exponent or very many digits."""
    whole, _, part = format(number.copy_abs(), "f").partition(".")
    before, behind = -(-len(whole) // 4), -(-len(part) // 4)
    digits = whole.zfill(before * 4) + part.ljust(behind * 4, "0")
    groups = [int(digits[at : at + 4]) for at in range(0, len(digits), 4)]
    filled = [place for place, group in enumerate(groups) if group] or [0]
    used = groups[filled[0] : filled[-1] + 1]
    sign = _NEGATIVE if number.is_signed() else 0
    return pack(f"{_NUMERIC_HEAD}{len(used)}H", len(used), before - 1 - filled[0], sign, len(part), *used)


def _decode_numeric(value: bytes) -> Decimal:
    count, weight, sign, scale = unpack_from(_NUMERIC_HEAD, value)
    if sign in _NO_NUMBERS:
        return Decimal(_NO_NUMBERS[sign])
    digits = "".join(f"{group:04}" for group in unpack_from(f"!{count}H", value, 8))
    missing = scale - (count - 1 - weight) * 4 if count else 0
    digits = digits + "0" * missing if missing >= 0 else digits[:missing]
    return Decimal(f"{'-' if sign else ''}{digits or '0'}E-{scale}")
