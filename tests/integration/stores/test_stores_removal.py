# SPDX-License-Identifier: Apache-2.0
"""What destroyed or doubled data on object stores: removals, and objects that change meanwhile."""

from __future__ import annotations

import pytest

from lucidworks_provider.documents.document import Document
from lucidworks_provider.documents.readers import ReadOptions, read_file_documents
from lucidworks_provider.documents.source import list_source
from lucidworks_provider.errors import StorageError
from lucidworks_provider.storage import (
    exists,
    names_in,
    read_file,
    reading,
    remove_file,
    remove_folder,
    write_file,
)


@pytest.mark.parametrize("name", ["out[1]", "out?", "out*", "out[!1]", "**", "a#b", "50%", "ä b"])
def test_a_removal_names_exact_keys(folder: str, name: str) -> None:
    if folder.startswith("abfs") and name.endswith("?"):
        with pytest.raises(StorageError, match="cannot be addressed"):
            remove_folder(f"{folder}/{name}")
        return
    others = [
        f"{folder}/{other}/{file}" for other in ("out1", "outA", "out", "a") for file in ("lease.json", "a/b")
    ]
    mine = [f"{folder}/{name}/{file}" for file in ("lease.json", "l*", "a/b", "a/[b]")]
    for uri in others + mine:
        write_file(uri, uri.encode())
    assert sorted(names_in(f"{folder}/{name}")) == ["a", "l*", "lease.json"]
    remove_file(f"{folder}/{name}/l*")
    assert [exists(uri) for uri in mine] == [True, False, True, True]
    remove_folder(f"{folder}/{name}")
    assert not any(exists(uri) for uri in mine)
    remove_file(f"{folder}/out?/lease.json")
    remove_folder(f"{folder}/out[1]")
    assert [read_file(uri) for uri in others] == [uri.encode() for uri in others]


def test_a_listing_and_then_a_longer_object(folder: str) -> None:
    for name in ("a.txt", "sub/b.txt"):
        write_file(f"{folder}/{name}", b"The first half.")
    files = list(list_source(folder))
    assert len(files) == 2
    for file in files:
        write_file(file.uri, b"The first half. The second half.")
    for file in files:
        [document] = read_file_documents(file, ReadOptions())
        assert isinstance(document, Document)
        assert document.text == "The first half. The second half."


def test_a_listing_and_then_more_lines(folder: str) -> None:
    write_file(f"{folder}/sub/a.jsonl", b'{"id": "a", "text": "One."}\n')
    [file] = list_source(folder)
    write_file(file.uri, b'{"id": "a", "text": "One."}\n{"id": "b", "text": "Two."}\n')
    assert [one.id for one in read_file_documents(file, ReadOptions())] == ["a", "b"]


def test_an_object_that_is_replaced_between_two_reads_is_an_error(folder: str) -> None:
    uri = f"{folder}/a.bin"
    write_file(uri, b"1" * (9 << 20))
    with reading(uri) as opened:
        assert opened.read(1 << 20) == b"1" * (1 << 20)
        write_file(uri, b"2" * (10 << 20))
        # What is still buffered is of the first version, and so is everything that is returned.
        with pytest.raises(StorageError, match=r"a\.bin cannot be read"):
            assert all(opened.read(1 << 20) == b"1" * (1 << 20) for _ in range(9))
