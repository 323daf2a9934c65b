# SPDX-License-Identifier: Apache-2.0
"""The OpenLineage events of tasks in a real Airflow, and the buttons that it shows for them."""

import json
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dev.airflow_stack import AirflowStack
from dev.demo import Emulator
from dev.processes import until
from lucidworks_provider.corpus import open_dataset

pytestmark = pytest.mark.live

DAGS = Path(__file__).with_name("lineage_dags.py")
TEXTS = {f"{n % 2}/{n}.txt": f"Product {n}. It has two sentences." for n in range(6)}


@dataclass
class World:
    """
    Where everything has run, and what it left.

    :param events: of OpenLineage, in their order.
    :param canary: is part of each text and each key.
    """

    airflow: AirflowStack
    root: Path
    events: list[dict[str, Any]]
    canary: str
    runs: dict[str, str]

    def event(self, task: str, kind: str = "COMPLETE", inputs_of: int | None = None) -> dict[str, Any]:
        """The last event of a kind of a task, or of one of its map indexes."""
        return [
            one
            for one in self.events
            if (one["job"]["name"], one["eventType"]) == (task, kind)
            and (
                inputs_of is None or one["run"]["facets"]["airflow"]["taskInstance"]["map_index"] == inputs_of
            )
        ][-1]

    def links(self, task: str, dag_id: str = "lineage", map_index: int = -1) -> dict[str, str | None]:
        """The buttons that the UI shows."""
        path = f"dags/{dag_id}/dagRuns/{self.runs[dag_id]}/taskInstances/{task}/links?map_index={map_index}"
        return dict(self.airflow.api("GET", path)["extra_links"])


def connection(emulator: Emulator, password: str) -> str:
    made = json.loads(emulator.connection(customer_id="demo-customer"))
    return json.dumps(made | {"login": "lineage", "password": password})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Each DAG runs once, with the OpenLineage provider writing events to files."""
    root = tmp_path_factory.mktemp("lineage")
    canary = f"canary{secrets.token_hex(8)}"
    (root / "dags").mkdir()
    shutil.copy(DAGS, root / "dags")
    for path, text in TEXTS.items():
        (root / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "source" / path).write_text(f"{text} {canary}.")
    (root / "events").mkdir()
    in_full = {"scope": {"dag_id": "lineage_in_full"}, "controls": {"include_full_task_info": True}}
    client = ("--client", f"lineage:secret-{canary}", "--training-seconds", "1")
    with Emulator(root / "emulator.log", *client) as emulator:
        environment = {
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(root / "events" / "event"), "append": False}
            ),
            "AIRFLOW__OPENLINEAGE__NAMESPACE": "tests",
            "AIRFLOW__OPENLINEAGE__EMISSION_POLICY": json.dumps([in_full]),
            "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": connection(emulator, f"secret-{canary}"),
            "AIRFLOW_CONN_LUCIDWORKS_WRONG": connection(emulator, f"wrong-{canary}"),
            "AIRFLOW_CONN_THIRD_PARTY": json.dumps({"conn_type": "generic", "password": f"key {canary}"}),
            "LINEAGE_ROOT": str(root),
            "LINEAGE_CANARY": canary,
        }
        with AirflowStack(root / "home", root / "dags", env=environment, parallelism=4) as airflow:
            airflow.wait_for_dag("lineage_in_full")
            runs = {dag_id: airflow.trigger(dag_id) for dag_id in ("lineage", "lineage_in_full")}
            states = {
                (task["task_id"], task["map_index"]): task["state"]
                for dag_id, run_id in runs.items()
                if airflow.wait_for_run(dag_id, run_id, 240)
                for task in airflow.task_instances(dag_id, run_id)
            }
            failed = {task for (task, _), state in states.items() if state != "success"}
            assert failed == {"failing", "refused"}, states
            # The scheduler emits the events of the runs, a moment later.
            until(lambda: len(list((root / "events").iterdir())) >= 2 * (len(states) + 2), "all events")
            files = sorted((root / "events").iterdir())
            events = [json.loads(line) for file in files for line in file.read_text().splitlines()]
            events.sort(key=lambda one: str(one["eventTime"]))
            yield World(airflow, root, events, canary, runs)


def named(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["namespace"], one["name"]) for one in datasets]


def columns(output: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["type"] for one in output["facets"]["schema"]["fields"]}


def parameters(event: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: one["value"] for one in event["run"]["facets"]["executionParameters"]["parameters"]}


def test_a_corpus(world: World) -> None:
    start, complete = world.event("lineage.corpus", "START"), world.event("lineage.corpus")
    source = ("file", f"{world.root}/source")
    assert (named(start["inputs"]), start["outputs"]) == ([source], [])
    assert named(complete["inputs"]) == [source]
    [output] = complete["outputs"]
    assert named([output]) == [("file", f"{world.root}/dataset")]

    written = open_dataset(f"file://{world.root}/dataset")
    assert columns(output) == {one.name: str(one.type).replace("<item: ", "<") for one in written.schema}
    assert columns(output)["vector"] == "fixed_size_list<int8>[256]"
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == len(written) > len(TEXTS)
    delta = world.airflow.xcom("lineage", world.runs["lineage"], "corpus")
    assert output["facets"]["version"]["datasetVersion"] == str(delta["version"]) == str(written.version)
    told = parameters(complete)
    assert re.fullmatch(r"[0-9a-f]{64}", told.pop("lucidworks.fingerprint"))
    assert told == {
        "lucidworks.chunker": "sentence",
        "lucidworks.model_id": "gte-small",
        "lucidworks.data_type": "passage",
        "lucidworks.chunker_config.chunkSize": "1",
        "lucidworks.model_config.vectorQuantizationMethod": "max-scale",
        "lucidworks.model_config.dimReductionSize": "256",
    }
    assert parameters(start) == parameters(complete)


def test_documents_of_a_task_are_no_dataset(world: World) -> None:
    event = world.event("lineage.handed_over")
    assert event["inputs"] == []
    assert named(event["outputs"]) == [("file", f"{world.root}/handed-over")]


@pytest.mark.parametrize(("index", "rows"), [(0, 1), (1, 2)])
def test_mapped_tasks_that_were_deferred(world: World, index: int, rows: int) -> None:
    event = world.event("lineage.mapped", inputs_of=index)
    assert named(event["inputs"]) == [("file", f"{world.root}/raw")], "what its author says that it reads"
    [output] = event["outputs"]
    assert named([output]) == [("file", f"{world.root}/mapped/{index}.parquet")]
    assert columns(output)["vector"] == "fixed_size_list<float>[384]"
    assert "content_hash" not in columns(output)
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == rows


def test_predictions(world: World) -> None:
    event = world.event("lineage.embed")
    [output] = event["outputs"]
    assert named([output]) == [("file", f"{world.root}/vectors.parquet")]
    assert columns(output)["vector"] == "fixed_size_list<float>[384]"
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 3
    assert set(parameters(event)) == {
        *("lucidworks.use_case", "lucidworks.model_id", "lucidworks.fingerprint"),
    }
    [answers] = world.event("lineage.ask")["outputs"]
    assert answers["name"] == f"{world.root}/answers.jsonl"
    assert "schema" not in answers["facets"]


def test_training(world: World) -> None:
    event = world.event("lineage.train")
    assert named(event["inputs"]) == [
        ("gs://training", "catalogue.parquet"),
        ("https://signals.example.com", "all.parquet"),
    ]
    assert event["outputs"] == []


def test_what_failed_has_written_nothing(world: World) -> None:
    event = world.event("lineage.failing", "FAIL")
    assert event["outputs"] == []
    assert parameters(event)["lucidworks.model_id"] == "gte-small"
    assert "The client id or the client secret is wrong." in json.dumps(event)


def test_no_text_and_no_key_is_in_any_event(world: World) -> None:
    jobs = {one["job"]["name"] for one in world.events}
    assert jobs >= {"lineage", "lineage.corpus", "lineage.mapped", "lineage_in_full.ask"}
    leaks = {
        (one["job"]["name"], one["eventType"])
        for one in world.events
        if world.canary in (text := json.dumps(one)) or re.search(r"eyJ[\w*-]{3}", text)
    }
    assert leaks == set()
    # These have all attributes of the operator, of which one has the keys.
    in_full = world.event("lineage_in_full.refused", "START")["run"]["facets"]["airflow"]["task"]
    assert in_full["inputs"] == "['A harmless question']"
    assert in_full["model_config"] == {"serviceAccountKey": "***"}


def test_the_buttons(world: World) -> None:
    # The results are on a disk, which no browser opens.
    assert world.links("corpus") == {
        "Report": "https://reports.example.com/catalogue/report.html",
        "Result": None,
    }
    for index in (0, 1):
        assert world.links("mapped", map_index=index) == {"Result": None}
    assert world.links("failing") == {"Result": None}
    assert world.links("train") == {}
