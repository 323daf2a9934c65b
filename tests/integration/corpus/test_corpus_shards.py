# SPDX-License-Identifier: Apache-2.0
"""A corpus over several tasks: each stages, one commit publishes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from corpus_world import Killed, World, killed

from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus import shards
from lucidworks_provider.corpus.dataset import open_dataset
from lucidworks_provider.corpus.lease import Holder
from lucidworks_provider.corpus.pipeline import PipelineSettings
from lucidworks_provider.corpus.shards import publish_shards, shard_of, write_listings
from lucidworks_provider.errors import BudgetExceededError, InputError


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
) -> dict[str, Any]:
    return publish_shards(
        [one["staged"] for one in staged],
        str(world.output),
        holder=Holder.here(
            dag_id="dag", run_id=run_id, task_id="publish", map_index=-1, try_number=try_number
        ),
        generation=generation,
        wait_seconds=0.0,
        retention=7 * 86_400.0,
    )


def night(world: World, shards: int = 3, **changes: Any) -> dict[str, Any]:
    return commit(world, stage(world, shards, **changes), run_id=f"night {world.runs}")


@pytest.fixture
def texts(world: World) -> dict[str, str]:
    texts = {f"{number:02}.txt": f"Document {number}. " * 40 for number in range(14)}
    world.write_all(texts)
    world.set(prune=True)
    return texts


def test_nothing_is_seen_before_the_commit_and_everything_after_it(
    world: World, texts: dict[str, str]
) -> None:
    staged = stage(world, 3)
    assert not (world.output / "chunks/_delta_log").exists()

    whole = commit(world, staged)

    assert world.texts() == texts
    assert (whole["version"], whole["since"], whole["documents_version"]) == (0, None, 0)
    assert whole["documents"] == whole["added"] == whole["submitted"] == 14
    assert whole["shards"] == 3
    assert whole["chunks"] == len(world.rows()) == len(open_dataset(str(world.output)))
    page = (world.output / "report.html").read_text()
    assert "shards/001-of-003/report.html" in page


def test_the_next_night_sends_what_has_changed(world: World, texts: dict[str, str]) -> None:
    first = night(world)
    texts["03.txt"] = "Another."
    texts["new.txt"] = "A new one."
    for name in ("03.txt", "new.txt"):
        world.write(name, texts[name])
    (world.source / "05.txt").unlink()
    del texts["05.txt"]
    world.service.forget()

    whole = night(world)

    assert sorted(world.service.posted) == ["A new one.", "Another."]
    assert world.texts() == texts
    assert [whole[name] for name in ("added", "changed", "removed", "since")] == [1, 1, 1, first["version"]]
    assert world.listed(whole, "changed") == ["03.txt"]
    assert world.listed(whole, "deleted") == ["05.txt"]
    assert night(world)["version"] == whole["version"]


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_another_number_of_shards_sends_nothing(world: World, texts: dict[str, str], shards: int) -> None:
    night(world)
    world.service.forget()
    again = night(world, shards)
    assert world.service.posted == []
    assert (again["skipped"], again["version"]) == (14, 0)
    # Nor does a task for all of it.
    world.set(listing=None)
    assert world.run()["skipped"] == 14
    assert world.service.posted == []
    assert world.texts() == texts


def test_what_one_task_made_is_cut_into_shards(world: World, texts: dict[str, str]) -> None:
    world.run()
    world.service.forget()
    assert night(world)["skipped"] == 14
    assert world.service.posted == []


def test_what_was_staged_and_not_published_is_not_sent_again(world: World, texts: dict[str, str]) -> None:
    stage(world, 3)
    texts["03.txt"] = "Changed before the next night."
    world.write("03.txt", texts["03.txt"])
    world.service.forget()
    whole = night(world)
    assert world.service.posted == ["Changed before the next night."]
    assert world.texts() == texts
    assert whole["added"] == 14


def test_a_retry_of_a_shard_returns_what_it_has_staged(world: World, texts: dict[str, str]) -> None:
    (listing,) = write_listings(str(world.source), f"{world.output}/listings", shards=1)
    world.set(listing=listing)
    first = world.run(run_id="night")
    world.service.forget()
    assert world.run(run_id="night", try_number=2) == first
    assert world.service.posted == []


def test_a_retry_of_the_commit_returns_the_same(world: World, texts: dict[str, str]) -> None:
    staged = stage(world, 3)
    first = commit(world, staged)
    assert commit(world, staged, try_number=2) == first
    with pytest.raises(InputError, match="was published before"):
        commit(world, staged, run_id="by hand")


@pytest.mark.parametrize("moment", ["documents", "maintenance"])
def test_whoever_dies_while_publishing(
    world: World, texts: dict[str, str], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
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
    whole = commit(world, staged, try_number=2)
    assert (whole["added"], whole["version"]) == (14, 0)
    assert world.texts() == texts
    world.service.forget()
    assert night(world)["skipped"] == 14
    assert world.service.posted == []


@pytest.mark.parametrize("moment", ["shards", "a record that is gone"])
def test_a_journal_of_a_published_run_is_not_taken_again(
    world: World, texts: dict[str, str], moment: str
) -> None:
    """The task without shards died before it closed its journal."""
    with killed("end"):
        world.run()
    texts["03.txt"] = "Another."
    world.write("03.txt", texts["03.txt"])
    if moment == "shards":
        night(world)
        world.set(listing=None)
    else:
        shutil.rmtree(world.output / "runs")
    delta = world.run()
    assert world.texts() == texts
    assert world.service.posted.count("Another.") == 1
    assert len(world.service.posted) == 15
    if moment == "shards":
        assert (delta["skipped"], delta["changed"]) == (14, 0)


def test_a_night_begins_with_the_second_commit_of_the_last(world: World, texts: dict[str, str]) -> None:
    staged = stage(world, 3)
    with killed("documents"):
        commit(world, staged)
    world.service.forget()
    assert night(world)["skipped"] == 14
    assert world.service.posted == []
    assert world.texts() == texts


def test_a_document_that_moves_to_the_file_of_another_shard(world: World) -> None:
    world.set(prune=True)
    for name, ids in (("a.jsonl", "xyz"), ("b.jsonl", "u"), ("c.jsonl", "v"), ("d.jsonl", "w")):
        world.write(name, "".join(json.dumps({"id": one, "text": f"Text of {one}."}) + "\n" for one in ids))
    night(world, 5)
    world.write("a.jsonl", '{"id": "y", "text": "Text of y."}\n{"id": "z", "text": "Text of z."}\n')
    for name in "bcd":
        old = (world.source / f"{name}.jsonl").read_text()
        world.write(f"{name}.jsonl", old + ('{"id": "x", "text": "Text of x."}\n' if name == "b" else ""))

    whole = night(world, 5)

    assert world.texts() == {one: f"Text of {one}." for one in "uvwxyz"}
    assert whole["documents"] == 6
    assert world.statuses() == dict.fromkeys("uvwxyz", "ok")
    assert night(world, 5)["version"] == whole["version"]


def test_a_document_that_two_shards_have(world: World) -> None:
    for number in range(6):
        world.write(f"{number}.jsonl", f'{{"id": "{number}", "text": "Text {number}."}}\n')
    for number in range(6):
        one = "same" if number < 2 else f"o{number}"
        world.write(f"other-{number}.jsonl", f'{{"id": "{one}", "text": "Twice."}}\n')
    with pytest.raises(InputError, match="'same'"):
        night(world, 9)
    assert not (world.output / "chunks/_delta_log").exists()


def test_shards_that_do_not_belong_together(world: World, texts: dict[str, str]) -> None:
    staged = stage(world, 3)
    with pytest.raises(InputError, match="but needs each of 3 once"):
        commit(world, staged[:2])
    with pytest.raises(InputError, match="but needs each of 3 once"):
        commit(world, [*staged, staged[0]])
    with pytest.raises(InputError, match="staged is empty"):
        commit(world, [])
    (listing,) = write_listings(str(world.source), f"{world.output}/listings", shards=1)
    with pytest.raises(InputError, match="was not staged by the task of a shard"):
        commit(world, [{"staged": listing}])
    others = stage(world, 3, only={2}, options=ChunkingOptions("sentence", "gte-small"), full_refresh=True)
    with pytest.raises(InputError, match=r"another configuration .*chunker"):
        commit(world, [*staged[:2], *others])


def test_vectors_of_two_lengths(world: World, texts: dict[str, str]) -> None:
    staged = stage(world, 2)
    path = Path(staged[0]["staged"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dimension": 8}))
    with pytest.raises(InputError, match=r"vectors of different lengths \(\[4, 8\]\)"):
        commit(world, staged)


def test_each_shard_has_a_budget_of_its_own(world: World, texts: dict[str, str]) -> None:
    with pytest.raises(BudgetExceededError, match="used 21 tokens"):
        stage(world, 2, only={0}, pipeline=PipelineSettings(max_in_flight=1, max_tokens=1))
    assert len(world.service.posted) == 1
    whole = night(world, 2, pipeline=PipelineSettings(max_tokens=1_000))
    assert (whole["added"], whole["tokens"]) == (14, 21 * 14)
    assert sorted(world.service.posted) == sorted(texts.values())


def test_a_full_refresh_of_all_shards(world: World, texts: dict[str, str]) -> None:
    night(world)
    (world.source / "05.txt").unlink()
    del texts["05.txt"]
    whole = night(world, options=ChunkingOptions("sentence", "gte-small"), full_refresh=True)
    assert world.texts() == texts
    assert (whole["changed"], whole["removed"], whole["documents"]) == (13, 1, 13)


@pytest.mark.usefixtures("undeletable")
def test_no_permission_to_delete(world: World, texts: dict[str, str]) -> None:
    night(world)
    texts["03.txt"] = "Another."
    world.write("03.txt", texts["03.txt"])
    world.service.forget()
    assert night(world)["changed"] == 1
    assert night(world)["changed"] == 0
    assert world.service.posted == ["Another."]
    assert world.texts() == texts


def test_files_that_are_gone_are_no_part_of_a_version(world: World, texts: dict[str, str]) -> None:
    staged = stage(world, 2)
    next((world.output / "chunks").glob("*.parquet")).unlink()
    with pytest.raises(InputError, match=r"parquet is gone\. .*run the tasks of the shards again"):
        commit(world, staged)
    assert night(world, 2)["added"] == 14
    assert world.texts() == texts


@pytest.mark.parametrize("table", ["chunks", "documents"])
def test_somebody_else_rewrites_the_files_between_two_nights(
    world: World, texts: dict[str, str], table: str
) -> None:
    night(world)
    texts["03.txt"] = "Another."
    world.write("03.txt", texts["03.txt"])
    night(world)
    deltalake.DeltaTable(str(world.output / table)).optimize.compact()
    texts["04.txt"] = "Another one, too."
    world.write("04.txt", texts["04.txt"])
    (world.source / "05.txt").unlink()
    del texts["05.txt"]
    world.service.forget()
    whole = night(world)
    assert world.service.posted == ["Another one, too."]
    assert [whole[name] for name in ("added", "changed", "removed")] == [0, 1, 1]
    assert world.texts() == texts
    assert night(world)["version"] == whole["version"]


def test_documents_that_somebody_restored(world: World, texts: dict[str, str]) -> None:
    for name in list(texts)[7:]:
        (world.source / name).unlink()
    night(world)
    world.write_all(texts)
    night(world)
    deltalake.DeltaTable(str(world.output / "documents")).restore(0)
    night(world)
    assert world.texts() == texts
    assert world.statuses() == dict.fromkeys(texts, "ok")


def test_a_document_that_moves_to_another_shard_and_is_rejected_there(world: World) -> None:
    def lines(*ids: str, text: str = "Text of {}. ") -> str:
        return "".join(json.dumps({"id": one, "text": text.format(one) * 40}) + "\n" for one in ids)

    world.set(prune=True, max_reject_ratio=1.0)
    names = [f"{letter}.jsonl" for letter in "abcdefgh"]
    for name in names:
        world.write(name, lines(name[0]))
    world.write("a.jsonl", lines("a", "x"))
    night(world, 5)
    before = [row for row in world.rows() if row["document_id"] == "x"]
    world.service.answer = lambda text, body: (
        {"chunkingId": body["chunkingId"], "status": "ERROR"} if text.startswith("Bad") else body
    )
    world.write("a.jsonl", lines("a"))
    for name in names[1:]:
        world.write(name, lines(name[0]) + (lines("x", text="Bad {}. ") if name == "h.jsonl" else ""))
    for _ in range(2):
        night(world, 5)
        assert [row for row in world.rows() if row["document_id"] == "x"] == before
        assert world.statuses()["x"] == "rejected"
    world.write("h.jsonl", lines("h") + lines("x", text="Good {}. "))
    night(world, 5)
    assert world.texts()["x"] == "Good x. " * 40
    assert world.statuses()["x"] == "ok"


def test_what_was_compared_with_older_tables_is_refused(world: World, texts: dict[str, str]) -> None:
    """It would put older texts over newer ones."""
    night(world)
    staged = stage(world, 3)
    texts["03.txt"] = "A newer text."
    world.write("03.txt", texts["03.txt"])
    world.set(listing=None)
    world.run()
    with pytest.raises(InputError, match=r"was compared with run 1 of .*, which is now at run 2"):
        commit(world, staged, run_id="late")
    assert world.texts() == texts


def test_leases_of_shards_that_somebody_removed(world: World, texts: dict[str, str]) -> None:
    night(world)
    shutil.rmtree(world.output / "shards")
    texts["03.txt"] = "Another."
    world.write("03.txt", texts["03.txt"])
    assert night(world)["changed"] == 1
    assert world.texts() == texts


def test_a_late_retry_of_the_commit_needs_nothing_staged(world: World, texts: dict[str, str]) -> None:
    staged = stage(world, 3)
    first = commit(world, staged)
    for number in range(3):
        world.write("03.txt", f"Night {number}.")
        night(world)
    assert commit(world, staged, try_number=2) == first


@pytest.mark.parametrize("how", ["resend", "drop"])
@pytest.mark.parametrize(
    "condition", ["document_id = '03.txt'", "document_id = '03.txt' AND chunk_index > 0"]
)
def test_somebody_else_deletes_chunks(world: World, texts: dict[str, str], how: Any, condition: str) -> None:
    night(world)
    deltalake.DeltaTable(str(world.output / "chunks")).delete(condition)
    world.service.forget()
    night(world, on_missing_chunks=how)
    if how == "drop":
        del texts["03.txt"]
    assert world.texts() == texts
    assert world.service.posted == ([texts["03.txt"]] if how == "resend" else [])
    world.service.forget()
    night(world)
    assert world.service.posted == []


def lines(*documents: tuple[str, str]) -> str:
    return "".join(json.dumps({"id": one, "text": text}) + "\n" for one, text in documents)


def other_shard(name: str, shards: int) -> str:
    """Another name of a file that falls into another shard."""
    number = shard_of(name, shards)
    return next(found for found in (f"{at}-{name}" for at in range(99)) if shard_of(found, shards) != number)


def test_what_is_added_after_a_staging_that_is_published_is_not_paid_twice(
    world: World, texts: dict[str, str]
) -> None:
    staged = stage(world, 2)
    world.write("03.txt", "Changed after the staging.")
    stage(world, 2)
    assert world.service.posted.count("Changed after the staging.") == 1
    commit(world, staged)
    assert world.texts() == texts
    world.service.forget()

    night(world, 2)
    assert world.service.posted == []
    assert world.texts() == texts | {"03.txt": "Changed after the staging."}
    # And once more: what the tables have is not taken from the journal again.
    world.write("04.txt", "Changed on the third night.")
    night(world, 2)
    assert world.service.posted == ["Changed on the third night."]
    assert world.texts() == texts | {
        "03.txt": "Changed after the staging.",
        "04.txt": "Changed on the third night.",
    }


def test_an_id_of_two_shards_of_which_one_is_unchanged(world: World) -> None:
    world.write("a.jsonl", lines(("same", "A text. ")))
    night(world, 2)
    world.write(other_shard("a.jsonl", 2), lines(("same", "A text. ")))
    with pytest.raises(InputError, match="'same', which another shard has as well"):
        night(world, 2)


def test_rows_that_move_between_the_files_of_a_delta_table_are_not_sent_again(world: World) -> None:
    source = str(world.source)
    for number in range(6):
        table = pa.table({"id": [f"d{number}"], "text": [f"Text {number}. "]})
        deltalake.write_deltalake(source, table, mode="append")
    first = night(world, 3)
    assert first["added"] == 6
    world.service.forget()
    deltalake.DeltaTable(source).optimize.compact()

    again = night(world, 3, max_requests=0)
    assert world.service.posted == []
    assert [again[name] for name in ("added", "changed", "vanished", "removed")] == [0, 0, 0, 0]
    assert world.texts() == {f"d{number}": f"Text {number}. " for number in range(6)}
    # The next night the rows belong to the shard of their new file.
    assert night(world, 3)["documents_version"] == again["documents_version"]


def test_shards_with_other_arguments(world: World, texts: dict[str, str]) -> None:
    staged = stage(world, 2, only={0}, prune=True) + stage(world, 2, only={1}, prune=False)
    with pytest.raises(InputError, match="prune of shard 001-of-002 is False"):
        commit(world, staged)


def in_two_shards() -> tuple[str, str]:
    """Names of two files of records that fall into different shards of two."""
    names: dict[int, str] = {}
    for number in range(20):
        names.setdefault(shard_of(f"{number}.jsonl", 2), f"{number}.jsonl")
    return names[0], names[1]


def test_another_configuration_keeps_no_chunk_of_the_one_before(world: World) -> None:
    """Also of a document that moves to the file of another shard and is rejected there."""
    world.set(prune=True, max_reject_ratio=1.0)
    first, second = in_two_shards()
    world.write(first, lines(("a", "Text of a."), ("x", "Text of x.")))
    world.write(second, lines(("b", "Text of b.")))
    night(world, 2)
    world.service.answer = lambda text, body: (
        {"chunkingId": body["chunkingId"], "status": "ERROR"} if text.startswith("Bad") else body
    )
    world.write(first, lines(("a", "Text of a.")))
    world.write(second, lines(("b", "Text of b."), ("x", "Bad x.")))
    whole = night(world, 2, options=ChunkingOptions("sentence", "gte-small"), full_refresh=True)
    assert world.texts() == {"a": "Text of a.", "b": "Text of b."}
    assert world.statuses()["x"] == "rejected"
    assert [whole[name] for name in ("documents", "changed", "removed")] == [2, 2, 1]


def test_a_record_that_cannot_be_read_and_a_document_that_has_moved(world: World) -> None:
    """The file that had it may have it still, and that of another shard has it for sure."""
    world.set(prune=True, max_reject_ratio=1.0)
    first, second = in_two_shards()
    world.write(first, lines(("a", "Text of a."), ("x", "Text of x.")))
    world.write(second, lines(("b", "Text of b.")))
    night(world, 2)
    world.write(first, lines(("a", "Text of a.")) + "no JSON\n")
    world.write(second, lines(("b", "Text of b."), ("x", "A new text of x.")))
    night(world, 2)
    assert world.texts() == {"a": "Text of a.", "b": "Text of b.", "x": "A new text of x."}


def test_all_tasks_of_a_night_are_cleared_and_nothing_is_new(world: World, texts: dict[str, str]) -> None:
    """Later tasks may not have run, and need to know what the night has brought."""
    first = commit(world, stage(world, 2))
    assert commit(world, stage(world, 2), generation=1) == first


def test_what_is_added_after_a_staging_without_new_chunks(world: World, texts: dict[str, str]) -> None:
    night(world, 1)
    staged = stage(world, 1)
    world.write("03.txt", "Changed after the staging.")
    stage(world, 1)
    commit(world, staged, run_id="late")
    world.service.forget()
    night(world, 1)
    assert world.service.posted == []
    assert world.texts() == texts | {"03.txt": "Changed after the staging."}
