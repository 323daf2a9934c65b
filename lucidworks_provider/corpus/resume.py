# SPDX-License-Identifier: Apache-2.0
"""What an unfinished run has left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from lucidworks_provider.corpus.dataset import CHUNKS, below
from lucidworks_provider.corpus.journal import Journal, PieceKey, Place, Record
from lucidworks_provider.corpus.parts import Part, read_index
from lucidworks_provider.corpus.run_database import RunDatabase
from lucidworks_provider.corpus.settings import Corpus
from lucidworks_provider.errors import InputError
from lucidworks_provider.storage import names_in

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
        "into one table. Choose another output, or full_refresh=True, which submits every document again."
    )


def take_over(
    journal: Journal,
    corpus: Corpus,
    scratch: RunDatabase,
    *,
    published: str,
    taken: Callable[[], set[str]] | None,
    has_tables: bool,
) -> tuple[list[Part], int] | None:
    """
    What an unfinished run has left.

    :param published: the journal of the last run whose documents are in the tables. Of it only jobs that were not
        ready are left.
    :param taken: returns the paths of its parts that the tables have; None for all of them.
    :return: its parts, and the dimension of their vectors (0 when there is none); None when there was no such run.
    :raises InputError: it had another configuration.
    """
    head = journal.head()
    was_published = head is not None and head["run"] == published
    had = taken() if was_published and taken is not None else None
    added = had is not None and any(
        record.kind == "part" and record.value["path"] and record.value["path"] not in had
        for record in journal.load()
    )
    if was_published and not added:
        log.info("The last run died when all was done but tidying up.")
        carry_over(journal, scratch)
        scratch.forget_run()
        head = journal.head()
    if head is None:
        return None
    options = head.get("options") or {}
    if options != corpus.options.as_json():
        if not has_tables and any(record.kind in {"part", "body"} for record in journal.load()):
            # Where there are tables of what is asked for, the unfinished run was the mistake.
            check_options(options, corpus, f"The journal of an unfinished run in {corpus.output}")
        orphans = [record.job for record in journal.load() if record.kind == "submitted"]
        log.warning(
            "An unfinished run with another configuration is given up; its %s jobs are orphans, the first: %s",
            len(orphans),
            orphans[:10],
        )
        journal.end()
        return None
    parts, dimension = _replay(journal, scratch, set(names_in(below(corpus.output, CHUNKS))))
    log.info(
        "Going on with an unfinished run: %s parts, %s jobs or answers.",
        len(parts),
        scratch.count("SELECT count(*) FROM pieces"),
    )
    # It may have died between a part and the removal of what the part has made superfluous.
    journal.drop(journal.release(row[0] for row in scratch.rows("SELECT id FROM new")))
    if had:
        for path in had:
            scratch.run("DELETE FROM new WHERE part = ?", path)
        parts = [part for part in parts if part.path not in had]
    return parts, dimension


def carry_over(journal: Journal, scratch: RunDatabase) -> None:
    """
    End a journal of which the tables have everything but the jobs that were not ready: those are the next run's.

    :raises StorageError: that cannot be written.
    """
    _replay(journal, scratch, None)
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


def _replay(journal: Journal, scratch: RunDatabase, files: set[str] | None) -> tuple[list[Part], int]:
    """
    :param files: that the table's folder has; a part without its file is left out. None to take all.
    :return: the parts, and the dimension of their vectors (0 when there is none).
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
                scratch.add_new(read_index(part.index))
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


def _part(value: Any, journal: Journal) -> Part:
    try:
        return Part(**value)
    except TypeError:
        raise InputError(
            f"The journal in {journal.output} is of another version of the provider. Remove its folder to submit "
            "again what the unfinished run had submitted."
        ) from None
