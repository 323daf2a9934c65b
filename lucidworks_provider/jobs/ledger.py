# SPDX-License-Identifier: Apache-2.0
"""
Where a task keeps its :class:`~lucidworks_provider.jobs.record.JobRecord`: beside its result, and in
Airflow's task state store where there is one (3.3 and later).

Beside the result, since whoever collects the results must prove that it sees the same storage. In the
state store too, since a retry may run on another host.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Any, Protocol

from lucidworks_provider.jobs.record import JobRecord, newest
from lucidworks_provider.storage import exists, read_file, remove, split_uri, write_file

log = logging.getLogger(__name__)

_STATE_NAME = "lucidworks_jobs"
_RECORD = "record.json"


class StateStore(Protocol):
    """What is used of ``context["task_state_store"]``."""

    def get(self, key: str, default: Any = None) -> Any:
        """Read."""

    def set(self, key: str, value: Any) -> None:
        """Write."""


@dataclass(frozen=True, slots=True)
class Bodies:
    """
    The folder beside a result file that holds a task's record and the bodies that arrived.

    :param folder: its URI.
    """

    folder: str

    @classmethod
    def beside(cls, result_uri: str, *task: object) -> Bodies:
        """The folder of one task instance of one run: a retry finds it again, another run does not."""
        parent, name = split_uri(result_uri)
        digest = hashlib.sha256("\0".join(map(str, task)).encode()).hexdigest()[:16]
        # Readers of Parquet folders pass over names that start with an underscore.
        return cls(f"{parent}/_{name}.{digest}")

    def uri(self, position: int) -> str:
        """Where the body of one document's job goes."""
        return f"{self.folder}/{position:05d}.json"

    def there(self, position: int) -> bool:
        """Whether that body has arrived."""
        return exists(self.uri(position))

    def keep(self, position: int, body: bytes) -> None:
        """Put a body where it belongs; whole or not at all."""
        write_file(self.uri(position), body)

    def take(self, position: int) -> bytes | None:
        """Read a body, if it has arrived."""
        return read_file(self.uri(position))

    def drop(self, position: int) -> None:
        """Remove a body that turned out to hold no result."""
        remove(self.uri(position))

    def set_aside(self, position: int) -> str:
        """Keep a body that cannot be used, for somebody to look at."""
        uri = f"{self.folder}/{position:05d}.unusable"
        write_file(uri, self.take(position) or b"")
        self.drop(position)
        return uri

    def read_record(self) -> JobRecord | None:
        """The record as this process sees it."""
        data = read_file(f"{self.folder}/{_RECORD}")
        return None if data is None else JobRecord.from_json(data)

    def write_record(self, record: JobRecord) -> None:
        """Write the record; raises StorageError when the place cannot be written."""
        write_file(f"{self.folder}/{_RECORD}", record.to_json())


@dataclass(frozen=True, slots=True)
class Ledger:
    """
    Loads and saves a task's record.

    :param state: the task state store, or None below Airflow 3.3.
    """

    bodies: Bodies
    state: StateStore | None

    def load(self) -> JobRecord | None:
        """The newer of the two copies."""
        stored = self.state.get(_STATE_NAME) if self.state is not None else None
        in_state = JobRecord.from_json(stored) if isinstance(stored, str) else None
        return newest([self.bodies.read_record(), in_state])

    def save(self, record: JobRecord) -> JobRecord:
        """Write both copies."""
        self.bodies.write_record(record)
        if self.state is not None:
            self.state.set(_STATE_NAME, record.to_json().decode())
        return record

    def close(self, record: JobRecord) -> None:
        """
        The result stands: remove the bodies.

        Without a state store the record itself must stay, or a retry would do everything again.
        """
        if self.state is not None:
            remove(self.bodies.folder)
            return
        for position in record.jobs:
            self.bodies.drop(position)
