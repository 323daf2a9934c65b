# SPDX-License-Identifier: Apache-2.0
"""The harness of the fleet: workers with disks of their own, servers that fail, and nothing stays behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import requests

from dev.airflow_fleet import AirflowFleet, install_services
from dev.faulty_proxy import FaultyProxy
from dev.processes import REPOSITORY, until
from dev.reaper import find_marked
from dev.services import PostgresServer, RedisServer

pytest.importorskip("airflow.providers.celery", reason="needs the dependency group fleet")
pytest.importorskip("psycopg2", reason="needs the dependency group fleet")

pytestmark = pytest.mark.fleet

DAGS = '''
"""DAGs of the fleet's own test."""
import os, time
from datetime import timedelta

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, Variable, task


class Wait(BaseOperator):
    def __init__(self, number, **kwargs):
        super().__init__(**kwargs)
        self.number = number

    def execute(self, context):
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=3)), method_name="resume")

    def resume(self, context, event=None):
        self.log.info("resumed")


with DAG("spread"):

    @task
    def where(number):
        print("I am", number)
        time.sleep(4)
        return [os.environ[name] for name in ("AIRFLOW_HOME", "HOME", "TMPDIR")]

    where.expand(number=list(range(8)))
    Wait.partial(task_id="wait").expand(number=list(range(8)))

with DAG("crashing"):

    @task(retries=2, retry_delay=timedelta(seconds=1))
    def hang(number, ti=None):
        if ti.try_number == 1:
            time.sleep(300)
        return ti.try_number

    hang.expand(number=list(range(4)))

with DAG("writing"):

    @task
    def write():
        Variable.set("word", "hello")
        return Variable.get("word")

    write()
'''


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowFleet]:
    """Two workers for the tests of this module."""
    install_services()
    root = tmp_path_factory.mktemp("fleet")
    (root / "dags").mkdir()
    (root / "dags" / "dags.py").write_text(DAGS)
    environment = {"AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False"}
    with AirflowFleet(
        root / "home", root / "dags", workers=2, concurrency=4, proxied=True, env=environment
    ) as running:
        running.wait_for_dag("writing", 90)
        yield running


def test_each_worker_has_a_disk_of_its_own(fleet: AirflowFleet) -> None:
    run_id = fleet.trigger("spread")

    assert fleet.wait_for_run("spread", run_id, 180, on_progress=lambda _: None) == "success"

    tasks = [each for each in fleet.task_instances("spread", run_id) if each["task_id"] == "where"]
    assert {fleet.worker_of(each) for each in tasks} == set(fleet.workers)
    for each in tasks:
        home = fleet.home_of(fleet.worker_of(each) or "")
        seen = fleet.xcom("spread", run_id, "where", map_index=each["map_index"])
        assert [Path(path) for path in seen] == [home, home, home / "tmp"]
    assert "I am 3" in fleet.task_log("spread", run_id, "where", 1, 3)
    log = fleet.task_log("spread", run_id, "wait", 1, 3)
    assert 0 <= log.find("Trigger fired event") < log.find("resumed"), log


def test_a_killed_worker_comes_back_and_its_tasks_are_tried_again(fleet: AirflowFleet) -> None:
    run_id = fleet.trigger("crashing")
    until(lambda: len(fleet.running_tasks()) >= 8, "four tasks, each with its supervisor")
    lost = fleet.tasks_on("worker-1")
    assert lost

    fleet.kill_part("worker-1")

    assert fleet.group.processes("worker-1") == []
    until(
        lambda: not any(process.is_running() and process.status() != "zombie" for process in lost),
        "the end of the killed processes",
    )
    fleet.start_part("worker-1")
    for process in fleet.tasks_on("worker-2"):
        process.kill()
    assert fleet.wait_for_run("crashing", run_id, 180, on_progress=lambda _: None) == "success"


def test_workers_meet_an_api_that_fails(fleet: AirflowFleet) -> None:
    assert fleet.proxy is not None
    with fleet.proxy.failing("/execution/variables"):
        run_id = fleet.trigger("writing")
        until(lambda: fleet.proxy.refused, "a refused request")
    assert set(fleet.proxy.refused) == {("PUT", "/execution/variables/word")}
    assert fleet.wait_for_run("writing", run_id, 90) == "success"  # the SDK tries a 503 again
    assert fleet.xcom("writing", run_id, "write") == "hello"


def test_a_hanging_broker_delays_tasks(fleet: AirflowFleet) -> None:
    fleet.redis.pause()
    run_id = fleet.trigger("writing")
    time.sleep(4)
    fleet.redis.resume()
    assert fleet.wait_for_run("writing", run_id, 90) == "success"


def test_stop_leaves_no_process_and_no_port(fleet: AirflowFleet) -> None:
    fleet.stop()
    fleet.stop()

    assert fleet.processes() == []
    assert fleet.proxy is not None
    for port in (fleet.config.port, fleet.postgres.port, fleet.redis.port, fleet.proxy.port):
        assert not _listens(port)


def test_redis_keeps_its_data_through_a_kill(tmp_path: Path) -> None:
    install_services()
    with RedisServer(tmp_path, password='a "strange\\ one#') as redis:
        assert _redis(redis, "SET word hello") == "+OK"
        assert _redis(redis, "GET word", login=False).startswith("-NOAUTH")
        redis.pause()
        with pytest.raises(TimeoutError):
            _redis(redis, "GET word")
        redis.resume()
        redis.kill()
        assert not _listens(redis.port)
        redis.start()
        assert _redis(redis, "GET word").splitlines()[-1] == "hello"
        redis.restart()
        assert _redis(redis, "GET word").splitlines()[-1] == "hello"
    assert not _listens(redis.port)


SCRIPT = """
import sys, time
from pathlib import Path
from dev.services import PostgresServer, RedisServer

folder = Path(sys.argv[1])
with PostgresServer(folder) as postgres, RedisServer(folder) as redis:
    postgres.pause()
    print(postgres._group.id, redis._group.id, postgres._base, flush=True)
    time.sleep(99)
"""


def test_servers_do_not_outlive_a_killed_program(tmp_path: Path) -> None:
    """Not even PostgreSQL's stopped children, which lose the mark of their group."""
    install_services()
    command = [sys.executable, "-c", dedent(SCRIPT), str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None
        *groups, folder = script.stdout.readline().split()
        data = Path(folder)
        assert data.is_dir()
        processes = [process for group in groups for process in find_marked(group)]
        assert len(processes) > 4
        os.kill(script.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (
        any(process.is_running() and process.status() != "zombie" for process in processes)
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    # Where no init reaps orphans (containers) they stay in the table as zombies.
    assert not [each for each in processes if each.is_running() and each.status() != "zombie"]
    while data.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not data.exists()


def test_postgres_removes_its_data(tmp_path: Path) -> None:
    install_services()
    with PostgresServer(tmp_path) as postgres:
        (data,) = (Path(each) for each in _arguments(postgres) if each.endswith("/data"))
        assert data.parent.exists()
        postgres.restart()
    assert not data.parent.exists()
    assert not _listens(postgres.port)


def test_the_proxy_fails_by_prefix_and_passes_the_rest(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("hello")
    served = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with served, FaultyProxy("http://127.0.0.1:" + served.stdout.readline().split()[5]) as proxy:
        try:
            with proxy.failing("/wo"):
                assert requests.get(f"{proxy.url}/word", timeout=9).status_code == 503
                assert requests.get(f"{proxy.url}/other", timeout=9).status_code == 404
            assert requests.get(f"{proxy.url}/word", timeout=9).text == "hello"
        finally:
            served.kill()


def _arguments(server: PostgresServer) -> list[str]:
    return next(process.cmdline() for process in server.processes() if process.pid == server.pid)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _redis(server: RedisServer, command: str, *, login: bool = True) -> str:
    """The answer to a command, without a client library."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=2) as client:
        if login and server.password:
            password = server.password.encode()
            client.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n" % (len(password), password))
            assert client.recv(100) == b"+OK\r\n"
        client.sendall(command.encode() + b"\r\n")
        return client.recv(1000).decode().strip()
