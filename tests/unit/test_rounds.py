"""The pauses between the rounds of `sync --every`."""

from __future__ import annotations

from datetime import timedelta

import pytest

from etl.cli.invocation import pause_after


@pytest.mark.parametrize(
    ("minutes", "pauses"),
    [(1, [1, 1, 2, 4, 8, 15, 15]), (10, [10, 10, 15, 15]), (60, [60, 60, 60])],
)
def test_pause_grows_with_each_failed_round_in_a_row(minutes: int, pauses: list[int]) -> None:
    every = timedelta(minutes=minutes)
    assert [pause_after(every, failures) for failures in range(len(pauses))] == [timedelta(minutes=m) for m in pauses]
    assert pause_after(every, 10_000) == timedelta(minutes=pauses[-1])
