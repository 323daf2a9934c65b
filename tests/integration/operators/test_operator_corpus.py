# SPDX-License-Identifier: Apache-2.0
"""The corpus operator against the emulator over real sockets: its parameters, and what the service does to it."""

import gzip
import json
import re
import subprocess
import sys
from collections import UserList
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Asset
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS
from operator_service import Service, new_context, rows_of

from lucidworks_provider import retrying
from lucidworks_provider.client.http import rate_limiter
from lucidworks_provider.corpus import open_dataset
from lucidworks_provider.corpus.shards import write_listings
from lucidworks_provider.delta.log import read_table
from lucidworks_provider.errors import ConfigurationError, InputError, LucidworksError, RateLimitError
from lucidworks_provider.links import LucidworksReportLink
from lucidworks_provider.operators.corpus import (
    LucidworksChunkCorpusOperator,
    LucidworksPublishShardsOperator,
)


@dataclass
class Run:
    """The service, a corpus, and tasks over it."""

    service: Service
    root: Path
    pushed: dict[str, Any] = field(default_factory=dict)
    runs: int = 0

    def posts(self) -> int:
        return len(self.service.calls("submit"))

    def execute(self, **options: Any) -> dict[str, Any]:
        given = {"source": str(self.root / "source"), "chunker": "dynamic-sentence", "model_id": "gte-small"}
        return self._execute(LucidworksChunkCorpusOperator, given | options)

    def stage(self, shards: int = 3, **options: Any) -> list[dict[str, Any]]:
        """A task for each shard."""
        source, into = str(self.root / "source"), f"file://{self.root}/dataset/listings"
        return [self.execute(listing=uri, **options) for uri in write_listings(source, into, shards=shards)]

    def publish(
        self, staged: Any, *, context: dict[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        """The task that commits all shards."""
        return self._execute(LucidworksPublishShardsOperator, {"staged": staged, **options}, context)

    def _execute(
        self, kind: Any, given: dict[str, Any], context: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        self.runs += 1
        operator = kind(**{"task_id": "t", "output_uri": f"file://{self.root}/dataset"} | given)
        ti = new_context()["ti"]
        ti.run_id, ti.try_number, ti.max_tries, ti.task = f"run {self.runs}", 1, 0, operator
        ti.xcom_push = lambda key, value: self.pushed.update({key: value})
        delta: dict[str, Any] = operator.execute({"ti": ti, **(context or {})})
        if AIRFLOW_V_3_0_PLUS:
            links = {one.xcom_key: one.get_link(operator, ti_key=ti) for one in operator.operator_extra_links}
            self.pushed = {key: address for key, address in links.items() if address}
        return delta

    def ids(self) -> set[str]:
        return set(open_dataset(str(self.root / "dataset")).to_table().column("document_id").to_pylist())

    def tables(self) -> set[str]:
        """The tables that readers see."""
        return {path.parent.name for path in (self.root / "dataset").glob("*/_delta_log")}


IDS = {f"{number:03}.txt" for number in range(10)}


@pytest.fixture
def corpus(service: Service, short_corpus_waits: None, tmp_path: Path) -> Run:
    service.settings(pending_polls=0)
    (tmp_path / "source").mkdir()
    for name in IDS:
        (tmp_path / "source" / name).write_text(f"Document {name}. " + "It has a sentence. " * 8)
    return Run(service, tmp_path)


def test_a_folder_becomes_a_dataset(corpus: Run) -> None:
    delta = corpus.execute()
    assert corpus.ids() == IDS
    assert delta["dataset"] == f"file://{corpus.root}/dataset"
    assert (delta["added"], corpus.posts()) == (10, 10)
    assert (delta["written"], delta["dimension"]) == (delta["chunks"], 384)
    again = corpus.execute()
    assert (again["written"], again["chunks"]) == (0, delta["chunks"])
    assert (delta["version"], delta["since"], delta["documents_version"]) == (0, None, 0)
    assert (again["version"], again["since"], again["documents_version"]) == (0, 0, 0)
    assert len(json.dumps(delta)) < 2000


def test_quantised_vectors_are_bytes(corpus: Run) -> None:
    corpus.execute(model_config={"vectorQuantizationMethod": "max-scale", "dimReductionSize": 32})
    vectors = open_dataset(str(corpus.root / "dataset")).schema.field("vector").type
    assert str(vectors) == "fixed_size_list<item: int8>[32]"


def test_the_escapes_of_a_long_document_count(corpus: Run) -> None:
    corpus.service.settings(max_body_bytes=12_000)
    text = 'A "quoted\\path".\n\t"Größe"\r\n' * 1_000
    (corpus.root / "source" / "a.txt").write_text(text, newline="")
    assert corpus.execute(max_text_bytes=12_000 - 200)["rejected"] == 0
    rows = open_dataset(str(corpus.root / "dataset")).to_table().to_pylist()
    long = [row for row in rows if row["document_id"] == "a.txt"]
    assert all(text[row["start"] : row["end"]] == row["text"] for row in long)
    assert "".join("".join(row["text"] for row in long).split()) == "".join(text.split())
    assert 3 < corpus.posts() - len(IDS) < 7, "segments are not much shorter than they may be"


def test_documents_of_an_upstream_task(corpus: Run) -> None:
    documents = [{"id": 1, "text": "One."}, {"id": "b", "text": ""}]
    delta = corpus.execute(source=json.dumps(documents), max_reject_ratio=0.5)
    assert corpus.ids() == {"1"}
    assert delta["rejected"] == 1


def test_tables_as_csv(corpus: Run) -> None:
    folder = corpus.root / "tables"
    folder.mkdir()
    (folder / "a.csv").write_bytes('sku;body\n1;"One;\nGröße."\n2;Two.\n3;\n4\n'.encode("cp1252"))
    (folder / "b.csv.gz").write_bytes(gzip.compress(b"sku;body\r\n5;Five.\r\n"))
    how: dict[str, Any] = {"source": str(folder), "text_column": "body", "max_reject_ratio": 0.5}
    how |= {"csv_delimiter": ";", "encoding": "cp1252"}
    with pytest.raises(InputError, match=r"has no column 'id'; it has 'sku', 'body'"):
        corpus.execute(**how)
    assert corpus.posts() == 0
    returned = corpus.execute(id_column="sku", **how)
    assert (returned["documents"], returned["rejected"]) == (3, 2)
    rows = open_dataset(str(corpus.root / "dataset")).to_table().to_pylist()
    texts = {row["document_id"]: row["text"] for row in rows}
    assert texts == {"1": "One;\nGröße.", "2": "Two.", "5": "Five."}
    rejects = rows_of(Path(returned["rejects"].removeprefix("file://")))
    short = "Its number of fields is 1 instead of 2."
    assert {one["document_id"]: one["detail"] for one in rejects} == {
        "3": "It has no text.",
        "a.csv:6": short,
    }


def test_a_file_that_was_read_in_part_is_read_again_with_other_arguments(corpus: Run) -> None:
    path = corpus.root / "a.csv"
    path.write_text('id,text\n1,One.\n2,"Two \\"quoted\\" words."\n3,Three.\n')
    how = {"source": path, "max_reject_ratio": 1}
    assert corpus.execute(**how)["rejected"] == 1
    assert corpus.ids() == {"1"}
    returned = corpus.execute(**how, csv_escapechar="\\")
    assert (returned["added"], returned["rejected"]) == (2, 0)
    assert corpus.ids() == {"1", "2", "3"}


@pytest.mark.parametrize("switch", [True, "True", "true"])
def test_plan_only_writes_and_sends_nothing(corpus: Run, switch: Any) -> None:
    found = corpus.execute(plan_only=switch)
    assert (found["would_submit"], corpus.posts()) == (10, 0)
    assert not (corpus.root / "dataset").exists()


SECOND = "shards/001-of-002/report.html"


@pytest.mark.parametrize("shards", [False, True])
def test_the_report_has_a_link_where_people_find_it(corpus: Run, shards: bool) -> None:
    where = {"report_url": "https://reports.example.com/catalogue"}
    if shards:
        staged = corpus.stage(2, **where)
        assert corpus.pushed == {LucidworksReportLink.xcom_key: f"{where['report_url']}/{SECOND}"}
        assert "<html" in (corpus.root / "dataset" / SECOND).read_text()
        corpus.publish(staged, **where)
    else:
        corpus.execute(**where)
    assert corpus.pushed == {LucidworksReportLink.xcom_key: f"{where['report_url']}/report.html"}
    assert "<html" in (corpus.root / "dataset" / "report.html").read_text()


def test_a_rate_limit_is_waited_for(corpus: Run) -> None:
    corpus.service.settings(rate_limit=15, rate_window=0.5, retry_after=False)
    delta = corpus.execute()
    assert (delta["added"], delta["rejected"], delta["resubmitted"]) == (10, 0, 0)
    assert corpus.posts() >= 10


def test_a_service_that_refuses_everything_ends_the_task(
    corpus: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "LONGEST_REFUSAL", 0.0)
    monkeypatch.setattr(rate_limiter, "REFUSED_PROBES", 1)
    corpus.service.fault("submit", "429", times=10_000, retry_after=0.1)
    with pytest.raises(RateLimitError, match=r"'lucidworks_default'.*HTTP 429"):
        corpus.execute()
    corpus.service.heal()
    assert corpus.execute()["added"] == 10


def test_an_unknown_model_stops_the_run(corpus: Run) -> None:
    words = r"10 of 10 .*'lucidworks_default'.*deployment 'no-such-model'"
    with pytest.raises(LucidworksError, match=words):
        corpus.execute(model_id="no-such-model")


def test_a_missing_extra_is_named_before_anything_is_sent(
    corpus: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"airflow-provider-lucidworks\[documents\]"):
        corpus.execute()
    assert corpus.posts() == 0


@pytest.mark.parametrize("missing", ["pyarrow", "pyroaring"])
def test_publishing_needs_the_extra_too(corpus: Run, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = corpus.stage()
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=r"airflow-provider-lucidworks\[documents\]"):
        corpus.publish(staged)
    assert corpus.tables() == set()


def test_the_first_request_does_not_wait_for_pyarrow() -> None:
    """It is loaded while the first jobs are waited for: half a second of a busy worker."""
    code = """
import sys
from lucidworks_provider.corpus.run import run
from lucidworks_provider.corpus.dataset import check_installed
from lucidworks_provider.hooks.lucidworks import LucidworksHook

check_installed()
assert not {"pyarrow", "numpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_secrets_are_in_no_file(corpus: Run) -> None:
    corpus.execute(keep_raw=True)
    files = [path for path in (corpus.root / "dataset").rglob("*") if path.is_file()]
    assert not re.search(rb"eyJ[\w-]+\.|demo-secret", b"".join(path.read_bytes() for path in files))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": ""}, "source is ''"),
        ({"source": "relative/folder"}, "absolute"),
        ({"source": {"id": "a", "text": "b"}}, "source is of type dict"),
        ({"source": [{"id": "a"}]}, r"source\[0\]"),
        ({"source": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]}, "'a', which another"),
        ({"source": []}, "no document"),
        ({"output_uri": "relative"}, "output_uri is 'relative'"),
        ({"chunker_config": {"chunkSize": 2}}, "chunkSize"),
        ({"max_requests": "many"}, "max_requests is 'many'"),
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"on_truncated": "ignore"}, "on_truncated is 'ignore'"),
        ({"on_missing_chunks": "keep"}, "on_missing_chunks is 'keep'"),
        ({"deletion_vectors": "some"}, "deletion_vectors is 'some'"),
        ({"retention": "a week"}, "retention is 'a week'"),
        ({"retention": -1}, "retention is -1"),
        ({"plan_only": "perhaps"}, "plan_only is 'perhaps'"),
        ({"max_in_flight": 0}, "max_in_flight is 0"),
        ({"max_text_bytes": 5}, "max_text_bytes is 5"),
        ({"timeout": -1}, "timeout is -1"),
        ({"full_refresh": "perhaps"}, "full_refresh is 'perhaps'"),
        ({"report_url": "ftp://x"}, "report_url"),
        ({"listing": "file:///no/such.jsonl"}, "no/such.jsonl"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    corpus: Run, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        corpus.execute(**options)
    assert corpus.posts() == 0
    assert corpus.tables() == set()


def test_a_wrong_connection_is_named(corpus: Run) -> None:
    corpus.service.connect(password=None)
    with pytest.raises(ConfigurationError, match="lucidworks_default"):
        corpus.execute()
    assert not (corpus.root / "dataset").exists()


# -- shards --------------------------------------------------------------------------------------------


def test_shards_become_one_version(corpus: Run) -> None:
    staged = corpus.stage(3)
    assert (corpus.tables(), corpus.posts()) == (set(), 10)
    assert {delta["version"] for delta in staged} == {None}
    assert all(delta["staged"].startswith(f"file://{corpus.root}/dataset/shards/") for delta in staged)
    delta = corpus.publish(staged)
    assert (corpus.ids(), corpus.tables()) == (IDS, {"chunks", "documents"})
    wanted = {"dataset": f"file://{corpus.root}/dataset", "version": 0, "since": None, "documents_version": 0}
    wanted |= {"added": 10, "documents": 10, "submitted": 10, "shards": 3, "dimension": 384}
    assert wanted.items() <= delta.items()
    assert delta["written"] == delta["chunks"]
    assert "<html" in (corpus.root / "dataset" / "report.html").read_text()
    assert len(json.dumps(delta)) < 2000


@pytest.mark.parametrize("form", ["returned", "addresses", "lazy", "one address"])
def test_what_was_staged_comes_as_results_or_as_addresses(corpus: Run, form: str) -> None:
    returned = corpus.stage(1 if form == "one address" else 2)
    addresses = [delta["staged"] for delta in returned]
    forms: dict[str, Any] = {"returned": returned, "addresses": addresses, "one address": addresses[0]}
    # Airflow passes the return values of mapped tasks as a sequence that is no list.
    assert corpus.publish(forms.get(form, UserList(returned)))["documents"] == 10


def test_its_counts_go_with_the_asset_event(corpus: Run) -> None:
    asset = Asset("catalogue")
    events = {asset: SimpleNamespace(extra={})}
    delta = corpus.publish(corpus.stage(2), outlets=[asset], context={"outlet_events": events})
    counts = {"dataset", "version", "documents_version", "documents", "chunks", "added", "rejected", "shards"}
    said = events[asset].extra
    assert {name: said[name] for name in counts} == {name: delta[name] for name in counts}


def test_without_deletion_vectors(corpus: Run) -> None:
    for text in ("A text.", "Another text by now."):
        (corpus.root / "source" / "003.txt").write_text(text)
        corpus.publish(corpus.stage(2, deletion_vectors=False))
    table = read_table(str(corpus.root / "dataset" / "chunks"))
    assert table is not None
    assert "deletionVectors" not in table.writer_features
    assert len(corpus.ids()) == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output_uri": "relative"}, "output_uri is 'relative'"),
        ({"on_busy": "kill"}, "on_busy is 'kill'"),
        ({"busy_timeout": "long"}, "busy_timeout is 'long'"),
        ({"retention": -1}, "retention is -1"),
        ({"report_url": "ftp://x"}, "report_url"),
        ({"staged": []}, "staged is empty"),
        ({"staged": None}, "staged: give what the tasks of the shards return"),
        ({"staged": 7}, "staged: give what the tasks of the shards return"),
        ({"staged": [None]}, "staged: give what the tasks of the shards return"),
        # Of a task without a listing.
        ({"staged": {"dataset": "file:///data", "version": 3}}, "set listing"),
        ({"staged": ["file:///no/such.json"]}, "no/such.json was not staged by the task of a shard"),
    ],
)
def test_what_cannot_be_published_is_refused(corpus: Run, options: dict[str, Any], words: str) -> None:
    staged = options.pop("staged") if "staged" in options else corpus.stage(2)
    with pytest.raises(InputError, match=words):
        corpus.publish(staged, **options)
    assert corpus.tables() == set()
