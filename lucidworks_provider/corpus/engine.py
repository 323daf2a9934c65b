# SPDX-License-Identifier: Apache-2.0
"""
Sends documents and gathers their chunks, many at once, on one event loop.

A document goes from the plan through the window to its jobs; each job's id and body go to the journal; a thread
reads the bodies and appends them to the part. When a part is full, it takes its place, the journal says so, and
the bodies of its documents go. Whatever fails for all documents ends the run with everything kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from itertools import islice
from typing import Any

from lucidworks_provider import metrics
from lucidworks_provider.corpus.backpressure import BodyBudget, InFlightLimit
from lucidworks_provider.corpus.job_runner import JobRunner, Rules
from lucidworks_provider.corpus.journal import WRITE_PAUSE, WRITE_TRIES, Journal
from lucidworks_provider.corpus.parts import (
    ChunkedPiece,
    CompletedDocument,
    Part,
    PartWriter,
    RejectedError,
    WriteResult,
    not_covered,
)
from lucidworks_provider.corpus.plan import Candidate
from lucidworks_provider.corpus.poll_delay import PollDelayEstimator
from lucidworks_provider.corpus.run_context import RunContext
from lucidworks_provider.corpus.run_database import Reject, RunDatabase
from lucidworks_provider.corpus.stats import RunStats
from lucidworks_provider.documents.document import Reason, RejectedDocument
from lucidworks_provider.errors import LucidworksError, OutputBusyError, StorageError, TooManyRejectsError
from lucidworks_provider.threads import in_thread

log = logging.getLogger(__name__)

# Read ahead in one hop to a thread.
READ_AHEAD = 32
READ_AHEAD_CHARACTERS = 4_000_000
# A part takes its place at least this often, so that the journal stays small.
PART_SECONDS = 300.0
PROGRESS_SECONDS = 5.0
CHECK_SECONDS = 10.0
# Documents appended in one hop to a thread.
WRITE_AT_ONCE = 32
# What is said of single documents; the file of rejects has them all.
FIRST_FEW = 20
# Reasons that may be everybody's.
_OF_ALL = {Reason.REFUSED, Reason.FAILED, Reason.MALFORMED, Reason.GONE, Reason.EMPTY_RESULT}
# So many documents refused or failed one after the other, and none done: the fault is not theirs.
IN_VAIN = 25


class ConsecutiveFailuresError(TooManyRejectsError):
    """Too many documents in a row were rejected, and none went through."""


@dataclass
class Engine:
    """
    One run's sending and gathering.

    :param submit: performs the POST for a text and returns the job's id.
    :param fetch: performs the GET of a job once and returns the body.
    :param new_part: opens the next part.
    :param check: raises when the output's lease is lost.
    :param rate: requests a second that have been learned.
    """

    submit: Callable[[str], Awaitable[str]]
    fetch: Callable[[str], Awaitable[bytes]]
    journal: Journal
    scratch: RunDatabase
    stats: RunStats
    new_part: Callable[[], PartWriter]
    check: Callable[[], None]
    rate: Callable[[], float | None] = lambda: None
    rules: Rules = field(default_factory=Rules)
    parts: list[Part] = field(default_factory=list)
    # Documents in the dataset whose chunks do not cover their text.
    truncated: int = 0
    rejected: int = 0

    def __post_init__(self) -> None:
        self._window = InFlightLimit(self.rules.max_in_flight)
        self._slots = BodyBudget()
        times = PollDelayEstimator(self.rules.poll_interval)
        desk = RunContext(self.fetch, self.journal, self.stats, self._slots, times)
        self._asking = JobRunner(self.submit, desk, self.rules)
        self._arrived: asyncio.Queue[CompletedDocument | None] = asyncio.Queue()
        self._part: PartWriter | None = None
        self._part_since = 0.0
        self._vain = self._unusual = 0
        self._told: Counter[str] = Counter()

    @property
    def late(self) -> int:
        """Jobs that the next run asks for again."""
        return self._asking.late

    async def run(self, candidates: Iterator[Candidate | RejectedDocument]) -> None:
        """
        Send all, gather all.

        :raises LucidworksError: what fails for every document; all that came is kept, and a retry goes on.
        """
        # Outside of the group: when the group is cancelled, what has just arrived still has to be written.
        journal = asyncio.create_task(self.journal.write_groups())
        try:
            async with asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(_watched(journal)),
                    group.create_task(_every(PROGRESS_SECONDS, self._progress)),
                    group.create_task(self._check_again_and_again()),
                    # While the first jobs are waited for; else their documents would wait for it.
                    group.create_task(in_thread(import_module, "pyarrow.parquet")),
                ]
                writer = group.create_task(self._write_arrived())
                await self._send_all(candidates)
                self._arrived.put_nowait(None)
                await writer
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as failures:
            failure = _first(failures)
            await self._end(
                journal,
                lost=isinstance(failure, OutputBusyError),
                in_vain=isinstance(failure, ConsecutiveFailuresError),
            )
            raise failure from None
        except BaseException:
            await self._end(journal)
            raise
        await self._end(journal)

    async def _end(self, journal: asyncio.Task[None], *, lost: bool = False, in_vain: bool = False) -> None:
        """
        Put what came where the next run finds it.

        :param lost: another process writes here now, and nothing of this one belongs there any more.
        :param in_vain: too many documents in a row were rejected.
        """
        self._tell_metrics()
        journal.cancel()
        await asyncio.wait([journal])
        if lost:
            if self._part is not None:
                await in_thread(self._part.abandon)
            return
        if in_vain:
            # None of them is to blame; the next attempt sends them again.
            self.journal.note("end", None)
        # Before the part, which may take its time or fail: it can be made of ids and answers, and not they of it.
        await self.journal.flush()
        await self._close_part()

    async def _check_again_and_again(self) -> None:
        """A storage that is away for a moment ends no run; the journal is as patient."""
        failing_since: float | None = None
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await in_thread(self.check)
            except StorageError as err:
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since >= WRITE_TRIES * WRITE_PAUSE:
                    raise
                log.warning("The lease on the output is tried again: %s", err)
            else:
                failing_since = None

    async def _send_all(self, candidates: Iterator[Candidate | RejectedDocument]) -> None:
        async with asyncio.TaskGroup() as documents:
            while some := await in_thread(_take, candidates):
                for candidate in some:
                    if isinstance(candidate, RejectedDocument):
                        self.stats.rejected(candidate.reason)
                        continue
                    await self._window.enter(candidate.size)
                    self.stats.in_flight = self._window.inside
                    documents.create_task(self._document(candidate))

    # -- a document ----------------------------------------------------------------------------------

    async def _document(self, candidate: Candidate) -> None:
        # Bodies of a document in many pieces wait for each other in the journal, not in memory.
        alone = len(candidate.pieces) == 1
        try:
            if alone:
                answers = [await self._asking.piece(candidate.pieces[0], alone=True)]
            else:
                answers = await _all(self._asking.piece(piece, alone=False) for piece in candidate.pieces)
        except RejectedError as err:
            self._reject(candidate, err)
            self._leave(candidate)
        else:
            self._arrived.put_nowait(CompletedDocument(candidate, answers))

    # -- the parts -----------------------------------------------------------------------------------

    async def _write_arrived(self) -> None:
        ended = False
        while not ended:
            some: list[CompletedDocument] = []
            ended = _collect(await self._arrived.get(), some)
            while not ended and not self._arrived.empty() and len(some) < WRITE_AT_ONCE:
                ended = _collect(self._arrived.get_nowait(), some)
            if not some:
                continue
            self._part = self._part or self._open_part()
            outcomes = await in_thread(self._append, self._part, some)
            for arrived, outcome in zip(some, outcomes, strict=True):
                if isinstance(outcome, RejectedError):
                    self._reject(arrived.candidate, outcome)
                else:
                    self._count(arrived, outcome)
                self._slots.written(sum(answer.held for answer in arrived.answers))
                self._leave(arrived.candidate)
            if self._part.full or time.monotonic() - self._part_since > PART_SECONDS:
                await self._close_part()

    def _open_part(self) -> PartWriter:
        self._part_since = time.monotonic()
        return self.new_part()

    def _append(
        self, part: PartWriter, some: Sequence[CompletedDocument]
    ) -> list[WriteResult | RejectedError]:
        """In a thread."""
        outcomes: list[WriteResult | RejectedError] = []
        for arrived in some:
            try:
                outcomes.append(
                    part.add(
                        arrived,
                        read=self.journal.body,
                        refuse_truncated=self.rules.refuse_truncated,
                        lenient=self.rules.lenient,
                    )
                )
            except RejectedError as err:
                outcomes.append(err)
        return outcomes

    async def _close_part(self) -> None:
        writer, self._part = self._part, None
        if writer is None:
            return
        if not writer.rows:
            await in_thread(writer.abandon)
            return
        part = await in_thread(writer.close)
        await self.journal.keep("part", asdict(part))
        await in_thread(self.scratch.add_new, writer.rows)
        self.parts.append(part)
        await in_thread(self.journal.drop, self.journal.release(row.id for row in writer.rows))

    def _count(self, arrived: CompletedDocument, written: WriteResult) -> None:
        self._vain = 0
        seconds = max((answer.seconds for answer in arrived.answers if answer.seconds), default=None)
        self.stats.chunked(time.monotonic(), seconds, written.sizes, written.tokens)
        document_id = arrived.candidate.document.id
        self._unusual += bool(written.warnings)
        if self._unusual <= FIRST_FEW:
            for warning in written.warnings:
                log.warning("Document %r: %s", document_id, warning)
        if written.gap is not None:
            self.truncated += 1
            if self.truncated <= FIRST_FEW:
                log.warning("Document %r: %s", document_id, not_covered(written.gap))

    def _reject(self, candidate: Candidate, err: RejectedError) -> None:
        document_id = candidate.document.id
        before = self.scratch.one("SELECT attempts FROM before WHERE id = ?", document_id)
        attempts = (before[0] if before else 0) + 1
        file, digest = candidate.file.path, candidate.content_hash
        self.scratch.reject(Reject(document_id, err.reason, err.detail, attempts, file, digest))
        self.stats.rejected(err.reason)
        self.rejected += 1
        if self.rejected <= FIRST_FEW:
            log.warning("Document %r is rejected (%s): %s", document_id, err.reason, err.detail)
        if not err.late:
            value = [document_id, candidate.content_hash, err.reason, err.detail, attempts]
            self.journal.note("failed", value)
        if err.reason in _OF_ALL:
            self._vain += 1
            if self._vain >= IN_VAIN:
                raise ConsecutiveFailuresError(
                    f"{self._vain} documents one after the other were rejected and none went through, so the fault "
                    f"is hardly theirs; stopped. The last one, {document_id!r}: {err.detail}"
                )

    def _leave(self, candidate: Candidate) -> None:
        self._window.leave(candidate.size)
        self.stats.in_flight = self._window.inside

    def _progress(self) -> None:
        self.stats.rate = self.rate()
        log.info("%s", self.stats.progress(time.monotonic()))
        self._tell_metrics()

    def _tell_metrics(self) -> None:
        """What was done since it was told last."""
        stats = self.stats
        done = Counter(
            chunked=stats.documents, rejected=stats.rejects, skipped=stats.skips, chunks=stats.chunks
        )
        news = done - self._told
        chunks = news.pop("chunks", 0)
        metrics.documents(news, chunks)
        self._told = done


def _take(candidates: Iterator[Candidate | RejectedDocument]) -> list[Candidate | RejectedDocument]:
    """Some of them; in a thread."""
    taken: list[Candidate | RejectedDocument] = []
    characters = 0
    for candidate in islice(candidates, READ_AHEAD):
        taken.append(candidate)
        characters += 0 if isinstance(candidate, RejectedDocument) else candidate.size
        if characters >= READ_AHEAD_CHARACTERS:
            break
    return taken


def _collect(arrived: CompletedDocument | None, some: list[CompletedDocument]) -> bool:
    """Whether that was the last."""
    if arrived is not None:
        some.append(arrived)
    return arrived is None


async def _all(asked: Iterable[Coroutine[Any, Any, ChunkedPiece]]) -> list[ChunkedPiece]:
    """All of them, or what is wrong with one when the others have ended: their jobs are paid for."""
    answers = await asyncio.gather(*asked, return_exceptions=True)
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    for failure in sorted(failures, key=lambda failure: isinstance(failure, RejectedError)):
        raise failure
    return [answer for answer in answers if isinstance(answer, ChunkedPiece)]


async def _every(seconds: float, call: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await in_thread(call)


async def _watched(task: asyncio.Task[None]) -> None:
    await asyncio.shield(task)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that a group wraps; of several the one that our own code can explain."""
    flat = [_first(one) if isinstance(one, BaseExceptionGroup) else one for one in failures.exceptions]
    return next((failure for failure in flat if isinstance(failure, LucidworksError)), flat[0])
