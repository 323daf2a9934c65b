# SPDX-License-Identifier: Apache-2.0
"""What a budget permits, and lines of a task's log."""

import asyncio
import re
import time
from contextlib import nullcontext
from typing import Any

import pytest

from lucidworks_provider.client.options import check_option
from lucidworks_provider.errors import BudgetExceededError, InputError
from lucidworks_provider.jobs.polling import WaitProgress
from lucidworks_provider.jobs.task import Budget, ProgressLog
from lucidworks_provider.metrics import log_result
from lucidworks_provider.operators.base import LIMIT


@pytest.mark.parametrize(
    ("most", "requests", "permitted"), [(None, 10**9, True), (3, 3, True), (3, 4, False), (0, 0, True)]
)
def test_requests_are_known_before_the_first(most: int | None, requests: int, permitted: bool) -> None:
    words = r"4 requests, more than max_requests=3\. Nothing was sent"
    with nullcontext() if permitted else pytest.raises(BudgetExceededError, match=words) as caught:
        Budget(most).check_requests(requests)
    assert caught is None or not caught.value.retryable


def test_tokens_are_known_after_each_response() -> None:
    budget = Budget(max_tokens=10)
    for used in (4, 5):
        budget.check_tokens()
        budget.spend(used)
    budget.check_tokens()
    budget.spend(3)
    with pytest.raises(BudgetExceededError, match="12 tokens, and max_tokens=10"):
        budget.check_tokens()
    unlimited = Budget()
    unlimited.spend(10**9)
    unlimited.check_tokens()


def test_limits_of_operators() -> None:
    assert [check_option(given, "max_tokens", LIMIT) for given in (None, 0, "17")] == [None, 0, 17]
    with pytest.raises(InputError, match="max_tokens is -1"):
        check_option(-1, "max_tokens", LIMIT)


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_progress_with_its_rate(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(monkeypatch)
    progress = ProgressLog("Submitted", "job", 160)
    for _ in range(160):
        clock.now += 0.25
        progress.add(1)
    progress.end()
    assert caplog.messages == [
        "Submitted 40 of 160 jobs, 4.0/s, 30 s left.",
        "Submitted 80 of 160 jobs, 4.0/s, 20 s left.",
        "Submitted 120 of 160 jobs, 4.0/s, 10 s left.",
        "Submitted 160 jobs in 40 s.",
    ]


def test_nothing_to_do_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    progress = ProgressLog("Submitted", "job", 0)
    progress.add(1)
    progress.end()
    assert caplog.messages == []


def test_a_long_wait_is_logged_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    progress = WaitProgress(40, 0, time.time() + 7_200)
    at = []
    for second in range(0, 1_300, 5):
        clock.now = 1_000.0 + second
        asyncio.run(progress.update(12))
        at += [second] * (len(caplog.messages) - len(at))
    assert at == [30, 60, 120, 240, 480, 780, 1_080]
    assert re.fullmatch(r"12 of 40 results stored, at most [\dhmin ]+ left\.", caplog.messages[0])


@pytest.mark.parametrize(
    ("manifest", "line"),
    [
        ({"predictions": 1, "tokens": 1}, "u: 1 row, 1 token, in 1.5 s."),
        ({"predictions": 9, "errors": 3, "rejected": 1}, "u: 9 rows, 1 rejected, 2 failed, in 1.5 s."),
        ({"documents": 2, "chunks": 1_000, "rejected": 0}, "u: 2 documents, 1,000 chunks, in 1.5 s."),
        ({"documents": 2, "chunks": 3, "rejected": 1}, "u: 2 documents, 3 chunks, 1 rejected, in 1.5 s."),
        ({"chunks": 1, "warnings": 2}, "u: 1 chunk, 2 warnings, in 1.5 s."),
        ({"job_id": "j"}, "u: written, in 1.5 s."),
    ],
)
def test_a_result(manifest: dict[str, Any], line: str, caplog: pytest.LogCaptureFixture) -> None:
    log_result({"uri": "u", **manifest}, 1.5)
    assert caplog.messages == [line]
