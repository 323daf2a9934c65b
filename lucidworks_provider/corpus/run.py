# SPDX-License-Identifier: Apache-2.0
"""One run over a corpus, from the source's listing to the commit."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from lucidworks_provider.client.api.chunking import ChunkingOptions
from lucidworks_provider.corpus.dataset import CHUNKS, DOCUMENTS, JOURNAL, RAW, RUNS, SHARDS, below
from lucidworks_provider.corpus.journal import Journal
from lucidworks_provider.corpus.lease import LEASE, Holder, Lease
from lucidworks_provider.corpus.parts import Part, PartWriter
from lucidworks_provider.corpus.pipeline import Engine
from lucidworks_provider.corpus.plan import HANDED_OVER, Plan, Planned
from lucidworks_provider.corpus.publish import (
    COMMITS,
    Counts,
    Note,
    Staged,
    TableSettings,
    commits_of_others,
    count_after,
    finish_run,
    forget_staged,
    load_facts,
    maintain,
    note_run,
    publish,
    read_note,
    read_staged,
    rows_path,
    run_numbers,
    settle,
    stage,
)
from lucidworks_provider.corpus.report import render
from lucidworks_provider.corpus.resume import carry_over, check_options, take_over
from lucidworks_provider.corpus.run_database import SAME, RunDatabase
from lucidworks_provider.corpus.settings import Corpus, Service
from lucidworks_provider.corpus.shards import Shard, read_listing, read_shard
from lucidworks_provider.corpus.stats import RunStats, duration
from lucidworks_provider.corpus.tables import (
    Tables,
    add_documents_seen,
    check_empty,
    load_documents,
    load_rejects,
    read_tables,
    reconcile,
    shard_transaction,
)
from lucidworks_provider.documents.document import Document, RejectedDocument
from lucidworks_provider.documents.readers import check_file, read_file_documents
from lucidworks_provider.documents.source import SourceFile, list_source, may_hold
from lucidworks_provider.errors import InputError, LucidworksError, OutputBusyError, TooManyRejectsError
from lucidworks_provider.storage import (
    exists,
    free_bytes,
    is_file,
    names_in,
    write_file,
    writing,
)

log = logging.getLogger(__name__)

# Until the collector looks for garbage among them: some MB.
NEW_OBJECTS = 20_000

REPORT, REJECTS = "report.html", "rejects.jsonl"
# Single rejects in the report; the file of rejects has them all.
SHOWN_REJECTS = 24
_OURS = {CHUNKS, DOCUMENTS, JOURNAL, LEASE, RAW, REJECTS, REPORT, RUNS, SHARDS, "listings"}


def look(corpus: Corpus) -> dict[str, Any]:
    """
    What a run would send, without sending or writing anything.

    :return: ``{"documents", "would_submit", "bytes", "skipped"}``.
    :raises InputError: what would stop the run.
    """
    tables = _checked_tables(corpus)
    shard = read_shard(corpus.listing) if corpus.listing else None
    with RunDatabase() as scratch:
        _load(scratch, tables, shard, corpus)
        planned = _plan(corpus, scratch, tables, shard, exact=True)[1]
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
    Bring the tables up to the source; of a shard, stage what brings them there.

    :param life: of the task instance; clearing one that succeeded raises it, and means "again".
    :param wait_seconds: for another run that writes into the same output; 0 to fail at once.
    :return: versions, counts and addresses.
    :raises InputError: before anything is sent.
    :raises LucidworksError: what fails for every document; everything that came is kept, and a retry goes on.
    """
    _checked_tables(corpus)
    shard = read_shard(corpus.listing) if corpus.listing else None
    if shard is not None:
        finish(corpus.output, holder, wait_seconds)
    place = corpus.output if shard is None else below(corpus.output, f"{SHARDS}/{shard.name}")
    lease = Lease(place)
    lease.acquire(holder, wait_seconds)
    try:
        # Again: the one that was waited for may have changed them.
        tables = _checked_tables(corpus, finished(corpus.output) if shard is None else None)
        me = {"instance": list(holder.instance), "life": life}
        published = tables.run if shard is None else None
        if (done := returned_before(place, me, published, everything=holder.try_number > 1)) is not None:
            return done
        with RunDatabase() as scratch:
            return _Run(corpus, service, scratch, tables, lease, me, shard, place).go()
    finally:
        lease.release()


def finish(output: str, holder: Holder, wait_seconds: float) -> None:
    """Make the second commit of a run that died before it, if there is one, with the lease of the output."""
    if read_tables(output).half_done is None:
        return
    lease = Lease(output)
    lease.acquire(holder, wait_seconds)
    try:
        finished(output)
    finally:
        lease.release()


def finished(output: str) -> Tables:
    """
    The tables, after :func:`finish` for a caller that has the lease.

    :raises InputError: the note or the rows of the run that died are gone, or one of the tables was restored.
    """
    tables = read_tables(output)
    if (number := tables.half_done) is None:
        return tables
    note, rows = read_note(output, number), rows_path(number)
    if note is None or (note.upserts is not None and not exists(below(output, rows))):
        raise InputError(
            f"{output}: run {number} has committed {CHUNKS} and not {DOCUMENTS}, and its file "
            f"{rows if note else f'{RUNS}/{number:08}.json'} is gone. Restore it, or choose another output."
        )
    if note.base != tables.run:
        raise InputError(
            f"{output}: run {number} has committed {CHUNKS}, and {DOCUMENTS} is at run {tables.run} instead of "
            f"{note.base}. Somebody restored one of the two tables. Restore {DOCUMENTS} to its newest version, or "
            "choose another output."
        )
    with RunDatabase() as scratch:
        load_documents(scratch, tables.documents)
        finish_run(output, scratch, tables, note)
    log.info("Run %s died between its two commits; the second one was made.", number)
    return read_tables(output)


def publish_shards(
    uris: Sequence[str], output: str, *, holder: Holder, life: int, wait_seconds: float, retention: float
) -> dict[str, Any]:
    """
    Commit what the tasks of shards have staged.

    :param uris: of what was staged.
    :param life: of the task instance; clearing one that succeeded raises it.
    :param wait_seconds: for another run that writes into the same output; 0 to fail at once.
    :param retention: seconds for which older versions can be read.
    :return: versions, counts and addresses of the whole.
    :raises InputError: they do not belong together.
    """
    lease = Lease(output)
    lease.acquire(holder, wait_seconds)
    try:
        tables = finished(output)
        me = {"instance": list(holder.instance), "life": life}
        if (done := returned_before(output, me, tables.run, everything=holder.try_number > 1)) is not None:
            return done
        shards = [read_staged(uri) for uri in uris]
        options = _check_shards(shards)
        if tables.options is None:
            check_empty(output, _OURS)
        _check_unpublished(tables, shards)
        _check_base(output, tables, shards)
        last = read_note(output, tables.run) if tables.run else None
        manifest = _sums(output, shards, tables)
        settings = TableSettings(
            options,
            max((shard.dimension for shard in shards), default=0),
            all(shard.deletion_vectors for shard in shards),
            retention,
        )
        number = tables.number(lease.number)
        parts = [Part(**part) for shard in shards for part in shard.parts]
        _check_files(output, parts)
        transactions = {shard_transaction(shard.shard): shard.number for shard in shards}

        def note(version: int, documents_version: int, upserts: Mapping[str, Any] | None) -> None:
            returned = {**manifest, "version": version, "documents_version": documents_version}
            _report_shards(output, holder, returned, shards)
            note_run(output, Note(number, me, "", returned, version, upserts, transactions, tables.run))

        for _ in range(COMMITS):
            with RunDatabase() as scratch:
                load_documents(scratch, tables.documents)
                reconcile(scratch, tables, shards[0].on_missing_chunks)
                load_facts(scratch, shards)
                keep_old = tables.options == shards[0].options
                counts = settle(scratch, keep_old=keep_old, prune=shards[0].prune)
                if (returned := returned_before_clear(last, me, parts, counts)) is not None:
                    return returned
                documents, chunks = count_after(scratch)
                manifest |= {**asdict(counts), "documents": documents, "chunks": chunks}
                versions = publish(
                    output,
                    scratch,
                    tables,
                    parts,
                    settings,
                    number=number,
                    note=note,
                    check=lease.renew,
                    transactions=transactions,
                )
            if versions is not None:
                manifest["version"], manifest["documents_version"] = versions
                try:
                    maintain(output, retention)
                except LucidworksError as err:
                    log.warning("The commit stands; what is no longer needed could not be removed: %s", err)
                log.info(
                    "Version %s: %s documents, %s chunks of %s shards.",
                    manifest["version"],
                    f"{documents:,}",
                    f"{chunks:,}",
                    len(shards),
                )
                return manifest
            tables = read_tables(output)
        raise commits_of_others(below(output, CHUNKS))
    finally:
        lease.release()


def _check_shards(shards: Sequence[Staged]) -> ChunkingOptions:
    """:raises InputError: they were made differently, one is missing, or one is there twice."""
    if not shards:
        raise InputError("staged is empty; give what the tasks of the shards have returned.")
    names = [shard.shard for shard in shards]
    count = int(names[0].rpartition("-")[2])
    if sorted(names) != [Shard(number, count).name for number in range(count)]:
        raise InputError(
            f"staged: there are the shards {', '.join(sorted(names)[:5])}{', …' if len(names) > 5 else ''}, and not "
            f"each of {count} once. Publish when the tasks of all shards have ended well; leave trigger_rule at "
            "all_success."
        )
    first = shards[0]
    for shard in shards:
        if shard.options != first.options:
            keys = sorted(key for key in first.options if shard.options.get(key) != first.options[key])
            raise InputError(
                f"staged: shard {shard.shard} was made with another configuration than shard {first.shard} "
                f"({', '.join(keys)}). Run all shards with full_refresh=True after a change."
            )
        for name in ("prune", "on_missing_chunks"):
            if getattr(shard, name) != getattr(first, name):
                raise InputError(
                    f"staged: {name} of shard {shard.shard} is {getattr(shard, name)!r}, and of shard {first.shard} "
                    f"{getattr(first, name)!r}. Run the tasks of all shards with the same arguments."
                )
    dimensions = {shard.dimension for shard in shards if shard.dimension}
    if len(dimensions) > 1:
        raise InputError(
            f"staged: the shards have vectors of different lengths ({sorted(dimensions)}), though they were made "
            "with one configuration: the deployment changed. Run all shards with full_refresh=True."
        )
    return ChunkingOptions(**first.options)


def _check_unpublished(tables: Tables, shards: Sequence[Staged]) -> None:
    """:raises InputError: some of it is in the tables already."""
    for shard in shards:
        if tables.transactions.get(shard_transaction(shard.shard), 0) >= shard.number:
            raise InputError(
                f"staged: what shard {shard.shard} has staged was published before. Run the tasks of the shards "
                "again."
            )


def _check_base(output: str, tables: Tables, shards: Sequence[Staged]) -> None:
    """:raises InputError: what was staged was compared with other tables, or was made with another configuration."""
    options = tables.options
    for shard in shards:
        if shard.base != tables.run:
            raise InputError(
                f"staged: shard {shard.shard} was compared with run {shard.base} of {output}, which is at run "
                f"{tables.run} by now. Run the tasks of the shards again, and nothing else in between."
            )
        if (
            options is not None
            and options == shard.options
            and shard.dimension not in {0, tables.dimension or shard.dimension}
        ):
            raise InputError(
                f"staged: shard {shard.shard} has vectors of {shard.dimension} numbers, and {output} of "
                f"{tables.dimension}: the deployment changed. Run all shards with full_refresh=True."
            )


def _check_files(output: str, parts: Sequence[Part]) -> None:
    """:raises InputError: files that shards have written are gone, as after the retention."""
    there = set(names_in(below(output, CHUNKS)))
    for part in parts:
        if part.path and part.path not in there:
            raise InputError(
                f"{output}: {CHUNKS}/{part.path} is gone. It was written longer ago than the retention, or somebody "
                "removed it, e.g. by VACUUM. Try again, or run the tasks of the shards again; its documents are sent "
                "again."
            )


def _versions(output: str, tables: Tables) -> dict[str, Any]:
    """What a task returns of the tables; the versions after it are not known yet."""
    return {"dataset": output, "version": None, "since": tables.versions[0], "documents_version": None}


def _sums(output: str, shards: Sequence[Staged], tables: Tables) -> dict[str, Any]:
    summed = (*("written", "tokens", "skipped", "rejected", "submitted", "resubmitted", "truncated"),)
    return {
        **_versions(output, tables),
        "dimension": max((shard.dimension for shard in shards), default=0),
        **{name: sum(shard.returned[name] for shard in shards) for name in summed},
        "rejects": [shard.returned["rejects"] for shard in shards if shard.returned["rejected"]],
        "report": below(output, REPORT),
        "shards": len(shards),
    }


def _report_shards(
    output: str, holder: Holder, manifest: Mapping[str, Any], shards: Sequence[Staged]
) -> None:
    """One page over the sums of all shards, which have pages of their own."""
    sums = Counter[str]()
    reasons = Counter[str]()
    for shard in shards:
        sums.update({name: value for name, value in shard.stats.items() if isinstance(value, int)})
        reasons.update(shard.stats["rejected"])
    stats = {
        **sums,
        "rejected": dict(reasons.most_common()),
        # They ran beside each other.
        "seconds": max(shard.stats["seconds"] for shard in shards),
    }
    reports = {shard.shard: shard.returned["report"] for shard in shards}
    about = _about(output, holder.instance, manifest, shards[0].options) | {"shards": reports}
    write_file(below(output, REPORT), render(stats, about).encode())


def _about(
    output: str, instance: Sequence[object], manifest: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What a report says beside the counts."""
    return {
        "title": output.rpartition("/")[2],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": " / ".join(map(str, instance)),
        "manifest": dict(manifest),
        "options": options,
    }


def returned_before(
    place: str, me: Mapping[str, Any], published: int | None, *, everything: bool
) -> dict[str, Any] | None:
    """
    What an earlier try of a task has returned, if it has come to its end.

    :param published: number of the last run that is in the tables; None where it only has to be staged.
    :param everything: look for it among earlier runs too: another run may have come between the two.
    """
    expected = published
    for number in run_numbers(place):
        note = read_note(place, number)
        # A note without its commit is of a run that died before it: no later one was made on top of it.
        if note is not None and expected in {None, number}:
            if note.me == me:
                log.info("An earlier try of this task has done it all, and died before it could say so.")
                return dict(note.returned)
            if not everything:
                break
            expected = None if published is None else note.base
    return None


def returned_before_clear(
    last: Note | None, me: Mapping[str, Any], parts: Sequence[Part], counts: Counts
) -> dict[str, Any] | None:
    """
    What a task's run has returned, if a try of before a clear has committed it and nothing is new since.

    Later tasks may not have run on that value, and would take an empty delta for the whole.
    """
    if last is None or last.me.get("instance") != me["instance"] or parts or counts != Counts(0, 0, 0, 0):
        return None
    log.info("Nothing is new since an earlier try of this task, so what it returned counts.")
    return dict(last.returned)


@dataclass
class _Run:
    corpus: Corpus
    service: Service
    scratch: RunDatabase
    tables: Tables
    lease: Lease
    me: Mapping[str, Any]
    shard: Shard | None
    # Of lease, journal and notes: the output, or the folder of the shard.
    place: str
    parts: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._journal = Journal(self.place, keep=self.corpus.keep_raw)
        self._keep_old = self.tables.options == self.corpus.options.as_json()
        self._dimension = self.tables.dimension if self._keep_old else 0
        self._published = self.tables.run if self.shard is None else self.tables.staged(self.shard)

    @property
    def _number(self) -> int:
        if self.shard is not None:
            return max(self.lease.number, self.tables.staged(self.shard) + 1)
        return self.tables.number(self.lease.number)

    def go(self) -> dict[str, Any]:
        corpus, scratch = self.corpus, self.scratch
        _load(scratch, self.tables, self.shard, corpus)
        last = read_note(self.place, self._published) if self._published else None
        unfinished = take_over(
            self._journal,
            corpus,
            scratch,
            published="" if last is None else last.journal,
            taken=None if self.shard is None or last is None else lambda: self._taken(last),
            has_tables=self.tables.chunks is not None,
        )
        if unfinished is not None:
            self.parts, dimension = unfinished
            self._dimension = dimension or self._dimension
        if self.shard is not None:
            forget_staged(self.place, self._published)
        plan, planned = _plan(
            corpus, scratch, self.tables, self.shard, exact=corpus.max_submissions is not None
        )
        self._check_guards(planned)
        if unfinished is None:
            self._journal.begin(corpus.options.as_json())
        stats = RunStats(planned.documents, time.monotonic())
        stats.skipped(planned.documents - planned.candidates)
        log.info(
            "%s documents, of which %s are new or may have changed.", planned.documents, planned.candidates
        )
        with _rare_collections():
            engine = asyncio.run(self._send(plan, stats))
        return self._finish(engine, stats, last)

    def _taken(self, last: Note) -> set[str]:
        """Parts of the journal of the last published run that the tables have: another try may have added some."""
        taken = set(last.parts)
        for number in run_numbers(self.place):
            if number < last.number:
                note = read_note(self.place, number)
                if note is None or note.journal != last.journal:
                    break
                taken |= set(note.parts)
        return taken

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
        return PartWriter(
            self.corpus.output,
            self.corpus.options,
            index_folder=below(self.place, self._journal.run),
            dimension=self._dimension,
            learned=self._learn,
        )

    def _learn(self, dimension: int) -> None:
        self._dimension = dimension

    def _finish(self, engine: Engine, stats: RunStats, last: Note | None) -> dict[str, Any]:
        rejected = self._check_rejects(stats)

        def note(version: int, documents_version: int, upserts: Mapping[str, Any] | None) -> None:
            """From it the second commit can be made, and a retry knows what to return."""
            returned = {**manifest, "version": version, "documents_version": documents_version}
            self._report(returned, stats)
            base = self.tables.run
            note_run(
                self.place,
                Note(self._number, self.me, self._journal.run, returned, version, upserts, base=base),
            )

        for _ in range(COMMITS):
            counts = settle(self.scratch, keep_old=self._keep_old, prune=self.corpus.prune)
            if (
                self.shard is None
                and (returned := returned_before_clear(last, self.me, self.parts, counts)) is not None
            ):
                self._tidy(engine, committed=False)
                return returned
            manifest = self._manifest(counts, rejected)
            settings = TableSettings(
                self.corpus.options, self._dimension, self.corpus.deletion_vectors, self.corpus.retention
            )
            if self.shard is not None:
                manifest["staged"] = self._stage(manifest, settings, stats)
                self._log_end(manifest, stats)
                return manifest
            _check_files(self.corpus.output, self.parts)
            versions = publish(
                self.corpus.output,
                self.scratch,
                self.tables,
                self.parts,
                settings,
                number=self._number,
                note=note,
                check=self.lease.renew,
            )
            if versions is not None:
                manifest["version"], manifest["documents_version"] = versions
                committed = versions != self.tables.versions
                if not committed:
                    self._report(manifest, stats)
                self._tidy(engine, committed=committed)
                self._log_end(manifest, stats)
                return manifest
            self._read_again()
        raise commits_of_others(below(self.corpus.output, CHUNKS))

    def _read_again(self) -> None:
        """Somebody else has committed to ``chunks`` meanwhile."""
        run_before = self.tables.chunks_run
        self.tables = read_tables(self.corpus.output)
        if self.tables.chunks is None or self.tables.chunks_run != run_before:
            raise OutputBusyError(
                f"{self.corpus.output}: another run has committed meanwhile. Nothing more is written; a retry goes "
                "on from what has been kept."
            )
        log.info("%s: somebody else has committed meanwhile; its files are read again.", self.corpus.output)
        reconcile(self.scratch, self.tables, self.corpus.on_missing_chunks, whole=self.shard is None)

    def _check_rejects(self, stats: RunStats) -> int:
        """
        Write the file of rejects; how many there are.

        :raises TooManyRejectsError: more than is allowed.
        """
        corpus, scratch = self.corpus, self.scratch
        uri = below(self.place, REJECTS)
        names = ("document_id", "reason", "detail", "attempts", "file", "content_hash")
        rows = scratch.rows("SELECT id, reason, detail, attempts, file, hash FROM rejects ORDER BY id")
        with writing(uri) as path, path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n")
        rejected = scratch.count("SELECT count(*) FROM rejects")
        documents = scratch.count("SELECT count(*) FROM seen")
        if rejected > corpus.max_reject_ratio * documents:
            # The next try may have more luck with them.
            asyncio.run(self._journal.keep("end", None))
            self._report({"documents": documents, "rejected": rejected, "rejects": uri}, stats)
            first = scratch.one("SELECT id, detail FROM rejects ORDER BY id LIMIT 1")
            raise TooManyRejectsError(
                f"{rejected:,} of {documents:,} documents were rejected, more than max_reject_ratio="
                f"{corpus.max_reject_ratio:g} allows: {dict(stats.reasons)}; the first, {first[0]!r}: {first[1]} "
                f"They are listed in {uri}. The tables are as they were; what went well is kept, and a retry sends "
                "only what was rejected."
            )
        return rejected

    def _manifest(self, counts: Counts, rejected: int) -> dict[str, Any]:
        """What the task returns: of all tries, so from the parts and the journal and not from what this one did."""
        scratch = self.scratch
        documents, chunks = count_after(scratch)
        return {
            **_versions(self.corpus.output, self.tables),
            "documents": documents,
            "chunks": chunks,
            "written": sum(part.chunks for part in self.parts),
            "dimension": self._dimension,
            "tokens": sum(part.tokens for part in self.parts),
            "added": counts.added,
            "changed": counts.changed,
            "vanished": counts.vanished,
            "removed": counts.removed,
            "skipped": scratch.count(
                "SELECT count(*) FROM seen LEFT JOIN new ON new.id = seen.id WHERE action = ? AND new.id IS NULL",
                SAME,
            ),
            "rejected": rejected,
            "submitted": self._journal.submissions,
            "resubmitted": self._journal.resubmissions,
            "truncated": sum(part.truncated for part in self.parts),
            "rejects": below(self.place, REJECTS),
            "report": below(self.place, REPORT),
        }

    def _stage(self, manifest: Mapping[str, Any], settings: TableSettings, stats: RunStats) -> str:
        assert self.shard is not None  # noqa: S101
        self._report(manifest, stats)
        self.lease.renew()
        staged = Staged(
            shard=self.shard.name,
            number=self._number,
            options=settings.options.as_json(),
            dimension=settings.dimension,
            deletion_vectors=settings.deletion_vectors,
            on_missing_chunks=self.corpus.on_missing_chunks,
            prune=self.corpus.prune,
            parts=[asdict(part) for part in self.parts],
            facts="",
            returned=manifest,
            stats=stats.as_json(time.monotonic()),
            base=self.tables.run,
        )
        note = Note(
            self._number,
            self.me,
            self._journal.run,
            dict(manifest),
            base=self.tables.run,
            parts=[part.path for part in self.parts],
        )
        return stage(self.place, self.scratch, staged, note)

    def _log_end(self, manifest: Mapping[str, Any], stats: RunStats) -> None:
        log.info(
            "%s %s: %s documents, %s chunks. In %s: %s documents sent, %s rejected; %s requests, of which %s were "
            "answered with 429 and %s not at all.",
            "Shard" if self.shard is not None else "Version",
            manifest["version"] if self.shard is None else self.shard.name,
            f"{manifest['documents']:,}",
            f"{manifest['chunks']:,}",
            duration(stats.seconds),
            f"{stats.submissions:,}",
            f"{stats.rejects:,}",
            f"{stats.requests:,}",
            f"{stats.throttles:,}",
            f"{stats.unanswered:,}",
        )

    def _tidy(self, engine: Engine, *, committed: bool) -> None:
        """The commits stand, so nothing here may fail the run."""
        try:
            # Who stood still since the commit would remove what its follower writes.
            self.lease.renew()
            # Before the files that it names.
            if engine.late:
                # Paid for, and perhaps ready by the next run.
                carry_over(self._journal, self.scratch)
            else:
                self._journal.end()
            if committed:
                maintain(self.corpus.output, self.corpus.retention)
        except OutputBusyError as err:
            log.warning(
                "The commit stands; what is left over of the run is the next one's to remove: %s", err
            )
        except LucidworksError as err:
            log.warning("What is left over of the run could not be removed; the next one will: %s", err)

    def _report(self, manifest: Mapping[str, Any], stats: RunStats) -> None:
        corpus, fields = self.corpus, ("document_id", "reason", "detail")
        rejects = self.scratch.rows(
            "SELECT id, reason, detail FROM rejects ORDER BY id LIMIT ?", SHOWN_REJECTS
        )
        about = _about(corpus.output, self.me["instance"], manifest, corpus.options.as_json()) | {
            "source": corpus.source if isinstance(corpus.source, str) else "documents of a task",
            "rejects": [dict(zip(fields, row, strict=True)) for row in rejects],
        }
        write_file(below(self.place, REPORT), render(stats.as_json(time.monotonic()), about).encode())

    def _check_guards(self, planned: Planned) -> None:
        corpus = self.corpus
        if corpus.max_submissions is not None and planned.candidates > corpus.max_submissions:
            raise InputError(
                f"{planned.candidates:,} documents ({planned.bytes:,} bytes) would be submitted, more than "
                f"max_submissions={corpus.max_submissions:,}. Nothing was sent. Raise it if that is meant, or find "
                "out with plan_only=True what changed."
            )
        free = free_bytes(corpus.output)
        if free is not None and free < planned.bytes:
            raise InputError(
                f"{corpus.output} has {free:,} bytes left; the {planned.candidates:,} documents to be sent have "
                f"{planned.bytes:,}, and their vectors more. Nothing was sent. Make room."
            )


def _load(scratch: RunDatabase, tables: Tables, shard: Shard | None, corpus: Corpus) -> None:
    load_documents(scratch, tables.documents, shard)
    load_rejects(scratch, remember=not corpus.full_refresh)
    reconcile(scratch, tables, corpus.on_missing_chunks, whole=shard is None)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """
    Airflow's half a million objects are not searched for garbage again and again: that is a seventh of a run's CPU.

    What a run leaves is freed by its reference counts.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _plan(
    corpus: Corpus, scratch: RunDatabase, tables: Tables, shard: Shard | None, *, exact: bool
) -> tuple[Plan, Planned]:
    same = tables.options == corpus.options.as_json()
    files: Iterator[SourceFile]
    read: Callable[[SourceFile], Iterator[Document | RejectedDocument]]
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
        find_elsewhere=None if shard is None else lambda: add_documents_seen(scratch, tables.documents),
    )
    with scratch.transaction():
        planned = plan.look(files, exact=exact)
    # A shard may be without documents, and then those that it had have vanished.
    if not planned.documents and not corpus.listing:
        raise InputError(
            f"{corpus.source if isinstance(corpus.source, str) else 'source'} holds no document."
        )
    return plan, planned


def _checked_tables(corpus: Corpus, tables: Tables | None = None) -> Tables:
    """
    The tables of the output, if this run may go on from them.

    :param tables: as they have just been read; read here if not given.
    :raises InputError: the folder holds something else, or chunks of another configuration.
    """
    _check_apart(corpus)
    tables = tables or read_tables(corpus.output)
    if tables.options is None:
        check_empty(corpus.output, _OURS)
    else:
        check_options(tables.options, corpus, corpus.output)
    return tables


def _check_apart(corpus: Corpus) -> None:
    """:raises InputError: the output would be a part of its own source, or its folder is a file."""
    if is_file(corpus.output):
        raise InputError(f"output_uri is {corpus.output}, a file; give the URI of a folder.")
    if isinstance(corpus.source, str) and may_hold(corpus.source, corpus.output):
        raise InputError(
            f"output_uri {corpus.output} lies within source {corpus.source}: the next run would take the tables "
            "for documents. Give them a folder outside."
        )
