# SPDX-License-Identifier: Apache-2.0
"""Deletion vectors: bitmaps of the deleted rows of data files, one file of them per commit."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lucidworks_provider.delta.log import DeletionVector, file_uri, z85_decode, z85_encode
from lucidworks_provider.errors import StorageError
from lucidworks_provider.storage import read_range, write_file

if TYPE_CHECKING:
    from pyroaring import BitMap, BitMap64

_MAGIC = struct.pack("<I", 1681511377)
_FORMAT = b"\x01"


def write_vectors(table_uri: str, vectors: Mapping[str, BitMap | BitMap64]) -> dict[str, DeletionVector]:
    """
    Write one file with the deletion vectors of a commit.

    :param vectors: all deleted rows of each data file, by the file's path.
    :raises StorageError: the storage cannot be written.
    """
    from pyroaring import BitMap64

    if not vectors:
        return {}
    name = uuid.uuid4()
    pieces, offset = [_FORMAT], 1
    found: dict[str, DeletionVector] = {}
    for path, rows in vectors.items():
        bitmap = BitMap64(rows)
        bitmap.run_optimize()
        data = _MAGIC + bitmap.serialize()
        found[path] = DeletionVector("u", z85_encode(name.bytes), offset, len(data), len(bitmap))
        pieces += [struct.pack(">i", len(data)), data, struct.pack(">I", zlib.crc32(data))]
        offset += len(data) + 8
    write_file(f"{table_uri.rstrip('/')}/deletion_vector_{name}.bin", pieces)
    return found


def read_vector(table_uri: str, vector: DeletionVector) -> BitMap64:
    """
    The deleted rows of a data file.

    :raises StorageError: the vector's file is missing or corrupt; names it.
    """
    from pyroaring import BitMap64

    if vector.path is None:
        place = f"An inline deletion vector of {table_uri}"
        try:
            data = z85_decode(vector.path_or_inline)[: vector.size]
        except ValueError as err:
            raise StorageError(f"{place} is corrupt: {err}") from err
    else:
        place = file_uri(table_uri, vector.path)
        offset = vector.offset or 0
        found = read_range(place, offset, vector.size + 8)
        data, crc = found[4:-4], found[-4:]
        if found[:4] != struct.pack(">i", vector.size) or crc != struct.pack(">I", zlib.crc32(data)):
            raise StorageError(f"{place} is corrupt: the deletion vector at {offset} fails its checksum.")
    if data[:4] != _MAGIC:
        raise StorageError(f"{place} is corrupt: no deletion vector of a known format.")
    try:
        rows = BitMap64.deserialize(data[4:])
    except ValueError as err:
        raise StorageError(f"{place} is corrupt: {err}") from err
    if len(rows) != vector.cardinality:
        raise StorageError(
            f"{place} is corrupt: a deletion vector of {len(rows)} rows, the log says {vector.cardinality}."
        )
    return rows
