# SPDX-License-Identifier: Apache-2.0
"""
The demo: emulator, a real Airflow in a temporary home, and the example DAG with texts of Python's documentation.

``python -m dev.demo`` runs the DAG once and prints its output; ``--keep`` leaves everything running until Ctrl-C.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import requests

from dev.airflow_api import loopback_session
from dev.airflow_stack import AirflowStack, install_signal_handlers
from dev.processes import REPOSITORY, ManagedProcess, ProcessGroup, clean_environment, free_ports, until

if TYPE_CHECKING:
    from collections.abc import Mapping

DAG = "chunk_documents"
# Models of the emulator are trained and deployed while a person watches.
QUICK = ("--training-seconds", "3", "--deploy-seconds", "2")
PRODUCTS = [
    {
        "sku": f"SKU-{n}",
        "description": f"Tent number {n}, waterproof and light. It takes {n} minutes to pitch.",
    }
    for n in range(1, 71)
]
TICKETS = [
    ("T-1", "My parcel has not arrived, although it was to come on Monday.", "acme"),
    ("T-2", "I was charged twice for one order.", "globex"),
    ("T-3", "Does the tent stand up to a storm?", "acme"),
    ("T-4", "What a lovely shop, I will be back!", "initech"),
    ("T-5", "The delivery van stopped at the wrong house.", "acme"),
    ("T-6", "", "globex"),
]
# More than the example has at a time.
CUSTOMERS = [f"customer-{number:02}.csv" for number in range(1, 9)]
# Of the service account that reads the training data; the emulator reads none.
TRAINING_KEY = {"type": "service_account", "private_key": "canary-8f31c07be2-of-the-training-data"}


class Emulator:
    """The emulator in its own process."""

    def __init__(self, log: Path, *options: str, module: str = "lucidworks_provider.emulator") -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.group = ProcessGroup()
        command = [sys.executable, "-m", module, "--port", str(port), *options]
        self.process = ManagedProcess(
            command, clean_environment(), log, REPOSITORY, name="emulator", group=self.group
        )

    def __enter__(self) -> Emulator:
        self.process.start()
        try:
            deadline = time.monotonic() + 30
            while not self._responds():
                if not self.process.alive or time.monotonic() > deadline:
                    raise self.process.error("did not start")
                time.sleep(0.1)
        except BaseException:
            self.group.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.group.close()

    def get(self, what: str) -> Any:
        """``log``, ``stats`` or ``settings``."""
        return self._control("GET", what)

    def post(self, what: str, **body: Any) -> Any:
        """Call a control, e.g. ``faults``."""
        return self._control("POST", what, body)

    def delete(self, what: str) -> None:
        """``log`` or ``faults``."""
        self._control("DELETE", what)

    def set(self, **settings: Any) -> None:
        """Change settings."""
        self._control("PATCH", "settings", settings)

    def submissions(self) -> list[dict[str, Any]]:
        """The log's successful submissions."""
        return [line for line in self.get("log") if line["endpoint"] == "submit" and line["status"] == 200]

    def connection(self, **extra: str) -> str:
        """Its Airflow connection, as JSON for ``AIRFLOW_CONN_LUCIDWORKS_DEFAULT``."""
        urls = dict.fromkeys(("auth_url", "application_url", "models_url"), self.url)
        return json.dumps(
            {
                "conn_type": "lucidworks",
                "login": "demo-client",
                "password": "demo-secret",
                "host": "emulated-app",
                "extra": urls | extra,
            }
        )

    def _responds(self) -> bool:
        try:
            return bool(self.get("stats"))
        except requests.ConnectionError:
            return False

    def _control(self, method: str, what: str, body: object = None) -> Any:
        with loopback_session() as session:
            response = session.request(method, f"{self.url}/_emulator/{what}", json=body, timeout=30)
        response.raise_for_status()
        return response.json()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--folder", type=Path, help="an empty one; by default .demo, which is emptied")
    options = parser.parse_args()
    folder = options.folder or REPOSITORY / ".demo"
    if options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty")
    with install_signal_handlers():
        try:
            return run(folder.resolve(), keep=options.keep)
        except KeyboardInterrupt:
            print("Interrupted; everything is stopped.")
            return 130


def run(folder: Path, *, keep: bool) -> int:
    """Start everything, run the DAG once, print its result."""
    count = write_documents(folder / "documents")
    print(f"Wrote {count} texts of the Python reference to {folder / 'documents'}", flush=True)
    write_catalogue(folder / "catalogue.jsonl")
    write_tickets(folder / "tickets.csv")
    write_reviews(folder / "reviews")
    with Emulator(folder / "emulator.log", *QUICK) as emulator:
        print(f"Emulator (not the vendor's service): {emulator.url}", flush=True)
        with AirflowStack(
            folder / "airflow", REPOSITORY / "example_dags", env=environment(folder, emulator)
        ) as airflow:
            run_id, state = run_dag(airflow)
            if state == "success":
                show(airflow, run_id, emulator)
            if keep:
                print(
                    f"\nAirflow's UI: {airflow.url}   emulator: {emulator.url}   Ctrl-C stops both.",
                    flush=True,
                )
                while True:
                    time.sleep(3600)
    return 0 if state == "success" else 1


def write_documents(folder: Path) -> int:
    """Write the language reference of Python's help system; the number of files."""
    folder.mkdir(parents=True)
    for name, text in topics.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return len(topics)


def write_catalogue(file: Path) -> None:
    """Write the products of a shop."""
    file.write_text("".join(json.dumps(product) + "\n" for product in PRODUCTS), encoding="utf-8")


def write_tickets(file: Path) -> None:
    """Write the tickets of a support desk; one has no text."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([("ticket", "body", "customer"), *TICKETS])


def write_reviews(folder: Path) -> None:
    """A file of two reviews for each customer."""
    folder.mkdir(parents=True)
    for number, customer in enumerate(CUSTOMERS, 1):
        with (folder / customer).open("w", encoding="utf-8", newline="") as opened:
            texts = [f"Tent {number} is waterproof.", f"I bought {number} lamps and like their light."]
            csv.writer(opened).writerows([("id", "text"), *enumerate(texts, 1)])


def environment(folder: Path, emulator: Emulator) -> Mapping[str, str]:
    """The variables and connections of the example DAGs."""
    google = {"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": TRAINING_KEY}}
    return {
        "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": emulator.connection(customer_id="demo-customer"),
        "AIRFLOW_CONN_GOOGLE_CLOUD_TRAINING_DATA": json.dumps(google),
        "LUCIDWORKS_CATALOGUE": (folder / "catalogue.jsonl").as_uri(),
        "LUCIDWORKS_DOCUMENTS": (folder / "documents").as_uri(),
        "LUCIDWORKS_REVIEWS": (folder / "reviews").as_uri(),
        "LUCIDWORKS_TICKETS": (folder / "tickets.csv").as_uri(),
        "LUCIDWORKS_OUTPUT": (folder / "output").as_uri(),
    }


def run_dag(airflow: AirflowStack) -> tuple[str, str]:
    """Unpause the DAG and wait for its scheduled run; the run's id and state."""
    airflow.wait_for_dag(DAG, 120)
    airflow.unpause(DAG)
    run_id = scheduled_run(airflow)
    print(f"Running {DAG}, {run_id}:", flush=True)
    state = airflow.wait_for_run(DAG, run_id, 600)
    if state != "success":
        for task in airflow.task_instances(DAG, run_id):
            if task["state"] == "failed":
                print(airflow.task_log(DAG, run_id, task["task_id"], task["try_number"]))
    print(f"The run ended: {state}", flush=True)
    return run_id, state


def scheduled_run(airflow: AirflowStack) -> str:
    """The id of the scheduled run, which the scheduler creates within seconds."""
    runs = until(lambda: airflow.api("GET", f"dags/{DAG}/dagRuns")["dag_runs"], f"a run of {DAG}")
    return str(runs[0]["dag_run_id"])


def show(airflow: AirflowStack, run_id: str, emulator: Emulator) -> None:
    """Print the output of the last task, and the counters of the emulator."""
    lines = airflow.log_messages(DAG, run_id, "summarise")
    print()
    print("\n".join(line["event"] for line in lines if line.get("logger") == "task.stdout"))
    stats = emulator.get("stats")
    print(
        f"\nThe emulator saw {stats['submissions']} submissions and {stats['polls']} polls with "
        f"{sum(stats['issued'].values())} access token(s), and refused {stats['unauthorized']} calls (401).",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
