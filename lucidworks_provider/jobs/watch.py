# SPDX-License-Identifier: Apache-2.0
"""
Waiting for one job, as a conversation without I/O.

The generator yields what to do next, a shell does it and sends back what it saw. Storing comes before
telling: the shell answers a :class:`Poll` only after a body that carries a result lies on storage.

=============================  ==============================================================
what was seen                  what happens
=============================  ==============================================================
the result lies on storage     COLLECTED, without a GET (an earlier reader put it there)
RESULT                         COLLECTED
PENDING                        wait, longer the older the job is
FAILED                         read again ``REREADS`` times (ERROR is tied to the GET) within one poll
                               interval, then FAILED; a PENDING in between starts the count anew
EMPTY                          read again until it was seen ``EMPTY_LOOKS`` times, then EMPTY; at once
                               where the service says next that the result was handed out
404 and the like, and the job  wait: it may not be known everywhere yet; for the longer of
  was never seen               ``NEVER_SEEN`` and what almost all jobs before took
GONE, or 404 of a job that     for ``GONE_PATIENCE`` look at storage (another reader may be about
  was seen                     to write) and ask again (a gateway may have said 404), then GONE
REFUSED (400 and the like)     asked ``REFUSALS`` times in all, then GONE
UNREADABLE (a page of HTML,    wait: it says nothing about the job; the deadline decides
  or no answer for now)       and each wait in a row is twice as long
the deadline has passed        TIMEOUT, with what was heard last; the job may still go on
=============================  ==============================================================
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from lucidworks_provider.client.api.jobs import JobState, PollResult

REREADS = 2
# A heartbeat gap can leave two triggerers with one trigger; the other one's body needs a moment to land.
GONE_PATIENCE = 60.0
GONE_INTERVAL = 5.0
# A job that was accepted a moment ago may not be known everywhere yet.
NEVER_SEEN = 300.0
_ALMOST_ALL = 0.99
EMPTY_LOOKS = 4
REFUSALS = 3
# Until a job is old, it is polled more often than every `poll_interval`: most jobs are short.
FIRST_WAIT = 5.0
AGE_SHARE = 0.25
# After no answer, seconds, doubling: hundreds of jobs of a corpus must not hammer a service that is down.
UNANSWERED_WAIT = 1.0


class Ending(Enum):
    """How waiting for a job ended."""

    COLLECTED = "collected"
    FAILED = "failed"
    GONE = "gone"
    EMPTY = "empty"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Look:
    """Command: does the result lie on storage? Reply: bool."""


@dataclass(frozen=True, slots=True)
class Poll:
    """Command: GET, and store the body if it carries a result. Reply: a Sighting; no answer is UNREADABLE."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Command: wait. Reply: None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class PollOutcome:
    """The end of waiting, with the service's reason for a failure."""

    ending: Ending
    message: str = ""


Command = Look | Poll | Sleep


def next_wait(age: float, poll_interval: float, spread: Callable[[], float] = random.random) -> float:
    """
    Seconds until the next poll: longer the older the job is, and never more than ``poll_interval``.

    :param age: seconds since waiting began.
    :param poll_interval: the longest wait, so that a result is found at most that much later.
    :param spread: random number from 0 to 1, so that a thousand jobs do not poll in step.
    """
    return min(poll_interval, max(FIRST_WAIT, age * AGE_SHARE)) * (0.8 + 0.2 * spread())


def unanswered_wait(times: int, poll_interval: float, spread: Callable[[], float] = random.random) -> float:
    """
    Seconds until the poll after some without an answer; half of it random, so that a crowd does not come back as one.

    :param times: polls in a row without an answer.
    """
    return min(poll_interval, UNANSWERED_WAIT * 2.0 ** min(times - 1, 10)) * (0.5 + 0.5 * spread())


def unseen_patience(durations: Sequence[float]) -> float:
    """
    Seconds for which the service may say that it does not know a job.

    :param durations: seconds that other jobs of this application took.
    """
    if not durations:
        return NEVER_SEEN
    return max(NEVER_SEEN, sorted(durations)[int(_ALMOST_ALL * (len(durations) - 1))])


def watch(
    *,
    poll_interval: float,
    deadline: float,
    now: Callable[[], float],
    wait: Callable[[float, float], float] = next_wait,
    gone_patience: float | None = None,
    durations: Sequence[float] = (),
) -> Generator[Command, bool | PollResult | None, PollOutcome]:
    """
    Wait for one job.

    :param deadline: in the same clock as ``now``.
    :param wait: from the age of the wait and the poll interval, seconds until the next poll.
    :param gone_patience: seconds for which another reader's body may still arrive, ``GONE_PATIENCE`` if not given.
        Where nobody else can have read, there is nothing to wait for once the service says so in words; a 404 may be
        a gateway's.
    :param durations: seconds that other jobs took, which may grow meanwhile.
    """
    started = now()
    heard = _Heard()
    gone_since: float | None = None
    if (yield Look()) is True:
        return PollOutcome(Ending.COLLECTED)
    while True:
        seen = yield Poll()
        assert isinstance(seen, PollResult)  # noqa: S101  # for the type checker
        if (ended := heard.take(seen)) is not None:
            return ended
        in_words = bool(seen.status)
        if seen.state is JobState.PENDING:
            gone_since = None
        elif seen.state is JobState.GONE and (
            heard.was_seen or now() - started >= unseen_patience(durations)
        ):
            gone_since = now() if gone_since is None else gone_since
        if gone_since is not None:
            if (yield Look()) is True:
                return PollOutcome(Ending.COLLECTED)
            patience = gone_patience if in_words and gone_patience is not None else GONE_PATIENCE
            if now() - gone_since >= patience:
                return PollOutcome(Ending.GONE, heard.last)
            yield Sleep(min(poll_interval, GONE_INTERVAL))
            continue
        left = deadline - now()
        if left <= 0:
            return PollOutcome(Ending.TIMEOUT, heard.last)
        yield Sleep(min(heard.pause(wait(now() - started, poll_interval), poll_interval), left))


@dataclass(slots=True)
class _Heard:
    """What the polls of a job have brought so far."""

    failed: int = 0
    empty: int = 0
    refused: int = 0
    unanswered: int = 0
    was_seen: bool = False
    last: str = ""

    def take(self, seen: PollResult) -> PollOutcome | None:
        """Count one; the end, if it is one."""
        self.last = seen.message or self.last
        # A 404 is no word about the job.
        self.was_seen = self.was_seen or bool(seen.status)
        self.unanswered = self.unanswered + 1 if seen.state is JobState.UNREADABLE else 0
        match seen.state:
            case JobState.RESULT:
                return PollOutcome(Ending.COLLECTED)
            case JobState.PENDING:
                self.failed = 0
            case JobState.FAILED:
                self.failed += 1
                if self.failed > REREADS:
                    return PollOutcome(Ending.FAILED, seen.message)
            case JobState.REFUSED:
                self.refused += 1
                if self.refused >= REFUSALS:
                    return PollOutcome(Ending.GONE, self.last)
            case JobState.EMPTY:
                self.empty += 1
        handed_out = seen.state is JobState.GONE and bool(seen.status)
        if self.empty >= EMPTY_LOOKS or (self.empty and handed_out):
            return PollOutcome(Ending.EMPTY, f"The service says {seen.status!r} and gives no result.")
        return None

    def pause(self, seconds: float, poll_interval: float) -> float:
        """Seconds until the next poll, from what the job's age suggests."""
        if self.unanswered:
            return max(seconds, unanswered_wait(self.unanswered, poll_interval))
        # The end is as good as known.
        return min(seconds, poll_interval / REREADS) if self.failed or self.refused else seconds


# An event is a row in the database and a line in the log.
_MESSAGES = 5
_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What a wait for jobs returns to the worker: an event of a few hundred bytes, never a result.

    :param failed: positions whose job ended in ERROR.
    :param gone: positions whose result is nowhere any more.
    :param empty: positions whose job is ready without a result.
    :param late: positions whose job was not ready before the deadline.
    :param messages: what was heard about the first of them, by position.
    :param unshared: name of the host that does not see the task's storage.
    :param error: why waiting itself failed.
    :param retryable: whether that may pass.
    """

    collected: int = 0
    failed: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    messages: dict[str, str] = field(default_factory=dict)
    unshared: str | None = None
    error: str | None = None
    retryable: bool = False

    @classmethod
    def of(cls, endings: Mapping[int, PollOutcome]) -> Outcome:
        """Sort the ends of waiting."""
        ended = {ending: [p for p, w in endings.items() if w.ending is ending] for ending in Ending}
        said = [p for e in Ending if e is not Ending.COLLECTED for p in ended[e] if endings[p].message]
        return cls(
            collected=len(ended[Ending.COLLECTED]),
            failed=ended[Ending.FAILED],
            gone=ended[Ending.GONE],
            empty=ended[Ending.EMPTY],
            late=ended[Ending.TIMEOUT],
            messages={str(p): endings[p].message[:_CHARACTERS] for p in said[:_MESSAGES]},
        )

    def as_json(self) -> dict[str, Any]:
        """For a trigger's event."""
        return asdict(self)

    @classmethod
    def from_json(cls, event: Mapping[str, Any]) -> Outcome:
        """What :meth:`as_json` made; fields of other versions are passed over."""
        return cls(**{name: event[name] for name in cls.__dataclass_fields__ if name in event})
