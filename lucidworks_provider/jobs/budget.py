# SPDX-License-Identifier: Apache-2.0
"""Limits of what one attempt of a task sends: a decision, without I/O."""

from __future__ import annotations

from dataclasses import dataclass

from lucidworks_provider.errors import BudgetExceededError


@dataclass(slots=True)
class Budget:
    """
    None is no limit.

    :param max_requests: known before the first request. Retries of a request do not count.
    :param max_tokens: known as responses arrive, so those in flight when it is reached are paid for as well.
    :param tokens: of the responses so far.
    """

    max_requests: int | None = None
    max_tokens: int | None = None
    tokens: int = 0

    def check_requests(self, requests: int) -> None:
        """:raises BudgetExceededError: before anything is sent."""
        if self.max_requests is not None and requests > self.max_requests:
            raise BudgetExceededError(
                f"The input takes {requests:,} requests, more than max_requests={self.max_requests:,}. Nothing was "
                "sent. Raise it if that is intended, or check the input."
            )

    def check_tokens(self) -> None:
        """:raises BudgetExceededError: before another request is sent."""
        if self.max_tokens is not None and self.tokens >= self.max_tokens:
            raise BudgetExceededError(
                f"The responses used {self.tokens:,} tokens, and max_tokens={self.max_tokens:,}. The rest of the "
                "input was not sent. With a result_path the responses are kept: clearing the task sends the rest, "
                "with a new budget."
            )

    def spend(self, tokens: int) -> None:
        """Count the tokens of a response."""
        self.tokens += tokens
