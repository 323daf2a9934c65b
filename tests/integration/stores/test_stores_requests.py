# SPDX-License-Identifier: Apache-2.0
"""How many requests to the store a task makes."""

import pytest
from store_servers import Store, context, deletion_refused

from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.jobs import decisions
from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.storage import discard, names_in, remove_file, write_file

DOCUMENTS = 25


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are polled at once."""
    monkeypatch.setattr(decisions, "FIRST_WAIT", 0.01)


def test_a_chunk_task_that_waits_in_its_worker(folder: str, store: Store, emulator: RunningEmulator) -> None:
    operator = LucidworksChunkOperator(
        task_id="t",
        chunker="dynamic-sentence",
        model_id="gte-small",
        documents=[{"id": f"{number}", "text": f"Sentence {number}."} for number in range(DOCUMENTS)],
        result_path=f"{folder}/chunks.jsonl",
        deferrable=False,
        poll_interval=0.1,
    )
    store.requests()
    assert operator.execute(context())["documents"] == DOCUMENTS
    counts = store.requests()
    print(store.uri, dict(counts))
    # The record after each submission, the body of each job, the result, the record at both ends, and the file that
    # proves before the wait that bodies can be written.
    assert counts["PUT"] + counts["POST"] <= 2 * DOCUMENTS + 4, counts
    # gcsfs removes a hundred with one request, but not from an emulator.
    removals = DOCUMENTS + 1 if store.uri.startswith("gs") else 0
    assert counts["DELETE"] == removals, counts
    # The record at the begin and before the wait, and listings of its folder, for which Azure has several.
    assert counts["GET"] + counts["HEAD"] <= 14, counts


def test_a_removal_is_one_request(folder: str, store: Store) -> None:
    write_file(f"{folder}/a.txt", b"a")
    store.requests()
    remove_file(f"{folder}/a.txt")
    assert store.requests() == {"DELETE": 1}


def test_a_refusal_within_a_removal_of_many_is_reported(
    store: Store, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"{number}.json" for number in range(5)]
    for name in names:
        write_file(f"{folder}/{name}", b"a")
    with deletion_refused(store):
        store.proxy.refused.clear()
        assert not discard(*(f"{folder}/{name}" for name in names))
        # In bulk and one by one, but not all of them twice.
        assert store.proxy.refused.total() <= len(names) + 1
    assert "Files that are no longer needed remain" in caplog.text
    assert sorted(names_in(folder)) == names
    assert discard(f"{folder}/none.json", *(f"{folder}/{name}" for name in names))
    assert names_in(folder) == []
