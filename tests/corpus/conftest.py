# SPDX-License-Identifier: Apache-2.0
"""A world for each test, whose waits are short."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus_world import FakeService, World

from lucidworks_provider.api.chunking import ChunkingOptions
from lucidworks_provider.corpus import asking, job_times, journal, lease
from lucidworks_provider.corpus.settings import Corpus
from lucidworks_provider.jobs import watch


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps, with shorter waits."""
    monkeypatch.setattr(lease, "SETTLE", 0.01)
    monkeypatch.setattr(lease, "NOTICE", 0.05)
    monkeypatch.setattr(lease, "LOOK", 0.05)
    monkeypatch.setattr(journal, "GROUP_SECONDS", 0.01)
    monkeypatch.setattr(journal, "WRITE_PAUSE", 0.01)
    monkeypatch.setattr(job_times, "FIRST_GUESS", 0.01)
    monkeypatch.setattr(job_times, "SHORTEST", 0.01)
    monkeypatch.setattr(asking, "UNKNOWN_PAUSE", 0.01)
    monkeypatch.setattr(watch, "NEVER_SEEN", 0.3)
    monkeypatch.setattr(watch, "GONE_PATIENCE", 0.3)


@pytest.fixture
def world(tmp_path: Path) -> World:
    options = ChunkingOptions("dynamic-sentence", "gte-small")
    corpus = Corpus(source=str(tmp_path / "source"), output=str(tmp_path / "dataset"), options=options)
    return World(tmp_path, FakeService(), corpus)
