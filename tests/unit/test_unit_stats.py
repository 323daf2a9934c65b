# SPDX-License-Identifier: Apache-2.0
"""The counts of a run: equal to those of the values, in constant memory."""

import json
import math
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidworks_provider.corpus.stats import SECONDS_EDGES, SIZE_EDGES, STEPS, Histogram, RunStats, Series
from lucidworks_provider.documents.document import Reason
from lucidworks_provider.metrics import duration


class TestHistogram:
    @given(st.lists(st.integers(0, 3_000_000), min_size=1))
    def test_many_sizes_are_counted_as_one_by_one(self, sizes: list[int]) -> None:
        together, alone = Histogram(SIZE_EDGES), Histogram(SIZE_EDGES)
        together.add(sizes)
        for size in sizes:
            alone.add([size])
        assert together.counts == alone.counts
        assert together.as_json() == alone.as_json()

    @given(st.lists(st.floats(0, 1e6), min_size=1))
    def test_what_is_written_holds_all_values(self, seconds: list[float]) -> None:
        counts = Histogram(SECONDS_EDGES)
        for one in seconds:
            counts.add([one])
        plain = counts.as_json()
        assert len(plain["edges"]) == len(plain["counts"]) + 1
        assert sum(plain["counts"]) == plain["count"] == len(seconds)
        assert plain["edges"][0] <= min(seconds) == plain["min"]
        assert plain["edges"][-1] >= max(seconds) == plain["max"]
        assert plain["min"] <= plain["median"] <= plain["p95"] <= plain["max"]

    def test_quantiles_are_as_exact_as_a_bucket(self) -> None:
        counts = Histogram(SIZE_EDGES)
        counts.add(range(1, 10_001))
        for share in (0.1, 0.5, 0.95):
            assert counts.quantile(share) == pytest.approx(share * 10_000, rel=0.1)
        assert Histogram(SIZE_EDGES).quantile(0.5) is None

    def test_without_values(self) -> None:
        counts = Histogram(SIZE_EDGES)
        counts.add([])
        assert counts.as_json() == {"count": 0, "edges": [], "counts": []}


class TestSeries:
    @given(st.lists(st.floats(0, 1e5), min_size=1))
    def test_nothing_is_lost_when_steps_become_wider(self, gaps: list[float]) -> None:
        series, now = Series(100.0), 100.0
        for gap in gaps:
            now += gap
            series.documents[series.step(now)] += 1
        plain = series.as_json()
        assert sum(plain["documents"]) == len(gaps)
        assert len(plain["documents"]) <= STEPS
        assert (len(plain["documents"]) - 1) * plain["width"] <= now - 100 or len(plain["documents"]) == 1
        assert now - 100 <= len(plain["documents"]) * plain["width"]

    def test_steps_stay_where_they_were(self) -> None:
        series = Series(0.0)
        series.throttled[series.step(100.0)] = 3
        series.in_flight[series.step(100.0)], series.in_flight[series.step(101.0)] = 5, 9
        assert series.step(STEPS * 8 - 1) == STEPS - 1
        plain = series.as_json()
        assert plain["width"] == 8
        assert plain["throttled"][100 // 8] == 3
        assert plain["in_flight"][100 // 8] == 9  # the most, no sum

    def test_a_clock_that_goes_back_loses_nothing(self) -> None:
        series = Series(10.0)
        assert series.step(5.0) == 0


class TestProgress:
    def test_all_of_it(self) -> None:
        stats = RunStats(1_000, 0.0)
        stats.skipped(100)
        for second in range(1, 21):
            for _ in range(20):
                stats.request(200, second)
                stats.chunked(second, 0.5, [100, 200], 70)
            if second % 5 == 0:
                stats.progress(second)
        stats.rejected(Reason.EMPTY)
        stats.request(429, 20)
        stats.request("broken", 20)
        stats.request("not_sent", 20)
        for _ in range(25):
            stats.chunked(21, 0.5, [100, 200], 70)
        stats.in_flight, stats.rate = 1_234, 60.0
        assert stats.progress(21.0) == (
            "526 of 1,000 documents (52 %) done, 1,234 in flight, 25.0 documents/s, limit 60.0 requests/s, 429s: 1, "
            "rejects: 1, without a response: 2, about 23 s left"
        )

    def test_time_left_is_not_reported_before_it_means_something(self) -> None:
        # As seen: three documents were done when the first line came, and it said hours.
        stats, lines = RunStats(5_000, 0.0), []
        for second in range(1, 108):
            for _ in range(3 if second == 5 else 49 if second > 5 else 0):
                stats.chunked(second, 3.0, [100], 70)
            if second % 5 == 0:
                lines.append(stats.progress(second))
        assert ["left" in line for line in lines[:4]] == [False, False, True, True]
        assert "about 1 min 32 s left" in lines[2]

    def test_time_left_waits_for_enough_documents(self) -> None:
        stats = RunStats(1_000, 0.0)
        for second in range(0, 300, 5):
            stats.chunked(second, None, [], 0)
            line = stats.progress(second + 5)
            assert ("left" in line) == (stats.documents > 50)

    def test_documents_a_second_are_those_since_the_line_before(self) -> None:
        stats = RunStats(None, 0.0)
        for _ in range(50):
            stats.chunked(5, None, [], 0)
        assert "10.0 documents/s" in stats.progress(5)
        assert "0.0 documents/s" in stats.progress(10)
        # Two lines at one moment: there is no rate of no time.
        assert "0.0 documents/s" in stats.progress(10)

    def test_time_left_follows_a_rate_that_changes(self) -> None:
        stats, left = RunStats(100_000, 0.0), []
        for second in range(0, 600, 5):
            for _ in range(500 if second < 300 else 50):
                stats.chunked(second, None, [], 0)
            line = stats.progress(second + 5)
            left.append(line.rpartition("about ")[2])
        assert left[58] == "11 min 45 s left"
        # Five minutes later next to nothing is left of the hundred a second before.
        assert left[-1] == "1 h 45 min left"

    @pytest.mark.parametrize(("total", "words"), [(None, "1 documents done"), (0, "1 documents done")])
    def test_without_a_total(self, total: int | None, words: str) -> None:
        stats = RunStats(total, 0.0)
        stats.chunked(1, None, [], 0)
        line = stats.progress(1)
        assert line.startswith(words)
        assert "left" not in line

    def test_what_is_skipped_at_once_is_no_rate(self) -> None:
        stats = RunStats(1_000_000, 0.0)
        stats.skipped(999_000)
        stats.chunked(1, None, [], 0)
        stats.progress(1)
        for _ in range(100):
            stats.chunked(11, None, [], 0)
        assert "about 1 min 30 s left" in stats.progress(11)
        # Found by reading them, one by one: this takes its time and counts.
        for _ in range(300):
            stats.skipped()
        assert "about 16 s left" in stats.progress(12)

    def test_not_all_of_it_is_never_100_percent(self) -> None:
        stats = RunStats(100_000, 0.0)
        stats.skipped(99_999)
        assert "(99 %)" in stats.progress(1)


def test_as_json_is_plain() -> None:
    stats = RunStats(3, 1_000.0)
    stats.in_flight = 2
    stats.request(429, 1_000.5)
    stats.submitted(1_001.0)
    stats.request("broken", 1_001.5)
    stats.resubmitted()
    stats.reused()
    stats.skipped()
    stats.chunked(1_002.0, 1.0, [10, 20], 5)
    stats.rejected(Reason.EMPTY)
    plain = stats.as_json(1_002.0)
    assert json.loads(json.dumps(plain)) == plain
    assert type(next(iter(plain["rejected"]))) is str
    series, sizes, latency = (plain.pop(name) for name in ("series", "chunk_sizes", "latency"))
    assert plain == {
        **{"total": 3, "documents": 1, "skipped": 1, "chunks": 2, "tokens": 5, "requests": 2, "throttled": 1},
        **{
            "submitted": 1,
            "resubmitted": 1,
            "reused": 1,
            "rejected": {"empty": 1},
            "seconds": 2.0,
            "unanswered": 1,
        },
    }
    assert (sizes["count"], latency["count"], latency["max"]) == (2, 1, 1.0)
    assert series["documents"] == [0, 0, 1]
    assert series["in_flight"] == [2, 2, 0]
    assert stats.as_json(1_010.0)["seconds"] == 10


def test_constant_memory_and_time() -> None:
    stats, sizes = RunStats(None, 0.0), [*range(100, 1_300, 100)]

    def documents(count: int, start: float) -> float:
        began = time.process_time()
        for number in range(count):
            now = start + number / 100
            stats.request(200, now)
            stats.request(200, now)
            stats.submitted(now)
            stats.chunked(now, 0.3, sizes, 900)
        return (time.process_time() - began) / count

    def held() -> list[int]:
        arrays: list[Any] = [stats.sizes.counts, stats.latency.counts, stats.series.documents]
        return [len(one) for one in [*arrays, stats.series.requests, stats.series.in_flight]]

    documents(2_000, 0)
    before = held()
    cost = min(documents(2_000, 10.0**power) for power in range(1, 7))
    assert held() == before
    assert len(json.dumps(stats.as_json(1e6))) < 20_000
    # 3 microseconds where it was written; a runner may be slow.
    assert cost < 60e-6


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *[(0, "0 s"), (0.4, "0.4 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3_599.6, "1 h 00 min")],
        *[(7_500, "2 h 05 min"), (97_200, "1 d 03 h"), (86_400 * 2_000, "2,000 d 00 h")],
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_edges_are_wide_enough() -> None:
    assert SIZE_EDGES[:12] == tuple(range(1, 13))
    assert all(math.isclose(b / a, 2 ** (1 / 4)) for a, b in pairwise(SECONDS_EDGES))
    assert SIZE_EDGES[-1] >= 2_000_000
    assert SECONDS_EDGES[-1] >= 86_400
