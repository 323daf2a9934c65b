# SPDX-License-Identifier: Apache-2.0
"""One run over a corpus, from the source's listing to the new snapshot."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lucidworks_provider.corpus import commit
from lucidworks_provider.corpus.engine import Engine
from lucidworks_provider.corpus.journal import Journal
from lucidworks_provider.corpus.lease import LEASE, Holder, Lease
from lucidworks_provider.corpus.parts import PartWriter
from lucidworks_provider.corpus.plan import HANDED_OVER, Plan, Planned
from lucidworks_provider.corpus.report import render
from lucidworks_provider.corpus.resume import carry_over, check_options, load_index, load_rejects, take_over
from lucidworks_provider.corpus.scratch import SAME, Scratch
from lucidworks_provider.corpus.settings import Corpus, Service
from lucidworks_provider.corpus.stats import RunStats, duration
from lucidworks_provider.documents.dataset import (
    DATA,
    INDEX,
    JOURNAL,
    JSON_LINES,
    RAW,
    SNAPSHOT,
    Part,
    Snapshot,
    below,
    read_snapshot,
    write_snapshot,
)
from lucidworks_provider.documents.document import Document, Unreadable
from lucidworks_provider.documents.readers import check_file, read_file_documents
from lucidworks_provider.documents.shards import read_listing
from lucidworks_provider.documents.source import SourceFile, list_source
from lucidworks_provider.errors import InputError, OutputBusyError, StorageError, TooManyRejectsError
from lucidworks_provider.storage import free_bytes, is_file, without_scheme, write_file

log = logging.getLogger(__name__)

REPORT = "report.html"
# Single rejects in the report; the file of rejects has them all.
SHOWN_REJECTS = 24
_OURS = {
    DATA,
    INDEX,
    JSON_LINES,
    SNAPSHOT,
    JOURNAL,
    LEASE,
    REPORT,
    RAW,
    commit.CHANGES,
    commit.REJECTS,
}


def look(corpus: Corpus) -> dict[str, Any]:
    """
    What a run would send, without sending or writing anything.

    :return: ``{"documents", "would_submit", "bytes", "skipped"}``.
    :raises InputError: what would stop the run.
    """
    snapshot = _checked_snapshot(corpus)
    with Scratch() as scratch:
        load_index(scratch, corpus.output, snapshot)
        load_rejects(scratch, corpus.output, remember=not corpus.full_refresh)
        planned = _plan(corpus, scratch, snapshot, exact=True)[1]
    return {
        "documents": planned.documents,
        "would_submit": planned.candidates,
        "bytes": planned.bytes,
        "skipped": planned.documents - planned.candidates,
    }


def run(
    corpus: Corpus, service: Service, *, holder: Holder, life: int, wait_seconds: float
) -> dict[str, Any]:
    """
    Bring the dataset up to the source.

    :param life: of the task instance; clearing one that succeeded raises it, and means "again".
    :param wait_seconds: for another run that writes into the same output; 0 to fail at once.
    :return: the delta and its addresses.
    :raises InputError: before anything is sent.
    :raises LucidworksError: what fails for every document; everything that came is kept, and a retry goes on.
    """
    _checked_snapshot(corpus)
    lease = Lease(corpus.output)
    lease.acquire(holder, wait_seconds)
    try:
        # Again: the one that was waited for may have changed it.
        snapshot = _checked_snapshot(corpus)
        me = {"instance": list(holder.instance), "life": life}
        done = dict(snapshot.manifest) if snapshot is not None and snapshot.run == me else None
        if done is None and holder.try_number > 1:
            # Another run may have come between the two.
            done = commit.returned(corpus.output, me)
        if done is not None:
            log.info("An earlier try of this task has done it all, and died before it could say so.")
            return done
        with Scratch() as scratch:
            return _Run(corpus, service, scratch, snapshot, lease, me).go()
    finally:
        lease.release()


@dataclass
class _Run:
    corpus: Corpus
    service: Service
    scratch: Scratch
    snapshot: Snapshot | None
    lease: Lease
    me: Mapping[str, Any]
    parts: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._journal = Journal(self.corpus.output, keep=self.corpus.keep_raw)
        same = self.snapshot is not None and self.snapshot.options == self.corpus.options.as_json()
        self._keep_old = same
        self._dimension = self.snapshot.dimension if self.snapshot is not None and same else 0
        self._started = time.monotonic()

    def go(self) -> dict[str, Any]:
        corpus, scratch = self.corpus, self.scratch
        load_index(scratch, corpus.output, self.snapshot)
        load_rejects(scratch, corpus.output, remember=not corpus.full_refresh)
        unfinished = take_over(self._journal, corpus, scratch, self.snapshot)
        if unfinished is not None:
            self.parts, dimension = unfinished
            self._dimension = dimension or self._dimension
        plan, planned = _plan(corpus, scratch, self.snapshot, exact=corpus.max_submissions is not None)
        self._check_guards(planned)
        if unfinished is None:
            self._journal.begin(corpus.options.as_json())
        stats = RunStats(planned.documents, time.monotonic())
        stats.skipped(planned.documents - planned.candidates)
        log.info(
            "%s documents, of which %s are new or may have changed.", planned.documents, planned.candidates
        )
        engine = asyncio.run(self._send(plan, stats))
        return self._finish(engine, stats)

    async def _send(self, plan: Plan, stats: RunStats) -> Engine:
        engine = Engine(
            submit=self.service.submit,
            fetch=self.service.fetch,
            journal=self._journal,
            scratch=self.scratch,
            stats=stats,
            new_part=self._new_part,
            check=self.lease.renew,
            rate=self.service.rate,
            rules=self.corpus.rules,
            parts=self.parts,
        )
        async with self.service.client(lambda outcome: stats.request(outcome, time.monotonic())):
            await engine.run(plan.candidates())
        return engine

    def _new_part(self) -> PartWriter:
        corpus = self.corpus
        return PartWriter(
            corpus.output,
            corpus.options,
            json_lines=corpus.json_lines,
            dimension=self._dimension,
            learned=self._learn,
        )

    def _learn(self, dimension: int) -> None:
        self._dimension = dimension

    def _finish(self, engine: Engine, stats: RunStats) -> dict[str, Any]:
        corpus, scratch, output = self.corpus, self.scratch, self.corpus.output
        rejects = commit.write_rejects(scratch, output)
        rejected = scratch.count("SELECT count(*) FROM rejects")
        documents = scratch.count("SELECT count(*) FROM seen")
        if rejected > corpus.max_reject_ratio * documents:
            # The next try may have more luck with them.
            asyncio.run(self._journal.keep("end", None))
            self._report({"documents": documents, "rejected": rejected, "rejects": rejects}, stats)
            first = scratch.one("SELECT id, detail FROM rejects ORDER BY id LIMIT 1")
            raise TooManyRejectsError(
                f"{rejected:,} of {documents:,} documents were rejected, more than max_reject_ratio="
                f"{corpus.max_reject_ratio:g} allows: {dict(stats.reasons)}; the first, {first[0]!r}: {first[1]} "
                f"They are listed in {rejects}. The dataset is as it was; what went well is kept, and a retry sends "
                "only what was rejected."
            )
        old = self.snapshot.parts if self.snapshot is not None else ()
        parts = commit.settle(
            scratch,
            output,
            [*old, *self.parts],
            keep_old=self._keep_old,
            prune=corpus.prune,
            json_lines=corpus.json_lines,
        )
        counted = commit.counts(scratch)
        if (told := self._told_before(counted)) is not None:
            log.info("Nothing is new since an earlier try of this task, so its delta counts.")
            self._tidy(engine, parts)
            return told
        now = datetime.now(UTC)
        snapshot_id = now.strftime("%Y%m%dT%H%M%S.%fZ")
        lists = commit.write_lists(scratch, output, snapshot_id)
        manifest = {
            "dataset": output,
            "snapshot": snapshot_id,
            "documents": sum(part.documents for part in parts),
            "chunks": sum(part.chunks for part in parts),
            "written": sum(part.chunks for part in self.parts),
            "dimension": self._dimension,
            "tokens": stats.tokens,
            **counted,
            "skipped": scratch.count(
                "SELECT count(*) FROM seen LEFT JOIN new ON new.id = seen.id WHERE fate = ? AND new.id IS NULL",
                SAME,
            ),
            "rejected": rejected,
            "submitted": stats.submissions,
            "resubmitted": stats.resubmissions,
            "truncated": engine.truncated,
            "lists": lists,
            "rejects": rejects,
            "report": below(output, REPORT),
        }
        self._report(manifest, stats)
        if self.snapshot is not None:
            commit.keep_returned(output, self.snapshot)
        self.lease.renew()
        write_snapshot(
            output,
            Snapshot(
                snapshot_id,
                now.isoformat(timespec="seconds"),
                corpus.options.as_json(),
                self._dimension,
                parts,
                rejected,
                self.me,
                manifest,
                self._journal.run,
            ),
        )
        self._tidy(engine, parts)
        log.info(
            "Snapshot %s: %s documents, %s chunks. In %s: %s documents sent, %s rejected; %s requests, of which %s "
            "were answered with 429 and %s not at all.",
            snapshot_id,
            f"{manifest['documents']:,}",
            f"{manifest['chunks']:,}",
            duration(stats.seconds),
            f"{stats.submissions:,}",
            f"{stats.rejects:,}",
            f"{stats.requests:,}",
            f"{stats.throttles:,}",
            f"{stats.unanswered:,}",
        )
        return manifest

    def _told_before(self, counted: Mapping[str, int]) -> dict[str, Any] | None:
        """
        The delta of this task's run, if a try of before a clear has published it.

        What comes after it in the DAG may never have heard of that, and would take an empty delta for the whole.
        """
        last = self.snapshot
        if (
            last is None
            or last.run.get("instance") != self.me["instance"]
            or self.parts
            or any(counted.values())
        ):
            return None
        return dict(last.manifest)

    def _tidy(self, engine: Engine, parts: Sequence[Part]) -> None:
        """The snapshot is written, so nothing here may fail the run."""
        try:
            # Who stood still since the snapshot would remove what its follower writes.
            self.lease.renew()
            # Before the files that it names.
            if engine.late:
                # Paid for, and perhaps ready by the next run.
                carry_over(self._journal, self.corpus.output, self.scratch)
            else:
                self._journal.end()
            commit.tidy(self.corpus.output, parts, keep_replaced=self.corpus.keep_replaced)
        except OutputBusyError as err:
            log.warning(
                "The snapshot stands; what is left over of the run is the next one's to remove: %s", err
            )
        except StorageError as err:
            log.warning("What is left over of the run could not be removed; the next one will: %s", err)

    def _report(self, manifest: Mapping[str, Any], stats: RunStats) -> None:
        corpus, fields = self.corpus, ("document_id", "reason", "detail")
        rejects = self.scratch.rows(
            "SELECT id, reason, detail FROM rejects ORDER BY id LIMIT ?", SHOWN_REJECTS
        )
        about = {
            "title": corpus.output.rpartition("/")[2],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "task": " / ".join(str(part) for part in self.me["instance"]),
            "manifest": dict(manifest),
            "options": corpus.options.as_json(),
            "source": corpus.source if isinstance(corpus.source, str) else "documents of a task",
            "rejects": [dict(zip(fields, row, strict=True)) for row in rejects],
        }
        write_file(below(corpus.output, REPORT), render(stats.as_json(time.monotonic()), about).encode())

    def _check_guards(self, planned: Planned) -> None:
        corpus = self.corpus
        if corpus.max_submissions is not None and planned.candidates > corpus.max_submissions:
            raise InputError(
                f"{planned.candidates:,} documents ({planned.bytes:,} bytes) would be submitted, more than "
                f"max_submissions={corpus.max_submissions:,}. Nothing was sent. Raise it if that is meant, or find "
                "out with dry_run=True what changed."
            )
        free = free_bytes(corpus.output)
        if free is not None and free < planned.bytes:
            raise InputError(
                f"{corpus.output} has {free:,} bytes left; the {planned.candidates:,} documents to be sent have "
                f"{planned.bytes:,}, and their vectors more. Nothing was sent. Make room."
            )


def _plan(
    corpus: Corpus, scratch: Scratch, snapshot: Snapshot | None, *, exact: bool
) -> tuple[Plan, Planned]:
    same = snapshot is not None and snapshot.options == corpus.options.as_json()
    files: Iterator[SourceFile]
    read: Callable[[SourceFile], Iterator[Document | Unreadable]]
    check: Callable[[SourceFile], None]
    if isinstance(corpus.source, str):
        files = read_listing(corpus.listing) if corpus.listing else list_source(corpus.source)
        read, check = (
            lambda file: read_file_documents(file, corpus.reading),
            lambda file: check_file(file, corpus.reading),
        )
    else:
        documents = corpus.source
        files, read, check = iter([HANDED_OVER]), lambda _: iter(documents), lambda _: None
    plan = Plan(
        scratch,
        read=read,
        check=check,
        reuse=same and not corpus.full_refresh,
        max_text_bytes=corpus.max_text_bytes,
    )
    planned = plan.look(files, exact=exact)
    # A shard may be without documents, and then those that it had have vanished.
    if not planned.documents and not corpus.listing:
        raise InputError(
            f"{corpus.source if isinstance(corpus.source, str) else 'source'} holds no document."
        )
    return plan, planned


def _checked_snapshot(corpus: Corpus) -> Snapshot | None:
    """
    The snapshot of the output, if this run may go on from it.

    :raises InputError: the folder holds something else, or chunks of another configuration.
    """
    _check_apart(corpus)
    snapshot = read_snapshot(corpus.output)
    if snapshot is None:
        strange = commit.strange_in(corpus.output, _OURS)
        if strange:
            raise InputError(
                f"{corpus.output} has no {SNAPSHOT} and holds something else ({', '.join(strange[:3])}, …). Give the "
                "dataset a folder of its own."
            )
    else:
        check_options(snapshot.options, corpus, corpus.output)
    return snapshot


def _check_apart(corpus: Corpus) -> None:
    """:raises InputError: the dataset would be a part of its own source, or its folder is a file."""
    if is_file(corpus.output):
        raise InputError(f"output is {corpus.output}, a file; give the URI of a folder.")
    if isinstance(corpus.source, str):
        base = re.split(r"[*?\[]", corpus.source)[0]
        base = base if base == corpus.source else base.rpartition("/")[0]
        source, output = without_scheme(base), without_scheme(corpus.output)
        if f"{output}/".startswith(f"{source.rstrip('/')}/"):
            raise InputError(
                f"output {corpus.output} lies within source {corpus.source}: the next run would take the dataset for "
                "documents. Give it a folder outside."
            )
