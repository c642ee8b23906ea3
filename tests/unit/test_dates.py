"""The API's dates, in every form that ISO 8601 allows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.normalize.fitting import is_bare_day, time_of

# By `datetime.fromisoformat`, in one version or another.
PYTHON_READS_TOO = (
    "2026-09-02T10:00:102Z",
    "2026-09-02T10:00:10xZ",
    "2026-09-02x10:00:00Z",
    "2026-09-02x10:00:00",
    "2026-09-02T10:00.10Z",
    "2026-09-02T10:00,10Z",
    "2026-09-02T10100210Z",
)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-09-02T10:00:00.123Z", datetime(2026, 9, 2, 10, 0, 0, 123000, tzinfo=UTC)),
        ("2026-09-02T10:00:00.1234569Z", datetime(2026, 9, 2, 10, 0, 0, 123456, tzinfo=UTC)),
        ("2026-09-02T10:00:00,5", datetime(2026, 9, 2, 10, 0, 0, 500000, tzinfo=UTC)),
        ("2026-09-02 10:00", datetime(2026, 9, 2, 10, tzinfo=UTC)),
        ("2026-09-02t10:00:00z", datetime(2026, 9, 2, 10, tzinfo=UTC)),
        ("2026-09-02T10:00:00-0530", datetime(2026, 9, 2, 15, 30, tzinfo=UTC)),
        ("2026-09-02T10:00:00 +02", datetime(2026, 9, 2, 8, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2023-12-25T24:00:00Z", datetime(2023, 12, 26, tzinfo=UTC)),
        ("2023-12-25T24:00+02:00", datetime(2023, 12, 25, 22, tzinfo=UTC)),
        ("20260902T100000Z", datetime(2026, 9, 2, 10, tzinfo=UTC)),
        ("20260902 100000", datetime(2026, 9, 2, 10, tzinfo=UTC)),
        ("2026-W36-3t10:00z", datetime(2026, 9, 2, 10, tzinfo=UTC)),
        ("2026-09-02T10:00:00+02:00:30", datetime(2026, 9, 2, 7, 59, 30, tzinfo=UTC)),
    ],
)
def test_timestamps(text: str, time: datetime) -> None:
    assert (time_of(text), is_bare_day(text)) == (time, False)


@pytest.mark.parametrize("text", ["2026-09-02", "20260902", "2026-W36-3"])
def test_days(text: str) -> None:
    assert (time_of(text), is_bare_day(text)) == (datetime(2026, 9, 2, tzinfo=UTC), True)


@pytest.mark.parametrize(
    "text",
    [
        "+10000-01-01",
        "10000-01-01T00:00:00Z",
        "0000-02-29",
        "-0001-01-01",
        "+275760-09-13T00:00:00Z",
        "9999-12-31T23:00:00-02:00",
        "00010101T000000+0100",
        "99991231T235959-0100",
        "9999-12-31T24:00:00Z",
    ],
)
def test_times_beyond_the_calendar_overflow(text: str) -> None:
    with pytest.raises(OverflowError):
        time_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2026-02-30",
        "2026-09-02T25:00:00Z",
        "2026-09-02T10:00:00+25:00",
        "10000-02-30",
        "1788369291888",
        " 2026-09-02",
        "２０２６-09-02",
        "2026-09-02T10:00:61Z",
        "2026-09-02T24:00:00.5Z",
        *PYTHON_READS_TOO,
    ],
)
def test_invalid_dates_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        time_of(text)


@given(st.datetimes(timezones=st.timezones() | st.just(UTC)), st.sampled_from(["T", " "]))
def test_python_timestamps_are_parsed(time: datetime, separator: str) -> None:
    offset = time.utcoffset() or timedelta(0)
    text = time.isoformat(separator)
    if offset.total_seconds() % 60:
        return  # zones before standard time, which ISO 8601 cannot represent
    try:
        expected = time.astimezone(UTC)
    except OverflowError:
        with pytest.raises(OverflowError):
            time_of(text)
    else:
        assert time_of(text) == expected
