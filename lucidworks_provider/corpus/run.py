# SPDX-License-Identifier: Apache-2.0
"""A run over a corpus: compare the source with the tables, resume an unfinished run, send documents, publish."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from operator import sub
from typing import Any, Literal

from tenacity import Retrying

from lucidworks_provider import metrics
from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.client.options import MAX_TEXT_BYTES
from lucidworks_provider.corpus.dataset import CHUNKS, NAMES, REJECTS, REPORT, SHARDS, below
from lucidworks_provider.corpus.journal import BodyLocation, Journal, ReadOnlyJournal, Record, SegmentKey
from lucidworks_provider.corpus.lease import Holder, Lease
from lucidworks_provider.corpus.parts import Part, PartWriter, read_index
from lucidworks_provider.corpus.pipeline import MAX_POLLED_RUNS, Pipeline, PipelineSettings, Service, renewing
from lucidworks_provider.corpus.plan import INLINE, Plan, PlanSummary
from lucidworks_provider.corpus.publish import (
    RunRecord,
    TableSettings,
    complete_run,
    complete_run_with_lease,
    find_returned,
    maintain,
    publish,
    read_run_record,
    run_numbers,
)
from lucidworks_provider.corpus.report import write_report
from lucidworks_provider.corpus.run_database import REJECTED, SAME, TODO, RunDatabase
from lucidworks_provider.corpus.shards import (
    Shard,
    StagedShard,
    delete_staged,
    read_listing,
    read_shard,
    stage_shard,
)
from lucidworks_provider.corpus.stats import RunStats
from lucidworks_provider.corpus.tables import (
    CatalogueOptions,
    Counts,
    Tables,
    add_documents_of_other_shards,
    build_upserts,
    check_empty,
    check_files,
    count_after,
    load_documents,
    load_empty_results,
    read_tables,
    reconcile,
)
from lucidworks_provider.documents.document import Document, RejectedDocument
from lucidworks_provider.documents.readers import ReadOptions, read_file_documents
from lucidworks_provider.documents.source import SourceFile, list_source, may_contain
from lucidworks_provider.errors import BudgetExceededError, InputError, LucidworksError, TooManyRejectsError
from lucidworks_provider.jobs.rows import beyond_ratio
from lucidworks_provider.metrics import count, log_result
from lucidworks_provider.storage import free_bytes, is_file, names_in, writing

log = logging.getLogger(__name__)

# New objects between two garbage collections; some MB.
NEW_OBJECTS = 20_000
# Rejects in the report.
SHOWN_REJECTS = 24


@dataclass(frozen=True, slots=True)
class Corpus:
    """
    The settings of a run.

    :param source: URI of a file, folder or glob; or inline documents.
    :param listing: URI of the listing of a shard, which replaces listing ``source``. The result is staged for
        :func:`~lucidworks_provider.corpus.shards.publish_shards`.
    :param output: URI of the folder of the tables.
    :param full_refresh: send all documents again; required after a change of the configuration.
    :param prune: remove documents that the source no longer has.
    :param max_requests: fail before the first submission if the run takes more of them.
    :param max_reject_ratio: fail if a larger share of the documents is rejected; results are kept.
    :param keep_raw: keep the results of the service below ``raw``.
    :param on_missing_chunks: ``resend`` or ``drop`` documents of which another program has deleted chunks.
    :param deletion_vectors: mask replaced chunks; otherwise copy files without them.
    :param retention: seconds for which older versions can be read.
    """

    source: str | Sequence[Document | RejectedDocument]
    output: str
    options: ChunkingOptions
    reading: ReadOptions = field(default_factory=ReadOptions)
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    listing: str | None = None
    full_refresh: bool = False
    prune: bool = False
    max_requests: int | None = None
    max_reject_ratio: float = 0.05
    max_text_bytes: int = MAX_TEXT_BYTES
    keep_raw: bool = False
    on_missing_chunks: Literal["resend", "drop"] = "resend"
    deletion_vectors: bool = True
    retention: float = 7 * 86_400.0

    @property
    def catalogue(self) -> CatalogueOptions:
        """What all chunks of the output have in common."""
        reading = self.reading
        return CatalogueOptions(
            **self.options.as_json(), id_column=reading.id_column, text_column=reading.text_column
        )


def plan_run(corpus: Corpus) -> dict[str, Any]:
    """
    What a run would send, after an interrupted one without its jobs and results; sends and writes nothing.

    :return: ``{"documents", "would_submit", "requests", "bytes", "skipped"}``.
    :raises InputError: a run would fail with it before it sends anything.
    :raises StorageError: as for ``InputError``, e.g. if a data file is gone.
    """
    _check_output(corpus)
    shard = read_shard(corpus.listing) if corpus.listing else None
    folder = _folder(corpus, shard)
    tables = read_tables(corpus.output)
    corpus, last = _prepare(corpus, shard, tables)
    tables = check_files(tables, full_refresh=corpus.full_refresh)
    if (number := tables.incomplete_run) is not None:
        log.warning(
            "Run %s died between its two commits, and the next run makes the second one. Before that, a plan does "
            "not know which chunks another program has removed.",
            number,
        )
    with RunDatabase() as db:
        _load(db, tables, shard, corpus)
        resume_run(
            ReadOnlyJournal(folder),
            corpus,
            db,
            published_journal="" if last is None else last.journal,
            published_parts=None if shard is None or last is None else lambda: _parts_of(folder, last),
            has_tables=tables.chunks is not None,
        )
        summary = _plan(corpus, db, tables, shard, log.warning, exact=True)[1]
    return {
        "documents": summary.documents,
        "would_submit": summary.candidates,
        "requests": summary.requests,
        "bytes": summary.bytes,
        "skipped": summary.documents - summary.candidates,
    }


def run(
    corpus: Corpus, service: Service, *, holder: Holder, generation: int, wait_seconds: float
) -> dict[str, Any]:
    """
    Update the tables from the source; for a shard, stage the update.

    :param generation: of the task instance; clearing a task that succeeded raises it, and repeats the run.
    :param wait_seconds: for another run that writes to the same output; 0 to fail at once.
    :return: versions, counts and URIs.
    :raises InputError: before anything is sent.
    :raises BudgetExceededError: before anything is sent, or with all results kept.
    :raises LucidworksError: a failure common to all documents. A retry resumes the run.
    """
    _check_output(corpus)
    shard = read_shard(corpus.listing) if corpus.listing else None
    before = read_tables(corpus.output)
    if before.options != corpus.catalogue.as_json():
        # Fails without a wait for the lease.
        _prepare(corpus, shard, before)
    if shard is not None:
        complete_run(corpus.output, holder, wait_seconds)
    folder = _folder(corpus, shard)
    lease = Lease(folder)
    lease.acquire(holder, wait_seconds)
    try:
        # The former holder may have changed the tables.
        tables = (complete_run_with_lease if shard is None else read_tables)(corpus.output, before)
        corpus, last = _prepare(corpus, shard, tables)
        task = {"instance": list(holder.instance), "generation": generation}
        published = tables.run if shard is None else None
        if (found := find_returned(folder, task, published, try_number=holder.try_number)) is not None:
            return found
        tables = check_files(tables, full_refresh=corpus.full_refresh)
        with RunDatabase() as db:
            return _Run(corpus, service, db, tables, lease, task, shard, folder, last).execute()
    finally:
        lease.release()


@dataclass
class _Run:
    """
    :param folder: of lease, journal and records: the output, or the folder of the shard.
    :param last: the last run in the tables.
    """

    corpus: Corpus
    service: Service
    db: RunDatabase
    tables: Tables
    lease: Lease
    task: Mapping[str, Any]
    shard: Shard | None
    folder: str
    last: RunRecord | None
    parts: list[Part] = field(default_factory=list)
    # Submissions and resubmissions in the journal that the last published run has returned.
    _returned_before: Sequence[int] = field(default=(0, 0), init=False)
    # About the source.
    _warnings: int = field(default=0, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        self._journal = Journal(self.folder, keep=self.corpus.keep_raw)
        self._published = self.tables.run if self.shard is None else self.tables.staged(self.shard)

    @property
    def _old_dimension(self) -> int:
        """Of the vectors of the tables; 0 if unknown, or if they are of another configuration."""
        return self.tables.dimension if self.tables.options == self.corpus.catalogue.as_json() else 0

    @property
    def _dimension(self) -> int:
        """Of the vectors; 0 if unknown. A full refresh expects no length before its first vector."""
        before = 0 if self.corpus.full_refresh else self._old_dimension
        return next((part.dimension for part in reversed(self.parts) if part.dimension), before)

    def execute(self) -> dict[str, Any]:
        corpus, db, last = self.corpus, self.db, self.last
        _load(db, self.tables, self.shard, corpus)
        # Another try may have taken over while the tables were read, or the source below.
        Retrying(**renewing())(self.lease.renew)
        resumed = resume_run(
            self._journal,
            corpus,
            db,
            published_journal="" if last is None else last.journal,
            published_parts=None
            if self.shard is None or last is None
            else lambda: _parts_of(self.folder, last),
            has_tables=self.tables.chunks is not None,
        )
        if resumed is not None:
            self.parts = resumed
            if last is not None and last.journal == self._journal.run:
                self._returned_before = last.sent
        if self.shard is not None:
            delete_staged(self.folder, self._published)
        exact = corpus.max_requests is not None
        plan, summary = _plan(corpus, db, self.tables, self.shard, self._warn, exact=exact)
        self._check_limits(summary)
        Retrying(**renewing())(self.lease.renew)
        if resumed is None:
            self._journal.begin(corpus.catalogue.as_json(), full_refresh=corpus.full_refresh)
        stats = RunStats(summary.documents, time.monotonic())
        stats.skipped(summary.documents - summary.candidates)
        if summary.documents:
            log.info(
                "%s: %s, %s of them new or possibly changed. Chunking with %s into %s.",
                corpus.source if isinstance(corpus.source, str) else "Documents of a task",
                count(summary.documents, "document"),
                f"{summary.candidates:,}",
                corpus.options.model_id,
                corpus.output,
            )
        with _infrequent_gc():
            pipeline = asyncio.run(self._send(plan, stats))
        self._check_tokens(pipeline, summary)
        return self._finish(pipeline, stats)

    def _warn(self, message: str, *values: object) -> None:
        self._warnings += 1
        metrics.warnings(1)
        log.warning(message, *values)

    async def _send(self, plan: Plan, stats: RunStats) -> Pipeline:
        pipeline = Pipeline(
            self.service,
            journal=self._journal,
            db=self.db,
            stats=stats,
            new_part=self._new_part,
            check=self.lease.renew,
            settings=self.corpus.pipeline,
            parts=self.parts,
        )
        async with self.service.client(lambda outcome: stats.request(outcome, time.monotonic())):
            await pipeline.run(plan.candidates())
        return pipeline

    def _new_part(self) -> PartWriter:
        return PartWriter(
            self.corpus.output,
            self.corpus.options,
            index_folder=below(self.folder, self._journal.run),
            dimension=self._dimension,
        )

    def _finish(self, pipeline: Pipeline, stats: RunStats) -> dict[str, Any]:
        corpus, rejected = self.corpus, self._check_rejects(stats)
        settings = TableSettings(
            corpus.catalogue,
            self._dimension,
            corpus.deletion_vectors,
            corpus.retention,
            corpus.prune,
            corpus.on_missing_chunks,
        )
        if self.shard is not None:
            counts = build_upserts(self.db, keep_old=settings.keep_old(self.tables), prune=corpus.prune)
            returned = self._returned(counts, rejected)
            returned["staged"] = self._stage(self.shard, returned, settings, stats)
            self._log_end(f"shard {self.shard.name}", returned, stats)
            return returned
        returned, committed = publish(
            corpus.output,
            self.db,
            self.tables,
            self.parts,
            settings,
            lease=self.lease,
            task=self.task,
            journal=self._journal.run,
            last=self.last,
            returned=lambda counts: self._returned(counts, rejected),
            report=lambda result: self._report(result, stats),
        )
        self._clean_up(pipeline, committed=committed)
        self._log_end(f"version {returned['version']}", returned, stats)
        return returned

    @property
    def _sent(self) -> tuple[int, int]:
        return self._journal.submissions, self._journal.resubmissions

    def _check_rejects(self, stats: RunStats) -> int:
        """
        Write the file of rejects; returns their number.

        :raises TooManyRejectsError: more than ``max_reject_ratio`` allows.
        """
        corpus, db = self.corpus, self.db
        uri = below(self.folder, REJECTS)
        names = ("document_id", "reason", "detail", "attempts", "file", "content_hash")
        rows = db.rows("SELECT id, reason, detail, attempts, file, hash FROM rejects ORDER BY id")
        with writing(uri) as path, path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n")
        rejected = db.count("SELECT count(*) FROM rejects")
        documents = db.count("SELECT count(*) FROM source")
        if beyond_ratio(rejected, documents, corpus.max_reject_ratio):
            # The next attempt sends them again.
            asyncio.run(self._journal.write("end", None))
            self._report({"documents": documents, "rejected": rejected, "rejects": uri}, stats)
            first = db.one("SELECT id, detail FROM rejects ORDER BY id LIMIT 1")
            raise TooManyRejectsError(
                f"{rejected:,} of {documents:,} documents were rejected, more than max_reject_ratio="
                f"{corpus.max_reject_ratio:g} allows: {dict(stats.reasons)}; the first, {first[0]!r}: {first[1]} "
                f"They are listed in {uri}. The tables are unchanged. All results are kept, and a retry sends only "
                "what was rejected."
            )
        return rejected

    def _returned(self, counts: Counts, rejected: int) -> dict[str, Any]:
        """What the task returns, for all tries: from the parts and the journal, not from the stats of this try."""
        db = self.db
        documents, chunks = count_after(db)
        submitted, resubmitted = map(sub, self._sent, self._returned_before)
        return {
            "dataset": self.corpus.output,
            "version": None,
            "since": self.tables.version,
            "documents_version": None,
            "documents": documents,
            "chunks": chunks,
            "written": sum(part.chunks for part in self.parts),
            "dimension": self._dimension or self._old_dimension,
            "tokens": sum(part.tokens for part in self.parts),
            **asdict(counts),
            "skipped": db.count(
                "SELECT count(*) FROM source LEFT JOIN new ON new.id = source.id WHERE action = ? AND new.id IS NULL",
                SAME,
            ),
            "rejected": rejected,
            "submitted": submitted,
            "resubmitted": resubmitted,
            "truncated": sum(part.truncated for part in self.parts),
            "warnings": sum(part.warnings for part in self.parts) + self._warnings,
            "rejects": below(self.folder, REJECTS),
            "report": below(self.folder, REPORT),
        }

    def _stage(
        self, shard: Shard, returned: Mapping[str, Any], settings: TableSettings, stats: RunStats
    ) -> str:
        self._report(returned, stats)
        self.lease.renew()
        number = max(self.lease.number, self._published + 1)
        staged = StagedShard(
            shard=shard.name,
            number=number,
            options=settings.options.as_json(),
            dimension=settings.dimension,
            deletion_vectors=settings.deletion_vectors,
            on_missing_chunks=settings.on_missing_chunks,
            prune=settings.prune,
            full_refresh=self.corpus.full_refresh,
            parts=[asdict(part) for part in self.parts],
            facts="",
            returned=returned,
            stats=stats.as_json(time.monotonic()),
            base=self.tables.run,
        )
        parts = [part.path for part in self.parts]
        record = RunRecord(
            number,
            self.task,
            self._journal.run,
            returned,
            base=self.tables.run,
            parts=parts,
            sent=self._sent,
        )
        return stage_shard(self.folder, self.db, staged, record)

    def _log_end(self, what: str, returned: Mapping[str, Any], stats: RunStats) -> None:
        if stats.requests:
            unusual = f"; {stats.throttles:,} got a 429, and {stats.unanswered:,} no response"
            log.info(
                "Sent %s in %s%s.",
                count(stats.submissions, "document"),
                count(stats.requests, "request"),
                unusual if stats.throttles or stats.unanswered else "",
            )
        log_result(returned, time.monotonic() - self._began, f"{self.corpus.output}, {what}")

    def _clean_up(self, pipeline: Pipeline, *, committed: bool) -> None:
        """End the journal, and maintain the tables; the commits are complete, so a failure is a warning."""
        try:
            # A process that was suspended since the commit must not remove files of its successor.
            self.lease.renew()
            # Before the removal of files that it names.
            resumed = "SELECT 1 FROM segments JOIN rejects USING (id) WHERE job != ''"
            if pipeline.for_next_run or self.db.one(resumed):
                carry_over(self._journal, self.db, _REJECTS)
            else:
                self._journal.end()
            if committed:
                maintain(self.corpus.output, self.corpus.retention, self.tables)
        except LucidworksError as err:
            log.warning(
                "The commit is complete; files that are no longer needed remain until the next run: %s", err
            )

    def _report(self, returned: Mapping[str, Any], stats: RunStats) -> None:
        corpus, fields = self.corpus, ("document_id", "reason", "detail")
        rejects = self.db.rows("SELECT id, reason, detail FROM rejects ORDER BY id LIMIT ?", SHOWN_REJECTS)
        write_report(
            corpus.output,
            self.folder,
            stats.as_json(time.monotonic()),
            task=self.task["instance"],
            returned=returned,
            options=corpus.catalogue.as_json(),
            source=corpus.source if isinstance(corpus.source, str) else "documents of a task",
            rejects=[dict(zip(fields, row, strict=True)) for row in rejects],
        )

    def _check_tokens(self, pipeline: Pipeline, summary: PlanSummary) -> None:
        """:raises BudgetExceededError: documents were not submitted as ``max_tokens`` is reached."""
        if not pipeline.over_budget:
            return
        left = self.db.count(
            "SELECT count(*) FROM source LEFT JOIN new ON new.id = source.id WHERE action = ? AND new.id IS NULL",
            TODO,
        )
        kept = self.db.count("SELECT count(*) FROM new")
        raise BudgetExceededError(
            f"The results of this try used {pipeline.runner.budget.tokens:,} tokens, and max_tokens="
            f"{pipeline.runner.budget.max_tokens:,}. {left:,} of {count(summary.documents, 'document')} are left. "
            f"The chunks of {kept:,} are kept, and the tables are unchanged. Clearing the task, or the next run, "
            "sends the rest with a new budget, and nothing twice."
        )

    def _check_limits(self, summary: PlanSummary) -> None:
        corpus = self.corpus
        if corpus.max_requests is not None and summary.requests > corpus.max_requests:
            raise BudgetExceededError(
                f"{count(summary.candidates, 'document')} ({summary.bytes:,} bytes) would take {summary.requests:,} "
                f"requests, more than max_requests={corpus.max_requests:,}. Nothing was sent. Raise it if that is "
                "intended, or see with plan_only=True what has changed."
            )
        free = free_bytes(corpus.output)
        if free is not None and free < summary.bytes:
            raise InputError(
                f"{corpus.output} has {free:,} bytes left; the {summary.candidates:,} documents to be sent have "
                f"{summary.bytes:,}, and their vectors more. Nothing was sent. Free some space."
            )


def _folder(corpus: Corpus, shard: Shard | None) -> str:
    """Of lease, journal and records."""
    return corpus.output if shard is None else below(corpus.output, f"{SHARDS}/{shard.name}")


def _parts_of(folder: str, last: RunRecord) -> set[str]:
    """Paths of the parts that the published run has taken from its journal; a later try may have added others."""
    paths = set(last.parts)
    for number in run_numbers(folder):
        if number < last.number:
            record = read_run_record(folder, number)
            if record is None or record.journal != last.journal:
                break
            paths |= set(record.parts)
    return paths


def _load(db: RunDatabase, tables: Tables, shard: Shard | None, corpus: Corpus) -> None:
    load_documents(db, tables.documents, shard)
    if not corpus.full_refresh:
        load_empty_results(db)
    if tables.incomplete_run is None:
        # Otherwise, in a plan, the table of documents is older than the one of chunks.
        reconcile(db, tables, corpus.on_missing_chunks, whole=shard is None)


@contextmanager
def _infrequent_gc() -> Iterator[None]:
    """Collect garbage rarely: traversing Airflow's half a million objects would be a seventh of a run's CPU."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _plan(
    corpus: Corpus,
    db: RunDatabase,
    tables: Tables,
    shard: Shard | None,
    warn: Callable[..., None],
    *,
    exact: bool,
) -> tuple[Plan, PlanSummary]:
    same = tables.options == corpus.catalogue.as_json()
    files: Iterator[SourceFile]
    read: Callable[[SourceFile], Iterator[Document | RejectedDocument]]
    if isinstance(corpus.source, str):
        files = read_listing(corpus.listing) if corpus.listing else list_source(corpus.source, warn=warn)
        read = lambda file: read_file_documents(file, corpus.reading)  # noqa: E731
    else:
        documents = corpus.source
        files, read = iter([INLINE]), lambda _: iter(documents)
    plan = Plan(
        db,
        read=read,
        reuse=same and not corpus.full_refresh,
        max_text_bytes=corpus.max_text_bytes,
        add_from_other_shards=None
        if shard is None
        else lambda: add_documents_of_other_shards(db, tables.documents),
    )
    with db.transaction():
        summary = plan.scan(files, exact=exact)
    # A shard without documents is valid: those that it had are no longer in the source.
    if not summary.documents and not corpus.listing:
        raise InputError(
            f"{corpus.source if isinstance(corpus.source, str) else 'source'} holds no document."
        )
    return plan, summary


def _prepare(corpus: Corpus, shard: Shard | None, tables: Tables) -> tuple[Corpus, RunRecord | None]:
    """
    The settings of a run, and the last run in the tables.

    A run after an unfinished full refresh completes it, as its chunks may be of another deployment.

    :raises InputError: the folder holds something else, or chunks of another configuration.
    """
    folder, published = _folder(corpus, shard), tables.run if shard is None else tables.staged(shard)
    last = read_run_record(folder, published) if published else None
    if not corpus.full_refresh and (head := Journal(folder).head()) is not None:
        of_last = last is not None and head["run"] == last.journal
        if head.get("full_refresh") and head.get("options") == corpus.catalogue.as_json() and not of_last:
            corpus = replace(corpus, full_refresh=True)
    if tables.options is None:
        check_empty(corpus.output)
    else:
        check_table_options(tables.options, corpus, corpus.output)
    return corpus, last


def _check_output(corpus: Corpus) -> None:
    """:raises InputError: the output is within the source, or is a file."""
    if is_file(corpus.output):
        raise InputError(f"output_uri is {corpus.output}, a file; give the URI of a folder.")
    if isinstance(corpus.source, str) and may_contain(corpus.source, corpus.output, NAMES):
        raise InputError(
            f"output_uri {corpus.output} is within source {corpus.source}: the next run would read the tables "
            "as documents. Choose a folder outside of it."
        )


# -- an unfinished run --------------------------------------------------------------------------------


# Jobs and bodies of rejected texts. A job that has not ended in some runs is submitted again. The hash is unknown if
# the document could not be read.
_UNFINISHED = f"""
SELECT s.id, s.hash, s.start, s.length, s.job, s.log, s.offset, s.bytes
FROM segments s JOIN ({{rejects}}) r ON r.id = s.id
WHERE s.job != ''
AND (r.hash IS NULL OR r.hash = s.hash AND (s.log IS NOT NULL OR r.attempts % {MAX_POLLED_RUNS} != 0))
AND NOT EXISTS (SELECT 1 FROM new WHERE new.id = s.id AND new.hash = s.hash)
"""  # noqa: S608
# Rejects of the run that ends, and of the last run in the tables.
_REJECTS = f"SELECT id, hash, attempts FROM source LEFT JOIN rejects USING (id) WHERE action = {REJECTED}"  # noqa: S608
_PUBLISHED_REJECTS = "SELECT id, rejected_hash AS hash, attempts FROM documents WHERE status = 'rejected'"


def check_table_options(found: Mapping[str, Any], corpus: Corpus, where: str) -> None:
    """
    Refuse to mix the chunks of two configurations.

    :param found: options of the existing chunks.
    :raises InputError: names the options that differ.
    """
    wanted = corpus.catalogue.as_json()
    if found == wanted or corpus.full_refresh:
        return
    differences = ", ".join(
        f"{name} was {found.get(name)!r} and is {wanted[name]!r}"
        for name in wanted
        if found.get(name) != wanted[name]
    )
    raise InputError(
        f"{where} was made with another configuration: {differences}. Chunks of two configurations cannot be in one "
        "table. Choose another output, or full_refresh=True, which submits every document again."
    )


def resume_run(
    journal: Journal,
    corpus: Corpus,
    db: RunDatabase,
    *,
    published_journal: str,
    published_parts: Callable[[], set[str]] | None,
    has_tables: bool,
) -> list[Part] | None:
    """
    Load the journal of an unfinished run.

    :param published_journal: the journal of the last published run; only its unfinished jobs are resumed.
    :param published_parts: returns the paths of its parts that the tables have; None for all of them.
    :return: its parts; None if there is no unfinished run, or if it is discarded: it had another configuration, or
        this run is the first try of a full refresh.
    :raises InputError: the run had another configuration.
    """
    head = journal.head()
    was_published = head is not None and head["run"] == published_journal
    had = published_parts() if was_published and published_parts is not None else None
    added = had is not None and any(
        record.kind == "part" and record.value["path"] and record.value["path"] not in had
        for record in journal.load()
    )
    if was_published and not added:
        log.info("The last run died after its commits; its journal is closed.")
        carry_over(journal, db, _PUBLISHED_REJECTS)
        db.clear_run()
        head = journal.head()
    if head is None:
        return None
    options = head.get("options") or {}
    other = options != corpus.catalogue.as_json()
    if other or (corpus.full_refresh and not head.get("full_refresh")):
        if other and not has_tables and any(record.kind in {"part", "body"} for record in journal.load()):
            # If there are tables, they have this configuration, and that of the unfinished run was the mistake.
            check_table_options(options, corpus, f"The journal of an unfinished run in {corpus.output}")
        orphans = [record.job for record in journal.load() if record.kind == "submitted"]
        log.warning(
            "An unfinished run %s is discarded; its %s jobs are orphans, the first: %s",
            "with another configuration" if other else "that was no full refresh",
            len(orphans),
            orphans[:10],
        )
        journal.end()
        return None
    parts = _replay(journal, db, set(names_in(below(corpus.output, CHUNKS))))
    log.info(
        "Resuming an unfinished run: %s parts, %s jobs or results%s.",
        len(parts),
        db.count("SELECT count(*) FROM segments WHERE job != ''"),
        "; it is a full refresh" if head.get("full_refresh") else "",
    )
    # The run may have died between the record of a part and the deletion of the bodies that it contains.
    # Jobs of a later text of a document are in no part.
    done = "SELECT id FROM new WHERE NOT EXISTS (SELECT 1 FROM segments s WHERE s.id = new.id AND s.hash != new.hash)"
    journal.delete(journal.unreferenced(row[0] for row in db.rows(done)))
    if had:
        for path in had:
            db.run("DELETE FROM new WHERE part = ?", path)
        parts = [part for part in parts if part.path not in had]
    return parts


def carry_over(journal: Journal, db: RunDatabase, rejects: str) -> None:
    """
    End a published journal; unfinished jobs of rejected texts, and the results of their other segments, are carried
    over to the next run.

    :param rejects: query of the rejects.
    :raises StorageError: the journal cannot be written.
    """
    _replay(journal, db, None)
    unfinished = [
        Record(
            "body" if row[5] else "submitted",
            SegmentKey(*row[:4]),
            row[4],
            BodyLocation(*row[5:]) if row[5] else None,
        )
        for row in db.rows(_UNFINISHED.format(rejects=rejects))
    ]
    if unfinished:
        journal.carry_over(unfinished)
    else:
        journal.end()


# As in _UNFINISHED.
_DROP_UNFINISHED = f"""
UPDATE segments SET job = '' FROM unfinished u WHERE u.id = segments.id AND u.hash = segments.hash AND NOT u.ended
AND log IS NULL AND u.attempts % {MAX_POLLED_RUNS} = 0
"""  # noqa: S608
_SET_SEGMENT = "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


def _replay(journal: Journal, db: RunDatabase, files: set[str] | None) -> list[Part]:
    """
    Load the records of a journal into the run database.

    :param files: names in the folder of ``chunks``; a part without its file is skipped. None to skip none.
    """
    parts: list[Part] = []
    advice = journal.advice
    for record in journal.load():
        match record.kind:
            case "part":
                part = _part(record.value, journal)
                if files is not None and part.path and part.path not in files:
                    log.warning("%s of an unfinished run is gone; its documents are sent again.", part.path)
                    again = (
                        (row.id, row.hash, 0, 0, "", None, None, None)
                        for row in read_index(part.index, advice)
                    )
                    db.many(_SET_SEGMENT, again)
                    continue
                parts.append(part)
                db.add_new(read_index(part.index, advice))
            case "failed":
                document_id, digest, reason, detail, attempts, *bad = record.value
                failed = (document_id, digest, reason, detail, attempts)
                db.run("INSERT OR REPLACE INTO failed VALUES (?, ?, ?, ?, ?)", *failed)
                # The next attempt submits these segments again, or all.
                lost = "UPDATE segments SET job = '', log = NULL WHERE id = ?"
                for segment in bad:
                    where = "hash = ? AND start = ? AND length = ?"
                    db.run(f"{lost} AND {where}", document_id, digest, *segment)
                if not bad:
                    db.run(lost, document_id)
            case "unfinished":
                db.run(
                    "INSERT OR REPLACE INTO unfinished (id, hash, attempts) VALUES (?, ?, ?)", *record.value
                )
            case "end":
                db.clear_failures()
                db.run(_DROP_UNFINISHED)
                db.run("UPDATE unfinished SET ended = 1")
            case "withdrawn":
                # With `again` an earlier submission remains possible.
                if not record.value:
                    where = "id = ? AND hash = ? AND start = ? AND length = ?"
                    db.run(f"DELETE FROM segments WHERE {where}", *(record.key or ()))  # noqa: S608
            case _ if record.key is not None:
                values = (*record.key, record.job, *(record.location or (None, None, None)))
                db.run(_SET_SEGMENT, *values)
    return parts


def _part(value: Any, journal: Journal) -> Part:
    try:
        return Part(**value)
    except TypeError:
        raise InputError(
            f"The journal {below(journal.output, journal.run)} is of another version of the provider. "
            f"{journal.advice}"
        ) from None
