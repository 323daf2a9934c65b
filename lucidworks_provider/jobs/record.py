# SPDX-License-Identifier: Apache-2.0
"""
What one task knows about its jobs, kept outside of the process that may die.

The service has no idempotency key, no list of jobs and no cancel, so an id that is lost is work that is
paid for and lost. Before each POST the record says INTENT, right after it SUBMITTED(id), and when the
result file stands COLLECTED(manifest):

==========================  ====================================================================
what a new attempt finds    what it does
==========================  ====================================================================
no record, or other input   start; ids of another input are orphans, and logged
COLLECTED, same life        return the manifest: the last attempt died before it could say so
COLLECTED, another life     start: somebody cleared a task that had succeeded, which means "again"
SUBMITTED ids               wait for those very jobs
INTENT without an id        the POST's outcome is unknown: ``on_unknown_submission`` decides
==========================  ====================================================================

A *life* of a task instance is its ``max_tries``: automatic retries leave it alone, clearing raises it.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

VERSION = 1


@dataclass(frozen=True, slots=True)
class JobRecord:
    """
    :param nonce: random; a reader that finds it on storage sees the writer's storage and no namesake.
    :param fingerprint: of everything that was submitted.
    :param life: of the task instance that started it.
    :param revision: grows with every change, so that the newer of two copies is known.
    :param jobs: job id by the document's position.
    :param intent: the position whose POST is under way.
    :param resubmitted: positions whose result was gone and that this attempt submitted once more.
    :param failed: positions whose job ended in ERROR; a retry submits those again.
    :param result: the manifest, once the result file stands.
    """

    fingerprint: str
    life: int
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex)
    revision: int = 0
    jobs: Mapping[int, str] = field(default_factory=dict)
    intent: int | None = None
    resubmitted: frozenset[int] = frozenset()
    failed: frozenset[int] = frozenset()
    result: Mapping[str, Any] | None = None

    def intending(self, position: int) -> JobRecord:
        """The POST for a document is about to be sent."""
        return self._next(intent=position)

    def awaited(self) -> JobRecord:
        """
        A wait is about to begin.

        With a new nonce: an earlier attempt may have left its record on another host's disk, and a reader that
        finds that one does not see the storage of this attempt.
        """
        return self._next(nonce=uuid.uuid4().hex, intent=None)

    def submitted(self, position: int, job_id: str, *, then: int | None = None) -> JobRecord:
        """A document has a job; ``then`` is the next one to be sent, to save a write."""
        jobs = {**self.jobs, position: job_id}
        return self._next(jobs=jobs, intent=then, failed=self.failed - {position})

    def with_failed(self, positions: Iterable[int]) -> JobRecord:
        """Jobs ended in ERROR."""
        return self._next(failed=self.failed | set(positions))

    def with_gone(self, position: int) -> JobRecord:
        """A result is gone: the document needs another job, once."""
        jobs = {p: job for p, job in self.jobs.items() if p != position}
        return self._next(jobs=jobs, resubmitted=self.resubmitted | {position})

    def collected(self, manifest: Mapping[str, Any]) -> JobRecord:
        """The result file stands."""
        return self._next(result=dict(manifest), intent=None)

    def missing(self, documents: int) -> list[int]:
        """Positions that need a submission."""
        return [p for p in range(documents) if p not in self.jobs or p in self.failed]

    def to_json(self) -> bytes:
        """For storage."""
        plain = asdict(self) | {
            "version": VERSION,
            "jobs": {str(position): job for position, job in self.jobs.items()},
            "resubmitted": sorted(self.resubmitted),
            "failed": sorted(self.failed),
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
            plain["resubmitted"] = frozenset(plain["resubmitted"])
            plain["failed"] = frozenset(plain["failed"])
            return cls(**plain)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def _next(self, **changes: Any) -> JobRecord:
        return replace(self, revision=self.revision + 1, **changes)


def newest(records: Iterable[JobRecord | None]) -> JobRecord | None:
    """The copy with the highest revision: a crash may have come between writing one and the other."""
    return max((r for r in records if r is not None), key=lambda r: r.revision, default=None)


def resume(found: JobRecord | None, *, fingerprint: str, life: int) -> tuple[JobRecord, str]:
    """
    Decide what a new attempt starts from (see the table above).

    :return: the record to go on with, and a sentence for the log.
    """
    if found is None:
        return JobRecord(fingerprint, life), "No earlier attempt."
    # Its revisions go on from the old one's: of two copies, the store that missed a write has the older.
    anew = JobRecord(fingerprint, life, revision=found.revision)
    if found.fingerprint != fingerprint:
        ids = ", ".join(found.jobs.values()) or "none"
        return anew, f"The input changed since the last attempt; its jobs are orphans: {ids}"
    if found.result is not None and found.life != life:
        return anew, "Cleared after a success: submitting again."
    if found.result is not None:
        return found, "The last attempt had collected everything."
    # Whoever clears a task that failed over an unknown submission has decided about it.
    intent = found.intent if found.life == life else None
    # What was gone once more than an attempt bears is for the next attempt to submit.
    found = replace(found, resubmitted=frozenset())
    going_on = f"Going on with {len(found.jobs) - len(found.failed)} jobs of an earlier attempt"
    again = f"; {len(found.failed)} that ended in ERROR are submitted again" if found.failed else ""
    return replace(found, life=life, intent=intent), f"{going_on}{again}."


def fingerprint_of(options: Mapping[str, Any], documents: Iterable[tuple[str, str]]) -> str:
    """A digest of the options and of every document's id and text."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for document_id, text in documents:
        for part in (document_id.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
