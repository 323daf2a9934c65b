# SPDX-License-Identifier: Apache-2.0
"""One pause for a fleet, in a real Redis: by processes, and as requests against a service that refuses all."""

import itertools
import time
from contextlib import ExitStack
from multiprocessing.context import ForkServerProcess

import pytest
import redis_stores
import requests
from redis_server import REDIS_CONN_ID, RedisServer
from redis_stores import at_once

from lucidworks_provider.client.http.rate_limiter import PauseRecord, SharedPause
from lucidworks_provider.hooks.stores.redis import RedisClient, RedisPauseStore
from tests.forks import PROCESSES, start

KEY = "lucidworks:pause:name"


def store() -> RedisPauseStore:
    return RedisPauseStore(RedisClient("lw", REDIS_CONN_ID, {}), "name")


def test_what_is_written_ends_by_itself(server: RedisServer) -> None:
    one, other = SharedPause(store), SharedPause(store)
    assert one.ask(0.4, 0) == 0
    assert 0 < (other.ask(0.4, 0) or 0) <= 0.4
    time.sleep(0.45)
    assert other.ask(0.4, 0.45) == 0
    other.end()
    assert one.ask(0.4, 1) is None
    time.sleep(0.1)
    assert one.ask(0.4, 0.05) == 0, "a process that stopped after the end asks again"
    assert server.client().pttl("lucidworks:pause-ended:name") > 50_000


def test_eight_processes_ask_at_once_and_one_may_probe(server: RedisServer) -> None:
    replies = at_once(8, redis_stores.ask_to_probe)
    assert replies.count(0.0) == 1
    assert all(reply >= 0 for reply in replies)


@pytest.mark.parametrize("kind", ["no end", "a list", "empty"])
def test_what_was_written_by_hand_holds_no_process(server: RedisServer, kind: str) -> None:
    client = server.client()
    if kind == "a list":
        client.rpush(KEY, "x")
    else:
        client.set(KEY, "me" if kind == "no end" else "")
    assert store().read() == PauseRecord()
    assert SharedPause(store).ask(2, 0) == 0


def test_a_server_that_is_gone_holds_no_process(server: RedisServer) -> None:
    one = SharedPause(store)
    one.hold(30)
    record = store().read()
    assert record.owner
    assert record == PauseRecord(record.owner, pytest.approx(30, abs=1))
    server.stop()
    assert SharedPause(store).ask(2, 0) == 0


@pytest.mark.alone
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_storm_draws_one_request_a_pause_from_several_processes(
    server: RedisServer, plain_network: None, mode: str
) -> None:
    """Three processes with four senders each, one of which begins in the middle; all continue after the pause."""
    from lucidworks_provider.emulator import running

    accepted, stop = PROCESSES.Array("d", 3), PROCESSES.Event()

    def all_accepted(count: int, since: float) -> None:
        deadline = time.monotonic() + 30
        while min(accepted[:count]) <= since:
            assert time.monotonic() < deadline, accepted[:]
            time.sleep(0.05)

    with running() as service, ExitStack() as stack:
        stack.callback(stop.set)

        def sender(number: int) -> ForkServerProcess:
            return start(redis_stores.send_on, service.url, mode, number, accepted, stop)

        processes = [sender(0), sender(1)]
        all_accepted(2, 0)
        begin = time.time()
        order = {"match": "usecases", "kind": "429", "retry_after": 1, "times": 10_000}
        requests.post(f"{service.url}/_emulator/faults", json=order, timeout=10).raise_for_status()
        time.sleep(2)  # there is a pause by now
        processes.append(sender(2))
        time.sleep(6)
        requests.delete(f"{service.url}/_emulator/faults", timeout=10).raise_for_status()
        over = time.time()
        all_accepted(3, over + 1)  # all of them continue
        log = requests.get(f"{service.url}/_emulator/log", timeout=10).json()
    for process in processes:
        process.join(30)
    # Those that are refused: until the order for the faults arrives, the senders keep their rate.
    asked = [line["time"] for line in log if line["status"] == 429 and begin < line["time"] < over]
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    # One a second, but for what was in flight when it began and two requests of the process that began in it. Each
    # process for itself would send three times as many.
    assert 4 <= sum(gap >= 0.5 for gap in gaps) <= 9
    assert sum(gap < 0.5 for gap in gaps) <= 2 * 4 + 2 + 3
