# SPDX-License-Identifier: Apache-2.0
"""Coordinates of the report's charts, which the template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

# Edges of the plots, in SVG units of about 1.25 pixels.
BARS_LEFT, BARS_RIGHT, BARS_TOP, BARS_BOTTOM = 38.9, 419.0, 24.7, 165.3
LINES_LEFT, LINES_RIGHT, LINES_TOP = 45.0, 886.5, 24.0
_ROW, _GAP = 32.0, 28.0
_MOST_BARS, _MOST_STEPS = 36, 120


@dataclass(frozen=True, slots=True)
class Histogram:
    """
    Bars over a logarithmic axis.

    :param bars: left edge, width and top of each.
    :param ticks: of the horizontal axis: positions and labels.
    :param grid: of the vertical axis.
    :param marks: positions and labels of quantiles.
    """

    bars: Sequence[tuple[float, float, float]]
    ticks: Sequence[tuple[float, str]]
    grid: Sequence[tuple[float, str]]
    marks: Sequence[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Panel:
    """
    A line over time.

    :param colour: ``accent``, ``muted`` or ``warn``.
    :param grid: of the vertical axis: positions and labels.
    :param line: height and end of each step.
    """

    title: str
    colour: str
    top: float
    bottom: float
    grid: Sequence[tuple[float, str]]
    line: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Panels below each other, over one time axis."""

    panels: Sequence[Panel]
    ticks: Sequence[tuple[float, str]]

    @property
    def bottom(self) -> float:
        """Of the last panel."""
        return self.panels[-1].bottom


@dataclass(frozen=True, slots=True)
class Step:
    """
    Counts of a step of time.

    :param start: seconds since the beginning.
    :param seconds: its length.
    :param in_flight: maximum of jobs.
    """

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
) -> Histogram:
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
    across = _scale(logs[0], logs[-1], BARS_LEFT, BARS_RIGHT)
    places = [across(log) for log in logs]
    widths = [after - before for before, after in pairwise(places)]
    gap = min(0.12 * sum(widths) / len(widths), *(width / 3 for width in widths))
    values = value_ticks(max(counts), least=1)
    up = _scale(0, values[-1], BARS_BOTTOM, BARS_TOP)
    return Histogram(
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
    across = _scale(0, seconds, LINES_LEFT, LINES_RIGHT)
    ends = [across(step.start + step.seconds) for step in steps]
    panels, top = [], LINES_TOP
    for title, colour, values, share in rows:
        bottom, ticks = top + share * _ROW, value_ticks(max(values), lines=share)
        up = _scale(0, ticks[-1], bottom, top)
        grid = [(up(tick), short(tick)) for tick in ticks]
        line = [*zip(map(up, values), ends, strict=True)]
        panels.append(Panel(title, colour, top, bottom, grid, line))
        top = bottom + _GAP
    return Timeline(panels, [(across(second), name) for second, name in time_ticks(seconds)])


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
