# SPDX-License-Identifier: Apache-2.0
"""
The report of a run: one self-contained HTML page.

It has no scripts and loads nothing, which its Content-Security-Policy enforces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from lucidworks_provider.corpus import charts
from lucidworks_provider.corpus.dataset import REPORT, below
from lucidworks_provider.corpus.stats import duration
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
        (ISO 8601), ``options`` (a dictionary of what was asked for), ``rejects`` (some of them, dictionaries with
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
        title=about.get("title") or f"Chunks of {about.get('source') or 'a corpus'}",
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
    return environment.get_template("report.html.jinja", globals={"edges": charts})


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
        words += f"; {skipped:,} unchanged and left alone"
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
        ("Submitted twice", _count(twice), _also(stats["reused"], "taken over from a try before"), twice > 0),
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
    axis = charts.short if name is _count and edges[-1] > 20_000 else name
    fewer, sums = charts.merged(edges, counts["counts"], _TABLE_ROWS)
    return {
        "title": title,
        "note": note,
        "chart": charts.histogram(edges, counts["counts"], marks=marks, name=axis),
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
    steps = charts.steps(series, stats["seconds"])
    rates = [step.documents / step.seconds for step in steps]
    in_flight = [step.in_flight for step in steps]
    note = f"Up to {max(rates):,.1f} documents a second, up to {max(in_flight):,} jobs in flight"
    note += f", {stats['throttled']:,} answers of 429." if stats["throttled"] else ", no answer of 429."
    panels: list[tuple[str, str, Sequence[float], int]]
    panels = [("documents a second", "accent", rates, 3), ("jobs in flight", "muted", in_flight, 1)]
    if stats["throttled"]:
        refused = [step.throttled / step.seconds for step in steps]
        panels.append(("answers of 429 a second", "warn", refused, 1))
    return {
        "title": title,
        "note": note,
        "chart": charts.timeline(steps, panels),
        "alt": f"Lines over {duration(stats['seconds'])}. {note}",
        "heads": ("from", "documents a second", "jobs in flight, at most", "answers of 429"),
        "rows": [
            (
                duration(step.start),
                *map(_number, (step.documents / step.seconds, step.in_flight, step.throttled)),
            )
            for step in charts.steps(series, stats["seconds"], _TABLE_ROWS)
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
