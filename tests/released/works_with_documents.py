# SPDX-License-Identifier: Apache-2.0
"""Extra ``documents``: a dataset is opened, a page of HTML has its text, and orjson is there for large results."""

from __future__ import annotations

import tempfile
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from lucidworks_provider.documents import open_dataset
from lucidworks_provider.documents.chunk_columns import chunk_schema
from lucidworks_provider.documents.dataset import Part, Snapshot, write_snapshot
from lucidworks_provider.documents.html_text import html_text

if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    options = {"chunker": "sentence", "model_id": "m"}
    (folder / "data").mkdir()
    schema = chunk_schema(options, 2, with_hash=True)
    needed = (field for field in schema if not field.nullable)
    row = {field.name: "x" if pa.types.is_string(field.type) else 0 for field in needed}
    row |= {"document_id": "a", "vector": [0.5, 0.25]}
    pq.write_table(pa.Table.from_pylist([row], schema=schema), folder / "data" / "a.parquet")
    part = Part("data/a.parquet", "index/a.parquet", documents=1, chunks=1, tokens=1, bytes=1)
    write_snapshot(str(folder), Snapshot("1", "2026-01-01T00:00:00+00:00", options, 2, (part,)))
    assert open_dataset(str(folder)).to_table()["vector"].to_pylist() == [[0.5, 0.25]]
    assert html_text("<p>Some <b>text</b></p>") == "Some text"
    assert orjson.loads(b"[1]") == [1]
