# SPDX-License-Identifier: Apache-2.0
"""
What was asked of the emulator, for tests to read.

Never holds a secret, a token, a query string or a text: a token is shown by the first characters of its
``jti``, a text by its size and SHA-256.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_REMEMBERED = 50_000


@dataclass
class LogRecord:
    """One request; ``status`` stays None when the connection was dropped without an answer."""

    time: float
    method: str
    path: str
    endpoint: str = "unknown"
    sequence: int = 0
    status: int | None = None
    seconds: float = 0.0
    client_id: str | None = None
    jti_prefix: str | None = None
    job_id: str | None = None
    job_status: str | None = None
    chunker: str | None = None
    use_case: str | None = None
    model: str | None = None
    deployment: str | None = None
    items: int | None = None
    text_bytes: int | None = None
    text_sha256: str | None = None
    fault: str | None = None

    def public(self) -> dict[str, object]:
        """Return the record as JSON values."""
        return dataclasses.asdict(self)


class RequestLog:
    """The requests in the order in which they ended, and counts that a cleared log keeps."""

    def __init__(self) -> None:
        self._records: deque[LogRecord] = deque(maxlen=_REMEMBERED)
        self._sequence = 0
        self.statuses: Counter[int | None] = Counter()
        self.endpoints: Counter[str] = Counter()
        self.issued: Counter[str] = Counter()

    def add(self, record: LogRecord) -> None:
        """Number a finished request and keep it."""
        self._sequence += 1
        record.sequence = self._sequence
        self.statuses[record.status] += 1
        self.endpoints[record.endpoint] += 1
        self._records.append(record)

    def clear(self) -> None:
        """Forget the requests; sequence and counts go on."""
        self._records.clear()

    def __iter__(self) -> Iterator[LogRecord]:
        """Iterate over a copy, so that a test thread may read while requests arrive."""
        return iter(list(self._records))

    def __len__(self) -> int:
        """Return the number of requests kept."""
        return len(self._records)
