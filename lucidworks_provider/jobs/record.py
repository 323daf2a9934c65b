# SPDX-License-Identifier: Apache-2.0
"""
The state of a task's jobs, stored outside of the process that may be killed.

The service has no idempotency key, no list of jobs and no cancel, so a lost id is paid work lost. The record has the
intents before the POSTs, the job ids right after them, and the manifest when the result file is written:

================================  ==============================================================
a new attempt finds               it
================================  ==============================================================
no record, or other input         starts; the ids of another input are orphans, and logged
a result of the same generation   returns the manifest: the last attempt was killed before it returned it
a result of another generation    starts: clearing a task that succeeded means to do it again
job ids                           waits for those jobs
intents without an id             applies ``on_unknown_submission``: the outcome of these POSTs is unknown
================================  ==============================================================

The *generation* of a task instance is its ``max_tries``: clearing raises it, automatic retries do not.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lucidworks_provider.jobs.progress import count

VERSION = 1
_SETS = ("intents", "resubmitted", "failed")


@dataclass(frozen=True, slots=True)
class JobRecord:
    """
    :param nonce: random; a process that reads it sees the writer's storage, and not another disk with the same path.
    :param fingerprint: of everything that was submitted.
    :param generation: of the task instance that submitted.
    :param revision: increases with every change, to find the newer of two copies.
    :param jobs: job id by the document's position.
    :param intents: the positions that are being submitted.
    :param resubmitted: positions whose result was gone and that this attempt submitted again.
    :param failed: positions whose job ended in ERROR; a retry submits them again.
    :param result: the manifest, once the result file is written.
    """

    fingerprint: str
    generation: int
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex)
    revision: int = 0
    jobs: Mapping[int, str] = field(default_factory=dict)
    intents: frozenset[int] = frozenset()
    resubmitted: frozenset[int] = frozenset()
    failed: frozenset[int] = frozenset()
    result: Mapping[str, Any] | None = None

    def intending(self, positions: Iterable[int]) -> JobRecord:
        """POSTs for documents are about to be sent."""
        return self._next(intents=self.intents | set(positions))

    def withdrawn(self, position: int) -> JobRecord:
        """A POST created no job."""
        return self._next(intents=self.intents - {position})

    def awaited(self) -> JobRecord:
        """
        A wait is about to begin.

        With a new nonce: the record of an earlier attempt, on another host's disk, must not be accepted for this one.
        """
        return self._next(nonce=uuid.uuid4().hex, intents=frozenset())

    def submitted(self, position: int, job_id: str) -> JobRecord:
        """A document has a job."""
        jobs = {**self.jobs, position: job_id}
        return self._next(jobs=jobs, intents=self.intents - {position}, failed=self.failed - {position})

    def with_failed(self, positions: Iterable[int]) -> JobRecord:
        """Jobs ended in ERROR."""
        return self._next(failed=self.failed | set(positions))

    def with_gone(self, position: int) -> JobRecord:
        """A result is gone: the document is submitted again, once."""
        jobs = {p: job for p, job in self.jobs.items() if p != position}
        return self._next(jobs=jobs, resubmitted=self.resubmitted | {position})

    def collected(self, manifest: Mapping[str, Any]) -> JobRecord:
        """The result file is written."""
        return self._next(result=dict(manifest), intents=frozenset())

    def missing(self, documents: int) -> list[int]:
        """Positions that need a submission."""
        return [p for p in range(documents) if p not in self.jobs or p in self.failed]

    def to_json(self) -> bytes:
        """For storage."""
        plain = asdict(self) | {
            "version": VERSION,
            "jobs": {str(position): job for position, job in self.jobs.items()},
            **{name: sorted(getattr(self, name)) for name in _SETS},
        }
        return json.dumps(plain).encode()

    @classmethod
    def from_json(cls, data: bytes | str) -> JobRecord | None:
        """None for anything that :meth:`to_json` of this version has not written."""
        try:
            plain = json.loads(data)
            if plain.pop("version") != VERSION:
                return None
            plain["jobs"] = {int(position): str(job) for position, job in plain["jobs"].items()}
            plain.update({name: frozenset(plain[name]) for name in _SETS})
            return cls(**plain)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def _next(self, **changes: Any) -> JobRecord:
        return replace(self, revision=self.revision + 1, **changes)


def newest(records: Iterable[JobRecord | None]) -> JobRecord | None:
    """The copy with the highest revision: a process may be killed between writing one and the other."""
    return max((r for r in records if r is not None), key=lambda r: r.revision, default=None)


def resume(found: JobRecord | None, *, fingerprint: str, generation: int) -> tuple[JobRecord, str]:
    """
    Decide what a new attempt starts from (see the table above).

    :return: the record to continue with, and a message for the log; empty in a first attempt.
    """
    if found is None:
        return JobRecord(fingerprint, generation), ""
    # Revisions continue: a store that misses a write then has the older copy.
    new = JobRecord(fingerprint, generation, revision=found.revision)
    if found.fingerprint != fingerprint:
        ids = ", ".join(found.jobs.values()) or "none"
        return new, f"The input changed since the last attempt; its jobs are orphans: {ids}"
    if found.result is not None and found.generation != generation:
        return new, "Cleared after a success: submitting again."
    if found.result is not None:
        return found, "The last attempt had collected everything."
    # Clearing a task that failed over an unknown submission is the decision to submit again.
    intents = found.intents if found.generation == generation else frozenset()
    # Each attempt may submit each position again once.
    found = replace(found, resubmitted=frozenset())
    resumed = f"Resuming {count(len(found.jobs) - len(found.failed), 'job')} of an earlier attempt"
    failed = f"; {len(found.failed)} that ended in ERROR are submitted again" if found.failed else ""
    return replace(found, generation=generation, intents=intents), f"{resumed}{failed}."


def fingerprint_of(options: Mapping[str, Any], documents: Iterable[tuple[str, str]]) -> str:
    """A digest of the options and of every document's id and text."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for document_id, text in documents:
        for part in (document_id.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
