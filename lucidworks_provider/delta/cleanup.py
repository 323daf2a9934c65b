# SPDX-License-Identifier: Apache-2.0
"""Vacuum of data files and deletion vectors, and cleanup of the log."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from lucidworks_provider.delta.log import (
    LOG,
    DataFile,
    LogFiles,
    Table,
    check_writable,
    commit_name,
    file_uri,
)
from lucidworks_provider.errors import StorageError
from lucidworks_provider.storage import Entry, discard, list_folder

log = logging.getLogger(__name__)

_VECTORS = re.compile(r"deletion_vector_[0-9a-f-]{36}\.bin")
_LOG_FILE = re.compile(r"(\d{20})\.(?:json|crc|checkpoint\..+|\d{20}\.compacted\.json)")
# Local temporary files of killed processes.
_TEMPORARY = re.compile(r"\..+\.part")


def vacuum(table: Table, retention_s: float, now: float, ours: re.Pattern[str]) -> int:
    """
    Remove data files and deletion vectors that no version within the retention refers to.

    Files with a tombstone expire by its timestamp. Files that are not in the log, e.g. of a killed process, expire by
    their modification time if this package's writers make such names. All others stay, as do files in subfolders.

    :param table: the newest version; files of later versions would count as not in the log.
    :param ours: pattern of the names of this package's data files.
    :return: the number of files removed. An error of the storage is a warning.
    :raises InputError: the table uses features that this package does not implement.
    """
    check_writable(table)
    kept: set[str] = set()
    expired: set[str] = set()
    for file in table.files.values():
        kept.update(file.paths)
    for found in table.tombstones.values():
        young = (found.get("deletionTimestamp") or 0) > (now - retention_s) * 1000
        (kept if young else expired).update(DataFile.from_action(found).paths)
    # By name only, as absolute paths may spell the folder differently.
    kept = {path.rpartition("/")[2] for path in kept}

    def unneeded(entry: Entry) -> bool:
        if entry.folder or entry.name in kept:
            return False
        made_here = any(pattern.fullmatch(entry.name) for pattern in (ours, _VECTORS, _TEMPORARY))
        return entry.name in expired or (made_here and _older(entry, now - retention_s))

    return _remove(table.uri, [entry.name for entry in _listed(table.uri) if unneeded(entry)])


def clean_log(table: Table, retention_s: float, now: float) -> int:
    """
    Remove log files that no version within the retention needs: those before the newest checkpoint that is older than
    the retention.

    :return: the number of files removed. An error of the storage is a warning.
    :raises InputError: the table uses features that this package does not implement.
    """
    check_writable(table)
    place = file_uri(table.uri, LOG)
    entries = {entry.name: entry for entry in _listed(place)}
    files = LogFiles.of(entries)
    # The newest of the old commits was current when the retention began.
    old = (version for version in files.commits if _older(entries[commit_name(version)], now - retention_s))
    first = max(old, default=-1)
    base = max((version for version in files.checkpoints if version <= first), default=-1)
    names = [
        name
        for name, entry in sorted(entries.items())
        if ((found := _LOG_FILE.fullmatch(name)) and int(found[1]) < base)
        or (_TEMPORARY.fullmatch(name) and _older(entry, now - retention_s))
    ]
    return _remove(place, names)


def _older(entry: Entry, limit: float) -> bool:
    return entry.modified is not None and entry.modified <= limit


def _listed(place: str) -> list[Entry]:
    try:
        return list(list_folder(place))
    except StorageError as err:
        log.warning("Files that are no longer needed remain: %s", err)
        return []


def _remove(folder: str, names: Iterable[str]) -> int:
    removed = 0
    for name in names:
        # In order, and only until the first error, so that the log has no gaps.
        if not discard(f"{folder}/{name}"):
            break
        removed += 1
    return removed
