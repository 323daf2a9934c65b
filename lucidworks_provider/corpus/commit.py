# SPDX-License-Identifier: Apache-2.0
"""
The end of a run: which part holds which document, and what the run has changed.

Nothing that a reader sees changes before the snapshot is replaced; a process that dies before it leaves files
that no snapshot names, and the journal, from which the next run comes to the same end.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lucidworks_provider.corpus.parts import PART_BYTES, copy_parts, write_index
from lucidworks_provider.corpus.scratch import Row, Scratch
from lucidworks_provider.documents.dataset import (
    DATA,
    INDEX,
    JSON_LINES,
    RAW,
    Part,
    Snapshot,
    below,
    json_lines_of,
    new_name,
)
from lucidworks_provider.storage import discard, discard_folder, names_in, read_file, write_file, writing

log = logging.getLogger(__name__)

CHANGES = "changes"
REJECTS = "rejects.jsonl"
# Every night adds a part. So many small ones are worth being copied into one.
SMALL_BYTES = PART_BYTES // 8
SMALL_PARTS = 16
# In the folder of a run's lists: what it has returned.
RETURNED = "returned.json"
# The lists of so many runs are kept.
KEPT_CHANGES = 30

# A document belongs to the part of this run, else to that of the last snapshot. One that the source does not have
# any more can only be in the latter.
_BELONGS = """
CREATE TABLE belongs AS
    SELECT new.* FROM new JOIN seen ON seen.id = new.id
    UNION ALL
    SELECT old.* FROM old LEFT JOIN seen ON seen.id = old.id
    WHERE {keep} AND old.id NOT IN (SELECT new.id FROM new JOIN seen ON seen.id = new.id)
        AND (seen.id IS NOT NULL OR {keep_vanished})
"""
LISTS = {
    "added": "SELECT new.id FROM new JOIN seen ON seen.id = new.id LEFT JOIN old ON old.id = new.id "
    "WHERE old.id IS NULL",
    "changed": "SELECT new.id FROM new JOIN seen ON seen.id = new.id JOIN old ON old.id = new.id",
    "vanished": "SELECT old.id FROM old LEFT JOIN seen ON seen.id = old.id WHERE seen.id IS NULL",
}
# What runs call their files, so that nobody else's are taken for theirs; and what they leave when they are killed.
_PART = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}\.(parquet|jsonl)|\..*\.part")
_JOURNAL = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")
_RUN = re.compile(r"\d{8}T\d{6}\.\d{6}Z")
_REMOVED = "SELECT old.id FROM old LEFT JOIN belongs ON belongs.id = old.id WHERE belongs.id IS NULL"


def settle(
    scratch: Scratch,
    output: str,
    parts: Sequence[Part],
    *,
    keep_old: bool,
    prune: bool,
    json_lines: bool,
) -> tuple[Part, ...]:
    """
    Make the parts of the next snapshot.

    :param parts: those of the last snapshot and of this run.
    :param keep_old: False when the configuration changed: old chunks and new ones do not mix.
    :param prune: leave out documents that the source does not have.
    """
    statement = _BELONGS.format(keep=int(keep_old), keep_vanished=int(not prune))
    scratch.run(statement)
    scratch.run("CREATE UNIQUE INDEX belongs_id ON belongs (id)")
    scratch.run("CREATE INDEX belongs_part ON belongs (part)")
    settled: list[Part] = []
    for part in parts:
        stay = scratch.count("SELECT count(*) FROM belongs WHERE part = ?", part.data)
        if stay == part.documents:
            settled.append(_stamped(scratch, output, part))
        elif stay:
            settled.append(_copied(scratch, output, [part], json_lines=json_lines))
    small = [part for part in settled if part.bytes < SMALL_BYTES]
    if len(small) < SMALL_PARTS:
        return tuple(settled)
    large = [part for part in settled if part.bytes >= SMALL_BYTES]
    return (*large, *(_copied(scratch, output, some, json_lines=json_lines) for some in _together(small)))


def counts(scratch: Scratch) -> dict[str, int]:
    """How many documents were added, changed, vanished from the source, and removed from the dataset."""
    found = {name: scratch.count(f"SELECT count(*) FROM ({query})") for name, query in LISTS.items()}  # noqa: S608
    return found | {"removed": scratch.count(f"SELECT count(*) FROM ({_REMOVED})")}  # noqa: S608


def write_lists(scratch: Scratch, output: str, snapshot_id: str) -> dict[str, str]:
    """Files of the ids that were added, changed and that vanished; their URIs."""
    uris = {}
    for name, query in LISTS.items():
        uris[name] = below(output, f"{CHANGES}/{snapshot_id}/{name}.jsonl")
        _write_lines(uris[name], ({"document_id": row[0]} for row in scratch.rows(f"{query} ORDER BY 1")))
    return uris


def keep_returned(output: str, last: Snapshot) -> None:
    """Before its snapshot is replaced: a try that died may not have said yet what it has done."""
    about = json.dumps({"run": last.run, "manifest": last.manifest})
    write_file(below(output, f"{CHANGES}/{last.id}/{RETURNED}"), about.encode())


def returned(output: str, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a run has returned whose snapshot was replaced since; None where it has not got so far."""
    for name in filter(_RUN.fullmatch, names_in(below(output, CHANGES))):
        data = read_file(below(output, f"{CHANGES}/{name}/{RETURNED}"))
        about = json.loads(data) if data is not None else {}
        if about.get("run") == run:
            return dict(about["manifest"])
    return None


def write_rejects(scratch: Scratch, output: str) -> str:
    """The documents of the run that are not in the dataset, or only as they were before; the file's URI."""
    uri = below(output, REJECTS)
    fields = ("document_id", "reason", "detail", "attempts", "file", "content_hash")
    rows = scratch.rows("SELECT id, reason, detail, attempts, file, hash FROM rejects ORDER BY id")
    _write_lines(uri, (dict(zip(fields, row, strict=True)) for row in rows))
    return uri


def tidy(output: str, parts: Sequence[Part], *, keep_replaced: bool) -> None:
    """
    Remove the files that no snapshot names, old lists, and what killed processes have left half-written.

    :param keep_replaced: leave parts alone: another snapshot may name them.
    """
    named = {part.data for part in parts} | {part.index for part in parts}
    named |= {json_lines_of(part.data) for part in parts}
    gone = []
    for folder in () if keep_replaced else (DATA, INDEX, JSON_LINES):
        found = [f"{folder}/{name}" for name in names_in(below(output, folder)) if _PART.fullmatch(name)]
        gone += [name for name in found if name not in named]
    gone += [name for name in names_in(output) if name.startswith(".") and name.endswith(".part")]
    runs = sorted(name for name in names_in(below(output, CHANGES)) if _RUN.fullmatch(name))
    removed = discard(*(below(output, name) for name in gone)) and all(
        discard_folder(below(output, f"{CHANGES}/{name}")) for name in runs[:-KEPT_CHANGES]
    )
    if gone and removed:
        log.info("%s files that are no longer needed were removed.", len(gone))


def strange_in(output: str, ours: Iterable[str]) -> list[str]:
    """
    What no run has written, in a folder without a snapshot.

    :param ours: names of the files and folders that runs write.
    """
    top = names_in(output)
    strange = [name for name in top if name not in ours and name[0] not in "._"]
    for folder, pattern in (
        (DATA, _PART),
        (INDEX, _PART),
        (JSON_LINES, _PART),
        (CHANGES, _RUN),
        (RAW, _JOURNAL),
    ):
        if folder in top:
            names = names_in(below(output, folder))
            strange += [f"{folder}/{name}" for name in names if not pattern.fullmatch(name)]
    return sorted(strange)


def _rows(scratch: Scratch, part: Part) -> Iterator[Row]:
    """The documents that belong to a part, with what was learned of their files."""
    query = """
        SELECT belongs.id, hash, coalesce(touched.size, belongs.size), coalesce(touched.stamp, belongs.stamp),
            coalesce(touched.file, belongs.file), chunks, part
        FROM belongs LEFT JOIN touched ON touched.id = belongs.id WHERE part = ? ORDER BY belongs.id
    """
    return (Row(*row) for row in scratch.rows(query, part.data))


def _stamped(scratch: Scratch, output: str, part: Part) -> Part:
    """The part, with a new index where files of its documents have another stamp and the same text."""
    query = "SELECT 1 FROM belongs JOIN touched ON touched.id = belongs.id WHERE part = ? LIMIT 1"
    if not scratch.one(query, part.data):
        return part
    index = f"{INDEX}/{new_name()}.parquet"
    write_index(below(output, index), list(_rows(scratch, part)))
    return replace(part, index=index)


def _copied(scratch: Scratch, output: str, parts: Sequence[Part], *, json_lines: bool) -> Part:
    copy, rows = copy_parts(output, parts, lambda part: _rows(scratch, part), json_lines=json_lines)
    scratch.many("UPDATE belongs SET part = ? WHERE id = ?", ((row.part, row.id) for row in rows))
    return copy


def _together(small: Sequence[Part]) -> Iterator[list[Part]]:
    some: list[Part] = []
    for part in small:
        if some and sum(one.bytes for one in some) + part.bytes > PART_BYTES:
            yield some
            some = []
        some.append(part)
    yield some


def _write_lines(uri: str, rows: Iterator[dict[str, Any]]) -> None:
    with writing(uri) as path, path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
