# SPDX-License-Identifier: Apache-2.0
"""
When to poll, and when to stop: decisions for jobs, models and deployments, without I/O.

Each decision is a generator. It yields a command, :mod:`~lucidworks_provider.jobs.polling` performs it and sends back
the reply, and the generator returns the outcome.

:func:`job_decision`. A body that carries a result is stored before the reply to :class:`Poll`:

=============================  ==============================================================
poll                           decision
=============================  ==============================================================
RESULT                         COLLECTED
PENDING                        wait, longer the older the job is
FAILED                         poll again ``REREADS`` times (ERROR is tied to the GET) within one poll
                               interval, then FAILED; a PENDING in between resets the count
EMPTY                          poll until it was returned ``EMPTY_POLLS`` times, then EMPTY; at once
                               where the service says next that the result was already returned
404 and the like, and the job  wait: it may not be known everywhere yet; for the longer of
  was never seen               ``NEVER_SEEN`` and what almost all jobs before took
GONE, or 404 of a job that     for ``GONE_PATIENCE`` check storage (another reader may be about
  was seen                     to write) and poll again (the 404 may be a gateway's), then GONE, or
                               FAILED or EMPTY if the service had reported that
REFUSED (400 and the like)     poll ``REFUSALS`` times in all, then GONE
UNREADABLE (a page of HTML,    wait: it has no information about the job; each wait in a row is
  429, or no response)         twice as long
the deadline has passed        TIMEOUT, with the last message; the job may still be running
not sent: others were before   TIMEOUT, as the rate limiter permits one request after the other while the service
  it for too long              refuses them. Polls wait for others until ``LAST_POLLS`` seconds after the deadline,
                               those after UNREADABLE until the deadline
=============================  ==============================================================

No wait of a decision is shorter than the ``Retry-After`` of the last response, up to the deadline.

:func:`state_decision`:

=============================  ==============  ==================  ============================================
poll                           wait for READY  wait for GONE       wait for a state by name
=============================  ==============  ==================  ============================================
the state itself               --              --                  REACHED
READY                          REACHED         wait                wait
RUNNING, or an unknown state   wait            wait                wait
FAILED                         FAILED          FAILED (2)          FAILED
DELETING                       FAILED          wait                wait where DELETED is waited for, else FAILED
DELETED, or no such resource   FAILED (1)      REACHED             as DELETING
a retryable error              wait            wait                wait
not sent: others were before   TIMEOUT         TIMEOUT             TIMEOUT
  it until ``LAST_POLLS``
  seconds after the deadline
403 and the like (3)           wait, ERROR     wait, ERROR         wait, ERROR
any other error                ERROR           ERROR               ERROR
the deadline has passed        TIMEOUT         TIMEOUT             TIMEOUT
=============================  ==============  ==================  ============================================

(1) One that is missing is polled again for ``YOUNG`` seconds: a new resource may not be known everywhere yet, and one
list without it may be a gateway's. After the deadline until ``confirm_until``, then TIMEOUT.

(2) If the deletion failed, and ``YOUNG`` seconds after the wait began: the service may still show an earlier one. A
deployment that failed before its deletion began still shows that failure.

(3) Polled again for ``GONE_PATIENCE``, as it may be a gateway's, but after the deadline only until ``confirm_until``.

:func:`event_decision`:

=============================  ==============================================================
poll                           decision
=============================  ==============================================================
the target, for the first      notify; save that at the next poll, when Airflow has stored the event. A
  time since another state     process that dies in between notifies twice, never not at all
the target again               wait
another state                  save at once that the target was left
no such resource, or an error  wait: one list without it may be a gateway's, and a connection may be corrected
=============================  ==============================================================
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

from lucidworks_provider.client.jobs import JobState, PollResult
from lucidworks_provider.client.models import Progress, is_unknown_state
from lucidworks_provider.errors import (
    AcquireTimeoutError,
    ForbiddenError,
    LucidworksError,
    RequestRefusedError,
    UnknownResourceError,
)

# Jobs of a task that are submitted and not collected, and that are polled: how long the service keeps a result is not
# documented, and each is a request every `poll_interval`.
WINDOW = 1000
REREADS = 2
# Two triggerers may run one trigger after a heartbeat gap; the other one's body needs a moment to be stored.
GONE_PATIENCE = 60.0
GONE_INTERVAL = 5.0
# A watcher has no deadline: no Retry-After silences it for longer.
LONGEST_SILENCE = 3600.0
# A job that was accepted a moment ago may not be known everywhere yet.
NEVER_SEEN = 300.0
_ALMOST_ALL = 0.99
EMPTY_POLLS = 4
REFUSALS = 3
# A young job is polled more often than every `poll_interval`: most jobs are short.
FIRST_WAIT = 5.0
AGE_SHARE = 0.25
# After no response, seconds, doubling: hundreds of jobs of a corpus must not overload a service that is down.
UNANSWERED_WAIT = 1.0
# Seconds after the deadline: a thousand jobs have their last poll then, and share eight requests at once.
LAST_POLLS = 10.0
# Responses without information about a job, model or deployment: a gateway's, or a cache's.
NOT_NOW = frozenset({304, 403, 404, 409, 410})
# Seconds for which a model or a deployment may be missing from a list, or may show what was before the wait.
YOUNG = 30.0
NOT_POLLED = "The last poll waited for other requests, or for the rate limit, and was not sent."
# Targets besides a state's own name.
READY, GONE = "ready", "gone"
# An event is a row in the database and a line in the log.
_MESSAGES = 5
_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class CheckStorage:
    """Command: is the result on storage? Reply: bool."""


@dataclass(frozen=True, slots=True)
class Poll:
    """
    Command: GET. Reply: a PollResult, for models and deployments a ResourceState or an error.

    :param begin_by: in the clock of the decision: a request that waits for others until then is not sent. For a job,
        the reply is None then, else an AcquireTimeoutError.
    """

    begin_by: float | None = None


@dataclass(frozen=True, slots=True)
class Sleep:
    """Command: wait. Reply: None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Notify:
    """Command: emit an event. Reply: None."""

    state: str
    before: str | None


@dataclass(frozen=True, slots=True)
class SaveNotified:
    """Command: store whether the current state was notified. Reply: whether it is stored."""

    notified: bool


Command = CheckStorage | Poll | Sleep | Notify | SaveNotified


class JobEnd(Enum):
    """How polling a job ended."""

    COLLECTED = "collected"
    FAILED = "failed"
    GONE = "gone"
    EMPTY = "empty"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class PollOutcome:
    """
    The end of polling a job.

    :param message: the service's reason for a failure.
    :param retry_after: of a TIMEOUT: seconds that the service asked to wait, if it did.
    """

    end: JobEnd
    message: str = ""
    retry_after: float | None = None


def is_not_now(error: LucidworksError) -> bool:
    """Whether a refusal may be that of a gateway or a cache."""
    refusals = (ForbiddenError, RequestRefusedError, UnknownResourceError)
    return isinstance(error, refusals) and error.status in NOT_NOW


def next_wait(
    age: float,
    poll_interval: float,
    jitter: Callable[[], float] = random.random,
    *,
    first: float = FIRST_WAIT,
) -> float:
    """
    Seconds until the next poll: longer the older the job is, and never more than ``poll_interval``.

    :param age: seconds since polling began.
    :param poll_interval: the longest wait.
    :param jitter: random number from 0 to 1, so that a thousand jobs are not polled in step.
    :param first: the shortest wait.
    """
    return min(poll_interval, max(first, age * AGE_SHARE)) * (0.8 + 0.2 * jitter())


def asked_wait(asked: float | None, jitter: Callable[[], float] = random.random) -> float:
    """
    Seconds to wait for a ``Retry-After``: a little longer, so that a thousand jobs are not polled in step.

    :param asked: its seconds, if the service sent one.
    """
    return (asked or 0.0) * (1 + 0.1 * jitter())


def unanswered_wait(times: int, poll_interval: float) -> float:
    """
    Exponential backoff with jitter after polls without a response.

    :param times: polls in a row without a response.
    """
    return min(poll_interval, UNANSWERED_WAIT * 2.0 ** min(times - 1, 10)) * (0.5 + 0.5 * random.random())


def unseen_patience(durations: Sequence[float]) -> float:
    """
    Seconds for which the service may return 404 for a new job.

    :param durations: seconds that other jobs of this application took.
    """
    if not durations:
        return NEVER_SEEN
    return max(NEVER_SEEN, sorted(durations)[int(_ALMOST_ALL * (len(durations) - 1))])


def job_decision(
    *,
    poll_interval: float,
    deadline: float,
    now: Callable[[], float],
    wait: Callable[[float, float], float] = next_wait,
    gone_patience: float | None = None,
    durations: Sequence[float] = (),
    started: float | None = None,
    confirm_seconds: float = 0.0,
) -> Generator[Command, bool | PollResult | None, PollOutcome]:
    """
    Poll one job until it ends; see the table above.

    :param deadline: in the same clock as ``now``.
    :param wait: from the age of the wait and the poll interval, seconds until the next poll.
    :param gone_patience: seconds for which another reader's body may still arrive after the service reported
        RETRIEVED, ``GONE_PATIENCE`` if not given; 0 where there is no other reader. A 404 may be a gateway's, and
        always gets ``GONE_PATIENCE``.
    :param durations: seconds that other jobs took; the list may grow meanwhile.
    :param started: when polling began, if before this call.
    :param confirm_seconds: seconds after the deadline in which a response that needs another poll gets it, as FAILED
        does: a sensor's poke has a deadline that has passed.
    """
    started = now() if started is None else started
    history = _History()
    gone_since: float | None = None
    unread = False
    asked: float | None = None
    while True:
        result = yield Poll(deadline if unread else max(deadline, now()) + LAST_POLLS)
        if result is None:
            return PollOutcome(JobEnd.TIMEOUT, history.message or NOT_POLLED, asked)
        assert isinstance(result, PollResult)  # noqa: S101  # for the type checker
        asked = result.retry_after
        if (outcome := history.add(result)) is not None:
            return outcome
        reported = bool(result.status)
        if result.state is JobState.PENDING:
            gone_since = None
        elif result.state is JobState.GONE and (
            history.was_seen or now() - started >= unseen_patience(durations)
        ):
            gone_since = now() if gone_since is None or unread else gone_since
        unread = result.state is JobState.UNREADABLE
        if gone_since is not None and (yield CheckStorage()) is True:
            return PollOutcome(JobEnd.COLLECTED)
        # A response that says nothing about the job does not end the wait, and the patience starts again after it.
        if gone_since is not None and not unread:
            patience = gone_patience if reported and gone_patience is not None else GONE_PATIENCE
            if now() - gone_since >= patience:
                return history.gone()
            yield Sleep(min(poll_interval, GONE_INTERVAL))
            continue
        left = deadline - now()
        if left <= 0 and history.unconfirmed:
            left += confirm_seconds
        if left <= 0:
            return PollOutcome(JobEnd.TIMEOUT, history.message, asked)
        seconds = history.wait(wait(now() - started, poll_interval), poll_interval)
        yield Sleep(min(max(seconds, asked_wait(asked)), left))


@dataclass(slots=True)
class _History:
    """
    The polls of a job so far.

    :param unconfirmed: the last response decides only if the next one agrees.
    """

    failed: int = 0
    empty: int = 0
    refused: int = 0
    unanswered: int = 0
    was_seen: bool = False
    unconfirmed: bool = False
    message: str = ""
    failure: str = ""

    def add(self, result: PollResult) -> PollOutcome | None:
        """Count a poll; the outcome, if it decides."""
        self.message = result.message or self.message
        # A 404 has no status.
        self.was_seen = self.was_seen or bool(result.status)
        self.unanswered = self.unanswered + 1 if result.state is JobState.UNREADABLE else 0
        self.unconfirmed = result.state in {JobState.FAILED, JobState.EMPTY, JobState.REFUSED} or bool(
            result.other_job or (result.has_payload and not result.in_progress)
        )
        match result.state:
            case JobState.RESULT:
                return PollOutcome(JobEnd.COLLECTED)
            case JobState.PENDING:
                self.failed = 0
            case JobState.FAILED:
                self.failed += 1
                self.failure = result.message
                if self.failed > REREADS:
                    return PollOutcome(JobEnd.FAILED, result.message)
            case JobState.REFUSED:
                self.refused += 1
                if self.refused >= REFUSALS:
                    return PollOutcome(JobEnd.GONE, self.message)
            case JobState.EMPTY:
                self.empty += 1
        handed_out = result.state is JobState.GONE and bool(result.status)
        if self.empty >= EMPTY_POLLS or (self.empty and handed_out):
            return PollOutcome(JobEnd.EMPTY, f"The service reports {result.status!r} but returns no result.")
        return None

    def gone(self) -> PollOutcome:
        """The outcome where the service has no result: an end that it reported before is the reason."""
        if self.failed:
            return PollOutcome(JobEnd.FAILED, self.failure)
        if self.empty:
            return PollOutcome(
                JobEnd.EMPTY, f"The service reported success but no result. {self.message}".strip()
            )
        return PollOutcome(JobEnd.GONE, self.message)

    def wait(self, seconds: float, poll_interval: float) -> float:
        """
        Seconds until the next poll.

        :param seconds: by the job's age.
        """
        if self.unanswered:
            return max(seconds, unanswered_wait(self.unanswered, poll_interval))
        return min(seconds, poll_interval / REREADS) if self.failed or self.refused else seconds


@dataclass(frozen=True, slots=True)
class JobsOutcome:
    """
    What a wait for jobs returns to the worker: an event of up to some 7 KB, never a result.

    :param failed: positions whose job ended in ERROR.
    :param gone: positions whose result is neither on storage nor at the service.
    :param empty: positions whose job is ready without a result.
    :param timed_out: positions whose job was not ready before the deadline.
    :param messages: of the first of them, by position.
    :param left: jobs that were not waited for, since another wait is due.
    :param unshared: name of the host that does not see the task's storage.
    :param error: why the wait itself failed.
    :param retryable: whether a retry may cure that.
    """

    collected: int = 0
    failed: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    timed_out: list[int] = field(default_factory=list)
    messages: dict[int, str] = field(default_factory=dict)
    left: int = 0
    unshared: str | None = None
    error: str | None = None
    retryable: bool = False

    @classmethod
    def of(cls, outcomes: Mapping[int, PollOutcome], left: int = 0) -> JobsOutcome:
        """
        Group outcomes by their end.

        :param left: jobs that were not waited for.
        """
        ended = {end: [p for p, outcome in outcomes.items() if outcome.end is end] for end in JobEnd}
        explained = [
            p for end in JobEnd if end is not JobEnd.COLLECTED for p in ended[end] if outcomes[p].message
        ]
        return cls(
            collected=len(ended[JobEnd.COLLECTED]),
            failed=ended[JobEnd.FAILED],
            gone=ended[JobEnd.GONE],
            empty=ended[JobEnd.EMPTY],
            timed_out=ended[JobEnd.TIMEOUT],
            messages={p: outcomes[p].message[:_CHARACTERS] for p in explained[:_MESSAGES]},
            left=left,
        )

    def as_json(self) -> dict[str, Any]:
        """For a trigger's event."""
        return asdict(self) | {"messages": {str(p): message for p, message in self.messages.items()}}

    @classmethod
    def from_json(cls, event: Mapping[str, Any]) -> JobsOutcome:
        """Inverse of :meth:`as_json`; ignores fields of other versions."""
        outcome = cls(**{name: event[name] for name in cls.__dataclass_fields__ if name in event})
        return replace(outcome, messages={int(p): message for p, message in outcome.messages.items()})


@dataclass(frozen=True, slots=True)
class ResourceState:
    """
    The state of a model or a deployment.

    :param state: the service's own word; None where there is no such model or deployment.
    """

    progress: Progress
    state: str | None


class StateEnd(Enum):
    """How a wait for a state ended."""

    REACHED = "reached"
    FAILED = "failed"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class StateOutcome:
    """
    The end of a wait for a state.

    :param state: the last one.
    :param retry_after: of a TIMEOUT: seconds that the service asked to wait, if it did.
    """

    end: StateEnd
    state: str | None = None
    message: str = ""
    retry_after: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For a trigger's event."""
        return asdict(self) | {"end": self.end.value, "message": self.message[:_CHARACTERS]}


def reached(target: str, resource: ResourceState) -> bool:
    """
    Whether a resource is in the target state.

    :param target: :data:`READY`, :data:`GONE`, or a state by name.
    """
    state = (resource.state or "DELETED").upper()
    if state == target.upper() or (target == GONE and state == "DELETED"):
        return True
    return target == READY and resource.progress is Progress.READY


def judge_state(target: str, resource: ResourceState, *, waited: float, left: float) -> StateEnd | None:
    """
    Apply the table to one poll; None where the wait continues.

    :param target: :data:`READY`, :data:`GONE`, or a state by name.
    :param waited: seconds since waiting began.
    :param left: seconds until the deadline.
    """
    if reached(target, resource):
        return StateEnd.REACHED
    state = (resource.state or "DELETED").upper()
    deleting = target == GONE or target.upper() == "DELETED"
    lost = resource.progress is Progress.GONE and not deleting
    failed = resource.progress is Progress.FAILED
    if deleting:
        failed = failed and "DELET" in state and waited >= YOUNG
    if lost or failed:
        return StateEnd.FAILED
    return StateEnd.TIMEOUT if left <= 0 else None


def state_wait(
    poll_interval: float,
    left: float,
    asked: float | None = None,
    jitter: Callable[[], float] = random.random,
) -> float:
    """
    Seconds until the next poll of a state, with jitter, and not after the deadline.

    :param asked: seconds of the ``Retry-After``, if the service sent one.
    """
    return min(max(poll_interval * (0.8 + 0.2 * jitter()), asked_wait(asked, jitter)), max(left, 0.0))


def state_decision(
    target: str,
    *,
    poll_interval: float,
    deadline: float,
    now: Callable[[], float],
    started: float | None = None,
    confirm_until: float = 0.0,
) -> Generator[Command, ResourceState | LucidworksError, StateOutcome]:
    """
    Poll a model or a deployment until it is in the target state or cannot get there; see the table above.

    :param target: :data:`READY`, :data:`GONE`, or a state by name.
    :param deadline: in the same clock as ``now``.
    :param started: when waiting began, if before this call.
    :param confirm_until: after the deadline, a response that may be a gateway's is polled again until then: the poke
        of a sensor has a deadline that has passed.
    """
    began = now() if started is None else started
    state, message = None, ""
    patience, since = 0.0, began
    while True:
        left, asked = deadline - now(), None
        result = yield Poll(max(deadline, now()) + LAST_POLLS)
        if isinstance(result, AcquireTimeoutError):
            return StateOutcome(StateEnd.TIMEOUT, state, message or NOT_POLLED)
        if isinstance(result, LucidworksError):
            message, asked = str(result), result.retry_after
        else:
            state, message = result.state, unknown_state(result)
        if (seconds := doubt(target, result)) != patience:
            patience, since = seconds, now()
        if now() - since < patience:
            left = max(deadline, confirm_until) - now()
            if left <= 0:
                return StateOutcome(StateEnd.TIMEOUT, state, message, retry_after=asked)
            yield Sleep(min(max(min(poll_interval, GONE_INTERVAL), asked_wait(asked)), left))
            continue
        if not isinstance(result, LucidworksError):
            end = judge_state(target, result, waited=now() - began, left=left)
        elif not result.retryable:
            return StateOutcome(StateEnd.ERROR, state, f"{type(result).__name__}: {result}")
        else:
            end = StateEnd.TIMEOUT if left <= 0 else None
        if end is not None:
            return StateOutcome(end, state, message, retry_after=asked)
        yield Sleep(state_wait(poll_interval, deadline - now(), asked))


def doubt(target: str, result: ResourceState | LucidworksError) -> float:
    """Seconds for which a response is polled again, as it may be a gateway's; 0 for one that counts at once."""
    if isinstance(result, LucidworksError):
        return GONE_PATIENCE if is_not_now(result) else 0.0
    return YOUNG if result.state is None and not reached(target, result) else 0.0


def unknown_state(resource: ResourceState) -> str:
    """A message about a state that is not documented, else an empty text."""
    if resource.state is None or not is_unknown_state(resource.state, resource.progress):
        return ""
    return f"{resource.state} is not a known state." if resource.state else "The service shows no state."


def event_decision(
    target: str, *, notified: bool, poll_interval: float
) -> Generator[Command, ResourceState | LucidworksError | bool, Notify]:
    """
    Notify each time that the target state is reached, without end; see the table above.

    :param target: a state by name.
    :param notified: whether the current state was notified, as the asset's state store has it.
    """
    stored, state = notified, None
    while True:
        result = yield Poll()
        if isinstance(result, ResourceState) and result.state is not None:
            in_target = reached(target, result)
            if in_target and not notified:
                yield Notify(result.state, state)
            notified, state = in_target, result.state
        if stored and not notified:
            stored = not (yield SaveNotified(False))
        asked = (isinstance(result, LucidworksError) and result.retry_after) or 0.0
        yield Sleep(state_wait(poll_interval, math.inf, min(asked, LONGEST_SILENCE)))
        if notified and not stored:
            stored = bool((yield SaveNotified(True)))
