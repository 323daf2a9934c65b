# SPDX-License-Identifier: Apache-2.0
"""The table of ``state_decision``: when a wait for a model or a deployment ends."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidworks_provider.client.models import Progress, deployment_progress, model_progress
from lucidworks_provider.errors import (
    AcquireTimeoutError,
    ConfigurationError,
    ForbiddenError,
    LucidworksError,
    RateLimitError,
    RequestRefusedError,
    ServiceError,
)
from lucidworks_provider.jobs.decisions import (
    GONE,
    GONE_INTERVAL,
    LAST_POLLS,
    LONGEST_SILENCE,
    NOT_POLLED,
    READY,
    YOUNG,
    Poll,
    ResourceState,
    Sleep,
    StateEnd,
    StateOutcome,
    event_decision,
    judge_state,
    state_decision,
    state_wait,
)

WAIT = None
DONE, FAILED, LATE = StateEnd.REACHED, StateEnd.FAILED, StateEnd.TIMEOUT
OLD = YOUNG + 1


@pytest.mark.parametrize(
    ("kind", "state", "target", "ending"),
    [
        *(("model", state, READY, DONE) for state in ("AVAILABLE", "available")),
        *(("model", state, READY, WAIT) for state in ("TRAINING", "QUEUED_BY_SOMEBODY", "")),
        *(("model", state, READY, FAILED) for state in ("TRAIN_FAILED", "INTERNAL_ERROR", None)),
        ("model", "AVAILABLE", "AVAILABLE", DONE),
        ("model", "TRAIN_FAILED", "TRAIN_FAILED", DONE),
        ("model", "AVAILABLE", "ARCHIVED", WAIT),
        ("deployment", "DEPLOYED", READY, DONE),
        ("deployment", "DEPLOYING", READY, WAIT),
        *(("deployment", state, READY, FAILED) for state in ("DEPLOY_FAILED", "DELETING", "DELETED", None)),
        ("deployment", "DELETING", "DEPLOYED", FAILED),
        *(("deployment", state, GONE, WAIT) for state in ("DEPLOYED", "DELETING")),
        *(("deployment", state, "DELETED", WAIT) for state in ("DEPLOYED", "DELETING")),
        *(("deployment", state, GONE, DONE) for state in ("DELETED", None)),
        ("deployment", None, "DELETED", DONE),
        ("deployment", "DELETE_FAILED", GONE, FAILED),
        ("deployment", "DEPLOYED", "deployed", DONE),
        ("deployment", "custom", "CUSTOM", DONE),
        ("deployment", "DEPLOYED", "CUSTOM", WAIT),
    ],
)
def test_what_a_state_means(kind: str, state: str | None, target: str, ending: StateEnd | None) -> None:
    progress = model_progress if kind == "model" else deployment_progress
    seen = ResourceState(Progress.GONE if state is None else progress(state), state)
    assert judge_state(target, seen, waited=OLD, left=100) is ending
    # The deadline ends what would be waited for, and nothing else.
    assert judge_state(target, seen, waited=OLD, left=0) is (LATE if ending is WAIT else ending)


@pytest.mark.parametrize(
    ("state", "waited"), [("DEPLOY_FAILED", 0), ("DEPLOY_FAILED", OLD), ("DELETE_FAILED", 0)]
)
def test_a_deletion_outlives_failures_from_before_it(state: str, waited: float) -> None:
    seen = ResourceState(deployment_progress(state), state)
    assert judge_state(GONE, seen, waited=waited, left=9) is WAIT


def test_the_wait_until_the_next_poll() -> None:
    waits = [
        state_wait(60, left, None, lambda spread=spread: spread)
        for left, spread in ((100, 1.0), (100, 0.0), (5, 1.0), (-1, 1.0))
    ]
    assert waits == [60, 48, 5, 0]


@given(interval=st.floats(0.01, 1000), left=st.floats(-10, 1000), spread=st.floats(0, 1))
def test_polls_come_within_the_interval_and_the_deadline(interval: float, left: float, spread: float) -> None:
    assert 0 <= state_wait(interval, left, None, lambda: spread) <= min(interval, max(left, 0))


@given(asked=st.floats(0, 5000), interval=st.floats(1, 600), deadline=st.floats(1, 3000))
def test_a_poll_of_a_state_waits_for_the_retry_after_of_the_response_before(
    asked: float, interval: float, deadline: float
) -> None:
    error = RateLimitError("429", status=429, retry_after=asked)
    for decision, longest in (
        (state_decision(READY, poll_interval=interval, deadline=deadline, now=lambda: 0.0), deadline),
        (event_decision(READY, notified=False, poll_interval=interval), asked),
    ):
        decision.send(None)
        command = decision.send(error)
        assert isinstance(command, Sleep)
        assert command.seconds >= min(asked, longest, LONGEST_SILENCE)
        assert command.seconds <= 1.1 * max(LONGEST_SILENCE, deadline)


Script = Sequence[ResourceState | LucidworksError]


def run(
    script: Script,
    target: str = READY,
    *,
    poll_interval: float = 10.0,
    deadline: float = 86_400.0,
    **given: Any,
) -> tuple[StateOutcome, float]:
    """The outcome of a wait that polls the script's entries in turn, the last one for ever, and its seconds."""
    now, polls = 0.0, 0
    decision = state_decision(
        target, poll_interval=poll_interval, deadline=deadline, now=lambda: now, **given
    )
    command = decision.send(None)
    while True:
        try:
            if isinstance(command, Sleep):
                now += command.seconds
                command = decision.send(None)
            else:
                command = decision.send(script[min(polls, len(script) - 1)])
                polls += 1
        except StopIteration as stop:
            return stop.value, now


def outcome_of(*script: ResourceState | LucidworksError, **given: Any) -> StateOutcome:
    return run(script, **given)[0]


TRAINING = ResourceState(Progress.RUNNING, "TRAINING")
AVAILABLE = ResourceState(Progress.READY, "AVAILABLE")
DELETING = ResourceState(Progress.GONE, "DELETING")
DELETE_FAILED = ResourceState(Progress.FAILED, "DELETE_FAILED")
MISSING = ResourceState(Progress.GONE, None)
AWAY = ServiceError("away", status=503)


@pytest.mark.parametrize("target", [GONE, "DELETED"])
def test_a_deletion_that_fails_is_seen_soon(target: str) -> None:
    outcome, seconds = run([DELETING, DELETING, DELETE_FAILED], target, poll_interval=15.0)
    assert (outcome.end, outcome.state) == (FAILED, "DELETE_FAILED")
    assert YOUNG <= seconds <= YOUNG + 15
    # Each poke of a sensor is a wait of its own.
    for started, end in ((0.0, LATE), (-YOUNG, FAILED)):
        assert (
            outcome_of(DELETE_FAILED, target=target, deadline=0, started=started, confirm_until=math.inf).end
            is end
        )


@pytest.mark.parametrize("poll_interval", [1.0, 15.0, 60.0, 600.0])
def test_a_few_responses_without_the_resource_end_no_wait(poll_interval: float) -> None:
    for script in ([MISSING, AVAILABLE], [TRAINING, MISSING, TRAINING, MISSING, AVAILABLE]):
        assert run(script, poll_interval=poll_interval)[0].end is DONE
    # A refusal is no second miss.
    refused = ForbiddenError("no", status=403)
    assert run([TRAINING, *[refused] * 4, MISSING, AVAILABLE], poll_interval=poll_interval)[0].end is DONE
    assert run([TRAINING, *[MISSING, AWAY] * 9, AVAILABLE], poll_interval=poll_interval)[0].end is DONE
    outcome, seconds = run([MISSING], poll_interval=poll_interval)
    assert (outcome.end, seconds) == (FAILED, pytest.approx(YOUNG, abs=GONE_INTERVAL))


@pytest.mark.parametrize("started", [0.0, -3600.0])
def test_a_poke_looks_again_for_what_is_missing(started: float) -> None:
    poke = {"deadline": 0.0, "started": started}
    assert run([MISSING, TRAINING], **poke, confirm_until=math.inf) == (
        StateOutcome(LATE, "TRAINING"),
        GONE_INTERVAL,
    )
    assert run([MISSING, AVAILABLE], **poke, confirm_until=math.inf)[0].end is DONE
    outcome, seconds = run([MISSING], **poke, confirm_until=math.inf)
    assert (outcome.end, seconds) == (FAILED, pytest.approx(YOUNG, abs=GONE_INTERVAL))
    # Not after the timeout of the sensor.
    for until in (0.0, 7.0):
        assert run([MISSING], **poke, confirm_until=until) == (StateOutcome(LATE), until)


@pytest.mark.parametrize(("deadline", "begin_by"), [(70.0, 70.0 + LAST_POLLS), (5.0, 20.0 + LAST_POLLS)])
def test_a_poll_of_a_state_may_not_begin_long_after_the_deadline(deadline: float, begin_by: float) -> None:
    decision = state_decision(READY, poll_interval=10.0, deadline=deadline, now=lambda: 20.0)
    assert decision.send(None) == Poll(begin_by)


def test_errors_and_the_deadline_of_a_wait_for_a_state() -> None:
    running, ready, away, denied = TRAINING, AVAILABLE, AWAY, ConfigurationError("no customer_id")
    assert outcome_of(running, away, ready) == StateOutcome(StateEnd.REACHED, "AVAILABLE")
    assert outcome_of(running, away) == StateOutcome(StateEnd.TIMEOUT, "TRAINING", "away")
    ended = outcome_of(running, denied, ready)
    assert (ended.end, ended.state) == (StateEnd.ERROR, "TRAINING")
    assert "ConfigurationError: no customer_id" in ended.message
    # Of a gateway, or of the service itself.
    for refused in (ForbiddenError("no", status=403), RequestRefusedError("no", status=409)):
        assert outcome_of(running, refused, ready).end is StateEnd.REACHED
        assert outcome_of(running, *[refused, running, refused] * 9, ready).end is StateEnd.REACHED
        # Other errors in between are no refusals.
        assert outcome_of(running, *[refused, *[away] * 9] * 5, ready).end is StateEnd.REACHED
        for first in ((running,), ()):
            assert outcome_of(*first, refused).end is StateEnd.ERROR
            # Not after the deadline, except for a sensor that pokes.
            assert outcome_of(*first, refused, deadline=5.0).end is StateEnd.TIMEOUT
        assert outcome_of(refused, deadline=0.0, confirm_until=math.inf).end is StateEnd.ERROR
        assert outcome_of(refused, running, deadline=0.0, confirm_until=math.inf).end is StateEnd.TIMEOUT
        assert outcome_of(refused, ready, deadline=0.0, confirm_until=math.inf).end is StateEnd.REACHED
    assert outcome_of(running, RequestRefusedError("no", status=422), ready).end is StateEnd.ERROR
    late = AcquireTimeoutError("not permitted")
    assert outcome_of(running, late) == StateOutcome(StateEnd.TIMEOUT, "TRAINING", NOT_POLLED)
    assert outcome_of(running, away, late) == StateOutcome(StateEnd.TIMEOUT, "TRAINING", "away")
    odd = ResourceState(Progress.RUNNING, "RESTING")
    assert outcome_of(odd).message == "RESTING is not a known state."
