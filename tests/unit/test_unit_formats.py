# SPDX-License-Identifier: Apache-2.0
"""
What 0.1 has written is read: these texts lie on people's storage, and are never changed here.

A format that has to change gets another number and another text beside these; docs/upgrading.md says what that costs.
"""

from __future__ import annotations

import json

import pytest

from lucidworks_provider.auth.token import AccessToken
from lucidworks_provider.corpus.lease import Claim
from lucidworks_provider.documents.dataset import Snapshot
from lucidworks_provider.jobs.record import JobRecord

RECORD = """{"fingerprint": "5f0c", "life": 2, "nonce": "9d3b", "revision": 7, "jobs": {"0": "job-a", "2": "job-c"},
    "intent": 1, "resubmitted": [2], "failed": [0], "result": null, "version": 1}"""
SNAPSHOT = """{"version": 1, "documents": 2, "chunks": 3, "tokens": 14, "id": "20261123T020412.118201Z",
    "created": "2026-11-23T02:04:12.118201+00:00", "options": {"chunker": "sentence", "model_id": "gte-small"},
    "dimension": 384, "parts": [{"data": "data/a.parquet", "index": "index/a.parquet", "documents": 2, "chunks": 3,
    "tokens": 14, "bytes": 6418}], "rejects": 1, "run": {"instance": ["d", "r", "t", -1], "life": 2},
    "manifest": {"documents": 2}, "journal": "77ab"}"""
LEASE = """{"holder": {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 2,
    "host": "worker-1", "pid": 77, "process": "boot 12345"},
    "nonce": "9d3b", "beat": 4, "since": "2026-11-23T02:04:12+00:00", "released": false}"""
TOKEN = """[2, "a-token-that-is-no-token", [1000.0, 4300.0, 4600.0], [[990.0], 980.0, 1, 0.0]]"""


def test_the_record_of_a_tasks_jobs() -> None:
    record = JobRecord.from_json(RECORD)
    assert record is not None
    assert (record.jobs, record.intent, record.failed) == ({0: "job-a", 2: "job-c"}, 1, {0})
    assert json.loads(record.to_json()) == json.loads(RECORD)


def test_the_snapshot_of_a_dataset() -> None:
    snapshot = Snapshot.from_json(SNAPSHOT.encode())
    assert (snapshot.chunks, snapshot.parts[0].data, snapshot.journal) == (3, "data/a.parquet", "77ab")
    assert json.loads(snapshot.to_json()) == json.loads(SNAPSHOT)


def test_the_lease_of_a_dataset() -> None:
    claim = Claim.from_json(LEASE.encode())
    assert claim.holder is not None
    assert json.loads(claim.to_json()) == json.loads(LEASE)


def test_the_shared_token() -> None:
    token = AccessToken.from_json(TOKEN)
    assert (token.issued_at, token.refresh_at, token.expires_at) == (1000.0, 4300.0, 4600.0)
    assert json.loads(token.to_json()) == json.loads(TOKEN)


def test_another_number_is_refused() -> None:
    assert JobRecord.from_json(RECORD.replace('"version": 1', '"version": 2')) is None
    with pytest.raises(ValueError, match="another version"):
        Snapshot.from_json(SNAPSHOT.replace('"version": 1', '"version": 2').encode())
    with pytest.raises(ValueError, match="of this version"):
        AccessToken.from_json(TOKEN.replace("[2,", "[3,"))
