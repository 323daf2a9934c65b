# SPDX-License-Identifier: Apache-2.0
"""Extra ``documents``: tables with deletion vectors, the text of HTML, and orjson for large results."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap64

from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus import open_dataset
from lucidworks_provider.delta import check_installed
from lucidworks_provider.delta.log import DataFile, commit, metadata_action, protocol_action
from lucidworks_provider.delta.vectors import write_vectors
from lucidworks_provider.documents.html_text import html_text
from lucidworks_provider.jobs.columns import stored_chunk_schema

if __name__ == "__main__":
    check_installed()
    folder = Path(tempfile.mkdtemp())
    options = ChunkingOptions("sentence", "m")
    schema = stored_chunk_schema(options, 2)
    needed = (field for field in schema if not field.nullable)
    row = {field.name: "x" if pa.types.is_string(field.type) else 0 for field in needed}
    rows = [
        row | {"document_id": "a", "vector": [0.5, 0.25]},
        row | {"document_id": "b", "vector": [1.0, 0.0]},
    ]
    table = folder / "chunks"
    table.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), table / "a.parquet")
    (vector,) = write_vectors(str(table), {"a.parquet": BitMap64([1])}).values()
    now = round(time.time() * 1000)
    properties = {"lucidworks.options": json.dumps(options.as_json()), "lucidworks.dimension": "2"}
    metadata = metadata_action(
        schema, name="chunks", description="", configuration=properties, id="a", created_ms=now
    )
    file = DataFile("a.parquet", (table / "a.parquet").stat().st_size, now, len(rows), vector)
    actions = [protocol_action(deletion_vectors=True), metadata, file.add()]
    assert commit(str(table), 0, actions, operation="WRITE")
    assert open_dataset(str(folder)).to_table()["vector"].to_pylist() == [[0.5, 0.25]]
    assert html_text("<p>Some <b>text</b></p>") == "Some text"
    assert orjson.loads(b"[1]") == [1]
