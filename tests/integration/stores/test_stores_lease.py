# SPDX-License-Identifier: Apache-2.0
"""The lease of an output on object stores: what each of them guarantees about a creation, and races for it."""

import threading
from contextlib import suppress
from typing import Any

import pytest
from store_servers import Store

from lucidworks_provider.corpus import lease
from lucidworks_provider.corpus.lease import Holder, Lease, LeaseRecord
from lucidworks_provider.errors import InputError, OutputBusyError
from lucidworks_provider.storage import create_file, exists, names_in, read_file, store_path, write_file

ROUNDS, TASKS = 8, 4


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that does not wait fails when it has seen the heartbeat move."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.3)


def holder(task_id: str) -> Holder:
    return Holder.here(dag_id="dag", run_id="run", task_id=task_id, map_index=-1, try_number=1)


def newest(folder: str) -> LeaseRecord:
    return LeaseRecord.from_json(read_file(f"{folder}/lease/{max(names_in(f'{folder}/lease'))}") or b"")


def at_once(action: Any) -> list[Any]:
    """What the threads return that start at once; None for those that were too late."""
    start, found = threading.Barrier(TASKS), [None] * TASKS

    def act(task: int) -> None:
        start.wait()
        with suppress(OutputBusyError):
            found[task] = action(task)

    threads = [threading.Thread(target=act, args=(task,)) for task in range(TASKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_a_file_is_created_once(folder: str) -> None:
    uri = f"{folder}/a.json"
    assert [create_file(uri, data) for data in (b"one", b"two", b"one")] == [True, False, True]
    assert read_file(uri) == b"one"


def test_a_file_that_another_process_creates_after_a_listing_is_found(folder: str) -> None:
    """A file system that remembers listings knows nothing of it."""
    uri = f"{folder}/b.json"
    write_file(f"{folder}/a.json", b"one")
    assert names_in(folder) == ["a.json"]
    path = store_path(uri)
    other = type(path.fs)(*path.fs.storage_args, **path.fs.storage_options, skip_instance_cache=True)
    other.pipe_file(path.path, b"two")
    assert (read_file(uri), exists(uri), create_file(uri, b"three")) == (b"two", True, False)


def test_of_files_that_are_created_at_once_one_is(folder: str) -> None:
    for number in range(ROUNDS):
        uri = f"{folder}/{number}.json"
        created = at_once(lambda task, uri=uri: create_file(uri, b"%d" % task))
        assert sorted(created) == [False] * (TASKS - 1) + [True]
        assert read_file(uri) == b"%d" % created.index(True)


def test_of_tasks_that_start_at_once_one_acquires_the_lease(folder: str) -> None:
    for number in range(1, ROUNDS + 1):
        leases = [Lease(folder) for _ in range(TASKS)]

        def acquire(task: int, leases: list[Lease] = leases) -> int:
            leases[task].acquire(holder(f"task {task}"), 0)
            return leases[task].number

        won = [task for task, found in enumerate(at_once(acquire)) if found is not None]
        assert len(won) == 1
        assert leases[won[0]].number == number
        for one in leases:
            one.release()
        assert names_in(f"{folder}/lease") == [f"{number:08}.json"]


def test_what_another_process_wrote_is_seen(folder: str) -> None:
    """File systems keep listings."""
    held = Lease(folder)
    held.acquire(holder("one"), 0)
    held.renew()
    path = store_path(f"{folder}/lease/00000002.json")
    other = type(path.fs)(*path.fs.storage_args, **path.fs.storage_options, skip_instance_cache=True)
    claim = LeaseRecord(holder("other"), "other")
    other.pipe_file(path.path, claim.to_json(), mode="create")
    with pytest.raises(OutputBusyError, match="is now written by task other"):
        held.renew()
    held.release()
    assert newest(folder) == claim


def test_a_slow_store_loses_no_lease(store: Store, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the true times, and a second a request: what others watch moves in time."""
    for name, seconds in {"RENEW_SECONDS": 1.5, "TTL_SECONDS": 6.0, "POLL_SECONDS": 0.2}.items():
        monkeypatch.setattr(lease, name, seconds)
    write_file(f"{folder}/a.txt", b"")
    store.proxy.latency = 0.1
    held, other = Lease(folder), Lease(folder)
    store.requests()
    held.acquire(holder("one"), 0)
    assert sum(store.requests().values()) <= 9
    for _ in range(2):
        with pytest.raises(OutputBusyError, match="is being written by task one"):
            other.acquire(holder("other"), 0)
    held.renew()
    held.release()
    other.acquire(holder("other"), 0)
    other.release()


def test_a_store_that_ignores_the_condition_is_refused(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(f"{folder}/lease/00000006.json", LeaseRecord(holder("old"), "old", released=True).to_json())
    files: Any = store_path(folder).fs
    pipe = files.pipe_file
    with monkeypatch.context() as ignoring:
        ignoring.setattr(files, "pipe_file", lambda path, data, mode="": pipe(path, data))
        with pytest.raises(InputError, match="this storage ignores conditional creation"):
            Lease(folder).acquire(holder("new"), 0)
        assert names_in(f"{folder}/lease") == ["00000006.json"]
    held = Lease(folder)
    held.acquire(holder("new"), 0)
    assert held.number == 7
    held.release()
