# SPDX-License-Identifier: Apache-2.0
"""What a wait for jobs tells the worker: an event of a few hundred bytes, never a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lucidworks_provider.jobs.watch import Ending, PollOutcome

# An event is a row in the database and a line in the log.
_MESSAGES = 5
_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """
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
