# SPDX-License-Identifier: Apache-2.0
"""The report: it loads nothing, runs nothing, takes nothing for HTML, and draws whatever was counted."""

import json
import random
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucidworks_provider.corpus.report import (
    BARS,
    LINES,
    histogram,
    merged,
    render,
    round_values,
    short,
    steps,
    time_ticks,
    timeline,
    trimmed,
    value_ticks,
)
from lucidworks_provider.corpus.stats import RunStats

HOSTILE = '"></td></svg></style><script>alert(1)</script><img src=x onerror="alert(2)">\x00\u202e\ud800&amp;'


class Page(HTMLParser):
    """The elements of a page and their texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "path"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]

    @property
    def text(self) -> str:
        return "|".join(self.texts)


def stats_of(documents: int = 500, *, seconds: float = 60.0, throttled: int = 5) -> dict[str, Any]:
    draw, stats = random.Random(7), RunStats(documents + 21, 0.0)
    stats.skipped(20)
    for number in range(documents):
        now = seconds * number / documents
        stats.in_flight = draw.randint(50, 60)
        stats.request(429 if number < throttled else 200, now)
        stats.submitted(now)
        sizes = [draw.randint(100, 2_000) for _ in range(6)]
        stats.chunked(now, draw.lognormvariate(-1, 0.5), sizes, 900)
    stats.rejected("empty")
    return stats.as_json(seconds)


ABOUT = {
    "title": "Chunks of a catalogue",
    "source": "s3://bucket/catalogue/**/*.html",
    "manifest": {"added": 12, "lists": {"added": "s3://x/added.jsonl"}},
    "options": {
        "chunker": "sentence",
        "chunker_config": {"chunkSize": 5},
        "model_config": {},
        "encoding": None,
    },
    "rejects": [{"document_id": "a.txt", "reason": "empty", "detail": "there is no text"}],
}


def test_what_it_says() -> None:
    page = Page(render(stats_of(), ABOUT))
    said = re.sub(r"\|+", "|", page.text)
    assert "500 documents chunked in 1 min 00 s, 8.3 a second; 20 unchanged and not sent; 1 rejected." in said
    for figure in (
        *("Documents|500|of 521", "Chunks|3,000|6 a document", "Tokens|450,000|150 a chunk"),
        *("Requests|500|1 a", "429s|5|1 %", "Submitted twice|0", "Rejects|1|0.2 %"),
        *("Duration|1 min 00 s|20 unchanged", "chunker|sentence", "chunker_config.chunkSize|5"),
        *("encoding|not set", "lists.added|s3://x/added.jsonl", "source|s3://bucket/catalogue/**/*.html"),
        *("a.txt|empty|there is no text", "empty|1"),
    ):
        assert figure in said
    assert page.open == []


def test_it_loads_and_runs_nothing() -> None:
    html = render(stats_of(), ABOUT)
    page = Page(html)
    loading = {"script", "link", "img", "iframe", "object", "a", "form", "base", "image", "use"}
    assert not set(page.names) & loading
    for tag, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on")}
        assert not set(attributes) & {"src", "href", "xlink:href", "action", "srcset", "id"}, tag
        assert "url(" not in (attributes.get("style") or "")
    assert "url(" not in html
    assert "@import" not in html
    # First of all but the encoding, since it applies from its position on.
    assert [tag for tag, _ in page.tags[2:5]] == ["meta", "meta", "meta"]
    policy = page.tags[3][1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert "default-src 'none'" in (policy["content"] or "")
    assert "script-src" not in (policy["content"] or "")


def test_nothing_from_outside_is_html() -> None:
    def pages(word: Callable[[str], str]) -> str:
        stats = stats_of()
        stats["rejected"] = {word("empty"): 1}
        about = {
            "title": word("title"),
            "source": word("source"),
            "manifest": {word("a"): word("b"), "lists": {word("c"): [word("d")]}},
            "options": {word("e"): {word("f"): word("g")}},
            "rejects": [{name: word("x") for name in ("document_id", "reason", "detail")}],
        }
        return render(stats, about)

    plain, hostile = pages(lambda word: word), pages(lambda word: f"{word}{HOSTILE}")
    assert hostile.encode()  # no half of a surrogate pair is left
    assert Page(plain).tags == Page(hostile).tags
    assert HOSTILE.rpartition("\x00")[0] in Page(hostile).text
    assert "\x00" not in hostile


def test_small_whatever_it_is_given() -> None:
    assert len(render(stats_of(3_000, seconds=200_000, throttled=1_000), ABOUT).encode()) < 100_000
    much = {f"{'<' * 1_000}{number}": {"<" * 1_000: "<" * 2_000} for number in range(200)}
    rejects = [dict.fromkeys(("document_id", "reason", "detail"), "<" * 2_000)] * 100
    given = much | {"title": "<" * 10_000, "options": much, "rejects": rejects}
    stats = stats_of() | {"rejected": {f"{number}{'&' * 900}": number + 1 for number in range(1_000)}}
    for worst in ("<", '"', "\U0001f404", "x"):
        html = render(stats, json.loads(json.dumps(given).replace("<", json.dumps(worst)[1:-1])))
        assert len(html.encode()) < 300_000


def runs() -> dict[str, dict[str, Any]]:
    """Runs at the edges of what a chart can show."""

    def run(*documents: tuple[float, float | None, list[int]], until: float) -> dict[str, Any]:
        stats = RunStats(None, 0.0)
        for now, latency, sizes in documents:
            stats.request(200, now)
            stats.chunked(now, latency, sizes, 0)
        return stats.as_json(until)

    return {
        "nothing": run(until=0),
        "nothing for a while": run(until=3_600),
        "a document at once": run((0, 0.0, [0]), until=0),
        "a document without chunks": run((0.5, None, []), until=1),
        "one chunk": run((1, 0.01, [1]), until=1),
        "all the same": run(*[(second, 2.0, [500] * 3) for second in range(100)], until=100),
        "the widest": run((1, 1e-9, [0, 1]), (1e7, 1e9, [10**9]), until=1e7),
        "a straggler": run((1, 1, [10]), (50_000, 1, [10]), until=50_000.5),
    }


@pytest.mark.parametrize("name", runs())
def test_runs_at_the_edges(name: str) -> None:
    stats = runs()[name]
    html = render(stats, {})
    page = Page(html)
    assert page.open == []
    assert not re.search(r"\b(nan|inf|None)\b", page.text)
    drawn = (stats["chunk_sizes"]["count"] > 0) + (stats["latency"]["count"] > 0) + (stats["documents"] > 0)
    assert page.names.count("svg") == page.names.count("details") == drawn
    paths = "".join(attributes.get("d") or "" for _, attributes in page.tags)
    assert not re.search(r"nan|inf|None|e-", paths)
    assert page.names.count("h2") == 3


def test_charts_have_text_alternatives() -> None:
    page = Page(render(stats_of(), {}))
    alts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert {one["role"] for one in alts} == {"img"}
    sizes, latency, throughput = (one["aria-label"] or "" for one in alts)
    words = r"3,000 chunks: 100 to 2,000, half of them up to 1,\d\d\d, 95 % up to 1,\d\d\d\."
    assert re.fullmatch(rf"Histogram, characters of a chunk\. {words}", sizes)
    assert latency.startswith("Histogram, from submission to result. 500 jobs: ")
    assert throughput.startswith("Lines over 1 min 00 s. Up to ")
    assert ("html", {"lang": "en"}) in page.tags


def test_charts_take_their_colours_from_the_page() -> None:
    html = render(stats_of(), {})
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert not re.search(r"style=|fill=|stroke=|#[0-9a-f]{3,6}", drawn)
    classes = set(re.findall(r'class="(\w+)"', drawn))
    assert classes == {"grid", "bars", "mark", "accent", "muted", "warn", "area", "line"}
    assert all(f"svg .{name} {{" in html for name in classes)
    # Words are text, not shapes.
    words = {"500", "1,000", "2,000", "200 ms", "documents a second", "responses with 429 a second"}
    assert words <= set(Page(html).texts)


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(one * 2 for one in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(scheme: int) -> None:
    root = re.findall(r":root \{[^}]*\}", render(stats_of(0), {}))[scheme]
    colours = dict(re.findall(r"--(\w+): (#\w+);", root))

    def contrast(one: str, other: str) -> float:
        dark, light = sorted((luminance(colours[one]), luminance(colours[other])))
        return (light + 0.05) / (dark + 0.05)

    # WCAG 2.2: 4.5 for text, 3 for shapes.
    for text, ground in product(("ink", "muted", "warn"), ("card", "page")):
        assert contrast(text, ground) >= 4.5
    assert contrast("accent", "card") >= 3


def test_steps() -> None:
    counts = [4] * 10
    series = {"width": 2.0, "documents": counts, "throttled": counts, "in_flight": [*range(10)]}

    def told(seconds: float, most: int) -> list[tuple[float, float, int, int]]:
        found = steps(series, seconds, most)
        return [(one.start, one.seconds, one.documents, one.in_flight) for one in found]

    assert told(20, 10) == [(2.0 * number, 2.0, 4, number) for number in range(10)]
    assert told(19, 3) == [(0, 8, 16, 3), (8, 8, 16, 7), (16, 3, 8, 9)]
    # A rate of the last moment alone would say nothing.
    assert told(16.5, 3) == [(0, 8, 16, 3), (8, 8.5, 24, 9)]
    assert sum(one.documents for one in steps(series, 0, 1)) == 40


@pytest.mark.parametrize(
    ("seconds", "first", "last", "count"),
    [
        (7, "0 s", "7 s", 8),
        (45, "0 s", "45 s", 10),
        (90, "0 s", "90 s", 10),
        (1_792, "0 min", "25 min", 6),
        (5 * 3_600, "0 min", "300 min", 11),
        (86_400, "0 h", "24 h", 9),
        (86_400 * 9, "0 d", "9 d", 10),
        (86_400 * 5_000, "0 d", "5,000 d", 2),
    ],
)
def test_time_ticks(seconds: float, first: str, last: str, count: int) -> None:
    ticks = time_ticks(seconds)
    assert (ticks[0][1], ticks[-1][1], len(ticks)) == (first, last, count)
    assert ticks[0][0] == 0
    assert ticks[-1][0] <= seconds


@pytest.mark.parametrize(
    ("least", "most", "values"),
    [
        (90, 2_100, [100, 200, 500, 1_000, 2_000]),
        (1, 1e6, [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000]),
        (480, 520, [500]),
        (0.5, 1e12, [1, 100, 1e4, 1e6, 1e8, 1e10, 1e12]),
    ],
)
def test_round_values(least: float, most: float, values: list[float]) -> None:
    assert round_values(least, most) == pytest.approx(values)


@pytest.mark.parametrize(
    ("most", "lines", "least", "ticks"),
    [
        (0, 4, 0, [0, 1]),
        (1, 4, 1, [0, 1]),
        (9, 3, 0, [0, 5, 10]),
        (60, 1, 0, [0, 60]),
        (225, 4, 1, [0, 100, 200, 300]),
        (0.015, 3, 0, [0, 0.005, 0.01, 0.015]),
    ],
)
def test_value_ticks(most: float, lines: int, least: float, ticks: list[float]) -> None:
    assert value_ticks(most, lines=lines, least=least) == pytest.approx(ticks)


def test_a_histogram_is_laid_out_on_a_logarithmic_axis() -> None:
    chart = histogram([10, 20, 40], [40, 20], marks=[(20, "half")], name=short)
    middle = (BARS.left + BARS.right) / 2
    # Two octaves of the same width, with gaps; the higher bar reaches the highest tick.
    (first, width, top), (second, _, half) = chart.bars
    assert (first + width, second) == pytest.approx(
        (middle - (first - BARS.left), middle + first - BARS.left)
    )
    assert (top, half) == pytest.approx((BARS.top, (BARS.top + BARS.bottom) / 2))
    assert chart.marks == [(pytest.approx(middle), "half")]
    assert [name for _, name in chart.ticks] == ["10", "15", "20", "30", "40"]
    assert [chart.ticks[index][0] for index in (0, 2, 4)] == pytest.approx([BARS.left, middle, BARS.right])
    assert [name for _, name in chart.grid] == ["0", "10", "20", "30", "40"]
    assert (chart.grid[0][0], chart.grid[-1][0]) == pytest.approx((BARS.bottom, BARS.top))


def test_panels_are_laid_out_below_each_other() -> None:
    series = {"width": 1.0, "documents": [4, 2], "throttled": [0, 0], "in_flight": [5, 10]}
    chart = timeline(steps(series, 2), [("documents", "accent", [4, 2], 3), ("jobs", "muted", [5, 10], 1)])
    above, below = chart.panels
    middle = (LINES.left + LINES.right) / 2
    assert above.top == LINES.top
    assert below.top > above.bottom
    assert below.bottom - below.top == pytest.approx((above.bottom - above.top) / 3)
    assert [x for _, x in above.line] == pytest.approx([middle, LINES.right])
    assert [y for y, _ in below.line] == pytest.approx([(below.top + below.bottom) / 2, below.top])
    assert [name for _, name in chart.ticks] == ["0 s", "1 s", "2 s"]


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 10**10), max_size=20),
    latencies=st.lists(st.floats(0, 1e9), max_size=20),
    throttled=st.integers(0, 3),
    seconds=st.floats(0, 1e8),
)
def test_whatever_was_counted_is_drawn(
    sizes: list[int], latencies: list[float], throttled: int, seconds: float
) -> None:
    """A report that fails would fail a run that has everything."""
    stats = RunStats(None, 0.0)
    for number, latency in enumerate(latencies):
        stats.request(429 if number < throttled else 200, seconds * number / len(latencies))
        stats.chunked(seconds * number / len(latencies), latency, sizes, 1)
    page = Page(render(stats.as_json(seconds), {}))
    assert page.open == []
    assert not re.search(r"nan|inf|None", "".join(attributes.get("d") or "" for _, attributes in page.tags))


def test_buckets() -> None:
    assert merged([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5], 2) == ([1, 4, 6], [6, 9])
    assert merged([1, 2, 3], [1, 2], 36) == ([1, 2, 3], [1, 2])
    edges, counts = trimmed([*range(8)], [1, 0, 600, 400, 0, 1, 1])
    assert (list(edges), list(counts)) == ([2, 3, 4], [600, 400])
    assert trimmed([0, 1], [7]) == ([0, 1], [7])
    for values in (edges, merged([*range(100)], [1] * 99, 36)[0]):
        assert all(one < other for one, other in pairwise(values))


@pytest.mark.parametrize(
    ("value", "words"), [(0, "0"), (2.5, "2.5"), (850, "850"), (2_500, "2.5k"), (12e6, "12M"), (3e9, "3G")]
)
def test_short(value: float, words: str) -> None:
    assert short(value) == words
