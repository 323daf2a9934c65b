# SPDX-License-Identifier: Apache-2.0
"""
The example DAGs run to their end against the emulator and a PostgreSQL, and log what ``logs/*.txt`` have.

Durations, ids, folders and the number of polls vary, and are replaced. After a change of log lines::

    REWRITE_LOGS=1 python -m pytest tests/integration/examples
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from packaging.version import Version

from dev.demo import PRODUCTS, TICKETS, TRAINING_KEY
from dev.processes import REPOSITORY, clean_environment

HERE = Path(__file__).parent
EXAMPLES = sorted(path.stem for path in (REPOSITORY / "example_dags").glob("*.py"))

_LINE = re.compile(r"^\S+T\S+Z \[(?P<level>\w+) *\] (?P<message>.*?) +\[(?P<logger>[\w.]+)\](?: |$)")
_TASK = re.compile(r"^\[DAG TEST\] starting task_id=(?P<task>\w+) map_index=(?P<index>-?\d+)$")
_VARYING = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"manual__[\w.+-]+(?=\.)"), "RUN"),
    (re.compile(r"\d{4}-\d\d-\d\d(T[\d:.]+)?([+-]\d\d:\d\d)?"), "DAY"),
    (re.compile(r"[\d.,]+ (s|min|h)\b( \d\d (s|min)\b)?"), "N s"),
    (re.compile(r"[\d.,]+( documents)?/s"), r"N\1/s"),
    (re.compile(r"in \d+ requests"), "in N requests"),
    (re.compile(r"\d+ (of \d+ documents) \(\d+ %\) done, \d+ in flight"), r"N \1 (N %) done, N in flight"),
)


class Ran:
    """The results of all examples, and their output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        google = {"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": TRAINING_KEY}}
        env = {
            **clean_environment(),
            "AIRFLOW_HOME": str(folder / "home"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "example_dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            # The shortest deferral: `dag.test()` has no heartbeat.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "0",
            "AIRFLOW_CONN_GOOGLE_CLOUD_TRAINING_DATA": json.dumps(google),
            "LUCIDWORKS_CATALOGUE": (folder / "catalogue.jsonl").as_uri(),
            "LUCIDWORKS_DOCUMENTS": (folder / "documents").as_uri(),
            "LUCIDWORKS_OUTPUT": (folder / "output").as_uri(),
            "LUCIDWORKS_REVIEWS": (folder / "reviews").as_uri(),
            "LUCIDWORKS_TICKETS": (folder / "tickets.csv").as_uri(),
            "NO_COLOR": "1",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(REPOSITORY),
        }
        done = subprocess.run(
            [sys.executable, str(HERE / "example_runner.py"), str(folder)],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        self.output = done.stdout
        self.results: dict[str, Any] = json.loads((folder / "results.json").read_text())

    def returned(self, name: str, task: str) -> Any:
        return self.results[name]["returned"][task]

    def rows(self, uri: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(uri.removeprefix("file://")).to_pylist()
        return rows

    def log(self, name: str) -> str:
        """
        The lines of the package, task by task.

        A line that repeats the one before it is omitted, and so are mapped tasks after the fourth.
        """
        output = re.split(r"^#### (\w+)\n", self.output, flags=re.MULTILINE)
        lines: dict[tuple[str, int], list[str]] = {}
        task = ("", -1)
        for line in output[output.index(name) + 1].splitlines():
            if (found := _LINE.match(line)) is None:
                continue
            if started := _TASK.match(found["message"]):
                task = (started["task"], int(started["index"]))
            elif "lucidworks_provider" in found["logger"] and task[1] < 4:
                said = lines.setdefault(task, [])
                text = f"{found['level'].upper():<7} {self._plain(found['message'])}"
                if text not in said[-1:]:
                    said.append(text)
        blocks = []
        for (task_id, index), said in sorted(lines.items()):
            heading = task_id if index < 0 else f"{task_id} {index}"
            blocks.append("\n".join([heading, *(f"    {one}" for one in said)]))
        return "\n\n".join(blocks) + "\n" if blocks else ""

    def _plain(self, message: str) -> str:
        message = message.replace(str(self.folder), "")
        for pattern, replacement in _VARYING:
            message = pattern.sub(replacement, message)
        return message


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    if Version(version("apache-airflow")) < Version("3.3"):
        pytest.skip("the log has the format of Airflow 3.3")
    return Ran(tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_succeeds(ran: Ran, name: str) -> None:
    result = ran.results[name]
    assert result.get("error") is None, result["error"]
    assert result["state"] == "success", result["states"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_logs_what_it_does(ran: Ran, name: str) -> None:
    golden, log = HERE / "logs" / f"{name}.txt", ran.log(name)
    if os.environ.get("REWRITE_LOGS"):
        golden.write_text(log) if log else golden.unlink(missing_ok=True)
    # An example without an operator of the package logs nothing.
    assert log == (golden.read_text() if golden.exists() else "")


def test_there_is_no_log_of_another_example() -> None:
    assert {path.stem for path in (HERE / "logs").glob("*.txt")} <= set(EXAMPLES)


def test_chunks_of_a_table_have_its_key(ran: Ran) -> None:
    rows = ran.rows(ran.returned("chunk_products", "chunk")["uri"])
    assert {row["sku"] for row in rows} == {product["sku"] for product in PRODUCTS}
    assert ran.returned("chunk_products", "join") == {product["sku"]: 2 for product in PRODUCTS}


def test_a_csv_file_has_a_label_for_each_ticket(ran: Ran) -> None:
    rows = ran.rows(ran.returned("classify_tickets", "classify")["uri"])
    assert [(row["ticket"], row["customer"]) for row in rows] == [(one[0], one[2]) for one in TICKETS]
    assert [row["status"] for row in rows] == ["predicted"] * 5 + ["rejected"]
    counts = ran.returned("classify_tickets", "count")
    assert counts.pop("none") == 1
    assert sum(counts.values()) == 5


def test_a_sql_table_has_a_label_for_each_row_with_a_text(ran: Ran) -> None:
    assert ran.returned("classify_sql_table", "store") == 3
    labels = ran.results["classify_sql_table"]["labels_in_postgres"]
    assert [review for review, _ in labels] == [1, 2, 4]
    assert {label for _, label in labels} <= {"praise", "complaint", "question"}
    # The next run finds no row without a label.
    assert ran.results["classify_sql_table"]["second"]["states"]["store"] == "skipped"


def test_each_customer_has_a_task_that_is_called_after_it(ran: Ran) -> None:
    assert ran.results["map_customers"]["labels"] == [f"customer-{number:02}.csv" for number in range(1, 21)]
    assert ran.returned("map_customers", "total")["customers"] == 20
    assert ran.returned("map_customers", "total")["predictions"] == 40


def test_a_question_is_answered_from_the_index(ran: Ran) -> None:
    inputs = ran.returned("answer_from_postgres", "retrieve")
    assert len(ran.returned("answer_from_postgres", "show")) == len(inputs) == 3
    assert all(
        {"alpine.txt", "stove.txt", "lamp.txt"} == {d["source"] for d in one["documents"]} for one in inputs
    )


def test_products_have_keywords_and_summaries(ran: Ran) -> None:
    uri = ran.returned("enrich_catalogue", "merge")
    rows = [json.loads(line) for line in Path(uri.removeprefix("file://")).read_text().splitlines()]
    assert [row["sku"] for row in rows] == [product["sku"] for product in PRODUCTS]


def test_another_model_takes_over_when_its_tables_are_complete(ran: Ran) -> None:
    """`MODEL` of chunk_catalogue is edited: the Variable and the index change from one catalogue to the other."""
    change = ran.results["index_in_postgres"]["change"]
    before, after = change["before"], change["after"]
    assert before["catalogue"].endswith("/catalogue/gte-small")
    assert after["catalogue"].endswith("/catalogue/e5-small-v2")
    # Built, published and not yet switched to: the index is still that of the old model.
    assert change["between"] == before
    assert (before["model"], after["model"]) == ("gte-small", "e5-small-v2")
    assert before["chunks"] == after["chunks"] == 3
