# SPDX-License-Identifier: Apache-2.0
"""A sensor of a job that somebody else has submitted: it hands over the body that it got, once and whole."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout, TaskDeferred

from lucidworks_provider.client import use_cases
from lucidworks_provider.client.chunking import submit_chunking
from lucidworks_provider.client.http.messages import Call, endpoint
from lucidworks_provider.client.jobs import poll_request
from lucidworks_provider.client.predictions import submit_prediction
from lucidworks_provider.errors import InputError, MalformedAnswerError, StorageError
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.jobs import decisions, record
from lucidworks_provider.sensors.jobs import LucidworksJobSensor
from lucidworks_provider.storage import write_file
from lucidworks_provider.triggers import LucidworksJobsTrigger

if TYPE_CHECKING:
    from pathlib import Path

    from lucidworks_provider.client.jobs import JobKind
    from lucidworks_provider.emulator.server import RunningEmulator

KINDS = ("chunking", "prediction")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")
    monkeypatch.setattr(decisions, "GONE_PATIENCE", 0.2)
    monkeypatch.setattr(decisions, "NEVER_SEEN", 0.1)


@pytest.fixture
def context() -> dict[str, Any]:
    return {"ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, max_tries=0)}


def submit(kind: str) -> str:
    hook = LucidworksHook()
    if kind == "chunking":
        return hook.call(submit_chunking("One. Two.", chunker="sentence", model_id="gte-small"))
    return hook.call(submit_prediction(use_cases.summarization("llama-3-8b-instruct"), ["One. Two."]))


def sensor(kind: str, job_id: str, **arguments: Any) -> LucidworksJobSensor:
    defaults: dict[str, Any] = {"task_id": "t", "poke_interval": 0.02, "timeout": 5, "deferrable": False}
    return LucidworksJobSensor(**defaults | {"job_id": job_id, "kind": kind} | arguments)


def wait(deferred: TaskDeferred) -> dict[str, Any]:
    _, kwargs = deferred.trigger.serialize()

    async def first() -> dict[str, Any]:
        async for event in LucidworksJobsTrigger(**json.loads(json.dumps(kwargs))).run():
            return dict(event.payload)
        raise AssertionError("no event")

    return asyncio.run(first())


@pytest.mark.parametrize("kind", KINDS)
def test_the_body_is_the_return_value(emulator: RunningEmulator, context: dict[str, Any], kind: str) -> None:
    job_id = submit(kind)
    body = sensor(kind, job_id).execute(context)
    assert (body["status"], body[f"{kind}Id"]) == ("READY", job_id)
    assert body["chunkedData" if kind == "chunking" else "predictions"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deferrable", [False, True])
def test_the_body_goes_to_a_file(
    emulator: RunningEmulator, context: dict[str, Any], tmp_path: Path, kind: str, deferrable: bool
) -> None:
    path = tmp_path / "body.json"
    job_id = submit(kind)
    looking = sensor(kind, job_id, result_path=str(path), deferrable=deferrable)
    if deferrable:
        with pytest.raises(TaskDeferred) as deferred:
            looking.execute(context)
        event = wait(deferred.value)
        looking = sensor(kind, job_id, result_path=str(path), deferrable=True)
        said = looking.execute_complete(context, event, **deferred.value.kwargs)
    else:
        said = looking.execute(context)
    assert said == {"uri": str(path), "job_id": job_id}
    assert [one.name for one in looking.get_openlineage_facets_on_complete(None).outputs] == [str(path)]
    assert json.loads(path.read_bytes())[f"{kind}Id"] == job_id


@pytest.mark.parametrize("kind", KINDS)
def test_a_retry_finds_what_an_earlier_try_stored(
    emulator: RunningEmulator, context: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    arguments = {"result_path": str(tmp_path / "body.json")}
    job_id = submit(kind)
    said = sensor(kind, job_id, **arguments).execute(context)
    # The service says RETRIEVED now; the file still says what it said.
    assert sensor(kind, job_id, **arguments).execute(context) == said
    # Nor is it asked again by one that defers.
    assert sensor(kind, job_id, **arguments, deferrable=True).execute(context) == said
    # Another job's file is not taken for this one's.
    other = submit(kind)
    assert sensor(kind, other, **arguments).execute(context)["job_id"] == other


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("ERROR", ["failed", "out of luck"]),
        ("RETRIEVED", ["returned before"]),
        ("GONE", ["returned before", "404"]),
    ],
)
def test_what_no_retry_can_cure_fails_for_good(
    emulator: RunningEmulator,
    context: dict[str, Any],
    tmp_path: Path,
    state: str,
    words: list[str],
    deferrable: bool,
) -> None:
    import requests

    job_id = submit("prediction")
    order = {"state": state, "message": "out of luck"}
    requests.post(f"{emulator.url}/_emulator/jobs/{job_id}", json=order, timeout=5).raise_for_status()
    path = str(tmp_path / "body.json")
    looking = sensor("prediction", job_id, result_path=path, deferrable=deferrable)
    with pytest.raises(AirflowFailException) as caught:  # noqa: PT012
        try:
            looking.execute(context)
        except TaskDeferred as deferred:
            looking.execute_complete(context, wait(deferred), **deferred.kwargs)
    for word in [*words, job_id]:
        assert word in str(caught.value)
    assert not (tmp_path / "body.json").exists()


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_job_that_never_ends_times_out(
    emulator: RunningEmulator, context: dict[str, Any], tmp_path: Path, deferrable: bool
) -> None:
    emulator.state.settings = emulator.state.settings.patched({"pending_seconds": 3600.0})
    job_id = submit("chunking")
    looking = sensor(
        "chunking", job_id, timeout=0.3, deferrable=deferrable, result_path=str(tmp_path / "b.json")
    )
    late = r"hunking job.* within timeout=0\.3 s.*Clear the task to resume the wait\."
    with pytest.raises(AirflowSensorTimeout, match=late) as caught:  # noqa: PT012
        try:
            looking.execute(context)
        except TaskDeferred as deferred:
            looking.execute_complete(context, wait(deferred), **deferred.kwargs)
    assert job_id in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "predictions"}, ["predictions", "chunking, prediction"]),
        ({"job_id": ""}, ["job_id"]),
        ({"deferrable": True}, ["result_path", "only once"]),
        ({"deferrable": True, "result_path": "relative.json"}, ["result_path", "absolute"]),
    ],
)
def test_bad_input_is_refused_before_anything_is_asked(
    emulator: RunningEmulator, context: dict[str, Any], arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        sensor(**{"kind": "chunking", "job_id": "a"} | arguments).execute(context)
    for word in words:
        assert word in str(caught.value)
    assert not list(emulator.state.log)


def test_a_result_that_is_handed_out_once_waits_for_its_storage(
    emulator: RunningEmulator, context: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "SAVE_WAIT", 0.01)
    failures = [StorageError("503")] * 10

    def fails(uri: str, data: bytes) -> None:
        if uri.endswith(".json") and failures:
            raise failures.pop()
        write_file(uri, data)

    monkeypatch.setattr(record, "write_file", fails)
    path = tmp_path / "body.json"
    sensor("chunking", submit("chunking"), result_path=str(path)).execute(context)
    assert failures == []
    assert json.loads(path.read_bytes())["status"] == "READY"


def test_a_place_that_cannot_be_written_is_found_out_before_the_result_is_read(
    emulator: RunningEmulator, context: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    job_id = submit("chunking")
    before = len(list(emulator.state.log))
    with pytest.raises(StorageError):
        sensor("chunking", job_id, result_path=str(tmp_path / "file" / "body.json")).execute(context)
    assert len(list(emulator.state.log)) == before


@pytest.mark.parametrize("with_path", [False, True])
def test_a_payload_with_an_unknown_status_is_returned_and_not_lost(
    emulator: RunningEmulator,
    context: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_path: bool,
) -> None:
    def odd(kind: JobKind, job_id: str) -> Call[bytes]:
        return endpoint(
            lambda settings: poll_request(settings.application_base, kind, job_id),
            lambda answer: answer.body.replace(b'"READY"', b'"ARCHIVED"').replace(
                b'"RETRIEVED"', b'"ARCHIVED"'
            ),
        )

    monkeypatch.setattr("lucidworks_provider.client.jobs.poll_job", odd)
    path = tmp_path / "body.json"
    arguments = {"result_path": str(path)} if with_path else {}
    returned = sensor("chunking", submit("chunking"), **arguments).execute(context)
    body = json.loads(path.read_bytes()) if with_path else returned
    assert (body["status"], bool(body["chunkedData"])) == ("ARCHIVED", True)


@pytest.mark.parametrize("with_path", [False, True])
def test_the_result_of_another_job_is_an_error(
    emulator: RunningEmulator,
    context: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_path: bool,
) -> None:
    other, job_id = submit("chunking"), submit("chunking")

    def mixed_up(kind: JobKind, job_id: str) -> Call[bytes]:
        return endpoint(
            lambda settings: poll_request(settings.application_base, kind, job_id),
            lambda answer: answer.body.replace(job_id.encode(), other.encode()),
        )

    monkeypatch.setattr("lucidworks_provider.client.jobs.poll_job", mixed_up)
    path = tmp_path / "body.json"
    arguments = {"result_path": str(path)} if with_path else {}
    with pytest.raises(MalformedAnswerError, match=f"about job {other}"):
        sensor("chunking", job_id, **arguments).execute(context)
    assert not path.exists()
    if with_path:
        (kept,) = tmp_path.rglob("*.unusable")
        assert json.loads(kept.read_bytes())["chunkedData"]


def test_a_service_that_is_down_does_not_fail_a_sensor(
    emulator: RunningEmulator, context: dict[str, Any]
) -> None:
    import requests

    job_id = submit("chunking")
    fault = {"match": "poll", "kind": "500", "times": 2}
    requests.post(f"{emulator.url}/_emulator/faults", json=fault, timeout=5).raise_for_status()
    assert sensor("chunking", job_id).execute(context)["status"] == "READY"
