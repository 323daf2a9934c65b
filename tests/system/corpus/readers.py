# SPDX-License-Identifier: Apache-2.0
"""
Readers of the tables while runs over them are killed and race: each read has to be a catalogue that was published.

:class:`Readers` reads both tables again and again in a process of its own, through this package and through delta-rs,
the documents before the chunks. Each read must find all documents of one night, with the chunks that they have in
every other read, and no night may be followed by an earlier one; what a table of documents has must be in the table
of chunks that is read after it.
"""

import hashlib
import json
import multiprocessing
import os
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lucidworks_provider.corpus.dataset import CHUNKS, DOCUMENTS, open_dataset, open_documents
from lucidworks_provider.errors import InputError

# Between two rounds of reads, so that the runs get on as well.
PAUSE = 0.1
FAULTS = 20


@dataclass
class Reader:
    """
    What was read, and what was wrong with it.

    :param states: a file with a line for each night, the first empty: hashes of the texts by document.
    :param storage: options of delta-rs.
    """

    output: str
    states: Path
    storage: Mapping[str, str]
    reads: int = 0
    wrong: list[str] = field(default_factory=list)
    nights: list[dict[str, str]] = field(default_factory=list)
    chunks: dict[str, int] = field(default_factory=dict)
    latest: dict[str, int] = field(default_factory=dict)

    def round(self) -> None:
        """Read both tables with both libraries."""
        for library, tables in (("open", self._ours()), ("delta-rs", self._delta_rs())):
            described = 0
            for name, rows in tables:
                self.reads += 1
                night = self._night(f"{library} {name}", name, rows)
                if name == DOCUMENTS:
                    described = night
                elif night < described:
                    self.wrong.append(f"{library}: documents of night {described}, chunks of night {night}")

    def _ours(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        for name, opened in ((DOCUMENTS, open_documents), (CHUNKS, open_dataset)):
            try:
                dataset = opened(self.output)
            except InputError:  # no table yet
                yield name, []
            else:
                yield name, dataset.to_table(columns=_columns(name)).to_pylist()

    def _delta_rs(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        import deltalake
        import pyarrow as pa
        from deltalake.exceptions import TableNotFoundError

        for name in (DOCUMENTS, CHUNKS):
            uri = self._uri(name)
            try:
                table = deltalake.DeltaTable(uri, storage_options=dict(self.storage))
            except TableNotFoundError:
                yield name, []
            else:
                query = f"SELECT {', '.join(_columns(name))} FROM t"  # noqa: S608
                yield name, pa.table(deltalake.QueryBuilder().register("t", table).execute(query)).to_pylist()

    def _uri(self, name: str) -> str:
        scheme, separator, rest = self.output.partition("://")
        # The connection is of Airflow's URIs alone.
        return f"{scheme}{separator}{rest.rpartition('@')[2]}/{name}"

    def _night(self, what: str, name: str, rows: list[dict[str, Any]]) -> int:
        """The night that the rows are of; 0 where there are none."""
        rows = [row for row in rows if row.get("status", "ok") == "ok"]
        found = {row["document_id"]: row["content_hash"] for row in rows}
        if name == CHUNKS:
            for digest, count in Counter(row["content_hash"] for row in rows).items():
                if self.chunks.setdefault(digest, count) != count:
                    self.wrong.append(f"{what}: {count} chunks where {self.chunks[digest]} were")
        elif len(found) != len(rows):
            self.wrong.append(f"{what}: {len(rows)} rows of {len(found)} documents")
        if found not in self.nights:
            self.nights = [json.loads(line) for line in self.states.read_text().splitlines()]
        if found not in self.nights:
            self.wrong.append(f"{what}: {len(found)} documents, which are those of no night")
            return self.latest.get(what, 0)
        night = self.nights.index(found)
        if night < self.latest.get(what, 0):
            self.wrong.append(f"{what}: night {night} after night {self.latest[what]}")
        self.latest[what] = night
        return night


def _columns(name: str) -> list[str]:
    return ["document_id", "content_hash", *(["status"] if name == DOCUMENTS else [])]


def read_on(reader: Reader, environment: Mapping[str, str], stop: Any, told: Any) -> None:
    """In the process: read until the stop event is set, then report the number of reads and the faults."""
    os.environ.update(environment)
    while not stop.is_set() and len(reader.wrong) < FAULTS:
        try:
            reader.round()
        except Exception:  # noqa: BLE001  # whatever a read may raise is its fault
            reader.wrong.append(traceback.format_exc())
        time.sleep(PAUSE)
    told.put((reader.reads, reader.wrong))


class Readers:
    """
    The process.

    :param states: a file that it makes, for :meth:`expect`.
    """

    def __init__(
        self, output: str, states: Path, environment: Mapping[str, str], storage: Mapping[str, str]
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._states, self._stop, self._told = states, context.Event(), context.Queue()
        states.write_text("{}\n")
        self._process = context.Process(
            target=read_on,
            args=(Reader(output, states, dict(storage)), dict(environment), self._stop, self._told),
            daemon=True,
        )
        self._process.start()

    def expect(self, texts: Mapping[str, str]) -> None:
        """From now on these texts may be read as well."""
        hashes = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()}
        written = self._states.with_suffix(".new")
        written.write_text(self._states.read_text() + json.dumps(hashes) + "\n")
        written.replace(self._states)

    def stop(self) -> tuple[int, list[str]]:
        """The number of reads, and what was wrong."""
        self._stop.set()
        found: tuple[int, list[str]] = self._told.get(timeout=60)
        self._process.join()
        return found
