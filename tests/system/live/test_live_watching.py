# SPDX-License-Identifier: Apache-2.0
"""Asset events of models through the triggerer of a real Airflow, and its metrics, as StatsD gets them."""

import shutil
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dev.airflow_stack import AirflowStack
from dev.demo import Emulator
from dev.processes import until

pytestmark = pytest.mark.live

DAGS = Path(__file__).with_name("watching_dags.py")
MODEL = "text-encoder"


class StatsdServer:
    """Receives UDP; keeps all values of a name, as strings."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.heard: dict[str, list[str]] = defaultdict(list)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                datagram = self.socket.recv(65_536)
            except OSError:
                return
            for line in datagram.decode().splitlines():
                name, _, value = line.partition(":")
                self.heard[name].append(value)

    def total(self, name: str) -> int:
        """The sum of a counter."""
        return sum(int(value.partition("|")[0]) for value in self.heard[f"airflow.lucidworks.{name}"])

    def milliseconds(self, name: str) -> list[float]:
        """The values of a timer."""
        heard = [value.partition("|") for value in self.heard[f"airflow.lucidworks.{name}"]]
        assert {unit for _, _, unit in heard} <= {"ms"}
        return [float(value) for value, _, _ in heard]

    def close(self) -> None:
        self.socket.close()


@dataclass
class Watch:
    airflow: AirflowStack
    emulator: Emulator
    statsd: StatsdServer

    def model_is(self, state: str) -> None:
        """Let the watched model be in a state."""
        assert self.emulator.post(f"models/{MODEL}", state=state)["state"] == state

    def looks(self) -> int:
        """The number of requests for the model."""
        return sum(line["endpoint"] == "get-model" for line in self.emulator.get("log"))

    def few_looks(self) -> None:
        """Wait until the watcher has looked some times more."""
        seen = self.looks()
        until(lambda: self.looks() >= seen + 4, "four polls of the model")

    def runs(self) -> list[dict[str, Any]]:
        """The runs of the DAG that the model schedules."""
        found = self.airflow.api("GET", "dags/watching_model/dagRuns?order_by=id")["dag_runs"]
        return list(found)


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    root = tmp_path_factory.mktemp("watching")
    (root / "dags").mkdir()
    shutil.copy(DAGS, root / "dags")
    with ExitStack() as stack:
        emulator = stack.enter_context(Emulator(root / "emulator.log", "--pending-seconds", "0.3"))
        assert emulator.post(f"models/{MODEL}", state="TRAINING")["state"] == "TRAINING"
        statsd = stack.enter_context(closing(StatsdServer()))
        environment = {
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(statsd.port),
            "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": emulator.connection(customer_id="demo-customer"),
            "WATCHED_MODEL": MODEL,
            "WATCHED_OUT": str(root / "out"),
        }
        airflow = stack.enter_context(AirflowStack(root / "home", root / "dags", env=environment))
        airflow.wait_for_dag("watching_model")
        yield Watch(airflow, emulator, statsd)


def test_a_model_schedules_a_dag_once_each_time_that_it_becomes_available(watch: Watch) -> None:
    watch.few_looks()
    assert watch.runs() == []

    watch.model_is("AVAILABLE")
    (run,) = until(watch.runs, "a run")
    assert watch.airflow.wait_for_run("watching_model", run["dag_run_id"], 60) == "success"
    told = watch.airflow.xcom("watching_model", run["dag_run_id"], "see")
    assert told == [{"kind": "model", "model_id": MODEL, "state": "AVAILABLE", "before": "TRAINING"}]
    # It stays available, and no other run comes.
    watch.few_looks()
    assert len(watch.runs()) == 1

    # Nor with another triggerer, which finds it available from the start.
    watch.airflow.kill_part("triggerer")
    watch.airflow.start_part("triggerer")
    watch.few_looks()
    assert len(watch.runs()) == 1

    # The service fails for a while: nothing was reached anew.
    watch.emulator.post("faults", match="get-model", kind="500", times=2)
    watch.few_looks()
    assert len(watch.runs()) == 1

    watch.model_is("TRAINING")
    watch.few_looks()
    watch.model_is("AVAILABLE")
    until(lambda: len(watch.runs()) == 2, "a second run")


def test_the_metrics_of_a_deferred_task(watch: Watch) -> None:
    statsd = watch.statsd
    before = statsd.total("chunks")
    run_id = watch.airflow.trigger("watching_metrics")
    assert watch.airflow.wait_for_run("watching_metrics", run_id, 120) == "success"
    time.sleep(0.5)
    assert statsd.total("requests.submit_chunking.200") == 2
    asked = [line for line in watch.emulator.get("log") if line["endpoint"] == "poll"]
    assert statsd.total("requests.poll_chunking.200") == len(asked) >= 2
    assert statsd.total("requests") >= 2 + len(asked)
    issued = [line for line in watch.emulator.get("log") if line["endpoint"] == "token"]
    assert statsd.total("token_refreshes") == statsd.total("requests.token.200") == len(issued)
    assert statsd.total("documents") == 2
    assert statsd.total("chunks") - before == 3
    assert statsd.total("jobs_ended") == 2
    in_flight = statsd.heard["airflow.lucidworks.jobs_in_flight"]
    assert "2|g" in in_flight
    assert in_flight[-1] == "0|g"
    for name in ("job_duration", "request_duration"):
        times = statsd.milliseconds(name)
        # Not seconds: the emulator's jobs take 0.3 of them.
        assert times
        assert 1 < max(times) < 60_000
    ours = [name for name in statsd.heard if name.startswith("airflow.lucidworks.")]
    assert not [name for name in ours if MODEL in name or "default" in name], "names hold words of lists only"
