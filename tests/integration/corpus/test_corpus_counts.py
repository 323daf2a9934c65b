# SPDX-License-Identifier: Apache-2.0
"""
What a task returns after kills, beside what the service has counted.

A kill is a copy of the output and of the service at one moment. The next try begins with the copy, without anything
that the killed try has written later.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from corpus_world import World
from test_corpus_run import tree
from test_corpus_shards import commit, stage

from lucidworks_provider.corpus import journal, pipeline, publish
from lucidworks_provider.corpus import run as run_module
from lucidworks_provider.corpus.journal import Journal
from lucidworks_provider.corpus.pipeline import PipelineSettings
from lucidworks_provider.corpus.shards import write_listings
from lucidworks_provider.errors import BudgetExceededError, NotSentError, TooManyRejectsError

DOCUMENTS, WINDOW, SUBMISSIONS = 60, 16, 4
# Texts with an intent that a kill may leave: before their submission, and in flight.
UNSENT = WINDOW + SUBMISSIONS


@pytest.fixture(autouse=True)
def sixty(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "GROUP_SECONDS", 0.1)
    for name in ("FIRST_WINDOW", "LEAST_INTENTS", "MOST_INTENTS"):
        monkeypatch.setattr(pipeline, name, WINDOW)
    monkeypatch.setattr(pipeline, "SUBMISSIONS", SUBMISSIONS)
    world.fill(DOCUMENTS, "Document {}. ")


class Kill:
    """A copy of everything at the moment of the kill."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.copies = 0

    def now(self) -> None:
        """The first call is the moment."""
        if self.copies:
            return
        self.copies += 1
        while True:
            shutil.rmtree(self.folder, ignore_errors=True)
            try:
                shutil.copytree(self.world.output, self.folder, ignore=shutil.ignore_patterns("*.part"))
                break
            except shutil.Error:  # a file was deleted meanwhile
                continue
        service = self.world.service
        self.posted, self.jobs = list(service.posted), dict(service.jobs)
        self.handed_out = set(service.handed_out)

    def restore(self) -> None:
        """What the next try finds."""
        assert self.copies
        shutil.rmtree(self.world.output)
        shutil.copytree(self.folder, self.world.output)
        service = self.world.service
        service.posted, service.jobs, service.handed_out = self.posted, self.jobs, self.handed_out


@contextmanager
def killed_at(world: World, stage: str) -> Iterator[None]:
    """The tries of this block are killed at a stage of the run."""
    kill = Kill(world, world.root / "copy")
    service, submit, fetch = world.service, world.service.submit, world.service.fetch
    begun = len(service.posted)

    async def submitting(text: str) -> str:
        job = await submit(text)
        if stage == "submissions" and len(service.posted) == begun + DOCUMENTS // 3:
            kill.now()
        return job

    async def polling(job: str) -> bytes:
        body = await fetch(job)
        if stage == "polls" and len(service.handed_out) == DOCUMENTS // 3:
            kill.now()
        return body

    def before(call: Any, *, when: str = "") -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not when or str(args[0]).endswith(when):
                kill.now()
            return call(*args, **kwargs)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "submit", submitting)
        patch.setattr(service, "fetch", polling)
        if stage == "publication":
            patch.setattr(run_module, "publish", before(run_module.publish))
        elif stage == "commit of documents":
            patch.setattr(publish, "commit", before(publish.commit, when="/documents"))
        elif stage == "end":
            patch.setattr(Journal, "end", before(Journal.end))
        yield
    kill.restore()


def check(world: World, returned: dict[str, Any], *, unsent: int = 0) -> None:
    """
    Everything is there, and counted.

    :param unsent: texts that the killed tries had intended, and may not have submitted.
    """
    world.check()
    posted = world.service.posted
    twice = len(posted) - len(set(posted))
    assert twice <= returned["resubmitted"] <= twice + unsent
    assert returned["submitted"] - len(posted) == returned["resubmitted"] - twice
    rows = world.rows()
    assert (returned["written"], returned["tokens"]) == (len(rows), 7 * len(rows))


@pytest.mark.parametrize(
    ("stage", "unsent"),
    [("submissions", UNSENT), ("polls", UNSENT), ("publication", 0), ("commit of documents", 0), ("end", 0)],
)
def test_the_retry_returns_what_the_service_has_counted(world: World, stage: str, unsent: int) -> None:
    """A plan before it returns how many submissions are left."""
    with killed_at(world, stage):
        world.run(run_id="night")
    at_the_kill = len(world.service.posted)
    assert at_the_kill == DOCUMENTS // 3 if stage == "submissions" else at_the_kill > 0
    before = tree(world.output)
    plan = run_module.plan_run(world.corpus)
    assert tree(world.output) == before

    returned = world.run(run_id="night", try_number=2)

    assert plan["requests"] == len(world.service.posted) - at_the_kill
    check(world, returned, unsent=unsent)
    if stage == "submissions":
        assert returned["resubmitted"] > 0


def test_several_kills(world: World) -> None:
    for number, moment in enumerate(("submissions", "polls", "submissions", "publication"), 1):
        with killed_at(world, moment):
            world.run(run_id="night", try_number=number)
    check(world, world.run(run_id="night", try_number=5), unsent=3 * UNSENT)
    # The next run has its own counts.
    world.write("000.txt", "Another text.")
    world.run(submitted=1, resubmitted=0, tokens=7)


def test_tries_that_send_nothing_after_a_kill_count_nothing(world: World) -> None:
    with killed_at(world, "submissions"):
        world.run(run_id="night")

    def down(text: str) -> None:
        raise NotSentError("The service is down.")

    world.service.on_post = down
    for number in (2, 3, 4):
        with pytest.raises(NotSentError):
            world.run(run_id="night", try_number=number)
    world.service.on_post = lambda text: None
    check(world, world.run(run_id="night", try_number=5), unsent=UNSENT)


def test_the_last_file_of_the_journal_is_torn(world: World) -> None:
    with killed_at(world, "submissions"):
        world.run(run_id="night")
    last = max(world.output.rglob("*-work.log"))
    last.write_bytes(last.read_bytes()[:-40])
    check(world, world.run(run_id="night", try_number=2), unsent=UNSENT)


def test_a_file_in_which_a_document_is_repeated_after_it_was_listed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.remove(*list(world.expected))
    file = world.records("a.jsonl", *"abcde")
    candidates = run_module.Plan.candidates

    def after_a_repetition(plan: run_module.Plan) -> Any:
        file.write_bytes(file.read_bytes() + file.read_bytes().splitlines()[-1])
        yield from candidates(plan)

    monkeypatch.setattr(run_module.Plan, "candidates", after_a_repetition)
    world.run(documents=5, submitted=6, resubmitted=1)
    assert len(world.rows()) == 5


def test_the_sums_of_shards_have_all_tries(world: World) -> None:
    first, second = write_listings(str(world.source), f"{world.output}/listings", shards=2)
    world.set(listing=first)
    with killed_at(world, "submissions"):
        world.run(run_id="night")
    staged = [world.run(run_id="night", try_number=2)]
    world.set(listing=second)
    staged.append(world.run(resubmitted=0))
    check(world, commit(world, staged), unsent=UNSENT)


def test_a_shard_that_continues_after_its_publication_counts_anew(world: World) -> None:
    staged = stage(world, 1)
    world.write("000.txt", "Changed after the staging.")
    stage(world, 1)
    commit(world, staged, submitted=DOCUMENTS)
    world.write("001.txt", "Changed after the publication.")
    commit(world, stage(world, 1), run_id="later", submitted=2, resubmitted=0, changed=2)


def test_an_end_that_is_no_kill_leaves_no_doubt(world: World) -> None:
    """Intents whose texts were not submitted are withdrawn."""
    world.set(pipeline=PipelineSettings(max_tokens=70, max_in_flight=4))
    with pytest.raises(BudgetExceededError):
        world.run(run_id="night")
    assert len(world.service.posted) < DOCUMENTS
    world.set(pipeline=PipelineSettings())
    check(world, world.run(run_id="night", try_number=2))
    assert world.service.posted == list(dict.fromkeys(world.service.posted))


def test_texts_that_are_sent_again_after_too_many_rejects(world: World) -> None:
    """A refused text made no job; one whose job has failed was submitted."""
    world.service.refused, world.service.failed = {"Document 0."}, {"Document 1.", "Document 2."}
    world.set(max_reject_ratio=0.0)
    with pytest.raises(TooManyRejectsError):
        world.run(run_id="night")
    world.service.refused = world.service.failed = ()
    check(world, world.run(run_id="night", try_number=2, submitted=DOCUMENTS + 2, resubmitted=2))


def test_a_part_that_another_program_has_removed(world: World) -> None:
    with killed_at(world, "publication"):
        world.run(run_id="night")
    for path in (world.output / "chunks").glob("*.parquet"):
        path.unlink()
    check(world, world.run(run_id="night", try_number=2, resubmitted=DOCUMENTS))
