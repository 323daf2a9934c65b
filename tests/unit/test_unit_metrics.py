# SPDX-License-Identifier: Apache-2.0
"""What is counted, and that the page has each name."""

import ast
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import lucidworks_provider
from lucidworks_provider import metrics

PACKAGE = Path(lucidworks_provider.__file__).parent
PAGE = PACKAGE.parent / "docs" / "metrics.md"


class Stats:
    """Airflow's, noting calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def incr(self, name: str, count: int = 1, *, tags: dict[str, str] | None = None) -> None:
        self.calls.append((name, count, tags))

    gauge = timing = incr


@pytest.fixture
def stats(monkeypatch: pytest.MonkeyPatch) -> Stats:
    noted = Stats()
    monkeypatch.setattr(metrics, "_stats", lambda: noted)
    return noted


def test_a_job_is_in_flight_until_it_ends_or_is_given_up(stats: Stats) -> None:
    with metrics.waiting() as first:
        with pytest.raises(TimeoutError), metrics.waiting():
            raise TimeoutError
        first.ending = "collected"
    flying = [value for name, value, _ in stats.calls if name == "lucidworks.jobs_in_flight"]
    assert flying == [1, 2, 1, 0]
    ended = [call for call in stats.calls if call[0] == "lucidworks.jobs_ended"]
    assert ended == [("lucidworks.jobs_ended", 1, {"outcome": "collected"})]
    (took,) = [value for name, value, _ in stats.calls if name == "lucidworks.job_duration"]
    assert timedelta() <= took < timedelta(seconds=5)


def test_missing_values_are_not_reported(stats: Stats) -> None:
    metrics.written({"uri": "x", "job_id": "j"})
    assert stats.calls == []
    metrics.written({"documents": 2, "chunks": 7, "warnings": 0})
    metrics.written({"predictions": 3, "warnings": 2})
    assert [(name, count) for name, count, _ in stats.calls] == [
        ("lucidworks.documents", 2),
        ("lucidworks.chunks", 7),
        ("lucidworks.documents", 3),
        ("lucidworks.warnings", 2),
    ]


def test_where_no_airflow_is_loaded_none_is() -> None:
    code = (
        "import sys; from lucidworks_provider import metrics; metrics.refreshed('s'); metrics.written({'chunks': 1});"
        "print([name for name in sys.modules if name.startswith('airflow')])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def endpoints() -> set[str]:
    """The words that the requests of the package carry."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "endpoint" and "emulator" not in path.parts:
                if isinstance(node.value, ast.Constant):
                    found.add(str(node.value.value))
                elif isinstance(node.value, ast.JoinedStr):
                    found |= {"poll_chunking", "poll_prediction"}
    return found


def test_the_page_has_every_name_and_no_other() -> None:
    code = (PACKAGE / "metrics.py").read_text()
    told = set(re.findall(r'"(lucidworks\.\w+)"', code))
    page = PAGE.read_text()
    assert set(re.findall(r"`(lucidworks\.\w+)`", page)) == told
    listed = re.search(r"Endpoints: (.+?)\n\n", page, re.S)
    assert listed is not None
    assert set(re.findall(r"`(\w+)`", listed[1])) == endpoints()
