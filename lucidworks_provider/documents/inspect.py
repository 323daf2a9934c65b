# SPDX-License-Identifier: Apache-2.0
"""
What is in a dataset, and whether it is whole and right.

Everything is read once, in memory that does not grow with it: what has to be remembered of each document goes to a
database on the local disk, a few hundred bytes for a document, and with a source 24 more for each of its chunks.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Collection, Container, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lucidworks_provider.documents.dataset import (
    DATA,
    INDEX,
    JSON_LINES,
    SNAPSHOT,
    Part,
    Snapshot,
    below,
    check_installed,
    index_schema,
    json_lines_of,
    read_index,
    read_snapshot,
    under_way,
)
from lucidworks_provider.documents.inspect_rows import Faults, Found, RowChecks, chunk_batches, guarded
from lucidworks_provider.documents.inspect_source import Database, compare
from lucidworks_provider.errors import InputError, LucidworksError
from lucidworks_provider.storage import exists, names_in, reading, split_uri

if TYPE_CHECKING:
    from lucidworks_provider.documents.readers import Reading

REJECTS = "rejects.jsonl"


@dataclass
class Inspection:
    """
    What was found.

    :param rejects: documents by reason.
    :param notes: what is worth knowing and no fault.
    """

    output: str
    snapshot: Snapshot
    rejects: Counter[str] = field(default_factory=Counter)
    faults: Faults = field(default_factory=Faults)
    notes: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults.counts

    def describe(self) -> Iterator[tuple[str, str]]:
        """What is in the dataset, as names and values."""
        snapshot = self.snapshot
        size = sum(part.bytes for part in snapshot.parts)
        yield "snapshot", snapshot.id
        yield "created", snapshot.created
        for name, value in snapshot.options.items():
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield "documents", f"{snapshot.documents:,}"
        yield "chunks", f"{snapshot.chunks:,}"
        yield "tokens", f"{snapshot.tokens:,}"
        yield "dimension", f"{snapshot.dimension:,}"
        yield "parts", f"{len(snapshot.parts):,}"
        yield "bytes", f"{size:,}"
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.rejects.most_common())
        yield "rejects", f"{snapshot.rejects:,}{f' ({reasons})' if reasons else ''}"


class _Everything:
    """Whatever is asked for is in it."""

    def __contains__(self, item: object) -> bool:
        return True


def inspect(
    output: str, *, source: str | None = None, read: Reading | None = None, sample: int | None = None
) -> Inspection:
    """
    Look at a dataset and check it.

    :param output: the folder's URI.
    :param source: where its documents came from, to be compared with; as of the operator.
    :param read: how they were read; names of columns and an encoding.
    :param sample: compare so many documents with the source, chosen at random; all if not given.
    :raises InputError: there is no dataset, or no source, or the ``documents`` extra is not installed.
    :raises StorageError: the folder or the source cannot be read. A file that the snapshot names and that cannot be
        read is a fault.
    """
    check_installed()
    snapshot = read_snapshot(output)
    if snapshot is None:
        raise InputError(f"{output} holds no dataset: there is no {SNAPSHOT}. Has a run ended well?")
    found = Inspection(output, snapshot)
    with Database() as db:
        _Check(found, db).go(source, read, sample)
    return found


class _Check:
    def __init__(self, found: Inspection, db: Database) -> None:
        self.found, self.faults, self.db = found, found.faults, db
        self.output, self.snapshot = found.output, found.snapshot
        # Parts whose documents cannot be judged, as one of their files cannot be read.
        self.unread: set[int] = set()

    def go(self, source: str | None, read: Reading | None, sample: int | None) -> None:
        for number, part in enumerate(self.snapshot.parts):
            self._index(number, part)
        compared: Container[str] = _Everything() if source else set()
        if source and sample is not None:
            compared = self._sample(sample)
        unlocated = sum(self._data(number, part, compared) for number, part in enumerate(self.snapshot.parts))
        if unlocated:
            self.found.notes.append(
                f"{unlocated:,} chunks have no span: where they stand could not be proven."
            )
        self._compare_index_and_data()
        self._rejects()
        self._files()
        if source:
            sampled = compared if isinstance(compared, set) else None
            notes = compare(self.db, self.faults, source, read, sampled)
            self.found.notes += notes

    def _index(self, number: int, part: Part) -> None:
        documents = chunks = 0
        try:
            for batch in guarded(read_index(self.output, part), below(self.output, part.index)):
                if batch.schema.names != index_schema().names:
                    raise InputError(f"it has the columns {', '.join(batch.schema.names)}")
                for row in batch.to_pylist():
                    documents += 1
                    chunks += row["chunks"]
                    self._indexed(number, part, row)
        except LucidworksError as err:
            self.unread.add(number)
            self.faults.add("files that cannot be read", f"{part.index} ({err})")
            return
        for what, count, said in (("documents", documents, part.documents), ("chunks", chunks, part.chunks)):
            if count != said:
                self.faults.add(
                    f"indexes with another number of {what} than the snapshot says",
                    f"{part.index} ({count:,}, not {said:,})",
                )

    def _indexed(self, number: int, part: Part, row: dict[str, Any]) -> None:
        # A snapshot over shards sees the same file from further up.
        if not f"/{part.data}".endswith(f"/{row['part']}"):
            self.faults.add("index rows that name another part", f"{row['document_id']!r} in {part.index}")
        values = [row[name] for name in ("document_id", "content_hash", "size", "stamp", "file", "chunks")]
        if not self.db.add(
            "INSERT OR IGNORE INTO indexed (id, hash, size, stamp, file, chunks, part) VALUES (?, ?, ?, ?, ?, ?, ?)",
            *values,
            number,
        ):
            self.faults.add(
                "documents that stand in the index twice", f"{row['document_id']!r} in {part.index}"
            )

    def _sample(self, size: int) -> set[str]:
        count = self.db.run("SELECT count(*) FROM indexed").fetchone()[0]
        chosen = set(random.sample(range(count), min(size, count)))
        ids = self.db.run("SELECT id FROM indexed")
        return {document_id for number, (document_id,) in enumerate(ids) if number in chosen}

    def _data(self, number: int, part: Part, compared: Container[str]) -> int:
        """Read a part; the number of chunks without a span."""

        def found(one: Found) -> None:
            values = (one.id, one.content_hash, one.chunks, number, bytes(one.spans))
            if not self.db.add("INSERT OR IGNORE INTO found VALUES (?, ?, ?, ?, ?)", *values):
                self.faults.add("documents whose chunks stand at two places", f"{one.id!r} in {part.data}")

        checks = RowChecks(part, self.faults, found, compared)
        try:
            batches = chunk_batches(self.output, part, self.snapshot, self.faults)
            if batches is None:
                self.unread.add(number)
                return 0
            for batch in batches:
                checks.add(batch)
        except LucidworksError as err:
            self.unread.add(number)
            self.faults.add("files that cannot be read", f"{part.data} ({err})")
            return 0
        checks.close()
        for what, count, said in (
            ("chunks", checks.chunks, part.chunks),
            ("tokens", checks.tokens, part.tokens),
        ):
            if count != said:
                self.faults.add(
                    f"files with another number of {what} than the snapshot says",
                    f"{part.data} ({count:,}, not {said:,})",
                )
        return checks.unlocated

    def _compare_index_and_data(self) -> None:
        parts = self.snapshot.parts
        for document_id, part, said, chunks, same, other in self.db.run(
            """SELECT i.id, i.part, i.chunks, coalesce(f.chunks, 0), f.hash IS NULL OR f.hash = i.hash, f.part
               FROM indexed i LEFT JOIN found f ON f.id = i.id
               WHERE coalesce(f.chunks, 0) != i.chunks OR f.hash != i.hash OR f.part != i.part"""
        ):
            if part in self.unread:
                continue
            where = f"{document_id!r} in {parts[part].data}"
            if chunks != said:
                kind = "documents with another number of chunks than the index says"
                self.faults.add(kind, f"{where} ({chunks:,}, not {said:,})")
            if not same:
                self.faults.add("documents with another content_hash than the index says", where)
            if other is not None and other != part:
                self.faults.add(
                    "documents in another part than the index says", f"{document_id!r} in {parts[other].data}"
                )
        for document_id, part in self.db.run(
            "SELECT id, part FROM found WHERE NOT EXISTS (SELECT 1 FROM indexed WHERE indexed.id = found.id)"
        ):
            if part not in self.unread:
                self.faults.add(
                    "documents that stand in no index", f"{document_id!r} in {self.snapshot.parts[part].data}"
                )

    def _rejects(self) -> None:
        read = 0
        for folder in self._folders():
            uri = below(self.output, f"{folder}{REJECTS}")
            if not exists(uri):
                continue
            with reading(uri) as file:
                for number, line in enumerate(file):
                    try:
                        one = json.loads(line)
                        document_id, reason = str(one["document_id"]), str(one["reason"])
                    except (ValueError, KeyError, TypeError):
                        self.faults.add("lines of rejects that are none", f"{folder}{REJECTS}:{number + 1}")
                        continue
                    read += 1
                    self.found.rejects[reason] += 1
                    self.db.add("INSERT OR IGNORE INTO rejects VALUES (?)", document_id)
        if read != self.snapshot.rejects and not self._moving():
            self.faults.add("files of rejects with another number than the snapshot says", f"{read:,} in all")

    def _moving(self) -> bool:
        """Whether a run has begun after the snapshot was written."""
        shards = self.snapshot.manifest.get("shards") or {}
        return any(under_way(below(self.output, folder)) for folder in self._folders()) or any(
            (own := read_snapshot(below(self.output, name))) is None or own.id != snapshot_id
            for name, snapshot_id in shards.items()
        )

    def _folders(self) -> Collection[str]:
        """Where parts may lie: the output itself, or the shards below it."""
        shards = self.snapshot.manifest.get("shards")
        return [f"{name}/" for name in shards] if isinstance(shards, dict) else [""]

    def _files(self) -> None:
        """Files that no snapshot names: neither this one, nor that of a shard, nor one over this shard."""
        parent, name = split_uri(self.output.rstrip("/"))
        for folder in self._folders():
            if under_way(below(self.output, folder)):
                place = f"{folder or 'the output'}"
                self.found.notes.append(
                    f"A run over {place} is under way, or died: files of it are not judged."
                )
                continue
            named = _files_of(self.snapshot)
            own = read_snapshot(below(self.output, folder)) if folder else None
            named |= _files_of(own, folder)
            over = None if folder else read_snapshot(parent)
            if over is not None and name in (over.manifest.get("shards") or {}):
                named |= {file.removeprefix(f"{name}/") for file in _files_of(over)}
            for kind in (DATA, INDEX, JSON_LINES):
                for file in names_in(below(self.output, f"{folder}{kind}")):
                    if (path := f"{folder}{kind}/{file}") not in named:
                        self.faults.add("files that no snapshot names; the next run removes them", path)


def _files_of(snapshot: Snapshot | None, folder: str = "") -> set[str]:
    parts = () if snapshot is None else snapshot.parts
    return {f"{folder}{file}" for part in parts for file in (part.data, part.index, json_lines_of(part.data))}
