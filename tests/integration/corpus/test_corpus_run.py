# SPDX-License-Identifier: Apache-2.0
"""A run over a corpus, night after night."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_world import World, killed

from lucidworks_provider import metrics, retrying
from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus import journal, pipeline
from lucidworks_provider.corpus.dataset import open_documents
from lucidworks_provider.corpus.journal import Journal
from lucidworks_provider.corpus.lease import Lease
from lucidworks_provider.corpus.pipeline import FIRST_WINDOW, SUBMISSIONS, Pipeline, PipelineSettings
from lucidworks_provider.corpus.run import plan_run
from lucidworks_provider.delta.log import read_table
from lucidworks_provider.documents.document import content_hash
from lucidworks_provider.documents.readers import ReadOptions
from lucidworks_provider.errors import (
    BudgetExceededError,
    ForbiddenError,
    InputError,
    LucidworksError,
    OutputBusyError,
    RateLimitError,
    RequestRefusedError,
    StorageError,
    SubmissionUnknownError,
    TransportError,
)


def fill(world: World, count: int = 12) -> dict[str, str]:
    texts = {f"{number:03}.txt": f"Document {number} has a sentence. " * 20 for number in range(count)}
    world.write_all(texts)
    return texts


def _die(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def _without_result(
    text: str, body: dict[str, Any], *, late: Set[str] = frozenset(), bad: Set[str] = frozenset()
) -> dict[str, Any]:
    """The answer of the service, or that of a job that is not ready or has failed."""
    if text in late | bad:
        return {"chunkingId": body["chunkingId"], "status": "ERROR" if text in bad else "SUBMITTED"}
    return body


def _bodies_in(folder: Path) -> set[str]:
    """The texts whose chunks are in the files of a journal."""
    found: set[str] = set()
    for path in folder.rglob("*-work.log"):
        lines = [json.loads(line) for line in path.read_bytes().splitlines() if line]
        found |= {"".join(line["chunkedData"][0]["chunks"]) for line in lines if "chunkedData" in line}
    return found


def _without_lease(folder: Path) -> set[str]:
    return {name for name in tree(folder) if not name.startswith("lease/")}


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class TestFirstRun:
    def test_every_document_is_there_once_and_whole(self, world: World) -> None:
        texts = fill(world)

        delta = world.run()

        assert world.texts() == texts
        assert delta["added"] == delta["submitted"] == delta["documents"] == 12
        assert world.listed(delta, "added") == sorted(texts)
        assert [delta[name] for name in ("changed", "vanished", "removed", "skipped", "rejected")] == [0] * 5

    def test_columns(self, world: World) -> None:
        world.write("one.txt", "A text of one chunk.")
        world.run()

        (row,) = world.rows()

        assert len(row.pop("vector")) == 4
        assert row == {
            "document_id": "one.txt",
            "chunk_index": 0,
            "text": "A text of one chunk.",
            "start": 0,
            "end": 20,
            "input_tokens": 7,
            "content_hash": content_hash("A text of one chunk."),
        }

    def test_the_folder_holds_two_tables_and_notes(self, world: World) -> None:
        fill(world)
        delta = world.run()

        (documents,) = {row["chunk_file"] for row in open_documents(str(world.output)).to_table().to_pylist()}
        found = tree(world.output)
        (upserts,) = {name for name in found if name.startswith("documents/") and name.endswith(".parquet")}
        assert found == {
            f"chunks/{documents}",
            "chunks/_delta_log/00000000000000000000.json",
            upserts,
            "documents/_delta_log/00000000000000000000.json",
            "lease/00000001.json",
            "rejects.jsonl",
            "report.html",
            "runs/00000001.json",
        }
        assert (delta["version"], delta["since"], delta["documents_version"]) == (0, None, 0)

    def test_other_formats_have_their_records_as_documents(self, world: World) -> None:
        world.write("a/page.html", "<html><body><h1>Title</h1><p>A paragraph.</p></body></html>")
        world.write("rows.jsonl", '{"id": "r1", "text": "First row."}\n{"id": 2, "text": "Second row."}\n')
        table = pa.table({"id": ["p1"], "text": ["A row of a table."]})
        pq.write_table(table, world.source / "rows.parquet")

        world.run()

        texts = world.texts()
        assert {"r1": "First row.", "2": "Second row.", "p1": "A row of a table."}.items() <= texts.items()
        assert "A paragraph." in texts["a/page.html"]
        assert set(texts) == {"a/page.html", "r1", "2", "p1"}

    def test_documents_of_a_task(self, world: World) -> None:
        from lucidworks_provider.documents.document import Document

        world.set(source=[Document("a", "Text of a."), Document("b", "Text of b.")])
        world.run()
        world.set(source=[Document("a", "Text of a."), Document("b", "Another text of b.")])
        world.service.forget()

        delta = world.run()

        assert world.service.posted == ["Another text of b."]
        assert delta["changed"] == delta["skipped"] == 1


class TestNextRun:
    def test_nothing_changed_nothing_sent_nothing_opened(self, world: World) -> None:
        fill(world)
        world.run()
        world.service.forget()
        before = world.rows()
        world.swap_contents()

        delta = world.run()

        assert (world.service.posted, world.service.gets) == ([], 0)
        assert (delta["skipped"], delta["added"], delta["changed"]) == (12, 0, 0)
        assert world.rows() == before

    def test_changed_new_and_vanished(self, world: World) -> None:
        texts = fill(world)
        world.run()
        world.service.forget()
        texts["001.txt"] = "This one is another by now."
        texts["new.txt"] = "This one is new."
        world.write("001.txt", texts["001.txt"])
        world.write("new.txt", texts["new.txt"])
        (world.source / "002.txt").unlink()

        delta = world.run()

        assert sorted(world.service.posted) == sorted([texts["001.txt"], texts["new.txt"]])
        assert world.texts() == texts
        assert world.listed(delta, "added") == ["new.txt"]
        assert world.listed(delta, "changed") == ["001.txt"]
        assert world.listed(delta, "deleted") == []
        assert (delta["skipped"], delta["vanished"], delta["removed"]) == (10, 1, 0)
        # Once: when it vanished.
        assert world.run()["vanished"] == 0
        assert world.statuses() == dict.fromkeys(texts, "ok") | {"002.txt": "vanished"}

    def test_prune_removes_what_vanished(self, world: World) -> None:
        texts = fill(world)
        world.run()
        (world.source / "002.txt").unlink()
        world.set(prune=True)

        delta = world.run()

        del texts["002.txt"]
        assert world.texts() == texts
        assert (delta["vanished"], delta["removed"]) == (1, 1)
        assert world.run()["vanished"] == 0

    def test_prune_keeps_what_is_behind_a_link_whose_target_is_gone(self, world: World) -> None:
        texts = fill(world)
        shared = world.write("../share/in/s.txt", "Text of a share.").parent
        (world.source / "one.txt").symlink_to(shared / "s.txt")
        (world.source / "lines.jsonl").symlink_to(shared / "l.jsonl")
        (shared / "l.jsonl").write_text('{"id": "l", "text": "Text of a line."}')
        texts |= {"one.txt": "Text of a share.", "l": "Text of a line."}
        world.set(prune=True, max_reject_ratio=1.0)
        world.run()
        assert world.texts() == texts

        (world.root / "share").rename(world.root / "unmounted")
        delta = world.run()
        assert world.texts() == texts
        assert (delta["removed"], delta["vanished"], delta["rejected"]) == (0, 0, 2)

        (world.source / "folder").symlink_to(shared)
        with pytest.raises(
            StorageError, match="source/folder cannot be read: it is a link whose target is gone"
        ):
            world.run()
        assert world.texts() == texts

    def test_what_vanished_and_comes_back_is_not_sent(self, world: World) -> None:
        texts = fill(world)
        world.run()
        etag = (world.source / "002.txt").stat().st_mtime_ns
        (world.source / "002.txt").unlink()
        world.run()
        os.utime(world.write("002.txt", texts["002.txt"]), ns=(etag, etag))
        world.service.forget()

        delta = world.run()

        assert world.service.posted == []
        assert (delta["skipped"], delta["vanished"], delta["version"]) == (12, 0, delta["since"])
        assert world.statuses() == dict.fromkeys(texts, "ok")

    def test_a_touched_file_is_read_once_and_not_sent(self, world: World) -> None:
        fill(world)
        world.run()
        world.service.forget()
        os.utime(world.source / "003.txt", (1, 1))

        first, second = world.run(), world.run()

        assert world.service.posted == []
        assert first["skipped"] == second["skipped"] == 12
        assert plan_run(world.corpus)["would_submit"] == 0

    def test_many_small_parts_become_one(self, world: World) -> None:
        for night in range(18):
            world.write(f"{night}.txt", f"The document of night {night}.")
            world.run()

        for name in ("chunks", "documents"):
            table = read_table(f"{world.output}/{name}")
            assert table is not None
            assert table.version == 17
            assert len(table.files) < 16
        assert len(world.texts()) == len(open_documents(str(world.output))) == 18

    def test_a_file_of_records_is_skipped_as_a_whole(self, world: World) -> None:
        path = world.write("rows.jsonl", "".join(f'{{"id": {n}, "text": "Row {n}."}}\n' for n in range(5)))
        world.run()
        world.service.forget()
        with path.open("a") as file:
            file.write('{"id": 5, "text": "Row 5."}\n')

        delta = world.run()

        assert world.service.posted == ["Row 5."]
        assert (delta["added"], delta["skipped"]) == (1, 5)
        world.swap_contents()
        assert world.run()["skipped"] == 6

    def test_a_file_that_a_record_has_vanished_from_is_read_once(self, world: World) -> None:
        world.write("a.jsonl", "".join(f'{{"id": {n}, "text": "Row {n}."}}\n' for n in range(3)))
        world.run()
        world.write("a.jsonl", "".join(f'{{"id": {n}, "text": "Row {n}."}}\n' for n in range(2)))
        assert world.run()["vanished"] == 1
        world.swap_contents()

        delta = world.run()

        assert (delta["skipped"], delta["vanished"], delta["documents"]) == (2, 0, 3)

    def test_a_file_of_records_that_returns_to_an_earlier_version_is_read(self, world: World) -> None:
        def put(*ids: str, version: int) -> None:
            path = world.write(
                "a.jsonl", "".join(f'{{"id": "{one}", "text": "Row {one}."}}\n' for one in ids)
            )
            os.utime(path, ns=(version, version))

        world.set(prune=True)
        world.write("b.txt", "Another document.")
        put("x", "y", version=1)
        world.run()
        world.set(prune=False)
        put("x", version=2)
        assert world.run()["vanished"] == 1
        put("x", "y", version=1)
        world.set(prune=True)

        delta = world.run()

        assert (delta["skipped"], delta["vanished"], delta["removed"]) == (3, 0, 0)
        assert world.texts() == {"b.txt": "Another document.", "x": "Row x.", "y": "Row y."}

    def test_another_configuration_is_an_error_that_names_it(self, world: World) -> None:
        fill(world)
        world.run()
        world.service.forget()
        world.set(options=ChunkingOptions("sentence", "gte-small"))

        with pytest.raises(
            InputError, match=r"chunker was 'dynamic-sentence' and is 'sentence'.*full_refresh"
        ):
            world.run()
        assert world.service.posted == []

    def test_another_column_is_another_configuration(self, world: World) -> None:
        world.write("rows.csv", "id,key,title,body\n1,a,Title,Text of the body\n")
        world.set(reading=ReadOptions(text_column="title"))
        world.run()
        world.service.forget()

        for reading, message in (
            (ReadOptions(text_column="body"), "text_column was 'title' and is 'body'"),
            (ReadOptions(text_column="no such"), "text_column was 'title' and is 'no such'"),
            (ReadOptions("key", "title"), "id_column was 'id' and is 'key'"),
        ):
            world.set(reading=reading)
            with pytest.raises(
                InputError, match=rf"made with another configuration: {message}.*full_refresh"
            ):
                world.run()
        assert world.service.posted == []
        assert world.texts() == {"1": "Title"}

        world.set(reading=ReadOptions("key", "body"), full_refresh=True)
        world.run()
        assert world.texts() == {"a": "Text of the body"}
        world.set(full_refresh=False)
        assert world.run()["skipped"] == 1

    def test_full_refresh_replaces_everything(self, world: World) -> None:
        texts = fill(world)
        world.run()
        (world.source / "002.txt").unlink()
        del texts["002.txt"]
        world.service.forget()
        world.set(options=ChunkingOptions("sentence", "gte-small"), full_refresh=True)

        delta = world.run()

        assert len(world.service.posted) == len(texts)
        assert world.texts() == texts
        assert (delta["changed"], delta["vanished"], delta["removed"]) == (11, 1, 1)


class TestLongDocuments:
    def test_pieces_have_spans_in_the_whole_document(self, world: World) -> None:
        text = "\n\n".join(f"Paragraph {n} with a umlaut ä. It has two sentences." for n in range(60))
        world.write("long.txt", text)
        world.set(max_text_bytes=500)

        delta = world.run()

        rows = world.rows()
        assert delta["documents"] == 1
        assert len(world.service.posted) > 5
        assert all(text[row["start"] : row["end"]] == row["text"] for row in rows)
        assert [row["chunk_index"] for row in rows] == list(range(len(rows)))
        assert world.texts() == {"long.txt": text}

    def test_pieces_without_a_word_are_not_sent(self, world: World) -> None:
        world.write("long.txt", "x" * 100 + "\n" * 250 + "y" * 100)
        world.set(max_text_bytes=100)
        world.run()
        assert all(text.strip() for text in world.service.posted)
        assert world.texts()["long.txt"].split() == ["x" * 100, "y" * 100]


class TestRejects:
    def test_one_bad_document_does_not_fail_the_run(self, world: World) -> None:
        texts = fill(world)
        world.write("empty.txt", "  \n")
        world.write("junk.txt", bytes(range(256)) * 20)
        world.set(max_reject_ratio=0.5)

        delta = world.run()

        assert world.texts() == texts
        rejects = {row["document_id"]: row for row in world.lines(delta["rejects"])}
        assert set(rejects) == {"empty.txt", "junk.txt"}
        assert rejects["empty.txt"]["reason"] == "empty"
        assert rejects["junk.txt"]["attempts"] == 1
        again = world.run()
        assert {row["attempts"] for row in world.lines(again["rejects"])} == {2}

    def test_too_many_fail_the_run_and_keep_what_was_done(self, world: World) -> None:
        texts = fill(world)
        bad = {texts["001.txt"], texts["002.txt"]}

        def refuse(text: str) -> None:
            if text in bad:
                raise RequestRefusedError("HTTP 400: no", status=400)

        world.service.on_post = refuse
        with pytest.raises(LucidworksError, match="2 of 12 documents were rejected"):
            world.run()
        assert not (world.output / "chunks" / "_delta_log").exists()
        world.service.on_post = lambda text: None
        world.service.forget()

        delta = world.run()

        assert sorted(world.service.posted) == sorted(bad)
        assert delta["added"] == 12
        assert world.texts() == texts

    def test_a_failed_job_is_a_reject_with_the_services_words(self, world: World) -> None:
        texts = fill(world)
        bad = texts["003.txt"]
        world.service.answer = lambda text, body: (
            {"chunkingId": body["chunkingId"], "status": "ERROR", "message": "no tokens left"}
            if text == bad
            else body
        )
        world.set(max_reject_ratio=0.2, pipeline=PipelineSettings(poll_interval=0.02))

        delta = world.run()

        (reject,) = world.lines(delta["rejects"])
        assert (reject["document_id"], reject["reason"]) == ("003.txt", "failed")
        assert "no tokens left" in reject["detail"]

    def test_vectors_of_another_length_are_a_reject(self, world: World) -> None:
        texts = fill(world)
        bad = texts["005.txt"]

        def shorten(text: str, body: dict[str, Any]) -> dict[str, Any]:
            if text == bad:
                for item in body["chunkedData"]:
                    for vector in item["vectors"]:
                        vector["vector"] = [1.0]
            return body

        world.service.answer = shorten
        world.set(max_reject_ratio=0.2, pipeline=PipelineSettings(max_in_flight=1))

        delta = world.run()

        (reject,) = world.lines(delta["rejects"])
        assert (reject["document_id"], reject["reason"]) == ("005.txt", "malformed")

    def test_a_changed_document_that_is_rejected_keeps_its_old_chunks(self, world: World) -> None:
        texts = fill(world)
        world.run()
        world.write("001.txt", "")
        world.set(max_reject_ratio=0.5)

        delta = world.run()

        assert world.texts() == texts
        assert (delta["rejected"], delta["vanished"]) == (1, 0)

    def test_a_line_that_cannot_be_read_is_no_vanished_document(self, world: World) -> None:
        world.write("a.jsonl", '{"id": "1", "text": "One."}\n{"id": "2", "text": "Two."}\n')
        world.run()
        world.write("a.jsonl", '{"id": "1", "text": "One."}\n{"id": "2", "te')
        world.set(prune=True, max_reject_ratio=1.0)

        delta = world.run()

        assert (delta["vanished"], delta["removed"], delta["rejected"]) == (0, 0, 1)
        assert world.texts() == {"1": "One.", "2": "Two."}

    def test_truncated_is_a_warning_or_a_reject(self, world: World) -> None:
        texts = fill(world)
        cut = texts["001.txt"]

        def truncate(text: str, body: dict[str, Any]) -> dict[str, Any]:
            if text == cut:
                for item in body["chunkedData"]:
                    for values in item.values():
                        del values[-1]
            return body

        world.service.answer = truncate
        assert world.run()["truncated"] == 1
        assert cut.startswith(world.texts()["001.txt"])

        world.set(full_refresh=True, max_reject_ratio=0.5, pipeline=PipelineSettings(refuse_truncated=True))
        (reject,) = world.lines(world.run()["rejects"])
        assert reject["reason"] == "truncated"

    def test_what_is_accepted_with_a_warning_is_counted(
        self, world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counted: list[int] = []
        monkeypatch.setattr(metrics, "warnings", counted.append)
        texts = fill(world, 4)
        world.write("b.pdf", "Of another format.")
        (world.source / "loop").symlink_to(world.source)

        def strange(text: str, body: dict[str, Any]) -> dict[str, Any]:
            (item,) = body["chunkedData"]
            if text == texts["001.txt"]:
                item = {name: values[:-1] for name, values in item.items()}
            elif text == texts["002.txt"]:
                item["chunks"] = ["Words of another text."] * 3
            elif text == texts["003.txt"]:
                item["vectors"][0]["vector"] = [0.0] * 4
            return body | {"chunkedData": [item]}

        world.service.answer = strange
        world.set(pipeline=PipelineSettings(lenient=True))
        delta = world.run()
        about = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert delta["warnings"] == sum(counted) == len(about)
        assert [delta["truncated"], delta["rejected"]] == [1, 0]
        for words in ("001.txt", "002.txt", "only zeros", "1 files of other formats", "parent folders"):
            assert any(words in message for message in about), words
        # Those of the source are found by each run.
        assert world.run()["warnings"] == 2

    def test_when_all_are_refused_the_run_stops(self, world: World) -> None:
        # More than may be under way at once when the first are refused.
        fill(world, 3 * FIRST_WINDOW)

        def refuse(text: str) -> None:
            world.service.posted.append(text)
            raise RequestRefusedError("HTTP 400: dimReductionSize is too large", status=400)

        world.service.on_post = refuse
        with pytest.raises(LucidworksError, match=r"in a row were rejected.*dimReductionSize"):
            world.run()
        assert len(world.service.posted) < 3 * FIRST_WINDOW


class TestCrashes:
    def test_a_service_that_is_down_leaves_what_came(self, world: World) -> None:
        texts = fill(world, 30)

        def down(text: str) -> None:
            if len(world.service.posted) >= 15:
                raise TransportError("the connection broke")

        world.service.on_post = down
        with pytest.raises(TransportError, match="connection broke"):
            world.run(run_id="night")
        assert not (world.output / "chunks" / "_delta_log").exists()
        world.service.on_post = lambda text: None

        delta = world.run(run_id="night", try_number=2)

        assert world.texts() == texts
        assert sorted(world.service.posted) == sorted(texts.values())
        assert delta["resubmitted"] == 0

    @pytest.mark.parametrize("sent", [7, 20])
    def test_a_retry_returns_the_counts_of_all_tries(self, world: World, sent: int) -> None:
        """Killed after some submissions, or when only the commit was missing."""
        texts = fill(world, 20)
        cut = texts["001.txt"]
        lost: list[str] = []

        def strange(text: str, body: dict[str, Any]) -> dict[str, Any]:
            if text == texts["000.txt"] and not lost:
                lost.append(text)
                return {"chunkingId": body["chunkingId"], "status": "RETRIEVED"}
            if text == cut:
                for values in body["chunkedData"][0].values():
                    del values[-1]
            return body

        def down(text: str) -> None:
            if len(world.service.posted) > sent:
                raise TransportError("the connection broke")

        world.service.answer, world.service.on_post = strange, down
        if sent < 20:
            with pytest.raises(TransportError):
                world.run(run_id="night")
        else:
            with killed("publish"):
                world.run(run_id="night")
        world.service.on_post = lambda text: None

        delta = world.run(run_id="night", try_number=2)

        rows = world.rows()
        assert len(world.service.posted) == 21
        names = ("submitted", "resubmitted", "truncated", "warnings", "tokens", "written")
        assert [delta[name] for name in names] == [21, 1, 1, 1, 7 * len(rows), len(rows)]
        # The next run has its own.
        world.write("000.txt", "Another text.")
        following = world.run()
        assert [following[name] for name in names] == [1, 0, 0, 0, 7, 1]

    def test_jobs_that_are_not_ready_are_found_again(self, world: World) -> None:
        texts = fill(world, 6)
        world.service.job_seconds = 60.0
        world.set(pipeline=PipelineSettings(timeout=0.2, poll_interval=0.05), max_reject_ratio=1.0)
        delta = world.run()
        assert {row["reason"] for row in world.lines(delta["rejects"])} == {"timeout"}
        world.service.job_seconds = 0.0
        world.service.forget()

        world.run()

        assert world.service.posted == []
        assert world.texts() == texts

    def test_a_result_that_is_gone_is_submitted_again_once(self, world: World) -> None:
        texts = fill(world, 4)
        taken: list[str] = []

        def steal(text: str, body: dict[str, Any]) -> dict[str, Any]:
            if text == texts["001.txt"] and not taken:
                taken.append(text)
                return {"chunkingId": body["chunkingId"], "status": "RETRIEVED"}
            return body

        world.service.answer = steal
        delta = world.run()

        assert delta["resubmitted"] == 1
        assert world.texts() == texts

    def test_a_submission_without_a_response_is_sent_again_and_counted(self, world: World) -> None:
        texts = fill(world, 4)
        lost: list[str] = []

        def lose(text: str) -> None:
            if not lost:
                lost.append(text)
                raise SubmissionUnknownError("no answer")

        world.service.on_post = lose
        delta = world.run()

        assert delta["resubmitted"] == 1
        assert world.texts() == texts

    def test_ids_outlive_a_part_that_cannot_be_closed(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        texts = fill(world)
        world.service.job_seconds = 60.0

        def refused(text: str) -> None:
            if len(world.service.posted) == 7:
                raise ForbiddenError("no more")

        async def full(_: Pipeline) -> None:
            raise StorageError("no space left")

        world.service.on_post = refused
        monkeypatch.setattr("lucidworks_provider.corpus.journal.GROUP_SECONDS", 60.0)
        with monkeypatch.context() as patch:
            patch.setattr(Pipeline, "_close_part", full)
            with pytest.raises(StorageError):
                world.run()
        world.service.on_post = lambda text: None
        world.service.job_seconds = 0.0
        monkeypatch.setattr("lucidworks_provider.corpus.journal.GROUP_SECONDS", 0.01)
        world.run()
        assert world.texts() == texts
        assert sorted(world.service.posted) == sorted(texts.values())

    def test_jobs_of_another_text_outlive_the_next_kill(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.write("a.txt", "The first text.")
        with killed("publish"):
            world.run()
        world.write("a.txt", "Another text.")
        for target in ("corpus_world.FakeService.fetch", "lucidworks_provider.corpus.run._plan"):
            with monkeypatch.context() as patch:
                patch.setattr(target, _die)
                with pytest.raises(KeyboardInterrupt):
                    world.run()
        world.run()
        assert world.texts() == {"a.txt": "Another text."}
        assert world.service.posted == ["The first text.", "Another text."]

    @pytest.mark.parametrize("times", [3, 10_000])
    def test_a_lease_that_cannot_be_renewed_for_a_moment_ends_no_run(
        self, world: World, monkeypatch: pytest.MonkeyPatch, times: int
    ) -> None:
        texts = fill(world)
        world.service.job_seconds = 0.5
        failures = ["no space left"] * times
        renew = Lease.renew

        def fails(lease: Lease) -> None:
            if failures:
                raise StorageError(failures.pop())
            renew(lease)

        monkeypatch.setattr(Lease, "renew", fails)
        monkeypatch.setattr(pipeline, "CHECK_SECONDS", 0.02)
        if times == 3:
            world.run()
            assert world.texts() == texts
        else:
            with pytest.raises(StorageError, match="no space left"):
                world.run()
        assert len(failures) < times - 2

    def test_who_has_lost_the_lease_after_its_commits_removes_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(world)
        renew, journal_end = Lease.renew, Journal.end

        def lost(lease: Lease) -> None:
            if read_table(f"{world.output}/documents") is not None:
                raise OutputBusyError("another one writes")
            renew(lease)

        def end(_: Journal, **__: Any) -> None:
            raise AssertionError("it is its follower's")

        with monkeypatch.context() as patch:
            patch.setattr(Lease, "renew", lost)
            patch.setattr(Journal, "end", end)
            assert world.run()["added"] == 12
        assert Journal.end is journal_end
        assert world.run()["skipped"] == 12

    def test_a_journal_whose_files_cannot_be_removed_ends_no_run(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        texts = fill(world)
        with monkeypatch.context() as patch:
            patch.setattr(journal, "discard", lambda *uris: False)
            with killed("publish"):
                world.run(run_id="night")
        world.run(run_id="night", try_number=2)
        assert world.texts() == texts
        assert sorted(world.service.posted) == sorted(texts.values())

    def test_a_storage_that_allows_no_deletion_has_every_chunk_once(
        self, world: World, undeletable: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Three nights; the end of a run is written, so what remains of it does not count."""
        texts = fill(world)
        assert world.run()["added"] == 12
        chunks = len(world.rows())

        assert {"changed": 0, "skipped": 12, "submitted": 0}.items() <= world.run().items()
        assert (world.texts(), len(world.rows())) == (texts, chunks)
        assert "AccessDenied" in caplog.text

        texts["003.txt"] = "Another."
        world.write("003.txt", "Another.")
        (world.source / "004.txt").unlink()
        del texts["004.txt"]
        world.set(prune=True)
        delta = world.run()
        assert [delta[name] for name in ("changed", "removed", "submitted")] == [1, 1, 1]
        assert world.texts() == texts

    def test_late_jobs_are_carried_over_where_nothing_can_be_removed(
        self, world: World, undeletable: None
    ) -> None:
        texts = fill(world, 6)
        late = {texts["001.txt"], texts["002.txt"]}
        world.service.answer = lambda text, body: _without_result(text, body, late=late)
        world.set(pipeline=PipelineSettings(timeout=0.3, poll_interval=0.05), max_reject_ratio=1.0)
        assert (world.run()["rejected"], world.run()["rejected"]) == (2, 2)
        world.service.answer = lambda text, body: body
        world.service.forget()

        world.run()

        assert world.texts() == texts
        assert world.service.posted == []
        assert world.run()["skipped"] == 6

    def test_nothing_is_submitted_while_the_journal_cannot_be_written(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        texts = fill(world, 400)
        submit, write = world.service.submit, journal.write_file
        seen: list[int] = []

        async def slowly(text: str) -> str:
            await asyncio.sleep(0.05)
            return await submit(text)

        def full(uri: str, data: Any) -> None:
            if uri.endswith("-work.log") and len(world.service.posted) >= 2 * SUBMISSIONS and len(seen) < 4:
                seen.append(len(world.service.posted))
                raise StorageError("no space left")
            write(uri, data)

        # Many intents are stored by then.
        monkeypatch.setattr(pipeline, "LEAST_INTENTS", pipeline.MOST_INTENTS)
        monkeypatch.setattr(pipeline, "FIRST_WINDOW", len(texts))
        monkeypatch.setattr(world.service, "submit", slowly)
        monkeypatch.setattr(journal, "write_file", full)
        monkeypatch.setattr(journal, "WRITE_WAIT", 0.2)
        world.run()

        assert world.texts() == texts
        # Those that were in flight.
        assert seen[-1] - seen[0] <= SUBMISSIONS
        assert seen[-1] < len(world.service.posted) == len(texts)

    def test_late_jobs_are_noted_before_anything_is_tidied_up(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(world, 6)
        world.service.job_seconds = 60.0
        world.set(pipeline=PipelineSettings(timeout=0.2, poll_interval=0.05), max_reject_ratio=1.0)

        def full(*_: Any, **__: Any) -> None:
            raise StorageError("cannot be removed")

        with monkeypatch.context() as patch:
            patch.setattr("lucidworks_provider.corpus.run.maintain", full)
            world.run()
        world.service.job_seconds = 0.0
        world.service.forget()
        world.run()
        assert world.service.posted == []

    @pytest.mark.parametrize("keep_raw", [False, True])
    @pytest.mark.parametrize("moment", range(8))
    def test_late_jobs_outlive_a_kill_at_any_moment_of_tidying_up(
        self, world: World, monkeypatch: pytest.MonkeyPatch, moment: int, keep_raw: bool
    ) -> None:
        texts = fill(world, 6)
        late, bad = {texts["001.txt"], texts["002.txt"]}, {texts["003.txt"]}
        world.service.answer = lambda text, body: _without_result(text, body, late=late, bad=bad)
        world.set(
            pipeline=PipelineSettings(timeout=0.3, poll_interval=0.05),
            max_reject_ratio=1.0,
            keep_raw=keep_raw,
        )
        left = moment

        def until_then(change: Callable[..., None]) -> Callable[..., None]:
            def changes(*args: Any) -> None:
                nonlocal left
                left -= read_table(f"{world.output}/documents") is not None
                if left < 0:
                    raise KeyboardInterrupt
                change(*args)

            return changes

        # After the commits.
        with monkeypatch.context() as patch:
            for name in ("write_file", "discard_folder"):
                patch.setattr(journal, name, until_then(getattr(journal, name)))
            try:
                world.run()
            except KeyboardInterrupt:
                assert left < 0
        world.service.answer = lambda text, body: body
        world.service.forget()

        world.run()

        assert world.texts() == texts
        assert world.service.posted == [*bad]
        assert not (world.output / "journal").exists()
        assert not keep_raw or _bodies_in(world.output / "raw") == set(texts.values())

    def test_responses_of_a_document_with_a_late_piece_are_kept(self, world: World) -> None:
        text = "".join(f"Sentence {number} of a long document. " for number in range(60))
        world.write("long.txt", text)
        world.service.answer = lambda text, body: _without_result(
            text, body, late={text} if "30" in text else set()
        )
        world.set(
            pipeline=PipelineSettings(timeout=0.3, poll_interval=0.05),
            max_reject_ratio=1.0,
            max_text_bytes=500,
        )
        world.run()
        assert len(world.service.posted) > 3
        world.service.answer = lambda text, body: body
        world.service.forget()

        delta = world.run()

        assert (delta["documents"], delta["rejected"]) == (1, 0)
        assert world.service.posted == []

    def test_a_retry_of_what_had_ended_well_returns_the_same(self, world: World) -> None:
        fill(world)
        first = world.run(run_id="night")
        world.service.forget()

        assert world.run(run_id="night", try_number=2) == first
        assert world.service.posted == []

    def test_a_retry_returns_the_same_though_another_run_came_between(self, world: World) -> None:
        fill(world)
        with killed("end"):
            world.run(run_id="night")
        world.write("001.txt", "Another.")
        between = world.run(run_id="by hand")
        world.service.forget()

        delta = world.run(run_id="night", try_number=2)

        assert (between["added"], between["changed"]) == (0, 1)
        assert (delta["added"], delta["changed"]) == (12, 0)
        assert len(world.listed(delta, "added")) == 12
        assert world.service.posted == []
        # Cleared, it compares again; and who was never there has nothing to tell.
        assert world.run(run_id="night", try_number=3, generation=1)["skipped"] == 12
        assert world.run(run_id="another night", try_number=2)["skipped"] == 12

    @pytest.mark.parametrize("retried", [True, False])
    def test_a_run_that_died_while_tidying_up_is_not_taken_twice(self, world: World, retried: bool) -> None:
        texts = fill(world)
        world.run()
        texts["001.txt"] = "Another."
        world.write("001.txt", "Another.")
        with killed("end"):
            world.run(run_id="night")
        if retried:
            assert world.run(run_id="night", try_number=2)["changed"] == 1
        world.service.forget()

        delta = world.run()

        assert world.texts() == texts
        assert (delta["documents"], delta["changed"], delta["skipped"]) == (12, 0, 12)
        assert world.service.posted == []
        assert not (world.output / "journal").exists()

    def test_a_cleared_task_compares_again(self, world: World) -> None:
        fill(world)
        world.run(run_id="night")
        world.write("001.txt", "Another.")
        delta = world.run(run_id="night", generation=1)
        assert (delta["changed"], delta["skipped"]) == (1, 11)

    def test_a_cleared_task_that_finds_nothing_new_tells_its_delta_again(self, world: World) -> None:
        """Its last try may have died before it could say what those after it have to do."""
        fill(world)
        delta = world.run(run_id="night")
        world.service.forget()
        assert world.run(run_id="night", generation=1) == delta
        assert delta["added"] == 12
        assert world.service.posted == []
        assert not (world.output / "journal").exists()
        # Another night's is its own.
        assert world.run(run_id="the next night")["skipped"] == 12

    def test_a_cleared_task_that_tells_its_delta_again_keeps_its_late_jobs(self, world: World) -> None:
        texts = fill(world, 6)
        world.service.job_seconds = 60.0
        world.set(pipeline=PipelineSettings(timeout=0.2, poll_interval=0.05), max_reject_ratio=1.0)
        delta = world.run(run_id="night")
        assert world.run(run_id="night", generation=1) == delta
        world.service.job_seconds = 0.0
        world.run()
        assert world.texts() == texts
        assert sorted(world.service.posted) == sorted(texts.values())

    def test_results_of_another_configuration_are_not_thrown_away_unasked(self, world: World) -> None:
        fill(world)

        def down(text: str) -> None:
            if len(world.service.posted) >= 8:
                raise TransportError("down")

        world.service.on_post = down
        world.set(pipeline=PipelineSettings(max_in_flight=1))
        with pytest.raises(TransportError):
            world.run()
        world.service.on_post = lambda text: None
        world.set(options=ChunkingOptions("sentence", "gte-small"))
        with pytest.raises(InputError, match=r"unfinished run.*another configuration"):
            world.run()
        world.set(full_refresh=True)
        assert world.run()["added"] == 12

    def test_a_wrong_configuration_that_led_nowhere_is_forgotten(self, world: World) -> None:
        texts = fill(world)
        world.run()

        def down(text: str) -> None:
            raise TransportError("down")

        world.service.on_post = down
        good = world.corpus.options
        world.set(options=ChunkingOptions("sentence", "gte-smal"), full_refresh=True)
        with pytest.raises(TransportError):
            world.run()
        world.set(options=good, full_refresh=False)

        assert world.run()["skipped"] == 12
        assert world.texts() == texts

    def test_a_record_that_a_failed_try_has_got_is_not_forgotten(self, world: World) -> None:
        world.write("a.jsonl", '{"id": "1", "text": "One."}\n{"id": "2", "text": "Two."}\n')

        def refuse(text: str) -> None:
            if text in bad:
                raise RequestRefusedError("HTTP 400", status=400)

        world.service.on_post = refuse
        bad = {"Two."}
        world.set(max_reject_ratio=0.5)
        world.run()
        world.write("b.jsonl", "".join(f'{{"id": "b{n}", "text": "Bad {n}."}}\n' for n in range(9)))
        bad = {f"Bad {n}." for n in range(9)}
        with pytest.raises(LucidworksError, match="9 of 11"):
            world.run()
        bad = set()

        world.run()

        assert {"1": "One.", "2": "Two."}.items() <= world.texts().items()

    @pytest.mark.parametrize("nights", [1, 2])
    def test_one_job_that_cannot_be_asked_for_is_one_reject(self, world: World, nights: int) -> None:
        """It is as good as gone: submitted again once, in each run."""
        texts = fill(world)
        fetch = world.service.fetch

        async def refused(job: str) -> bytes:
            if world.service.jobs[job][1] == texts["004.txt"] and world.runs <= nights:
                raise RequestRefusedError("HTTP 422", status=422)
            return await fetch(job)

        world.service.fetch = refused  # type: ignore[method-assign]
        world.set(max_reject_ratio=0.2)
        for _ in range(nights):
            delta = world.run()
            (reject,) = world.lines(delta["rejects"])
            assert (reject["document_id"], reject["reason"]) == ("004.txt", "gone")
            assert delta["resubmitted"] == 1

        assert world.run()["rejected"] == 0
        assert world.texts() == texts
        assert world.service.posted.count(texts["004.txt"]) == 2 * nights + 1

    def test_refusals_of_all_polls_submit_nothing_twice(self, world: World) -> None:
        texts = fill(world, 60)
        fetch = world.service.fetch

        async def forbidden(job: str) -> bytes:
            raise ForbiddenError("HTTP 403: a page of a proxy", status=403)

        world.service.fetch = forbidden  # type: ignore[method-assign]
        with pytest.raises(LucidworksError, match="in a row"):
            world.run(run_id="night")
        world.service.fetch = fetch  # type: ignore[method-assign]
        world.run(run_id="night", try_number=2)

        assert world.texts() == texts
        assert sorted(world.service.posted) == sorted(texts.values())

    def test_a_payload_with_an_unknown_status_is_no_result_after_a_crash(self, world: World) -> None:
        text = "One half. " * 20 + "Another half. " * 20
        world.write("a.txt", text)
        seen: list[str] = []

        def partly(sent: str, body: dict[str, Any]) -> dict[str, Any]:
            if not seen:
                seen.append(sent)
                world.service.handed_out.clear()
                item = {name: values[:1] for name, values in body["chunkedData"][0].items()}
                return body | {"status": "PARTIAL", "chunkedData": [item]}
            if len(seen) == 1:
                seen.append(sent)
                raise TransportErrorThatEndsTheRun
            return body

        world.service.answer = partly
        with pytest.raises(TransportErrorThatEndsTheRun):
            world.run(run_id="night")
        world.service.handed_out.clear()

        world.run(run_id="night", try_number=2)

        assert world.texts() == {"a.txt": text}


class TestRateLimit:
    @pytest.mark.parametrize(("refused_for", "retry_after"), [(181.0, None), (0.0, 3600.0)])
    def test_a_service_that_refuses_everything_ends_the_try_and_the_next_one_resumes(
        self, world: World, refused_for: float, retry_after: float | None
    ) -> None:
        texts = fill(world, 30)

        def refuse(text: str) -> None:
            if len(world.service.posted) >= 15:
                raise RateLimitError("HTTP 429", status=429, retry_after=retry_after)

        world.service.on_post, world.service.refused_for = refuse, refused_for
        with pytest.raises(RateLimitError) as refused:
            world.run(run_id="night")
        assert (refused.value.retryable, refused.value.retry_after) == (True, retry_after)
        world.service.on_post = lambda text: None

        delta = world.run(run_id="night", try_number=2)

        assert world.texts() == texts
        assert sorted(world.service.posted) == sorted(texts.values())
        assert (delta["resubmitted"], delta["rejected"]) == (0, 0)

    def test_a_text_is_sent_until_it_is_accepted_while_others_are(
        self, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(retrying, "LONGEST_WAIT", 0.01)
        caplog.set_level("INFO")
        texts, refused = fill(world, 3), 0

        def refuse(text: str) -> None:
            nonlocal refused
            if text == texts["001.txt"] and refused < 2 * retrying.ATTEMPTS:
                refused += 1
                raise RateLimitError("HTTP 429", status=429, retry_after=0.001)

        world.service.on_post = refuse
        assert (world.run()["resubmitted"], world.texts()) == (0, texts)
        assert "Attempt 12 failed, next in" in caplog.text

    def test_a_refused_poll_holds_no_slot_ends_with_its_timeout_and_is_no_early_one(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("LEAST_GETS", "MOST_GETS"):
            monkeypatch.setattr(pipeline, name, 1)
        early: list[float] = []
        monkeypatch.setattr(pipeline.PollDelayEstimator, "late", lambda _, age: early.append(age))
        texts, refused = fill(world, 6), set[str]()

        def refuse(text: str) -> None:
            if text == texts["001.txt"] or text not in refused:
                refused.add(text)
                raise RateLimitError("HTTP 429", status=429, retry_after=0.1)

        world.service.on_get = refuse
        world.set(pipeline=PipelineSettings(timeout=3.0), max_reject_ratio=1.0)
        delta = world.run()
        assert (delta["added"], early) == (5, [])
        [late] = world.lines(delta["rejects"])
        assert late["reason"] == "timeout"
        assert "HTTP 429" in late["detail"]
        world.service.on_get = lambda text: None
        world.service.forget()
        world.run()
        assert (world.service.posted, world.texts()) == ([], texts)


class TestMaxTokens:
    # Each document of `fill` has three chunks, of 7 tokens each.

    def test_the_rest_is_sent_after_it_was_raised(self, world: World) -> None:
        texts = fill(world)
        world.set(pipeline=PipelineSettings(max_in_flight=1, max_tokens=3 * 21))
        words = r"used 63 tokens, and max_tokens=63\. 9 of 12 documents are left\. The chunks of 3 are kept"
        with pytest.raises(BudgetExceededError, match=words):
            world.run(run_id="night")
        assert len(world.service.posted) == 3
        assert not (world.output / "chunks/_delta_log").exists()

        # Each try has a budget of its own; what was kept does not count.
        with pytest.raises(BudgetExceededError, match=r"used 63 tokens, .* 6 of 12 documents are left"):
            world.run(run_id="night", generation=1)
        world.set(pipeline=PipelineSettings(max_tokens=6 * 21))
        delta = world.run()

        assert sorted(world.service.posted) == sorted(texts.values())
        assert [delta[name] for name in ("added", "submitted", "tokens")] == [12, 12, 12 * 21]
        assert world.texts() == texts

    def test_what_is_in_flight_is_collected(self, world: World) -> None:
        texts = fill(world, 40)
        world.service.job_seconds = 0.2
        world.set(pipeline=PipelineSettings(max_in_flight=16, max_tokens=1))
        with pytest.raises(BudgetExceededError) as caught:
            world.run(run_id="night")
        sent = len(world.service.posted)
        assert f"used {sent * 21:,} tokens" in str(caught.value)
        assert len(world.service.handed_out) == sent
        world.set(pipeline=PipelineSettings())
        world.run(run_id="night", generation=1)
        assert sorted(world.service.posted) == sorted(texts.values())
        assert world.texts() == texts

    def test_results_of_an_earlier_try_are_free(self, world: World) -> None:
        texts = fill(world)
        world.set(pipeline=PipelineSettings(max_in_flight=1, max_tokens=0))
        with pytest.raises(BudgetExceededError, match=r"used 0 tokens, .* 12 of 12 documents are left"):
            world.run()
        assert world.service.posted == []
        # The budget is reached by the last documents: nothing is left.
        world.set(pipeline=PipelineSettings(max_tokens=12 * 21))
        assert world.run()["added"] == 12
        world.set(pipeline=PipelineSettings(max_tokens=0))
        assert world.run()["skipped"] == 12
        assert world.texts() == texts

    def test_segments_of_a_long_document_stay_for_the_next_try(self, world: World) -> None:
        text = "A sentence of some words. " * 1_000
        world.write("0.txt", "Short.")
        world.write("a.txt", text)
        submit = world.service.submit

        async def slowly(text: str) -> str:
            await asyncio.sleep(0.1)
            return await submit(text)

        world.service.submit = slowly  # type: ignore[method-assign]
        world.set(max_text_bytes=100, pipeline=PipelineSettings(max_tokens=1))
        with pytest.raises(BudgetExceededError, match=r"used 7 tokens, .* 1 of 2 documents are left"):
            world.run(run_id="night")
        sent = len(world.service.posted)
        assert 1 < sent < plan_run(world.corpus)["requests"]
        world.set(pipeline=PipelineSettings())
        world.run(run_id="night", generation=1)
        assert "".join(world.service.posted).count("sentence") == 1_000
        assert world.texts() == {"0.txt": "Short.", "a.txt": text}

    def test_rejected_results_count(self, world: World) -> None:
        fill(world)
        world.service.answer = lambda text, body: body | {"chunkedData": [_without_the_end(body)]}
        settings = PipelineSettings(max_in_flight=1, max_tokens=3 * 14, refuse_truncated=True)
        world.set(pipeline=settings)
        with pytest.raises(BudgetExceededError, match=r"used 42 tokens, .* 9 of 12 documents are left"):
            world.run()


def _without_the_end(body: dict[str, Any]) -> dict[str, Any]:
    return {name: values[:-1] for name, values in body["chunkedData"][0].items()}


class TransportErrorThatEndsTheRun(Exception):
    """As a process that dies."""


class TestGuards:
    def test_dry_run_says_what_would_be_sent(self, world: World) -> None:
        fill(world)
        world.run()
        world.service.forget()
        world.write("001.txt", "Another.")
        os.utime(world.source / "002.txt", (1, 1))
        before = tree(world.output)

        assert plan_run(world.corpus) == {
            "documents": 12,
            "would_submit": 1,
            "requests": 1,
            "bytes": 8,
            "skipped": 11,
        }
        assert world.service.posted == []
        assert tree(world.output) == before

    @pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
    def test_max_requests_counts_the_submissions_of_long_documents(self, world: World, name: str) -> None:
        text = "A sentence of some words. " * 100
        world.write(name, text if name == "a.txt" else json.dumps({"id": "a", "text": text}))
        world.write("short.txt", "Short.")
        world.set(max_text_bytes=1_000, max_requests=3)
        needed = plan_run(world.corpus)["requests"]
        with pytest.raises(BudgetExceededError, match=rf"2 documents .* {needed} requests, .*max_requests=3"):
            world.run()
        assert world.service.posted == []
        assert _without_lease(world.output) == set()
        world.set(max_requests=needed)
        assert world.run()["added"] == 2
        assert len(world.service.posted) == needed > 3
        world.set(max_requests=0)
        assert world.run()["skipped"] == 2

    def test_max_requests_does_not_count_jobs_of_an_earlier_try(self, world: World) -> None:
        fill(world)
        fetch = world.service.fetch
        world.service.fetch = _die  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            world.run(run_id="night")
        sent = len(world.service.posted)
        world.service.fetch = fetch  # type: ignore[method-assign]
        world.set(max_requests=12 - sent)
        assert world.run(run_id="night", try_number=2)["submitted"] == 12
        assert sent > 0
        assert len(world.service.posted) == 12

    @pytest.mark.parametrize(
        ("names", "named"),
        [
            ({"thesis.docx"}, "thesis.docx, …"),
            ({"data/mine.parquet", "raw/orders.csv", "index/sub/thesis.tex"}, "data, index, …"),
        ],
    )
    def test_a_folder_that_holds_something_else(self, world: World, names: set[str], named: str) -> None:
        fill(world)
        for name in names:
            path = world.output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("mine")
        with pytest.raises(InputError, match=rf"holds something else \({named}\)"):
            world.run()
        assert tree(world.output) == names

    @pytest.mark.parametrize("within", ["", "sub/chunks"])
    def test_a_dataset_within_its_source(self, world: World, within: str) -> None:
        fill(world)
        world.set(output=str(world.source / within))
        with pytest.raises(InputError, match="is within source"):
            world.run()
        assert world.service.posted == []

    @pytest.mark.parametrize(("folder", "glob"), [("[draft]", ""), ("2024", "202?/*.txt"), ("", "*.txt")])
    def test_a_dataset_beside_its_source(self, world: World, folder: str, glob: str) -> None:
        (world.source / folder).mkdir(parents=True, exist_ok=True)
        (world.source / folder / "a.txt").write_text("A text.")
        world.set(source=str(world.source / (glob or folder)), output=str(world.source / "chunks"))
        assert world.run()["added"] == 1
        assert world.run()["skipped"] == 1

    @pytest.mark.parametrize("source", ["nothing-here", "*.nothing"])
    def test_nothing_to_read(self, world: World, source: str) -> None:
        fill(world, 1)
        world.set(source=str(world.source / source))
        with pytest.raises(InputError):
            world.run()
        assert _without_lease(world.output) == set()

    def test_two_documents_with_one_id(self, world: World) -> None:
        world.write("a.jsonl", '{"id": "x", "text": "One."}\n')
        world.write("b.jsonl", '{"id": "x", "text": "Two."}\n')
        with pytest.raises(InputError, match="'x', which another document has"):
            world.run()
        assert world.service.posted == []

    def test_a_missing_column(self, world: World) -> None:
        world.write("a.jsonl", '{"id": "x", "body": "One."}\n')
        with pytest.raises(InputError, match="text"):
            world.run()

    def test_no_space_left(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(world)
        monkeypatch.setattr("lucidworks_provider.corpus.run.free_bytes", lambda uri: 100)
        with pytest.raises(InputError, match="100 bytes left"):
            world.run()
        assert world.service.posted == []

    def test_an_old_sqlite(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(world)
        monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 26, 0))
        with pytest.raises(InputError, match=r"needs SQLite 3\.33 or newer"):
            world.run()
        assert world.service.posted == []

    def test_keep_raw(self, world: World) -> None:
        texts = fill(world, 3)
        world.set(keep_raw=True)
        world.run()

        (raw,) = (world.output / "raw").iterdir()
        bodies = b"".join(path.read_bytes() for path in raw.iterdir())
        assert all(json.dumps(text)[1:150].encode() in bodies for text in texts.values())
        assert world.run()["skipped"] == 3
        world.set(keep_raw=False)
        assert world.run()["skipped"] == 3
        assert raw.exists()
