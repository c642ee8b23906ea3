"""Usage trees (credits) of steps and runs, one to three levels deep."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

Json = Any


def price(random: Random, median: float) -> float:
    """Draw the credits of one call around `median`, with a long tail and fractional digits."""
    return round(median * math.exp(random.gauss(0.0, 0.6)), random.choice((5, 6, 8)))


def step_usage(random: Random, call_id: str, median: float, calls: int) -> dict[str, Json]:
    """Generate the Usage of a step: one call per execution, most of them with their parts."""
    made: list[Json] = []
    for index in range(calls):
        parts = [price(random, median), price(random, median / 3)]
        call: dict[str, Json] = {"id": f"{call_id}-{index}", "total": sum(parts)}
        if random.random() < 0.6:
            call["calls"] = [{"total": part} for part in parts]
        made.append(call)
    total = sum(call["total"] for call in made)
    return {"total": total, "calls": made} if random.random() < 0.95 else {"total": total}


def run_usage(steps: dict[str, dict[str, Json]], ids: dict[str, str]) -> dict[str, Json]:
    """Combine the usages of steps to a RunUsage; `ids` are the ids of the steps' calls in the run's own tree."""
    made: dict[str, Json] = {"total": sum(step["total"] for step in steps.values())}
    charged = [key for key, step in steps.items() if step["total"]]
    if charged:
        made["calls"] = [
            {"id": ids[key], "total": steps[key]["total"], "calls": [{"total": steps[key]["total"]}]} for key in charged
        ]
    return made | {"steps": steps}
