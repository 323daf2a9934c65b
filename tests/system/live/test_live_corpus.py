# SPDX-License-Identifier: Apache-2.0
"""A corpus in a real Airflow: night after night, a task that is killed, and two runs that want the same output."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import HELD

from dev.airflow_stack import AirflowStack
from dev.demo import Emulator
from dev.processes import until
from lucidworks_provider.corpus.dataset import changes, open_dataset, open_documents
from lucidworks_provider.corpus.lease import TTL_SECONDS
from lucidworks_provider.corpus.pipeline import FIRST_WINDOW
from lucidworks_provider.documents.document import content_hash

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.live

DAGS = Path(__file__).with_name("corpus_dags.py")
# No more than are sent before the first of them has ended.
DOCUMENTS = 30
assert DOCUMENTS <= FIRST_WINDOW


@dataclass
class Catalogue:
    """A folder of documents, the tables of its chunks, and the Airflow that syncs them."""

    airflow: AirflowStack
    emulator: Emulator
    root: Path
    name: str
    texts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number in range(DOCUMENTS):
            self.write(f"{number % 3}/{number:02}.txt", f"Product {number}. One of {self.name}.")

    @property
    def source(self) -> Path:
        return self.root / self.name / "source"

    @property
    def output(self) -> Path:
        return self.root / self.name / "output"

    def write(self, path: str, text: str) -> None:
        file = self.source / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self.texts[path] = text

    def start(self, dag_id: str = "corpus") -> Run:
        conf = {"source": str(self.source), "output": self.output.as_uri()}
        return Run(self.airflow, dag_id, self.airflow.trigger(dag_id, conf))

    def submitted(self) -> Counter[str]:
        """How often each document was submitted, in whichever version."""
        versions = {content_hash(text): path for path, text in self.texts.items()}
        return Counter(
            versions[line["text_sha256"]]
            for line in self.emulator.submissions()
            if line["text_sha256"] in versions
        )

    def check(self) -> None:
        """Every document is in the dataset, once, in the version that the folder has."""
        table = open_dataset(self.output.as_uri()).to_table()
        rows = table.select(
            ["document_id", "chunk_index", "text", "start", "end", "content_hash"]
        ).to_pylist()
        assert {row["document_id"] for row in rows} == set(self.texts)
        assert max(Counter((row["document_id"], row["chunk_index"]) for row in rows).values()) == 1
        for row in rows:
            text = self.texts[row["document_id"]]
            assert row["text"] == text[row["start"] : row["end"]]
            assert row["content_hash"] == content_hash(text)
        documents = open_documents(self.output.as_uri()).to_table().to_pylist()
        current = [row["document_id"] for row in documents if row["status"] == "ok"]
        assert sorted(current) == sorted(self.texts)
        assert {path.name for path in self.output.iterdir()} == {
            "chunks",
            "documents",
            "lease",
            "rejects.jsonl",
            "report.html",
            "runs",
        }


@dataclass
class Run:
    """One run of a DAG with one task."""

    airflow: AirflowStack
    dag_id: str
    run_id: str

    def ends(self) -> str:
        return self.airflow.wait_for_run(self.dag_id, self.run_id, 120)

    def delta(self) -> dict[str, Any]:
        """What the task returned, after it succeeded."""
        assert self.ends() == "success", self.log()
        return dict(self.airflow.xcom(self.dag_id, self.run_id, "chunk"))

    def log(self, try_number: int = 1) -> str:
        return self.airflow.task_log(self.dag_id, self.run_id, "chunk", try_number)


def changed(delta: dict[str, Any]) -> dict[str, list[str]]:
    """The documents that a run has added, changed or deleted."""
    found: dict[str, set[str]] = {}
    for batch in changes(delta["dataset"], delta["since"], delta["version"]):
        for row in batch.to_pylist():
            found.setdefault(row["change"], set()).add(row["document_id"])
    return {change: sorted(ids) for change, ids in found.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AirflowStack, Emulator, Path]]:
    """One Airflow and its emulator for all stories."""
    root = tmp_path_factory.mktemp("corpus")
    (root / "dags").mkdir()
    shutil.copy(DAGS, root / "dags")
    with Emulator(root / "emulator.log") as emulator:
        environment = {
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": emulator.connection(),
        }
        airflow = AirflowStack(root / "home", root / "dags", env=environment, parallelism=4)
        # Nothing here defers.
        del airflow.commands["triggerer"]
        with airflow:
            airflow.wait_for_dag("corpus_hasty")
            yield airflow, emulator, root
            # For debugging.
            (root / "requests.json").write_text(json.dumps(emulator.get("log"), indent=0))


def test_three_nights(world: tuple[AirflowStack, Emulator, Path]) -> None:
    catalogue = Catalogue(*world, "nights")

    first = catalogue.start().delta()
    assert [first[name] for name in ("documents", "added", "submitted", "rejected")] == [30, 30, 30, 0]
    assert changed(first) == {"added": sorted(catalogue.texts)}
    catalogue.check()

    second = catalogue.start().delta()
    assert [second[name] for name in ("documents", "added", "submitted", "skipped")] == [30, 0, 0, 30]
    assert second["chunks"] == first["chunks"]
    assert (second["version"], changed(second)) == (first["version"], {})

    catalogue.write("1/01.txt", "Product 1 has another text. In the third night.")
    catalogue.write("new.txt", "Product 31 is new.")
    (catalogue.source / "2/02.txt").unlink()
    del catalogue.texts["2/02.txt"]
    third = catalogue.start().delta()
    assert [third[name] for name in ("documents", "submitted", "skipped", "removed")] == [30, 2, 28, 1]
    assert (third["since"], third["version"], third["vanished"]) == (0, 1, 1)
    assert changed(third) == {"added": ["new.txt"], "changed": ["1/01.txt"], "deleted": ["2/02.txt"]}
    assert set(catalogue.submitted().values()) == {1}
    catalogue.check()


def test_a_killed_task_is_tried_again_and_sends_nothing_twice_while_others_keep_away(
    world: tuple[AirflowStack, Emulator, Path],
) -> None:
    airflow, emulator, _ = world
    catalogue = Catalogue(*world, "killed")
    emulator.set(pending_seconds=HELD)
    run = catalogue.start()
    until(lambda: len(catalogue.submitted()) == DOCUMENTS, "all submissions")
    hasty = catalogue.start("corpus_hasty")
    time.sleep(1)  # the last group of the journal
    assert hasty.ends() == "failed"
    assert "OutputBusyError" in hasty.log()
    assert f"is being written by task chunk of DAG corpus, run {run.run_id}, try 1" in hasty.log()

    airflow.kill_task("corpus", run.run_id, "chunk")
    killed = time.monotonic()
    emulator.set(pending_seconds=0.0)
    delta = run.delta()

    print(f"the second try ended {time.monotonic() - killed:.1f} s after the kill")
    assert time.monotonic() - killed < TTL_SECONDS / 2, "it did not wait for the lease of the first"
    assert "taking the lease over from" in run.log(2)
    assert set(catalogue.submitted().values()) == {1}
    assert [delta[name] for name in ("documents", "submitted", "resubmitted")] == [30, 30, 0]
    catalogue.check()
