# SPDX-License-Identifier: Apache-2.0
"""
The report of a run: one self-contained HTML page.

It has no scripts and loads nothing, which its Content-Security-Policy enforces.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from lucidworks_provider.corpus.dataset import REPORT, below
from lucidworks_provider.metrics import duration
from lucidworks_provider.storage import write_file

# Bounds of untrusted values: characters, bytes after escaping, rows of a table.
LONGEST, MOST_BYTES, MOST_ROWS = 400, 600, 60
_TABLE_ROWS = 24
# Characters that HTML does not allow in any form, and surrogates, which UTF-8 cannot encode.
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def write_report(
    output: str,
    place: str,
    stats: Mapping[str, Any],
    *,
    task: Sequence[object],
    returned: Mapping[str, Any],
    options: Mapping[str, Any],
    **more: Any,
) -> None:
    """
    Render a report and write it.

    :param place: URI of its folder.
    :param task: identifies the task instance.
    :param returned: what the task returns.
    :param more: other values of :func:`render`'s ``about``.
    """
    about = {
        "title": output.rpartition("/")[2],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": " / ".join(map(str, task)),
        "manifest": dict(returned),
        "options": options,
        **more,
    }
    write_file(below(place, REPORT), render(stats, about).encode())


def render(stats: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """
    The page.

    :param stats: :meth:`lucidworks_provider.corpus.stats.RunStats.as_json`.
    :param about: what the run was about, each of it optional: ``title``, ``source``, ``output``, ``created``
        (ISO 8601), ``options`` (a dictionary), ``rejects`` (some of them, dictionaries with
        ``document_id``, ``reason`` and ``detail``), ``shards`` (a dictionary). Whatever else is in it gets a row of
        its own: a number, a text, or a dictionary of those.
    :return: HTML, below 300 KB whatever is in it; to be written as UTF-8.
    """
    reasons, rejects = stats["rejected"], list(about.get("rejects") or ())[:_TABLE_ROWS]
    most, total = max(reasons.values(), default=1), sum(reasons.values())
    histograms = (
        _histogram(stats.get("chunk_sizes"), "Chunk sizes", "chunks", "characters of a chunk", _count),
        _histogram(stats.get("latency"), "Job latency", "jobs", "from submission to result", _seconds),
    )
    return _template().render(
        title=about.get("title", ""),
        summary=_summary(stats),
        figures=_figures(stats),
        histograms=[one for one in histograms if one],
        timeline=_timeline(stats),
        reasons=[
            (reason, f"{count:,}", 100 * count / most) for reason, count in islice(reasons.items(), MOST_ROWS)
        ],
        rejects=rejects,
        shown="All of them"
        if len(rejects) == total
        else f"The first {len(rejects):,} of {total:,}, the rest is in rejects.jsonl",
        run=_rows(
            {name: about[name] for name in about if name not in {"title", "options", "rejects", "shards"}}
        ),
        options=_rows(about.get("options") or {}),
        shards=_rows(about.get("shards") or {}),
    )


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        finalize=_html,
        loader=FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("report.html.jinja", globals={"BARS": BARS, "LINES": LINES})


def _html(value: Any) -> Markup:
    """Escape and bound a value; ids and details are untrusted."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, float):
        return Markup(f"{value:.1f}".removesuffix(".0"))  # noqa: S704  # a number
    whole = _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", str(value))
    text = whole[:LONGEST]
    while len((escaped := escape(text)).encode()) > MOST_BYTES:
        text = text[: len(text) * 3 // 4]
    return escaped if text == whole else escaped + " …"


def _summary(stats: Mapping[str, Any]) -> str:
    documents, rejects, skipped = stats["documents"], sum(stats["rejected"].values()), stats["skipped"]
    words = f"{documents:,} document{'' if documents == 1 else 's'} chunked in {duration(stats['seconds'])}"
    if stats["seconds"] > 0 and documents:
        words += f", {documents / stats['seconds']:,.1f} a second"
    if skipped:
        words += f"; {skipped:,} unchanged and not sent"
    return words + (f"; {rejects:,} rejected." if rejects else "; none rejected.")


def _figures(stats: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Names, values, notes, and whether to highlight them."""
    documents, chunks, tokens = stats["documents"], stats["chunks"], stats["tokens"]
    requests, rejects = stats["requests"], sum(stats["rejected"].values())
    total, twice = stats.get("total"), stats["resubmitted"]
    return [
        ("Documents", _count(documents), f"of {total:,}" if total is not None else "", False),
        ("Chunks", _count(chunks), _ratio(chunks, documents, "a document"), False),
        ("Tokens", _count(tokens), _ratio(tokens, chunks, "a chunk"), False),
        ("Requests", _count(requests), _ratio(requests, documents, "a document"), False),
        ("429s", _count(stats["throttled"]), _share(stats["throttled"], requests), False),
        ("Submitted twice", _count(twice), _also(stats["reused"], "from an earlier try"), twice > 0),
        ("Rejects", _count(rejects), _share(rejects, documents + rejects), rejects > 0),
        ("Duration", duration(stats["seconds"]), _also(stats["skipped"], "unchanged"), False),
    ]


def _histogram(
    counts: Mapping[str, Any] | None, title: str, things: str, what: str, name: Callable[[float], str]
) -> dict[str, Any] | None:
    if counts is None:
        return None
    if not counts["count"]:
        return {"title": title, "note": f"No {things} in this run.", "chart": None}
    edges, marks = counts["edges"], [(counts["median"], "half"), (counts["p95"], "95 %")]
    note = (
        f"{counts['count']:,} {things}: {name(counts['min'])} to {name(counts['max'])}, half of them up to "
        f"{name(counts['median'])}, 95 % up to {name(counts['p95'])}."
    )
    # Short labels, so that they do not overlap.
    axis = short if name is _count and edges[-1] > 20_000 else name
    fewer, sums = merged(edges, counts["counts"], _TABLE_ROWS)
    return {
        "title": title,
        "note": note,
        "chart": histogram(edges, counts["counts"], marks=marks, name=axis),
        "alt": f"Histogram, {what}. {note}",
        "heads": (what, things),
        "rows": [
            (f"{name(least)} to {name(most)}", _number(count))
            for (least, most), count in zip(pairwise(fewer), sums, strict=True)
        ],
    }


def _timeline(stats: Mapping[str, Any]) -> dict[str, Any] | None:
    title, series = "Throughput", stats.get("series")
    if series is None:
        return None
    if not any(series["requests"]) and not any(series["documents"]):
        return {"title": title, "note": "Nothing was sent in this run.", "chart": None}
    drawn = steps(series, stats["seconds"])
    rates = [step.documents / step.seconds for step in drawn]
    in_flight = [step.in_flight for step in drawn]
    note = f"Up to {max(rates):,.1f} documents a second, up to {max(in_flight):,} jobs in flight"
    note += f", {stats['throttled']:,} responses with 429." if stats["throttled"] else ", no 429."
    panels: list[tuple[str, str, Sequence[float], int]]
    panels = [("documents a second", "accent", rates, 3), ("jobs in flight", "muted", in_flight, 1)]
    if stats["throttled"]:
        refused = [step.throttled / step.seconds for step in drawn]
        panels.append(("responses with 429 a second", "warn", refused, 1))
    return {
        "title": title,
        "note": note,
        "chart": timeline(drawn, panels),
        "alt": f"Lines over {duration(stats['seconds'])}. {note}",
        "heads": ("from", "documents a second", "jobs in flight, at most", "responses with 429"),
        "rows": [
            (
                duration(step.start),
                *map(_number, (step.documents / step.seconds, step.in_flight, step.throttled)),
            )
            for step in steps(series, stats["seconds"], _TABLE_ROWS)
        ],
    }


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Names, formatted values, and whether these are code."""
    return [(name, *_words(value)) for name, value in islice(_flat(values, ""), MOST_ROWS)]


def _flat(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            # The names of what the task returned need no prefix.
            yield from _flat(value, before if name == "manifest" else f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _words(value: Any) -> tuple[str, bool]:
    if isinstance(value, bool):
        return "yes" if value else "no", False
    if isinstance(value, int | float):
        return _number(value), False
    if isinstance(value, str) or not value:
        return value or "", True
    return json.dumps(value, ensure_ascii=False, default=str), True


def _number(value: float) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:,.3g}"
    return f"{value:,}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _seconds(value: float) -> str:
    if value < 1:
        return f"{value * 1000:,.0f} ms"
    return f"{value:.3g} s" if value < 60 else duration(value)


def _ratio(part: float, whole: float, what: str) -> str:
    return f"{_number(float(f'{part / whole:.3g}'))} {what}" if whole else ""


def _share(part: int, whole: int) -> str:
    share = 100 * part / whole if whole else 0.0
    return f"{share:.{2 if share < 10 else 3}g} %" if whole else ""


def _also(count: int, what: str) -> str:
    return f"{count:,} {what}" if count else ""


# -- charts: coordinates, which the template draws as SVG -------------------------------------------------


class Box(NamedTuple):
    """The edges of a plot, in SVG units of about 1.25 pixels."""

    left: float
    right: float
    top: float
    bottom: float


BARS, LINES = Box(38.9, 419.0, 24.7, 165.3), Box(45.0, 886.5, 24.0, 0.0)
_ROW, _GAP = 32.0, 28.0
_MOST_BARS, _MOST_STEPS = 36, 120


class HistogramChart(NamedTuple):
    """Bars over a logarithmic axis; ``ticks``, ``grid`` and ``marks`` are positions and labels."""

    bars: Sequence[tuple[float, float, float]]  # left edge, width, top
    ticks: Sequence[tuple[float, str]]
    grid: Sequence[tuple[float, str]]
    marks: Sequence[tuple[float, str]]


class Panel(NamedTuple):
    """A line over time. ``colour`` is ``accent``, ``muted`` or ``warn``."""

    title: str
    colour: str
    top: float
    bottom: float
    grid: Sequence[tuple[float, str]]
    line: Sequence[tuple[float, float]]  # height and end of each step


class Timeline(NamedTuple):
    """Panels below each other, over one time axis."""

    panels: Sequence[Panel]
    ticks: Sequence[tuple[float, str]]
    bottom: float


class Step(NamedTuple):
    """Counts of a step of time, which starts so many seconds after the beginning; the maximum of jobs in flight."""

    start: float
    seconds: float
    documents: int
    throttled: int
    in_flight: int


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    marks: Sequence[tuple[float, str]],
    name: Callable[[float], str],
) -> HistogramChart:
    """
    Lay out a histogram.

    :param edges: ascending, one more than ``counts``.
    :param marks: values to mark, with their labels.
    :param name: formats a label of the axis.
    """
    edges, counts = merged(*trimmed(edges, counts), _MOST_BARS)
    # The first bucket may begin at 0, which has no logarithm.
    least = edges[1] / 2
    logs = [math.log2(max(edge, least)) for edge in edges]
    across = _scale(logs[0], logs[-1], BARS.left, BARS.right)
    places = [across(log) for log in logs]
    widths = [after - before for before, after in pairwise(places)]
    gap = min(0.12 * sum(widths) / len(widths), *(width / 3 for width in widths))
    values = value_ticks(max(counts), least=1)
    up = _scale(0, values[-1], BARS.bottom, BARS.top)
    return HistogramChart(
        [
            (left + gap / 2, width - gap, up(count))
            for left, width, count in zip(places, widths, counts, strict=False)
        ],
        [(across(math.log2(value)), name(value)) for value in round_values(2 ** logs[0], edges[-1])],
        [(up(value), short(value)) for value in values],
        [(across(math.log2(max(value, least))), words) for value, words in marks],
    )


def timeline(steps: Sequence[Step], rows: Sequence[tuple[str, str, Sequence[float], int]]) -> Timeline:
    """
    Lay out a timeline.

    :param rows: title, colour, value of each step and relative height of each panel.
    """
    seconds = steps[-1].start + steps[-1].seconds
    across = _scale(0, seconds, LINES.left, LINES.right)
    ends = [across(step.start + step.seconds) for step in steps]
    panels, top = [], LINES.top
    for title, colour, values, share in rows:
        bottom, ticks = top + share * _ROW, value_ticks(max(values), lines=share)
        up = _scale(0, ticks[-1], bottom, top)
        grid = [(up(tick), short(tick)) for tick in ticks]
        line = [*zip(map(up, values), ends, strict=True)]
        panels.append(Panel(title, colour, top, bottom, grid, line))
        top = bottom + _GAP
    names = [(across(second), name) for second, name in time_ticks(seconds)]
    return Timeline(panels, names, panels[-1].bottom)


def merged(edges: Sequence[float], counts: Sequence[int], most: int) -> tuple[list[float], list[int]]:
    """Merge neighbours until there are at most ``most`` buckets."""
    size = -(-len(counts) // most)
    sums = [sum(counts[start : start + size]) for start in range(0, len(counts), size)]
    return [*edges[: len(counts) : size], edges[-1]], sums


def trimmed(
    edges: Sequence[float], counts: Sequence[int], share: float = 0.003
) -> tuple[Sequence[float], Sequence[int]]:
    """Drop the outer buckets that have at most ``share`` of all values together."""
    first, last, spare = 0, len(counts), share * sum(counts)
    while last - first > 1:
        least = min(counts[first], counts[last - 1])
        if least > spare:
            break
        spare -= least
        if least == counts[first]:
            first += 1
        else:
            last -= 1
    return edges[first : last + 1], counts[first:last]


def value_ticks(most: float, *, lines: int = 4, least: float = 0) -> list[float]:
    """Round numbers from 0 to ``most`` or above, in about ``lines`` steps of at least ``least``."""
    step = 10.0 ** math.floor(math.log10(most / lines)) if most > 0 else 1.0
    factors = (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if lines == 1 else (1, 2, 2.5, 5, 10)
    step = max(least, next((step * by for by in factors if step * by * lines >= most), 10 * step))
    return [number * step for number in range(max(1, math.ceil(most / step - 1e-9)) + 1)]


def round_values(least: float, most: float) -> list[float]:
    """Up to nine round numbers between two values, for a logarithmic axis."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    powers = [10.0**power for power in range(first, last + 1)]
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1, 3), (1,)):
        found = [power * by for power in powers for by in factors if least <= power * by <= most]
        if len(found) <= 9:
            return found
    return found[:: -(-len(found) // 9)]


def time_ticks(seconds: float) -> list[tuple[float, str]]:
    """Up to ten times from 0 to ``seconds``, with labels."""
    for size, unit, factors in (
        (1, "s", (1, 2, 5, 10, 15, 30)),
        (60, "min", (1, 2, 5, 10, 15, 30)),
        (3_600, "h", (1, 2, 3, 6, 12)),
        (86_400, "d", (1, 2, 5, 10, 20, 50, 100)),
    ):
        for by in factors:
            if seconds / (size * by) <= 10:
                count = int(seconds / (size * by))
                return [(number * by * size, f"{number * by} {unit}") for number in range(count + 1)]
    return [(0, "0 d"), (seconds, f"{seconds / 86_400:,.0f} d")]


def steps(series: Mapping[str, Any], seconds: float, most: int = _MOST_STEPS) -> list[Step]:
    """
    Merge the steps of a series.

    :param series: :meth:`lucidworks_provider.corpus.stats.Series.as_json`.
    :param seconds: its length.
    :param most: limit of the number of steps, plus one.
    """
    size = max(1, -(-len(series["documents"]) // most))
    width = series["width"] * size
    starts = [*range(0, len(series["documents"]), size)]
    if len(starts) > 1 and seconds - (len(starts) - 1) * width < width / 4:
        # Too short for a rate.
        starts.pop()
    found = []
    for number, first in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else None
        documents, throttled, in_flight = (
            series[name][first:end] for name in ("documents", "throttled", "in_flight")
        )
        length = max(seconds - number * width, width / 4) if end is None else width
        found.append(Step(number * width, length, sum(documents), sum(throttled), max(in_flight)))
    return found


def short(value: float) -> str:
    """Format a label: ``850``, ``2.5k``, ``12M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _scale(least: float, most: float, start: float, end: float) -> Callable[[float], float]:
    """The function from a value to its position on an axis."""
    unit = (end - start) / ((most - least) or 1.0)
    return lambda value: start + (value - least) * unit
