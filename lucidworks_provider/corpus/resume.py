# SPDX-License-Identifier: Apache-2.0
"""What a run starts from: the last snapshot's index, its rejects, and what an unfinished run has left."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from lucidworks_provider.corpus.commit import REJECTS
from lucidworks_provider.corpus.journal import Journal, PieceKey, Place, Record
from lucidworks_provider.corpus.scratch import Row, Scratch
from lucidworks_provider.corpus.settings import Corpus
from lucidworks_provider.documents.dataset import Part, Snapshot, below, read_index
from lucidworks_provider.documents.document import Reason
from lucidworks_provider.errors import InputError
from lucidworks_provider.storage import read_file

log = logging.getLogger(__name__)

# Jobs and answers of documents that no part of their run has.
_UNSETTLED = """
SELECT id, hash, start, length, job, log, offset, bytes FROM pieces
WHERE NOT EXISTS (SELECT 1 FROM new WHERE new.id = pieces.id AND new.hash = pieces.hash)
"""


def check_options(found: Mapping[str, Any], corpus: Corpus, where: str) -> None:
    """
    Refuse to mix the chunks of two configurations.

    :param found: the options that something was made with.
    :raises InputError: says which differ.
    """
    wanted = corpus.options.as_json()
    if found == wanted or corpus.full_refresh:
        return
    differences = ", ".join(
        f"{name} was {found.get(name)!r} and is {wanted[name]!r}"
        for name in wanted
        if found.get(name) != wanted[name]
    )
    raise InputError(
        f"{where} was made with another configuration: {differences}. Chunks of two configurations do not belong "
        "into one dataset. Choose another output, or full_refresh=True, which submits every document again."
    )


def load_index(scratch: Scratch, output: str, snapshot: Snapshot | None) -> None:
    for part in snapshot.parts if snapshot is not None else ():
        scratch.add_rows("old", _index_rows(output, part))


def _index_rows(output: str, part: Part) -> Iterator[Row]:
    for batch in read_index(output, part):
        columns = [column.to_pylist() for column in batch.columns[:6]]
        # An index that was copied from further down names the part by another path.
        yield from (Row._make((*values, part.data)) for values in zip(*columns, strict=True))


def load_rejects(scratch: Scratch, output: str, *, remember: bool) -> None:
    """
    Those of the last run.

    :param remember: do not send texts again of which the service gave no chunk.
    """
    data = read_file(below(output, REJECTS)) or b""
    rows, remembered = [], []
    for line in data.splitlines():
        try:
            plain = json.loads(line)
            rows.append((plain["document_id"], int(plain["attempts"]), plain.get("file")))
            if remember and plain["reason"] == Reason.EMPTY_RESULT and plain.get("content_hash"):
                names = ("document_id", "content_hash", "reason", "detail", "attempts")
                remembered.append([plain[name] for name in names])
        except (ValueError, KeyError, TypeError):
            log.warning("%s has a line that is no reject; left out.", below(output, REJECTS))
    scratch.many("INSERT OR REPLACE INTO before VALUES (?, ?, ?)", rows)
    scratch.many("INSERT OR REPLACE INTO failed VALUES (?, ?, ?, ?, ?)", remembered)


def take_over(
    journal: Journal, corpus: Corpus, scratch: Scratch, snapshot: Snapshot | None
) -> tuple[list[Part], int] | None:
    """
    What an unfinished run has left.

    :param snapshot: the last one. Of a journal that it was made of, only jobs that were not ready are left.
    :return: its parts, and the dimension of their vectors (0 when there is none); None when there was no such run.
    :raises InputError: it had another configuration.
    """
    head = journal.head()
    if head is not None and snapshot is not None and head["run"] == snapshot.journal:
        log.info("The last run died when all was done but tidying up.")
        carry_over(journal, corpus.output, scratch)
        scratch.forget_run()
        head = journal.head()
    if head is None:
        return None
    options = head.get("options") or {}
    if options != corpus.options.as_json():
        if snapshot is None and any(record.kind in {"part", "body"} for record in journal.load()):
            # Where there is a snapshot of what is asked for, the unfinished run was the mistake.
            check_options(options, corpus, f"The journal of an unfinished run in {corpus.output}")
        orphans = [record.job for record in journal.load() if record.kind == "submitted"]
        log.warning(
            "An unfinished run with another configuration is given up; its %s jobs are orphans, the first: %s",
            len(orphans),
            orphans[:10],
        )
        journal.end()
        return None
    parts, dimension = _replay(journal, corpus.output, scratch)
    log.info(
        "Going on with an unfinished run: %s parts, %s jobs or answers.",
        len(parts),
        scratch.count("SELECT count(*) FROM pieces"),
    )
    # It may have died between a part and the removal of what the part has made superfluous.
    journal.drop(journal.release(row[0] for row in scratch.rows("SELECT id FROM new")))
    return parts, dimension


def carry_over(journal: Journal, output: str, scratch: Scratch) -> None:
    """
    End a journal of which the snapshot has everything but the jobs that were not ready: those are the next run's.

    :raises StorageError: that cannot be written.
    """
    _replay(journal, output, scratch)
    unsettled = [
        Record(
            "body" if row[5] else "submitted", PieceKey(*row[:4]), row[4], Place(*row[5:]) if row[5] else None
        )
        for row in scratch.rows(_UNSETTLED)
    ]
    if unsettled:
        journal.carry_over(unsettled)
    else:
        journal.end()


def _replay(journal: Journal, output: str, scratch: Scratch) -> tuple[list[Part], int]:
    """:return: the parts, and the dimension of their vectors (0 when there is none)."""
    parts: list[Part] = []
    dimension = 0
    for record in journal.load():
        match record.kind:
            case "part":
                value = dict(record.value)
                dimension = value.pop("dimension", 0) or dimension
                parts.append(Part(**value))
                scratch.add_rows("new", _index_rows(output, parts[-1]))
            case "failed":
                scratch.run("INSERT OR REPLACE INTO failed VALUES (?, ?, ?, ?, ?)", *record.value)
                # Another attempt sends it anew.
                scratch.run("DELETE FROM pieces WHERE id = ?", record.value[0])
            case "end":
                scratch.forget_failures()
            case _ if record.key is not None:
                key, place = record.key, record.place
                where = (place.file, place.offset, place.length) if place else (None, None, None)
                values = (key.document_id, key.content_hash, key.start, key.length, record.job, *where)
                scratch.run("INSERT OR REPLACE INTO pieces VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *values)
    return parts, dimension
