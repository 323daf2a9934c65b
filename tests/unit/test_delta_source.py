# SPDX-License-Identifier: Apache-2.0
"""A Delta table as the source of a corpus."""

import io
import random
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from pyroaring import BitMap64
from read_files import short

from lucidworks_provider.delta.log import commit, protocol_action, read_table
from lucidworks_provider.delta.vectors import write_vectors
from lucidworks_provider.documents.document import Document
from lucidworks_provider.documents.readers import ReadOptions, read_file_documents
from lucidworks_provider.documents.source import Format, SourceFile, list_source
from lucidworks_provider.errors import InputError


def rows(*numbers: int) -> pa.Table:
    return pa.table(
        {
            "id": list(numbers),
            "text": [f"Text {n}." for n in numbers],
            "year": [2000 + n % 2 for n in numbers],
        }
    )


def documents(source: Path | str, reading: ReadOptions | None = None) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in list_source(str(source)):
        for one in read_file_documents(file, reading or ReadOptions()):
            assert isinstance(one, Document), one
            assert one.id not in found
            found[one.id] = one.text
    return found


def expected(*numbers: int) -> dict[str, str]:
    return {str(n): f"Text {n}." for n in numbers}


def test_the_rows_of_the_newest_version(tmp_path: Path) -> None:
    path = tmp_path / "table"
    deltalake.write_deltalake(path, rows(1, 2, 3))
    deltalake.write_deltalake(path, rows(4, 5), mode="append")
    deltalake.DeltaTable(path).delete("id = 2")
    assert len(list(path.glob("*.parquet"))) == 3
    assert documents(path) == expected(1, 3, 4, 5)
    deltalake.DeltaTable(path).create_checkpoint()
    deltalake.DeltaTable(path).optimize.compact()
    assert documents(path) == expected(1, 3, 4, 5)


def test_partitions(tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path, rows(1, 2, 3), partition_by=["year"])
    assert documents(tmp_path) == expected(1, 2, 3)
    assert documents(tmp_path, ReadOptions("id", "text")) == expected(1, 2, 3)


def test_long_texts_are_read_in_small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [random.Random(n).randbytes(500_000).hex() for n in range(24)]
    deltalake.write_deltalake(tmp_path, pa.table({"id": [str(n) for n in range(24)], "text": texts}))
    parts: list[int] = []

    class Counted(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            parts.append(len(buffer))
            return super().readinto(buffer)

    monkeypatch.setattr(Path, "open", lambda path, *_, **__: Counted(path))
    [file] = list_source(str(tmp_path))
    before = pa.total_allocated_bytes()
    held: list[int] = []
    for text, one in zip(texts, read_file_documents(file, ReadOptions()), strict=True):
        assert isinstance(one, Document)
        assert one.text == text
        held.append(pa.total_allocated_bytes() - before)
    assert max(held) < 20_000_000
    assert max(parts) < 4_000_000


def test_a_file_from_before_the_column_of_the_texts(tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path, rows(1).drop(["text"]))
    deltalake.write_deltalake(tmp_path, rows(2), mode="append", schema_mode="merge")
    found = [one for file in list_source(str(tmp_path)) for one in read_file_documents(file, ReadOptions())]
    assert sorted(short(found)) == [("1", "<empty>"), ("2", "Text 2.")]


def test_masked_rows_are_none_and_change_the_stamp(tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path, rows(1, 2, 3))
    (before,) = list_source(str(tmp_path))
    table = read_table(str(tmp_path))
    assert table is not None
    (file,) = table.files.values()
    vectors = write_vectors(table.uri, {file.path: BitMap64([1])})
    masked = type(file)(
        file.path, file.size, file.modified, file.records, vectors[file.path], stats=file.stats
    )
    assert commit(table.uri, 1, [protocol_action(True), file.remove(1), masked.add()])

    (after,) = list_source(str(tmp_path))
    assert documents(tmp_path) == expected(1, 3)
    assert (before.path, before.format) == (after.path, Format.DELTA)
    assert before.etag != after.etag
    # The same version again has the same etag.
    assert list(list_source(str(tmp_path))) == [after]


def test_a_version_is_read_though_the_table_moves_on(tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path, rows(1, 2))
    (file,) = list_source(str(tmp_path))
    deltalake.DeltaTable(tmp_path).delete("id = 1")
    found = list(read_file_documents(file, ReadOptions()))
    assert [one.id for one in found] == ["1", "2"]


def test_a_missing_column(tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path, rows(1))
    with pytest.raises(InputError, match="no column 'body'; it has 'id', 'text', 'year'"):
        documents(tmp_path, ReadOptions("id", "body"))
    with pytest.raises(InputError, match="text_column texts"):
        documents(tmp_path, ReadOptions("id", "year"))


def test_features_that_are_not_known_are_named(tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path, rows(1), configuration={"delta.columnMapping.mode": "none"})
    protocol = {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": ["magic"],
        "writerFeatures": ["magic"],
    }
    assert commit(str(tmp_path), 1, [{"protocol": protocol}])
    with pytest.raises(InputError, match="magic"):
        list(list_source(str(tmp_path)))


@pytest.mark.parametrize(
    ("metadata", "kind"),
    [
        ("metadata/v3.metadata.json", "an Iceberg"),
        ("metadata/00000-9c12d441-03fe-4693-9a96-a0705ddf69c1.gz.metadata.json", "an Iceberg"),
        (".hoodie/hoodie.properties", "a Hudi"),
    ],
)
def test_a_table_of_another_format_is_refused(tmp_path: Path, metadata: str, kind: str) -> None:
    for path in ("deep/table/data/a.parquet", f"deep/table/{metadata}"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    for source in (tmp_path, tmp_path / "deep/table"):
        with pytest.raises(InputError, match=rf"source: {tmp_path}/deep/table is {kind} table"):
            list(list_source(str(source)))
    (file,) = list_source(str(tmp_path / "deep/table/data"))
    assert file.path == "a.parquet"


def test_metadata_of_documents_is_no_table(tmp_path: Path) -> None:
    for path in ("metadata/a.metadata.json", "a.hoodie", "a.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    assert [file.path for file in list_source(str(tmp_path))] == ["a.txt"]


def test_a_table_within_a_folder_is_no_folder_of_files(tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path / "deep/table", rows(1))
    with pytest.raises(InputError, match=r"deep/table is a Delta table.*its source"):
        list(list_source(str(tmp_path)))
    with pytest.raises(InputError, match=r"deep/table is a Delta table"):
        list(list_source(str(tmp_path / "deep/table/*.parquet")))


def test_folders_of_writers_are_passed_over(tmp_path: Path) -> None:
    for name in (
        *("_temporary/0/a.txt", "_spark_metadata/b.txt", "sub/_temporary/c.txt", "_index.md"),
        *("_posts/one.md", "sub/_index.md"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("A text.")
    found: list[SourceFile] = list(list_source(str(tmp_path)))
    assert {file.path for file in found} == {"_index.md", "_posts/one.md", "sub/_index.md"}


def test_an_empty_table(tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path, rows(1))
    deltalake.DeltaTable(tmp_path).delete()
    with pytest.raises(InputError, match="has no rows"):
        list(list_source(str(tmp_path)))
