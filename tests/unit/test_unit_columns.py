# SPDX-License-Identifier: Apache-2.0
"""Chunks as columns: what goes in comes out, whatever does not fit leaves nothing behind."""

import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidworks_provider.client.chunking import Chunk, ChunkingOptions
from lucidworks_provider.errors import MalformedResponseError
from lucidworks_provider.jobs import columns as columns_module
from lucidworks_provider.jobs.columns import ChunkColumns, ChunkParquet, ParquetWriter, chunk_schema
from lucidworks_provider.jobs.task import JsonLinesWriter

FLOATS = ChunkingOptions("sentence", "gte-small")
UNSIGNED = ChunkingOptions("sentence", "gte-small", model_config={"vectorQuantizationMethod": "min-max"})
SIGNED = ChunkingOptions("sentence", "gte-small", model_config={"vectorQuantizationMethod": "max-scale"})


def _float32(number: float) -> float:
    return float(struct.unpack("=f", struct.pack("=f", number))[0])


def columns_of(options: ChunkingOptions = FLOATS, **how: Any) -> ChunkColumns:
    return ChunkColumns(options, **{"with_hash": False} | how)


def taken(columns: ChunkColumns) -> pa.RecordBatch:
    (batch,) = columns.take()
    return batch


def chunk(vector: Sequence[Any], text: str = "One.", tokens: int | None = 3) -> Chunk:
    return Chunk(text, None, vector, tokens)


def test_the_columns_are_those_of_the_file_and_the_hash() -> None:
    columns = ChunkColumns(FLOATS, with_hash=True)
    assert list(columns.take()) == []
    columns.add("a", [chunk([1, 0.5]), chunk([-2.0, 0.25], "Zwei 🐄.", None)], [(0, 4), (None, None)], "h1")
    columns.add("nothing in it", [], [])
    columns.add("b", [chunk([0.1, 1e-30])], [(7, 11)], "h2")
    assert (columns.rows, columns.dimension) == (3, 2)
    assert columns.nbytes > 3 * 8
    batch = taken(columns)
    assert batch.schema == chunk_schema(FLOATS, 2, with_hash=True)
    assert batch.to_pydict() == {
        "document_id": ["a", "a", "b"],
        "chunk_index": [0, 1, 0],
        "text": ["One.", "Zwei 🐄.", "One."],
        "start": [0, None, 7],
        "end": [4, None, 11],
        "vector": [[1.0, 0.5], [-2.0, 0.25], [_float32(0.1), _float32(1e-30)]],
        "input_tokens": [3, None, 3],
        "content_hash": ["h1", "h1", "h2"],
    }
    assert (columns.rows, columns.nbytes, list(columns.take())) == (0, 0, [])


@pytest.mark.parametrize(
    ("options", "kind"), [(FLOATS, pa.float32()), (UNSIGNED, pa.uint8()), (SIGNED, pa.int8())]
)
def test_the_schema_of_a_snapshot_is_that_of_its_options(options: ChunkingOptions, kind: pa.DataType) -> None:
    schema = chunk_schema(options, 2, with_hash=True)
    again = chunk_schema(options.as_json(), 2, with_hash=True)
    assert (schema, schema.metadata) == (again, again.metadata)
    assert schema.field("vector").type == pa.list_(kind, 2)
    plain = chunk_schema(options, 0, with_hash=False)
    assert (plain.field("vector").type, "content_hash" in plain.names) == (pa.list_(kind), False)


@given(data=st.data(), options=st.sampled_from([FLOATS, UNSIGNED, SIGNED]))
def test_vectors_come_out_as_they_went_in(data: st.DataObject, options: ChunkingOptions) -> None:
    numbers: st.SearchStrategy[Any] = st.floats(width=32, allow_nan=False, allow_infinity=False)
    if options is not FLOATS:
        low, high = (0, 255) if options is UNSIGNED else (-128, 127)
        numbers = st.integers(low, high) | st.integers(low, high).map(float)
    dimension = data.draw(st.integers(1, 4))
    vectors = data.draw(
        st.lists(st.lists(numbers, min_size=dimension, max_size=dimension), min_size=1, max_size=6)
    )
    columns = ChunkColumns(options, with_hash=False)
    for n, vector in enumerate(vectors):
        columns.add(str(n), [chunk(data.draw(ways(vector)))] * 2, [(0, 4)] * 2)
    batch = taken(columns)
    batch.validate(full=True)
    assert batch.column("vector").to_pylist()[::2] == vectors
    assert batch.column("vector").to_pylist()[1::2] == vectors


def ways(vector: list[Any]) -> st.SearchStrategy[Sequence[Any]]:
    """A list, or what a large body is decoded to."""
    whole = {int} == set(map(type, vector))
    return st.sampled_from([vector, array("d", vector), *([array("q", vector)] if whole else [])])


@pytest.mark.parametrize(
    ("options", "bad", "words"),
    [
        (FLOATS, [chunk([1.0, 2.0]), chunk([1.0])], "vectors of [12] numbers"),
        (FLOATS, [chunk([1.0, 2.0, 3.0])], "vectors of 3 numbers, the ones before it of 2"),
        (FLOATS, [chunk([1.0, 2.0]), chunk([1e39, 0.0])], "'bad' has a value that the file cannot hold"),
        (FLOATS, [chunk([10**400, 0.0])], "cannot hold"),
        (FLOATS, [chunk([float("nan"), 0.0])], "not a finite number"),
        (FLOATS, [chunk([float("inf"), float("-inf")])], "not a finite number"),
        (FLOATS, [chunk([1.0, 2.0], "half \ud800 a pair")], "surrogates"),
        *((FLOATS, [chunk([1.0, 2.0], tokens=tokens)], "number of tokens") for tokens in (2**31, -1)),
        (FLOATS, [chunk(array("d", [1.0, 2.0])), chunk(array("d", [1e39, 0.0]))], "range of float32"),
        (FLOATS, [chunk(array("d", [float("inf"), float("-inf")]))], "cannot hold"),
        (FLOATS, [chunk(array("d", [1.0, 2.0])), chunk([1e39, 0.0])], "cannot hold"),
        (UNSIGNED, [chunk(array("q", [1, 2])), chunk(array("q", [0, 256]))], "whole numbers from 0 to 255"),
        (UNSIGNED, [chunk(array("d", [0.0, 256.0]))], "whole numbers from 0 to 255"),
        (UNSIGNED, [chunk(array("d", [0.5, 1.0]))], "whole numbers from 0 to 255"),
        (SIGNED, [chunk(array("q", [0, -129]))], "from -128 to 127"),
        (UNSIGNED, [chunk([1, 2]), chunk([0, 256])], "whole numbers from 0 to 255"),
        (UNSIGNED, [chunk([0, -1])], "whole numbers from 0 to 255"),
        (UNSIGNED, [chunk([0.5, 1])], "whole numbers"),
        (SIGNED, [chunk([0, -129])], "from -128 to 127"),
        (SIGNED, [chunk([127.5, 0])], "whole numbers"),
        (SIGNED, [chunk([10**400, 0])], "whole numbers"),
    ],
)
def test_a_document_that_does_not_fit_leaves_nothing_behind(
    options: ChunkingOptions, bad: list[Chunk], words: str
) -> None:
    columns = ChunkColumns(options, with_hash=True)
    if "before it of 2" in words:
        columns.add("first", [chunk([1, 2])], [(0, 4)], "h")
    before = (columns.rows, columns.nbytes, columns.dimension)
    with pytest.raises(MalformedResponseError, match=words) as caught:
        columns.add("bad", bad, [(0, 4)] * len(bad), "h")
    assert not caught.value.retryable, "another job would cost the same, for the same result"
    assert (columns.rows, columns.nbytes, columns.dimension) == before
    columns.add("good", [chunk([1, 2])], [(0, 4)], "h")
    assert taken(columns).column("document_id").to_pylist()[-1] == "good"


@pytest.mark.parametrize(
    ("vectors", "read"),
    [
        ([[1, 0.5], array("d", [2.5, 3.0]), array("q", [4, -5])], [[1.0, 0.5], [2.5, 3.0], [4.0, -5.0]]),
        # A whole number is rounded as any other.
        ([[2**25 + 1], array("q", [2**25 + 1]), array("d", [2**25 + 1])], [[float(2**25)]] * 3),
        # Beyond the range of a double by their sum, within that of float32 each: only doubles can do that.
        ([[3e38] * 4], [[_float32(3e38)] * 4]),
    ],
)
def test_vectors_of_several_kinds_in_one_document(vectors: list[Any], read: list[list[float]]) -> None:
    columns = columns_of()
    columns.add("a", [chunk(vector) for vector in vectors], [(0, 4)] * len(vectors))
    assert taken(columns).column("vector").to_pylist() == read


def test_a_dimension_that_is_known_is_held() -> None:
    columns = columns_of(dimension=3)
    with pytest.raises(MalformedResponseError, match="vectors of 2 numbers, the ones before it of 3"):
        columns.add("a", [chunk([1.0, 2.0])], [(0, 4)])
    columns.add("a", [chunk([1.0, 2.0, 3.0])], [(0, 4)])
    assert taken(columns).num_rows == 1


@pytest.mark.parametrize("arrow", [True, False])
def test_columns_that_each_chunk_repeats_are_written_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrow: bool
) -> None:
    monkeypatch.setattr(columns_module, "GROUP_BYTES", 1000)
    path, kinds = tmp_path / "c.parquet", {"body": pa.string(), "kind": pa.dictionary(pa.int8(), pa.string())}
    writer = ChunkParquet(path, FLOATS, kinds)
    for name, body in (("a", "x" * 300), ("b", "y" * 10), ("c", "z" * 5000)):
        kept: Any = [{"body": body, "kind": "k" * 5000}]
        if arrow:
            values = [pa.array([kept[0][column]], kind) for column, kind in kinds.items()]
            kept = pa.record_batch(values, [*kinds])
        writer.add(name, [chunk([1.0])] * 5, [(0, 4)] * 5, kept)
    writer.close()
    rows = [(row["document_id"], row["body"][0], len(row["body"])) for row in pq.read_table(path).to_pylist()]
    assert rows == [("a", "x", 300)] * 5 + [("b", "y", 10)] * 5 + [("c", "z", 5000)] * 5
    metadata = pq.ParquetFile(path).metadata
    groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert groups[-4:] == [1] * 4


def test_rows_of_many_bytes_do_not_wait_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns_module, "GROUP_BYTES", 1000)
    rows = pa.table({"body": ["x" * 600]})
    writer = ParquetWriter(tmp_path / "p.parquet")
    for _ in range(4):
        writer.write(rows)
    writer.close(rows.schema)
    assert pq.ParquetFile(tmp_path / "p.parquet").num_row_groups == 2


def test_rows_of_which_one_cannot_be_written_are_not_in_the_file(tmp_path: Path) -> None:
    writer = JsonLinesWriter(tmp_path / "p.jsonl")
    writer.write([{"a": 1}])
    with pytest.raises(UnicodeEncodeError):
        writer.write([{"a": 2}, {"a": "\ud800"}])
    writer.write([{"a": 3}])
    writer.close()
    assert (tmp_path / "p.jsonl").read_text() == '{"a": 1}\n{"a": 3}\n'
