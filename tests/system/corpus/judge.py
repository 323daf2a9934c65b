# SPDX-License-Identifier: Apache-2.0
"""A catalogue that changes from night to night, and the comparison of its tables with it and with the log."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lucidworks_provider.corpus.dataset import LEASE, SHARDS, below
from lucidworks_provider.corpus.journal import GROUP_SECONDS
from lucidworks_provider.corpus.lease import LeaseRecord
from lucidworks_provider.storage import names_in, read_file

WORDS = ("tent", "boot", "rope", "stove", "lamp", "sack", "pole", "peg", "map", "axe", "ski", "sled", "scarf")
# Between the answer that the emulator notes and the journal's file: the way to the client, and the write itself.
ON_THE_WAY = 0.1
# A killed client sends nothing new; what it had sent is begun within this time. Its successor waits for longer before
# it sends anything.
LATE = 1.0


@dataclass
class Catalogue:
    """
    A folder of text files.

    :param folder: where they are.
    :param texts: by path below the folder, as they are now.
    """

    folder: Path
    rng: random.Random
    texts: dict[str, str] = field(default_factory=dict)
    versions: int = 0

    def fill(self, documents: int) -> None:
        """Write the first night's files."""
        for number in range(documents):
            self._write(f"{number % 20:02}/product-{number:05}.txt")

    def change(self) -> None:
        """Write the next night's: two of five changed, one of twenty gone, one of twenty new."""
        paths = sorted(self.texts)
        self.rng.shuffle(paths)
        count = len(paths)
        for path in paths[: count // 20]:
            (self.folder / path).unlink()
            del self.texts[path]
        for path in paths[count // 20 : count // 20 + count * 2 // 5]:
            self._write(path)
        for _ in range(count // 20):
            self._write(f"new/product-{self.versions:05}.txt")

    def _write(self, path: str) -> None:
        self.versions += 1
        words = " ".join(self.rng.choices(WORDS, k=80))
        # No two texts are the same, so the log identifies the document of a request.
        text = f"{path}, version {self.versions}. {words[:200]}. {words[200:]}."
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self.texts[path] = text


@dataclass(frozen=True, slots=True)
class ServiceLog:
    """
    What the emulator has returned: ids and results, each once.

    :param lines: of its log: POSTs that made a job, and GETs that got a result.
    """

    lines: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, log: Iterable[Mapping[str, Any]]) -> ServiceLog:
        """Pick what counts from the emulator's log."""
        return cls(
            [
                line
                for line in log
                if (line["endpoint"] == "submit" and line["status"] == 200)
                or (line["endpoint"] == "poll" and line["job_status"] == "READY")
            ]
        )

    def submissions(self) -> Counter[str]:
        """How often each text was submitted, by its SHA-256."""
        return Counter(line["text_sha256"] for line in self.lines if line["endpoint"] == "submit")

    def answered(self) -> set[str]:
        """Hashes of the texts whose results were returned."""
        texts = {line["job_id"]: line["text_sha256"] for line in self.lines if line["endpoint"] == "submit"}
        return {texts[line["job_id"]] for line in self.lines if line["endpoint"] == "poll"}

    def at_stake(self, kill: float) -> tuple[int, int]:
        """What a kill may cost: requests in flight, and answers in the group that was not written yet."""
        ends = [(line["time"], line["time"] + line["seconds"]) for line in self.lines]
        in_flight = sum(end >= kill and begin < kill + LATE for begin, end in ends)
        return in_flight, sum(kill - GROUP_SECONDS - ON_THE_WAY <= end < kill for _, end in ends)


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    :param wrong: what is not as it should be, in words; empty when all is well.
    :param twice: submissions of texts beyond the first.
    :param in_flight: requests in flight at the kills.
    :param unflushed: answers in groups of the journal that were not written at the kills.
    :param litter: files of killed processes that no version names; they expire after the retention.
    """

    documents: int
    chunks: int
    wrong: list[str]
    twice: int
    in_flight: int
    unflushed: int
    litter: Sequence[str] = ()

    @property
    def good(self) -> bool:
        """Whether every document is there once, and no more was submitted twice than the kills can explain."""
        return not self.wrong and self.twice <= self.in_flight + self.unflushed


def judge(catalogue: Catalogue, output: str, ledger: ServiceLog, kills: Sequence[float]) -> Verdict:
    """
    Compare both tables with the catalogue, document by document.

    :param output: URI of the folder of the tables.
    :param ledger: of all nights.
    :param kills: seconds since the epoch.
    """
    from lucidworks_provider.corpus.dataset import CHUNKS, DESCRIBES, DOCUMENTS, open_dataset
    from lucidworks_provider.delta.log import read_table

    tables = {name: read_table(below(output, name)) for name in (CHUNKS, DOCUMENTS)}
    if missing := [f"there is no table {name}" for name, table in tables.items() if table is None]:
        return Verdict(0, 0, missing, 0, 0, 0)
    rows = (
        open_dataset(output)
        .to_table(columns=["document_id", "chunk_index", "text", "start", "end", "content_hash"])
        .to_pylist()
    )
    chunks: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        chunks.setdefault(row["document_id"], []).append(row)
    submitted, answered = ledger.submissions(), ledger.answered()
    wrong = [f"{path}: not in the source" for path in sorted(chunks.keys() - catalogue.texts.keys())]
    for path, text in catalogue.texts.items():
        digest = hashlib.sha256(text.encode()).hexdigest()
        if fault := _fault(chunks.get(path, []), text, digest):
            wrong.append(f"{path}: {fault}")
        if not submitted[digest] or digest not in answered:
            wrong.append(f"{path}: the emulator never answered this text")
    wrong += _wrong_documents(catalogue, output, chunks)
    chunk_table, document_table = tables[CHUNKS], tables[DOCUMENTS]
    assert chunk_table is not None
    assert document_table is not None
    if (described := document_table.transactions.get(DESCRIBES)) != chunk_table.version:
        wrong.append(
            f"{DOCUMENTS} describes version {described} of {CHUNKS}, which is at {chunk_table.version}"
        )
    litter: set[str] = set()
    for table in (chunk_table, document_table):
        folder = table.uri.rpartition("/")[2]
        there = {name for name in names_in(table.uri) if name.endswith((".parquet", ".bin", ".part"))}
        log = names_in(below(table.uri, "_delta_log"))
        there |= {f"_delta_log/{name}" for name in log if name.endswith(".part")}
        newest = _files(table)
        wrong += [f"{folder}/{name} is missing" for name in sorted(newest - there)]
        earlier = (read_table(table.uri, version) for version in range(table.version))
        named = newest.union(*(_files(one) for one in earlier if one is not None))
        litter |= {f"{folder}/{name}" for name in there - named}
    shards = sorted(names_in(below(output, SHARDS)))
    for lease in (LEASE, *(f"{SHARDS}/{shard}/{LEASE}" for shard in shards)):
        newest_claim = f"{lease}/{max(names_in(below(output, lease)))}"
        if not LeaseRecord.from_json(read_file(below(output, newest_claim)) or b"").released:
            wrong.append(f"{newest_claim} is not released")
    stakes = [ledger.at_stake(kill) for kill in kills]
    return Verdict(
        documents=len(chunks),
        chunks=len(rows),
        wrong=wrong,
        twice=sum(count - 1 for count in submitted.values()),
        in_flight=sum(in_flight for in_flight, _ in stakes),
        unflushed=sum(unflushed for _, unflushed in stakes),
        litter=sorted(litter),
    )


def _wrong_documents(
    catalogue: Catalogue, output: str, chunks: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[str]:
    """What is wrong with the table of documents: one row for each, with the hash and the place of its chunks."""
    from lucidworks_provider.corpus.dataset import CHUNKS, open_documents
    from lucidworks_provider.delta.log import read_table
    from lucidworks_provider.delta.rows import read_rows

    rows = open_documents(output).to_table().to_pylist()
    wrong = []
    listed = Counter(row["document_id"] for row in rows if row["chunk_file"] is not None)
    twice = Counter(row["document_id"] for row in rows)
    if twice.total() != len(twice) or set(listed) != catalogue.texts.keys():
        wrong.append(
            f"the documents have {twice.total()} rows of {len(twice)} documents, {len(listed)} with chunks"
        )
    table = read_table(below(output, CHUNKS))
    assert table is not None
    places: dict[str, list[tuple[str, int]]] = {}
    for batch in read_rows(table, columns=["document_id"], with_position=True):
        columns = (batch.column(name).to_pylist() for name in ("document_id", "_file", "_row"))
        for document_id, file, row_number in zip(*columns, strict=True):
            places.setdefault(document_id, []).append((file, row_number))
    for row in rows:
        key = row["document_id"]
        first = row["first_row"] or 0
        expected = [(row["chunk_file"], number) for number in range(first, first + row["chunks"])]
        if sorted(places.get(key, [])) != expected:
            wrong.append(f"{key}: its chunks are not where the documents say")
        if {one["content_hash"] for one in chunks.get(key, [])} - {row["content_hash"]}:
            wrong.append(f"{key}: the documents have another hash than its chunks")
        if (row["status"] == "ok") != (key in catalogue.texts):
            wrong.append(f"{key}: its status is {row['status']}")
    return wrong


def _files(table: Any) -> set[str]:
    """Data files and deletion vectors of a version."""
    files = table.files.values()
    return {file.path for file in files} | {
        file.vector.path for file in files if file.vector is not None and file.vector.path
    }


def _fault(rows: Sequence[Mapping[str, Any]], text: str, digest: str) -> str:
    """What is wrong with the chunks of a document."""
    if not rows:
        return "missing"
    ordered = sorted(rows, key=lambda row: row["chunk_index"])
    if [row["chunk_index"] for row in ordered] != list(range(len(ordered))):
        return f"chunks {[row['chunk_index'] for row in ordered]}"
    if {row["content_hash"] for row in rows} != {digest}:
        return "chunks of another version"
    if any(text[row["start"] : row["end"]] != row["text"] for row in rows):
        return "a chunk does not stand where it says"
    return "" if ordered[-1]["end"] >= len(text.rstrip()) else "its end is missing"
