# SPDX-License-Identifier: Apache-2.0
"""
The report of a run: one HTML page beside the dataset that needs nothing else.

It holds no script and no address that a browser would follow, and a Content-Security-Policy that forbids both.
Charts need the ``report`` extra (:mod:`lucidworks_provider.corpus.charts`); without it the page has their tables.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from lucidworks_provider.corpus.stats import duration

log = logging.getLogger(__name__)

# What else the page says comes from outside, so it is bounded: characters of a value and the bytes that they become,
# rows of a table.
LONGEST, MOST_BYTES, MOST_ROWS = 400, 600, 60
_TABLE_ROWS = 24
# Nothing but the page's own styles. What is absent falls back to 'none', scripts and images included.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# Not allowed in HTML, whatever they are written as; halves of surrogate pairs have no UTF-8 at all.
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b2430; --muted: #5a6675; --grid: #e3e7ec;
  --accent: #2563c4; --warn: #c2410c; --good: #15803d; }
@media (prefers-color-scheme: dark) { :root { --page: #11161d; --card: #1a212b; --ink: #e8edf3; --muted: #9aa7b6;
  --grid: #2d3744; --accent: #74a9ff; --warn: #ff9a62; --good: #5fd08a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 48px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0 0 2px; }
p { margin: 0; } .lead { color: var(--muted); margin-bottom: 24px; overflow-wrap: anywhere; }
.note { color: var(--muted); font-size: 13px; margin-bottom: 10px; }
.figures { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 0 0 16px; }
@media (max-width: 800px) { .figures { grid-template-columns: 1fr 1fr; } main { padding: 24px 16px; } }
.figures div, section { background: var(--card); border: 1px solid var(--grid); border-radius: 10px; }
.figures div { padding: 12px 16px; display: flex; flex-direction: column; }
.figures dt { color: var(--muted); font-size: 13px; } .figures dd { margin: 0; }
.figures .value { font-size: 24px; font-weight: 600; font-variant-numeric: tabular-nums; line-height: 1.3; }
.figures .more { color: var(--muted); font-size: 12.5px; } .figures .bad .value { color: var(--warn); }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 16px; }
section { padding: 16px 20px; margin-bottom: 16px; min-width: 0; } .two section { margin-bottom: 0; }
.two { margin-bottom: 16px; } .wide { overflow-x: auto; } .wide svg { min-width: 720px; }
svg { display: block; width: 100%; height: auto; font-size: 9.5px; overflow: visible; } svg text { fill: var(--muted);
  dominant-baseline: central; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-top: 1px solid var(--grid); vertical-align: top;
  overflow-wrap: anywhere; } thead th { border: 0; color: var(--muted); font-weight: 500; font-size: 12.5px; }
tbody th { font-weight: 500; min-width: 8em; } td.word { white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.bar { width: 70%; padding-right: 0; vertical-align: middle; } td.bar span { display: block; height: 9px;
  border-radius: 3px; background: var(--accent); min-width: 2px; } .warn td.bar span { background: var(--warn); }
code { font: 12.5px/1.5 ui-monospace, monospace; unicode-bidi: isolate; white-space: pre-wrap; }
summary { cursor: pointer; color: var(--muted); font-size: 13px; margin-top: 8px; }
footer { color: var(--muted); font-size: 12.5px; }
@media print { body { background: none; } section, .figures div { break-inside: avoid; } }
"""


def render(stats: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """
    The page.

    :param stats: :meth:`lucidworks_provider.corpus.stats.RunStats.as_json`.
    :param about: what the run was about, each of it optional: ``title``, ``source``, ``output``, ``created``
        (ISO 8601), ``options`` (a dictionary of what was asked for), ``rejects`` (some of them, dictionaries with
        ``document_id``, ``reason`` and ``detail``). Whatever else is in it gets a row of its own: a number, a text,
        or a dictionary of those.
    :return: HTML, below 300 KB whatever is in it; to be written as UTF-8.
    """
    rows = {name: value for name, value in about.items() if name not in {"title", "options", "rejects"}}
    title = _text(about.get("title") or f"Chunks of {about.get('source') or 'a corpus'}")
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="lead">{_summary(stats)}</p>',
        _figures(stats),
        '<div class="two">',
        _histogram(stats.get("chunk_sizes"), "Chunk sizes", "chunks", "characters of a chunk", _count),
        _histogram(stats.get("latency"), "Job latency", "jobs", "from submission to result", _seconds),
        "</div>",
        _timeline(stats),
        _rejects(stats.get("rejected") or {}, about.get("rejects") or ()),
        '<div class="two">',
        _table_of("This run", rows),
        _table_of("Options", about.get("options") or {}),
        "</div>",
        _table_of("Shards", about.get("shards") or {}),
        "<footer>Made by airflow-provider-lucidworks. This page loads nothing and runs nothing.</footer>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{title}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _summary(stats: Mapping[str, Any]) -> str:
    documents, rejects, skipped = stats["documents"], sum(stats["rejected"].values()), stats["skipped"]
    words = f"{documents:,} {_plural('document', documents)} chunked in {duration(stats['seconds'])}"
    if stats["seconds"] > 0 and documents:
        words += f", {documents / stats['seconds']:,.1f} a second"
    if skipped:
        words += f"; {skipped:,} unchanged and left alone"
    return words + (f"; {rejects:,} rejected." if rejects else "; none rejected.")


def _figures(stats: Mapping[str, Any]) -> str:
    documents, chunks, tokens = stats["documents"], stats["chunks"], stats["tokens"]
    requests, rejects = stats["requests"], sum(stats["rejected"].values())
    total, twice = stats.get("total"), stats["resubmitted"]
    figures = [
        ("Documents", _count(documents), f"of {total:,}" if total is not None else "", False),
        ("Chunks", _count(chunks), _ratio(chunks, documents, "a document"), False),
        ("Tokens", _count(tokens), _ratio(tokens, chunks, "a chunk"), False),
        ("Requests", _count(requests), _ratio(requests, documents, "a document"), False),
        ("429s", _count(stats["throttled"]), _share(stats["throttled"], requests), False),
        ("Submitted twice", _count(twice), _also(stats["reused"], "taken over from a try before"), twice > 0),
        ("Rejects", _count(rejects), _share(rejects, documents + rejects), rejects > 0),
        ("Duration", duration(stats["seconds"]), _also(stats["skipped"], "unchanged"), False),
    ]
    cards = [
        f'<div{" class=bad" if bad else ""}><dt>{name}</dt><dd class="value">{value}</dd>'
        f'<dd class="more">{more}</dd></div>'
        for name, value, more, bad in figures
    ]
    return f'<dl class="figures">{"".join(cards)}</dl>'


def _histogram(
    counts: Mapping[str, Any] | None, title: str, things: str, what: str, name: Callable[[float], str]
) -> str:
    if counts is None:
        return ""
    if not counts["count"]:
        return _section(title, f'<p class="note">No {things} in this run.</p>')
    from lucidworks_provider.corpus import charts

    edges, bars = counts["edges"], counts["counts"]
    marks = [("half", counts["median"]), ("95 %", counts["p95"])]
    said = (
        f"{counts['count']:,} {things}: {name(counts['min'])} to {name(counts['max'])}, half of them up to "
        f"{name(counts['median'])}, 95 % up to {name(counts['p95'])}"
    )
    fewer, sums = charts.merged(edges, bars, _TABLE_ROWS)
    rows = [
        (f"{name(least)} to {name(most)}", count)
        for (least, most), count in zip(pairwise(fewer), sums, strict=True)
    ]
    # Long numbers would stand in each other's place.
    axis = charts.short if name is _count and edges[-1] > 20_000 else name
    alt = f"Histogram, {what}. {said}."
    chart = _drawn(lambda: charts.histogram(edges, bars, marks=marks, name=axis, alt=alt))
    return _section(title, f'<p class="note">{said}.</p>' + _with_table(chart, (what, things), rows))


def _timeline(stats: Mapping[str, Any]) -> str:
    from lucidworks_provider.corpus import charts

    title, series = "Throughput", stats.get("series")
    if series is None:
        return ""
    if not any(series.get("requests") or ()) and not any(series.get("documents") or ()):
        return _section(title, '<p class="note">Nothing was sent in this run.</p>')
    steps = charts.steps(series, stats["seconds"])
    rates = [step.documents / step.seconds for step in steps]
    in_flight = [step.in_flight for step in steps]
    said = f"Up to {max(rates):,.1f} documents a second, up to {max(in_flight):,} jobs in flight"
    said += f", {stats['throttled']:,} answers of 429." if stats["throttled"] else ", no answer of 429."
    panels = [
        charts.Panel("documents a second", rates, charts.ACCENT, 3),
        charts.Panel("jobs in flight", in_flight, charts.MUTED, 1),
    ]
    if stats["throttled"]:
        refused = [step.throttled / step.seconds for step in steps]
        panels.append(charts.Panel("answers of 429 a second", refused, charts.WARN, 1))
    times = [*(step.start for step in steps), steps[-1].start + steps[-1].seconds]
    rows = [
        (duration(step.start), step.documents / step.seconds, step.in_flight, step.throttled)
        for step in charts.steps(series, stats["seconds"], _TABLE_ROWS)
    ]
    chart = _drawn(
        lambda: charts.timeline(times, panels, alt=f"Lines over {duration(stats['seconds'])}. {said}")
    )
    heads = ("from", "documents a second", "jobs in flight, at most", "answers of 429")
    return _section(title, f'<p class="note">{said}</p>' + _with_table(chart, heads, rows, wide=True))


def _rejects(reasons: Mapping[str, int], examples: Sequence[Mapping[str, Any]]) -> str:
    if not reasons:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_text(reason)}</th><td class="number">{count:,}</td>'
        f'<td class="bar"><span style="width:{100 * count / max(reasons.values()):.1f}%"></span></td></tr>'
        for reason, count in [*reasons.items()][:MOST_ROWS]
    )
    body = f'<table class="warn"><tbody>{rows}</tbody></table>'
    if examples:
        found = "".join(
            f"<tr><td><code>{_text(one.get('document_id'))}</code></td>"
            f'<td class="word">{_text(one.get("reason"))}</td>'
            f"<td>{_text(one.get('detail'))}</td></tr>"
            for one in examples[:_TABLE_ROWS]
        )
        heads = "".join(f'<th scope="col">{head}</th>' for head in ("document", "reason", "detail"))
        body += (
            f"<details open><summary>{_first(len(examples[:_TABLE_ROWS]), sum(reasons.values()))}, the rest is in "
            f"rejects.jsonl</summary><table><thead><tr>{heads}</tr></thead><tbody>{found}</tbody></table></details>"
        )
    return _section("Rejects by reason", body)


def _table_of(title: str, values: Mapping[str, Any]) -> str:
    """Names and values; dictionaries within are laid out."""
    flat = list(_flat(values, ""))
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_value(value)}</td></tr>'
        for name, value in flat[:MOST_ROWS]
    )
    return _section(title, f"<table><tbody>{rows}</tbody></table>") if rows else ""


def _flat(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            # What a run returned says by itself what it is.
            yield from _flat(value, before if name == "manifest" else f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _with_table(
    chart: str, heads: Sequence[str], rows: Sequence[tuple[str | float, ...]], *, wide: bool = False
) -> str:
    """A chart with its numbers folded away below it, or the numbers alone."""
    head = "".join(
        f'<th scope="col"{" class=number" if number else ""}>{_text(one)}</th>'
        for number, one in enumerate(heads)
    )
    body = "".join(
        f'<tr><th scope="row">{_text(first)}</th>'
        + "".join(f'<td class="number">{_text(_number(one))}</td>' for one in rest)
        + "</tr>"
        for first, *rest in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    if not chart:
        return table
    place = " class=wide" if wide else ""
    return f"<div{place}>{chart}</div><details><summary>The numbers</summary>{table}</details>"


def _drawn(draw: Callable[[], str]) -> str:
    try:
        return draw()
    except ImportError:
        return ""
    except Exception as err:  # noqa: BLE001 - whatever a plotting library runs into, a run does not fail of it
        log.warning("A chart of the report could not be drawn: %s: %s", type(err).__name__, err)
        return ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _text(value: Any) -> str:
    """Anything as text of the page; ids and details are other people's, and may be HTML or no text at all."""
    whole = _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", str(value))
    text = whole[:LONGEST]
    while len((escaped := escape(text)).encode()) > MOST_BYTES:
        text = text[: len(text) * 3 // 4]
    return escaped if text == whole else f"{escaped} …"


def _value(value: Any) -> str:
    if value is None or value in ("", {}, []):
        return '<span class="note">not set</span>'
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _text(_number(value))
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f"<code>{_text(text)}</code>"


def _number(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:,.3g}"
    return f"{value:,}" if isinstance(value, int) else value


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


def _first(shown: int, total: int) -> str:
    return "All of them" if shown == total else f"The first {shown:,} of {total:,}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
