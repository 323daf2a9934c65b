# SPDX-License-Identifier: Apache-2.0
"""Lists folders of any storage: names, sizes and etags."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from lucidworks_provider.storage import is_absent, local_path, naming, split_uri, store_path

log = logging.getLogger(__name__)

# Object stores, which list all keys below a prefix, a thousand a request. For other file systems fsspec walks, and
# silently skips folders that it cannot read.
_FLAT = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
# Names of the modification time in the file systems.
_CHANGED = ("LastModified", "last_modified", "updated", "mtime", "modified")


@dataclass(frozen=True, slots=True)
class Entry:
    """
    A file or folder in a listing.

    :param name: relative to the listed folder.
    :param size: bytes; 0 for a folder, -1 for a link that cannot be followed.
    :param etag: changes when the file does: ``etag:…`` if the store has one, else ``mtime:`` and nanoseconds. For a
        store without both, ``seen:`` and the time of the listing, so that its files never count as unchanged.
    :param modified: seconds since the epoch; None for a folder, and if the store does not have it.
    """

    name: str
    size: int
    etag: str
    folder: bool = False
    modified: float | None = field(default=None, compare=False)


def find_entry(uri: str) -> Entry | None:
    """The entry of a file or folder; None if there is none."""
    name = split_uri(uri.rstrip("/"))[1]
    with naming("read", uri):
        try:
            if (local := local_path(uri)) is not None:
                found = local.stat()
                if stat.S_ISDIR(found.st_mode):
                    return Entry(name, 0, "", folder=True)
                return _local_file(name, found) if stat.S_ISREG(found.st_mode) else None
            return _stored(name, store_path(uri).info())
        except (FileNotFoundError, NotADirectoryError) as err:
            if not is_absent(err):
                raise
            return None


def list_folder(uri: str, warn: Callable[..., None] = log.warning) -> Iterator[Entry]:
    """
    Iterate over a folder, in no order; a missing folder is empty.

    A local folder is read during the iteration, one of a store at once. Links are followed, except to a parent
    folder, which is a warning; anything but files and folders is skipped.

    :param warn: called with a message and its values.
    :raises StorageError: the folder cannot be read.
    """
    with naming("read", uri):
        if (local := local_path(uri)) is not None:
            yield from _scan(local, warn)
            return
        path = store_path(uri)
        path.fs.invalidate_cache(path.path)
        try:
            found = path.fs.ls(path.path, detail=True)
        except (FileNotFoundError, NotADirectoryError) as err:
            if not is_absent(err):
                raise
            return
        path.fs.invalidate_cache(path.path)
        yield from _named_below(path.path, ((info["name"], info) for info in found))


def list_below(uri: str) -> Iterator[Entry] | None:
    """
    All files below a folder in few requests; None for a storage that can only list single folders.

    :raises StorageError: the storage cannot be read.
    """
    if uri.partition("://")[0] not in _FLAT:
        return None
    return _list_below(uri)


def _list_below(uri: str) -> Iterator[Entry]:
    with naming("read", uri):
        path = store_path(uri)
        path.fs.invalidate_cache(path.path)
        found = path.fs.find(path.path, detail=True)
        if isinstance(found, list):
            # adlfs cannot list a folder if a blob has its name, but it can list a prefix.
            above, _, name = path.path.rstrip("/").rpartition("/")
            found = path.fs.find(above, prefix=name, detail=True)
            found = {key: info for key, info in found.items() if key.startswith(f"{above}/{name}/")}
        path.fs.invalidate_cache(path.path)
        yield from (entry for entry in _named_below(path.path, found.items()) if not entry.folder)


def _named_below(root: str, found: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Entry]:
    # Some file systems return keys with a leading slash.
    root = root.strip("/")
    start = len(root) + 1 if root else 0
    folders = set()
    for full, info in found:
        name = full.lstrip("/")[start:]
        if name.endswith("/") and info.get("type") != "directory":
            continue  # a marker object that some tools create for a folder
        # A store may also have an object with the folder's own name.
        if name := name.rstrip("/"):
            entry = _stored(name, info)
            # Azure lists a folder with a marker blob twice.
            if not entry.folder or name not in folders:
                yield entry
            if entry.folder:
                folders.add(name)


def _scan(folder: Path, warn: Callable[..., None]) -> Iterator[Entry]:
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            try:
                if entry.is_dir():
                    if entry.is_symlink() and _is_within(folder, entry.stat()):
                        warn("%s links to one of its parent folders; not followed.", entry.path)
                    else:
                        yield Entry(entry.name, 0, "", folder=True)
                elif entry.is_file():
                    yield _local_file(entry.name, entry.stat())
            except FileNotFoundError:
                continue  # deleted since the listing
            except OSError:
                if not entry.is_symlink():
                    raise
                # A link to itself or into an unreadable folder; reading it raises an error.
                yield Entry(entry.name, -1, f"seen:{time.time_ns()}")


def _is_within(folder: Path, target: os.stat_result) -> bool:
    return any(os.path.samestat(target, parent.stat()) for parent in (folder, *folder.parents))


def _local_file(name: str, found: os.stat_result) -> Entry:
    return Entry(name, found.st_size, f"mtime:{found.st_mtime_ns}", modified=found.st_mtime)


def _stored(name: str, info: Mapping[str, Any]) -> Entry:
    """The entry of an object; file systems have different names for the same values."""
    if info.get("type") == "directory":
        return Entry(name, 0, "", folder=True)
    size = int(info.get("size") or 0)
    changed = next((info[key] for key in _CHANGED if info.get(key)), None)
    modified = _seconds(changed or info.get("created"))
    if etag := info.get("ETag") or info.get("etag"):
        return Entry(name, size, f"etag:{str(etag).strip(chr(34))}", modified=modified)
    if changed and modified is not None and not isinstance(changed, str):
        return Entry(name, size, f"mtime:{modified * 1e9:.0f}", modified=modified)
    # Some file systems have the time as text.
    return Entry(name, size, f"mtime:{changed}" if changed else f"seen:{time.time_ns()}", modified=modified)


def _seconds(changed: object) -> float | None:
    if isinstance(changed, str):
        try:
            changed = datetime.fromisoformat(changed)
        except ValueError:
            return None
    if isinstance(changed, datetime):
        return changed.timestamp()
    return float(changed) if isinstance(changed, int | float) else None
