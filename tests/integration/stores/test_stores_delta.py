# SPDX-License-Identifier: Apache-2.0
"""A Delta table on object stores: commits that create only, rows, a checkpoint, cleanup."""

import re
import time
import uuid
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap

from lucidworks_provider.delta import log
from lucidworks_provider.delta.cleanup import clean_log, vacuum
from lucidworks_provider.delta.rows import read_rows
from lucidworks_provider.delta.vectors import write_vectors
from lucidworks_provider.storage import names_in, writing

SCHEMA = pa.schema([pa.field("n", pa.int64())])
OURS = re.compile(r"part-.*\.parquet")


def test_a_table_through_its_life(folder: str) -> None:
    uri, now = f"{folder}/chunks", int(time.time() * 1000)
    assert log.read_table(uri) is None
    name = f"part-{uuid.uuid4()}.parquet"
    for one in (name, f"part-{uuid.uuid4()}.parquet"):  # the second is one that a killed run leaves
        with writing(f"{uri}/{one}") as path:
            pq.write_table(pa.table({"n": list(range(10))}), path)
            size = path.stat().st_size
    file = log.DataFile(name, size, now, 10)
    metadata = log.metadata_action(
        SCHEMA, name=None, description=None, configuration={}, id=str(uuid.uuid4()), created_ms=now
    )
    assert log.commit(uri, 0, [log.protocol_action(True), metadata, file.add()])
    assert not log.commit(uri, 0, [])
    for version, gone in enumerate([[1], [1, 2]], 1):
        table = log.read_table(uri)
        assert table is not None
        old = table.files[name]
        vector = write_vectors(uri, {name: BitMap(gone)})[name]
        assert log.commit(uri, version, [old.remove(now), replace(old, vector=vector).add()])
    table = log.read_table(uri)
    assert table is not None
    log.write_checkpoint(table)
    later = time.time() + 9 * log.RETENTION
    assert vacuum(table, log.RETENTION, time.time(), OURS) == 0
    assert vacuum(table, log.RETENTION, later, OURS) == 2
    assert clean_log(table, log.RETENTION, later) == 2
    assert len(names_in(uri)) == 3
    table = log.read_table(uri)
    assert table is not None
    rows = [n for batch in read_rows(table, with_position=True) for n in batch["n"].to_pylist()]
    assert rows == [0, *range(3, 10)]
