# SPDX-License-Identifier: Apache-2.0
"""
Long true stories: chunking in a real Airflow whose processes die at the worst moments.

The stories share one Airflow. Those in which something is killed come first; the last one searches
everything that the others left for secrets.
"""

import base64
import hashlib
import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import EXPIRING_TTL, Run, Stage
from cryptography.fernet import Fernet, InvalidToken

from dev.processes import until
from lucidworks_provider.client.auth.token import TokenCipher, TokenIdentity
from lucidworks_provider.client.settings import DEFAULT_AUTH_SERVER_ID
from lucidworks_provider.jobs.decisions import WINDOW

pytestmark = pytest.mark.live

TWO = {"a": "The first one. It has two sentences.", "b": "Another one."}
THREE = TWO | {"c": "And a third. In more than one sentence, too. So it goes."}
COLUMNS = ["document_id", "id", "chunk_index", "text", "start", "end", "vector", "input_tokens"]


def check_result(run: Run, manifest: dict[str, Any]) -> pa.Table:
    """The file is complete, the manifest has its size, and nothing else is left."""
    table = pq.read_table(run.path)
    assert manifest == {
        "uri": run.path,
        "documents": len(run.documents),
        "chunks": table.num_rows,
        "dimension": 384,
        "tokens": sum(table["input_tokens"].to_pylist()),
        "warnings": 0,
    }
    assert set(table["document_id"].to_pylist()) == set(run.documents)
    assert run.files == [Path(run.path).name]
    return table


@pytest.fixture(autouse=True)
def _no_fault_stays(stage: Stage) -> Iterator[None]:
    """A test that fails leaves no fault for the next one."""
    yield
    stage.emulator.delete("faults")


@pytest.fixture(scope="module")
def expiring(stage: Stage) -> str:
    """
    A run of six mapped tasks over several lifetimes of a token.

    It runs beside the stories from the first killed triggerer on, and must succeed regardless.
    """
    return stage.airflow.trigger("chunking_expiring")


# --- Waiting in the triggerer ---------------------------------------------------------------------------


def test_a_deferred_task_waits_in_the_triggerer_and_writes_parquet(stage: Stage) -> None:
    run = stage.run("chunking_deferred", THREE)

    assert run.ends() == "success"

    table = check_result(run, run.xcom())
    assert table.column_names == COLUMNS
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 384)
    for row in table.to_pylist():
        assert run.documents[row["document_id"]][row["start"] : row["end"]] == row["text"]
        assert sum(x * x for x in row["vector"]) == pytest.approx(1, abs=1e-3)
        assert row["input_tokens"] > 0
    indices = Counter(table["document_id"].to_pylist())
    for document, count in indices.items():
        mine = [row["chunk_index"] for row in table.to_pylist() if row["document_id"] == document]
        assert mine == list(range(count))

    log = run.log()
    marks = [log.find(text) for text in ("Read 3 documents", "Submitted 3 jobs", "DEFERRED", "Trigger fired")]
    assert marks == sorted(marks), log
    assert marks[0] >= 0, log
    # The triggerer keeps a file of its own for what it did for this try.
    (written,) = (stage.airflow.config.home / "logs").glob(
        f"dag_id=chunking_deferred/run_id={run.run_id}/task_id=chunk/attempt=1.log.trigger.*.log"
    )
    event = written.read_text()
    assert "Trigger fired event" in event
    assert len(event) < 4000, "ids and counts, no results"
    for job_id in run.jobs().values():
        assert run.polls(job_id)[job_id, "READY"] == 1
    assert stage.issued("story") == 1, "worker, triggerer and worker used one token"

    # The asset event has the counts.
    events = stage.airflow.asset_events(f"source_run_id={quote(run.run_id)}")
    (sent,) = [event["extra"] for event in events if event["name"] == "chunking_chunks"]
    assert {sent["documents"], sent["chunks"]} == {3, table.num_rows}


def test_a_task_of_more_jobs_than_a_window_defers_once_for_each(stage: Stage) -> None:
    run = stage.run("chunking_deferred", {f"d{n:04}": f"Number {n}." for n in range(WINDOW + 100)})

    assert run.ends(300) == "success"

    check_result(run, run.xcom())
    log = run.log()
    assert log.count("Pausing task as DEFERRED") == 2, log
    assert len(run.jobs()) == WINDOW + 100


def test_documents_of_mapped_tasks(stage: Stage) -> None:
    run = stage.run("chunking_mapped_rows", TWO)

    assert run.ends() == "success"

    assert set(pq.read_table(run.path)["document_id"].to_pylist()) == {"1", "2", "3"}


def test_execution_timeout_ends_a_deferred_task_and_a_retry_resumes_its_jobs(stage: Stage) -> None:
    with stage.held():
        started = time.monotonic()
        run = stage.run("chunking_limited", TWO)
        jobs = run.jobs()
        until(lambda: run.task("running", "deferred", "up_for_retry")["try_number"] == 2, "the second try")
        ended = time.monotonic() - started
        assert run.says("execution_timeout=20 s of the attempt's start") is None
        run.task("deferred")
        run.release()

        assert run.ends() == "success"

    print(f"the second try began {ended:.1f} s after the run was triggered")
    assert 18 <= ended < 40
    assert run.jobs() == jobs, "no further submission"
    check_result(run, run.xcom())


# --- Killing the worker ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dag_id", "moment"),
    [
        ("chunking_hesitating", "about to defer"),
        ("chunking_waiting", "Submitted 2 jobs"),
        ("chunking_lingering", "about to end"),
    ],
    ids=["between submission and deferral", "while it waits", "between result and success"],
)
def test_a_worker_killed_after_submitting_costs_no_second_submission(
    stage: Stage, dag_id: str, moment: str
) -> None:
    with stage.held():
        run = stage.run(dag_id, TWO)
        jobs = run.jobs()
        collected = dag_id == "chunking_lingering"
        if collected:
            run.release()
        run.says(moment)
        run.kill()
        killed = time.monotonic()
        until(
            lambda: run.task("running", "deferred", "success")["try_number"] == 2, f"second try of {dag_id}"
        )
        if not collected:
            run.release()

        assert run.ends() == "success"

    print(f"the second try ended {time.monotonic() - killed:.1f} s after the kill")
    assert run.jobs() == jobs, "one submission for each document"
    ready = {job: run.polls()[job, "READY"] for job in jobs.values()}
    assert set(ready.values()) == {1}, "each result was returned once"
    check_result(run, run.xcom())
    expected = "has written the result" if collected else "Resuming 2 jobs"
    assert expected in run.log(2)


def saved_ids(run: Run) -> int:
    """How many job ids the record beside the result has."""
    [record] = Path(run.path).parent.glob("_*/record.json")
    return len(json.loads(record.read_text())["jobs"])


def test_a_worker_killed_twice_amid_twenty_submissions_doubles_those_in_flight_alone(stage: Stage) -> None:
    """
    First between the arrival of eight POSTs and the record of their ids: these documents are submitted again, by the
    policy ``resubmit``. Then during two POSTs that never arrive: no document is submitted twice for that.
    """
    for fault in (
        # One alone, then the first eight.
        {"kind": "slow", "times": 9},
        {"kind": "slow", "times": 8, "delay": 4},
        {"kind": "slow", "times": 9},
        {"kind": "disconnect", "times": 2, "delay": 8},
    ):
        stage.emulator.post("faults", match="submit", **fault)

    def jobs() -> int:
        return len(stage.emulator.get("jobs"))

    def open_faults() -> int:
        return len(stage.emulator.get("faults"))

    before = jobs()
    run = stage.run("chunking_waiting", {f"{n:02}": f"Document number {n}." for n in range(20)})
    until(lambda: jobs() == before + 17, "the seventeenth job")
    run.kill()
    until(lambda: open_faults() == 0, "the second kill's moment")
    until(lambda: saved_ids(run) == 18, "the ids of the second attempt")
    assert run.task("running")["try_number"] == 2
    run.kill()

    assert run.ends() == "success"

    assert jobs() == before + 28
    # The emulator notes the request of the killed process when its delay is over.
    until(lambda: sum(map(len, run.submissions().values())) == 28, "the last line of the emulator's log")
    made = run.submissions()
    twice = [f"{n:02}" for n in range(9, 17)]
    assert {document: len(ids) for document, ids in made.items() if len(ids) != 1} == dict.fromkeys(twice, 2)
    for attempt, lost in ((2, twice), (3, [f"{n:02}" for n in (18, 19)])):
        names = ", ".join(f"Document '{name}'" for name in lost)
        assert f"{names}: An earlier attempt ended during a submission." in run.log(attempt)
    check_result(run, run.xcom())
    for name in twice:
        assert [bool(run.polls(job)) for job in made[name]].count(True) == 1, "orphans are not polled"


# --- Killing the triggerer ------------------------------------------------------------------------------


@pytest.mark.usefixtures("expiring")
def test_a_triggerer_killed_between_a_result_and_its_event_loses_nothing(stage: Stage) -> None:
    with stage.held():
        run = stage.run("chunking_deferred", THREE)
        jobs = run.jobs()
        run.task("deferred")
        look_for_secrets(stage)
        run.release(jobs["b"])
        body = f"{hashlib.sha256(jobs['b'].encode()).hexdigest()[:24]}.json"
        until(lambda: any(name.endswith(body) for name in run.files), "the body of 'b' on storage")
        stage.airflow.kill_part("triggerer")
        asked = run.polls(jobs["b"])
        assert asked[jobs["b"], "READY"] == 1

        stage.airflow.start_part("triggerer")
        killed = time.monotonic()
        run.release(jobs["a"], jobs["c"])

        assert run.ends() == "success"

    print(f"the task ended {time.monotonic() - killed:.1f} s after the start of the new triggerer")
    assert run.jobs() == jobs, "no further submission"
    assert run.polls(jobs["b"]) == asked, (
        "the new triggerer found its result on storage and did not ask again"
    )
    assert {run.polls()[job, "READY"] for job in jobs.values()} == {1}
    check_result(run, run.xcom())


def test_a_triggerer_that_sees_another_disk_gives_the_jobs_back_unread(stage: Stage, tmp_path: Path) -> None:
    airflow = stage.airflow
    path = "/proc/self/cwd/out/unshared.parquet"
    airflow.kill_part("triggerer")
    airflow.start_part("triggerer", cwd=tmp_path)
    try:
        run = stage.run("chunking_deferred", TWO, path=path)
        assert run.ends() == "failed"
    finally:
        airflow.kill_part("triggerer")
        airflow.start_part("triggerer", wait=False)

    jobs = run.jobs()
    assert run.polls() == Counter()
    log = run.log()
    assert "StorageNotSharedError" in log
    assert f"result_path '{path}': the triggerer on " in log
    assert "does not see what the worker wrote there, so no result was read and no job is lost" in log
    assert list(tmp_path.iterdir()) == [], "the triggerer wrote nothing on its own disk"

    run.clear()

    assert run.ends() == "success"
    assert run.jobs() == jobs, "no further submission"
    seen_by_worker = airflow.config.home / "out"
    assert [each.name for each in seen_by_worker.iterdir()] == ["unshared.parquet"]
    assert pq.read_table(seen_by_worker / "unshared.parquet").num_rows == run.xcom()["chunks"]


# --- One token for a herd ------------------------------------------------------------------------------


def test_twenty_mapped_tasks_on_a_cold_fleet_request_one_token(stage: Stage) -> None:
    airflow = stage.airflow
    began = time.monotonic()
    run_id = airflow.trigger("chunking_mapped")

    assert airflow.wait_for_run("chunking_mapped", run_id, 180, on_progress=lambda _: None) == "success"

    print(f"20 mapped tasks took {time.monotonic() - began:.1f} s")
    assert stage.issued("herd") == 1
    lines = [line for line in stage.emulator.get("log") if line["client_id"] == "herd"]
    assert len([line for line in lines if line["endpoint"] == "submit"]) == 40
    assert {line["status"] for line in lines} == {200}, "no call was refused"
    for index in range(20):
        manifest = airflow.xcom("chunking_mapped", run_id, "chunk", map_index=index)
        assert manifest["uri"] == f"{stage.out}/mapped/{index}.parquet"
        assert pq.read_table(manifest["uri"])["document_id"].unique().to_pylist() == [
            f"{index}-0",
            f"{index}-1",
        ]
    assert len(list((stage.out / "mapped").iterdir())) == 20


# --- What submits again, and what does not --------------------------------------------------------------


def test_clearing_a_success_submits_again_and_a_downstream_retry_does_not(stage: Stage) -> None:
    run = stage.run("chunking_downstream", TWO)
    assert run.ends() == "success"
    log = stage.airflow.task_log(run.dag_id, run.run_id, "use", 1)
    assert "the downstream task fails" in log
    first = run.jobs()
    assert run.xcom("use") == run.xcom()["chunks"]

    run.clear(downstream=True)

    assert run.ends() == "success"
    assert "Cleared after a success: submitting again." in run.log(2)
    second = run.submissions()
    assert {document: ids[0] for document, ids in second.items()} == first
    assert {len(ids) for ids in second.values()} == {2}
    check_result(run, run.xcom())


def test_a_job_in_error_is_reported_and_only_its_document_is_submitted_again(stage: Stage) -> None:
    stage.emulator.post("faults", match="submit", kind="error-job")
    run = stage.run("chunking_deferred_twice", THREE)

    # Not retried, though the task has a retry left.
    assert run.ends() == "failed"
    assert run.task("failed")["try_number"] == 1
    run.clear()
    assert run.ends() == "success"

    made = run.submissions()
    assert sorted(map(len, made.values())) == [1, 1, 2]
    (name,) = (document for document, ids in made.items() if len(ids) == 2)
    log = run.log(1)
    assert "JobFailedError" in log
    assert (
        f"1 of 3 documents failed: Document {name!r} (job {made[name][0]}): The job was made to fail." in log
    )
    ready = {job: run.polls()[job, "READY"] for ids in made.values() for job in ids}
    assert ready == {job: int(job != made[name][0]) for job in ready}
    check_result(run, run.xcom())


# --- The plain way, and bad input -----------------------------------------------------------------------


def test_a_text_without_a_triggerer_to_json_lines(stage: Stage) -> None:
    text = "Ein Text. Mit Umlauten: äöü, und einem 🦊. Das war's."
    path = f"{stage.out}/text/chunks.jsonl"
    run = stage.run("chunking_text", {}, path=path, text=text)

    assert run.ends() == "success"

    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    manifest = run.xcom()
    assert (manifest["documents"], manifest["chunks"], manifest["uri"]) == (1, len(rows), path)
    for index, row in enumerate(rows):
        assert list(row) == COLUMNS
        assert (row["document_id"], row["chunk_index"], len(row["vector"])) == ("text", index, 384)
        assert text[row["start"] : row["end"]] == row["text"]
    assert run.files == ["chunks.jsonl"]
    assert not list(stage.airflow.config.home.glob("logs/dag_id=chunking_text/**/*.trigger.*.log"))


def test_a_wrong_secret_or_place_is_found_out_before_anything_is_submitted(stage: Stage) -> None:
    stage.out.mkdir(exist_ok=True)
    (stage.out / "a-file").write_text("not a folder")
    submissions, issued = len(stage.emulator.submissions()), stage.issued()
    wrong = stage.run("chunking_wrong_secret", TWO)
    unwritable = stage.run("chunking_deferred", TWO, path=f"{stage.out}/a-file/chunks.parquet")

    assert (wrong.ends(), unwritable.ends()) == ("failed", "failed")

    log = wrong.log()
    assert "AuthenticationError" in log
    assert "Connection 'lucidworks_wrong'" in log
    assert "The client id or the client secret is wrong." in log
    assert "Check Client ID and Client Secret." in log
    log = unwritable.log()
    assert "StorageError" in log
    assert f"{stage.out}/a-file" in log
    assert len(stage.emulator.submissions()) == submissions

    # The fleet's token, which the wrong secret could not read, is still there.
    after = stage.run("chunking_waiting", TWO)
    assert after.ends() == "success"
    assert stage.issued() == issued


def test_airflow_retries_what_the_policy_says(stage: Stage) -> None:
    stage.out.mkdir(exist_ok=True)
    (stage.out / "another-file").write_text("not a folder")
    refused = stage.run("chunking_policed", TWO, path=f"{stage.out}/chunks.docx")
    unwritable = stage.run("chunking_policed", TWO, path=f"{stage.out}/another-file/chunks.parquet")

    assert (refused.ends(), unwritable.ends()) == ("failed", "failed")

    assert refused.task("failed")["try_number"] == 1
    assert "InputError: a retry would fail in the same way" in refused.log()
    assert unwritable.task("failed")["try_number"] == 2
    assert "StorageError: may succeed later" in unwritable.log()


# --- The end --------------------------------------------------------------------------------------------


def test_tokens_expire_under_running_tasks_without_a_failure(stage: Stage, expiring: str) -> None:
    assert stage.airflow.wait_for_run("chunking_expiring", expiring, 180) == "success"

    tasks = stage.airflow.task_instances("chunking_expiring", expiring)
    assert Counter((task["state"], task["try_number"]) for task in tasks) == {("success", 1): 6}
    log = [line for line in stage.expiring.get("log") if line["client_id"] == "expiring"]
    seconds = log[-1]["time"] - log[0]["time"]
    issued = sum(line["endpoint"] == "token" for line in log)
    lifetimes = seconds / EXPIRING_TTL
    refused = sum(line["status"] == 401 for line in log)
    print(
        f"{seconds:.0f} s, {lifetimes:.1f} lifetimes: {issued} issued, {refused} of {len(log) - issued} calls 401"
    )
    assert lifetimes > 2
    assert issued <= 1.3 * lifetimes + 2
    assert sum(line["endpoint"] == "submit" and line["status"] == 200 for line in log) == 12
    ready = Counter(line["job_id"] for line in log if line["job_status"] == "READY")
    assert (len(ready), set(ready.values())) == (12, {1})


def test_one_token_served_all_stories(stage: Stage) -> None:
    """Workers and triggerers were killed, a wrong secret was tried: no process requested a second one."""
    stats = stage.emulator.get("stats")
    print(stats)
    assert stage.issued("story") == 1
    assert [
        line for line in stage.emulator.get("log") if line["status"] == 401 and line["endpoint"] != "token"
    ] == []


def test_no_secret_and_no_token_is_in_any_file(stage: Stage) -> None:
    """In no log, no column of the database and no result of all these stories."""
    assert look_for_secrets(stage) >= {"story", "herd", "expiring"}


def test_links_without_an_address_leave_no_error(stage: Stage) -> None:
    found = [
        f"{file.name}: {line}"
        for file in stage.airflow.logs.glob("*.log")
        for line in file.read_text(errors="replace").splitlines()
        if "XCom not found" in line and "lucidworks" in line
    ]
    assert found == []


# Every JSON Web Token begins like this: those of the emulator, dead ones too, and those of Airflow itself.
# Airflow 3.3 writes `eyJ******` for one that reaches a log, which would be as bad on a version that does not.
# The dot after the first part distinguishes it from ciphertext, which has no dots, but now and then an `eyJ`.
TOKEN = re.compile(rb"eyJ([\w-]+\.|\*)")


def look_for_secrets(stage: Stage) -> set[str]:
    """
    Search everything but the memory of processes, and what Airflow's own key decrypts.

    :return: the clients whose tokens are known, having been found where they belong.
    """
    config = stage.airflow.config
    key = Fernet(config.fernet_key.encode())
    tokens = live_tokens(stage, key)
    assert all(TOKEN.match(token.encode()) for token in tokens.values())
    basic = [base64.b64encode(f"{login}:{secret}".encode()).decode() for login, secret in stage.secrets]
    parts = [part for token in tokens.values() for part in token.split(".")]
    words = [word.encode() for word in [*(secret for _, secret in stage.secrets), *basic, *parts]]

    def check(content: bytes, where: object) -> None:
        found = [word for word in words if word in content]
        assert not found, f"{len(found)} secret words in {where}"
        assert not TOKEN.search(content), where

    places = 0
    for folder in (config.home, stage.out):
        for file in folder.rglob("*"):
            if file.is_file() and not file.name.startswith(config.database.name):
                check(file.read_bytes(), file)
                places += 1
    filled = set()
    with closing(sqlite3.connect(config.database)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in names:
            for row in database.execute(f'SELECT * FROM "{table}"'):  # noqa: S608
                filled.add(table)
                places += 1
                for value in row:
                    content = value if isinstance(value, bytes) else str(value).encode()
                    check(content, table)
                    with suppress(InvalidToken):
                        check(key.decrypt(content.strip(b'"')), table)
    print(f"{places} files and rows hold none of {len(words)} words")
    assert filled >= {"xcom", "task_instance", "rendered_task_instance_fields", "variable"}
    return set(tokens)


def live_tokens(stage: Stage, key: Fernet) -> dict[str, str]:
    """The tokens that the fleet shares, which take Airflow's key and the client secret to be read."""
    with closing(sqlite3.connect(stage.airflow.config.database)) as database:
        rows = database.execute("SELECT key, val FROM variable WHERE is_encrypted").fetchall()
        assert database.execute("SELECT count(*) FROM variable WHERE NOT is_encrypted").fetchone() == (0,)
    opened = {name: key.decrypt(value.encode()).decode() for name, value in rows}
    found = {}
    for client, secret in stage.secrets:
        for emulator in (stage.emulator, stage.expiring):
            identity = TokenIdentity(emulator.url, DEFAULT_AUTH_SERVER_ID, client, "machinelearning.predict")
            if sealed := opened.get(f"lucidworks_live_{identity.digest}"):
                token = TokenCipher(identity, secret).open(sealed, "the token")
                if token is not None:
                    found[client] = token.value
    return found
