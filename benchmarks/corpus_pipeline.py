# SPDX-License-Identifier: Apache-2.0
"""
A catalogue through mapped ``HttpOperator`` and ``HttpSensor`` tasks in a real Airflow, beside the emulator.

Two tasks for each document: most of the time and the CPU goes to Airflow's own work for a task. It is there for the
order of magnitude; an Airflow with more slots on more machines does more.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil

from benchmarks.corpus_baseline import DOCUMENT_BYTES, JOB_SECONDS
from benchmarks.corpus_documents import write_documents
from dev.airflow_stack import AirflowStack, install_signal_handlers
from dev.demo import Emulator

DAG = "corpus_pipeline"


def cpu_of(airflow: AirflowStack) -> float:
    """Seconds of CPU of all parts and of the tasks that have ended."""
    total = 0.0
    for process in airflow.processes():
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def main() -> int:
    """Run it once and print the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", nargs="?", type=int, default=200)
    parser.add_argument("--parallelism", type=int, default=8)
    options = parser.parse_args()
    documents = options.documents
    service = ("--pending-polls", "0", "--pending-seconds", str(JOB_SECONDS))
    with install_signal_handlers(), tempfile.TemporaryDirectory(prefix="pipeline-") as temporary:
        root = Path(temporary)
        write_documents(root / "source", documents, DOCUMENT_BYTES)
        (root / "dags").mkdir()
        shutil.copy(Path(__file__).with_name("corpus_pipeline_dags.py"), root / "dags")
        with Emulator(root / "emulator.log", *service) as emulator:
            environment = {
                "AIRFLOW_CONN_HTTP_DEFAULT": json.dumps({"conn_type": "http", "host": emulator.url}),
                # Of its own: a login would be sent instead of the token.
                "AIRFLOW_CONN_CATALOGUE_TOKEN": json.dumps(
                    {
                        "conn_type": "http",
                        "host": emulator.url,
                        "login": "demo-client",
                        "password": "demo-secret",
                    }
                ),
                "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            }
            server = psutil.Process(emulator.process.pid)
            airflow = AirflowStack(
                root / "home", root / "dags", env=environment, parallelism=options.parallelism
            )
            # Nothing here defers.
            del airflow.commands["triggerer"]
            with airflow:
                airflow.wait_for_dag(DAG, 120)
                client, service_cpu = cpu_of(airflow), sum(server.cpu_times()[:2])
                conf = {"source": str(root / "source"), "output": str(root / "chunks.parquet")}
                run_id = airflow.trigger(DAG, conf)
                state = airflow.wait_for_run(DAG, run_id, 3600, on_progress=lambda _: None)
                client, service_cpu = cpu_of(airflow) - client, sum(server.cpu_times()[:2]) - service_cpu
                run = airflow.api("GET", f"dags/{DAG}/dagRuns/{run_id}")
                if state != "success":
                    tasks = airflow.task_instances(DAG, run_id)
                    failed = next(one for one in tasks if one["state"] == "failed")
                    where = failed["task_id"], failed["try_number"], failed["map_index"]
                    raise RuntimeError(airflow.task_log(DAG, run_id, *where)[-3000:])
                chunks = airflow.xcom(DAG, run_id, "write")
    begin, end = (datetime.fromisoformat(run[name]) for name in ("start_date", "end_date"))
    seconds = (end - begin).total_seconds()
    print(f"{documents} documents, {chunks} chunks in {seconds:.0f} s\n")
    print("| what | documents a second | Airflow's CPU a document, ms | emulator CPU a document, ms |")
    print("| --- | --- | --- | --- |")
    print(
        f"| mapped HttpOperator and HttpSensor, {options.parallelism} slots, {documents} documents "
        f"| {documents / seconds:.2f} | {client / documents * 1000:.0f} | {service_cpu / documents * 1000:.1f} |"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
