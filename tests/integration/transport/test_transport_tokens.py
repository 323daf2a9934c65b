# SPDX-License-Identifier: Apache-2.0
"""Many threads and coroutines share one issue, and a token that dies under them costs one more."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from transport_wire import Connect, Mode, kill, submit

from lucidworks_provider.client.jobs import CHUNKING, poll_job
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.emulator.tokens import Scope
from lucidworks_provider.errors import AuthenticationError
from lucidworks_provider.hooks.lucidworks import LucidworksHook

PREDICT = "machinelearning.predict"
CROWD = 50


@pytest.fixture
def slow_token_service(emulator: RunningEmulator) -> RunningEmulator:
    """Token requests take long enough for several callers to wait at once."""
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
def test_a_cold_crowd_refreshes_once(
    slow_token_service: RunningEmulator, mode: Mode, own_hooks: bool
) -> None:
    crowd = in_threads if mode == "sync" else lambda *options: asyncio.run(in_coroutines(*options))
    assert len(set(crowd(CROWD, own_hooks))) == 1
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
        assert len(set(pool.map(hook.get_token, [scope.value for scope in Scope] * 10))) == 2
    assert slow_token_service.state.log.issued == {scope.value: 1 for scope in Scope}


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

    def one(_: int) -> None:
        hook = LucidworksHook()
        gate.wait(10)
        with pytest.raises(AuthenticationError):
            hook.get_token()

    with ThreadPoolExecutor(CROWD) as pool:
        list(pool.map(one, range(CROWD)))
    assert slow_token_service.state.log.endpoints["token"] == 1


KILLS = 3


class Progress:
    """Counts the calls of each worker, so that a token dies only when every worker has used it."""

    def __init__(self, workers: int) -> None:
        self.calls = [0] * workers
        self.stop = False


def kill_under(emulator: RunningEmulator, progress: Progress, *jobs: Callable[[], None]) -> None:
    """Tokens die under calls: one new token for each, however many calls are refused at once."""
    emulator.state.settings = emulator.state.settings.patched({"latency": 0.01})
    with ThreadPoolExecutor(len(jobs)) as pool:
        workers = [pool.submit(job) for job in jobs]
        for number in range(KILLS + 1):
            before = list(progress.calls)
            while any(now < then + 2 for now, then in zip(progress.calls, before, strict=True)):
                if any(worker.done() for worker in workers):
                    break
                time.sleep(0.005)
            if number < KILLS:
                kill(emulator)
        progress.stop = True
        for worker in workers:
            worker.result(20)
    assert emulator.state.log.statuses[401] >= KILLS
    assert emulator.state.log.issued[PREDICT] == 1 + KILLS


def test_a_token_that_dies_under_threads(emulator: RunningEmulator) -> None:
    progress = Progress(8)

    def work(number: int) -> None:
        hook = LucidworksHook()
        session = hook.get_conn() if number % 2 else None
        while not progress.stop:
            if session is not None:
                assert session.get("/ai/usecases").status_code == 200
            else:
                submit("sync", hook)
            progress.calls[number] += 1

    kill_under(emulator, progress, *(partial(work, number) for number in range(8)))


def test_a_token_that_dies_under_coroutines(emulator: RunningEmulator) -> None:
    hook, progress = LucidworksHook(), Progress(20)
    job_id = submit("sync", hook)

    async def work(number: int) -> None:
        async with hook.shared_client():
            while not progress.stop:
                await hook.acall(poll_job(CHUNKING, job_id))
                progress.calls[number] += 1

    async def all_of_them() -> None:
        await asyncio.gather(*map(work, range(20)))

    kill_under(emulator, progress, lambda: asyncio.run(all_of_them()))


async def test_one_client_for_all_users_of_a_loop(emulator: RunningEmulator) -> None:
    async with LucidworksHook().shared_client() as first, LucidworksHook().shared_client() as second:
        assert first is second
    async with LucidworksHook().shared_client() as third:
        assert third is not first
