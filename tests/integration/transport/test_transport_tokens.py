# SPDX-License-Identifier: Apache-2.0
"""Many threads and coroutines share one issue, and a token that dies under them costs one more."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from transport_wire import Connect

from lucidworks_provider.client.chunking import submit_chunking
from lucidworks_provider.client.jobs import CHUNKING, poll_job
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.emulator.tokens import Scope
from lucidworks_provider.errors import AuthenticationError
from lucidworks_provider.hooks.lucidworks import LucidworksHook

PREDICT = "machinelearning.predict"
CROWD = 50


@pytest.fixture
def slow_token_service(emulator: RunningEmulator) -> RunningEmulator:
    """A issue takes long enough for a crowd to gather."""
    emulator.state.settings = emulator.state.settings.patched({"token_latency": 0.3})
    return emulator


def in_threads(number: int, own_hooks: bool) -> list[str]:
    shared, gate = LucidworksHook(), threading.Barrier(number)

    def one(_: int) -> str:
        hook = LucidworksHook() if own_hooks else shared
        gate.wait(10)
        return hook.get_token()

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


async def in_coroutines(number: int, own_hooks: bool) -> list[str]:
    shared = LucidworksHook()
    return await asyncio.gather(
        *((LucidworksHook() if own_hooks else shared).aget_token() for _ in range(number))
    )


@pytest.mark.parametrize("own_hooks", [False, True], ids=["one-hook", "own-hooks"])
def test_cold_threads_refresh_once(slow_token_service: RunningEmulator, own_hooks: bool) -> None:
    assert len(set(in_threads(CROWD, own_hooks))) == 1
    assert slow_token_service.state.log.issued[PREDICT] == 1


@pytest.mark.parametrize("own_hooks", [False, True], ids=["one-hook", "own-hooks"])
def test_cold_coroutines_refresh_once(slow_token_service: RunningEmulator, own_hooks: bool) -> None:
    assert len(set(asyncio.run(in_coroutines(CROWD, own_hooks)))) == 1
    assert slow_token_service.state.log.issued[PREDICT] == 1


def test_threads_and_two_loops_refresh_once(slow_token_service: RunningEmulator) -> None:
    with ThreadPoolExecutor(3) as pool:
        crowds = [
            pool.submit(in_threads, CROWD, True),
            pool.submit(lambda: asyncio.run(in_coroutines(CROWD, True))),
            pool.submit(lambda: asyncio.run(in_coroutines(CROWD, False))),
        ]
        tokens = [token for crowd in crowds for token in crowd.result(20)]
    assert len(tokens) == 3 * CROWD
    assert len(set(tokens)) == 1
    assert slow_token_service.state.log.issued[PREDICT] == 1


def test_each_scope_has_its_own(slow_token_service: RunningEmulator) -> None:
    hook = LucidworksHook()
    with ThreadPoolExecutor(20) as pool:
        scopes = [scope.value for scope in Scope] * 10
        tokens = list(pool.map(hook.get_token, scopes))
    assert len(set(tokens)) == 2
    assert {scope.value: slow_token_service.state.log.issued[scope.value] for scope in Scope} == {
        scope.value: 1 for scope in Scope
    }


@pytest.mark.parametrize("cancelled", [1, 5], ids=["the-first", "all"])
async def test_a_cancelled_caller_does_not_lose_the_token(
    slow_token_service: RunningEmulator, cancelled: int
) -> None:
    hook = LucidworksHook()
    callers = [asyncio.create_task(hook.aget_token()) for _ in range(5)]
    await asyncio.sleep(0.1)
    for caller in callers[:cancelled]:
        caller.cancel()
    ended = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(one) for one in ended[:cancelled]] == [asyncio.CancelledError] * cancelled
    token = await hook.aget_token()
    assert set(ended[cancelled:]) <= {token}
    assert hook.get_token() == token
    assert slow_token_service.state.log.issued[PREDICT] == 1


def test_a_wrong_secret_is_tried_once_for_the_whole_crowd(
    slow_token_service: RunningEmulator, connect: Connect
) -> None:
    connect(slow_token_service.url, secret="wrong-secret")
    gate = threading.Barrier(CROWD)

    def one(_: int) -> BaseException | None:
        hook = LucidworksHook()
        gate.wait(10)
        try:
            hook.get_token()
        except AuthenticationError as err:
            return err
        return None

    with ThreadPoolExecutor(CROWD) as pool:
        errors = list(pool.map(one, range(CROWD)))
    assert None not in errors
    assert slow_token_service.state.log.endpoints["token"] == 1


KILLS = 3


class Progress:
    """Counts the calls of each worker, so that a token dies only when everybody has used it."""

    def __init__(self, workers: int) -> None:
        self.calls = [0] * workers
        self.stop = False

    def beyond(self, before: list[int]) -> bool:
        return all(now >= then + 2 for now, then in zip(self.calls, before, strict=True))


def test_a_token_that_dies_under_threads(emulator: RunningEmulator) -> None:
    emulator.state.settings = emulator.state.settings.patched({"latency": 0.01})
    progress = Progress(8)

    def work(number: int) -> None:
        hook = LucidworksHook()
        session = hook.get_conn() if number % 2 else None
        while not progress.stop:
            if session is not None:
                assert session.get("/ai/usecases").status_code == 200
            else:
                hook.call(submit_chunking("One.", chunker="sentence", model_id="gte-small"))
            progress.calls[number] += 1

    with ThreadPoolExecutor(8) as pool:
        workers = [pool.submit(work, number) for number in range(8)]
        for kill in range(KILLS + 1):
            before = list(progress.calls)
            while not progress.beyond(before) and not any(worker.done() for worker in workers):
                time.sleep(0.005)
            if kill < KILLS:
                assert emulator.state.tokens.kill(list(Scope)) == 1
        progress.stop = True
        for worker in workers:
            worker.result(20)
    assert emulator.state.log.statuses[401] >= KILLS
    # One new token for each that died, however many found out at once.
    assert emulator.state.log.issued[PREDICT] == 1 + KILLS


async def test_a_token_that_dies_under_coroutines(emulator: RunningEmulator) -> None:
    emulator.state.settings = emulator.state.settings.patched({"latency": 0.01})
    hook, progress = LucidworksHook(), Progress(20)
    job_id = await hook.acall(submit_chunking("One.", chunker="sentence", model_id="gte-small"))

    async def work(number: int) -> None:
        async with hook.shared_client():
            while not progress.stop:
                await hook.acall(poll_job(CHUNKING, job_id))
                progress.calls[number] += 1

    workers = [asyncio.create_task(work(number)) for number in range(20)]
    for kill in range(KILLS + 1):
        before = list(progress.calls)
        while not progress.beyond(before) and not any(worker.done() for worker in workers):
            await asyncio.sleep(0.005)
        if kill < KILLS:
            assert emulator.state.tokens.kill(list(Scope)) == 1
    progress.stop = True
    await asyncio.gather(*workers)
    assert emulator.state.log.statuses[401] >= KILLS
    assert emulator.state.log.issued[PREDICT] == 1 + KILLS


async def test_one_client_for_all_users_of_a_loop(emulator: RunningEmulator) -> None:
    async with LucidworksHook().shared_client() as first, LucidworksHook().shared_client() as second:
        assert first is second
    async with LucidworksHook().shared_client() as third:
        assert third is not first
