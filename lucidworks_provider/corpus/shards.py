# SPDX-License-Identifier: Apache-2.0
"""
Shards of a corpus, one for each mapped task: listings of its files, what the tasks stage, and its publication.

::

    LISTINGS/shard-007-of-050.jsonl     the files whose paths fall into shard 7
    OUTPUT/shards/007-of-050/           lease, journal and records of its task
    OUTPUT/shards/007-of-050/staged/NNNNNNNN.json       options, data files, counts
    OUTPUT/shards/007-of-050/staged/NNNNNNNN.parquet    a row for each document that the shard has read
    OUTPUT/chunks/, OUTPUT/documents/   files of all shards; one commit makes all of them visible

The shard of a file depends only on its path and on the number of shards. The tables are independent of shards, so a
change of their number sends nothing again.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any, Literal

from lucidworks_provider.corpus.dataset import REPORT, below
from lucidworks_provider.corpus.lease import Holder, Lease
from lucidworks_provider.corpus.parts import GROUP_ROWS, ParquetFile, Part
from lucidworks_provider.corpus.publish import (
    RunRecord,
    TableSettings,
    complete_run_with_lease,
    delete_old_records,
    find_returned,
    maintain,
    publish,
    read_run_record,
    write_run_record,
)
from lucidworks_provider.corpus.report import write_report
from lucidworks_provider.corpus.run_database import REJECTED, RunDatabase
from lucidworks_provider.corpus.tables import (
    CatalogueOptions,
    Counts,
    Tables,
    check_empty,
    check_files,
    count_after,
    load_documents,
    reconcile,
    shard_transaction,
)
from lucidworks_provider.documents.source import Format, SourceFile, list_source
from lucidworks_provider.errors import InputError, LucidworksError, StorageError
from lucidworks_provider.metrics import count, log_result
from lucidworks_provider.storage import (
    check_folder,
    check_uri,
    discard,
    is_missing,
    names_in,
    read_file,
    reading,
    reading_parquet,
    write_file,
    writing,
)

log = logging.getLogger(__name__)

# Each shard is an open file during the listing, and a task instance.
MOST_SHARDS = 500
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Shard:
    """
    A part of a corpus.

    :param number: from 0.
    :param of: how many there are.
    """

    number: int
    of: int

    @property
    def name(self) -> str:
        """Part of the names of its files and folders."""
        return f"{self.number:03}-of-{self.of:03}"

    def has(self, path: str) -> bool:
        """Whether it has a file, by the path below the source."""
        return shard_of(path, self.of) == self.number


def shard_of(path: str, shards: int) -> int:
    """The number of a file's shard, by the path below the source."""
    return int.from_bytes(blake2b(path.encode(), digest_size=8).digest()) % shards


def write_listings(source: str, into: str, *, shards: int) -> list[str]:
    """
    List a source once, and write a listing for each shard.

    :param source: as of :func:`~lucidworks_provider.documents.source.list_source`.
    :param into: URI of a folder for the listings; those of an earlier run are replaced.
    :param shards: how many.
    :return: the URIs of the listings, for ``.expand(listing=…)``. Empty ones are included, as their shards may have
        had documents before.
    :raises InputError: the source has no file that can be read.
    :raises StorageError: a folder cannot be read or written.
    """
    if isinstance(shards, bool) or not isinstance(shards, int) or not 1 <= shards <= MOST_SHARDS:
        raise InputError(f"shards is {shards!r}; give a number from 1 to {MOST_SHARDS}.")
    folder = check_folder(into, "into")
    all_shards = [Shard(number, shards) for number in range(shards)]
    uris = [f"{folder}/shard-{shard.name}.jsonl" for shard in all_shards]
    counts = [0] * shards
    with ExitStack() as stack:
        paths = [stack.enter_context(writing(uri)) for uri in uris]
        files = [stack.enter_context(path.open("w", encoding="utf-8")) for path in paths]
        for shard, listing in zip(all_shards, files, strict=True):
            listing.write(json.dumps(asdict(shard)) + "\n")
        for file in list_source(source):
            number = shard_of(file.path, shards)
            line = asdict(file)
            del line["contents"]
            files[number].write(json.dumps(line, ensure_ascii=False) + "\n")
            counts[number] += 1
    log.info(
        "%s: %s files, %s to %s in each of %s shards.", source, sum(counts), min(counts), max(counts), shards
    )
    return uris


def read_shard(uri: str) -> Shard:
    """
    Read the shard of a listing.

    :raises InputError: there is no such file, or it is not a listing.
    :raises StorageError: the storage cannot be read.
    """
    for plain in _lines(uri):
        try:
            return Shard(int(plain["number"]), int(plain["of"]))
        except (TypeError, KeyError, ValueError):
            break
    raise InputError(f"listing: {uri} is not a listing. Give one that write_listings has written.")


def read_listing(uri: str) -> Iterator[SourceFile]:
    """
    Iterate over the files of a listing.

    :raises InputError: as :func:`read_shard`.
    :raises StorageError: the storage cannot be read.
    """
    lines = _lines(uri)
    next(lines, None)
    for number, plain in enumerate(lines, 2):
        try:
            yield SourceFile(**plain | {"format": Format(plain["format"])})
        except (ValueError, TypeError, KeyError):
            raise InputError(
                f"listing: line {number} of {uri} is invalid. Give a listing that write_listings has written."
            ) from None


def _lines(uri: str) -> Iterator[dict[str, Any]]:
    uri = check_uri(uri, "listing")
    try:
        with reading(uri) as raw, io.BufferedReader(raw, _BUFFER) as file:  # type: ignore[type-var]
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)
                except ValueError:
                    raise InputError(
                        f"listing: line {number} of {uri} is invalid. Give a listing that write_listings has written."
                    ) from None
    except StorageError as err:
        if is_missing(err):
            raise InputError(f"listing: there is no file {uri}.") from None
        raise


# -- what the task of a shard stages, and its publication ---------------------------------------------


@dataclass(frozen=True, slots=True)
class StagedShard:
    """
    The result of a shard's task, until it is published.

    :param number: of the shard's run.
    :param parts: the data files.
    :param facts: URI of a Parquet file with a row for each document: its action, and its new chunks, file or reject.
    :param returned: what the task returned.
    :param stats: for the report.
    :param base: number of the run whose tables the shard was compared with.
    """

    shard: str
    number: int
    options: Mapping[str, Any]
    dimension: int
    deletion_vectors: bool
    on_missing_chunks: Literal["resend", "drop"]
    prune: bool
    full_refresh: bool
    parts: Sequence[Mapping[str, Any]]
    facts: str
    returned: Mapping[str, Any]
    stats: Mapping[str, Any]
    base: int


# Columns of the tables that build_upserts reads, with their types.
_FACTS = {
    "source": ("id TEXT", "action INTEGER"),
    "new": (
        *("hash TEXT", "size INTEGER", "etag TEXT", "file TEXT", "chunks INTEGER", "part TEXT"),
        *("first INTEGER", "tokens INTEGER"),
    ),
    "touched": ("touched_size INTEGER", "touched_etag TEXT", "touched_file TEXT"),
    "rejects": ("reason TEXT", "detail TEXT", "attempts INTEGER", "reject_file TEXT", "reject_hash TEXT"),
}
_COLUMNS = [column for columns in _FACTS.values() for column in columns]
_READ_FACTS = """
SELECT source.id, action, n.hash, n.size, n.etag, n.file, n.chunks, n.part, n.first, n.tokens, t.size, t.etag, t.file,
    r.reason, r.detail, r.attempts, r.file, r.hash
FROM source LEFT JOIN new n ON n.id = source.id LEFT JOIN touched t ON t.id = source.id
    LEFT JOIN rejects r ON r.id = source.id
"""


def stage_shard(folder: str, db: RunDatabase, staged: StagedShard, record: RunRecord) -> str:
    """
    Store the result of a shard's task for :func:`publish_shards`.

    :param folder: of the shard.
    :param staged: without ``facts``, which are in the run database.
    :return: the URI for :func:`read_staged`.
    """
    import pyarrow as pa

    uri = below(folder, f"staged/{record.number:08}.json")
    facts = below(folder, f"staged/{record.number:08}.parquet")
    types = {"TEXT": pa.string(), "INTEGER": pa.int64()}
    schema = pa.schema([(name, types[kind]) for name, kind in map(str.split, _COLUMNS)])
    file = ParquetFile(facts)
    for rows in db.batches(_READ_FACTS, size=GROUP_ROWS):
        file.write_columns(zip(*rows, strict=True), schema)
    empty = file.close() == 0
    write_file(uri, json.dumps(asdict(replace(staged, facts="" if empty else facts))).encode())
    # Last, as a retry takes the record for the proof that all of it is there.
    write_run_record(folder, replace(record, returned={**record.returned, "staged": uri}))
    return uri


def delete_staged(folder: str, published: int) -> None:
    """Delete what a shard has staged before its last published run, and its oldest records."""
    staged = below(folder, "staged")
    numbers = [(name, name.partition(".")[0]) for name in names_in(staged)]
    discard(
        *(below(staged, name) for name, number in numbers if number.isdigit() and int(number) < published)
    )
    delete_old_records(folder)


def read_staged(uri: str) -> StagedShard:
    """
    Read the result of a shard's task.

    :raises InputError: there is no such file, or it is something else.
    """
    data = read_file(uri)
    try:
        return StagedShard(**json.loads(data or b""))
    except (ValueError, TypeError):
        raise InputError(
            f"staged: {uri} was not staged by the task of a shard. Give what those tasks return, and keep "
            "trigger_rule at all_success."
        ) from None


def load_facts(db: RunDatabase, shards: Sequence[StagedShard]) -> None:
    """
    Load the facts of all shards into the run database, for :func:`build_upserts`.

    :raises InputError: two shards have documents with the same id, or a file of facts is missing or damaged.
    :raises StorageError: the storage cannot be read.
    """
    names = [column.partition(" ")[0] for column in _COLUMNS]
    db.run(f"CREATE TEMP TABLE facts ({', '.join(_COLUMNS)})")
    for staged in shards:
        if not staged.facts:
            continue
        for rows in _read_facts(staged.facts, names):
            db.many(f"INSERT INTO facts VALUES ({', '.join('?' * len(names))})", rows)  # noqa: S608
            _add_facts(db, staged.shard)
    db.run("DROP TABLE temp.facts")


def _read_facts(uri: str, names: Sequence[str]) -> Iterator[Iterator[tuple[Any, ...]]]:
    advice = "Run the tasks of the shards again."
    missing = InputError(f"staged: {uri} is gone. {advice}")

    def damaged(err: Exception) -> InputError:
        return InputError(f"staged: {uri} is damaged ({type(err).__name__}). {advice}")

    with reading_parquet(uri, missing, damaged, page_checksum_verification=True) as file:
        for batch in file.iter_batches(batch_size=GROUP_ROWS, columns=names):
            if batch.schema.names != list(names):
                raise InputError(f"staged: {uri} is not of this version of the provider. {advice}")
            yield zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _add_facts(db: RunDatabase, shard: str) -> None:
    # A file with an unreadable record may still have any document that it had before, or another shard has it.
    maybe = f"f.action = {REJECTED} AND f.reason IS NULL"
    maybe_before = f"source.action = {REJECTED} AND source.id NOT IN (SELECT id FROM rejects)"  # noqa: S608
    both = "FROM facts f JOIN source ON source.id = f.id"
    if twice := db.one(f"SELECT f.id {both} WHERE NOT ({maybe}) AND NOT ({maybe_before}) LIMIT 1"):
        raise InputError(
            f"Shard {shard} has the document {twice[0]!r}, which another shard has as well. An id names one "
            "document: make the ids of the source distinct."
        )
    db.run(f"DELETE FROM source WHERE id IN (SELECT f.id {both} WHERE NOT ({maybe}))")  # noqa: S608
    db.run(f"DELETE FROM facts AS f WHERE {maybe} AND id IN (SELECT id FROM source)")  # noqa: S608
    for table, given in (
        ("source", "1"),
        ("new", "hash"),
        ("touched", "touched_file"),
        ("rejects", "reason"),
    ):
        columns = ["id", *(name.partition(" ")[0] for name in _FACTS[table] if name != "id TEXT")]
        db.run(
            f"INSERT INTO {table} SELECT {', '.join(columns)} FROM facts WHERE {given} IS NOT NULL"  # noqa: S608
        )
    db.run("DELETE FROM facts")


def publish_shards(
    uris: Sequence[str],
    output: str,
    *,
    holder: Holder,
    generation: int,
    wait_seconds: float,
    retention: float,
) -> dict[str, Any]:
    """
    Commit what the tasks of all shards have staged.

    :param uris: that :func:`stage_shard` has returned.
    :param generation: of the task instance; clearing a task that succeeded raises it.
    :param wait_seconds: for another run that writes to the same output; 0 to fail at once.
    :param retention: seconds for which older versions can be read.
    :return: versions, counts and URIs.
    :raises InputError: what was staged does not belong together.
    """
    lease = Lease(output)
    lease.acquire(holder, wait_seconds)
    try:
        tables = complete_run_with_lease(output)
        task = {"instance": list(holder.instance), "generation": generation}
        if (found := find_returned(output, task, tables.run, try_number=holder.try_number)) is not None:
            return found
        shards = [read_staged(uri) for uri in uris]
        options = _check_shards(shards)
        if tables.options is None:
            check_empty(output)
        _check_unpublished(tables, shards)
        _check_base(output, tables, shards)
        if all(shard.full_refresh for shard in shards):
            tables = check_files(tables, full_refresh=True)
        parts = [Part(**part) for shard in shards for part in shard.parts]
        settings = TableSettings(
            options,
            max((shard.dimension for shard in shards), default=0),
            all(shard.deletion_vectors for shard in shards),
            retention,
            shards[0].prune,
            shards[0].on_missing_chunks,
        )
        return _publish(output, tables, shards, parts, settings=settings, task=task, lease=lease)
    finally:
        lease.release()


def _publish(
    output: str,
    tables: Tables,
    shards: Sequence[StagedShard],
    parts: Sequence[Part],
    *,
    settings: TableSettings,
    task: Mapping[str, Any],
    lease: Lease,
) -> dict[str, Any]:
    began = time.monotonic()
    last = read_run_record(output, tables.run) if tables.run else None
    with RunDatabase() as db:
        load_documents(db, tables.documents)
        reconcile(db, tables, settings.on_missing_chunks)
        load_facts(db, shards)

        def returned(counts: Counts) -> dict[str, Any]:
            documents, chunks = count_after(db)
            return _sums(output, shards) | {**asdict(counts), "documents": documents, "chunks": chunks}

        result, committed = publish(
            output,
            db,
            tables,
            parts,
            settings,
            lease=lease,
            task=task,
            # Without shards, the next run closes the journal that the tables have.
            journal=last.journal if last else "",
            last=last,
            returned=returned,
            report=lambda result: _report(output, task["instance"], result, shards),
            transactions={shard_transaction(shard.shard): shard.number for shard in shards},
        )
    if committed:
        try:
            maintain(output, settings.retention, tables)
        except LucidworksError as err:
            log.warning("The commit is complete; files that are no longer needed remain: %s", err)
    log.info(
        "%s: %s new, %s changed, %s removed.",
        count(len(shards), "shard"),
        *(f"{result[name]:,}" for name in ("added", "changed", "removed")),
    )
    log_result(result, time.monotonic() - began, f"{output}, version {result['version']}")
    return result


def _check_shards(shards: Sequence[StagedShard]) -> CatalogueOptions:
    """:raises InputError: their configurations differ, or one is missing or there twice."""
    if not shards:
        raise InputError("staged is empty; give what the tasks of the shards return.")
    names = [shard.shard for shard in shards]
    count = int(names[0].rpartition("-")[2])
    if sorted(names) != [Shard(number, count).name for number in range(count)]:
        raise InputError(
            f"staged: has the shards {', '.join(sorted(names)[:5])}{', …' if len(names) > 5 else ''}, but needs "
            f"each of {count} once. Publish after the tasks of all shards have succeeded; keep trigger_rule at "
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
    return CatalogueOptions(**first.options)


def _check_unpublished(tables: Tables, shards: Sequence[StagedShard]) -> None:
    """:raises InputError: a shard was published before."""
    for shard in shards:
        if tables.transactions.get(shard_transaction(shard.shard), 0) >= shard.number:
            raise InputError(
                f"staged: what shard {shard.shard} has staged was published before. Run the tasks of the shards "
                "again."
            )


def _check_base(output: str, tables: Tables, shards: Sequence[StagedShard]) -> None:
    """:raises InputError: a shard was compared with other tables."""
    for shard in shards:
        if shard.base != tables.run:
            raise InputError(
                f"staged: shard {shard.shard} was compared with run {shard.base} of {output}, which is now at run "
                f"{tables.run}. Run the tasks of the shards again, and no other task on this output in between."
            )


def _sums(output: str, shards: Sequence[StagedShard]) -> dict[str, Any]:
    summed = ["written", "tokens", "skipped", "rejected", "submitted", "resubmitted", "truncated", "warnings"]
    return {
        "dataset": output,
        "dimension": max((shard.dimension for shard in shards), default=0),
        **{name: sum(shard.returned[name] for shard in shards) for name in summed},
        "rejects": [shard.returned["rejects"] for shard in shards if shard.returned["rejected"]],
        "report": below(output, REPORT),
        "shards": len(shards),
    }


def _report(
    output: str, instance: Sequence[object], returned: Mapping[str, Any], shards: Sequence[StagedShard]
) -> None:
    """Write a report on the sums of all shards, which have reports of their own."""
    sums, reasons = Counter[str](), Counter[str]()
    for shard in shards:
        sums.update({name: value for name, value in shard.stats.items() if isinstance(value, int)})
        reasons.update(shard.stats["rejected"])
    # The tasks may have run at the same time.
    seconds = max(shard.stats["seconds"] for shard in shards)
    write_report(
        output,
        output,
        {**sums, "rejected": dict(reasons.most_common()), "seconds": seconds},
        task=instance,
        returned=returned,
        options=shards[0].options,
        shards={shard.shard: shard.returned["report"] for shard in shards},
    )
