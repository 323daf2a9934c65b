# SPDX-License-Identifier: Apache-2.0
"""Runs over a corpus whose source and tables are on an object store."""

from pathlib import Path
from typing import Any

import pytest
import store_servers
from corpus_world import FakeService, World
from store_servers import Store

from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus.run import Corpus
from lucidworks_provider.delta.log import read_table
from lucidworks_provider.storage import names_in, remove_file, write_file

# With a renewal of the lease while it runs.
MOST_REQUESTS = {"s3": 43, "gs": 48, "ab": 55}


class StoredWorld(World):
    """A folder of texts on a store, and the tables of their chunks."""

    def __init__(self, folder: str) -> None:
        options = ChunkingOptions("dynamic-sentence", "gte-small")
        corpus = Corpus(f"{folder}/source", f"{folder}/output", options, prune=True)
        super().__init__(Path(), FakeService(), corpus)

    def write(self, name: str, text: str | bytes) -> Path:
        assert isinstance(text, str)
        self.expected[name] = text
        write_file(f"{self.corpus.source}/{name}", text.encode())
        return Path(name)

    def remove(self, *names: str) -> None:
        for name in names:
            del self.expected[name]
            remove_file(f"{self.corpus.source}/{name}")

    def night(self, **counts: Any) -> None:
        """A run of its own, after which readers see the source as it is."""
        self.run(**counts)
        self.check()

    def names(self, folder: str) -> list[str]:
        return [name for name in names_in(f"{self.corpus.output}/{folder}") if name != "_delta_log"]

    def open_files(self, name: str) -> set[str]:
        table = read_table(f"{self.corpus.output}/{name}")
        assert table is not None
        return set(table.files)


@pytest.fixture
def catalogue(folder: str) -> StoredWorld:
    made = StoredWorld(folder)
    made.fill(10)
    return made


def three_nights(catalogue: StoredWorld) -> None:
    catalogue.night(added=10, version=0, since=None)
    catalogue.night(changed=0, skipped=10, submitted=0, version=0, since=0)
    catalogue.write("003.txt", "Another.")
    catalogue.remove("004.txt")
    catalogue.night(changed=1, removed=1, submitted=1, version=1, since=0, documents_version=1)
    assert len(catalogue.service.posted) == 11


def test_three_nights(catalogue: StoredWorld) -> None:
    before = dict(catalogue.expected)
    three_nights(catalogue)
    assert "journal" not in catalogue.names("")
    assert catalogue.names("lease") == ["00000003.json"]
    # The night before can still be read, and what has changed since.
    assert catalogue.texts(0) == before
    assert catalogue.changed(0) == {"003.txt": "changed", "004.txt": "deleted"}
    assert catalogue.statuses() == dict.fromkeys(before, "ok") | {"004.txt": "deleted"}


def test_requests_of_an_unchanged_night(catalogue: StoredWorld, store: Store) -> None:
    """They follow one another, so their number times the latency is what such a night takes."""
    for _ in range(2):
        catalogue.night()
    store.requests()
    catalogue.run(skipped=10)
    counts = store.requests()
    assert sum(counts.values()) <= MOST_REQUESTS[store.uri[:2]], counts


def test_three_nights_with_the_responses_kept(catalogue: StoredWorld) -> None:
    catalogue.set(keep_raw=True)
    three_nights(catalogue)
    assert len(catalogue.names("raw")) == 2


def test_three_nights_without_deletion_vectors(catalogue: StoredWorld) -> None:
    catalogue.set(deletion_vectors=False, retention=0.0)
    three_nights(catalogue)
    # What no version within the retention needs is removed.
    for table in ("chunks", "documents"):
        assert len(catalogue.names(table)) == len(catalogue.open_files(table)) <= 2


def test_a_store_that_refuses_deletion(catalogue: StoredWorld, store: Store) -> None:
    catalogue.night()
    catalogue.set(deletion_vectors=False, retention=0.0)
    with store_servers.deletion_refused(store):
        catalogue.night(skipped=10)
        catalogue.write("003.txt", "Another.")
        catalogue.night(submitted=1)
        catalogue.night(skipped=10)
    assert store.proxy.refused
    assert len(catalogue.service.posted) == 11


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_a_bucket_that_forbids_deletion(catalogue: StoredWorld, folder: str) -> None:
    """Only this server has policies."""
    remove_file(f"{folder}/source/none")
    catalogue.set(deletion_vectors=False, retention=0.0)
    with store_servers.deletion_forbidden(f"{folder.rpartition('/')[2]}/output/*"):
        three_nights(catalogue)
        assert "journal" in catalogue.names("")
        assert len(catalogue.names("lease")) == 3
        assert set(catalogue.names("chunks")) > catalogue.open_files("chunks")
    catalogue.night(skipped=9)
    assert "journal" not in catalogue.names("")
    assert catalogue.names("lease") == ["00000004.json"]
    # The next version removes what could not be removed then.
    catalogue.write("005.txt", "Another one.")
    catalogue.night(changed=1)
    for table in ("chunks", "documents"):
        assert set(catalogue.names(table)) == catalogue.open_files(table)
