# SPDX-License-Identifier: Apache-2.0
"""A run over a corpus, night after night."""

import asyncio
import gzip
import json
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_world import DIMENSION, World, cut, killed, longer

from lucidworks_provider import metrics, retrying
from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus import journal, pipeline
from lucidworks_provider.corpus import run as run_module
from lucidworks_provider.corpus.dataset import open_documents
from lucidworks_provider.corpus.journal import Journal
from lucidworks_provider.corpus.lease import Lease
from lucidworks_provider.corpus.pipeline import FIRST_WINDOW, SUBMISSIONS, Pipeline, PipelineSettings
from lucidworks_provider.corpus.plan import Plan
from lucidworks_provider.corpus.run import plan_run
from lucidworks_provider.delta.log import read_table
from lucidworks_provider.documents import readers
from lucidworks_provider.documents.document import Document, content_hash
from lucidworks_provider.documents.readers import ReadOptions
from lucidworks_provider.documents.split import split
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
    TooManyRejectsError,
    TransportError,
)

OTHER = ChunkingOptions("sentence", "gte-small")
IMPATIENT: dict[str, Any] = {
    "pipeline": PipelineSettings(timeout=0.3, poll_interval=0.05),
    "max_reject_ratio": 1.0,
}


def _die(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def _bodies_in(folder: Path) -> set[str]:
    """The texts whose chunks are in the files of a journal."""
    found: set[str] = set()
    for path in folder.rglob("*-work.log"):
        lines = [json.loads(line) for line in path.read_bytes().splitlines() if line]
        found |= {"".join(line["chunkedData"][0]["chunks"]) for line in lines if "chunkedData" in line}
    return found


def tree(folder: Path, but: str = "-") -> set[str]:
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(but)}


def split_texts(text: str, max_bytes: int) -> list[str]:
    """The texts that a long document is submitted as."""
    return [segment.text for segment in split(text, max_bytes=max_bytes)]


def rows_of(count: int) -> str:
    return "".join(f'{{"id": {n}, "text": "Row {n}."}}\n' for n in range(count))


class TestFirstRun:
    def test_every_document_is_there_once_and_whole(self, world: World) -> None:
        world.fill()
        nothing = dict.fromkeys(("changed", "vanished", "removed", "skipped", "rejected"), 0)
        delta = world.run(added=12, submitted=12, documents=12, **nothing)
        world.check()
        assert world.listed(delta, "added") == sorted(world.expected)

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
        world.fill()
        world.run(version=0, since=None, documents_version=0)
        (chunks,) = {row["chunk_file"] for row in open_documents(str(world.output)).to_table().to_pylist()}
        found = tree(world.output)
        (upserts,) = {name for name in found if name.startswith("documents/") and name.endswith(".parquet")}
        logs = {f"{table}/_delta_log/{0:020}.json" for table in ("chunks", "documents")}
        notes = {"lease/00000001.json", "rejects.jsonl", "report.html", "runs/00000001.json"}
        assert found == {f"chunks/{chunks}", upserts, *logs, *notes}

    def test_other_formats_have_their_records_as_documents(self, world: World) -> None:
        world.write("a/page.html", "<html><body><h1>Title</h1><p>A paragraph.</p></body></html>")
        world.write("rows.jsonl", '{"id": "r1", "text": "First row."}\n{"id": 2, "text": "Second row."}\n')
        pq.write_table(pa.table({"id": ["p1"], "text": ["A row of a table."]}), world.source / "rows.parquet")
        world.run()
        texts = world.texts()
        assert "A paragraph." in texts.pop("a/page.html")
        assert texts == {"r1": "First row.", "2": "Second row.", "p1": "A row of a table."}

    def test_documents_of_a_task(self, world: World) -> None:
        world.set(source=[Document("a", "Text of a."), Document("b", "Text of b.")])
        world.run()
        world.set(source=[Document("a", "Text of a."), Document("b", "Another text of b.")])
        world.run(posted=["Another text of b."], changed=1, skipped=1)


class TestNextRun:
    def test_nothing_changed_nothing_sent_nothing_opened(self, world: World) -> None:
        world.fill()
        world.run()
        before, gets = world.rows(), world.service.gets
        world.swap_contents()
        world.run(posted=[], skipped=12, added=0, changed=0)
        assert (world.rows(), world.service.gets) == (before, gets)

    def test_changed_new_and_vanished(self, world: World) -> None:
        texts = world.fill()
        world.run()
        new = {"001.txt": "This one is another by now.", "new.txt": "This one is new."}
        world.write_all(new)
        (world.source / "002.txt").unlink()

        delta = world.run(posted=new.values(), skipped=10, vanished=1, removed=0)

        world.check()
        assert world.changed(delta["since"]) == {"new.txt": "added", "001.txt": "changed"}
        # Once: when it vanished.
        world.run(vanished=0)
        assert world.statuses() == dict.fromkeys(texts, "ok") | {"002.txt": "vanished"}

    def test_prune_removes_what_vanished(self, world: World) -> None:
        world.fill()
        world.run()
        world.remove("002.txt")
        world.set(prune=True)
        world.run(vanished=1, removed=1)
        world.check()
        world.run(vanished=0)

    def test_prune_keeps_what_is_behind_a_link_whose_target_is_gone(self, world: World) -> None:
        world.fill()
        shared = world.write("../share/in/s.md", "Text of a share.").parent
        (world.source / "one.txt").symlink_to(shared / "s.md")
        (world.source / "lines.jsonl").symlink_to(shared / "l.jsonl")
        (shared / "l.jsonl").write_text('{"id": "l", "text": "Text of a line."}')
        world.expected |= {"one.txt": "Text of a share.", "l": "Text of a line."}
        world.set(prune=True, max_reject_ratio=1.0)
        world.run()
        world.check()

        (world.root / "share").rename(world.root / "unmounted")
        world.run(removed=0, vanished=0, rejected=2)
        world.check()

        (world.source / "folder").symlink_to(shared)
        with pytest.raises(StorageError, match="source/folder cannot be read: it is a link whose target is"):
            world.run()
        world.check()

    def test_what_vanished_and_comes_back_is_not_sent(self, world: World) -> None:
        texts = world.fill()
        world.run()
        path = world.source / "002.txt"
        etag = path.stat().st_mtime_ns
        path.unlink()
        world.run()
        os.utime(world.write("002.txt", texts["002.txt"]), ns=(etag, etag))

        delta = world.run(posted=[], skipped=12, vanished=0)

        assert delta["version"] == delta["since"]
        assert world.statuses() == dict.fromkeys(texts, "ok")

    def test_a_touched_file_is_read_once_and_not_sent(self, world: World) -> None:
        world.fill()
        world.run()
        os.utime(world.source / "003.txt", (1, 1))
        for _ in range(2):
            world.run(posted=[], skipped=12)
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
        world.write("rows.jsonl", rows_of(5))
        world.run()
        world.write("rows.jsonl", rows_of(6))
        world.run(posted=["Row 5."], added=1, skipped=5)
        world.swap_contents()
        world.run(skipped=6)

    def test_a_file_that_a_record_has_vanished_from_is_read_once(self, world: World) -> None:
        world.write("a.jsonl", rows_of(3))
        world.run()
        world.write("a.jsonl", rows_of(2))
        world.run(vanished=1)
        world.swap_contents()
        world.run(skipped=2, vanished=0, documents=3)

    def test_a_file_of_records_that_returns_to_an_earlier_version_is_read(self, world: World) -> None:
        def put(*ids: str, version: int, prune: bool, **counts: int) -> None:
            os.utime(world.records("a.jsonl", *ids), ns=(version, version))
            world.set(prune=prune)
            world.run(**counts)

        world.write("b.txt", "Another document.")
        put("x", "y", version=1, prune=True)
        put("x", version=2, prune=False, vanished=1)
        put("x", "y", version=1, prune=True, skipped=3, vanished=0, removed=0)
        assert world.texts() == world.expected | {"x": "Text of x. ", "y": "Text of y. "}

    def test_another_configuration_is_an_error_that_names_it(self, world: World) -> None:
        world.fill()
        world.run()
        world.set(options=OTHER)
        with pytest.raises(
            InputError, match=r"chunker was 'dynamic-sentence' and is 'sentence'.*full_refresh"
        ):
            world.run()
        assert len(world.service.posted) == 12

    def test_another_column_is_another_configuration(self, world: World) -> None:
        world.write("rows.csv", "id,key,title,body\n1,a,Title,Text of the body\n")
        world.set(reading=ReadOptions(text_column="title"))
        world.run()
        for reading, message in (
            (ReadOptions(text_column="body"), "text_column was 'title' and is 'body'"),
            (ReadOptions(text_column="no such"), "text_column was 'title' and is 'no such'"),
            (ReadOptions("key", "title"), "id_column was 'id' and is 'key'"),
        ):
            world.set(reading=reading)
            with pytest.raises(InputError, match=f"made with another configuration: {message}.*full_refresh"):
                world.run()
        assert world.service.posted == ["Title"]
        assert world.texts() == {"1": "Title"}

        world.set(reading=ReadOptions("key", "body"), full_refresh=True)
        world.run()
        assert world.texts() == {"a": "Text of the body"}
        world.set(full_refresh=False)
        world.run(skipped=1)

    def test_full_refresh_replaces_everything(self, world: World) -> None:
        texts = world.fill()
        world.run()
        world.remove("002.txt")
        world.set(options=OTHER, full_refresh=True)
        world.run(posted=texts.values(), changed=11, vanished=1, removed=1)
        world.check()

    def test_a_full_refresh_accepts_vectors_of_another_length(self, world: World) -> None:
        texts = world.fill()
        world.run(dimension=DIMENSION)
        world.remove("002.txt")
        world.service.answer = longer
        bad = texts["003.txt"]
        world.service.failed = {bad}
        world.set(full_refresh=True, max_reject_ratio=0.2)
        with killed("publish"):
            world.run(run_id="night")
        world.set(full_refresh=False)
        # No chunk of the other length stays: neither of the one that is rejected nor of the one that vanished.
        world.run(posted=[], changed=10, removed=2, dimension=2 * DIMENSION)
        world.expected.pop("003.txt")
        world.check()
        assert {len(row["vector"]) for row in world.rows()} == {2 * DIMENSION}
        world.service.failed = ()
        world.run(posted=[bad], dimension=2 * DIMENSION)

    @pytest.mark.parametrize("options", [ChunkingOptions("dynamic-sentence", "gte-small"), OTHER])
    def test_the_next_run_completes_a_full_refresh(self, world: World, options: ChunkingOptions) -> None:
        """No chunk of the deployment, or of the configuration, before it stays."""
        texts = world.fill()
        world.run()
        world.service.answer = longer
        world.set(
            full_refresh=True, options=options, pipeline=PipelineSettings(max_in_flight=1, max_tokens=100)
        )
        with pytest.raises(BudgetExceededError):
            world.run(run_id="by hand")
        sent = len(world.service.posted) - len(texts)
        assert 0 < sent < len(texts)
        world.set(full_refresh=False, pipeline=PipelineSettings())
        assert plan_run(world.corpus)["requests"] == len(texts) - sent
        world.run(changed=12, submitted=12, skipped=0)
        world.check()
        assert len(world.service.posted) == 2 * len(texts)
        assert {len(row["vector"]) for row in world.rows()} == {2 * DIMENSION}
        world.run(skipped=12)

    def test_a_full_refresh_in_which_nothing_is_chunked_keeps_the_tables(self, world: World) -> None:
        world.fill()
        world.run()
        world.service.refused = {""}
        world.set(full_refresh=True, max_reject_ratio=1.0)
        world.run(rejected=12, dimension=DIMENSION)
        world.check()
        world.set(full_refresh=False)
        world.service.refused = ()
        world.run(added=0, rejected=0, dimension=DIMENSION)


class TestLongDocuments:
    def test_pieces_have_spans_in_the_whole_document(self, world: World) -> None:
        text = "\n\n".join(f"Paragraph {n} with a umlaut ä. It has two sentences." for n in range(60))
        world.write("long.txt", text)
        world.set(max_text_bytes=500)
        world.run(documents=1)
        rows = world.rows()
        assert len(world.service.posted) > 5
        assert all(text[row["start"] : row["end"]] == row["text"] for row in rows)
        assert [row["chunk_index"] for row in rows] == list(range(len(rows)))
        world.check()

    def test_pieces_without_a_word_are_not_sent(self, world: World) -> None:
        world.write("long.txt", "x" * 100 + "\n" * 125 + "y" * 100)
        world.set(max_text_bytes=100)
        world.run()
        assert all(text.strip() for text in world.service.posted)
        assert world.texts()["long.txt"].split() == ["x" * 100, "y" * 100]


class TestRejects:
    def test_one_bad_document_does_not_fail_the_run(self, world: World) -> None:
        world.fill()
        world.write("empty.md", "  \n")
        world.write("junk.md", bytes(range(256)) * 20)
        world.set(max_reject_ratio=0.5)
        for attempts in (1, 2):
            rejects = world.rejects(world.run())
            world.check()
            assert {one: (row["reason"], row["attempts"]) for one, row in rejects.items()} == {
                "empty.md": ("empty", attempts),
                "junk.md": ("binary", attempts),
            }

    def test_too_many_fail_the_run_and_keep_what_was_done(self, world: World) -> None:
        texts = world.fill()
        world.service.refused = {texts["001.txt"], texts["002.txt"]}
        with pytest.raises(LucidworksError, match="2 of 12 documents were rejected"):
            world.run()
        assert not (world.output / "chunks" / "_delta_log").exists()
        refused, world.service.refused = world.service.refused, ()
        world.run(posted=refused, added=12)
        world.check()

    @pytest.mark.parametrize(
        ("reason", "detail"), [("failed", "no tokens left"), ("malformed", ""), ("truncated", "")]
    )
    def test_a_bad_result_is_a_reject(self, world: World, reason: str, detail: str) -> None:
        bad = world.fill()["003.txt"]

        def answer(text: str, body: dict[str, Any]) -> dict[str, Any]:
            if text == bad and reason == "malformed":
                for vector in body["chunkedData"][0]["vectors"]:
                    vector["vector"] = [1.0]
            return cut(body) if text == bad and reason == "truncated" else body

        world.service.answer = answer
        world.service.failed = {bad} if reason == "failed" else ()
        # One at a time, so the length of vectors is known before.
        settings = PipelineSettings(poll_interval=0.02, max_in_flight=1, refuse_truncated=True)
        world.set(max_reject_ratio=0.2, pipeline=settings)
        rejects = world.rejects(world.run())
        assert {one: row["reason"] for one, row in rejects.items()} == {"003.txt": reason}
        assert detail in rejects["003.txt"]["detail"]

    def test_a_changed_document_that_is_rejected_keeps_its_old_chunks(self, world: World) -> None:
        world.fill()
        world.run()
        (world.source / "001.txt").write_text("")
        world.set(max_reject_ratio=0.5)
        world.run(rejected=1, vanished=0)
        world.check()

    def test_a_line_that_cannot_be_read_is_no_vanished_document(self, world: World) -> None:
        world.records("a.jsonl", x="One.", y="Two.")
        world.run()
        world.write("a.jsonl", '{"id": "x", "text": "One."}\n{"id": "y", "te')
        world.set(prune=True, max_reject_ratio=1.0)
        world.run(vanished=0, removed=0, rejected=1)
        assert world.texts() == {"x": "One.", "y": "Two."}

    @pytest.mark.parametrize(
        ("name", "before", "after"),
        [
            ("a.jsonl", '{"id":"%s","text":"T"}\n', '{"id":"x","text":"T"}\n{"id":"e","text":""}'),
            ("a.jsonl", '{"id":"%s","text":"T"}\n', '{"id":"e"}\n{"id":"x","text":"T"}'),
            ("a.csv", "%s,T\n", "x,T\ne,\n"),
        ],
    )
    def test_a_document_without_text_keeps_no_others(
        self, world: World, name: str, before: str, after: str
    ) -> None:
        header = "id,text\n" if name == "a.csv" else ""
        world.write(name, header + "".join(before % one for one in "xyz"))
        world.run(added=3)
        world.write(name, header + after)
        world.set(prune=True, max_reject_ratio=1.0)
        rejects = world.rejects(world.run(removed=2, rejected=1))
        assert rejects["e"]["reason"] == "empty"
        assert world.texts() == {"x": "T"}

    @pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl.gz"])
    def test_what_was_cut_to_nothing_has_not_lost_its_documents(self, world: World, name: str) -> None:
        text = "id,text\nx,One.\n" if "csv" in name else '{"id": "x", "text": "One."}'
        world.write(name, gzip.compress(text.encode()) if name.endswith(".gz") else text)
        world.run()
        world.write(name, b"")
        world.set(prune=True, max_reject_ratio=1.0)
        world.run(vanished=0, removed=0, rejected=1)
        assert world.texts() == {"x": "One."}

    @pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
    def test_what_was_chunked_before_its_file_was_damaged_is_published(self, world: World, name: str) -> None:
        world.set(max_reject_ratio=0.5)
        data = rows_of(5).encode()
        data = gzip.compress(data) if name.endswith(".gz") else data
        world.write(name, data)
        with killed("publish"):
            world.run(run_id="night")
        world.write(name, data[:-20])
        world.run(run_id="night", try_number=2, posted=[], added=5, written=5, rejected=1)
        world.write(name, data)
        world.run(posted=[], skipped=5, rejected=0)
        assert world.texts() == {str(n): f"Row {n}." for n in range(5)}

    def test_truncated_is_a_warning_or_a_reject(self, world: World) -> None:
        short = world.fill()["001.txt"]
        world.service.answer = lambda text, body: cut(body) if text == short else body
        world.run(truncated=1)
        assert short.startswith(world.texts()["001.txt"])
        world.set(full_refresh=True, max_reject_ratio=0.5, pipeline=PipelineSettings(refuse_truncated=True))
        assert world.rejects(world.run())["001.txt"]["reason"] == "truncated"

    def test_what_is_accepted_with_a_warning_is_counted(
        self, world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counted: list[int] = []
        monkeypatch.setattr(metrics, "warnings", counted.append)
        texts = world.fill(4)
        world.write("b.pdf", "Of another format.")
        (world.source / "loop").symlink_to(world.source)

        def strange(text: str, body: dict[str, Any]) -> dict[str, Any]:
            (item,) = body["chunkedData"]
            if text == texts["002.txt"]:
                item["chunks"] = ["Words of another text."] * 3
            elif text == texts["003.txt"]:
                item["vectors"][0]["vector"] = [0.0] * 4
            return cut(body) if text == texts["001.txt"] else body

        world.service.answer = strange
        world.set(pipeline=PipelineSettings(lenient=True))
        delta = world.run(truncated=1, rejected=0)
        about = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert delta["warnings"] == sum(counted) == len(about)
        for words in ("001.txt", "002.txt", "only zeros", "1 files of other formats", "parent folders"):
            assert any(words in message for message in about), words
        # Those of the source are found by each run.
        world.run(warnings=2)

    def test_when_all_are_refused_the_run_stops(self, world: World) -> None:
        # More than may be in flight at once when the first are refused.
        world.fill(3 * FIRST_WINDOW)

        def refuse(text: str) -> None:
            world.service.posted.append(text)
            raise RequestRefusedError("HTTP 400: dimReductionSize is too large", status=400)

        world.service.on_post = refuse
        with pytest.raises(LucidworksError, match=r"in a row were rejected.*dimReductionSize"):
            world.run()
        assert len(world.service.posted) < 3 * FIRST_WINDOW

    @pytest.mark.parametrize("known", [False, True])
    def test_a_file_that_cannot_be_read_for_a_moment_is_no_reject(
        self, world: World, monkeypatch: pytest.MonkeyPatch, known: bool
    ) -> None:
        path = world.write("a.txt", "A text.")
        if known:
            world.run()
            os.utime(path, (1, 1))
        read, failures = readers.read_file, ["busy"]

        def busy(uri: str, limit: int) -> bytes | None:
            if failures:
                raise StorageError(failures.pop())
            return read(uri, limit)

        monkeypatch.setattr(readers, "read_file", busy)
        # Which makes the scan read it.
        world.set(max_requests=100)
        assert plan_run(world.corpus)["would_submit"] == 0
        failures.append("busy")
        world.run(rejected=0, added=not known, skipped=known, posted=[] if known else ["A text."])
        assert world.statuses() == {"a.txt": "ok"}
        world.check()

    @pytest.mark.parametrize(
        ("name", "before", "after"),
        [
            ("a.jsonl", '{"id": "x", "text": "One."}', '{"key": "x", "body": "One."}'),
            ("a.csv", "id,text\nx,One.\n", "key,body\nx,One.\n"),
            ("a.parquet", {"id": ["x"], "text": ["One."]}, {"key": ["x"], "body": ["One."]}),
        ],
    )
    def test_a_file_whose_columns_change_during_the_run_is_a_reject(
        self, world: World, monkeypatch: pytest.MonkeyPatch, name: str, before: Any, after: Any
    ) -> None:
        def write(content: Any) -> None:
            if isinstance(content, str):
                world.write(name, content)
            else:
                pq.write_table(pa.table(content), world.source / name)

        def replaced(plan: Plan) -> Any:
            write(after)
            return candidates(plan)

        world.fill(3)
        write(before)
        candidates = Plan.candidates
        monkeypatch.setattr(Plan, "candidates", replaced)
        world.set(max_reject_ratio=1.0)
        rejects = world.rejects(world.run(added=3))
        assert {one: row["reason"] for one, row in rejects.items()} == {name: "invalid"}
        assert f"{name} has no column 'id'" in rejects[name]["detail"]

    def test_known_rejects_do_not_stop_a_run(self, world: World) -> None:
        world.fill(4)
        world.write_all({f"bad/{number:02}.txt": f"Bad {number}." for number in range(40)})
        world.service.refused = {"Bad"}
        world.set(max_reject_ratio=1.0)
        world.run(rejected=40)
        world.write("new.txt", "A new one.")
        world.set(pipeline=PipelineSettings(max_in_flight=1))
        world.run(rejected=40, posted=["A new one."])
        # Other texts of the same documents are new.
        world.write_all({f"bad/{number:02}.txt": f"Bad again {number}." for number in range(40)})
        with pytest.raises(LucidworksError, match="25 documents in a row"):
            world.run()

    def test_many_new_rejects_do_not_stop_a_run_in_which_others_are_chunked(self, world: World) -> None:
        """They are refused at once, long before those in flight are chunked."""
        texts = world.fill(10)
        world.write_all({f"a/{number:02}.txt": f"Bad {number}." for number in range(40)})
        world.write_all({f"b/{number:02}.txt": f"Good {number}." for number in range(30)})
        world.service.refused, world.service.job_seconds = {"Bad"}, 0.5
        world.set(max_reject_ratio=0.6)
        world.run(rejected=40, added=len(texts) - 40)

    def test_many_new_rejects_before_all_others_do_not_block_each_try(self, world: World) -> None:
        world.write_all({f"a/{number:02}.txt": f"Bad {number}." for number in range(30)})
        world.write_all({f"b/{number:02}.txt": f"Good {number}." for number in range(3)})
        world.service.refused = {"Bad"}
        world.set(max_reject_ratio=1.0, pipeline=PipelineSettings(max_in_flight=1))
        with pytest.raises(LucidworksError, match="25 documents in a row"):
            world.run(run_id="night")
        assert world.service.posted == []
        world.run(run_id="night", try_number=2, rejected=30, added=3)


class TestCrashes:
    def test_a_service_that_is_down_leaves_what_came(self, world: World) -> None:
        world.fill(30)
        world.service.down_after = 15
        with pytest.raises(TransportError, match="connection broke"):
            world.run(run_id="night")
        assert not (world.output / "chunks" / "_delta_log").exists()
        world.service.down_after = 99
        world.run(run_id="night", try_number=2, resubmitted=0)
        world.check()
        assert sorted(world.service.posted) == sorted(world.expected.values())

    @pytest.mark.parametrize("sent", [7, 20])
    def test_a_retry_returns_the_counts_of_all_tries(self, world: World, sent: int) -> None:
        """Killed after some submissions, or when only the commit was missing."""
        texts = world.fill(20)
        lost: list[str] = []

        def strange(text: str, body: dict[str, Any]) -> dict[str, Any]:
            if text == texts["000.txt"] and not lost:
                lost.append(text)
                return {"chunkingId": body["chunkingId"], "status": "RETRIEVED"}
            return cut(body) if text == texts["001.txt"] else body

        world.service.answer = strange
        if sent < 20:
            world.service.down_after = sent + 1
            with pytest.raises(TransportError):
                world.run(run_id="night")
            world.service.down_after = 99
        else:
            with killed("publish"):
                world.run(run_id="night")

        counts = {"submitted": 21, "resubmitted": 1, "truncated": 1, "warnings": 1}
        delta = world.run(run_id="night", try_number=2, **counts)
        rows = len(world.rows())
        assert (delta["tokens"], delta["written"], len(world.service.posted)) == (7 * rows, rows, 21)
        # The next run has its own.
        world.write("000.txt", "Another text.")
        world.run(submitted=1, resubmitted=0, truncated=0, warnings=0, tokens=7, written=1)

    def test_a_submission_without_a_response_is_sent_again_and_counted(self, world: World) -> None:
        world.fill(4)
        lost: list[str] = []

        def lose(text: str) -> None:
            if not lost:
                lost.append(text)
                raise SubmissionUnknownError("no answer")

        world.service.on_post = lose
        world.run(resubmitted=1)
        world.check()

    def test_ids_outlive_a_part_that_cannot_be_closed(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.fill()
        world.service.late = {""}

        def refused(text: str) -> None:
            if len(world.service.posted) == 7:
                raise ForbiddenError("no more")

        async def full(_: Pipeline) -> None:
            raise StorageError("no space left")

        world.service.on_post = refused
        with monkeypatch.context() as patch:
            patch.setattr(journal, "GROUP_SECONDS", 60.0)
            patch.setattr(Pipeline, "_close_part", full)
            with pytest.raises(StorageError):
                world.run()
        world.service.on_post, world.service.late = lambda text: None, ()
        world.run()
        world.check()
        assert sorted(world.service.posted) == sorted(world.expected.values())

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
        world.check()
        assert world.service.posted == ["The first text.", "Another text."]

    @pytest.mark.parametrize("times", [3, 10_000])
    def test_a_lease_that_cannot_be_renewed_for_a_moment_ends_no_run(
        self, world: World, monkeypatch: pytest.MonkeyPatch, times: int
    ) -> None:
        world.fill()
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
            world.check()
        else:
            with pytest.raises(StorageError, match="no space left"):
                world.run()
        assert len(failures) < times - 2

    def test_a_run_that_has_lost_the_lease_after_its_commits_removes_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.fill()
        renew = Lease.renew

        def lost(lease: Lease) -> None:
            if read_table(f"{world.output}/documents") is not None:
                raise OutputBusyError("another one writes")
            renew(lease)

        def end(_: Journal, **__: Any) -> None:
            raise AssertionError("it is its follower's")

        with monkeypatch.context() as patch:
            patch.setattr(Lease, "renew", lost)
            patch.setattr(Journal, "end", end)
            world.run(added=12)
        world.run(skipped=12)

    @pytest.mark.parametrize("during", ["_load", "_plan"])
    def test_a_run_that_has_lost_the_lease_before_its_submissions_leaves_the_journal_of_its_follower(
        self, world: World, monkeypatch: pytest.MonkeyPatch, during: str
    ) -> None:
        texts = world.fill()
        original = getattr(run_module, during)

        def suspended(*args: Any, **kwargs: Any) -> Any:
            monkeypatch.setattr(run_module, during, original)
            with killed("publish"):
                world.run(run_id="night", try_number=2, posted=texts.values())
            return original(*args, **kwargs)

        monkeypatch.setattr(run_module, during, suspended)
        with pytest.raises(OutputBusyError, match=r"is now written by .* try 2"):
            world.run(run_id="night")
        world.run(run_id="night", try_number=3, submitted=12)
        world.check()
        assert len(world.service.posted) == 12

    def test_a_journal_whose_files_cannot_be_removed_ends_no_run(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.fill()
        with monkeypatch.context() as patch:
            patch.setattr(journal, "discard", lambda *uris: False)
            with killed("publish"):
                world.run(run_id="night")
        world.run(run_id="night", try_number=2)
        world.check()
        assert sorted(world.service.posted) == sorted(world.expected.values())

    def test_a_storage_that_allows_no_deletion_has_every_chunk_once(
        self, world: World, undeletable: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Three nights; the end of a run is written, so what remains of it does not count."""
        world.fill()
        world.run(added=12)
        chunks = len(world.rows())
        world.run(changed=0, skipped=12, submitted=0)
        world.check()
        assert len(world.rows()) == chunks
        assert "AccessDenied" in caplog.text

        world.write("003.txt", "Another.")
        world.remove("004.txt")
        world.set(prune=True)
        world.run(changed=1, removed=1, submitted=1)
        world.check()

    def test_late_jobs_are_carried_over_where_nothing_can_be_removed(
        self, world: World, undeletable: None
    ) -> None:
        texts = world.fill(6)
        world.service.late = {texts["001.txt"], texts["002.txt"]}
        world.set(**IMPATIENT)
        for _ in range(2):
            world.run(rejected=2)
        world.service.late = ()
        world.run(posted=[])
        world.check()
        world.run(skipped=6)

    def test_nothing_is_submitted_while_the_journal_cannot_be_written(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        texts = world.fill(400)
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

        world.check()
        # Those that were in flight.
        assert seen[-1] - seen[0] <= SUBMISSIONS
        assert seen[-1] < len(world.service.posted) == len(texts)

    @pytest.mark.parametrize("maintained", [True, False])
    def test_late_jobs_are_noted_before_anything_is_tidied_up(
        self, world: World, monkeypatch: pytest.MonkeyPatch, maintained: bool
    ) -> None:
        world.fill(6)
        world.service.late = {""}
        world.set(**IMPATIENT)

        def full(*_: Any, **__: Any) -> None:
            raise StorageError("cannot be removed")

        with monkeypatch.context() as patch:
            if not maintained:
                patch.setattr("lucidworks_provider.corpus.run.maintain", full)
            assert {row["reason"] for row in world.rejects(world.run()).values()} == {"timeout"}
        world.service.late = ()
        world.run(posted=[])
        world.check()

    @pytest.mark.parametrize("keep_raw", [False, True])
    @pytest.mark.parametrize("moment", range(8))
    def test_late_jobs_outlive_a_kill_at_any_moment_of_tidying_up(
        self, world: World, monkeypatch: pytest.MonkeyPatch, moment: int, keep_raw: bool
    ) -> None:
        texts = world.fill(6)
        bad = texts["003.txt"]
        world.service.late, world.service.failed = {texts["001.txt"], texts["002.txt"]}, {bad}
        world.set(**IMPATIENT, keep_raw=keep_raw)
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
        world.service.late = world.service.failed = ()

        world.run(posted=[bad])

        world.check()
        assert not (world.output / "journal").exists()
        assert not keep_raw or _bodies_in(world.output / "raw") == set(texts.values())

    @pytest.mark.parametrize("committed", [True, False])
    @pytest.mark.parametrize("how", ["late", "failed", "refused", "malformed", "truncated"])
    def test_responses_of_a_document_with_a_bad_piece_are_kept(
        self, world: World, how: str, committed: bool
    ) -> None:
        def spoil(text: str, body: dict[str, Any]) -> dict[str, Any]:
            if "30" not in text:
                return body
            if how == "malformed":
                body["chunkedData"][0]["vectors"][0]["vector"] = [1.0]
                return body
            return cut(body)

        world.write("long.txt", "".join(f"Sentence {number} of a long document. " for number in range(60)))
        world.write("short.txt", "A short one.")
        if how in {"malformed", "truncated"}:
            world.service.answer = spoil
        else:
            setattr(world.service, how, {"30"})
        settings = PipelineSettings(timeout=0.3, poll_interval=0.05, refuse_truncated=True)
        world.set(max_text_bytes=500, pipeline=settings, max_reject_ratio=1.0 if committed else 0.1)
        if committed:
            assert [one["reason"] for one in world.rejects(world.run()).values()] == [
                how.replace("late", "timeout")
            ]
        else:
            with pytest.raises(LucidworksError, match="1 of 2 documents were rejected"):
                world.run()
        sent = [text for text in split_texts(world.expected["long.txt"], 500) if "30" in text]
        assert len(sent) == 1
        world.service.answer = lambda text, body: body
        world.service.late = world.service.failed = world.service.refused = ()
        world.run(posted=[] if how == "late" else sent, documents=2, rejected=0)
        world.check()
        assert not (world.output / "journal").exists()

    def test_responses_of_a_failed_document_outlive_a_failed_try(self, world: World) -> None:
        world.write("a.txt", "".join(f"Sentence {number} of a long document. " for number in range(60)))
        world.write("b.txt", "A short one.")
        pieces = split_texts(world.expected["a.txt"], 500)
        world.service.failed, world.service.down_after = {"30"}, len(pieces)
        settings = PipelineSettings(max_in_flight=1, poll_interval=0.05)
        world.set(max_text_bytes=500, pipeline=settings, max_reject_ratio=1.0)
        with pytest.raises(TransportError):
            world.run(run_id="night")
        world.service.failed, world.service.down_after = (), 99
        world.run(run_id="night", try_number=2, posted=["A short one."], rejected=1)
        world.run(posted=[piece for piece in pieces if "30" in piece], rejected=0)
        world.check()

    def test_a_failed_record_without_segments_submits_all_again(self, world: World) -> None:
        world.write("long.txt", "".join(f"Sentence {number} of a long document. " for number in range(60)))
        world.service.failed = {"30"}
        world.set(max_text_bytes=500)
        with pytest.raises(LucidworksError, match="1 of 1 documents were rejected"):
            world.run()
        (record,) = [path for path in world.output.rglob("*-kept.log") if b'"failed"' in path.read_bytes()]
        lines = [json.loads(line) for line in record.read_bytes().splitlines() if line]
        for line in lines:
            if line["kind"] == "failed":
                line["value"] = line["value"][:5]
        record.write_text("".join(json.dumps(line) + "\n\n" for line in lines))
        world.service.failed = ()
        world.run(posted=split_texts(world.expected["long.txt"], 500), documents=1)

    def test_a_job_whose_text_has_gone_is_not_kept(self, world: World) -> None:
        texts = world.fill(4)
        world.service.late = {texts["000.txt"], texts["001.txt"], texts["002.txt"]}
        world.set(**IMPATIENT)
        world.run(rejected=3)
        world.remove("001.txt")
        world.write("002.txt", "Another text.")
        world.run(rejected=1, posted=["Another text."])
        found = Journal(str(world.output))
        assert found.head() is not None
        assert {record.key.document_id for record in found.load() if record.key} == {"000.txt"}

    def test_a_job_that_never_ends_is_submitted_again_after_three_runs(self, world: World) -> None:
        bad = world.fill(2)["001.txt"]
        world.service.late = {bad}
        world.set(**IMPATIENT)
        details = []
        for night in range(5):
            rejects = world.rejects(world.run(posted=None if not night else [bad] if night == 3 else []))
            details.append(rejects["001.txt"]["detail"].rpartition("The next run ")[2])
        assert details == [
            *["polls it again."] * 2,
            "submits its text again.",
            *["polls it again."] * 2,
        ]
        world.service.late = ()
        world.run(posted=[])
        world.check()

    @pytest.mark.parametrize("published", range(3))
    def test_a_job_that_never_ends_is_submitted_again_after_three_runs_that_fail(
        self, world: World, monkeypatch: pytest.MonkeyPatch, published: int
    ) -> None:
        """A try that was killed does not count."""
        bad = world.fill(6)["003.txt"]
        world.service.late = {bad}
        world.set(**IMPATIENT)
        for _ in range(published):
            world.run()
        with monkeypatch.context() as patch:
            patch.setattr(run_module, "writing", _die)
            with pytest.raises(KeyboardInterrupt):
                world.run()
        world.set(max_reject_ratio=0.05)
        for night in range(published, 7):
            with pytest.raises(TooManyRejectsError):
                world.run()
            assert len(world.service.posted) == 6 + night // 3
        world.service.late = ()
        world.run(posted=[])
        world.check()

    def test_jobs_of_another_integration_are_submitted_again_after_three_runs(self, world: World) -> None:
        texts = world.fill()
        world.service.late = {""}
        world.service.down_after = 8
        with pytest.raises(TransportError):
            world.run()
        world.service.down_after = 99
        old, world.service.late = set(texts.values()) & set(world.service.posted), ()

        def refuses(text: str) -> None:
            if world.service.posted.count(text) == 1 and text in old:
                raise ForbiddenError("the job belongs to another application", status=403)

        world.service.on_get = refuses
        for _ in range(3):
            with pytest.raises(TooManyRejectsError):
                world.run()
        world.run(resubmitted=8)
        world.check()

    def test_a_retry_of_what_had_ended_well_returns_the_same(self, world: World) -> None:
        world.fill()
        first = world.run(run_id="night")
        assert world.run(run_id="night", try_number=2, posted=[]) == first

    def test_a_retry_returns_the_same_though_another_run_came_between(self, world: World) -> None:
        world.fill()
        with killed("end"):
            world.run(run_id="night")
        world.write("001.txt", "Another.")
        world.run(run_id="by hand", added=0, changed=1)

        delta = world.run(run_id="night", try_number=2, posted=[], added=12, changed=0)

        assert len(world.listed(delta, "added")) == 12
        # Cleared, it compares again; and a run that was never there has no record.
        world.run(run_id="night", try_number=3, generation=1, skipped=12)
        world.run(run_id="another night", try_number=2, skipped=12)

    def test_a_dag_run_that_is_deleted_and_created_again_is_a_new_one(self, world: World) -> None:
        world.fill(3)
        world.run(run_id="by hand", added=3)
        world.write("001.txt", "Another text.")
        world.run(run_id="by hand", posted=["Another text."], changed=1)
        world.check()

    @pytest.mark.parametrize("retried", [True, False])
    def test_a_run_that_died_while_tidying_up_is_not_taken_twice(self, world: World, retried: bool) -> None:
        world.fill()
        world.run()
        world.write("001.txt", "Another.")
        with killed("end"):
            world.run(run_id="night")
        if retried:
            world.run(run_id="night", try_number=2, changed=1)
        world.run(posted=[], documents=12, changed=0, skipped=12)
        world.check()
        assert not (world.output / "journal").exists()

    def test_a_cleared_task_that_finds_nothing_new_returns_its_delta_again(self, world: World) -> None:
        """Its last try may have died before it could say what those after it have to do."""
        world.fill()
        delta = world.run(run_id="night", added=12)
        assert world.run(run_id="night", generation=1, posted=[]) == delta
        assert not (world.output / "journal").exists()
        # Where something is new, it compares again.
        world.write("001.txt", "Another.")
        world.run(run_id="night", generation=2, changed=1, skipped=11)
        # Another night's is its own.
        world.run(run_id="the next night", skipped=12)

    def test_a_cleared_task_that_returns_its_delta_again_keeps_its_late_jobs(self, world: World) -> None:
        world.fill(6)
        world.service.late = {""}
        world.set(**IMPATIENT)
        delta = world.run(run_id="night")
        assert world.run(run_id="night", generation=1) == delta
        world.service.late = ()
        world.run()
        world.check()
        assert sorted(world.service.posted) == sorted(world.expected.values())

    def test_results_of_another_configuration_are_not_thrown_away_unasked(self, world: World) -> None:
        world.fill()
        world.service.down_after = 8
        world.set(pipeline=PipelineSettings(max_in_flight=1))
        with pytest.raises(TransportError):
            world.run()
        world.service.down_after = 99
        world.set(options=OTHER)
        with pytest.raises(InputError, match=r"unfinished run.*another configuration"):
            world.run()
        world.set(full_refresh=True)
        world.run(added=12)

    @pytest.mark.parametrize("unfinished", ["a first run", "late jobs"])
    def test_a_full_refresh_takes_nothing_of_an_earlier_run(self, world: World, unfinished: str) -> None:
        texts = list(world.fill(6).values())
        world.service.failed = {texts[0]}
        world.set(**IMPATIENT)
        if unfinished == "late jobs":
            world.service.late = {texts[1]}
            world.run(rejected=2)
        else:
            with killed("publish"):
                world.run()
        world.service.late = world.service.failed = ()
        world.set(full_refresh=True)
        with killed("publish"):
            world.run(run_id="night", posted=texts)
        # A retry continues the refresh.
        world.run(run_id="night", try_number=2, posted=[], submitted=6)
        world.check()

    def test_a_wrong_configuration_that_led_nowhere_is_forgotten(self, world: World) -> None:
        world.fill()
        world.run()
        world.service.is_down()
        good = world.corpus.options
        world.set(options=ChunkingOptions("sentence", "gte-smal"), full_refresh=True)
        with pytest.raises(TransportError):
            world.run()
        world.set(options=good, full_refresh=False)
        world.run(skipped=12)
        world.check()

    def test_a_record_that_a_failed_try_has_got_is_not_forgotten(self, world: World) -> None:
        world.records("a.jsonl", x="One.", y="Two.")
        world.service.refused = {"Two."}
        world.set(max_reject_ratio=0.5)
        world.run()
        world.records("b.jsonl", *map(str, range(9)), form="Bad {}.")
        world.service.refused = {"Bad"}
        with pytest.raises(LucidworksError, match="9 of 11"):
            world.run()
        world.service.refused = ()
        world.run()
        assert {"x": "One.", "y": "Two."}.items() <= world.texts().items()

    @pytest.mark.parametrize("nights", [1, 2])
    def test_one_job_that_cannot_be_polled_is_one_reject(self, world: World, nights: int) -> None:
        """It is as good as gone: submitted again once, in each run."""
        bad = world.fill()["004.txt"]
        fetch = world.service.fetch

        async def refused(job: str) -> bytes:
            if world.service.jobs[job][1] == bad and world.runs <= nights:
                raise RequestRefusedError("HTTP 422", status=422)
            return await fetch(job)

        world.service.fetch = refused  # type: ignore[method-assign]
        world.set(max_reject_ratio=0.2)
        for _ in range(nights):
            rejects = world.rejects(world.run(resubmitted=1))
            assert {one: row["reason"] for one, row in rejects.items()} == {"004.txt": "gone"}
        world.run(rejected=0)
        world.check()
        assert world.service.posted.count(bad) == 2 * nights + 1

    def test_refusals_of_all_polls_submit_nothing_twice(self, world: World) -> None:
        world.fill(60)
        world.set(pipeline=PipelineSettings(max_in_flight=20))
        fetch = world.service.fetch

        async def forbidden(job: str) -> bytes:
            raise ForbiddenError("HTTP 403: a page of a proxy", status=403)

        world.service.fetch = forbidden  # type: ignore[method-assign]
        with pytest.raises(LucidworksError, match="in a row"):
            world.run(run_id="night")
        world.service.fetch = fetch  # type: ignore[method-assign]
        world.run(run_id="night", try_number=2)
        world.check()
        assert sorted(world.service.posted) == sorted(world.expected.values())

    def test_a_payload_with_an_unknown_status_is_no_result_after_a_crash(self, world: World) -> None:
        world.write("a.txt", "One half. " * 20 + "Another half. " * 20)
        seen: list[str] = []

        def partly(sent: str, body: dict[str, Any]) -> dict[str, Any]:
            seen.append(sent)
            if len(seen) == 1:
                world.service.handed_out.clear()
                item = {name: values[:1] for name, values in body["chunkedData"][0].items()}
                return body | {"status": "PARTIAL", "chunkedData": [item]}
            if len(seen) == 2:
                _die()
            return body

        world.service.answer = partly
        with pytest.raises(KeyboardInterrupt):
            world.run(run_id="night")
        world.service.handed_out.clear()
        world.run(run_id="night", try_number=2)
        world.check()


class TestRateLimit:
    @pytest.mark.parametrize(("refused_for", "retry_after"), [(181.0, None), (1.0, 3600.0)])
    def test_a_service_that_refuses_everything_ends_the_try_and_the_next_one_resumes(
        self, world: World, refused_for: float, retry_after: float | None
    ) -> None:
        texts = world.fill(30)

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

    def test_a_lone_refusal_does_not_end_a_run(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retrying, "LONGEST_RETRY_AFTER", 0.01)
        refused = iter([RateLimitError("HTTP 429", status=429, retry_after=3600.0)])

        def refuse(text: str) -> None:
            if (error := next(refused, None)) is not None:
                raise error

        world.service.on_post = refuse
        world.fill(5)
        assert (world.run()["added"], world.texts()) == (5, world.expected)

    def test_submissions_without_a_response_are_apart(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pipeline, "SUBMIT_WAIT", 0.3)
        times: list[float] = []

        def down(text: str) -> None:
            times.append(time.monotonic())
            if len(times) < pipeline.SUBMIT_ATTEMPTS:
                raise SubmissionUnknownError("no response")

        world.service.on_post = down
        world.fill(1)
        assert world.run()["added"] == 1
        assert all(later - earlier >= 0.3 for earlier, later in pairwise(times))

    def test_a_text_is_sent_until_it_is_accepted_while_others_are(
        self, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(retrying, "LONGEST_WAIT", 0.01)
        caplog.set_level("INFO")
        texts, refused = world.fill(3), 0

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
        texts, refused = world.fill(6), set[str]()

        def refuse(text: str) -> None:
            if text == texts["001.txt"] or text not in refused:
                refused.add(text)
                raise RateLimitError("HTTP 429", status=429, retry_after=0.1)

        world.service.on_get = refuse
        world.set(pipeline=PipelineSettings(timeout=3.0), max_reject_ratio=1.0)
        delta = world.run()
        assert (delta["added"], early) == (5, [])
        [late] = world.rejects(delta).values()
        assert late["reason"] == "timeout"
        assert "HTTP 429" in late["detail"]
        world.service.on_get = lambda text: None
        world.run(posted=[])
        assert world.texts() == texts


class TestMaxTokens:
    # Each document of `fill` has three chunks, of 7 tokens each.

    def test_the_rest_is_sent_after_it_was_raised(self, world: World) -> None:
        texts = world.fill()
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
        world.run(added=12, submitted=12, tokens=12 * 21)

        assert sorted(world.service.posted) == sorted(texts.values())
        world.check()

    def test_what_is_in_flight_is_collected(self, world: World) -> None:
        texts = world.fill(40)
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
        world.check()

    def test_results_of_an_earlier_try_are_free(self, world: World) -> None:
        world.fill()
        world.set(pipeline=PipelineSettings(max_in_flight=1, max_tokens=0))
        with pytest.raises(BudgetExceededError, match=r"used 0 tokens, .* 12 of 12 documents are left"):
            world.run()
        assert world.service.posted == []
        # The budget is reached by the last documents: nothing is left.
        world.set(pipeline=PipelineSettings(max_tokens=12 * 21))
        world.run(added=12)
        world.set(pipeline=PipelineSettings(max_tokens=0))
        world.run(skipped=12)
        world.check()

    def test_segments_of_a_long_document_stay_for_the_next_try(self, world: World) -> None:
        world.write("0.txt", "Short.")
        world.write("a.txt", "A sentence of some words. " * 1_000)
        submit = world.service.submit

        async def slowly(text: str) -> str:
            await asyncio.sleep(0.1)
            return await submit(text)

        world.service.submit = slowly  # type: ignore[method-assign]
        world.set(max_text_bytes=100, pipeline=PipelineSettings(max_tokens=1))
        with pytest.raises(BudgetExceededError, match=r"used 7 tokens, .* 1 of 2 documents are left"):
            world.run(run_id="night")
        assert 1 < len(world.service.posted) < plan_run(world.corpus)["requests"]
        world.set(pipeline=PipelineSettings())
        world.run(run_id="night", generation=1)
        assert "".join(world.service.posted).count("sentence") == 1_000
        world.check()

    def test_rejected_results_count(self, world: World) -> None:
        world.fill()
        world.service.answer = lambda text, body: cut(body)
        settings = PipelineSettings(max_in_flight=1, max_tokens=3 * 14, refuse_truncated=True)
        world.set(pipeline=settings)
        with pytest.raises(BudgetExceededError, match=r"used 42 tokens, .* 9 of 12 documents are left"):
            world.run()


class TestGuards:
    def test_dry_run_says_what_would_be_sent(self, world: World) -> None:
        world.fill()
        world.run()
        world.write("001.txt", "Another.")
        os.utime(world.source / "002.txt", (1, 1))
        before = tree(world.output)
        plan = {"documents": 12, "would_submit": 1, "requests": 1, "bytes": 8, "skipped": 11}
        assert plan_run(world.corpus) == plan
        assert len(world.service.posted) == 12
        assert tree(world.output) == before

    @pytest.mark.parametrize("full_refresh", [False, True])
    def test_a_plan_after_a_run_whose_journal_is_left(self, world: World, full_refresh: bool) -> None:
        """It has the late job, and of the published results as much as the next run."""
        world.set(max_reject_ratio=1.0, pipeline=PipelineSettings(timeout=0.3))
        world.fill(3)
        world.service.late = {"Document 0 "}
        with killed("end"):
            world.run()
        world.service.late = ()
        world.set(full_refresh=full_refresh)
        before, posted = tree(world.output), len(world.service.posted)
        plan = plan_run(world.corpus)
        assert tree(world.output) == before
        world.run()
        world.check()
        assert plan["requests"] == len(world.service.posted) - posted
        assert (plan["requests"] > 0) == full_refresh

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
        assert tree(world.output, but="lease/") == set()
        world.set(max_requests=needed)
        world.run(added=2)
        assert len(world.service.posted) == needed > 3
        world.set(max_requests=0)
        world.run(skipped=2)

    def test_max_requests_does_not_count_jobs_of_an_earlier_try(self, world: World) -> None:
        world.fill()
        fetch = world.service.fetch
        world.service.fetch = _die  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            world.run(run_id="night")
        sent = len(world.service.posted)
        world.service.fetch = fetch  # type: ignore[method-assign]
        world.set(max_requests=12 - sent)
        world.run(run_id="night", try_number=2, submitted=12)
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
        world.fill()
        for name in names:
            world.write(f"../dataset/{name}", "mine")
        with pytest.raises(InputError, match=rf"holds something else \({named}\)"):
            world.run()
        assert tree(world.output) == names

    @pytest.mark.parametrize("within", ["", "sub/chunks"])
    def test_a_dataset_within_its_source(self, world: World, within: str) -> None:
        world.fill()
        world.set(output=str(world.source / within))
        with pytest.raises(InputError, match="is within source"):
            world.run()
        assert world.service.posted == []

    @pytest.mark.parametrize(("folder", "glob"), [("[draft]", ""), ("2024", "202?/*.txt"), ("", "*.txt")])
    def test_a_dataset_beside_its_source(self, world: World, folder: str, glob: str) -> None:
        world.write(f"./{folder}/a.txt", "A text.")
        world.set(source=str(world.source / (glob or folder)), output=str(world.source / "chunks"))
        world.run(added=1)
        world.run(skipped=1)

    @pytest.mark.parametrize("source", ["nothing-here", "*.nothing"])
    def test_nothing_to_read(self, world: World, source: str) -> None:
        world.fill(1)
        world.set(source=str(world.source / source))
        with pytest.raises(InputError):
            world.run()
        assert tree(world.output, but="lease/") == set()

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"a.jsonl": {"id": "x", "body": "One."}}, "text"),
            (
                {"a.jsonl": {"id": "x", "text": "One."}, "b.jsonl": {"id": "x", "text": "Two."}},
                "'x', which another document has",
            ),
        ],
        ids=["a missing column", "two documents with one id"],
    )
    def test_what_the_source_has(self, world: World, files: dict[str, Any], message: str) -> None:
        for name, record in files.items():
            world.write(name, json.dumps(record))
        with pytest.raises(InputError, match=message):
            world.run()
        assert world.service.posted == []

    @pytest.mark.parametrize(
        ("target", "value", "message"),
        [
            ("lucidworks_provider.corpus.run.free_bytes", lambda uri: 100, "100 bytes left"),
            ("sqlite3.sqlite_version_info", (3, 26, 0), r"needs SQLite 3\.33 or newer"),
        ],
        ids=["no space", "an old SQLite"],
    )
    def test_what_the_machine_has(
        self, world: World, monkeypatch: pytest.MonkeyPatch, target: str, value: Any, message: str
    ) -> None:
        world.fill()
        monkeypatch.setattr(target, value)
        with pytest.raises(InputError, match=message):
            world.run()
        assert world.service.posted == []

    def test_keep_raw(self, world: World) -> None:
        texts = world.fill(3)
        world.set(keep_raw=True)
        world.run()
        (raw,) = (world.output / "raw").iterdir()
        assert _bodies_in(raw) == set(texts.values())
        world.run(skipped=3)
        world.set(keep_raw=False)
        world.run(skipped=3)
        assert raw.exists()
