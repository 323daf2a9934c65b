# SPDX-License-Identifier: Apache-2.0
"""
Records of runs, ``runs/NNNNNNNN.json`` below the output or the folder of a shard.

A run writes its record before its first commit. The next run completes an interrupted run from it, and a retry of the
same task returns what it says. Records are outside both tables, where no VACUUM removes them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lucidworks_provider.corpus.dataset import RUNS, below
from lucidworks_provider.corpus.parts import Part
from lucidworks_provider.corpus.upserts import Counts
from lucidworks_provider.errors import InputError
from lucidworks_provider.storage import discard, names_in, read_file, write_file

log = logging.getLogger(__name__)

# Older records are removed.
KEPT_RUN_RECORDS = 30


@dataclass(frozen=True, slots=True)
class RunRecord:
    """
    A run, from the moment before its first commit.

    :param number: of its lease, and its transaction identifier.
    :param task: identifies the task instance.
    :param journal: folder of its journal.
    :param returned: what its task returns.
    :param version: of ``chunks``; None for a staged shard.
    :param upserts: the ``add`` action of the file of upserts, which is at :func:`rows_path` until its commit.
    :param transactions: transaction identifiers of ``documents`` in addition to those of every run.
    :param base: number of the run that ``documents`` must be at before the second commit.
    :param parts: paths of the files that the run has written.
    """

    number: int
    task: Mapping[str, Any]
    journal: str
    returned: Mapping[str, Any]
    version: int | None = None
    upserts: Mapping[str, Any] | None = None
    transactions: Mapping[str, int] = field(default_factory=dict)
    base: int = 0
    parts: Sequence[str] = ()

    def to_json(self) -> bytes:
        plain = asdict(self)
        # The name in files of version 0.1.
        plain["me"] = plain.pop("task")
        return json.dumps(plain, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> RunRecord:
        """:raises ValueError, TypeError, KeyError, AttributeError: it is not a record."""
        plain = json.loads(data)
        task = plain.pop("me")
        return cls(**plain, task=task)


def write_run_record(folder: str, record: RunRecord) -> None:
    """
    Write a record, over that of an earlier attempt of the same run.

    :param folder: URI of the output or of the folder of a shard.
    """
    write_file(_record_uri(folder, record.number), record.to_json())


def read_run_record(folder: str, number: int) -> RunRecord | None:
    """
    Read a record; None if there is none.

    :raises InputError: the file is not a record.
    """
    if (data := read_file(_record_uri(folder, number))) is None:
        return None
    try:
        return RunRecord.from_json(data)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(
            f"{_record_uri(folder, number)} is not the record of a run. Restore it, or choose another output."
        ) from None


def run_numbers(folder: str, suffix: str = ".json") -> list[int]:
    """Numbers of the runs that have a file with this suffix, the last one first."""
    names = (name.removesuffix(suffix) for name in names_in(below(folder, RUNS)))
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def delete_old_records(folder: str) -> None:
    """Keep the last :data:`KEPT_RUN_RECORDS`."""
    discard(*(_record_uri(folder, number) for number in run_numbers(folder)[KEPT_RUN_RECORDS:]))


def _record_uri(folder: str, number: int) -> str:
    return below(folder, f"{RUNS}/{number:08}.json")


def rows_path(number: int) -> str:
    """Path below the output of a run's new rows of ``documents``, until their commit."""
    return f"{RUNS}/{number:08}.parquet"


def find_returned(
    folder: str, task: Mapping[str, Any], published: int | None, *, all_runs: bool
) -> dict[str, Any] | None:
    """
    What an earlier try of a task has returned, if that try was complete.

    :param published: number of the last run in the tables; None for a shard, whose runs only have to be staged.
    :param all_runs: also search runs before the last one: another task may have run between the two tries.
    """
    expected = published
    for number in run_numbers(folder):
        # A run without its commit is not the base of a later one.
        if expected in {None, number} and (record := read_run_record(folder, number)) is not None:
            if record.task == task:
                log.info("An earlier try of this task was complete, so its result is returned.")
                return dict(record.returned)
            if not all_runs:
                break
            expected = None if published is None else record.base
    return None


def find_returned_before_clear(
    last: RunRecord | None, task: Mapping[str, Any], parts: Sequence[Part], counts: Counts
) -> dict[str, Any] | None:
    """
    What a task returned before it was cleared, if nothing has changed since.

    Tasks after it may not have run with that result, and an empty delta would hide its changes from them.
    """
    if last is None or last.task.get("instance") != task["instance"] or parts or counts != Counts(0, 0, 0, 0):
        return None
    log.info("Nothing has changed since an earlier try of this task, so its result is returned.")
    return dict(last.returned)
