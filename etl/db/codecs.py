"""Codecs between Python and PostgreSQL values, in the binary format that COPY needs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncpg

_JSONB: Final = b"\x01"  # version number, which precedes the text in the binary format of jsonb
_TIME_ZERO: Final = datetime(2000, 1, 1, tzinfo=UTC)  # the binary format of timestamptz counts microseconds from here


async def prepare(connection: asyncpg.Connection) -> None:
    """Set the codecs of `jsonb` and `timestamptz`.

    `jsonb` is JSON text: `bytes` or `str` in, `str` out. `timestamptz` is a `datetime` with a time zone, or an `int`
    that counts microseconds since 2000-01-01 UTC. asyncpg's own codec is not used, because it converts the earliest and
    the latest datetime to infinity, and returns infinity as a datetime without a time zone.
    """
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_encode_jsonb, decoder=_decode_jsonb, format="binary"
    )
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=_encode_time, decoder=_decode_time, format="tuple"
    )


async def prepare_to_load(connection: asyncpg.Connection) -> None:
    """Set the codecs for loading: `jsonb` and `numeric` are bytes in binary format, as created by `etl.normalize`."""
    await prepare(connection)
    for each in ("jsonb", "numeric"):
        await connection.set_builtin_type_codec(each, schema="pg_catalog", codec_name="bytea", format="binary")


def _encode_jsonb(text: bytes | str) -> bytes:
    return _JSONB + (text.encode() if isinstance(text, str) else text)


def _decode_jsonb(value: bytes) -> str:
    return str(value[len(_JSONB) :], "utf-8")


def _encode_time(time: datetime | int) -> tuple[int]:
    if isinstance(time, int):
        return (time,)
    since = time - _TIME_ZERO
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds,)


def _decode_time(value: tuple[int]) -> datetime:
    return _TIME_ZERO + timedelta(microseconds=value[0])
