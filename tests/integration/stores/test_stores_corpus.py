# SPDX-License-Identifier: Apache-2.0
"""Runs over a corpus whose source and tables are on an object store."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import store_servers
from corpus_world import FakeService
from store_servers import Store

from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus.dataset import changes, open_dataset, open_documents
from lucidworks_provider.corpus.lease import Holder
from lucidworks_provider.corpus.pipeline import Service
from lucidworks_provider.corpus.run import Corpus, run
from lucidworks_provider.delta.log import read_table
from lucidworks_provider.storage import names_in, remove_file, write_file

# With a renewal of the lease while it runs.
MOST_REQUESTS = {"s3": 43, "gs": 48, "ab": 55}


@dataclass
class Catalogue:
    """A folder of texts, and the tables of their chunks."""

    folder: str
    service: FakeService = field(default_factory=FakeService)
    texts: dict[str, str] = field(default_factory=dict)
    nights: int = 0

    def __post_init__(self) -> None:
        options = ChunkingOptions("dynamic-sentence", "gte-small")
        self.corpus = Corpus(source=f"{self.folder}/source", output=f"{self.folder}/output", options=options)

    def write(self, name: str, text: str) -> None:
        self.texts[name] = text
        write_file(f"{self.folder}/source/{name}", text.encode())

    def remove(self, name: str) -> None:
        del self.texts[name]
        remove_file(f"{self.folder}/source/{name}")

    def night(self, **changes: Any) -> dict[str, Any]:
        """A run of its own, after which readers see the source as it is."""
        self.nights += 1
        holder = Holder.here(
            dag_id="d", run_id=f"night {self.nights}", task_id="t", map_index=-1, try_number=1
        )
        corpus = replace(self.corpus, prune=True, **changes)
        service = Service(self.service.submit, self.service.fetch)
        delta = run(corpus, service, holder=holder, generation=0, wait_seconds=0)
        assert self.read() == self.texts
        return delta

    def read(self, version: int | None = None) -> dict[str, str]:
        """The documents of a version, as their chunks have them."""
        rows = (
            open_dataset(self.corpus.output, version)
            .to_table()
            .sort_by([("document_id", "ascending"), ("start", "ascending")])
        )
        found: dict[str, str] = {}
        for row in rows.to_pylist():
            found[row["document_id"]] = found.get(row["document_id"], "") + row["text"]
        return found

    def data_files(self, table: str) -> list[str]:
        """What lies in the folder of a table: data files, and deletion vectors."""
        return [name for name in names_in(f"{self.corpus.output}/{table}") if name != "_delta_log"]


@pytest.fixture
def catalogue(folder: str) -> Catalogue:
    made = Catalogue(folder)
    for number in range(10):
        made.write(f"{number:02}.txt", f"Document {number} has a sentence. " * 20)
    return made


def three_nights(catalogue: Catalogue, **changes: Any) -> None:
    first = catalogue.night(**changes)
    assert (first["added"], first["version"], first["since"]) == (10, 0, None)
    unchanged = catalogue.night(**changes)
    assert {
        "changed": 0,
        "skipped": 10,
        "submitted": 0,
        "version": 0,
        "since": 0,
    }.items() <= unchanged.items()
    catalogue.write("03.txt", "Another.")
    catalogue.remove("04.txt")
    delta = catalogue.night(**changes)
    assert [delta[name] for name in ("changed", "removed", "submitted")] == [1, 1, 1]
    assert [delta[name] for name in ("version", "since", "documents_version")] == [1, 0, 1]
    assert len(catalogue.service.posted) == 11


def test_three_nights(catalogue: Catalogue) -> None:
    before = dict(catalogue.texts)
    three_nights(catalogue)
    assert "journal" not in names_in(catalogue.corpus.output)
    assert names_in(f"{catalogue.corpus.output}/lease") == ["00000003.json"]
    # The night before can still be read, and what has changed since.
    assert catalogue.read(0) == before
    changed = [row for batch in changes(catalogue.corpus.output, 0) for row in batch.to_pylist()]
    assert {row["document_id"]: row["change"] for row in changed} == {
        "03.txt": "changed",
        "04.txt": "deleted",
    }
    rows = open_documents(catalogue.corpus.output).to_table().to_pylist()
    statuses = dict.fromkeys(before, "ok") | {"04.txt": "deleted"}
    assert {row["document_id"]: row["status"] for row in rows} == statuses


def test_requests_of_an_unchanged_night(catalogue: Catalogue, store: Store) -> None:
    """They follow one another, so their number times the latency is what such a night takes."""
    for _ in range(2):
        catalogue.night()
    store.requests()
    service = Service(catalogue.service.submit, catalogue.service.fetch)
    holder = Holder.here(dag_id="d", run_id="last", task_id="t", map_index=-1, try_number=1)
    assert run(catalogue.corpus, service, holder=holder, generation=0, wait_seconds=0)["skipped"] == 10
    counts = store.requests()
    assert sum(counts.values()) <= MOST_REQUESTS[store.uri[:2]], counts


def test_three_nights_with_the_responses_kept(catalogue: Catalogue) -> None:
    three_nights(catalogue, keep_raw=True)
    assert len(names_in(f"{catalogue.corpus.output}/raw")) == 2


def test_three_nights_without_deletion_vectors(catalogue: Catalogue) -> None:
    three_nights(catalogue, deletion_vectors=False, retention=0.0)
    # What no version within the retention needs is removed.
    for table in ("chunks", "documents"):
        assert len(catalogue.data_files(table)) == len(open_files(catalogue, table)) <= 2


def open_files(catalogue: Catalogue, name: str) -> set[str]:
    table = read_table(f"{catalogue.corpus.output}/{name}")
    assert table is not None
    return set(table.files)


def test_a_store_that_refuses_deletion(catalogue: Catalogue, store: Store) -> None:
    catalogue.night()
    changes: dict[str, Any] = {"deletion_vectors": False, "retention": 0.0}
    with store_servers.deletion_refused(store):
        assert catalogue.night(**changes)["skipped"] == 10
        catalogue.write("03.txt", "Another.")
        assert catalogue.night(**changes)["submitted"] == 1
        assert catalogue.night(**changes)["skipped"] == 10
    assert store.proxy.refused
    assert len(catalogue.service.posted) == 11


def test_a_bucket_that_forbids_deletion(catalogue: Catalogue, request: pytest.FixtureRequest) -> None:
    if not catalogue.folder.startswith("s3"):
        pytest.skip("only this server has policies")
    remove_file(f"{catalogue.folder}/source/none")
    changes: dict[str, Any] = {"deletion_vectors": False, "retention": 0.0}
    with store_servers.deletion_forbidden(f"{catalogue.folder.rpartition('/')[2]}/output/*"):
        three_nights(catalogue, **changes)
        assert "journal" in names_in(catalogue.corpus.output)
        assert len(names_in(f"{catalogue.corpus.output}/lease")) == 3
        assert set(catalogue.data_files("chunks")) > open_files(catalogue, "chunks")
    assert catalogue.night(**changes)["skipped"] == 9
    assert "journal" not in names_in(catalogue.corpus.output)
    assert names_in(f"{catalogue.corpus.output}/lease") == ["00000004.json"]
    # The next version removes what could not be removed then.
    catalogue.write("05.txt", "Another one.")
    assert catalogue.night(**changes)["changed"] == 1
    for table in ("chunks", "documents"):
        assert set(catalogue.data_files(table)) == open_files(catalogue, table)
