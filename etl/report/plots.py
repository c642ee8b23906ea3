"""Draw plots as SVG. Colours are CSS variables of the page, so that a drawing works in light and dark mode."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import altair as alt
import vl_convert
from markupsafe import Markup

from etl.report import formatting
from etl.report.aggregates import split_into_periods
from etl.text import visible_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from etl.report.aggregates import WorkflowSummary
    from etl.report.facts import Durations, Span

_WIDE, _NARROW = 980, 330  # widths in drawing units, which are pixels at full size
_MAX_BARS = 100  # longer spans have a bar per week instead of a bar per day
_DAY_MS = 86_400_000
_SIZE = re.compile(r'^(<svg[^>]*?) width="[\d.]+" height="[\d.]+"')
_PATH = re.compile(r' d="[^"]*"')
_DIGITS = re.compile(r"(\.\d)\d+")
_LABEL_WIDTH = 48  # same for the value axes of both panels, so that their days are aligned
_LARGEST = 1e200  # larger numbers are limited to this, so that their sums stay finite
_FADED = 0.45  # opacity of partial days


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot.

    Attributes:
        tips: a JSON list with the tooltip of each bar or point, newest first.
        days: number of days of the plot.
        period_days: number of days per bar or point; the oldest may cover fewer.
        wide: the drawing for wide screens.
        narrow: the drawing for narrow screens; None if it is the same.
        legend: (label, colour) of each series.
    """

    tips: str
    days: int
    period_days: int
    wide: Markup
    narrow: Markup | None = None
    legend: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Series:
    """A series of a stacked plot: label, CSS colour, and amounts by day."""

    label: str
    colour: str
    amounts: Mapping[date, Decimal]


def slot(span: Span) -> str:
    """Return the period of a bar in a stacked plot: `day` or `week`."""
    return "week" if len(span.days) > _MAX_BARS else "day"


def stacked(span: Span, series: Sequence[Series], unit: str, mark: date | None = None) -> Plot:
    """Draw stacked bars per day or week; bars that include a partial day are faded.

    Args:
        span: the days of the report.
        series: the series, bottom first.
        unit: `runs` (integers) or `credits`.
        mark: a day to mark with a line and its date.
    """
    length = 7 if slot(span) == "week" else 1
    periods = split_into_periods(span, length)
    partial = set(span.days) - set(span.full_days)
    points: list[dict[str, Any]] = []
    tips = []
    for first, last in periods:
        days = [first + timedelta(each) for each in range((last - first).days + 1)]
        opacity = _FADED if partial.intersection(days) else 1
        high, lines = 0.0, []
        for index, each in enumerate(series):
            amount = float(sum(each.amounts.get(day, 0) for day in days))
            low, high = high, min(_LARGEST, high + amount)
            if amount:
                points.append(_slot(first, last) | {"series": index, "low": low, "high": high, "opacity": opacity})
                lines.append(f"{_amount(amount, unit)} {formatting.shortened(each.label, 32)}")
        total = f"{_amount(high, unit)} {unit.removesuffix('s') if high == 1 else unit}"
        tips.append(f"{_days(first, last)}{', partial' if opacity < 1 else ''}: {total}")
        tips[-1] = "\n".join([tips[-1], *(lines if len(lines) > 1 else [])])
    marks = [] if mark is None else [{"x": _ms(mark) + _DAY_MS / 2, "label": formatting.day_month(mark)}]
    wide, narrow = (
        _draw(_bars(span, series, unit, width, points, marks), points=points, marks=marks) for width in (_WIDE, _NARROW)
    )
    legend = [(formatting.shortened(each.label, 48), each.colour) for each in series]
    return Plot(_json(tips), len(span.days), length, wide, narrow, legend)


def _bars(
    span: Span, series: Sequence[Series], unit: str, width: int, points: list[dict[str, Any]], marks: list[Any]
) -> alt.LayerChart:
    scale = _days_scale(span)
    highest = max((abs(each["high"]) for each in points), default=0.0)
    few = list(range(int(highest) + 1)) if unit == "runs" and highest <= 4 else None
    # Do not pass names from the data to the engine, which terminates the process on characters that XML does not allow.
    colours = alt.Scale(domain=list(range(len(series))), range=[each.colour for each in series])
    drawn = (
        _chart("points")
        .mark_bar()
        .encode(
            x=alt.X("x:T", scale=scale, axis=_days_axis(span, width)),
            x2="x2:T",
            y=alt.Y("low:Q", axis=_value_axis(_number_form(highest), values=few), title=None),
            y2="high:Q",
            color=alt.Color("series:N", scale=colours, legend=None),
            opacity=alt.Opacity("opacity:Q", scale=None),
        )
    )
    layers = alt.LayerChart(layer=[drawn, *(_rules(scale) if marks else [])])
    title = _title(f"{unit} per {slot(span)}".capitalize())
    return layers.properties(width=width, height=220 if width == _WIDE else 180, title=title)


def workflow_curves(span: Span, found: WorkflowSummary) -> Plot:
    """Draw the failure rate and the durations of a workflow, with a line at the first run of each version.

    Without a period of enough runs, there are no durations to draw.
    """
    rates: list[dict[str, Any]] = []
    measured, tips = [], []
    for index, (first, last) in enumerate(split_into_periods(span, span.period_days)):
        inside, timed = found.between(first, last), found.periods.get(index)
        tip = f"{_days(first, last)}: {formatting.count(inside.runs, 'run')}"
        if inside.ended:
            rates.append(_slot(first, last) | {"rate": inside.failure_rate, "base": 0})
            tip += f"\n{formatting.rate_with_numbers(inside.failed, inside.ended)} failed"
        if timed:
            measured.append(((_ms(first) + _ms(last) + _DAY_MS) / 2, timed))
            tip += f"\nmedian {formatting.seconds(timed.p50_s)}, p95 {formatting.seconds(timed.p95_s)}"
        tips.append(tip)
    limit = _limit([each for _, each in measured])
    points = _durations(measured, limit)
    marks = _version_marks(span, found)
    scale = _days_scale(span)
    days_axis = _days_axis(span, _NARROW)
    failed = _failure_bars(scale, None if measured else days_axis, max((each["rate"] for each in rates), default=0.0))
    lines = _duration_lines(scale, days_axis, limit)
    clipped = f", clipped at {formatting.seconds(limit)} (▲ longer)" if any(each["over"] for each in points) else ""
    upper = alt.LayerChart(layer=[failed, *(_rules(scale) if marks else [])])
    lower = alt.LayerChart(layer=[*lines, *(_rules(scale)[:1] if marks else [])])
    upper = upper.properties(width=_NARROW, height=64, title=_title("Failed runs, % of those that ended"))
    lower = lower.properties(width=_NARROW, height=100, title=_title(f"Duration of runs{clipped}"))
    panels = (upper, lower) if measured else (upper,)
    both = alt.vconcat(*panels, spacing=8).resolve_scale(x="independent", y="independent", color="independent")
    return Plot(_json(tips), len(span.days), span.period_days, _draw(both, rates=rates, durations=points, marks=marks))


def _slot(first: date, last: date) -> dict[str, float]:
    return {"x": _ms(first) + _DAY_MS * 0.07, "x2": _ms(last) + _DAY_MS * 0.93}


def _days(first: date, last: date) -> str:
    return formatting.short_day(first) + (f" to {formatting.short_day(last)}" if last != first else "")


def _amount(value: float, unit: str) -> str:
    return f"{value:,.0f}" if unit == "runs" else formatting.credit(value)


def _json(tips: list[str]) -> str:
    return json.dumps([visible_lines(each) for each in tips], ensure_ascii=False, separators=(",", ":"))


def _failure_bars(scale: alt.Scale, days_axis: alt.Axis | None, highest: float) -> alt.Chart:
    rates = alt.Scale(domain=[0, max(0.1, highest)], nice=True)
    axis = _value_axis("~%", 3, room=_LABEL_WIDTH)
    bars: alt.Chart = (
        _chart("rates")
        .mark_bar(color="var(--failed)")
        .encode(
            x=alt.X("x:T", scale=scale, axis=days_axis),
            x2="x2:T",
            y=alt.Y("rate:Q", scale=rates, axis=axis, title=None),
            y2="base:Q",
        )
    )
    return bars


def _limit(measured: Sequence[Durations]) -> float:
    """Return the maximum of the duration axis, which includes all medians but ignores outliers."""
    tails = sorted(each.p95_s for each in measured)
    if not tails or tails[-1] <= 0:
        return 1
    medians = (1.25 * each.p50_s for each in measured)
    limit = max(2 * tails[int(0.9 * (len(tails) - 1))], *medians, 0.001)
    return limit if tails[-1] > 1.5 * limit else tails[-1]  # a value a little longer is not worth clipping


def _durations(measured: Sequence[tuple[float, Durations]], limit: float) -> list[dict[str, Any]]:
    """Return the points of both curves in seconds; the longest duration has its value as label."""
    longest = max((each for _, each in measured), key=lambda each: each.p95_s, default=None)
    return [
        {
            "x": x,
            "y": min(length, limit),
            "which": which,
            "over": length > limit,
            "label": formatting.seconds(length) if each is longest and which != "median" else "",
        }
        for x, each in measured
        for which, length in (("median", each.p50_s), ("95th percentile", each.p95_s))
    ]


def _duration_lines(scale: alt.Scale, days_axis: alt.Axis, limit: float) -> list[alt.Chart]:
    unit, name = next(((unit, name) for unit, name in ((3600, "h"), (60, "min")) if limit >= 3 * unit), (1, "s"))
    colours = alt.Scale(domain=["median", "95th percentile"], range=["var(--median)", "var(--tail)"])
    legend = alt.Legend(
        orient="top", title=None, offset=0, padding=0, symbolType="stroke", labelColor="var(--muted)", labelFontSize=12
    )
    axis = _value_axis(_number_form(limit / unit), 3, f"datum.label + ' {name}'", room=_LABEL_WIDTH)
    base = _chart("durations").transform_calculate(shown=f"datum.y / {unit}")
    over, early = base.transform_filter("datum.over"), f"datum.x < {sum(scale.domain) / 2}"
    at = {
        "x": alt.X("x:T", scale=scale, axis=days_axis),
        "y": alt.Y("shown:Q", scale=alt.Scale(domain=[0, limit / unit], nice=False), axis=axis, title=None),
    }
    colour = alt.Color("which:N", scale=colours, legend=legend)
    return [
        base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=14, filled=True)).encode(color=colour, **at),
        over.mark_point(shape="triangle-up", filled=True, size=70, opacity=1).encode(color=colour, **at),
        # Place the label below the legend, on the side with enough space.
        over.mark_text(
            align=alt.ExprRef(f"{early} ? 'left' : 'right'"),
            dx=alt.ExprRef(f"{early} ? 8 : -8"),
            baseline="top",
            color="var(--tail)",
        ).encode(text="label:N", **at),
    ]


def _version_marks(span: Span, found: WorkflowSummary) -> list[dict[str, Any]]:
    """Return position and label of each version except the first; of overlapping labels, only the newer is kept."""
    marks: list[dict[str, Any]] = []
    next_label = float("inf")
    for each in reversed(found.versions[1:]):
        x = each.first_run.timestamp() * 1000
        has_room = next_label - x > len(span.days) * _DAY_MS * 0.09
        marks.append({"x": x, "label": f"v{each.version}" if has_room else ""})
        next_label = x if has_room else next_label
    return marks


def _rules(scale: alt.Scale) -> list[alt.Chart]:
    chart = _chart("marks")
    x = alt.X("x:T", scale=scale)
    rule = chart.mark_rule(color="var(--version)", strokeDash=[3, 3]).encode(x=x)
    label = chart.mark_text(align="center", baseline="bottom", dy=-2, fontSize=11, color="var(--version)")
    return [rule, label.encode(x=x, y=alt.value(0), text="label:N")]


def _ms(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp() * 1000)


def _days_scale(span: Span) -> alt.Scale:
    return alt.Scale(type="utc", domain=[_ms(span.first), _ms(span.last) + _DAY_MS], nice=False)


def _days_axis(span: Span, width: int) -> alt.Axis:
    """Return an axis with labels for days, weeks or months, depending on the available width."""
    most = 12 if width == _WIDE else 5
    days = span.days
    if len(days) <= _MAX_BARS:
        step = next(step for step in (1, 2, 7, 14, 28) if len(days) <= step * most or step == 28)
        shown, form = [day for day in days if (span.last - day).days % step == 0], "%-d %b"
    else:
        step = -(-len(days) // (30 * most))
        shown = [day for day in days if day.day == 1 and (day.year * 12 + day.month) % step == 0]
        form = "%b %Y" if width == _WIDE else "%b %y"
    middle = _DAY_MS // 2 if len(days) <= _MAX_BARS else 0
    return alt.Axis(
        title="Day of creation (UTC)", titleColor="var(--muted)", titleFontSize=11, titleFontWeight="normal",
        titleAnchor="end", titlePadding=4, values=[_ms(day) + middle for day in shown], format=form, grid=False,
        ticks=False, labelPadding=6,
    )  # fmt: skip


def _value_axis(
    form: str, ticks: int = 4, label: str = "datum.label", *, room: int = 0, values: list[int] | None = None
) -> alt.Axis:
    return alt.Axis(
        format=form, tickCount=ticks, minExtent=room, domain=False, ticks=False, labelPadding=6, labelExpr=label,
        values=alt.Undefined if values is None else values,
    )  # fmt: skip


def _number_form(highest: float) -> str:
    """Return the number format for an axis up to `highest`: plain, with SI prefixes, or with exponents."""
    if highest < 10_000:
        return ",~f"
    return "~s" if highest < 1e15 else ".1~e"


def _title(text: str) -> alt.TitleParams:
    return alt.TitleParams(text, anchor="start", fontSize=12, fontWeight="normal", color="var(--muted)", offset=16)


def _chart(name: str) -> alt.Chart:
    """Return a chart of the data passed to `_draw` as `name`, because passing data through altair takes seconds."""
    return alt.Chart(alt.NamedData(name))


def _draw(chart: alt.LayerChart | alt.VConcatChart, **data: list[dict[str, Any]]) -> Markup:
    themed = (
        chart.properties(padding=2, autosize=alt.AutoSizeParams(type="pad"), background="transparent")
        .configure(aria=False, font="sans-serif")
        .configure_view(stroke=None)
        .configure_axis(labelColor="var(--muted)", labelFontSize=12, gridColor="var(--grid)", domainColor="var(--grid)")
        .configure_text(fontSize=12.5)
    )
    specification = themed.to_dict(validate=False) | {"datasets": data}
    svg = vl_convert.vegalite_to_svg(specification, allowed_base_urls=[])
    # Round to a tenth of a unit: more digits are invisible, but would take most of the page's size.
    svg = _PATH.sub(lambda path: _DIGITS.sub(r"\1", path.group()), svg)
    return Markup(_SIZE.sub(r"\1", svg, count=1))  # noqa: S704 -- no text from data, and the engine escapes all text
