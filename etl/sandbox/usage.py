"""Credits: usage trees of steps and runs, with one to three levels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

Json = Any


def price(random: Random, median: float) -> float:
    """Credits of one call around `median`, with a long tail and fractional digits."""
    return round(median * math.exp(random.gauss(0.0, 0.6)), random.choice((5, 6, 8)))


def step_usage(random: Random, call_id: str, median: float, calls: int) -> dict[str, Json]:
    """The Usage of a step: a call for each execution, and under most of them the parts that it was charged for."""
    made: list[Json] = []
    for place in range(calls):
        parts = [price(random, median), price(random, median / 3)]
        call: dict[str, Json] = {"id": f"{call_id}-{place}", "total": sum(parts)}
        if random.random() < 0.6:
            call["calls"] = [{"total": part} for part in parts]
        made.append(call)
    total = sum(call["total"] for call in made)
    return {"total": total, "calls": made} if random.random() < 0.95 else {"total": total}


def run_usage(steps: dict[str, dict[str, Json]], ids: dict[str, str]) -> dict[str, Json]:
    """The RunUsage over the usages of its steps; `ids` names the call of each step in the run's own tree."""
    made: dict[str, Json] = {"total": sum(step["total"] for step in steps.values())}
    charged = [key for key, step in steps.items() if step["total"]]
    if charged:
        made["calls"] = [
            {"id": ids[key], "total": steps[key]["total"], "calls": [{"total": steps[key]["total"]}]} for key in charged
        ]
    return made | {"steps": steps}
