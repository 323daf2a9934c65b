# SPDX-License-Identifier: Apache-2.0
"""A sensor of a job that another system has submitted: it returns the body that it read, once and whole."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSensorTimeout
from made_up_calls import then
from operator_service import Attempts, Death, Service, both_stores, die

from lucidworks_provider.client import use_cases
from lucidworks_provider.client.chunking import submit_chunking
from lucidworks_provider.client.jobs import poll_job
from lucidworks_provider.client.predictions import submit_prediction
from lucidworks_provider.errors import InputError, MalformedResponseError, ResultGoneError, StorageError
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.jobs import record
from lucidworks_provider.sensors.jobs import LucidworksJobSensor
from lucidworks_provider.storage import write_file

KINDS = ("chunking", "prediction")


def submit(kind: str) -> str:
    hook = LucidworksHook()
    if kind == "chunking":
        return hook.call(submit_chunking("One. Two.", chunker="sentence", model_id="gte-small"))
    return hook.call(submit_prediction(use_cases.summarization("llama-3-8b-instruct"), ["One. Two."]))


@pytest.fixture
def sensor(service: Service, context: dict[str, Any], tmp_path: Path) -> Attempts:
    """Of a job that is given; its body goes to a file unless `result_path` is None."""
    path = tmp_path / "body.json"

    def make(**changes: Any) -> LucidworksJobSensor:
        given: dict[str, Any] = {"task_id": "t", "poke_interval": 0.02, "timeout": 5, "deferrable": False}
        return LucidworksJobSensor(**given | {"kind": "chunking", "result_path": str(path)} | changes)

    return Attempts(make, path, context)


def read(sensor: Attempts, returned: Any, where: dict[str, Any]) -> Any:
    """The body, as it was returned or written."""
    return returned if where else json.loads(sensor.path.read_bytes())


@pytest.mark.parametrize("kind", KINDS)
def test_the_body_is_the_return_value(sensor: Attempts, kind: str) -> None:
    job_id = submit(kind)
    # A template may end in a line feed.
    body = sensor.run(kind=kind, job_id=f"{job_id}\n", result_path=None)
    assert (body["status"], body[f"{kind}Id"]) == ("READY", job_id)
    assert body["chunkedData" if kind == "chunking" else "predictions"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deferrable", [False, True])
def test_the_body_goes_to_a_file(sensor: Attempts, kind: str, deferrable: bool) -> None:
    job_id = submit(kind)
    made: list[LucidworksJobSensor] = []
    make = partial(sensor.make, kind=kind, job_id=f"{job_id}\n", deferrable=deferrable)
    sensor.make = lambda: made.append(make()) or made[-1]
    assert sensor.run() == {"uri": str(sensor.path), "job_id": job_id}
    facets = made[-1].get_openlineage_facets_on_complete(None)
    assert [one.name for one in facets.outputs] == [str(sensor.path)]
    assert read(sensor, None, {})[f"{kind}Id"] == job_id


@both_stores
@pytest.mark.parametrize("kind", KINDS)
def test_a_retry_finds_what_an_earlier_try_stored(sensor: Attempts, kind: str) -> None:
    given = {"kind": kind, "job_id": submit(kind)}
    said = sensor.run(**given)
    # The service says RETRIEVED now. A body may have no id.
    body = read(sensor, None, {})
    del body[f"{kind}Id"]
    sensor.path.write_text(json.dumps(body))
    assert sensor.run(**given) == said
    # Nor is it asked again by one that defers.
    assert sensor.make(**given, deferrable=True).execute(sensor.context) == said
    # Another job's file is not taken for this one's.
    other = submit(kind)
    assert sensor.run(kind=kind, job_id=other)["job_id"] == other


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", [*KINDS, None])
def test_the_file_of_another_run_is_not_returned(
    sensor: Attempts, kind: str, other: str | None, deferrable: bool
) -> None:
    given = {"kind": kind, "job_id": submit(kind), "deferrable": deferrable}
    sensor.run(**given)
    if other is None:
        sensor.path.unlink()
    else:
        own, sensor.context["ti"].run_id = sensor.context["ti"].run_id, "another"
        sensor.run(kind=other, job_id=submit(other))
        sensor.context["ti"].run_id = own
    with pytest.raises(ResultGoneError):
        sensor.run(**given)


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_try_that_was_killed_after_it_wrote_the_file_is_resumed(
    sensor: Attempts, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    """A body may have no id."""
    job_id = submit("chunking")
    rewrite(monkeypatch, lambda body: body.replace(b'"chunkingId"', b'"id"'))
    with monkeypatch.context() as patch:
        patch.setattr(record.JobStateStore, "close", die)
        with pytest.raises(Death):
            sensor.run(job_id=job_id, deferrable=deferrable)
    assert sensor.path.exists()
    assert sensor.run(job_id=job_id, deferrable=deferrable) == {"uri": str(sensor.path), "job_id": job_id}
    sensor.context["ti"].max_tries += 3
    assert sensor.run(job_id=job_id, deferrable=deferrable)["job_id"] == job_id, "cleared"


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
    service: Service, sensor: Attempts, state: str, words: list[str], deferrable: bool
) -> None:
    job_id = submit("prediction")
    service.job(0, state, "out of luck")
    with pytest.raises(AirflowFailException) as caught:
        sensor.run(kind="prediction", job_id=job_id, deferrable=deferrable)
    assert [word for word in [*words, job_id] if word not in str(caught.value)] == []
    assert not sensor.path.exists()


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_job_that_never_ends_times_out(service: Service, sensor: Attempts, deferrable: bool) -> None:
    service.settings(pending_seconds=3600.0)
    job_id = submit("chunking")
    late = rf"hunking job.*{job_id}.* within timeout=0\.3 s.*Clear the task to resume the wait\."
    with pytest.raises(AirflowSensorTimeout, match=late):
        sensor.run(job_id=job_id, timeout=0.3, deferrable=deferrable)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "predictions"}, ["predictions", "chunking, prediction"]),
        ({"job_id": ""}, ["job_id"]),
        ({"deferrable": True, "result_path": None}, ["result_path", "only once"]),
        ({"deferrable": True, "result_path": "relative.json"}, ["result_path", "absolute"]),
    ],
)
def test_bad_input_is_refused_before_anything_is_asked(
    service: Service, sensor: Attempts, arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        sensor.run(**{"job_id": "a"} | arguments)
    assert [word for word in words if word not in str(caught.value)] == []
    assert service.nothing_sent()


def test_a_result_that_is_readable_once_waits_for_its_storage(
    sensor: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "SAVE_WAIT", 0.01)
    failures = [StorageError("503")] * 10

    def fails(uri: str, data: bytes) -> None:
        if uri.endswith(".json") and failures:
            raise failures.pop()
        write_file(uri, data)

    monkeypatch.setattr(record, "write_file", fails)
    sensor.run(job_id=submit("chunking"))
    assert failures == []
    assert read(sensor, None, {})["status"] == "READY"


def test_a_place_that_cannot_be_written_is_found_out_before_the_result_is_read(
    service: Service, sensor: Attempts, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    job_id = submit("chunking")
    with pytest.raises(StorageError):
        sensor.run(job_id=job_id, result_path=str(tmp_path / "file" / "body.json"))
    assert service.calls("poll") == []


with_path = pytest.mark.parametrize("where", [{}, {"result_path": None}], ids=["file", "returned"])


def rewrite(patch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]) -> None:
    """Polls get another body."""
    patch.setattr("lucidworks_provider.client.jobs.poll_job", then(poll_job, change))


@with_path
def test_a_payload_with_an_unknown_status_is_returned_and_not_lost(
    sensor: Attempts, monkeypatch: pytest.MonkeyPatch, where: dict[str, Any]
) -> None:
    rewrite(monkeypatch, lambda body: re.sub(b'"(READY|RETRIEVED)"', b'"ODD"', body))
    body = read(sensor, sensor.run(job_id=submit("chunking"), **where), where)
    assert (body["status"], bool(body["chunkedData"])) == ("ODD", True)


@with_path
@pytest.mark.parametrize("status", ["RUNNING", "PARTIAL"])
@pytest.mark.parametrize("ends", ["READY", "RETRIEVED"])
def test_the_part_of_a_result_is_not_returned_while_the_job_runs(
    sensor: Attempts, monkeypatch: pytest.MonkeyPatch, where: dict[str, Any], status: str, ends: str
) -> None:
    one, two = {"response": "1"}, {"response": "2"}
    last = {"status": "READY", "predictions": [one, two]} if ends == "READY" else {"status": ends}
    bodies = [last, *[{"status": status, "predictions": [one]}] * 2]
    rewrite(monkeypatch, lambda _: json.dumps(bodies.pop() if bodies[1:] else last).encode())
    body = read(sensor, sensor.run(kind="prediction", job_id=submit("prediction"), **where), where)
    assert bodies == [last]
    # What was set aside is the only copy where the service does not return the rest.
    assert body["predictions"] == ([one, two] if ends == "READY" else [one])


def test_a_body_is_returned_as_it_can_be_stored(sensor: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = rb'{"status": "READY", "predictions": [{"response": "cut \ud83d", "score": NaN}]}'
    rewrite(monkeypatch, lambda _: sent)
    body = sensor.run(kind="prediction", job_id=submit("prediction"), result_path=None)
    assert body["predictions"] == [{"response": "cut \ufffd", "score": None}]


@with_path
def test_the_result_of_another_job_is_an_error(
    sensor: Attempts, monkeypatch: pytest.MonkeyPatch, where: dict[str, Any]
) -> None:
    other, job_id = submit("chunking"), submit("chunking")
    rewrite(monkeypatch, lambda body: body.replace(job_id.encode(), other.encode()))
    with pytest.raises(MalformedResponseError, match=f"about job {other}"):
        sensor.run(job_id=job_id, **where)
    assert not sensor.path.exists()
    if not where:
        (kept,) = sensor.path.parent.rglob("*.unusable")
        assert json.loads(kept.read_bytes())["chunkedData"]


@with_path
def test_one_response_about_another_job_is_not_the_result(
    service: Service, sensor: Attempts, monkeypatch: pytest.MonkeyPatch, where: dict[str, Any]
) -> None:
    service.settings(pending_polls=2)
    job_id = submit("chunking")
    others = [b'{"chunkingId": "another", "status": "READY", "chunkedData": [{"chunks": ["a"]}]}']
    rewrite(monkeypatch, lambda body: others.pop() if others else body)
    assert read(sensor, sensor.run(job_id=job_id, **where), where)["chunkingId"] == job_id


@pytest.mark.parametrize("how", [{}, {"result_path": None}, {"deferrable": True}])
def test_a_poll_waits_for_the_retry_after_of_the_service(
    service: Service, sensor: Attempts, how: dict[str, Any]
) -> None:
    job_id = submit("chunking")
    service.fault("poll", "429", retry_after=0.6)
    sensor.run(job_id=job_id, **how)
    first, second, *_ = service.calls("poll")
    assert second.time - first.time >= 0.6


def test_a_service_that_is_down_does_not_fail_a_sensor(service: Service, sensor: Attempts) -> None:
    job_id = submit("chunking")
    service.fault("poll", "500", times=2)
    assert sensor.run(job_id=job_id, result_path=None)["status"] == "READY"
