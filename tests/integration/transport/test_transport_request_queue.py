# SPDX-License-Identifier: Apache-2.0
"""One application's requests wait for each other, whichever thread, loop or hook they come from."""

import asyncio
import gc
import os
import socket
import threading
import time
import timeit
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest
import requests
from transport_wire import Connect, Mode, answer, fault, get, scripted, send, settings, submit

from lucidworks_provider import retrying
from lucidworks_provider.client.auth.token import TokenIdentity, token_request
from lucidworks_provider.client.chunking import submit_chunking
from lucidworks_provider.client.http import rate_limiter
from lucidworks_provider.client.http.aio import CONNECTIONS, shared_transport
from lucidworks_provider.client.http.messages import Request, Response
from lucidworks_provider.client.http.rate_limiter import (
    REFUSED_PROBES,
    PauseRecord,
    RequestQueue,
    SharedPause,
    queue_for,
    queue_of,
)
from lucidworks_provider.client.jobs import CHUNKING, poll_job
from lucidworks_provider.client.models import list_models
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.client.use_cases import list_use_cases
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.errors import AcquireTimeoutError, RateLimitError, TransportError
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.jobs.polling import wait_for_jobs
from lucidworks_provider.jobs.record import JobRecord, JobStateStore, ResultDirectory

pytestmark = pytest.mark.usefixtures("plain_network", "forgotten_queues")
APPLICATION = "https://app.applications.example.com"
ACCEPTED = Response(200, {}, b"")


def refuse(queue: RequestQueue, seconds: float = 0.3) -> None:
    """A pause: two 429s in a row, and one more in answer to the probe."""
    refused = Response(429, {"retry-after": str(seconds)}, b"")
    for permit in [queue.acquire(), queue.acquire()]:
        queue.ended(permit, refused)
    queue.ended(queue.acquire(), refused)


def pass_probe(queue: RequestQueue) -> None:
    queue.ended(queue.acquire(), ACCEPTED)


def test_the_time_for_which_everything_is_refused() -> None:
    queue, refused = RequestQueue(), Response(429, {"retry-after": "0.01"}, b"")
    refuse(queue, 0.01)
    for _ in range(REFUSED_PROBES - 1):
        assert queue.refused_for == 0, "other processes may have been faster"
        queue.ended(queue.acquire(), refused)
    assert 0 < queue.refused_for < 5
    pass_probe(queue)
    assert queue.refused_for == 0


# --- which requests wait


def test_a_token_does_not_wait() -> None:
    token = token_request(settings(APPLICATION), "machinelearning.predict")
    clock = Request("Time", "HEAD", f"{APPLICATION}/", replayable=True, endpoint="clock")
    assert [queue_for(one, settings(APPLICATION)) for one in (token, clock)] == [None, None]


def test_each_application_has_one_queue() -> None:
    models = "https://api.example.com"
    one, other = (settings(url, models_url=models) for url in (APPLICATION, f"{APPLICATION}.org"))
    found = [
        queue_for(get(f"{APPLICATION}/ai/usecases"), one),
        queue_for(get(f"{models}/customers/c/ai/models"), one),
        queue_for(get(f"{APPLICATION}.org/ai/usecases"), other),
    ]
    shared = settings(APPLICATION, timeout=1.0)
    assert found == [queue_of(base, shared) for base in (APPLICATION, models, f"{APPLICATION}.org")]
    assert len(set(found)) == 3


def test_a_forked_child_begins_anew() -> None:
    refuse(queue_of(APPLICATION, settings(APPLICATION)), 60)
    child = os.fork()
    if child == 0:
        os._exit(0 if queue_of(APPLICATION, settings(APPLICATION)).acquire() == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0


# --- in which order


async def test_first_come_first_served() -> None:
    queue, served = RequestQueue(), list[int]()
    refuse(queue)

    async def one(number: int) -> None:
        await asyncio.sleep(number / 1000)
        permit = await queue.aacquire()
        served.append(number)
        queue.ended(permit, ACCEPTED)

    await asyncio.gather(*(one(number) for number in range(20)))
    assert served == list(range(20))


def test_threads_and_loops_wait_in_one_queue() -> None:
    queue, served, lock = RequestQueue(), list[int](), threading.Lock()
    refuse(queue)

    def note(number: int, permit: int) -> None:
        with lock:
            served.append(number)
        queue.ended(permit, ACCEPTED)

    def in_thread(number: int) -> None:
        note(number, queue.acquire())

    async def on_loop(number: int) -> None:
        note(number, await queue.aacquire())

    with ThreadPoolExecutor(12) as pool:
        begun = []
        for number in range(12):
            job = in_thread if number % 2 else lambda n: asyncio.run(on_loop(n))
            begun.append(pool.submit(job, number))
            time.sleep(0.02)
        for one in begun:
            one.result(10)
    assert served == list(range(12))


async def test_a_request_that_is_given_up_leaves_the_queue() -> None:
    queue = RequestQueue()
    refuse(queue, 0.2)
    waiting = [asyncio.create_task(queue.aacquire()) for _ in range(3)]
    await asyncio.sleep(0.05)
    waiting[0].cancel()
    waiting[1].cancel()
    assert await asyncio.wait_for(waiting[2], 10) == 4


async def test_a_probe_that_is_cancelled_is_replaced() -> None:
    queue = RequestQueue()
    refuse(queue, 0.1)
    probe = await queue.aacquire()
    other = asyncio.create_task(queue.aacquire())
    await asyncio.sleep(0.05)
    assert not other.done()
    queue.ended(probe, None)
    assert await asyncio.wait_for(other, 10) == probe + 1


@pytest.mark.parametrize("busy", ["refused", "connection"])
def test_a_request_that_cannot_begin_in_time_is_not_sent(mode: Mode, busy: str) -> None:
    """And one that has it is not cancelled."""

    def slowly(connection: socket.socket) -> None:
        time.sleep(0.5)
        connection.sendall(answer())

    async def second(url: str, request: Request) -> Response:
        async with shared_transport(settings(url), 1) as transport:
            first = asyncio.create_task(transport.send(get(f"{url}/ai/first", begin_by=request.begin_by)))
            await asyncio.sleep(0.05)
            try:
                return await transport.send(request)
            finally:
                assert (await first).status == 200

    with scripted(slowly) as server:
        request = get(f"{server.url}/ai/x", begin_by=time.monotonic() + 0.2)
        if busy == "refused":
            refuse(queue_of(server.url, settings(server.url)), 60)
        began = time.monotonic()
        asking: Callable[[], object] = partial(send, mode, settings(server.url), request)
        if busy == "connection":
            asking = partial(asyncio.run, second(server.url, request))
        with pytest.raises(AcquireTimeoutError):
            asking()
        assert time.monotonic() - began < 2
        assert len(server.heard) == (busy == "connection")


async def test_the_deadline_of_a_wait_ends_it_while_every_poll_is_refused(
    emulator: RunningEmulator, tmp_path: Path
) -> None:
    hook = LucidworksHook()
    await hook.aget_settings()
    record = JobRecord("f", 1, 8)
    for position in range(8):
        text = submit_chunking(f"Text {position}.", chunker="sentence", model_id="gte-small")
        record.submitted(position, await hook.acall(text))
    results = ResultDirectory(str(tmp_path))
    JobStateStore(results, None).save(record)
    fault(emulator, "429", "poll", times=1000, retry_after=1)
    began = time.monotonic()
    outcome = await wait_for_jobs(
        hook, CHUNKING, results, nonce=record.nonce, poll_interval=0.2, deadline=time.time() + 2
    )
    assert time.monotonic() - began < 3
    assert (outcome.timed_out, outcome.collected) == (list(range(8)), 0)
    assert "429" in outcome.messages[0]


def test_a_loop_that_ended_holds_up_no_request() -> None:
    queue = RequestQueue()
    refuse(queue, 0.2)
    loop = asyncio.new_event_loop()
    left = loop.create_task(queue.aacquire())
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()
    left._log_destroy_pending = False  # type: ignore[attr-defined]
    del left
    gc.collect()
    passing = threading.Thread(target=pass_probe, args=[queue], daemon=True)
    passing.start()
    passing.join(10)
    assert not passing.is_alive()


# --- over the wire


def test_a_single_429_delays_its_own_request_only(emulator: RunningEmulator) -> None:
    fault(emulator, "429", "usecases", retry_after=1)
    hook = LucidworksHook()
    job_id = submit("sync", hook)
    refusing = threading.Thread(target=lambda: asyncio.run(LucidworksHook().acall(list_use_cases())))
    refusing.start()
    while not emulator.state.log.statuses[429]:
        time.sleep(0.005)
    time.sleep(0.05)
    hook.call(poll_job(CHUNKING, job_id))
    refusing.join()
    refused, again = (one for one in emulator.state.log if one.endpoint == "usecases")
    [polled] = (one for one in emulator.state.log if one.endpoint == "poll")
    assert polled.time < again.time
    assert again.time - refused.time >= 1
    assert (hook.rate_limit().rate, hook.rate_limit().refusals) == (None, 1)


async def test_what_is_known_of_a_limit_is_shown(emulator: RunningEmulator) -> None:
    hook = LucidworksHook()
    await hook.aget_settings()
    assert (hook.rate_limit().rate, hook.rate_limit().refusals) == (None, 0)
    emulator.state.settings = emulator.state.settings.patched({"rate_limit": 20, "rate_mode": "bucket"})
    async with hook.shared_client(connections=32):
        await asyncio.gather(*(hook.acall(list_use_cases()) for _ in range(50)))
    known = hook.rate_limit()
    assert known.refusals == emulator.state.log.statuses[429] > 0
    assert known.rate is not None
    assert 5 < known.rate < 40


def test_without_an_application_the_limit_is_that_of_the_models_api(
    emulator: RunningEmulator, connect: Connect
) -> None:
    fault(emulator, "429", "list-models")
    connect(emulator.url, application_url="", customer_id="demo-customer")
    hook = LucidworksHook()
    hook.call(list_models())
    assert hook.rate_limit().refusals == 1


@pytest.mark.parametrize("gone", ["cancelled", "broken"])
async def test_a_request_without_a_response_gives_its_turn_back(gone: str) -> None:
    def hang_up(connection: Any) -> None:
        time.sleep(0 if gone == "broken" else 1)

    refused = answer(429, Retry_After="0.1")
    with scripted(refused, refused, hang_up, answer()) as server:
        async with shared_transport(settings(server.url)) as transport:
            request = Request(
                "Send", "POST", f"{server.url}/ai/x", replayable=False, endpoint="predict", body=b"{}"
            )
            for _ in range(2):
                assert (await transport.send(request)).status == 429
            if gone == "cancelled":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(transport.send(request), 0.3)
            else:
                with pytest.raises(TransportError):
                    await transport.send(request)
            assert (await asyncio.wait_for(transport.send(request), 10)).status == 200


def test_a_rate_limit_is_kept_by_threads(emulator: RunningEmulator) -> None:
    """Four threads with a hook each; the emulator takes ten a second."""
    job_id = submit("sync", LucidworksHook())
    emulator.state.settings = emulator.state.settings.patched({"rate_limit": 10, "rate_mode": "bucket"})

    def work(hook: LucidworksHook) -> None:
        for _ in range(8):
            hook.call(poll_job(CHUNKING, job_id))
        hook.close()

    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(work, LucidworksHook()) for _ in range(4)]:
            one.result(30)
    # The first second's burst, and what found the limit out.
    assert emulator.state.log.statuses[429] <= 12


# --- connections


@pytest.mark.parametrize("wanted", [None, 3, 32])
async def test_the_first_user_decides_how_many_connections(wanted: int | None) -> None:
    with scripted(answer()) as server:
        one = settings(server.url)
        async with shared_transport(one, wanted) as first, shared_transport(one, 5) as second:
            assert first is second
            assert first.connections == (wanted or CONNECTIONS)
            at_once = first._session.connector  # noqa: SLF001
            assert at_once is not None
            assert at_once.limit == 2 * (wanted or CONNECTIONS)
        async with shared_transport(one) as later:
            assert later.connections == CONNECTIONS


async def test_a_pause_of_the_application_leaves_the_models_api_its_connections() -> None:
    with scripted(answer()) as application, scripted(answer()) as models:
        one = settings(application.url, models_url=models.url)
        refuse(queue_of(application.url, one), 60)
        async with shared_transport(one) as transport:
            waiting = [
                asyncio.create_task(transport.send(get(f"{application.url}/ai/x")))
                for _ in range(CONNECTIONS)
            ]
            await asyncio.sleep(0.05)
            listed = await asyncio.wait_for(transport.send(get(f"{models.url}/customers/c/ai/models")), 5)
            assert listed.status == 200
            for one_waiting in waiting:
                one_waiting.cancel()
            await asyncio.wait(waiting)


async def test_slots_stay_what_they_are(emulator: RunningEmulator) -> None:
    async with LucidworksHook().shared_client(connections=32) as transport:
        assert (transport.connections, transport.slots._value) == (32, 8)


# --- with others


class Fleet:
    """The store of the pause that the settings have: another process's pause, then none."""

    read_interval = 1.0

    def __init__(self) -> None:
        self.said: list[str] = []
        self.threads: set[int] = set()
        self.slow = threading.Event()
        self.slow.set()

    def settings(self, url: str) -> LucidworksSettings:
        return settings(url, share_via="airflow", stores=self)

    def token_store(self, settings: LucidworksSettings, identity: TokenIdentity) -> NoReturn:
        raise AssertionError("a request to the application needs no token")

    def pause_store(self, settings: LucidworksSettings, name: str) -> Self:
        return self

    def read(self) -> PauseRecord:
        first = not self.said
        self._note("read")
        return PauseRecord("other", 0.1) if first else PauseRecord()

    def claim(self, owner: str, seconds: float) -> bool:
        self._note("claim")
        return True

    def write(self, owner: str, seconds: float) -> None:
        self._note(f"write {seconds:g}")

    def end(self) -> None:
        self._note("end")
        self.slow.wait(10)

    def _note(self, words: str) -> None:
        self.said.append(words)
        self.threads.add(threading.get_ident())


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


TWICE = [answer(429, Retry_After="0.3")] * 2


def test_the_fleet_is_asked_before_a_probe_and_gets_its_outcome(mode: Mode, fleet: Fleet) -> None:
    with scripted(*TWICE, answer(429, Retry_After="0.3"), answer()) as server:
        one = fleet.settings(server.url)
        begin = time.monotonic()
        statuses = [send(mode, one, get(f"{server.url}/ai/x")).status for _ in range(4)]
        assert statuses == [429, 429, 429, 200]
        assert time.monotonic() - begin >= 0.4
    assert fleet.said == ["read", "read", "claim", "read", "write 0.3", "read", "claim", "read", "end"]
    assert (threading.get_ident() in fleet.threads) == (mode == "sync"), "an event loop is not held up"


async def test_a_response_does_not_wait_until_the_fleet_has_its_outcome(fleet: Fleet) -> None:
    """A cancelled wait would lose the response, and a result may be readable only once."""
    fleet.slow.clear()
    with scripted(*TWICE, answer()) as server:
        async with shared_transport(fleet.settings(server.url)) as transport:
            for status in (429, 429, 200):
                found = await asyncio.wait_for(transport.send(get(f"{server.url}/ai/x")), 5)
                assert found.status == status
            fleet.slow.set()
    assert fleet.said == ["read", "read", "claim", "read", "end"]


async def test_the_others_queue_behind_the_one_that_asks(fleet: Fleet) -> None:
    with scripted(*TWICE, *[answer()] * 8) as server:
        async with shared_transport(fleet.settings(server.url)) as transport:
            for _ in range(2):
                await transport.send(get(f"{server.url}/ai/x"))
            await asyncio.gather(*(transport.send(get(f"{server.url}/ai/x")) for _ in range(8)))
    assert fleet.said == ["read", "read", "claim", "read", "end"]


class Refused(Fleet):
    """The store while the service refuses the probes of other processes."""

    read_interval = 0.01

    def read(self) -> PauseRecord:
        self._note("read")
        return PauseRecord(f"other {len(self.said)}", 0.02)


async def test_requests_that_wait_are_given_up_when_the_probes_of_others_are_refused_for_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retrying, "LONGEST_REFUSAL", 0.2)
    queue = RequestQueue(SharedPause(Refused))
    for permit in [queue.acquire(), queue.acquire()]:
        queue.ended(permit, Response(429, {}, b""))
    began = time.monotonic()
    waiting = [asyncio.create_task(queue.aacquire()) for _ in range(3)]
    waiting += [asyncio.create_task(asyncio.to_thread(queue.acquire)) for _ in range(3)]
    limited = asyncio.create_task(queue.aacquire(began + 1))
    ended = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert {type(one) for one in ended} == {RateLimitError}
    assert 0.2 <= time.monotonic() - began < 1
    with pytest.raises(AcquireTimeoutError):
        await limited
    assert time.monotonic() - began >= 1


def test_after_an_hour_without_requests_the_first_one_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "LONGEST_REFUSAL", 0.0)
    monkeypatch.setattr(rate_limiter, "REFUSED_PROBES", 1)
    queue = RequestQueue()
    refuse(queue, 0.2)
    assert queue.refused_for > 0
    pass_probe(queue)
    assert queue.refused_for == 0


# --- what it costs


@pytest.mark.alone
def test_it_costs_next_to_nothing_while_nothing_is_limited() -> None:
    one, request = settings(APPLICATION), get(f"{APPLICATION}/ai/usecases")

    def once() -> None:
        queue = queue_for(request, one)
        assert queue is not None
        queue.ended(queue.acquire(), ACCEPTED)

    def prepare() -> None:
        requests.Request("GET", request.url).prepare()

    # In relation to a part of each request that no user notices, since machines differ: about a fifteenth of it.
    costs = [min(timeit.repeat(part, number=500, repeat=7)) for part in (once, prepare)]
    assert costs[0] < costs[1] / 6


async def test_a_thousand_that_wait_for_a_connection_hold_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    acquire, acquiring = RequestQueue.aacquire, 0

    async def counted(queue: RequestQueue, begin_by: float | None = None) -> int:
        nonlocal acquiring
        acquiring += 1
        return await acquire(queue, begin_by)

    monkeypatch.setattr(RequestQueue, "aacquire", counted)
    with scripted(answer()) as server:
        refuse(queue_of(server.url, settings(APPLICATION)), 0.5)
        async with shared_transport(settings(server.url)) as transport:
            waiting = [asyncio.create_task(transport.send(get(f"{server.url}/ai/x"))) for _ in range(1000)]
            await asyncio.sleep(0.2)
            assert acquiring == CONNECTIONS
            for one in waiting:
                one.cancel()
            await asyncio.wait(waiting)
            async with asyncio.timeout(5):
                assert (await transport.send(get(f"{server.url}/ai/x"))).status == 200
