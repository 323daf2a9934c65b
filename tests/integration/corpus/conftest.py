# SPDX-License-Identifier: Apache-2.0
"""A world for each test, whose waits are short."""

from pathlib import Path

import pytest
from corpus_world import FakeService, World

from lucidworks_provider import storage
from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus.run import Corpus
from lucidworks_provider.errors import StorageError
from lucidworks_provider.jobs import decisions


@pytest.fixture(autouse=True)
def quickly(short_corpus_waits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps, with shorter waits."""
    monkeypatch.setattr(decisions, "NEVER_SEEN", 0.3)
    monkeypatch.setattr(decisions, "GONE_PATIENCE", 0.3)


@pytest.fixture
def undeletable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage whose permissions do not include deletions."""

    def refuses(uri: str) -> None:
        raise StorageError(f"{uri} cannot be removed: AccessDenied")

    monkeypatch.setattr(storage, "remove_file", refuses)
    monkeypatch.setattr(storage, "remove_folder", refuses)


@pytest.fixture
def world(tmp_path: Path) -> World:
    options = ChunkingOptions("dynamic-sentence", "gte-small")
    corpus = Corpus(source=str(tmp_path / "source"), output=str(tmp_path / "dataset"), options=options)
    return World(tmp_path, FakeService(), corpus)
