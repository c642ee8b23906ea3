"""A complete verdict is correct, for every interleaving of requests for small listings with their changes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import groupby

import pytest
from moving_listings import Case, Crawls, cases, follow, quiet_cases

from etl.plan.paging import Answer, Paging
from etl.plan.passes import Pass
from etl.plan.verdict import verdict

RUNS, EVENTS = 4, 2


def _group(case: Case) -> tuple[str, ...]:
    return *case.rule, case.reading


def _cases() -> Iterator[Case]:
    """Yield the cases; where a part of a listing is read page by page, one change is enough (`make verify` tries more)."""
    for events in (1, EVENTS):
        for case in cases(RUNS, events):
            is_part_by_page = case.reading != "whole" and case.window == 1
            if is_part_by_page == (events == 1):
                yield case


CASES = sorted(_cases(), key=_group)
GROUPS = {" ".join(key): list(some) for key, some in groupby(CASES, key=_group)}


@pytest.mark.parametrize("group", GROUPS)
def test_complete_means_that_no_run_was_lost(group: str) -> None:
    for case in GROUPS[group]:
        unknown = follow(case).unknown(case)
        lost = [f"{check} lost by {kinds}: {trace}" for (check, kinds), trace in unknown.items()]
        assert not lost, f"{case}\n" + "\n".join(lost)


@pytest.mark.parametrize("order", ["newest first", "oldest first", "by change", "fixed"])
def test_a_quiet_listing_is_complete_after_one_pass(order: str) -> None:
    for case in quiet_cases(8):
        if case.order == order:
            result = Crawls(case).follow()
            assert result.complete, f"{case}: {result.again}"
            assert not result.again, f"{case}: {result.again}"
            assert not result.lost, case


def test_a_listing_shuffled_on_each_request_ends_and_is_not_called_complete() -> None:
    for seed in range(30):
        rng, runs = random.Random(seed), [f"run {number}" for number in range(250)]
        reading: Pass[None] = Pass(Paging(100), ahead=2)
        requests = 0
        while not reading.ended and (span := reading.next_request()) is not None:
            rng.shuffle(runs)
            reading.receive(span, Answer(None, tuple(runs[span.start : span.end]), None, span.size))
            requests += 1
            assert requests < 20, f"the pass does not end (seed {seed})"
        assert verdict(reading, None, begun=True, tie_ends=False, met=None), seed


def test_a_server_that_filters_its_pages_is_read_to_the_end() -> None:
    passing = set(random.Random(1).sample(range(1000), 500))
    for count, aligned in ((500, False), (None, False), (None, True)):
        reading: Pass[tuple[str, ...]] = Pass(Paging(100, aligned=aligned))
        met: set[str] = set()
        while (span := reading.next_request()) is not None:
            keys = tuple(str(number) for number in range(span.start, min(span.end, 1000)) if number in passing)
            for page in reading.receive(span, Answer(keys, keys, count, span.size)):
                met |= set(page)
        assert len(met) == len(passing)
