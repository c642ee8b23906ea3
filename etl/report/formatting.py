"""Format numbers, durations and times for display."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date, datetime

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))  # (seconds, unit), largest first
NOTHING = "\u2013"
_MINUS = "\u2212"
_GAP = "\u00a0"  # keeps a number and its unit on one line


def count(number: int | None, noun: str = "", plural: str = "") -> str:
    """Format an integer, optionally with a noun: `1,204 runs`, `1 run`."""
    if number is None:
        return NOTHING
    if not noun:
        return f"{number:,}"
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def percent(rate: float | None) -> str:
    """Format a rate from 0 to 1 as a percentage with two significant digits; small rates are not rounded to 0 %."""
    if rate is None:
        return NOTHING
    if 0 < rate < 0.0005:
        return f"<0.1{_GAP}%"
    if 0.9995 < rate < 1:
        return f">99.9{_GAP}%"
    return f"{rate * 100:.0f}{_GAP}%" if rate >= 0.0995 or rate == 0 else f"{rate * 100:.1f}{_GAP}%"


def rate_with_numbers(part: int, whole: int) -> str:
    """Format a rate with its numbers: `8.2 % (38 of 463)`."""
    return f"{percent(part / whole if whole else None)} ({part:,} of {whole:,})"


def credit(number: Decimal | float) -> str:
    """Format an amount of credits with about three significant digits."""
    amount = Decimal(number)
    size = amount.copy_abs()
    if size >= 10**15:
        return f"{amount:.2e}"
    if size >= 100 or size == 0:
        return f"{amount:,.0f}".replace("-", _MINUS)
    if size < Decimal("1e-6"):
        return "<0.000001" if amount > 0 else f">{_MINUS}0.000001"
    digits = min(6, max(0, 2 - size.adjusted()))
    return f"{amount:.{digits}f}".replace("-", _MINUS)


def seconds(length: float | None) -> str:
    """Format a duration with its two largest units."""
    if length is None:
        return NOTHING
    sign = _MINUS if length < 0 else ""
    length = abs(length)
    if length < 10:
        return f"{sign}{length:.2g}{_GAP}s" if length >= 0.001 or length == 0 else f"{sign}<1{_GAP}ms"
    if length < 60:
        return f"{sign}{length:.0f}{_GAP}s"
    for index, (unit, name) in enumerate(_UNITS):
        if length >= unit:
            whole, rest = divmod(round(length), unit)
            smaller, smaller_name = _UNITS[index + 1] if index + 1 < len(_UNITS) else (1, "s")
            part = rest // smaller
            return f"{sign}{whole:,}{_GAP}{name}" + (
                f"{_GAP}{part}{_GAP}{smaller_name}" if part and whole < 100 else ""
            )
    return f"{sign}{length:.0f}{_GAP}s"


def ago(moment: datetime | None, now: datetime) -> str:
    """Format the time since a moment in one unit, such as `5 min ago`; `never` for None."""
    if moment is None:
        return "never"
    length = (now - moment).total_seconds()
    if length < 60:
        return "just now" if length > -60 else "in the future"
    unit, name = next((unit, name) for unit, name in _UNITS if length >= unit)
    return f"{length // unit:,.0f}{_GAP}{name} ago"


def day(moment: date) -> str:
    """Format a day: `3 Nov 2026`."""
    return f"{moment.day} {moment:%b} {moment.year}"


def short_day(moment: date) -> str:
    """Format a day without its year: `Tue 3 Nov`."""
    return f"{moment:%a} {moment.day} {moment:%b}"


def day_month(moment: date) -> str:
    """Format a day without its year and weekday: `3 Nov`."""
    return f"{moment.day}{_GAP}{moment:%b}"


def change(ratio: float) -> str:
    """Format a ratio as a change: `+50 %`, or from 2 on as a factor: `3.1 times`."""
    if ratio >= 2:
        return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.1f} times"
    return f"{'+' if ratio > 1 else _MINUS}{abs(ratio - 1) * 100:.0f}{_GAP}%"


def minute(moment: datetime | None) -> str:
    """Format a UTC time to the minute."""
    return NOTHING if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def shortened(text: str, longest: int) -> str:
    """Truncate a text to one line of at most `longest` characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
