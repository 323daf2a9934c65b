# SPDX-License-Identifier: Apache-2.0
"""From a text to its result: one job, and a second one where the first is lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lucidworks_provider import metrics
from lucidworks_provider.client.api.jobs import CHUNKING
from lucidworks_provider.corpus.parts import ChunkedPiece, RejectedError
from lucidworks_provider.corpus.plan import Piece
from lucidworks_provider.corpus.run_context import JournalResultStore, RunContext, until_accepted
from lucidworks_provider.documents.document import Reason
from lucidworks_provider.errors import (
    ForbiddenError,
    InputError,
    NoJobIdError,
    RequestRefusedError,
    SubmissionUnknownError,
    UnknownResourceError,
)
from lucidworks_provider.jobs.wait import finish, follow
from lucidworks_provider.jobs.watch import Ending, PollOutcome, watch

log = logging.getLogger(__name__)

# POSTs at once, waiting for the rate included: so a GET that is due does not queue behind hundreds of them.
SUBMISSIONS = 32
# How often a POST without an answer is sent again, and how long to wait before.
UNKNOWN_TRIES = 3
UNKNOWN_PAUSE = 5.0
# What the service may say of one text or job, though it may be meant for all: then many in a row are rejected.
_REFUSED = (RequestRefusedError, ForbiddenError, UnknownResourceError)


@dataclass(frozen=True, slots=True)
class Rules:
    """
    What a person decided about a run.

    :param timeout: seconds for each job.
    :param poll_interval: the longest time between two polls of a job, seconds.
    :param refuse_truncated: reject documents whose chunks do not cover their text.
    :param lenient: warn about results that may be good, and do not reject them.
    """

    max_in_flight: int = 512
    timeout: float = 3600.0
    poll_interval: float = 30.0
    refuse_truncated: bool = False
    lenient: bool = False


@dataclass
class JobRunner:
    """
    For all pieces of a run.

    :param submit: performs the POST for a text and returns the job's id.
    """

    submit: Callable[[str], Awaitable[str]]
    desk: RunContext
    rules: Rules
    # Jobs that were not ready in time, or could not be asked for.
    late: int = 0

    def __post_init__(self) -> None:
        self._submitting = asyncio.Semaphore(SUBMISSIONS)
        # The text of each job that is waited for.
        self._held: dict[str, tuple[str, int, int]] = {}

    async def piece(self, piece: Piece, *, alone: bool) -> ChunkedPiece:
        """
        The result of a piece.

        :param alone: of its document.
        :raises RejectedError: what is wrong with this text alone.
        :raises LucidworksError: what fails for all.
        """
        if piece.place is not None:
            self.desk.stats.reused()
            return ChunkedPiece(piece, piece.job, piece.place)
        job, again = piece.job, False
        if job:
            self.desk.stats.reused()
        while True:
            fresh = not job
            job = job or await self._submit(piece)
            self._hold(job, piece)
            kept = JournalResultStore(self.desk, piece, job, hold=alone, fresh=fresh)
            try:
                with metrics.waiting() as waited:
                    if fresh:
                        await asyncio.sleep(self.desk.times.first_wait())
                    ended = await self._wait(job, kept)
                    waited.ending = ended.ending.value
            finally:
                self._held.pop(job, None)
            match ended.ending:
                case Ending.COLLECTED:
                    return kept.answered()
                case Ending.FAILED:
                    raise RejectedError(Reason.FAILED, f"Job {job}: {ended.message}")
                case Ending.EMPTY:
                    raise RejectedError(Reason.EMPTY_RESULT, f"Job {job}: {ended.message}")
                case Ending.TIMEOUT:
                    raise self._late(
                        Reason.TIMEOUT,
                        f"Job {job} was not ready within {self.rules.timeout:g} s. {ended.message}",
                    )
            if again:
                raise RejectedError(
                    Reason.GONE, f"Job {job}: its result is gone, as that of the job before. {ended.message}"
                )
            log.warning(
                "Job %s: its result is gone; %r is submitted again. %s",
                job,
                piece.key.document_id,
                ended.message,
            )
            self.desk.journal.resubmitted()
            self.desk.stats.resubmitted()
            job, again = "", True

    def _hold(self, job: str, piece: Piece) -> None:
        """
        Note whose job it is.

        :raises RejectedError: another text has it, and one of the two would get the other's result.
        """
        text = piece.key.content_hash, piece.key.start, piece.key.length
        if self._held.setdefault(job, text) != text:
            raise RejectedError(
                Reason.MALFORMED,
                f"The service answered the submission with job {job}, which another document has.",
            )

    async def _wait(self, job: str, kept: JournalResultStore) -> PollOutcome:
        try:
            return await follow(
                job,
                watch(
                    poll_interval=self.rules.poll_interval,
                    deadline=time.time() + self.rules.timeout,
                    now=time.time,
                    wait=kept.next_wait,
                    # The lease says that nobody else reads.
                    gone_patience=0.0,
                    durations=self.desk.times.durations,
                ),
                keeper=kept,
                fetch=kept.fetch,
                slots=self.desk.slots,
                kind=CHUNKING,
            )
        except InputError as err:
            # No address can be made of the id.
            return PollOutcome(Ending.GONE, str(err))
        except _REFUSED as err:
            # The job is there. A proxy may have said that, or a right may be missing for a while.
            raise self._late(Reason.REFUSED, f"Job {job}: {err}") from None

    def _late(self, reason: Reason, detail: str) -> RejectedError:
        self.late += 1
        return RejectedError(reason, f"{detail.rstrip()} The next run asks for it again.", late=True)

    async def _submit(self, piece: Piece) -> str:
        for unknown in range(UNKNOWN_TRIES):
            try:
                async with self._submitting:
                    await self.desk.journal.writable()
                    # An id that was handed out is kept even when this is cancelled.
                    return await finish(self._post(piece))
            except InputError as err:
                raise RejectedError(Reason.INVALID, str(err)) from None
            except _REFUSED as err:
                raise RejectedError(Reason.REFUSED, str(err)) from None
            except NoJobIdError as err:
                raise RejectedError(Reason.FAILED, str(err)) from None
            except SubmissionUnknownError as err:
                if unknown == UNKNOWN_TRIES - 1:
                    raise RejectedError(Reason.FAILED, f"{UNKNOWN_TRIES} submissions: {err}") from None
                log.warning("%s A job may exist that nobody knows; submitting again. %s", _named(piece), err)
                self.desk.journal.resubmitted()
                self.desk.stats.resubmitted()
                await asyncio.sleep(max(UNKNOWN_PAUSE, err.retry_after or 0.0))
        raise AssertionError

    async def _post(self, piece: Piece) -> str:
        # Refused is not accepted, so nothing is doubled.
        job = await until_accepted(self.submit, piece.text)
        self.desk.journal.submitted(piece.key, job)
        self.desk.stats.submitted(time.monotonic())
        return job


def _named(piece: Piece) -> str:
    return f"Document {piece.key.document_id!r}:"
