# SPDX-License-Identifier: Apache-2.0
"""
The conversations that ``memoryUuid`` names (section 5.5).

How long the vendor keeps them is not documented [A]: here until the emulator ends or forgets the oldest.
"""

from __future__ import annotations

from collections import deque

_CONVERSATIONS = 10_000
_QUESTIONS = 16


class Conversations:
    """The last questions of each conversation."""

    def __init__(self) -> None:
        self._questions: dict[str, deque[str]] = {}

    def __contains__(self, memory_uuid: str) -> bool:
        """Tell whether a conversation is known."""
        return memory_uuid.lower() in self._questions

    def __len__(self) -> int:
        """Return the number of conversations kept."""
        return len(self._questions)

    def remember(self, memory_uuid: str, question: str) -> None:
        """Add a question, and forget the oldest conversation when there are too many."""
        questions = self._questions.setdefault(memory_uuid.lower(), deque(maxlen=_QUESTIONS))
        questions.append(question)
        while len(self._questions) > _CONVERSATIONS:
            del self._questions[next(iter(self._questions))]

    def history(self, memory_uuid: str) -> tuple[str, ...]:
        """Return the questions of a conversation, oldest first."""
        return tuple(self._questions.get(memory_uuid.lower(), ()))

    def clear(self) -> None:
        """Forget everything."""
        self._questions.clear()
