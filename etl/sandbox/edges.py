"""The rough edges of real data: rare shapes that are legal, or at least served, and that break careless readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

Json = Any


def roughen(random: Random, run: dict[str, Json]) -> None:
    """Give a run one rough edge now and then (about one run in twelve), in place."""
    luck = random.random()
    for chance, edge in _EDGES:
        if luck < chance:
            edge(random, run)
            return
        luck -= chance


def _array_output(random: Random, run: dict[str, Json]) -> None:
    """The older form of the API, in which a key may also repeat."""
    if isinstance(run["output"], dict) and run["output"]:
        items = list(run["output"].values())
        if random.random() < 0.3:
            items.append(dict(items[0]))
        run["output"] = items


def _odd_id(random: Random, run: dict[str, Json]) -> None:
    # A child's id stands in its parent's output as well.
    if run["origin"] != "WORKFLOW":
        run["id"] = run["id"][:9] + random.choice(("/a b", "?x=1#é", "%2F+&", "日本 🎌"))


def _unknown_fields(random: Random, run: dict[str, Json]) -> None:
    run["trace_id"] = f"{random.getrandbits(64):016x}"
    if run.get("usage"):
        run["usage"] = run["usage"] | {"currency": "credits"}
    if run.get("retention"):
        run["retention"] = run["retention"] | {"policy": {"name": "default"}}


def _unknown_status(_random: Random, run: dict[str, Json]) -> None:
    run["status"] = "PAUSED"


def _unknown_origin(_random: Random, run: dict[str, Json]) -> None:
    run["origin"] = "EMAIL" if run["origin"] != "WORKFLOW" else "WORKFLOW"


def _no_times(random: Random, run: dict[str, Json]) -> None:
    for key in random.choice((("created_at", "updated_at"), ("updated_at",), ("started_at",), ("ended_at",))):
        run[key] = None


def _day_only(_random: Random, run: dict[str, Json]) -> None:
    run["updated_at"] = run["updated_at"][:10]


def _no_zone(_random: Random, run: dict[str, Json]) -> None:
    for key in ("created_at", "updated_at", "started_at"):
        run[key] = run[key].removesuffix("Z")


def _nul(_random: Random, run: dict[str, Json]) -> None:
    run["input"] = {"text": "Scanned by OCR:\x00\x00 total 1\x002,00", "key\x00": True}


def _lone_surrogate(_random: Random, run: dict[str, Json]) -> None:
    run["result"] = {"preview": "Thank you so much \ud83d"}


def _big_number(random: Random, run: dict[str, Json]) -> None:
    run["result"] = {"order_number": random.getrandbits(90), "exact": 0.1 + 0.2, "small": 1e-7}


def _nested(_random: Random, run: dict[str, Json]) -> None:
    deep: Json = "bottom"
    for level in range(60):
        deep = [deep] if level % 2 else {"down": deep}
    run["result"] = deep


def _nothing_used(_random: Random, run: dict[str, Json]) -> None:
    run["usage"] = None


def _nothing_put_out(_random: Random, run: dict[str, Json]) -> None:
    run["output"] = None


_EDGES: Final[tuple[tuple[float, Callable[[Random, dict[str, Json]], None]], ...]] = (
    (0.02, _array_output),
    (0.004, _odd_id),
    (0.005, _unknown_fields),
    (0.0008, _unknown_status),
    (0.0008, _unknown_origin),
    (0.004, _no_times),
    (0.004, _day_only),
    (0.004, _no_zone),
    (0.003, _nul),
    (0.002, _lone_surrogate),
    (0.003, _big_number),
    (0.001, _nested),
    (0.01, _nothing_used),
    (0.01, _nothing_put_out),
)
