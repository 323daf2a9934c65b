# SPDX-License-Identifier: Apache-2.0
"""
Decides the new row of each document in ``documents``, by queries over the run database.

The result is the table ``upserts``: a row for each document of which something changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lucidworks_provider.corpus.run_database import REJECTED, SAME, RunDatabase

_UPSERTS = """
CREATE TABLE upserts (id TEXT PRIMARY KEY, status TEXT, hash TEXT, size INTEGER, etag TEXT, file TEXT, part TEXT,
    first INTEGER, chunks INTEGER, tokens INTEGER, change TEXT, reason TEXT, detail TEXT, attempts INTEGER,
    rejected_hash TEXT) WITHOUT ROWID
"""


# Documents that certainly get no new row.
_UNCHANGED = f"status = 'ok' AND action IS {SAME} AND t.id IS NULL AND NOT moved AND NOT dropped"


# The current row of a document, with the current facts about its file.
_AS_IT_IS = """
    d.id, {status}, {hash}, coalesce(t.size, d.size), coalesce(t.etag, d.etag), coalesce(t.file, d.file),
    d.part, d.first, d.chunks, d.tokens, NULL, NULL, NULL, 0, NULL
"""


_WITHOUT_CHUNKS = (
    "d.id, {status}, {hash}, d.size, d.etag, d.file, NULL, NULL, 0, 0, {change}, NULL, NULL, 0, NULL"
)


@dataclass(frozen=True, slots=True)
class Counts:
    """Documents by what has changed since the last run; ``vanished`` are those that the source no longer has."""

    added: int
    changed: int
    vanished: int
    removed: int


def build_upserts(db: RunDatabase, *, keep_old: bool, prune: bool) -> Counts:
    """
    Fill the table ``upserts``.

    :param keep_old: False after a change of the configuration, when all old chunks are removed.
    :param prune: remove documents that the source no longer has.
    """
    db.run("DROP TABLE IF EXISTS upserts")
    db.run(_UPSERTS)
    # Documents with new chunks. The source may have lost one since an earlier try has chunked it.
    db.run(
        "INSERT INTO upserts SELECT n.id, 'ok', n.hash, coalesce(t.size, n.size), coalesce(t.etag, n.etag), "
        "coalesce(t.file, n.file), n.part, n.first, n.chunks, n.tokens, "
        "CASE WHEN coalesce(d.present, 0) THEN 'changed' ELSE 'added' END, NULL, NULL, 0, NULL "
        "FROM new n JOIN source ON source.id = n.id LEFT JOIN documents d ON d.id = n.id "
        "LEFT JOIN touched t ON t.id = n.id"
    )
    # All others that may change; most do not, so the table is small.
    db.run("DROP TABLE IF EXISTS others")
    columns = "SELECT d.*, source.action AS action, t.id IS NOT NULL AS touched"
    joined = "documents d LEFT JOIN source ON source.id = d.id LEFT JOIN touched t ON t.id = d.id"
    may_change = f"NOT ({_UNCHANGED} AND {int(keep_old)}) AND d.id NOT IN (SELECT id FROM upserts)"  # noqa: S608
    db.run(f"CREATE TEMP TABLE others AS {columns} FROM {joined} WHERE {may_change}")
    vanished = db.count(
        "SELECT count(*) FROM others WHERE present AND action IS NULL AND status != 'vanished'"
    )
    insert = (
        "INSERT OR IGNORE INTO upserts SELECT {columns} FROM others d LEFT JOIN touched t ON t.id = d.id "
        "WHERE {which}"
    )

    def without_chunks(which: str, *, hash: str = "NULL", change: str = "'deleted'") -> None:
        columns = _WITHOUT_CHUNKS.format(status="'deleted'", hash=hash, change=change)
        db.run(insert.format(columns=columns, which=which))

    def as_it_is(which: str, status: str) -> None:
        db.run(insert.format(columns=_AS_IT_IS.format(status=status, hash="d.hash"), which=which))

    # Another program has deleted chunks of these; on_missing_chunks drops them until their text changes.
    without_chunks("dropped", hash="CASE WHEN action IS NULL THEN NULL ELSE d.hash END")
    if prune:
        without_chunks("present AND action IS NULL")
    if not keep_old:
        without_chunks("present")
    as_it_is("present AND action IS NULL AND (status != 'vanished' OR moved)", "'vanished'")
    # Former rejects that the source no longer has.
    without_chunks("NOT present AND action IS NULL AND status = 'rejected'", change="NULL")
    # Unchanged texts whose file, position or status has changed; and rejects, which keep the chunks that they had.
    was = "CASE WHEN present THEN 'ok' ELSE d.status END"
    as_it_is(f"action = {SAME} AND (moved OR touched OR (present AND status != 'ok'))", was)
    as_it_is(f"action = {REJECTED}", was)
    db.run(
        "INSERT OR IGNORE INTO upserts SELECT id, 'rejected', NULL, NULL, NULL, file, NULL, NULL, 0, 0, NULL, NULL, "
        "NULL, 0, NULL FROM rejects"
    )
    db.run(
        "UPDATE upserts SET status = 'rejected', reason = r.reason, detail = r.detail, attempts = r.attempts, "
        "rejected_hash = r.hash FROM rejects r WHERE r.id = upserts.id"
    )
    # Rows that are equal to the current ones, such as rejects that were not sent again.
    names = ("status", "size", "etag", "file", "reason", "detail", "attempts", "rejected_hash")
    same = " AND ".join(f"d.{name} IS upserts.{name}" for name in names)
    as_before = f"SELECT 1 FROM documents d WHERE d.id = upserts.id AND NOT d.moved AND {same}"  # noqa: S608
    db.run(f"DELETE FROM upserts WHERE change IS NULL AND EXISTS ({as_before})")  # noqa: S608
    count = {
        name: db.count("SELECT count(*) FROM upserts WHERE change = ?", name)
        for name in ("added", "changed", "deleted")
    }
    return Counts(count["added"], count["changed"], vanished, count["deleted"])


def count_after(db: RunDatabase) -> tuple[int, int]:
    """Documents and chunks in the tables after the commit."""
    old = "FROM documents WHERE present AND id NOT IN (SELECT id FROM upserts WHERE change IS NOT NULL)"
    new = "FROM upserts WHERE change IN ('added', 'changed')"
    counts = [db.one(f"SELECT count(*), coalesce(sum(chunks), 0) {which}") for which in (old, new)]
    return sum(count[0] for count in counts), sum(count[1] for count in counts)


def move_documents(db: RunDatabase, moved: Iterable[Iterable[tuple[str, str, int]]]) -> None:
    """
    Add rows for documents whose chunks were copied to other files.

    :param moved: batches of document ids with the new file and first row.
    """
    db.run("CREATE TEMP TABLE IF NOT EXISTS moved (id TEXT PRIMARY KEY, part TEXT, first INTEGER)")
    db.run("DELETE FROM moved")
    for batch in moved:
        db.many("INSERT OR IGNORE INTO moved VALUES (?, ?, ?)", batch)
    columns = _AS_IT_IS.format(status="d.status", hash="d.hash").replace(
        "NULL, NULL, NULL, 0, NULL", "NULL, d.reason, d.detail, d.attempts, d.rejected_hash"
    )
    db.run(
        f"INSERT OR IGNORE INTO upserts SELECT {columns} FROM documents d JOIN moved m ON m.id = d.id "  # noqa: S608
        "LEFT JOIN touched t ON t.id = d.id"
    )
    # Documents whose chunks are in several places stay without a first row.
    db.run(
        "UPDATE upserts SET part = m.part, first = CASE WHEN upserts.first IS NOT NULL THEN m.first END "
        "FROM moved m WHERE m.id = upserts.id"
    )
