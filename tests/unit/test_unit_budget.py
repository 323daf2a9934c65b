# SPDX-License-Identifier: Apache-2.0
"""What a budget permits."""

from __future__ import annotations

import pytest

from lucidworks_provider.client.options import check_option
from lucidworks_provider.errors import BudgetExceededError, InputError
from lucidworks_provider.jobs.task import Budget
from lucidworks_provider.operators.base import LIMIT


@pytest.mark.parametrize(
    ("most", "requests", "permitted"), [(None, 10**9, True), (3, 3, True), (3, 4, False), (0, 0, True)]
)
def test_requests_are_known_before_the_first(most: int | None, requests: int, permitted: bool) -> None:
    if permitted:
        Budget(most).check_requests(requests)
        return
    with pytest.raises(
        BudgetExceededError, match=r"4 requests, more than max_requests=3\. Nothing was sent"
    ) as caught:
        Budget(most).check_requests(requests)
    assert not caught.value.retryable


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
