# SPDX-License-Identifier: Apache-2.0
"""A corpus over several tasks: each stages, one commit publishes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from corpus_world import Killed, World, killed, longer

from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus import shards
from lucidworks_provider.corpus.dataset import open_dataset
from lucidworks_provider.corpus.pipeline import PipelineSettings
from lucidworks_provider.corpus.shards import publish_shards, shard_of, write_listings
from lucidworks_provider.errors import BudgetExceededError, InputError, StorageError

# The file is cut, its footer is damaged, its pages are damaged.
DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda data: data[:-100],
    lambda data: data[:-30] + b"\xff" * 20 + data[-10:],
    lambda data: data.replace(b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\x00"),
]
OTHER = ChunkingOptions("sentence", "gte-small")


def stage(world: World, shards: int, *, only: set[int] | None = None, **changes: Any) -> list[dict[str, Any]]:
    """A task for each shard."""
    listings = write_listings(str(world.source), f"{world.output}/listings", shards=shards)
    found = []
    for number, listing in enumerate(listings):
        if only is None or number in only:
            world.set(listing=listing, **changes)
            found.append(world.run())
    return found


def commit(
    world: World,
    staged: list[dict[str, Any]],
    *,
    generation: int = 0,
    run_id: str = "night",
    try_number: int = 1,
    **counts: Any,
) -> dict[str, Any]:
    """:param counts: what it has to return, among others."""
    whole = publish_shards(
        [one["staged"] for one in staged],
        str(world.output),
        holder=world.holder(run_id, try_number),
        generation=generation,
        wait_seconds=0.0,
        retention=7 * 86_400.0,
    )
    assert {name: whole[name] for name in counts} == counts
    return whole


def night(
    world: World, shards: int = 3, posted: list[str] | None = None, changes: Any = None, **counts: Any
) -> dict[str, Any]:
    """
    All tasks of a night.

    :param posted: the texts that they have to send.
    :param changes: other parameters.
    :param counts: what the commit has to return, among others.
    """
    before = len(world.service.posted)
    staged = stage(world, shards, **changes or {})
    whole = commit(world, staged, run_id=f"night {world.runs}", **counts)
    if posted is not None:
        assert sorted(world.service.posted[before:]) == posted
    return whole


@pytest.fixture
def texts(world: World) -> dict[str, str]:
    world.set(prune=True)
    return world.fill(14)


def test_nothing_is_seen_before_the_commit_and_everything_after_it(
    world: World, texts: dict[str, str]
) -> None:
    staged = stage(world, 3)
    assert not (world.output / "chunks/_delta_log").exists()
    counts = {"version": 0, "since": None, "documents_version": 0, "shards": 3}
    whole = commit(world, staged, **counts, documents=14, added=14, submitted=14)
    world.check()
    assert whole["chunks"] == len(world.rows()) == len(open_dataset(str(world.output)))
    assert "shards/001-of-003/report.html" in (world.output / "report.html").read_text()


def test_the_next_night_sends_what_has_changed(world: World, texts: dict[str, str]) -> None:
    first = night(world)["version"]
    world.write_all({"003.txt": "Another.", "new.txt": "A new one."})
    world.remove("005.txt")
    whole = night(world, posted=["A new one.", "Another."], added=1, changed=1, removed=1, since=first)
    world.check()
    assert world.changed(first) == {"003.txt": "changed", "005.txt": "deleted", "new.txt": "added"}
    night(world, version=whole["version"])


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_another_number_of_shards_sends_nothing(world: World, texts: dict[str, str], shards: int) -> None:
    night(world)
    night(world, shards, posted=[], skipped=14, version=0)
    # Nor does a task for all of it.
    world.set(listing=None)
    world.run(posted=[], skipped=14)
    world.check()


def test_what_one_task_made_is_cut_into_shards(world: World, texts: dict[str, str]) -> None:
    world.run()
    night(world, posted=[], skipped=14)


def test_what_was_staged_and_not_published_is_not_sent_again(world: World, texts: dict[str, str]) -> None:
    stage(world, 3)
    world.write("003.txt", "Changed before the next night.")
    night(world, posted=["Changed before the next night."], added=14)
    world.check()


def test_a_retry_of_a_shard_returns_what_it_has_staged(world: World, texts: dict[str, str]) -> None:
    (listing,) = write_listings(str(world.source), f"{world.output}/listings", shards=1)
    world.set(listing=listing)
    first = world.run(run_id="night")
    assert world.run(run_id="night", try_number=2, posted=[]) == first


def test_a_retry_of_the_commit_returns_the_same(world: World, texts: dict[str, str]) -> None:
    staged = stage(world, 3)
    first = commit(world, staged)
    assert commit(world, staged, try_number=2) == first
    with pytest.raises(InputError, match="was published before"):
        commit(world, staged, run_id="by hand")
    # It needs nothing staged.
    for number in range(3):
        world.write("003.txt", f"Night {number}.")
        night(world)
    assert commit(world, staged, try_number=2) == first


def test_a_dag_run_that_is_deleted_and_created_again_publishes(world: World, texts: dict[str, str]) -> None:
    commit(world, stage(world, 3))
    world.write("003.txt", "Another text.")
    commit(world, stage(world, 3), changed=1)
    world.check()


@pytest.mark.parametrize("moment", ["documents", "maintenance"])
@pytest.mark.parametrize("retried", [True, False])
def test_a_kill_while_publishing(
    world: World, texts: dict[str, str], monkeypatch: pytest.MonkeyPatch, moment: str, retried: bool
) -> None:
    """The retry makes the second commit, or the next night does."""
    staged = stage(world, 3)

    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    if moment == "documents":
        with killed("documents"):
            commit(world, staged)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(shards, "maintain", dies)
            with pytest.raises(Killed):
                commit(world, staged)
    if retried:
        commit(world, staged, try_number=2, added=14, version=0)
        world.check()
    night(world, posted=[], skipped=14)
    world.check()


@pytest.mark.parametrize("moment", ["shards", "a record that is gone"])
def test_a_journal_of_a_published_run_is_not_taken_again(
    world: World, texts: dict[str, str], moment: str
) -> None:
    """The task without shards died before it closed its journal."""
    with killed("end"):
        world.run()
    world.write("003.txt", "Another.")
    if moment == "shards":
        night(world)
        world.set(listing=None)
    else:
        shutil.rmtree(world.output / "runs")
    world.run(**({"skipped": 14, "changed": 0} if moment == "shards" else {}))
    world.check()
    assert world.service.posted.count("Another.") == 1
    assert len(world.service.posted) == 15


def test_a_document_that_moves_to_the_file_of_another_shard(world: World) -> None:
    world.set(prune=True)
    for name, ids in (("a.jsonl", "xyz"), ("b.jsonl", "u"), ("c.jsonl", "v"), ("d.jsonl", "w")):
        world.records(name, *ids)
    night(world, 5)
    for name, ids in (("a.jsonl", "yz"), ("b.jsonl", "ux"), ("c.jsonl", "v"), ("d.jsonl", "w")):
        world.records(name, *ids)

    whole = night(world, 5, documents=6)

    assert world.texts() == {one: f"Text of {one}. " for one in "uvwxyz"}
    assert world.statuses() == dict.fromkeys("uvwxyz", "ok")
    night(world, 5, version=whole["version"])


def test_a_document_that_two_shards_have(world: World) -> None:
    for number in range(6):
        world.records(f"{number}.jsonl", str(number))
        world.records(f"other-{number}.jsonl", "same" if number < 2 else f"o{number}")
    with pytest.raises(InputError, match="'same'"):
        night(world, 9)
    assert not (world.output / "chunks/_delta_log").exists()


def test_shards_that_do_not_belong_together(world: World, texts: dict[str, str]) -> None:
    staged = stage(world, 3)
    (listing,) = write_listings(str(world.source), f"{world.output}/listings", shards=1)
    others = stage(world, 3, only={2}, options=OTHER, full_refresh=True)
    for given, message in (
        (staged[:2], "but needs each of 3 once"),
        ([*staged, staged[0]], "but needs each of 3 once"),
        ([], "staged is empty"),
        ([{"staged": listing}], "was not staged by the task of a shard"),
        ([*staged[:2], *others], r"another configuration .*chunker"),
    ):
        with pytest.raises(InputError, match=message):
            commit(world, given)


def test_vectors_of_two_lengths(world: World, texts: dict[str, str]) -> None:
    """The deployment changes while the shards are sent."""
    staged = stage(world, 2, only={0})
    world.service.answer = longer
    staged += stage(world, 2, only={1})
    with pytest.raises(InputError, match=r"vectors of different lengths \(\[4, 8\]\).*full_refresh=True"):
        commit(world, staged)
    night(world, 2, posted=sorted(texts.values()), changes={"full_refresh": True}, added=14, dimension=8)
    world.check()
    world.service.answer = lambda text, body: body
    night(world, 2, posted=sorted(texts.values()), changed=14, dimension=4)
    # Of one shard nothing is left.
    world.remove(*(name for name in texts.copy() if shard_of(name, 2)))
    world.service.answer = longer
    night(world, 2, posted=sorted(world.expected.values()), dimension=8)
    world.check()


def test_shards_with_other_arguments(world: World, texts: dict[str, str]) -> None:
    staged = stage(world, 2, only={0}, prune=True) + stage(world, 2, only={1}, prune=False)
    with pytest.raises(InputError, match="prune of shard 001-of-002 is False"):
        commit(world, staged)


def test_each_shard_has_a_budget_of_its_own(world: World, texts: dict[str, str]) -> None:
    with pytest.raises(BudgetExceededError, match="used 21 tokens"):
        stage(world, 2, only={0}, pipeline=PipelineSettings(max_in_flight=1, max_tokens=1))
    assert len(world.service.posted) == 1
    night(world, 2, changes={"pipeline": PipelineSettings(max_tokens=1_000)}, added=14, tokens=21 * 14)
    assert sorted(world.service.posted) == sorted(texts.values())


def test_a_full_refresh_of_all_shards(world: World, texts: dict[str, str]) -> None:
    night(world)
    world.remove("005.txt")
    night(world, changes={"options": OTHER, "full_refresh": True}, changed=13, removed=1, documents=13)
    world.check()


def test_a_full_refresh_of_all_shards_repairs_a_table_whose_files_are_gone(
    world: World, texts: dict[str, str]
) -> None:
    night(world)
    world.remove("003.txt")
    next((world.output / "chunks").glob("*.parquet")).unlink()
    with pytest.raises(StorageError, match=r"is missing, .* with full_refresh=True"):
        night(world)
    night(world, changes={"full_refresh": True}, posted=sorted(world.expected.values()))
    world.check()
    night(world, changes={"full_refresh": False}, posted=[])


@pytest.mark.usefixtures("undeletable")
def test_no_permission_to_delete(world: World, texts: dict[str, str]) -> None:
    night(world)
    world.write("003.txt", "Another.")
    night(world, posted=["Another."], changed=1)
    night(world, posted=[], changed=0)
    world.check()


def test_files_that_are_gone_are_no_part_of_a_version(world: World, texts: dict[str, str]) -> None:
    staged = stage(world, 2)
    next((world.output / "chunks").glob("*.parquet")).unlink()
    with pytest.raises(InputError, match=r"parquet is gone\. .*Run the tasks of the shards again") as caught:
        commit(world, staged)
    assert not caught.value.retryable
    night(world, 2, added=14)
    world.check()


@pytest.mark.parametrize("damage", [None, *DAMAGES])
def test_facts_that_are_gone_or_damaged(
    world: World, texts: dict[str, str], damage: Callable[[bytes], bytes] | None
) -> None:
    staged = stage(world, 2)
    facts = next((world.output / "shards").rglob("staged/*.parquet"))
    facts.unlink() if damage is None else facts.write_bytes(damage(facts.read_bytes()))
    said = "gone" if damage is None else "damaged"
    with pytest.raises(InputError, match=rf"parquet is {said}.*Run the tasks of the shards again"):
        commit(world, staged)
    night(world, 2, posted=[], added=14)
    world.check()


def test_facts_that_cannot_be_read_now(
    world: World, texts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry may read them."""
    staged = stage(world, 2)
    read = Path.open

    def refuses(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.suffix == ".parquet" and path.parent.name == "staged":
            raise PermissionError("AccessDenied")
        return read(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuses)
        with pytest.raises(StorageError, match="parquet cannot be read: PermissionError"):
            commit(world, staged)
    commit(world, staged, added=14)


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_index_that_is_damaged(world: World, damage: Callable[[bytes], bytes]) -> None:
    world.write("1.txt", "A text.")
    with killed("publish"):
        world.run(run_id="night")
    (index,) = (path for path in world.output.rglob("*.parquet") if path.parent.name != "chunks")
    index.write_bytes(damage(index.read_bytes()))
    with pytest.raises(
        InputError, match=r"parquet cannot be read .*Restore it, or remove the folder \S*/journal to"
    ):
        world.run(run_id="night", try_number=2)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("*/*-kept.log", lambda found: found.replace(b'"truncated"', b'"other"')),
        ("head.json", lambda found: b"{}"),
    ],
)
def test_a_journal_of_another_version(world: World, file: str, damage: Callable[[bytes], bytes]) -> None:
    """The message names exactly the folder that may be removed."""
    world.write("1.txt", "A text.")
    world.run()
    world.write("2.txt", "Another text.")
    with killed("publish"):
        world.run(run_id="night")
    journal = world.output / "journal"
    (path,) = journal.glob(file)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="version of the provider") as caught:
        world.run(run_id="night", try_number=2)
    assert f"remove the folder {journal} to submit again" in str(caught.value)
    shutil.rmtree(journal)
    world.run(run_id="night", try_number=3, posted=["Another text."], added=1)
    world.check()


@pytest.mark.parametrize("table", ["chunks", "documents"])
def test_another_writer_rewrites_the_files_between_two_nights(
    world: World, texts: dict[str, str], table: str
) -> None:
    night(world)
    world.write("003.txt", "Another.")
    night(world)
    deltalake.DeltaTable(str(world.output / table)).optimize.compact()
    world.write("004.txt", "Another one, too.")
    world.remove("005.txt")
    whole = night(world, posted=["Another one, too."], added=0, changed=1, removed=1)
    world.check()
    night(world, version=whole["version"])


def test_documents_that_another_writer_restored(world: World, texts: dict[str, str]) -> None:
    some = dict(list(texts.items())[7:])
    world.remove(*some)
    night(world)
    world.write_all(some)
    night(world)
    deltalake.DeltaTable(str(world.output / "documents")).restore(0)
    night(world)
    world.check()
    assert world.statuses() == dict.fromkeys(texts, "ok")


def test_a_document_that_moves_to_another_shard_and_is_rejected_there(world: World) -> None:
    world.set(prune=True, max_reject_ratio=1.0)
    for one in "abcdefgh":
        world.records(f"{one}.jsonl", one)
    world.records("a.jsonl", "a", "x")
    night(world, 5)
    before = [row for row in world.rows() if row["document_id"] == "x"]
    world.service.failed = {"Bad"}
    world.records("a.jsonl", "a")
    world.records("h.jsonl", "h", x="Bad x.")
    for _ in range(2):
        night(world, 5)
        assert [row for row in world.rows() if row["document_id"] == "x"] == before
        assert world.statuses()["x"] == "rejected"
    world.records("h.jsonl", "h", x="Good x. " * 40)
    night(world, 5)
    assert world.texts()["x"] == "Good x. " * 40
    assert world.statuses()["x"] == "ok"


def test_what_was_compared_with_older_tables_is_refused(world: World, texts: dict[str, str]) -> None:
    """It would put older texts over newer ones."""
    night(world)
    staged = stage(world, 3)
    world.write("003.txt", "A newer text.")
    world.set(listing=None)
    world.run()
    with pytest.raises(InputError, match=r"was compared with run 1 of .*, which is now at run 2"):
        commit(world, staged, run_id="late")
    world.check()


def test_leases_of_shards_that_were_removed(world: World, texts: dict[str, str]) -> None:
    night(world)
    shutil.rmtree(world.output / "shards")
    world.write("003.txt", "Another.")
    night(world, changed=1)
    world.check()


@pytest.mark.parametrize("how", ["resend", "drop"])
@pytest.mark.parametrize(
    "condition", ["document_id = '003.txt'", "document_id = '003.txt' AND chunk_index > 0"]
)
def test_another_writer_deletes_chunks(world: World, texts: dict[str, str], how: Any, condition: str) -> None:
    night(world)
    deltalake.DeltaTable(str(world.output / "chunks")).delete(condition)
    night(world, posted=[texts["003.txt"]] if how == "resend" else [], changes={"on_missing_chunks": how})
    if how == "drop":
        del world.expected["003.txt"]
    world.check()
    night(world, posted=[])


@pytest.mark.parametrize("published", [False, True], ids=["of the first night", "without new chunks"])
def test_what_is_added_after_a_staging_is_not_paid_twice(
    world: World, texts: dict[str, str], published: bool
) -> None:
    if published:
        night(world, 2)
    staged, before = stage(world, 2), dict(texts)
    world.write("003.txt", "Changed after the staging.")
    stage(world, 2)
    assert world.service.posted.count("Changed after the staging.") == 1
    commit(world, staged, run_id="late")
    assert world.texts() == before
    night(world, 2, posted=[])
    world.check()
    # And once more: what the tables have is not taken from the journal again.
    world.write("004.txt", "Changed on the third night.")
    night(world, 2, posted=["Changed on the third night."])
    world.check()


def test_rows_that_move_between_the_files_of_a_delta_table_are_not_sent_again(world: World) -> None:
    source = str(world.source)
    for number in range(6):
        table = pa.table({"id": [f"d{number}"], "text": [f"Text {number}. "]})
        deltalake.write_deltalake(source, table, mode="append")
    night(world, 3, added=6)
    deltalake.DeltaTable(source).optimize.compact()

    nothing = dict.fromkeys(("added", "changed", "vanished", "removed"), 0)
    again = night(world, 3, posted=[], changes={"max_requests": 0}, **nothing)
    assert world.texts() == {f"d{number}": f"Text {number}. " for number in range(6)}
    # The next night the rows belong to the shard of their new file.
    night(world, 3, documents_version=again["documents_version"])


def test_a_late_job_of_a_shard_is_polled_in_three_nights(world: World, texts: dict[str, str]) -> None:
    late = texts["003.txt"]
    world.service.late = {late}
    changes = {"pipeline": PipelineSettings(timeout=0.3, poll_interval=0.05), "max_reject_ratio": 1.0}
    night(world, 1, changes=changes, rejected=1)
    for posted in ([], [], [late], []):
        night(world, 1, posted=posted, rejected=1)
    # A job of a document that is gone is not kept.
    world.remove("003.txt")
    for _ in range(2):
        night(world, 1, posted=[], rejected=0)
    journals = [path.read_text() for path in (world.output / "shards").rglob("*-work.log")]
    assert not any("003.txt" in text for text in journals)
    world.check()


def in_two_shards(world: World) -> tuple[str, str]:
    """Two files of records that fall into different shards of two, the first with a and x, the second with b."""
    world.set(prune=True, max_reject_ratio=1.0)
    names = {shard_of(name, 2): name for name in (f"{number}.jsonl" for number in range(20))}
    world.records(names[0], "a", "x")
    world.records(names[1], "b")
    night(world, 2)
    return names[0], names[1]


def test_an_id_of_two_shards_of_which_one_is_unchanged(world: World) -> None:
    _, second = in_two_shards(world)
    world.records(second, "b", "x")
    with pytest.raises(InputError, match="'x', which another shard has as well"):
        night(world, 2)


def test_another_configuration_keeps_no_chunk_of_the_one_before(world: World) -> None:
    """Also of a document that moves to the file of another shard and is rejected there."""
    first, second = in_two_shards(world)
    world.service.failed = {"Bad"}
    world.records(first, "a")
    world.records(second, "b", x="Bad x.")
    changes = {"options": OTHER, "full_refresh": True}
    night(world, 2, changes=changes, documents=2, changed=2, removed=1)
    assert world.texts() == {"a": "Text of a. ", "b": "Text of b. "}
    assert world.statuses()["x"] == "rejected"


def test_a_record_that_cannot_be_read_and_a_document_that_has_moved(world: World) -> None:
    """The file that had it may have it still, and that of another shard has it for sure."""
    first, second = in_two_shards(world)
    path = world.records(first, "a")
    path.write_text(path.read_text() + "no JSON\n")
    world.records(second, "b", x="A new text of x.")
    night(world, 2)
    assert world.texts() == {"a": "Text of a. ", "b": "Text of b. ", "x": "A new text of x."}


def test_all_tasks_of_a_night_are_cleared_and_nothing_is_new(world: World, texts: dict[str, str]) -> None:
    """Later tasks may not have run, and need to know what the night has brought."""
    first = commit(world, stage(world, 2))
    assert commit(world, stage(world, 2), generation=1) == first
