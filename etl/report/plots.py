"""Plots as SVG. Colours are CSS variables of the page, so that one drawing works in light and dark mode."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

import altair as alt
import vl_convert

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDE, NARROW = 980, 330  # widths in drawing units; at full size a unit is a pixel

_DAY_MS = 86_400_000
_MAX_BARS = 100  # days; longer spans are drawn as an area
_SIZE = re.compile(r'^(<svg[^>]*?) width="[\d.]+" height="[\d.]+"')
_PATH = re.compile(r' d="[^"]*"')
_DIGITS = re.compile(r"(\.\d)\d+")
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LABEL_WIDTH = 48  # of the value axes of both panels, so that their days line up
_LARGEST = 1e200  # larger numbers are cut to this, so that their sums stay finite


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a stacked plot: its label, its CSS colour, and a value for each day."""

    label: str
    colour: str
    values: list[float]


def stacked_days(days: Sequence[date], series: Sequence[Series], width: int, *, whole: bool = False) -> str:
    """Draw stacked values per day: as bars, or as an area if there are many days.

    Args:
        days: consecutive days.
        series: bottom first.
        width: width of the plot, `WIDE` or `NARROW`.
        whole: whether the values are counts, whose axis shows no fractions.

    Returns:
        An SVG element that fills its container's width.
    """
    as_bars = len(days) <= _MAX_BARS
    # A step of the area lasts until the next point, so the last day needs one more.
    points = _stacked(days, series, as_bars=as_bars)
    x = alt.X("x:T", scale=_days_scale(days), axis=_days_axis(days, width))
    highest = max((abs(each["high"]) for each in points), default=0.0)
    few = list(range(int(highest) + 1)) if whole and highest <= 4 else None
    y = alt.Y("low:Q", axis=_value_axis(_number_form(highest), values=few), title=None)
    colour = alt.Color(
        "label:N",
        scale=alt.Scale(domain=[each.label for each in series], range=[each.colour for each in series]),
        legend=None,
    )
    chart = _chart("points")
    if as_bars:
        drawn = chart.mark_bar().encode(x=x, x2="x2:T", y=y, y2="high:Q", color=colour)
    else:
        # On a narrow screen a day is less than a pixel, and steps need two points per day.
        drawn = chart.mark_area(interpolate="step-after" if width == WIDE else "linear").encode(
            x=x, y=y, y2="high:Q", color=colour
        )
    return _draw(drawn.properties(width=width, height=220 if width == WIDE else 180), points=points)


def _stacked(days: Sequence[date], series: Sequence[Series], *, as_bars: bool) -> list[dict[str, Any]]:
    points = []
    heights = [0.0] * len(days)
    for each in series:
        for index, day in enumerate(days):
            low = heights[index]
            heights[index] = high = min(_LARGEST, low + each.values[index])
            if as_bars and high == low:
                continue
            start, end = (0.07, 0.93) if as_bars else (0, 1)
            x = _ms(day)
            points.append(
                {"label": each.label, "x": x + _DAY_MS * start, "x2": x + _DAY_MS * end, "low": low, "high": high}
            )
        if not as_bars:
            points.append({**points[-1], "x": _ms(days[-1]) + _DAY_MS})
    return points


@dataclass(frozen=True, slots=True)
class Period:
    """Failure rate and durations of a workflow over the days `first` to `last`."""

    first: date
    last: date
    failure_rate: float | None
    p50_s: float | None
    p95_s: float | None


def workflow_curves(days: Sequence[date], periods: Sequence[Period], versions: Sequence[tuple[datetime, int]]) -> str:
    """Draw the failure rate and the durations of a workflow, with a line at each published version.

    Args:
        days: the days of the report.
        periods: oldest first, without empty ones.
        versions: publication time and number, oldest first.

    Returns:
        An SVG element that fills its container's width.
    """
    scale = _days_scale(days)
    published = _published(days, versions)
    rates = _rates(periods)
    failed = _failure_bars(scale, max((each["rate"] for each in rates), default=0.0))
    durations, unit = _durations(periods)
    axis = _days_axis(days, NARROW)
    taken = _duration_lines(scale, axis, unit, max((abs(each["y"]) for each in durations), default=0.0))
    upper = alt.layer(failed, *(_version_rules(scale, None) if published else []))
    lower = alt.layer(taken, *(_version_rules(scale, axis)[:1] if published else []))
    upper = upper.properties(width=NARROW, height=64, title=_panel_title("Failed runs"))
    lower = lower.properties(width=NARROW, height=92, title=_panel_title("Duration: median and 95th percentile"))
    both = alt.vconcat(upper, lower, spacing=8).resolve_scale(x="independent", y="independent")
    return _draw(both, rates=rates, durations=durations, published=published)


def _rates(periods: Sequence[Period]) -> list[dict[str, Any]]:
    return [
        {
            "x": _ms(each.first) + _DAY_MS * 0.07,
            "x2": _ms(each.last) + _DAY_MS * 0.93,
            "rate": each.failure_rate,
            "base": 0,
        }
        for each in periods
        if each.failure_rate is not None
    ]


def _failure_bars(scale: alt.Scale, highest: float) -> alt.Chart:
    rates = alt.Scale(domain=[0, max(0.1, highest)], nice=True)
    bars_of_rates: alt.Chart = (
        _chart("rates")
        .mark_bar(color="var(--failed)")
        .encode(
            x=alt.X("x:T", scale=scale, axis=None),
            x2="x2:T",
            y=alt.Y("rate:Q", scale=rates, axis=_value_axis("~%", 3, room=_LABEL_WIDTH), title=None),
            y2="base:Q",
        )
    )
    return bars_of_rates


def _durations(periods: Sequence[Period]) -> tuple[list[dict[str, Any]], str]:
    """Return the points of both curves and their unit."""
    timed = [each for each in periods if each.p95_s is not None and each.p50_s is not None]
    longest = max((each.p95_s or 0.0 for each in timed), default=0.0)
    unit, name = next(((unit, name) for unit, name in ((3600, "h"), (60, "min")) if longest >= 3 * unit), (1, "s"))
    values = [
        {"x": (_ms(each.first) + _ms(each.last) + _DAY_MS) / 2, "y": length / unit, "which": which}
        for each in timed
        for which, length in (("p50", each.p50_s or 0.0), ("p95", each.p95_s or 0.0))
    ]
    return values, name


def _duration_lines(scale: alt.Scale, days_axis: alt.Axis, unit: str, highest: float) -> alt.Chart:
    label = f"datum.label + ' {unit}'"
    colour = alt.Color(
        "which:N", scale=alt.Scale(domain=["p50", "p95"], range=["var(--median)", "var(--tail)"]), legend=None
    )
    lines: alt.Chart = (
        _chart("durations")
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=14, filled=True))
        .encode(
            x=alt.X("x:T", scale=scale, axis=days_axis),
            y=alt.Y("y:Q", axis=_value_axis(_number_form(highest), 3, label, room=_LABEL_WIDTH), title=None),
            color=colour,
        )
    )
    return lines


def _published(days: Sequence[date], versions: Sequence[tuple[datetime, int]]) -> list[dict[str, Any]]:
    """Return the position and label of each version; where labels would overlap, only the newer one is kept."""
    length = len(days) * _DAY_MS
    values: list[dict[str, Any]] = []
    next_label = float("inf")
    for moment, number in reversed(versions):
        x = moment.timestamp() * 1000
        has_room = next_label - x > length * 0.09
        values.append({"x": x, "label": f"v{number}" if has_room else ""})
        next_label = x if has_room else next_label
    return values


def _version_rules(scale: alt.Scale, axis: alt.Axis | None) -> list[alt.Chart]:
    chart = _chart("published")
    x = alt.X("x:T", scale=scale, axis=axis)
    rule = chart.mark_rule(color="var(--version)", strokeDash=[3, 3]).encode(x=x)
    number = chart.mark_text(align="center", baseline="bottom", dy=-2, fontSize=11, color="var(--version)")
    return [rule, number.encode(x=x, y=alt.value(0), text="label:N")]


@dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal bar from `low` to `value`, with its label above."""

    label: str
    value: float
    amount: str
    low: float = 0.0


def bars(values: Sequence[Bar], colour: str) -> str:
    """Draw horizontal bars, each below its label and amount.

    Args:
        values: top first.
        colour: a CSS colour.

    Returns:
        An SVG element that fills its container's width.
    """
    rows = [
        {"index": index, "label": each.label, "low": each.low, "high": min(each.value, _LARGEST), "amount": each.amount}
        for index, each in enumerate(values)
    ]
    longest = max(min(each.value, _LARGEST) for each in values) or 1.0
    room = alt.Scale(domain=[0, longest], nice=False)
    chart = _chart("bars")
    y = alt.Y("index:O", axis=None)
    x = alt.X("low:Q", scale=room, axis=None)
    track = chart.mark_bar(height=7, yOffset=9, color="var(--track)").encode(
        y=y, x=alt.datum(0, type="quantitative", scale=room, axis=None), x2=alt.datum(longest)
    )
    bar = chart.mark_bar(height=7, yOffset=9, color=colour).encode(y=y, x=x, x2="high:Q")
    # Leave room for the amounts, plus a reserve: the reader's font may be wider than the drawing engine's.
    left = NARROW * 0.85 - 7 * max(len(each.amount) for each in values)
    label = chart.mark_text(align="left", dy=-7, color="var(--text)", limit=left).encode(
        y=y, x=alt.value(0), text="label:N"
    )
    amount = chart.mark_text(align="right", dy=-7, color="var(--muted)").encode(
        y=y, x=alt.value(NARROW), text="amount:N"
    )
    drawn = alt.LayerChart(layer=[track, bar, label, amount])
    return _draw(drawn.properties(width=NARROW, height=36 * len(rows)), bars=rows)


def _ms(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp() * 1000)


def _days_scale(days: Sequence[date]) -> alt.Scale:
    return alt.Scale(type="utc", domain=[_ms(days[0]), _ms(days[-1]) + _DAY_MS], nice=False)


def _days_axis(days: Sequence[date], width: int) -> alt.Axis:
    """Label days, weeks or months, as many as fit."""
    most = 12 if width == WIDE else 5
    if len(days) <= _MAX_BARS:
        step = next(step for step in (1, 2, 7, 14, 28) if len(days) <= step * most or step == 28)
        shown, form = [day for day in days if (days[-1] - day).days % step == 0], "%-d %b"
    else:
        step = -(-len(days) // (30 * most))
        shown = [day for day in days if day.day == 1 and (day.year * 12 + day.month) % step == 0]
        form = "%b %Y" if width == WIDE else "%b %y"
    middle = _DAY_MS // 2 if len(days) <= _MAX_BARS else 0
    return alt.Axis(
        title=None, values=[_ms(day) + middle for day in shown], format=form, grid=False, ticks=False, labelPadding=6
    )


def _value_axis(
    form: str, ticks: int = 4, label: str = "datum.label", *, room: int = 0, values: list[int] | None = None
) -> alt.Axis:
    return alt.Axis(
        format=form, tickCount=ticks, minExtent=room, domain=False, ticks=False, labelPadding=6, labelExpr=label,
        values=alt.Undefined if values is None else values,
    )  # fmt: skip


def _number_form(highest: float) -> str:
    """Return the number format of an axis up to this value: plain, with SI prefixes, or with exponents."""
    if highest < 10_000:
        return ",~f"
    return "~s" if highest < 1e15 else ".1~e"


def _panel_title(text: str) -> alt.TitleParams:
    return alt.TitleParams(text, anchor="start", fontSize=12, fontWeight="normal", color="var(--muted)", offset=16)


def _chart(name: str) -> alt.Chart:
    """Return a chart of the data passed to `_draw` under `name`; passing data through altair would take seconds."""
    return alt.Chart(alt.NamedData(name))


def _draw(chart: alt.Chart | alt.LayerChart | alt.VConcatChart, **data: list[dict[str, Any]]) -> str:
    themed = (
        chart.properties(padding=2, autosize=alt.AutoSizeParams(type="pad"), background="transparent")
        .configure(aria=False, font="sans-serif")
        .configure_view(stroke=None)
        .configure_axis(labelColor="var(--muted)", labelFontSize=12, gridColor="var(--grid)", domainColor="var(--grid)")
        .configure_text(fontSize=12.5)
    )
    specification = _drawable(themed.to_dict(validate=False) | {"datasets": data})
    svg = vl_convert.vegalite_to_svg(specification, allowed_base_urls=[])
    # Round to a tenth of a unit: more digits are invisible, and would be most of the page.
    svg = _PATH.sub(lambda path: _DIGITS.sub(r"\1", path.group()), svg)
    return _SIZE.sub(r"\1", svg, count=1)


def _drawable(value: Any) -> Any:
    """Replace characters that XML 1.0 does not allow: on them, the drawing engine would end the process."""
    if isinstance(value, str):
        return _NOT_XML.sub("\ufffd", value)
    if isinstance(value, dict):
        return {name: _drawable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_drawable(item) for item in value]
    return value
