# SPDX-License-Identifier: Apache-2.0
"""Triggers: when a watcher of a model fires, and how often a burst of triggers reads the connection."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lucidworks_provider.client.models import Progress
from lucidworks_provider.errors import AuthenticationError, ConfigurationError, InputError, ServiceError
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.jobs import polling
from lucidworks_provider.jobs.decisions import ResourceState
from lucidworks_provider.triggers import (
    LucidworksDeploymentEventTrigger,
    LucidworksJobsTrigger,
    LucidworksModelEventTrigger,
    LucidworksStateTrigger,
)

TRAINING = ResourceState(Progress.RUNNING, "TRAINING")
AVAILABLE = ResourceState(Progress.READY, "AVAILABLE")
NOTHING = ResourceState(Progress.GONE, None)
DOWN = ServiceError("HTTP 503", status=503)
WRONG = ConfigurationError("no customer_id")


class Store:
    """Airflow's, of one asset."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.written: list[Any] = []

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self.values[key] = value
        self.written.append(value)


class BrokenStore:
    async def aget(self, key: str, default: Any = None) -> Any:
        raise ValueError("several assets")

    aset = aget


def without_connection(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hooks whose clients are opened, which send nothing."""
    opened: list[str] = []

    @asynccontextmanager
    async def shared_client(self: LucidworksHook) -> AsyncIterator[None]:
        opened.append(self.lucidworks_conn_id)
        yield

    monkeypatch.setattr(LucidworksHook, "shared_client", shared_client)
    return opened


def fired(
    monkeypatch: pytest.MonkeyPatch,
    seen: Sequence[ResourceState | Exception],
    store: object = None,
    target_state: str = "AVAILABLE",
    *,
    killed: str = "poll",
) -> list[dict[str, Any]]:
    """
    The events of a watcher that sees this, one poll after the other.

    :param killed: stopped at the next ``poll``, at the ``sleep`` before it, or after the first ``event``.
    """
    polls, told = iter(seen), list[dict[str, Any]]()

    async def poll(*_: object) -> ResourceState:
        if (one := next(polls, None)) is None:
            raise asyncio.CancelledError
        if isinstance(one, Exception):
            raise one
        return one

    async def no_time(_: float) -> None:
        if killed == "sleep":
            raise asyncio.CancelledError

    async def watch() -> None:
        trigger = LucidworksModelEventTrigger(model_id="m", target_state=target_state)
        trigger.asset_state_store = store
        async for event in trigger.run():
            told.append(event.payload)
            if killed == "event":
                raise asyncio.CancelledError

    monkeypatch.setattr(polling, "get_state", poll)
    opened = without_connection(monkeypatch)
    # Not in asyncio itself: the emulator of other tests sleeps in a thread of this process.
    monkeypatch.setattr(polling, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": no_time}))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch())
    assert len(opened) == 1 + sum(one is WRONG for one in seen), "one client for all polls of a connection"
    return told


def test_a_corrected_connection_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is missing at first, then its secret is refused."""
    seen: list[str] = []
    connections = iter(["wrong", "right"])

    async def poll(hook: LucidworksHook, *_: object) -> ResourceState:
        seen.append((await hook.aget_settings()).client_secret)
        if seen[-1] == "wrong":
            raise AuthenticationError("refused", status=401)
        return AVAILABLE

    async def correct(_: float) -> None:
        given = {"conn_type": "lucidworks", "login": "id", "password": next(connections)}
        extra = {"auth_url": "http://127.0.0.1:9", "application_url": "http://127.0.0.1:9"}
        monkeypatch.setenv("AIRFLOW_CONN_LATER", json.dumps(given | {"extra": extra}))

    async def watch() -> Any:
        trigger = LucidworksModelEventTrigger(model_id="m", lucidworks_conn_id="later")
        return (await anext(trigger.run())).payload["state"]

    monkeypatch.setattr(polling, "get_state", poll)
    monkeypatch.setattr(polling, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": correct}))
    assert asyncio.run(watch()) == "AVAILABLE"
    assert seen == ["wrong", "right"]


@pytest.mark.parametrize("store", [None, Store(), BrokenStore()], ids=["none", "empty", "broken"])
@pytest.mark.parametrize(
    ("seen", "times"),
    [
        ([TRAINING, TRAINING], 0),
        ([TRAINING, AVAILABLE, AVAILABLE, AVAILABLE], 1),
        ([AVAILABLE, AVAILABLE], 1),
        ([TRAINING, AVAILABLE, TRAINING, AVAILABLE], 2),
        ([AVAILABLE, NOTHING, AVAILABLE], 1),
        ([AVAILABLE, DOWN, AVAILABLE], 1),
        ([WRONG, DOWN, TRAINING, DOWN, AVAILABLE], 1),
    ],
)
def test_it_fires_once_each_time_that_the_state_is_reached(
    monkeypatch: pytest.MonkeyPatch, seen: list[ResourceState | Exception], times: int, store: object
) -> None:
    told = fired(monkeypatch, seen, Store() if isinstance(store, Store) else store)
    assert len(told) == times
    assert {(one["kind"], one["model_id"], one["state"]) for one in told} <= {("model", "m", "AVAILABLE")}


@pytest.mark.parametrize(
    ("lives", "written"),
    [
        (
            [
                ([TRAINING, AVAILABLE, AVAILABLE], "poll", 1),
                ([AVAILABLE, AVAILABLE], "poll", 0),
                ([TRAINING, TRAINING, AVAILABLE], "poll", 1),
            ],
            [True, False, True],
        ),
        (
            [([AVAILABLE, AVAILABLE], "poll", 1), ([TRAINING], "sleep", 0), ([AVAILABLE], "poll", 1)],
            [True, False, True],
        ),
        # Airflow may not have stored the event by then.
        ([([AVAILABLE], "event", 1), ([AVAILABLE, AVAILABLE], "poll", 1)], [True]),
    ],
    ids=["another triggerer", "killed right after the state was left", "killed right after the event"],
)
def test_the_store_has_what_was_fired(
    monkeypatch: pytest.MonkeyPatch, lives: list[tuple[Any, str, int]], written: list[bool]
) -> None:
    store = Store()
    assert [len(fired(monkeypatch, seen, store, killed=at)) for seen, at, _ in lives] == [
        n for *_, n in lives
    ]
    assert store.written == written
    # Two triggers of one asset do not share what they know.
    assert {key.split()[-1] for key in store.values} == {"AVAILABLE"}


def test_a_store_that_failed_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Store):
        failures = 1

        async def aset(self, key: str, value: Any) -> None:
            if value is False and self.failures:
                self.failures -= 1
                raise ValueError("away")
            await super().aset(key, value)

    store = Failing()
    fired(monkeypatch, [AVAILABLE, AVAILABLE, TRAINING, TRAINING], store)
    assert store.written == [True, False]
    assert len(fired(monkeypatch, [AVAILABLE], store)) == 1


def test_it_can_be_made_anew_from_its_row() -> None:
    for trigger in (
        LucidworksModelEventTrigger(model_id="m", target_state="FAILED", poll_interval=5),
        LucidworksDeploymentEventTrigger(deployment_id="d", lucidworks_conn_id="other"),
    ):
        path, kwargs = trigger.serialize()
        assert path == f"{type(trigger).__module__}.{type(trigger).__name__}"
        assert type(trigger)(**kwargs).serialize() == (path, kwargs)
    trigger = LucidworksModelEventTrigger(model_id="m\n", target_state=" FAILED")
    assert (trigger.resource_id, trigger.target_state) == ("m", "FAILED")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("model_id", ["", None]),
        ("target_state", [" ", "DELETED", " deleted"]),
        ("lucidworks_conn_id", [""]),
        ("poll_interval", [0, float("nan"), "60", True]),
    ],
)
def test_a_wrong_argument_is_refused_when_the_dag_is_parsed(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InputError, match=name):
            LucidworksModelEventTrigger(**{"model_id": "m", name: value})


@pytest.mark.parametrize(("state", "hint"), [("availabel", "Did you mean 'AVAILABLE'?"), ("AVAILABLE", "")])
def test_a_misspelt_state_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, state: str, hint: str
) -> None:
    fired(monkeypatch, [TRAINING], target_state=state)
    assert hint in caplog.text
    assert ("known state" in caplog.text) == bool(hint)


Wait = Callable[[str], Coroutine[Any, Any, dict[str, Any]]]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Wait:
    """What a trigger returns that finds no record of a task, once it has its connection."""
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")
    row = {"kind": "chunking", "folder": str(tmp_path), "nonce": "n", "poll_interval": 1.0, "deadline": 0.0}

    async def event_of(conn_id: str) -> dict[str, Any]:
        trigger = LucidworksJobsTrigger(lucidworks_conn_id=conn_id, **row)
        return dict((await anext(trigger.run())).payload)

    return event_of


async def test_a_burst_of_waits_for_states_reads_the_connection_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    async def slowly(self: LucidworksHook) -> None:
        read.append(self.lucidworks_conn_id)
        await asyncio.sleep(0.02)

    async def available(*_: object) -> ResourceState:
        return AVAILABLE

    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")
    monkeypatch.setattr(LucidworksHook, "aget_settings", slowly)
    monkeypatch.setattr(polling, "get_state", available)
    without_connection(monkeypatch)
    how: dict[str, Any] = {"lucidworks_conn_id": "one", "poll_interval": 1.0}
    waits = [
        LucidworksStateTrigger(kind="model", resource_id="m", target="ready", deadline=0.0, **how),
        LucidworksModelEventTrigger(model_id="m", **how),
    ]
    events = await asyncio.gather(*(anext(trigger.run()) for trigger in waits * 25))
    assert {event.payload["state"] for event in events} == {"AVAILABLE"}
    assert read == ["one"]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The connections that were read, each slowly; the one named "wrong" is."""
    ids: list[str] = []

    async def slowly(self: LucidworksHook) -> None:
        ids.append(self.lucidworks_conn_id)
        await asyncio.sleep(0.05)
        if self.lucidworks_conn_id == "wrong":
            raise ConfigurationError("no such field")

    monkeypatch.setattr(LucidworksHook, "aget_settings", slowly)
    return ids


async def test_a_burst_reads_the_connection_once(wait: Wait, read: list[str]) -> None:
    events = await asyncio.gather(*(wait("one") for _ in range(50)), wait("other"))
    assert sorted(read) == ["one", "other"]
    assert all(event["unshared"] for event in events)
    await wait("one")
    assert sorted(read) == ["one", "one", "other"], "a connection may have changed meanwhile"


async def test_the_first_waiter_may_be_cancelled(wait: Wait, read: list[str]) -> None:
    first = asyncio.create_task(wait("one"))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(wait("one"))
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second)["unshared"]
    assert first.cancelled()
    assert read == ["one"]


async def test_a_missing_connection_is_an_event(wait: Wait) -> None:
    event = await wait("nowhere")
    assert "ConfigurationError: Connection 'nowhere' does not exist" in event["error"]
    # On Airflow 3, an API server that is away looks the same.
    assert event["retryable"]


async def test_a_connection_that_is_wrong_is_an_error_of_all(wait: Wait, read: list[str]) -> None:
    events = await asyncio.gather(*(wait("wrong") for _ in range(3)))
    assert [event["error"] for event in events] == ["ConfigurationError: no such field"] * 3
    assert read == ["wrong"]
