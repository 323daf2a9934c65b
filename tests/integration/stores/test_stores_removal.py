# SPDX-License-Identifier: Apache-2.0
"""What destroyed or doubled data on object stores: removals, and objects that change meanwhile."""

from collections.abc import Callable

import pytest
from store_servers import S3_CONN_ID, Store, azure_client, store_exactly

from dev.s3_server import s3_client
from lucidworks_provider.documents.document import Document
from lucidworks_provider.documents.readers import ReadOptions, read_file_documents
from lucidworks_provider.documents.source import list_source
from lucidworks_provider.errors import StorageError
from lucidworks_provider.storage import (
    create_file,
    discard,
    exists,
    names_in,
    read_file,
    reading,
    remove_file,
    remove_folder,
    store_path,
    write_file,
)

# What a file system takes for a version of another key, or omits.
NOT_ADDRESSED = {"s3": ("?versionId=",), "abfs": ("?versionid=", "?/")}
DENIED = "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>"
VERSIONS = ["?versionId=1", "?versionid=2024-01-01T00:00:00.0000000Z", "#1700000000000000"]


def is_addressed(uri: str) -> bool:
    return not any(part in f"{uri}/" for part in NOT_ADDRESSED.get(uri.partition("://")[0], ()))


def stored(folder: str) -> dict[str, bytes]:
    """All objects below a folder by their keys, by the store's own client."""
    bucket, _, prefix = store_path(folder).path.partition("/")
    if folder.startswith("s3"):
        client = s3_client(S3_CONN_ID)
        keys = [found["Key"] for found in client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
    if folder.startswith("abfs"):
        with azure_client() as account:
            container = account.get_container_client(bucket)
            names = list(container.list_blob_names(name_starts_with=prefix))
            return {name: container.download_blob(name).readall() for name in names}
    fs = store_path(folder).fs
    return {key: fs.cat_file(key) for key in fs.find(f"{bucket}/{prefix}")}


@pytest.mark.parametrize(
    "name",
    ["out[1]", "out?", "out*", "out[!1]", "**", "a#b", "50%", "ä b", ".", " out"]
    + [f"out{version}" for version in VERSIONS],
)
def test_a_removal_names_exact_keys(folder: str, name: str) -> None:
    if folder.startswith("abfs") and name == ".":
        pytest.skip("Azure has no such names")
    others = [
        f"{folder}/{other}/{file}" for other in ("out1", "outA", "out", "a") for file in ("lease.json", "a/b")
    ]
    mine = [f"{folder}/{name}/{file}" for file in ("lease.json", "l*", "a/b", "a/[b]")]
    for uri in others:
        write_file(uri, uri.encode())
    if is_addressed(f"{folder}/{name}"):
        for uri in mine:
            write_file(uri, uri.encode())
        assert sorted(names_in(f"{folder}/{name}")) == ["a", "l*", "lease.json"]
        remove_file(f"{folder}/{name}/l*")
        assert [exists(uri) for uri in mine] == [True, False, True, True]
        remove_folder(f"{folder}/{name}")
        assert not any(exists(uri) for uri in mine)
    else:
        with pytest.raises(StorageError, match="cannot be addressed"):
            remove_folder(f"{folder}/{name}")
    if is_addressed(f"{folder}/out?/lease.json"):
        remove_file(f"{folder}/out?/lease.json")
    remove_folder(f"{folder}/out[1]")
    assert [read_file(uri) for uri in others] == [uri.encode() for uri in others]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_key_that_looks_like_a_version_is_not_that_of_its_neighbour(folder: str, version: str) -> None:
    uri = f"{folder}/x{version}"
    for name in ("x", f"x{version}"):
        store_exactly(folder, name)
    before = stored(folder)
    assert len(before) == 2
    actions: list[Callable[[], object]] = [
        lambda: write_file(uri, b"new"),
        lambda: create_file(uri, b"new"),
        lambda: read_file(uri),
        lambda: exists(uri),
        lambda: remove_file(uri),
        lambda: remove_folder(uri),
        # Keys that are found below a folder.
        lambda: remove_folder(folder),
    ]
    if is_addressed(uri):
        assert read_file(uri) == uri.encode()
        remove_file(uri)
        assert list(stored(folder).values()) == [f"{folder}/x".encode()]
        return
    for action in actions:
        with pytest.raises(StorageError, match="cannot be addressed"):
            action()
    assert not discard(uri, f"{folder}/none")
    assert stored(folder) == before


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


def test_files_are_removed_one_by_one_where_bulk_deletion_needs_another_permission(
    store: Store, folder: str
) -> None:
    uris = [f"{folder}/{name}" for name in ("a", "b", "c")]
    for uri in uris:
        write_file(uri, b"1")
    with store.proxy.failing(methods=("POST",), status=403, text=DENIED):
        assert discard(*uris)
    assert not any(map(exists, uris))
