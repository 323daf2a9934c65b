# SPDX-License-Identifier: Apache-2.0
"""A corpus on a disk, and a service in this process that is as strict as the vendor's."""

import asyncio
import itertools
import json
import math
import os
import random
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from lucidworks_provider.corpus import publish
from lucidworks_provider.corpus import run as run_module
from lucidworks_provider.corpus.dataset import changes, open_dataset, open_documents
from lucidworks_provider.corpus.journal import Journal
from lucidworks_provider.corpus.lease import Holder
from lucidworks_provider.corpus.pipeline import Service
from lucidworks_provider.corpus.run import Corpus, run
from lucidworks_provider.errors import RequestRefusedError, TransportError, UnknownResourceError

DIMENSION = 4


def _chunks(text: str, size: int) -> tuple[list[str], list[list[int]]]:
    cuts = [*range(0, len(text), size), len(text)]
    spans = [[start, end] for start, end in itertools.pairwise(cuts)]
    return [text[start:end] for start, end in spans], spans


@dataclass
class FakeService:
    """
    Hands each result out once.

    :param refused: parts of texts that get a 400.
    :param failed: parts of texts whose jobs fail.
    :param late: parts of texts whose jobs are not ready; ``""`` is part of all.
    :param down_after: submissions until there is no connection.
    :param on_post: may raise instead of taking a text.
    :param on_get: may raise instead of answering about a text.
    :param refused_for: what the rate limiter says.
    :param answer: may change the answer of a job that is ready.
    """

    job_seconds: float = 0.0
    refused: Collection[str] = ()
    failed: Collection[str] = ()
    late: Collection[str] = ()
    down_after: float = math.inf
    on_post: Callable[[str], None] = lambda text: None
    on_get: Callable[[str], None] = lambda text: None
    refused_for: float = 0.0
    answer: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda text, body: body
    posted: list[str] = field(default_factory=list)
    handed_out: set[str] = field(default_factory=set)
    jobs: dict[str, tuple[float, str]] = field(default_factory=dict)
    gets: int = 0
    chunk_size: int = 200

    async def submit(self, text: str) -> str:
        await asyncio.sleep(0)
        if len(self.posted) >= self.down_after:
            raise TransportError("the connection broke")
        if any(part in text for part in self.refused):
            raise RequestRefusedError("HTTP 400: no", status=400)
        self.on_post(text)
        self.posted.append(text)
        job = str(uuid.uuid4())
        self.jobs[job] = time.monotonic(), text
        return job

    async def fetch(self, job: str) -> bytes:
        await asyncio.sleep(0)
        self.gets += 1
        if job not in self.jobs:
            raise UnknownResourceError("no such job", status=404)
        since, text = self.jobs[job]
        self.on_get(text)
        body: dict[str, Any] = {"chunkingId": job, "status": "SUBMITTED"}
        if any(part in text for part in self.failed):
            body |= {"status": "ERROR", "message": "no tokens left"}
        elif time.monotonic() - since >= self.job_seconds and not any(part in text for part in self.late):
            body = self.answer(text, body | {"status": "READY", "chunkedData": [self._item(text)]})
        if job in self.handed_out:
            body = {"chunkingId": job, "status": "RETRIEVED"}
        if "chunkedData" in body:
            self.handed_out.add(job)
        return json.dumps(body).encode()

    def _item(self, text: str) -> dict[str, Any]:
        chunks, spans = _chunks(text, self.chunk_size)
        draw = random.Random(text)
        vectors = [
            {"tokensUsed": {"inputTokens": 7}, "vector": [draw.random() for _ in range(DIMENSION)]}
            for _ in chunks
        ]
        return {"chunks": chunks, "spans": spans, "vectors": vectors}

    def is_down(self) -> None:
        """From now on."""
        self.down_after = len(self.posted)


def cut(body: dict[str, Any]) -> dict[str, Any]:
    """An answer without its last chunk."""
    (item,) = body["chunkedData"]
    return body | {"chunkedData": [{name: values[:-1] for name, values in item.items()}]}


def longer(text: str, body: dict[str, Any]) -> dict[str, Any]:
    """An answer with vectors of twice the length, as of another deployment; for :attr:`FakeService.answer`."""
    (item,) = body["chunkedData"]
    vectors = [{**vector, "vector": 2 * vector["vector"]} for vector in item["vectors"]]
    return body | {"chunkedData": [{**item, "vectors": vectors}]}


@dataclass
class World:
    """
    A corpus, its dataset and the service.

    :param expected: the texts of the source that are files of their own.
    """

    root: Path
    service: FakeService
    corpus: Corpus
    runs: int = 0
    expected: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return self.root / "source"

    @property
    def output(self) -> Path:
        return Path(self.corpus.output)

    def write(self, name: str, text: str | bytes) -> Path:
        """A file of the source."""
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        if isinstance(text, str) and name.endswith(".txt"):
            self.expected[name] = text
        return path

    def write_all(self, texts: dict[str, str]) -> None:
        """Files of the source by their names."""
        for name, text in texts.items():
            self.write(name, text)

    def fill(self, count: int = 12, form: str = "Document {} has a sentence. ") -> dict[str, str]:
        """Documents of three chunks each."""
        self.write_all({f"{number:03}.txt": form.format(number) * 20 for number in range(count)})
        return self.expected

    def records(self, name: str, *ids: str, form: str = "Text of {}. ", **texts: str) -> Path:
        """A file of records."""
        texts = {one: form.format(one) for one in ids} | texts
        lines = (json.dumps({"id": one, "text": text}) + "\n" for one, text in texts.items())
        return self.write(name, "".join(lines))

    def remove(self, *names: str) -> None:
        """Files of the source."""
        for name in names:
            (self.source / name).unlink()
            self.expected.pop(name, None)

    def swap_contents(self) -> None:
        """Other texts of the same size and time in all files, so only a read shows the change."""
        for path in self.source.rglob("*.*"):
            found = path.stat()
            path.write_bytes(b"x" * found.st_size)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    def set(self, **changes: Any) -> None:
        """Other parameters for the next runs."""
        self.corpus = replace(self.corpus, **changes)

    def holder(self, run_id: str, try_number: int = 1) -> Holder:
        return Holder.here(dag_id="dag", run_id=run_id, task_id="task", map_index=-1, try_number=try_number)

    def run(
        self,
        *,
        run_id: str | None = None,
        try_number: int = 1,
        generation: int = 0,
        posted: Iterable[str] | None = None,
        **counts: Any,
    ) -> dict[str, Any]:
        """
        A run of a task: a new one each time, if ``run_id`` is not given.

        :param posted: the texts that it has to send, in any order.
        :param counts: what it has to return, among others.
        """
        self.runs += 1
        before = len(self.service.posted)
        fake = self.service
        service = Service(fake.submit, fake.fetch, refused_for=lambda: fake.refused_for)
        holder = self.holder(run_id or f"run {self.runs}", try_number)
        delta = run(self.corpus, service, holder=holder, generation=generation, wait_seconds=0.0)
        if posted is not None:
            assert sorted(self.service.posted[before:]) == sorted(posted)
        assert {name: delta[name] for name in counts} == counts
        return delta

    def check(self) -> None:
        """Readers see the source as it is."""
        assert self.texts() == self.expected

    def rows(self) -> list[dict[str, Any]]:
        """The chunks that a reader sees, in order."""
        found = open_dataset(self.corpus.output).to_table().to_pylist()
        return sorted(found, key=lambda row: (row["document_id"], row["chunk_index"]))

    def texts(self, version: int | None = None) -> dict[str, str]:
        """The documents as their chunks have them."""
        texts: dict[str, str] = {}
        found = open_dataset(self.corpus.output, version).to_table().to_pylist()
        for row in sorted(found, key=lambda row: (row["document_id"], row["chunk_index"])):
            texts[row["document_id"]] = texts.get(row["document_id"], "") + row["text"]
        return texts

    def rejects(self, delta: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """What a run has rejected, by document."""
        rows = map(json.loads, Path(delta["rejects"]).read_text().splitlines())
        return {row["document_id"]: row for row in rows}

    def statuses(self) -> dict[str, str]:
        """What the table of documents says of each."""
        rows = open_documents(self.corpus.output).to_table().to_pylist()
        return {row["document_id"]: row["status"] for row in rows}

    def listed(self, delta: dict[str, Any], name: str) -> list[str]:
        """The ids of the documents that a run has added, changed or deleted."""
        found: set[str] = set()
        for batch in changes(self.corpus.output, delta["since"], delta["version"]):
            found |= {row["document_id"] for row in batch.to_pylist() if row["change"] == name}
        return sorted(found)

    def changed(self, since: int | None, until: int | None = None) -> dict[str, str]:
        """The change of each document, as consumers receive it."""
        batches = changes(self.corpus.output, since, until)
        return {row["document_id"]: row["change"] for batch in batches for row in batch.to_pylist()}


class Killed(BaseException):
    """As a process that is killed."""


@contextmanager
def killed(before: Literal["publish", "chunks", "documents", "end"]) -> Iterator[None]:
    """The run of this block dies before it publishes, before one of its commits, or with its journal still there."""

    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    commit = publish.commit

    def commits(uri: str, *args: Any, **kwargs: Any) -> None:
        if before == "documents":
            assert uri.endswith("/chunks")
            assert commit(uri, *args, **kwargs)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        if before == "publish":
            patch.setattr(run_module, "publish", dies)
        elif before == "end":
            patch.setattr(Journal, "end", dies)
            patch.setattr(Journal, "carry_over", dies)
        else:
            patch.setattr(publish, "commit", commits)
        with pytest.raises(Killed):
            yield
