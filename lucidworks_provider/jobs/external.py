# SPDX-License-Identifier: Apache-2.0
"""A job that somebody else has submitted: waited for, and its body handed over as it came."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lucidworks_provider.client.api.http import parse_object
from lucidworks_provider.client.api.jobs import JobKind, JobState, state_of
from lucidworks_provider.client.api.validation import refused
from lucidworks_provider.errors import ResultGoneError
from lucidworks_provider.jobs.record import JobRecord, fingerprint_of
from lucidworks_provider.jobs.task import JobTask, Read
from lucidworks_provider.storage import writing


@dataclass(frozen=True, slots=True)
class ExternalJob(JobTask[Path]):
    """
    One job, known by its id. It is never submitted again: nobody here knows what it was made from.

    :param job_kind: chunking or prediction.
    :param job_id: what the submission returned.
    """

    parts: ClassVar[str] = "jobs"

    job_kind: JobKind
    job_id: str

    @property
    def kind(self) -> JobKind:  # type: ignore[override]  # of this job, not of the class
        """What it is polled as."""
        return self.job_kind

    @property
    def count(self) -> int:
        """Itself."""
        return 1

    @property
    def fingerprint(self) -> str:
        """Of its id."""
        return fingerprint_of({"kind": self.job_kind.name, "job": self.job_id}, [])

    def name(self, position: int) -> str:
        """By its kind; the id stands beside it."""
        return f"The {self.job_kind.name} job"

    def submit(self, position: int) -> str:
        """Nothing is sent."""
        return self.job_id

    def parse(self, body: bytes, position: int, job_id: str) -> Read:
        """Whether it is a result; the body itself is what is wanted."""
        name = f"{self.job_kind.name.capitalize()} job {job_id}"
        seen = state_of(parse_object(body, name), self.job_kind, job_id)
        if seen.other_job:
            raise refused(f"{name}: the answer is about job {seen.other_job}")
        carries = seen.has_payload and seen.state is not JobState.FAILED
        return Read(seen.state, seen.status, seen.message, body if carries else None)

    def open(self) -> AbstractContextManager[Path]:
        """The result file."""
        return writing(self.result_uri)

    def add(self, file: Path, position: int, value: Any) -> None:
        """The body as it came."""
        file.write_bytes(value)

    def manifest(self, file: Path) -> dict[str, Any]:
        """The address, and whose result it is."""
        return {"uri": self.result_uri, "job_id": self.job_id}

    def again(self, record: JobRecord, position: int, message: str) -> JobRecord:
        """Raise: only who submitted it can do so again."""
        raise ResultGoneError(
            f"The result of {self.job_kind.name} job {self.job_id} has been handed out before, or is no longer "
            f"kept, and it is not on storage. {message} Submit it again."
        )
