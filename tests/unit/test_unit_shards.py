# SPDX-License-Identifier: Apache-2.0
"""The shards of a corpus, and their listings."""

import json
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from lucidworks_provider.corpus.shards import Shard, read_listing, read_shard, shard_of, write_listings
from lucidworks_provider.documents.source import Format, SourceFile, list_source
from lucidworks_provider.errors import InputError

HEAD = b'{"number": 0, "of": 1}\n'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for number in range(200):
        file = folder / f"{number % 7}" / f"Nr. {number} ä.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(number))
    (folder / "records.jsonl").write_text("{}")
    return folder


def test_every_file_is_in_one_listing_with_all_that_is_known_of_it(source: Path, tmp_path: Path) -> None:
    uris = write_listings(str(source), f"file://{tmp_path}/listings/", shards=8)

    assert uris == [f"file://{tmp_path}/listings/shard-00{number}-of-008.jsonl" for number in range(8)]
    assert [read_shard(uri) for uri in uris] == [Shard(number, 8) for number in range(8)]
    listed = [list(read_listing(uri)) for uri in uris]
    everything = [file for files in listed for file in files]
    path = attrgetter("path")
    assert sorted(everything, key=path) == sorted(list_source(str(source)), key=path)
    assert len({file.path for file in everything}) == 201
    assert all(files for files in listed)
    assert Format.JSON_LINES in {file.format for file in everything}
    assert sorted(path.name for path in (tmp_path / "listings").iterdir()) == [
        f"shard-00{number}-of-008.jsonl" for number in range(8)
    ]
    head, first, *_ = Path(uris[0].removeprefix("file://")).read_text().splitlines()
    assert json.loads(head) == {"number": 0, "of": 8}
    assert set(json.loads(first)) == {"uri", "path", "size", "etag", "format"}


def test_a_file_is_of_the_shard_whose_listing_has_it(source: Path, tmp_path: Path) -> None:
    for uri in write_listings(str(source), f"{tmp_path}/listings", shards=5):
        shard, files = read_shard(uri), list(read_listing(uri))
        assert files
        assert all(shard.has(file.path) for file in files)
        others = [Shard(number, 5) for number in range(5) if number != shard.number]
        assert not any(other.has(file.path) for file in files for other in others)


def test_listings_of_another_number_of_shards_do_not_replace_the_first(source: Path, tmp_path: Path) -> None:
    first = write_listings(str(source), f"{tmp_path}/listings", shards=3)
    second = write_listings(str(source), f"{tmp_path}/listings", shards=2)
    assert set(first).isdisjoint(second)
    assert sum(len(list(read_listing(uri))) for uri in first) == 201
    assert sum(len(list(read_listing(uri))) for uri in second) == 201


@pytest.mark.parametrize(
    ("shard", "name"),
    [(Shard(0, 1), "000-of-001"), (Shard(7, 50), "007-of-050"), (Shard(499, 500), "499-of-500")],
)
def test_names_sort_by_number(shard: Shard, name: str) -> None:
    assert shard.name == name


def test_a_file_stays_in_its_shard_for_ever() -> None:
    """Changed numbers would move jobs that are in flight to other shards, and submit them again."""
    assert [shard_of(path, 16) for path in ("a.txt", "b/c.md", "ä/🦊.html", "")] == [5, 10, 11, 4]


def test_a_shard_without_a_file_has_a_listing_too(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one")
    uris = write_listings(f"{tmp_path}/one.txt", f"{tmp_path}/into", shards=3)
    assert sorted(len(list(read_listing(uri))) for uri in uris) == [0, 0, 1]


def test_an_earlier_listing_stays_when_the_source_cannot_be_listed(source: Path, tmp_path: Path) -> None:
    into = f"{tmp_path}/listings"
    uris = write_listings(str(source), into, shards=2)
    before = [Path(uri).read_bytes() for uri in uris]
    with pytest.raises(InputError, match="nowhere"):
        write_listings(f"{tmp_path}/nowhere", into, shards=2)
    assert [Path(uri).read_bytes() for uri in uris] == before
    assert len(list((tmp_path / "listings").iterdir())) == 2


@pytest.mark.parametrize("number", [0, -1, 501, True, "8", 2.0, None])
def test_a_number_of_shards_that_is_none(number: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shards is .*; give a number from 1 to 500"):
        write_listings(str(tmp_path), str(tmp_path), shards=number)


@pytest.mark.parametrize(
    "content",
    [
        *(b"no json\n", b"{}\n", b"[]\n", b"\xff"),
        b'{"uri": "u", "path": "p", "size": 1, "etag": "s", "format": "doc"}\n',
    ],
)
def test_what_is_no_listing_is_refused_with_its_line(content: bytes, tmp_path: Path) -> None:
    good = SourceFile("u", "p", 1, "s", Format.TEXT)
    line = json.dumps({"uri": "u", "path": "p", "size": 1, "etag": "s", "format": "text"}).encode() + b"\n"
    (tmp_path / "list.jsonl").write_bytes(HEAD + line + content)
    found = read_listing(f"{tmp_path}/list.jsonl")
    assert next(found) == good
    with pytest.raises(InputError, match=r"line 3 of .*list.jsonl is invalid"):
        next(found)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{}\n", b"[]\n", b'"text"\n', b'{"number": 1}\n'),
        *(b'{"number": "x", "of": 3}\n', b'{"number": null, "of": null}\n'),
        b"\xff\n",
        # As an earlier version has written them.
        b'{"uri": "u", "path": "p", "size": 1, "etag": "s", "format": "text"}\n',
    ],
)
def test_what_has_no_shard_is_no_listing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_bytes(content)
    message = r"list.jsonl is not a listing. Give one that write_listings has written"
    with pytest.raises(
        InputError, match=message if content != b"\xff\n" else "line 1 of .*list.jsonl is inv"
    ):
        read_shard(f"{tmp_path}/list.jsonl")


@pytest.mark.parametrize("read", [read_shard, lambda uri: next(read_listing(uri))])
@pytest.mark.parametrize(
    ("uri", "message"),
    [("/nowhere/x", "listing: there is no file /nowhere/x"), ("relative", "is 'relative'")],
)
def test_a_missing_listing(uri: str, message: str, read: Any) -> None:
    with pytest.raises(InputError, match=message):
        read(uri)
