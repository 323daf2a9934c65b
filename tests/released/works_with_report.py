# SPDX-License-Identifier: Apache-2.0
"""Extra ``report``: the report of a run has its charts."""

from __future__ import annotations

from lucidworks_provider.corpus.report import render
from lucidworks_provider.corpus.stats import RunStats

if __name__ == "__main__":
    stats = RunStats(40, 0.0)
    for number in range(40):
        stats.request(200, float(number))
        stats.submitted(float(number))
        stats.chunked(float(number), 0.5, [100, 200, 300 + number], 90)
    page = render(stats.as_json(60.0), {"source": "s3://bucket/catalogue"})
    assert page.count("<svg") == 3, page.count("<svg")
