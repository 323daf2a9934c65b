# SPDX-License-Identifier: Apache-2.0
"""
The transaction log of a Delta table: reads snapshots, commits versions, writes checkpoints.

A snapshot is the newest checkpoint at or before its version, plus the commits after it. A logical file is a data
file together with its deletion vector, so replay compares both.
"""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from lucidworks_provider import __version__
from lucidworks_provider.delta.schema import check_schema, delta_schema
from lucidworks_provider.errors import InputError
from lucidworks_provider.storage import (
    create_file,
    local_path,
    names_in,
    read_file,
    reading_parquet,
    with_connection,
    write_file,
    writing,
)
from lucidworks_provider.threads import read_ahead

if TYPE_CHECKING:
    import pyarrow as pa

LOG = "_delta_log"
RETENTION = 7 * 86400.0
# Features that this package reads, or that change nothing for a table without columns of their types.
_READER_FEATURES = {"deletionVectors", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "variantType"}
# Other writers list these on every table that they upgrade; the first two are checked for being active.
_WRITER_FEATURES = {"appendOnly", "invariants", "deletionVectors", "variantType"}
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10})|\.[0-9a-f-]{36})?\.(?:parquet|json)")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
# What is decoded of a checkpoint: statistics of columns can be most of it.
_CHECKPOINT_COLUMNS = [
    *("protocol", "metaData", "txn", "remove", "sidecar", "add.path", "add.partitionValues", "add.size"),
    *("add.modificationTime", "add.stats", "add.stats_parsed.numRecords", "add.tags", "add.deletionVector"),
]


# Z85 is Python's Base85 with another alphabet.
_PYTHON = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_Z85 = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def z85_encode(data: bytes) -> str:
    """:param data: of a multiple of four bytes."""
    return base64.b85encode(data).translate(bytes.maketrans(_PYTHON, _Z85)).decode()


def z85_decode(text: str) -> bytes:
    """:raises ValueError: not a Z85 text."""
    return base64.b85decode(text.encode().translate(bytes.maketrans(_Z85, _PYTHON)))


def _without_none(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


class _LogChangedError(Exception):
    """Files of the log were removed between the listing and the read."""


@dataclass(frozen=True, slots=True)
class DeletionVector:
    """
    The rows of a data file that are deleted.

    :param storage: ``u``: a file in the table's folder, named by an encoded UUID; ``p``: a file with an absolute
        path; ``i``: inline.
    :param offset: of the vector in its file.
    :param size: bytes of the serialized vector.
    :param cardinality: number of deleted rows.
    """

    storage: str
    path_or_inline: str
    offset: int | None
    size: int
    cardinality: int

    @property
    def path(self) -> str | None:
        """Path of the vector's file, relative to the table or absolute; None for an inline vector."""
        if self.storage == "u":
            prefix, name = self.path_or_inline[:-20], uuid.UUID(bytes=z85_decode(self.path_or_inline[-20:]))
            return f"{prefix}{'/' if prefix else ''}deletion_vector_{name}.bin"
        return unquote(self.path_or_inline) if self.storage == "p" else None

    @property
    def unique_id(self) -> str:
        """Identifies the vector among those of its data file."""
        at = "" if self.offset is None else f"@{self.offset}"
        return f"{self.storage}{self.path_or_inline}{at}"

    def to_json(self) -> dict[str, Any]:
        """The descriptor as the log stores it."""
        return _without_none(
            storageType=self.storage,
            pathOrInlineDv=self.path_or_inline,
            offset=self.offset,
            sizeInBytes=self.size,
            cardinality=self.cardinality,
        )

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> DeletionVector:
        """:raises KeyError: a field is missing. :raises ValueError: there is no such place."""
        place = found["storageType"], found["pathOrInlineDv"], found.get("offset")
        vector = cls(*place, found["sizeInBytes"], found["cardinality"])
        if vector.storage not in {"u", "p", "i"} or vector.path == "":
            raise ValueError(f"deletion vector {vector.unique_id!r}")
        return vector


@dataclass(frozen=True, slots=True)
class DataFile:
    """
    A data file of a snapshot with its deletion vector.

    :param path: decoded; relative to the table, or absolute.
    :param modified: milliseconds since the epoch.
    :param records: rows of the file, deleted ones included; None where the log does not say.
    :param stats: per-file statistics, JSON.
    :param logged_path: the path as the log spells it, where another writer encodes differently.
    """

    path: str
    size: int
    modified: int
    records: int | None
    vector: DeletionVector | None = None
    partition_values: Mapping[str, str | None] = field(default_factory=dict)
    stats: str | None = None
    tags: Mapping[str, str] | None = None
    logged_path: str | None = None

    @property
    def live(self) -> int | None:
        """Rows that are not deleted."""
        if self.records is None:
            return None
        return self.records - (self.vector.cardinality if self.vector else 0)

    @property
    def paths(self) -> set[str]:
        """Paths of the data file and of the file of its deletion vector."""
        return {self.path} | ({self.vector.path} if self.vector and self.vector.path else set())

    @property
    def key(self) -> tuple[str, str | None]:
        """Identifies the logical file."""
        return self.path, self.vector.unique_id if self.vector else None

    def add(self, *, data_change: bool = True) -> dict[str, Any]:
        """The action that puts the file into a version."""
        stats = json.loads(self.stats) if self.stats else {}
        if self.records is not None:
            stats["numRecords"] = self.records
        if self.vector is not None and len(stats) > 1:
            # Minima and maxima may be those of deleted rows.
            stats["tightBounds"] = False
        return {
            "add": _without_none(
                **self._shared_fields(data_change),
                modificationTime=self.modified,
                stats=json.dumps(stats, separators=(",", ":")) if stats else None,
                tags=dict(self.tags) if self.tags is not None else None,
            )
        }

    def remove(self, now_ms: int) -> dict[str, Any]:
        """The action that removes the file from a version and leaves a tombstone."""
        found = _without_none(**self._shared_fields(), deletionTimestamp=now_ms, extendedFileMetadata=True)
        return {"remove": found}

    def _shared_fields(self, data_change: bool = True) -> dict[str, Any]:
        return {
            "path": self.logged_path or quote(self.path),
            "partitionValues": dict(self.partition_values),
            "size": self.size,
            "dataChange": data_change,
            "deletionVector": self.vector.to_json() if self.vector else None,
        }

    @classmethod
    def from_action(cls, found: Mapping[str, Any]) -> DataFile:
        """
        The file of an ``add`` or ``remove`` action.

        :raises KeyError: a field is missing.
        """
        vector, stats = found.get("deletionVector"), found.get("stats")
        known = json.loads(stats) if stats else found.get("stats_parsed") or {}
        return cls(
            unquote(found["path"]),
            found.get("size") or 0,
            found.get("modificationTime") or 0,
            known.get("numRecords"),
            DeletionVector.from_json(vector) if vector else None,
            dict(found.get("partitionValues") or {}),
            stats,
            dict(found["tags"]) if found.get("tags") is not None else None,
            found["path"] if found["path"] != quote(unquote(found["path"])) else None,
        )


@dataclass(frozen=True, slots=True)
class Table:
    """
    A snapshot: one version of a table.

    :param files: by path.
    :param tombstones: ``remove`` actions of logical files that are no longer in the table, by path and vector.
    :param schema: the struct of ``schemaString``.
    :param metadata: the ``metaData`` action.
    :param protocol: the ``protocol`` action.
    :param txns: the last ``txn`` action of each application.
    :param timestamp_ms: of the version's commit; None where a checkpoint replaced it.
    :param checkpoint: version of the one that it was read from; -1 for none.
    """

    uri: str
    version: int
    files: Mapping[str, DataFile]
    tombstones: Mapping[tuple[str, str | None], Mapping[str, Any]]
    schema: Mapping[str, Any]
    metadata: Mapping[str, Any]
    protocol: Mapping[str, Any]
    txns: Mapping[str, Mapping[str, Any]]
    timestamp_ms: int | None
    checkpoint: int = -1

    @property
    def transactions(self) -> dict[str, int]:
        """The last version of each application."""
        return {app: int(txn["version"]) for app, txn in self.txns.items()}

    @property
    def id(self) -> str:
        return str(self.metadata["id"])

    @property
    def configuration(self) -> dict[str, str]:
        return dict(self.metadata.get("configuration") or {})

    @property
    def reader_version(self) -> int:
        return int(self.protocol["minReaderVersion"])

    @property
    def writer_version(self) -> int:
        return int(self.protocol["minWriterVersion"])

    @property
    def writer_features(self) -> frozenset[str]:
        return frozenset(self.protocol.get("writerFeatures") or ())


def file_uri(table_uri: str, path: str) -> str:
    """The URI of a data file: paths of the log are relative to the table, absolute or URIs."""
    if _ABSOLUTE.match(path):
        scheme, _, rest = path.partition(":")
        uri = path if rest.startswith("//") else f"{scheme}://{rest}"
        return with_connection(uri, table_uri)
    if path.startswith("/"):
        scheme, separator, rest = table_uri.partition("://")
        return path if local_path(table_uri) else f"{scheme}{separator}{rest.partition('/')[0]}{path}"
    return f"{table_uri.rstrip('/')}/{path}"


def log_uri(table_uri: str, name: str) -> str:
    return f"{table_uri.rstrip('/')}/{LOG}/{name}"


def commit_name(version: int) -> str:
    return f"{version:020}.json"


@dataclass(frozen=True, slots=True)
class LogFiles:
    """
    What a listing of the log holds.

    :param commits: versions.
    :param checkpoints: names of complete checkpoints by version.
    """

    commits: frozenset[int]
    checkpoints: Mapping[int, Sequence[str]]

    @classmethod
    def of(cls, names: Iterable[str]) -> LogFiles:
        """The commits and complete checkpoints among the names of a listing."""
        commits: set[int] = set()
        found: dict[tuple[int, str], list[str]] = {}
        for name in sorted(names):
            if commit := _COMMIT.fullmatch(name):
                commits.add(int(commit[1]))
            elif checkpoint := _CHECKPOINT.fullmatch(name):
                parts = checkpoint[3] or name
                found.setdefault((int(checkpoint[1]), parts), []).append(name)
        complete = {
            version: names
            for (version, parts), names in found.items()
            if not parts.isdigit() or len(names) == int(parts)
        }
        return cls(frozenset(commits), complete)

    def base(self, version: int) -> int | None:
        """
        The checkpoint that a version is read from, -1 for none.

        :return: None where the version cannot be read.
        """
        at = max((one for one in self.checkpoints if one <= version), default=-1)
        return at if version >= 0 and all(one in self.commits for one in range(at + 1, version + 1)) else None

    def versions(self) -> list[int]:
        """All versions that can be read."""
        found: list[int] = []
        for version in sorted(self.commits | self.checkpoints.keys()):
            if version in self.checkpoints or version == 0 or (found and found[-1] == version - 1):
                found.append(version)
        return found


def read_table(uri: str, version: int | None = None, *, known: Table | None = None) -> Table | None:
    """
    A snapshot of a table.

    :param version: the newest one if it is None.
    :param known: an earlier snapshot, from which only later commits are read.
    :return: None where there is no table.
    :raises InputError: the version does not exist or its log files were cleaned up, the table needs features that
        this reader does not implement, or the log is corrupt.
    :raises StorageError: the log cannot be read.
    """
    with suppress(_LogChangedError):
        return _read_table(uri, version, known)
    try:
        return _read_table(uri, version, None)
    except _LogChangedError as err:
        raise InputError(f"The log of {uri} is corrupt: {err}") from None


def _read_table(uri: str, version: int | None, known: Table | None) -> Table | None:
    files = LogFiles.of(names_in(log_uri(uri, "").rstrip("/")))
    if not files.commits and not files.checkpoints:
        return None
    wanted = max(files.commits | files.checkpoints.keys()) if version is None else version
    base = files.base(wanted)
    if base is None:
        if version is None:
            raise _LogChangedError(f"commits before version {wanted} are missing.")
        raise InputError(
            f"{uri} has no version {version}. Versions that can be read: {_ranges(files.versions())}."
        )
    replay, first = _Replay(), base + 1
    if known is not None and known.checkpoint == base and known.version <= wanted:
        if known.version == wanted:
            return known
        replay, first = _Replay.of(known), known.version + 1
    elif base >= 0:
        with _corrupt(log_uri(uri, files.checkpoints[base][0])):
            replay.apply(_read_checkpoint(uri, files.checkpoints[base]))
    places = [log_uri(uri, commit_name(one)) for one in range(first, wanted + 1)]
    for place, data in zip(places, read_ahead(read_file, places), strict=True):
        with _corrupt(place):
            replay.apply(_parse_actions(place, data))
    return replace(replay.table(uri, wanted), checkpoint=base)


def _ranges(versions: Sequence[int]) -> str:
    found: list[list[int]] = []
    for version in versions:
        if found and found[-1][1] == version - 1:
            found[-1][1] = version
        else:
            found.append([version, version])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in found) or "none"


class _Replay:
    """Actions in the order of their versions, reduced to a snapshot."""

    def __init__(self) -> None:
        self._single: dict[str, Mapping[str, Any]] = {}
        self._txns: dict[str, Mapping[str, Any]] = {}
        self._files: dict[str, DataFile] = {}
        self._tombstones: dict[tuple[str, str | None], Mapping[str, Any]] = {}

    @classmethod
    def of(cls, table: Table) -> _Replay:
        """The actions up to a snapshot."""
        replay = cls()
        replay._single = {"protocol": table.protocol, "metaData": table.metadata}
        replay._txns, replay._files = dict(table.txns), dict(table.files)
        replay._tombstones = dict(table.tombstones)
        return replay

    def apply(self, actions: Iterable[Mapping[str, Any]]) -> None:
        """Apply the actions of a version, which are in no order."""
        self._single.pop("commitInfo", None)
        added: list[DataFile] = []
        for action in actions:
            for kind, found in action.items():
                if kind in {"protocol", "metaData", "commitInfo"}:
                    _check_single(kind, found)
                    self._single[kind] = found
                elif kind == "txn":
                    self._txns[found["appId"]] = {**found, "version": int(found["version"])}
                elif kind == "add":
                    added.append(DataFile.from_action(found))
                elif kind == "remove":
                    file = DataFile.from_action(found)
                    self._tombstones[file.key] = found
                    if file.path in self._files and self._files[file.path].key == file.key:
                        del self._files[file.path]
        for file in added:
            self._files[file.path] = file
            self._tombstones.pop(file.key, None)

    def table(self, uri: str, version: int) -> Table:
        """:raises InputError: the table cannot be read."""
        if missing := {"protocol", "metaData"} - self._single.keys():
            raise InputError(
                f"The log of {uri} is corrupt: version {version} has no {' and no '.join(missing)}."
            )
        commit = self._single.get("commitInfo") or {}
        metadata = self._single["metaData"]
        table = Table(
            uri.rstrip("/"),
            version,
            self._files,
            self._tombstones,
            json.loads(metadata["schemaString"]),
            metadata,
            self._single["protocol"],
            self._txns,
            commit.get("inCommitTimestamp", commit.get("timestamp")),
        )
        _check_readable(table)
        return table


def _check_single(kind: str, found: Mapping[str, Any]) -> None:
    """:raises KeyError, TypeError, ValueError, AttributeError: a field is missing, or of another type."""
    if kind == "protocol":
        for name in ("minReaderVersion", "minWriterVersion"):
            int(found[name])
        for name in ("readerFeatures", "writerFeatures"):
            iter(found.get(name) or ())
    elif kind == "metaData":
        check_schema(json.loads(found["schemaString"]))
        dict(found.get("configuration") or {})
    else:
        dict(found or {})


def _check_readable(table: Table) -> None:
    unknown = set(table.protocol.get("readerFeatures") or ()) - _READER_FEATURES
    if table.configuration.get("delta.columnMapping.mode", "none") == "none":
        unknown.discard("columnMapping")
    else:
        unknown.add("columnMapping")
    if table.reader_version > 3:
        unknown.add(f"reader version {table.reader_version}")
    if unknown:
        raise InputError(
            f"{table.uri} needs Delta features that are not supported here: {', '.join(sorted(unknown))}. "
            "Drop the features, or export the table as Parquet."
        )


def check_writable(table: Table) -> None:
    """
    Refuse a table that another writer upgraded beyond what this package writes.

    :raises InputError: names the features.
    """
    active = set(table.writer_features - _WRITER_FEATURES)
    if table.configuration.get("delta.appendOnly") == "true":
        active.add("appendOnly")
    if '"delta.invariants"' in json.dumps(table.schema):
        active.add("invariants")
    if 2 < table.writer_version < 7 or table.writer_version > 7:
        active.add(f"writer version {table.writer_version}")
    if table.metadata.get("partitionColumns"):
        active.add("partition columns")
    if active:
        raise InputError(
            f"{table.uri} was upgraded by another writer and uses {', '.join(sorted(active))}, which is not "
            "supported here. Drop the features, or choose another output."
        )


@contextmanager
def _corrupt(uri: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        if isinstance(err, InputError):
            raise
        raise InputError(f"The log is corrupt: {uri} ({type(err).__name__}: {err})") from err


def _parse_actions(uri: str, data: bytes | None) -> list[dict[str, Any]]:
    if data is None:
        raise _LogChangedError(f"{uri} is missing.")
    # Not splitlines(), which also splits at characters that JSON allows in texts.
    return [json.loads(line) for line in data.split(b"\n") if line.strip()]


def _read_checkpoint(uri: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        place = log_uri(uri, name)
        for action in (
            _parse_actions(place, read_file(place)) if name.endswith(".json") else _read_parquet(place)
        ):
            if sidecar := action.pop("sidecar", None):
                # Relative to their folder, or absolute.
                path = unquote(sidecar["path"])
                yield from _read_parquet(file_uri(log_uri(uri, "_sidecars"), path))
            yield action


def _read_parquet(uri: str) -> Iterator[dict[str, Any]]:
    def damaged(err: Exception) -> InputError:
        return InputError(f"The log is corrupt: {uri} ({type(err).__name__}: {err})")

    with reading_parquet(uri, _LogChangedError(f"{uri} is missing."), damaged) as file:
        for batch in file.iter_batches(columns=_CHECKPOINT_COLUMNS, batch_size=4096):
            for row in batch.to_pylist():
                yield {kind: found for kind, found in row.items() if found is not None}


def commit(
    uri: str,
    version: int,
    actions: Sequence[Mapping[str, Any]],
    *,
    operation: str = "WRITE",
) -> bool:
    """
    Create a version, in one step and only if it does not exist.

    :return: whether the version is this commit, also after a request without a response.
    :raises StorageError: the storage cannot be written.
    """
    info = {
        "timestamp": int(time.time() * 1000),
        "operation": operation,
        "operationParameters": {},
        "isBlindAppend": False,
        "engineInfo": f"airflow-provider-lucidworks/{__version__}",
        # Makes the bytes unique, so that the outcome of a request without a response can be determined.
        "txnId": str(uuid.uuid4()),
    }
    lines = [json.dumps(one, separators=(",", ":")) for one in ({"commitInfo": info}, *actions)]
    return create_file(log_uri(uri, commit_name(version)), "\n".join([*lines, ""]).encode())


def protocol_action(deletion_vectors: bool) -> dict[str, Any]:
    """The protocol of a new table: only the features that are used."""
    if not deletion_vectors:
        return {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}
    features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    return {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}}


def metadata_action(
    schema: pa.Schema,
    *,
    name: str | None,
    description: str | None,
    configuration: Mapping[str, str],
    id: str,
    created_ms: int,
) -> dict[str, Any]:
    """
    The metadata of a table.

    :param configuration: with ``delta.enableDeletionVectors`` where there are any.
    :raises InputError: a column has a type that Delta tables do not have.
    """
    return {
        "metaData": _without_none(
            id=id,
            name=name,
            description=description,
            format={"provider": "parquet", "options": {}},
            schemaString=json.dumps(delta_schema(schema), separators=(",", ":")),
            partitionColumns=[],
            configuration=dict(configuration),
            createdTime=created_ms,
        )
    }


def txn_action(app_id: str, version: int, last_updated_ms: int) -> dict[str, Any]:
    """The transaction identifier of an application, committed with its data."""
    return {"txn": {"appId": app_id, "version": version, "lastUpdated": last_updated_ms}}


def write_checkpoint(table: Table, *, retention_s: float = RETENTION, now: float | None = None) -> None:
    """
    Write a snapshot as a checkpoint, from which readers start.

    :param retention_s: tombstones that are older are left out.
    :raises InputError: the table uses features that a checkpoint of this package would lose.
    :raises StorageError: the storage cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_writable(table)
    expired = ((time.time() if now is None else now) - retention_s) * 1000
    tombstones = [one for one in table.tombstones.values() if (one.get("deletionTimestamp") or 0) > expired]
    rows: list[dict[str, Any]] = [{"protocol": table.protocol}, {"metaData": table.metadata}]
    rows += [{"txn": txn} for txn in table.txns.values()]
    rows += [file.add(data_change=False) for file in table.files.values()]
    rows += [{"remove": {**one, "dataChange": False}} for one in tombstones]
    with writing(log_uri(table.uri, f"{table.version:020}.checkpoint.parquet")) as path:
        pq.write_table(pa.Table.from_pylist(rows, schema=_checkpoint_schema()), path, compression="zstd")
        size = path.stat().st_size
    last, newest = log_uri(table.uri, "_last_checkpoint"), -1
    with suppress(ValueError, AttributeError, TypeError):
        newest = int(json.loads(read_file(last) or b"{}").get("version", -1))
    if newest <= table.version:
        hint = {"version": table.version, "size": len(rows), "sizeInBytes": size}
        write_file(last, json.dumps(hint | {"numOfAddFiles": len(table.files)}).encode())


def _checkpoint_schema() -> pa.Schema:
    import pyarrow as pa

    def struct(**fields: pa.DataType) -> pa.DataType:
        return pa.struct(list(fields.items()))

    text, integer, long, flag = pa.string(), pa.int32(), pa.int64(), pa.bool_()
    texts, pairs = pa.list_(text), pa.map_(text, text)
    vector = struct(
        storageType=text, pathOrInlineDv=text, offset=integer, sizeInBytes=integer, cardinality=long
    )
    file = {
        "path": text,
        "partitionValues": pairs,
        "size": long,
        "dataChange": flag,
        "deletionVector": vector,
    }
    return pa.schema(
        {
            "protocol": struct(
                minReaderVersion=integer, minWriterVersion=integer, readerFeatures=texts, writerFeatures=texts
            ),
            "metaData": struct(
                id=text,
                name=text,
                description=text,
                format=struct(provider=text, options=pairs),
                schemaString=text,
                partitionColumns=texts,
                configuration=pairs,
                createdTime=long,
            ),
            "txn": struct(appId=text, version=long, lastUpdated=long),
            "add": struct(**file, modificationTime=long, stats=text, tags=pairs),
            "remove": struct(**file, deletionTimestamp=long, extendedFileMetadata=flag),
        }
    )
