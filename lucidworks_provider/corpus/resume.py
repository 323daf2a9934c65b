# SPDX-License-Identifier: Apache-2.0
"""Resumes an unfinished run from its journal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from lucidworks_provider.corpus.dataset import CHUNKS, below
from lucidworks_provider.corpus.journal import BodyLocation, Journal, Record, SegmentKey
from lucidworks_provider.corpus.parts import Part, read_index
from lucidworks_provider.corpus.run_database import RunDatabase
from lucidworks_provider.corpus.settings import Corpus
from lucidworks_provider.errors import InputError
from lucidworks_provider.storage import names_in

log = logging.getLogger(__name__)

# Jobs and bodies of documents that are in no part.
_UNFINISHED = """
SELECT id, hash, start, length, job, log, offset, bytes FROM segments
WHERE NOT EXISTS (SELECT 1 FROM new WHERE new.id = segments.id AND new.hash = segments.hash)
"""


def check_options(found: Mapping[str, Any], corpus: Corpus, where: str) -> None:
    """
    Refuse to mix the chunks of two configurations.

    :param found: options of the existing chunks.
    :raises InputError: names the options that differ.
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
) -> tuple[list[Part], int] | None:
    """
    Load the journal of an unfinished run.
    :param published_journal: the journal of the last published run; only its unfinished jobs are resumed.
    :param published_parts: returns the paths of its parts that the tables have; None for all of them.
    :return: its parts, and the dimension of their vectors (0 if unknown); None if there is no unfinished run.
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
        log.info("The last run died after its commits; its journal is ended.")
        carry_over(journal, db)
        db.clear_run()
        head = journal.head()
    if head is None:
        return None
    options = head.get("options") or {}
    if options != corpus.options.as_json():
        if not has_tables and any(record.kind in {"part", "body"} for record in journal.load()):
            # If there are tables with this configuration, that of the unfinished run was the mistake.
            check_options(options, corpus, f"The journal of an unfinished run in {corpus.output}")
        orphans = [record.job for record in journal.load() if record.kind == "submitted"]
        log.warning(
            "An unfinished run with another configuration is discarded; its %s jobs are orphans, the first: %s",
            len(orphans),
            orphans[:10],
        )
        journal.end()
        return None
    parts, dimension = _replay(journal, db, set(names_in(below(corpus.output, CHUNKS))))
    log.info(
        "Resuming an unfinished run: %s parts, %s jobs or results.",
        len(parts),
        db.count("SELECT count(*) FROM segments"),
    )
    # The run may have died between the record of a part and the deletion of the bodies that it contains.
    journal.delete(journal.unreferenced(row[0] for row in db.rows("SELECT id FROM new")))
    if had:
        for path in had:
            db.run("DELETE FROM new WHERE part = ?", path)
        parts = [part for part in parts if part.path not in had]
    return parts, dimension


def carry_over(journal: Journal, db: RunDatabase) -> None:
    """
    End a published journal; its unfinished jobs are carried over to the next run.

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
        for row in db.rows(_UNFINISHED)
    ]
    if unfinished:
        journal.carry_over(unfinished)
    else:
        journal.end()


def _replay(journal: Journal, db: RunDatabase, files: set[str] | None) -> tuple[list[Part], int]:
    """
    Load the records of a journal into the run database.

    :param files: names in the folder of ``chunks``; a part without its file is skipped. None to skip none.
    :return: the parts, and the dimension of their vectors (0 if unknown).
    """
    parts: list[Part] = []
    dimension = 0
    for record in journal.load():
        match record.kind:
            case "part":
                part = _part(record.value, journal)
                dimension = part.dimension or dimension
                if files is not None and part.path and part.path not in files:
                    log.warning("%s of an unfinished run is gone; its documents are sent again.", part.path)
                    continue
                parts.append(part)
                db.add_new(read_index(part.index))
            case "failed":
                db.run("INSERT OR REPLACE INTO failed VALUES (?, ?, ?, ?, ?)", *record.value)
                # The next attempt submits it again.
                db.run("DELETE FROM segments WHERE id = ?", record.value[0])
            case "end":
                db.clear_failures()
            case _ if record.key is not None:
                key, body = record.key, record.location
                where = (body.file, body.offset, body.length) if body else (None, None, None)
                values = (key.document_id, key.content_hash, key.start, key.length, record.job, *where)
                db.run("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *values)
    return parts, dimension


def _part(value: Any, journal: Journal) -> Part:
    try:
        return Part(**value)
    except TypeError:
        raise InputError(
            f"The journal in {journal.output} is of another version of the provider. Remove its folder to submit "
            "again what the unfinished run had submitted."
        ) from None
