# SPDX-License-Identifier: Apache-2.0
"""Runs over a corpus whose source and output are on an object store."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import store_servers
from corpus_world import FakeService

from lucidworks_provider.api.chunking import ChunkingOptions
from lucidworks_provider.corpus.lease import Holder
from lucidworks_provider.corpus.run import run
from lucidworks_provider.corpus.settings import Corpus, Service
from lucidworks_provider.documents.dataset import open_dataset
from lucidworks_provider.storage import names_in, remove_file, write_file


@dataclass
class Catalogue:
    """A folder of texts, and the dataset of their chunks."""

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
        delta = run(corpus, service, holder=holder, life=0, wait_seconds=0)
        rows = (
            open_dataset(corpus.output)
            .to_table()
            .sort_by([("document_id", "ascending"), ("start", "ascending")])
        )
        found: dict[str, str] = {}
        for row in rows.to_pylist():
            found[row["document_id"]] = found.get(row["document_id"], "") + row["text"]
        assert found == self.texts
        return delta


@pytest.fixture
def catalogue(folder: str) -> Catalogue:
    made = Catalogue(folder)
    for number in range(10):
        made.write(f"{number:02}.txt", f"Document {number} has a sentence. " * 20)
    return made


def three_nights(catalogue: Catalogue, **changes: Any) -> None:
    assert catalogue.night(**changes)["added"] == 10
    unchanged = catalogue.night(**changes)
    assert {"changed": 0, "skipped": 10, "submitted": 0}.items() <= unchanged.items()
    catalogue.write("03.txt", "Another.")
    catalogue.remove("04.txt")
    delta = catalogue.night(**changes)
    assert [delta[name] for name in ("changed", "removed", "submitted")] == [1, 1, 1]
    assert len(catalogue.service.posted) == 11


def test_three_nights(catalogue: Catalogue) -> None:
    three_nights(catalogue)
    assert "journal" not in names_in(catalogue.corpus.output)
    assert names_in(f"{catalogue.corpus.output}/lease") == ["00000003.json"]


def test_three_nights_with_the_answers_kept(catalogue: Catalogue) -> None:
    three_nights(catalogue, keep_raw=True)
    assert len(names_in(f"{catalogue.corpus.output}/raw")) == 2


def test_a_bucket_that_forbids_deletion(catalogue: Catalogue, request: pytest.FixtureRequest) -> None:
    if not catalogue.folder.startswith("s3"):
        pytest.skip("only this server has policies")
    remove_file(f"{catalogue.folder}/source/none")
    with store_servers.deletion_forbidden(f"{catalogue.folder.rpartition('/')[2]}/output/*"):
        three_nights(catalogue)
        assert "journal" in names_in(catalogue.corpus.output)
        assert len(names_in(f"{catalogue.corpus.output}/lease")) == 3
    assert catalogue.night()["skipped"] == 9
    assert "journal" not in names_in(catalogue.corpus.output)
    assert names_in(f"{catalogue.corpus.output}/lease") == ["00000004.json"]
