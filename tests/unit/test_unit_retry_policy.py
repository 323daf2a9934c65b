# SPDX-License-Identifier: Apache-2.0
"""What the retry policy makes of each error."""

import inspect
import json
import pickle
from datetime import timedelta

import pytest
from airflow.sdk import RetryAction

from lucidworks_provider import errors
from lucidworks_provider.errors import JobFailedError, LucidworksError, RateLimitError, ServiceError
from lucidworks_provider.retry_policy import LONGEST_DELAY, LucidworksRetryPolicy, decide

POLICY = LucidworksRetryPolicy()
OURS = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, LucidworksError)]


def an(error: type[LucidworksError]) -> LucidworksError:
    return error("words", **({"status": 418} if issubclass(error, errors.ResponseError) else {}))


@pytest.mark.parametrize("error", OURS, ids=lambda one: one.__name__)
def test_an_error_says_itself_what_a_retry_is_worth(error: type[LucidworksError]) -> None:
    decision = POLICY.evaluate(an(error), 1, 3)
    assert decision.action is (RetryAction.RETRY if error.retryable else RetryAction.FAIL)
    assert error.__name__ in (decision.reason or "")
    assert decision.retry_delay is None


@pytest.mark.parametrize("error", OURS, ids=lambda one: one.__name__)
def test_an_error_goes_from_a_process_to_another(error: type[LucidworksError]) -> None:
    sent = an(error)
    sent.retry_after = 3.0
    received = pickle.loads(pickle.dumps(sent))  # noqa: S301
    assert (type(received), received.args, vars(received)) == (error, sent.args, vars(sent))


def test_an_instance_may_know_better_than_its_class() -> None:
    error = LucidworksError("waiting failed")
    assert POLICY.evaluate(error, 1, 3).action is RetryAction.FAIL
    error.retryable = True
    assert POLICY.evaluate(error, 1, 3).action is RetryAction.RETRY


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (JobFailedError("status ERROR"), RetryAction.FAIL),
        (errors.InputError("no chunker"), RetryAction.FAIL),
        (errors.ResultGoneError("gone"), RetryAction.RETRY),
        (RateLimitError("slow", status=429), RetryAction.RETRY),
        # What is not ours is left to Airflow.
        *((error, RetryAction.DEFAULT) for error in (KeyError("k"), TimeoutError(), KeyboardInterrupt())),
    ],
)
def test_the_cases_of_a_user(error: BaseException, action: RetryAction) -> None:
    assert POLICY.evaluate(error, 1, 3).action is action


def test_the_service_says_when() -> None:
    error = RateLimitError("slow", status=429, retry_after=200)
    assert decide(error, lambda: 0.0).retry_delay == timedelta(seconds=200)
    assert decide(error, lambda: 1.0).retry_delay == timedelta(seconds=250)
    assert decide(ServiceError("down", status=503, retry_after=1e300)).retry_delay == LONGEST_DELAY
    assert "200 s" in (decide(error).reason or "")


def test_it_goes_through_json() -> None:
    plain = json.loads(json.dumps(POLICY.serialize()))
    assert isinstance(LucidworksRetryPolicy.deserialize(plain), LucidworksRetryPolicy)
