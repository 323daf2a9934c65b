# SPDX-License-Identifier: Apache-2.0
"""
Waiting for a model or a deployment to reach a state: the decision, without I/O.

=============================  ==============  ==================  ============================================
what was seen                  wait for READY  wait for GONE       wait for a state by name
=============================  ==============  ==================  ============================================
the state itself               --              --                  DONE
READY                          DONE            wait                wait
RUNNING, or an unknown state   wait            wait                wait
FAILED                         FAILED          FAILED (**)         FAILED
DELETING                       FAILED          wait                wait where DELETED is waited for, else FAILED
DELETED, or no such thing      FAILED (*)      DONE                as DELETING
the deadline has passed        LATE            LATE                LATE
=============================  ==============  ==================  ============================================

(*) What was created a moment ago may not be known everywhere yet, and one list without it may be a gateway's: for
``YOUNG`` seconds after it was last seen it is waited for.

(**) If it is the deletion that failed, and not an earlier one that the service may still show for ``YOUNG`` seconds.
A deployment that failed before its deletion began still shows that.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from lucidworks_provider.client.api.models import Progress

YOUNG = 30.0
# What a caller may wait for, besides a state's own name.
READY, GONE = "ready", "gone"


class Ending(Enum):
    """How waiting goes on."""

    WAIT = "wait"
    DONE = "done"
    FAILED = "failed"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class Seen:
    """
    What a look has shown.

    :param state: the service's own word; None where there is no such model or deployment.
    """

    progress: Progress
    state: str | None


def reached(target: str, seen: Seen) -> bool:
    """
    Whether this is what is waited for.

    :param target: :data:`READY`, :data:`GONE`, or a state by name.
    """
    state = (seen.state or "DELETED").upper()
    if state == target.upper() or (target == GONE and state == "DELETED"):
        return True
    return target == READY and seen.progress is Progress.READY


def judge(target: str, seen: Seen, *, age: float, left: float) -> Ending:
    """
    Apply the table above.

    :param target: :data:`READY`, :data:`GONE`, or a state by name.
    :param age: seconds since it was last seen, or since waiting began.
    :param left: seconds until the deadline.
    """
    if reached(target, seen):
        return Ending.DONE
    state = (seen.state or "DELETED").upper()
    vanishing = target == GONE or target.upper() == "DELETED"
    young = seen.state is None and age < YOUNG
    lost = seen.progress is Progress.GONE and not vanishing and not young
    failed = seen.progress is Progress.FAILED
    if vanishing:
        failed = failed and "DELET" in state and age >= YOUNG
    if lost or failed:
        return Ending.FAILED
    return Ending.LATE if left <= 0 else Ending.WAIT


def next_look(poll_interval: float, left: float, spread: Callable[[], float] = random.random) -> float:
    """Seconds until the next look; spread, so that many tasks do not look in step."""
    return min(poll_interval * (0.8 + 0.2 * spread()), max(left, 0.0))
