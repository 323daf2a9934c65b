# SPDX-License-Identifier: Apache-2.0
"""
A dataset of chunks that changes from night to night, and is whole at every moment.

::

    data/PART.parquet     chunks; never changed once it stands
    index/PART.parquet    a row for each document of a part
    snapshot.json         names the parts that count, and is replaced as a whole

A reader that starts from the snapshot sees one run's end, never half of the next. What replaces a document's
chunks is written to new parts first, then the snapshot is replaced, then parts that no snapshot names go.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lucidworks_provider.errors import InputError
from lucidworks_provider.storage import arrow_place, names_in, read_file, write_file

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset

VERSION = 1
SNAPSHOT = "snapshot.json"
DATA, INDEX, JSON_LINES = "data", "index", "jsonl"
# Of the run that writes, or that died: its lease, its journal, and journals that are kept.
LEASE, JOURNAL, RAW = "lease", "journal", "raw"
HEAD = f"{JOURNAL}/head.json"


@dataclass(frozen=True, slots=True)
class Part:
    """
    A file of chunks and the index of its documents.

    :param data: path below the output, e.g. ``data/NAME.parquet``.
    :param index: path below the output. It may be newer than the data: a touched file has a new stamp.
    :param bytes: of the data file.
    """

    data: str
    index: str
    documents: int
    chunks: int
    tokens: int
    bytes: int

    def below(self, folder: str) -> Part:
        """The same part, seen from further up."""
        return Part(**asdict(self) | {"data": f"{folder}/{self.data}", "index": f"{folder}/{self.index}"})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    What a dataset consists of.

    :param id: sorts by time.
    :param created: ISO 8601, UTC.
    :param options: chunker, model and their configuration: :meth:`ChunkingOptions.as_json`.
    :param dimension: length of every vector, 0 when there is none.
    :param rejects: documents of the run that are not in the dataset, or only in an older version.
    :param run: the task instance that wrote it, so that its retry knows that it is done.
    :param manifest: what that task returned.
    :param journal: the run's journal, of which the snapshot has everything but jobs that were not ready.
    """

    id: str
    created: str
    options: Mapping[str, Any]
    dimension: int
    parts: tuple[Part, ...]
    rejects: int = 0
    run: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    journal: str = ""

    @property
    def documents(self) -> int:
        """Documents of all parts."""
        return sum(part.documents for part in self.parts)

    @property
    def chunks(self) -> int:
        """Chunks of all parts."""
        return sum(part.chunks for part in self.parts)

    @property
    def tokens(self) -> int:
        """Input tokens of all parts, as far as the service said."""
        return sum(part.tokens for part in self.parts)

    def to_json(self) -> bytes:
        """For storage; the sums are for people."""
        sums = {"version": VERSION, "documents": self.documents, "chunks": self.chunks, "tokens": self.tokens}
        return json.dumps(sums | asdict(self), indent=1, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Snapshot:
        """:raises ValueError: not what :meth:`to_json` of this version has written."""
        plain = json.loads(data)
        try:
            if plain.pop("version") != VERSION:
                raise ValueError("another version")
            for derived in ("documents", "chunks", "tokens"):
                plain.pop(derived, None)
            return cls(**plain | {"parts": tuple(Part(**part) for part in plain["parts"])})
        except (KeyError, TypeError, AttributeError) as err:
            raise ValueError(f"not a snapshot ({type(err).__name__})") from None


def json_lines_of(data: str) -> str:
    """Where the chunks of a part stand as JSON Lines, if they were asked for."""
    folder, _, name = data.rpartition("/")
    return f"{folder.removesuffix(DATA)}{JSON_LINES}/{name.removesuffix('.parquet')}.jsonl"


def below(output: str, path: str) -> str:
    """The URI of a path below a folder."""
    return f"{output.rstrip('/')}/{path}"


def new_name() -> str:
    """For a file or folder; sorts by time, and no two processes choose the same."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"


def under_way(output: str) -> bool:
    """
    Whether a run is writing into an output, or died before its end: some files are then in no snapshot yet.

    :raises StorageError: the folder cannot be read.
    """
    leases = sorted(name for name in names_in(below(output, LEASE)) if name.endswith(".json"))
    newest = read_file(below(output, f"{LEASE}/{leases[-1]}")) if leases else None
    return _active(newest, "released") or _active(read_file(below(output, HEAD)), "ended")


def _active(data: bytes | None, end: str) -> bool:
    try:
        return data is not None and not json.loads(data).get(end)
    except (ValueError, AttributeError):
        return True


def check_installed() -> None:
    """
    Refuse datasets where what writes and reads them is not installed.

    :raises InputError: names the extra.
    """
    try:
        import pyarrow.dataset  # noqa: F401
    except ImportError:
        raise InputError(
            "A dataset needs pyarrow: pip install 'airflow-provider-lucidworks[documents]', on the workers too."
        ) from None


def read_snapshot(output: str) -> Snapshot | None:
    """
    The snapshot of a dataset, or None where there is none yet.

    :param output: the folder's URI.
    :raises InputError: ``snapshot.json`` is somebody else's, or of a later release.
    :raises StorageError: the folder cannot be read.
    """
    data = read_file(below(output, SNAPSHOT))
    if data is None:
        return None
    try:
        return Snapshot.from_json(data)
    except ValueError as err:
        raise InputError(
            f"{below(output, SNAPSHOT)} is not what this version of the provider writes ({err}). Choose another "
            "folder, or read it with the release that wrote it."
        ) from None


def write_snapshot(output: str, snapshot: Snapshot) -> None:
    """Replace the snapshot: from here on readers see the new parts, and only those."""
    write_file(below(output, SNAPSHOT), snapshot.to_json())


def open_dataset(output: str) -> pyarrow.dataset.Dataset:
    """
    The chunks of a dataset as one snapshot names them, lazily.

    :param output: the folder's URI, local or of any store that ``ObjectStoragePath`` reaches.
    :return: a ``pyarrow.dataset.Dataset``; ``.to_table(filter=…)``, ``.to_batches()``, and DuckDB or Polars on top.
    :raises InputError: there is no dataset, or the ``documents`` extra is not installed.
    """
    check_installed()
    import pyarrow.dataset as ds

    snapshot = read_snapshot(output)
    if snapshot is None:
        raise InputError(f"{output} holds no dataset: there is no {SNAPSHOT}. Has a run ended well?")
    if not snapshot.parts:
        from lucidworks_provider.documents.chunk_columns import chunk_schema

        return ds.dataset(chunk_schema(snapshot.options, snapshot.dimension, with_hash=True).empty_table())
    places = [arrow_place(below(output, part.data)) for part in snapshot.parts]
    return ds.dataset([path for _, path in places], filesystem=places[0][0], format="parquet")


def index_schema() -> pa.Schema:
    """
    The columns of an index.

    ``size`` and ``stamp`` (etag or time of change) are those of the ``file`` that the document came from.
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("document_id", pa.string(), nullable=False),
            pa.field("content_hash", pa.string(), nullable=False),
            pa.field("size", pa.int64(), nullable=False),
            pa.field("stamp", pa.string(), nullable=False),
            pa.field("file", pa.string(), nullable=False),
            pa.field("chunks", pa.int32(), nullable=False),
            pa.field("part", pa.string(), nullable=False),
        ]
    )


def read_index(output: str, part: Part) -> Iterator[pa.RecordBatch]:
    """
    The documents of a part.

    :raises InputError: the snapshot names a file that is not there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = read_file(below(output, part.index))
    if data is None:
        raise InputError(
            f"{below(output, part.index)} is named by the snapshot and not there. Somebody removed it; restore it, "
            "or start again with full_refresh=True."
        )
    yield from pq.ParquetFile(pa.BufferReader(data)).iter_batches()
