# SPDX-License-Identifier: Apache-2.0
"""Deletion vectors: the file format, checked against the protocol's examples and with other readers."""

import base64
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from delta_world import World, by_delta_rs, ours, row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyroaring import BitMap, BitMap64

from lucidworks_provider.delta.log import DeletionVector, z85_decode, z85_encode
from lucidworks_provider.delta.rows import read_rows
from lucidworks_provider.delta.vectors import read_vector, write_vectors
from lucidworks_provider.errors import StorageError

# Rows near each other, far apart, in runs, and beyond 32 bits.
ROWS = st.one_of(
    st.frozensets(st.integers(0, 300), min_size=1),
    st.frozensets(st.integers(0, 2**20), min_size=1, max_size=50),
    st.builds(lambda a, n: frozenset(range(a, a + n)), st.integers(0, 2**33), st.integers(1, 5000)),
    st.frozensets(st.integers(0, 2**40), min_size=1, max_size=20),
)


def test_the_inline_example_of_the_protocol_has_another_format() -> None:
    """Its magic number is 1681511376, big endian; the text of the protocol allows 1681511377 only."""
    example = DeletionVector("i", "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L", None, 40, 6)
    with pytest.raises(StorageError, match="no deletion vector of a known format"):
        read_vector("s3://b/t", example)


def test_z85_as_its_specification_says() -> None:
    assert z85_encode(bytes.fromhex("864fd26fb559f75b")) == "HelloWorld"
    assert z85_decode("HelloWorld") == bytes.fromhex("864fd26fb559f75b")


@given(st.binary(max_size=64).filter(lambda data: len(data) % 4 == 0))
def test_z85_and_back(data: bytes) -> None:
    assert z85_decode(z85_encode(data)) == data


def test_the_bytes_of_a_file(tmp_path: Path) -> None:
    found = write_vectors(str(tmp_path), {"a": BitMap([3, 4, 7, 11, 18, 29]), "b": BitMap64([2**33])})
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    assert {vector.path for vector in found.values()} == {path.name}
    assert (found["a"].offset, found["a"].size, found["a"].cardinality) == (1, 44, 6)
    assert found["b"].offset == 1 + 44 + 8
    assert data[:5] == b"\x01" + struct.pack(">i", 44)
    assert data[5:9] == struct.pack("<I", 1681511377)
    assert data[49:53] == struct.pack(">I", zlib.crc32(data[5:49]))
    assert len(data) == found["b"].offset + found["b"].size + 8


def test_no_vectors_make_no_file(tmp_path: Path) -> None:
    assert write_vectors(str(tmp_path), {}) == {}
    assert list(tmp_path.iterdir()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_many_in_a_file_and_back(tmp_path: Path, sets: list[frozenset[int]]) -> None:
    vectors = {f"part-{n}.parquet": BitMap64(rows) for n, rows in enumerate(sets)}
    found = write_vectors(str(tmp_path), vectors)
    assert len({vector.path for vector in found.values()}) == 1
    for path, rows in vectors.items():
        assert found[path].cardinality == len(rows)
        assert read_vector(str(tmp_path), found[path]) == rows


@pytest.mark.parametrize("storage", ["u", "p", "i"])
def test_places_of_vectors(tmp_path: Path, storage: str) -> None:
    vector = write_vectors(str(tmp_path), {"a": BitMap([1, 5])})["a"]
    assert vector.path is not None
    file = tmp_path / vector.path
    match storage:
        case "u":
            (tmp_path / "ab").mkdir()
            file.rename(tmp_path / "ab" / file.name)
            vector = replace(vector, path_or_inline=f"ab{vector.path_or_inline}")
        case "p":
            file = file.rename(tmp_path / "a b.bin")
            vector = replace(vector, storage="p", path_or_inline=f"file:{tmp_path}/a%20b.bin")
        case "i":
            data = file.read_bytes()[5:-4]
            padded = data + bytes(-len(data) % 4)
            vector = replace(vector, storage="i", path_or_inline=z85_encode(padded), offset=None)
            file.unlink()
    assert list(read_vector(str(tmp_path), vector)) == [1, 5]


def damaged(tmp_path: Path, at: int, found: bytes) -> DeletionVector:
    vector = write_vectors(str(tmp_path), {"a": BitMap([1, 5])})["a"]
    assert vector.path is not None
    data = bytearray((tmp_path / vector.path).read_bytes())
    data[at : at + len(found)] = found
    (tmp_path / vector.path).write_bytes(data)
    return vector


@pytest.mark.parametrize(("at", "found"), [(1, b"\xff"), (9, b"\xff"), (20, b"\xff"), (-2, b"\x00\x00")])
def test_a_damaged_file_is_named(tmp_path: Path, at: int, found: bytes) -> None:
    vector = damaged(tmp_path, at, found)
    with pytest.raises(StorageError, match=rf"{vector.path} is corrupt: the deletion vector at 1 fails"):
        read_vector(str(tmp_path), vector)


def test_a_short_file_is_named(tmp_path: Path) -> None:
    vector = write_vectors(str(tmp_path), {"a": BitMap([1, 5])})["a"]
    assert vector.path is not None
    path = tmp_path / vector.path
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(StorageError, match=f"{vector.path} is corrupt"):
        read_vector(str(tmp_path), vector)
    path.unlink()
    with pytest.raises(StorageError, match=f"{vector.path} cannot be read"):
        read_vector(str(tmp_path), vector)


def test_a_vector_that_is_not_the_one_of_the_log(tmp_path: Path) -> None:
    vector = write_vectors(str(tmp_path), {"a": BitMap([1, 5])})["a"]
    with pytest.raises(StorageError, match="a deletion vector of 2 rows, the log says 3"):
        read_vector(str(tmp_path), replace(vector, cardinality=3))
    inline = DeletionVector("i", z85_encode(b"12345678"), None, 8, 1)
    with pytest.raises(StorageError, match="An inline deletion vector of s3://b/t is corrupt: no deletion"):
        read_vector("s3://b/t", inline)
    data = struct.pack("<I", 1681511377) + b"\xff" * 12
    with pytest.raises(StorageError, match="An inline deletion vector of s3://b/t is corrupt"):
        read_vector("s3://b/t", DeletionVector("i", z85_encode(data), None, 16, 1))
    with pytest.raises(StorageError, match="An inline deletion vector of s3://b/t is corrupt"):
        read_vector("s3://b/t", DeletionVector("i", "\u20ac" * 20, None, 16, 1))


def test_the_alphabets_are_complete() -> None:
    everything = bytes(range(256))
    assert z85_decode(z85_encode(everything)) == everything
    assert len(set(z85_encode(everything))) > 70
    assert z85_encode(everything) != base64.b85encode(everything).decode()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.frozensets(st.integers(0, 149), max_size=150), min_size=1, max_size=3))
def test_any_rows_of_any_files(
    tmp_path_factory: pytest.TempPathFactory, nights: list[frozenset[int]]
) -> None:
    """Commits that mask rows of three files: delta-rs and this reader see the others."""
    world = World(tmp_path_factory.mktemp("t") / "chunks", group_rows=20)
    world.create(*([row(n) for n in range(start, start + 50)] for start in (0, 50, 100)))
    left = set(range(150))
    for night in nights:
        world.change(delete=[f"doc-{n}" for n in night])
        left -= night
        assert sorted(one["n"] for one in ours(world.uri)) == sorted(left)
        assert sorted(one["n"] for one in by_delta_rs(world.uri)) == sorted(left)
        assert sum(file.live or 0 for file in world.table.files.values()) == len(left)


def test_positions_are_those_of_the_file(tmp_path: Path) -> None:
    world = World(tmp_path / "chunks", group_rows=7)
    world.create([row(n) for n in range(50)], [row(n) for n in range(50, 60)])
    gone = [*range(7, 14), 20, 48, 55]
    table = world.change(delete=[f"doc-{n}" for n in gone])
    found = [
        one
        for batch in read_rows(table, columns=["n"], with_position=True, batch_rows=3)
        for one in batch.to_pylist()
    ]
    assert len(found) == 50
    starts = {path: 0 if file.records == 50 else 50 for path, file in table.files.items()}
    assert all(one["n"] == starts[one["_file"]] + one["_row"] for one in found)
