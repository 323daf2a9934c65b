# SPDX-License-Identifier: Apache-2.0
"""A job that another program has submitted: wait for it, and return its body unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lucidworks_provider.client.http.messages import parse_object, unusable_result
from lucidworks_provider.client.jobs import JobKind, JobState, state_of
from lucidworks_provider.errors import ResultGoneError
from lucidworks_provider.jobs.record import JobRecord, fingerprint_of
from lucidworks_provider.jobs.task import JobTask, ParsedBody, ResultFile
from lucidworks_provider.storage import writing


class BodyFile(ResultFile):
    """:param path: where it is written before it is published."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path


@dataclass(frozen=True, slots=True)
class ExternalJob(JobTask[BodyFile]):
    """
    One job, known by its id. It cannot be submitted again, as its input is unknown.

    :param kind: chunking or prediction.
    :param job_id: what the submission returned.
    """

    noun: ClassVar[str] = "jobs"
    submits: ClassVar[bool] = False

    kind: JobKind  # type: ignore[misc]  # of this job, not of the class
    job_id: str

    @property
    def count(self) -> int:
        return 1

    @property
    def fingerprint(self) -> str:
        return fingerprint_of({"kind": self.kind.name, "job": self.job_id}, [])

    def name(self, position: int) -> str:
        """By its kind; messages add the id."""
        return f"The {self.kind.name} job"

    async def submit(self, position: int) -> str:
        return self.job_id

    def parse(self, body: bytes, position: int, job_id: str) -> ParsedBody:
        return read_body(body, self.kind, job_id)

    @contextmanager
    def open(self) -> Iterator[BodyFile]:
        with writing(self.result_uri) as path:
            yield BodyFile(path)

    def add(self, file: BodyFile, position: int, value: Any) -> None:
        file.path.write_bytes(value)

    def manifest(self, file: BodyFile) -> dict[str, Any]:
        return {"uri": self.result_uri, "job_id": self.job_id}

    def resubmit(self, record: JobRecord, position: int, message: str) -> None:
        """:raises ResultGoneError: its input is unknown."""
        raise gone(self.kind, self.job_id, message)


def gone(kind: JobKind, job_id: str, message: str | None) -> ResultGoneError:
    """The error for a result that the service no longer returns."""
    returned = f"The result of {kind.name} job {job_id} has been returned before, or is no longer kept."
    return ResultGoneError(" ".join(filter(None, (returned, message, "Submit it again."))))


def read_body(body: bytes, kind: JobKind, job_id: str) -> ParsedBody:
    """
    Check that a body is the result of a job; the value is the body itself.

    :raises MalformedResponseError: it is not, or not of this job.
    """
    name = f"{kind.name.capitalize()} job {job_id}"
    result = state_of(parse_object(body, name), kind, job_id)
    if result.other_job:
        raise unusable_result(f"{name}: the response is about job {result.other_job}")
    has_result = result.has_payload and result.state is not JobState.FAILED
    return ParsedBody(result.state, result.status, result.message, body if has_result else None)
