# SPDX-License-Identifier: Apache-2.0
"""
The charts of the report, as SVG to stand within a page.

Matplotlib (the ``report`` extra) computes the shapes, without pyplot and its global state. Words are set by the
page: as text, in its font. Colours are variables of the page (``--accent``), which knows whether it is dark.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that matplotlib takes for colours, and the variables of the page that replace them.
_COLOURS = {
    "#010101": "--muted",
    "#020202": "--grid",
    "#030303": "--accent",
    "#040404": "--warn",
    "#050505": "--ink",
}
MUTED, GRID, ACCENT, WARN, INK = _COLOURS
_PATH = re.compile(r'<path d="([^"]*)"[^>]*? style="([^"]*)"')
_NUMBER = re.compile(r"-?\d+\.\d+")
# Units of the picture: the page shows each as about 1.25 pixels.
_POINTS = 72
_BARS = 36
_STEPS = 120


@dataclass(frozen=True, slots=True)
class Panel:
    """
    One of several lines over the same time.

    :param values: one for each step of time.
    :param colour: one of the names above.
    :param share: how high it is, beside the others.
    """

    title: str
    values: Sequence[float]
    colour: str
    share: int


@dataclass(frozen=True, slots=True)
class Step:
    """
    What happened in a step of time.

    :param start: seconds after the beginning.
    :param seconds: its length.
    :param in_flight: jobs, at most.
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
    marks: Sequence[tuple[str, float]],
    name: Callable[[float], str],
    alt: str,
) -> str:
    """
    Bars over a logarithmic axis.

    :param edges: ascending, one more than ``counts``.
    :param marks: a value to be pointed at and one above it, with their words.
    :param name: a value in words, for the axis.
    :param alt: what the picture shows, for those who do not see it.
    :return: an ``<svg>`` element.
    :raises ImportError: matplotlib is not installed.
    """
    edges, counts = merged(*trimmed(edges, counts), _BARS)
    figure = _figure(432, 190)
    axes = _axes(figure, (0.09, 0.13, 0.88, 0.74))
    # The first bucket may begin at 0, which has no logarithm.
    least = edges[1] / 2
    places = [math.log2(max(edge, least)) for edge in edges]
    widths = [after - before for before, after in pairwise(places)]
    gap = min(0.12 * (places[-1] - places[0]) / len(widths), *(width / 3 for width in widths))
    axes.bar(
        [place + gap / 2 for place in places[:-1]],
        counts,
        [width - gap for width in widths],
        align="edge",
        color=ACCENT,
        clip_on=False,
    )
    axes.set_xlim(places[0], places[-1])
    ticks = [(math.log2(value), name(value)) for value in round_values(2 ** places[0], edges[-1])]
    _ticks_below(axes, ticks)
    _ticks_beside(axes, max(counts), least=1)
    top = axes.get_ylim()[1]
    for (words, value), align in zip(marks, ("right", "left"), strict=False):
        place = math.log2(max(value, least))
        axes.plot([place, place], [0, top * 1.06], color=INK, lw=1, ls=(0, (3, 2)), clip_on=False)
        beside = (-3 if align == "right" else 3, 0)
        _note(axes, words, (place, top * 1.13), beside, of="data", align=align)
    return _svg(figure, alt)


def timeline(times: Sequence[float], panels: Sequence[Panel], *, alt: str) -> str:
    """
    What happened over time, one panel below the other.

    :param times: where the steps begin, and where the last one ends: seconds.
    :param alt: what the picture shows, for those who do not see it.
    :return: an ``<svg>`` element.
    :raises ImportError: matplotlib is not installed.
    """
    figure = _figure(900, 44 + 44 * sum(panel.share for panel in panels))
    rows = figure.subplots(
        len(panels),
        1,
        sharex=True,
        squeeze=False,
        gridspec_kw={
            "height_ratios": [panel.share for panel in panels],
            "left": 0.05,
            "right": 0.985,
            "top": 1 - 24 / (figure.get_figheight() * _POINTS),
            "bottom": 24 / (figure.get_figheight() * _POINTS),
            "hspace": 0.55,
        },
    )[:, 0]
    for axes, panel in zip(rows, panels, strict=True):
        _bare(axes)
        axes.stairs(panel.values, times, fill=True, color=panel.colour, alpha=0.22, lw=0, clip_on=False)
        axes.stairs(panel.values, times, baseline=None, color=panel.colour, lw=1.4, clip_on=False)
        axes.set_xlim(0, times[-1])
        _ticks_below(axes, time_ticks(times[-1]) if panel is panels[-1] else [])
        _ticks_beside(axes, max(panel.values), lines=max(1, panel.share))
        _note(axes, panel.title, (0, 1), (0, 11), of="axes fraction", align="left")
    return _svg(figure, alt)


def merged(edges: Sequence[float], counts: Sequence[int], most: int) -> tuple[list[float], list[int]]:
    """Neighbours together, until there are not more than ``most`` buckets."""
    size = -(-len(counts) // most)
    sums = [sum(counts[start : start + size]) for start in range(0, len(counts), size)]
    return [*edges[: len(counts) : size], edges[-1]], sums


def trimmed(
    edges: Sequence[float], counts: Sequence[int], share: float = 0.003
) -> tuple[Sequence[float], Sequence[int]]:
    """Without the buckets at both ends that together hold no more than ``share`` of all: a few strays."""
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


def round_values(least: float, most: float) -> list[float]:
    """Up to nine of 1, 2, 5, 10, 20, … between two values, or of 1, 10, 100, … where those would be too many."""
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
    powers = [10.0**power for power in range(first, last + 1)]
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1, 3), (1,)):
        found = [power * step for power in powers for step in steps if least <= power * step <= most]
        if len(found) <= 9:
            return found
    return found[:: -(-len(found) // 9)]


def time_ticks(seconds: float) -> list[tuple[float, str]]:
    """Up to ten times from 0 to ``seconds`` with their names."""
    units = [(86_400, "d", (1, 2, 5, 10, 20, 50, 100)), (3_600, "h", (1, 2, 3, 6, 12))]
    units += [(60, "min", (1, 2, 5, 10, 15, 30)), (1, "s", (1, 2, 5, 10, 15, 30))]
    for size, unit, steps in reversed(units):
        for step in steps:
            if seconds / (size * step) <= 10:
                count = int(seconds / (size * step))
                return [(number * step * size, f"{number * step} {unit}") for number in range(count + 1)]
    return [(0, "0 d"), (seconds, f"{seconds / 86_400:,.0f} d")]


def steps(series: Mapping[str, Any], seconds: float, most: int = _STEPS) -> list[Step]:
    """
    A series with fewer steps.

    :param series: :meth:`lucidworks_provider.corpus.stats.Series.as_json`.
    :param seconds: when it ended, after its beginning.
    :param most: how many steps there may be, and one more.
    """
    size = max(1, -(-len(series["documents"]) // most))
    width = series["width"] * size
    starts = [*range(0, len(series["documents"]), size)]
    if len(starts) > 1 and seconds - (len(starts) - 1) * width < width / 4:
        # A rate of a moment says nothing.
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


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / _POINTS, height / _POINTS), dpi=_POINTS)
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    return figure


def _axes(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    axes = figure.add_axes(place)
    _bare(axes)
    return axes


def _bare(axes: Axes) -> None:
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelsize=9)
    axes.tick_params(axis="x", pad=6)
    axes.set_axisbelow(True)


def _note(
    axes: Axes, words: str, place: tuple[float, float], beside: tuple[float, float], *, of: str, align: str
) -> None:
    """Words at a place of the axes, moved by some points."""
    options: dict[str, Any] = {"xycoords": of, "textcoords": "offset points", "annotation_clip": False}
    axes.annotate(words, place, beside, ha=align, va="center", fontsize=9, **options)


def _ticks_below(axes: Axes, ticks: Sequence[tuple[float, str]]) -> None:
    axes.set_xticks([place for place, _ in ticks], [name for _, name in ticks])


def _ticks_beside(axes: Axes, most: float, *, lines: int = 4, least: float = 0) -> None:
    """Horizontal lines at round numbers, ``least`` apart or more, the last of them at or above all values."""
    step = 10.0 ** math.floor(math.log10(most / lines)) if most > 0 else 1.0
    factors = (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if lines == 1 else (1, 2, 2.5, 5, 10)
    step = max(least, next(step * by for by in factors if step * by * lines >= most))
    count = max(1, math.ceil(most / step - 1e-9))
    ticks = [number * step for number in range(count + 1)]
    axes.set_yticks(ticks, [short(tick) for tick in ticks])
    axes.set_ylim(0, ticks[-1])
    axes.grid(axis="y", color=GRID, lw=0.8, clip_on=False)


def short(value: float) -> str:
    """A number for an axis: ``850``, ``2.5k``, ``12M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _svg(figure: Figure, alt: str) -> str:
    """The shapes as they are, the words as text of the page at the place that matplotlib found for them."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    height = figure.get_figheight() * _POINTS
    words = []
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.get_visible() and text.get_text().strip():
            words.append(_words(text, height))
            text.set_visible(False)
    written = io.StringIO()
    figure.canvas.print_figure(written, format="svg")
    shapes = [_shape(data, style) for data, style in _PATH.findall(written.getvalue())]
    size = f"0 0 {figure.get_figwidth() * _POINTS:g} {height:g}"
    return f'<svg viewBox="{size}" role="img" aria-label="{escape(alt)}">{"".join(shapes + words)}</svg>'


def _shape(data: str, style: str) -> str:
    for colour, variable in _COLOURS.items():
        style = style.replace(colour, f"var({variable})")
    data = _NUMBER.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), " ".join(data.split()))
    return f'<path d="{data}" style="{style}"/>'


def _words(text: Any, height: float) -> str:
    box = text.get_window_extent()
    align = text.get_horizontalalignment()
    place, anchor = {
        "left": (box.x0, "start"),
        "right": (box.x1, "end"),
        "center": ((box.x0 + box.x1) / 2, "middle"),
    }[align]
    y = height - (box.y0 + box.y1) / 2
    return (
        f'<text x="{place:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text.get_text().strip())}</text>'
    )
