# SPDX-License-Identifier: Apache-2.0
"""
Reads, writes and lists files on any storage of Airflow's ``ObjectStoragePath``: local disks, S3, GCS, Azure.

All functions block, and an ``ObjectStoragePath`` reads its connection when it is created, so an event loop calls them
in a thread (:func:`~lucidworks_provider.threads.in_thread`).
"""

from __future__ import annotations

import errno
import inspect
import io
import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from tenacity import Retrying, wait_fixed

from lucidworks_provider.client.http.messages import scrub
from lucidworks_provider.errors import ConfigurationError, InputError, LucidworksError, StorageError
from lucidworks_provider.retrying import retry_on

if TYPE_CHECKING:
    import pyarrow.parquet as pq

log = logging.getLogger(__name__)

# Reads a range of bytes, from a start to an end.
_Fetch = Callable[[int, int], bytes]

_LOCAL = {"file", "local"}
# Messages of ObjectStoragePath about an unknown scheme.
_UNKNOWN_SCHEME = ("No filesystem registered", "Unsupported filesystem")
# s3fs sends If-Match with every range, so that a read is of one version. It ignores an unknown connection and uses
# the worker's own credentials then.
_S3 = ("s3", "s3a", "s3n")
_GOOGLE = ("gs", "gcs")
_AZURE = ("abfs", "abfss", "adl", "az", "wasb", "wasbs")
# Several schemes for one store; OpenLineage knows it by one.
SAME_STORE = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "abfss", "az": "abfss", "wasb": "wasbs"}
# Object stores list all keys below a prefix, a thousand a request. For other file systems fsspec walks, and silently
# skips folders that it cannot read.
_FLAT = {*_S3, *_GOOGLE, *_AZURE}
# The extra for the file system of a scheme; these are the schemes of the official providers.
_EXTRAS = {
    **dict.fromkeys(_S3, "s3"),
    **dict.fromkeys(_GOOGLE, "gcs"),
    **dict.fromkeys(_AZURE[:3], "azure"),
}
_AZURE_REQUESTS = "azure.core.pipeline.policies.http_logging_policy"
# Concurrent deletions of single keys.
_REMOVALS = 16
_GLOB = "*?["
# Bytes of a range that is read of a larger object, and how many ranges of an open one are kept.
_BLOCK_BYTES, _BLOCKS = 4 << 20, 4
_REPLACED = "it was changed while it was read"
# Buckets that gcsfs reads through gRPC, without the generation.
_BY_GRPC = {"RAPID"}
# S3 refuses one of two concurrent creations with 409, and then neither may exist.
_CREATE_ATTEMPTS, _CREATE_WAIT = 3, 0.2
# Errors of hard links on file systems that do not support them.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
# Names of the modification time in the file systems.
_CHANGED = ("LastModified", "last_modified", "updated", "mtime", "modified")
# Names of the metadata that differ between two versions of an object.
_VERSION = (
    "size",
    "etag",
    "ETag",
    "generation",
    "last_modified",
    "LastModified",
    "updated",
    "mtime",
    "created",
)
# Connections that exist.
_connections: set[str] = set()
# Messages of stores about a missing bucket or container, and about missing permissions.
_NO_BUCKET = ("bucket does not exist", "NoSuchBucket", "ContainerNotFound")
_DENIED = (
    *("AccessDenied", "AuthenticationFailed", "Authorization", "Forbidden", "InvalidAccessKeyId"),
    *("PermissionError", "SignatureDoesNotMatch", "Unauthorized", "failed to authenticate", ", 401"),
)
# Seconds before a retry of azure-storage: a constant plus a base to the power of the retry's number, plus or minus a
# random part. Its own first retry comes after 18 s, so that seven faults of the store cost two minutes.
_AZURE_RETRIES = {"initial_backoff": 0, "increment_base": 1.5, "random_jitter_range": 0.5}
_QUERY = re.compile(r"\?[^\s'\"]+")


def check_uri(uri: object, what: str) -> str:
    """
    Check the URI of a file.

    :param what: the argument's name, for the message.
    """
    uri = _absolute(uri, what, "the URI of a file, e.g. file:///data/chunks.parquet")
    if uri.endswith("/"):
        raise InputError(f"{what} is {uri!r}, a folder; give the URI of a file.")
    return uri


def check_folder(uri: object, what: str) -> str:
    """
    Check the URI of a folder.

    :param what: the argument's name, for the message.
    :return: the URI without a slash at its end.
    """
    uri = _absolute(uri, what, "a URI, e.g. file:///data/catalogue or s3://bucket/catalogue")
    return uri.rstrip("/") or uri


def _absolute(uri: object, what: str, needed: str) -> str:
    if not isinstance(uri, str) or not uri.strip():
        raise InputError(f"{what} is {uri!r}; give {needed}.")
    uri = uri.strip()
    if (local := local_path(uri)) is not None and not local.is_absolute():
        # Workers and triggerers have different working directories.
        raise InputError(f"{what} is {uri!r}; give an absolute path (file:///…) or another storage's URI.")
    return uri


def comparable(uri: str) -> str:
    """For comparisons: a local path without links, or a URI without its connection and with one scheme a store."""
    local = local_path(uri)
    if local is not None:
        return str(local.resolve())
    scheme, separator, rest = plain_uri(uri).partition("://")
    return f"{SAME_STORE.get(scheme, scheme)}{separator}{rest}"


def plain_uri(uri: str) -> str:
    """
    A URI without its connection, for other programs.

    The user part of Azure's own addresses (``abfss://container@account.dfs.core.windows.net/key``) is the container,
    and stays.
    """
    scheme, separator, rest = uri.partition("://")
    authority, slash, key = rest.partition("/")
    user, _, host = authority.rpartition("@")
    if scheme in _AZURE and host.endswith(".core.windows.net") and ":" not in user:
        return uri
    return f"{scheme}{separator}{host}{slash}{key}"


def with_connection(uri: str, other: str) -> str:
    """
    The URI of another program, with the connection of another file of the same store.

    In Azure's own addresses the user part is the container.
    """
    plain = plain_uri(other)
    mine, theirs = (one.partition("://")[0] for one in (uri, other))
    if plain == other or SAME_STORE.get(mine, mine) != SAME_STORE.get(theirs, theirs):
        return uri
    conn_id = other.partition("://")[2].partition("/")[0].rpartition("@")[0]
    authority, slash, key = uri.partition("://")[2].partition("/")
    return f"{theirs}://{conn_id}@{authority.partition('@')[0]}{slash}{key}"


def split_uri(uri: str) -> tuple[str, str]:
    """Parent and name, as text: whether ``parent`` keeps the connection depends on the version of Airflow."""
    parent, _, name = uri.rpartition("/")
    return parent, name


def read_file(uri: str, most: int | None = None) -> bytes | None:
    """
    Read a file; None if there is none.

    :param most: limit of the bytes, for files that may have grown.
    :raises StorageError: the storage cannot be read.
    """
    with naming("read", uri):
        try:
            if (local := local_path(uri)) is not None:
                return local.read_bytes() if most is None else _read_start(local, most)
            path = store_path(uri)
            part: dict[str, int] = {} if most is None else {"start": 0, "end": most}
            if uri.partition("://")[0] in _S3 and _accepts(path.fs.cat_file, "max_concurrency"):
                # Otherwise newer versions of s3fs request the size first, to read parts concurrently.
                part["max_concurrency"] = 1
            try:
                return bytes(path.fs.cat_file(path.path, **part))
            except FileNotFoundError:
                # s3fs uses its cached listing, and another process may have written the file since.
                if not path.forget_listing():
                    raise
                return bytes(path.fs.cat_file(path.path, **part))
            except Exception as err:  # storages have different errors for a range of an empty file
                if most is None or _http_status(err) != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    raise
                return b""
        except (FileNotFoundError, NotADirectoryError) as err:
            if not is_absent(err):
                raise
            return None


def read_range(uri: str, start: int, length: int) -> bytes:
    """
    Read a range of bytes.

    :raises StorageError: there is no such file, or the storage cannot be read.
    """
    with naming("read", uri):
        if (local := local_path(uri)) is not None:
            with local.open("rb") as file:
                file.seek(start)
                return file.read(length)
        path = store_path(uri)
        return bytes(path.fs.cat_file(path.path, start=start, end=start + length))


@contextmanager
def reading(uri: str) -> Iterator[BinaryIO]:
    """
    Open a file for random access.

    :raises StorageError: there is no such file (its cause is a ``FileNotFoundError``), or it cannot be read, also
        later. Also if an object is replaced in between, as its parts would be of two versions.
    """
    with ExitStack() as stack:
        with naming("read", uri):
            if (local := local_path(uri)) is not None:
                file: Any = stack.enter_context(local.open("rb", buffering=0))
            else:
                file = _StoredFile(*_pinned(store_path(uri), uri.partition("://")[0], stack))
        yield cast("BinaryIO", _NamedFile(file, uri))


@contextmanager
def reading_parquet(
    uri: str, missing: Exception, damaged: Callable[[Exception], LucidworksError], **options: Any
) -> Iterator[pq.ParquetFile]:
    """
    Open a Parquet file, and name what is wrong with it, also while its rows are read.

    :param missing: raised if there is no such file.
    :param damaged: the error to raise for one of pyarrow.
    :param options: of ``pyarrow.parquet.ParquetFile``.
    :raises StorageError: the storage cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with reading(uri) as opened, pq.ParquetFile(opened, **options) as file:
            yield file
    except StorageError as err:
        if is_missing(err):
            raise missing from None
        raise
    except (OSError, pa.ArrowException) as err:
        # Errors of the storage are StorageError; pyarrow has both of these for damaged files.
        raise damaged(err) from err


def _pinned(path: StorePath, scheme: str, stack: ExitStack) -> tuple[int, _Fetch]:
    """
    The size of an object, and a function that reads a range of this version.

    :param stack: closes what the function uses.
    :raises FileNotFoundError: there is no such object.
    """
    fs, key = path
    if scheme in _S3:
        # It sends If-Match, with the etag of a listing that it remembers.
        path.forget_listing()
        file = stack.enter_context(fs.open(key, "rb", cache_type="none"))

        def fetch(start: int, end: int) -> bytes:
            file.seek(start)
            return bytes(file.read(end - start))

        return file.size, fetch
    info = path.info()
    if info.get("type") == "directory":
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
    size = int(info["size"])
    # Older versions of gcsfs ignore it.
    with_generation = scheme in _GOOGLE and _accepts(fs.url, "generation")
    if with_generation and info.get("storageClass") not in _BY_GRPC:
        return size, lambda start, end: fs.cat_file(key, start=start, end=end, generation=info["generation"])
    if scheme in _AZURE:
        return size, lambda start, end: _azure_range(fs, key, start, end, info["etag"])

    def fetch_and_check(start: int, end: int) -> bytes:
        data = bytes(fs.cat_file(key, start=start, end=end))
        if _version(path.info()) != _version(info):
            raise OSError(_REPLACED)
        return data

    return size, fetch_and_check


def _accepts(function: Callable[..., Any], argument: str) -> bool:
    return argument in inspect.signature(function).parameters


def _version(info: Mapping[str, Any]) -> list[object]:
    return [info.get(name) for name in _VERSION]


def _azure_range(fs: Any, key: str, start: int, end: int, etag: str) -> bytes:
    # adlfs does not pass the condition on.
    from azure.core import MatchConditions
    from fsspec.asyn import sync

    container, blob, _ = fs.split_path(key)

    async def fetch() -> bytes:
        async with fs.service_client.get_blob_client(container, blob) as client:
            condition = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
            stream = await client.download_blob(start, end - start, **condition)
            return bytes(await stream.readall())

    return cast("bytes", sync(fs.loop, fetch))


class _StoredFile(io.RawIOBase):
    """
    An object that is read in aligned blocks, of which some are kept: columns of Parquet files are read in turns.

    :param fetch: reads a range of bytes, by its start and its end.
    """

    def __init__(self, size: int, fetch: _Fetch) -> None:
        self._size = size
        self._position = 0
        # Without a reference to this object: a cycle would keep the blocks until the next garbage collection.
        self._block = lru_cache(_BLOCKS)(partial(_read_block, fetch, size))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(self._size - self._position, 0))
        done = 0
        while done < wanted:
            number, start = divmod(self._position, _BLOCK_BYTES)
            part = self._block(number)[start : start + wanted - done]
            buffer[done : done + len(part)] = part
            done += len(part)
            self._position += len(part)
        return done

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position


def _read_block(fetch: _Fetch, size: int, number: int) -> bytes:
    start = number * _BLOCK_BYTES
    end = min(start + _BLOCK_BYTES, size)
    try:
        block = fetch(start, end)
    except FileNotFoundError as err:
        raise OSError(_REPLACED) from err
    if len(block) != end - start:
        raise OSError(f"it has {len(block):,} bytes from {start:,} on instead of {end - start:,}")
    return block


class _NamedFile(io.RawIOBase):
    """A file whose errors name its URI."""

    def __init__(self, file: io.RawIOBase, uri: str) -> None:
        self._file = file
        self._uri = uri

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with naming("read", self._uri):
            return self._file.readinto(buffer) or 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with naming("read", self._uri):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _read_start(path: Path, most: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        wanted = min(most, os.fstat(file.fileno()).st_size + 1)
        parts: list[bytes] = []
        while wanted > 0 and (part := file.read(wanted)):
            parts.append(part)
            wanted -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def exists(uri: str) -> bool:
    """Whether there is a file or folder."""
    # Not fs.exists: some file systems return False after any error.
    return find_entry(uri) is not None


def is_file(uri: str) -> bool:
    """Whether there is a local file; False on object stores, where a folder may have the same name."""
    local = local_path(uri)
    return local is not None and local.is_file()


def is_folder(uri: str) -> bool:
    """Whether there is a local folder; False on object stores."""
    local = local_path(uri)
    return local is not None and local.is_dir()


@dataclass(frozen=True, slots=True)
class Entry:
    """
    A file or folder in a listing.

    :param name: relative to the listed folder.
    :param size: bytes; 0 for a folder, -1 for a link whose target is gone or cannot be read.
    :param etag: changes when the file does: ``etag:…`` if the store has one, else ``mtime:`` and nanoseconds. For a
        store without both, ``seen:`` and the time of the listing, so that its files never count as unchanged.
    :param modified: seconds since the epoch; None for a folder, and if the store does not have it.
    :param target: of a link to a local folder, its path without links; empty for others.
    """

    name: str
    size: int
    etag: str
    folder: bool = False
    modified: float | None = field(default=None, compare=False)
    target: str = ""


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
    Iterate over a folder in arbitrary order; a missing folder counts as empty.

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


def names_in(uri: str) -> list[str]:
    """Names of the files and folders in a folder; empty for a missing folder."""
    if (local := local_path(uri)) is None:
        return [entry.name for entry in list_folder(uri)]
    with naming("read", uri):
        try:
            return [child.name for child in local.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []


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
        # It remembers the listing of each folder below, without a limit, for readers and for the next listing.
        path.fs.invalidate_cache()
        yield from (entry for entry in _named_below(path.path, found.items()) if not entry.folder)


def list_unnamed(uri: str) -> Iterator[Entry]:
    """
    All files below folders without a name directly below a folder, as ``a//b.txt``.

    Only some object stores have them. Their file systems hide them in the listing of the folder, or show the folder
    itself for them.

    :raises StorageError: the storage cannot be read.
    """
    if uri.partition("://")[0] not in _FLAT:
        return
    with naming("read", uri):
        path = store_path(uri)
        root = path.path.rstrip("/")
        path.fs.invalidate_cache(root)
        if "abfs" in _protocols(path.fs):
            found = _unnamed_blobs(path.fs, root)
        else:
            try:
                found = path.fs.find(root, prefix="/", detail=True)
            except Exception as err:
                # MinIO has no keys with an empty folder name, and refuses to list them.
                if _http_status(err) != HTTPStatus.BAD_REQUEST:
                    raise
                found = {}
        path.fs.invalidate_cache()
        below = ((key, info) for key, info in found.items() if key.lstrip("/").startswith(f"{root}//"))
        yield from _named_below(root, below)


def _unnamed_blobs(fs: Any, root: str) -> dict[str, dict[str, Any]]:
    # adlfs removes slashes from prefixes.
    from fsspec.asyn import sync

    container, _, folder = root.partition("/")
    prefix = f"{folder}//" if folder else "/"

    async def listed() -> list[dict[str, Any]]:
        async with fs.service_client.get_container_client(container) as client:
            return [
                {"name": f"{container}/{blob.name}", "size": blob.size, "etag": blob.etag}
                async for blob in client.list_blobs(name_starts_with=prefix)
            ]

    return {info["name"]: info for info in sync(fs.loop, listed)}


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
                    if not entry.is_symlink():
                        yield Entry(entry.name, 0, "", folder=True)
                    elif _is_within(folder, entry.stat()):
                        warn("%s links to one of its parent folders; not followed.", entry.path)
                    else:
                        yield Entry(entry.name, 0, "", folder=True, target=os.path.realpath(entry.path))
                elif entry.is_file():
                    yield _local_file(entry.name, entry.stat())
                else:
                    # Raises an error if it is a link whose target is gone.
                    entry.stat()
            except OSError as err:
                if entry.is_symlink() and os.path.lexists(entry.path):
                    yield Entry(entry.name, -1, f"seen:{time.time_ns()}")
                elif not isinstance(err, FileNotFoundError):
                    raise
                # Otherwise it was deleted since the listing.


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


def write_file(uri: str, data: bytes | Sequence[bytes]) -> None:
    """
    Write a file atomically, even if the process is killed.

    :param data: large data as a sequence, which is not joined for a local file.
    :raises StorageError: the storage cannot be written.
    """
    with naming("written", uri):
        if (local := local_path(uri)) is not None:
            local.parent.mkdir(parents=True, exist_ok=True)
            with _temporary_beside(local) as temporary:
                with temporary.open("wb") as file:
                    file.writelines([data] if isinstance(data, bytes) else data)
                _replace(temporary, local)
            return
        path = store_path(uri)
        # An object store shows an object when its upload is complete.
        path.fs.pipe_file(path.path, data if isinstance(data, bytes) else b"".join(data))


def create_file(uri: str, data: bytes) -> bool:
    """
    Create a file atomically, only if it does not exist.

    :param data: unique, so that the outcome of a request without a response can be determined.
    :return: whether the file has this data.
    :raises StorageError: the storage cannot be written.
    """
    with naming("written", uri):
        if (local := local_path(uri)) is not None:
            local.parent.mkdir(parents=True, exist_ok=True)
            with _temporary_beside(local) as temporary:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                try:
                    # Unlike a rename, a link never replaces a file.
                    local.hardlink_to(temporary)
                except FileExistsError:
                    # On a network file system the response to a successful link may have been lost.
                    return temporary.stat().st_nlink > 1
                except OSError as err:
                    if err.errno not in _NO_LINKS:
                        raise
                    return _create_in_place(local, data)
            return True
    policy = retry_on(
        StorageError, attempts=_CREATE_ATTEMPTS, wait=wait_fixed(_CREATE_WAIT), what=f"Creating {uri}"
    )
    created: bool = Retrying(**policy)(_create_object, uri, data)
    return created


def _create_object(uri: str, data: bytes) -> bool:
    with naming("written", uri):
        path = store_path(uri)
        try:
            path.fs.pipe_file(path.path, data, mode="create")
        except Exception:  # storages have different errors for an existing file and for a conflict
            # Also if the file was created and the response was lost.
            if (found := read_file(uri)) is None:
                raise
            return found == data
        return True


def _create_in_place(path: Path, data: bytes) -> bool:
    """Not atomic: a process that is killed leaves a part of the file. For file systems without hard links."""
    try:
        file = path.open("xb")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


@contextmanager
def writing(uri: str) -> Iterator[Path]:
    """
    A local file, which replaces ``uri`` when the block succeeds.

    Uploads are not streamed, as some file systems commit a partial upload after an error.

    :raises StorageError: the storage cannot be written; also instead of an OSError of the block, as of a full disk.
    """
    local = local_path(uri)
    with ExitStack() as stack:
        with naming("written", uri):
            if local is not None:
                local.parent.mkdir(parents=True, exist_ok=True)
                temporary = stack.enter_context(_temporary_beside(local))
            else:
                folder = tempfile.TemporaryDirectory(prefix="lucidworks-")
                temporary = Path(stack.enter_context(folder)) / "result"
        try:
            yield temporary
        except OSError:
            with naming("written", uri):
                raise
        with naming("written", uri):
            if local is not None:
                _replace(temporary, local)
            else:
                path = store_path(uri)
                path.fs.put_file(str(temporary), path.path)


def remove_file(uri: str) -> None:
    """
    Remove a file, if it exists: exactly this key, without expanding globs.

    :raises StorageError: the storage refuses. Callers may lack this permission, so nothing may depend on it.
    """
    with naming("removed", uri):
        if (local := local_path(uri)) is not None:
            local.unlink(missing_ok=True)
            return
        path = store_path(uri)
        with suppress(FileNotFoundError):
            # Not fs.rm: it expands globs, and s3fs ignores refusals of single keys in a bulk deletion.
            path.fs.rm_file(path.path)


def remove_folder(uri: str) -> None:
    """
    Remove a folder with all files below it, if it exists.

    A symbolic link is removed, not its target.

    :raises StorageError: the storage refuses to remove a file; some files may have been removed.
    """
    with naming("removed", uri):
        if (local := local_path(uri)) is not None:
            if local.is_symlink():
                local.unlink(missing_ok=True)
            elif local.exists():
                shutil.rmtree(local)
            return
        path = store_path(uri)
        path.fs.invalidate_cache(path.path)
        try:
            _remove_keys(path.fs, path.fs.find(path.path))
        finally:
            path.fs.invalidate_cache()


def _remove_keys(fs: Any, keys: Sequence[str]) -> None:
    """Remove keys of one bucket, in bulk if possible; none of them if one cannot be addressed."""
    for key in keys:
        _check_key(fs, key, key)
    if (bulk := next((_BULK[one] for one in _protocols(fs) if one in _BULK), None)) and len(keys) > 1:
        most, remove = bulk
        try:
            for start in range(0, len(keys), most):
                remove(fs, keys[start : start + most])
            for folder in {key.rpartition("/")[0] for key in keys}:
                fs.invalidate_cache(folder)
            return
        except _RefusedKeyError:
            raise
        except Exception as err:  # noqa: BLE001  # some servers lack bulk deletion, or need another permission for it
            log.debug("%d files are removed one by one: %s", len(keys), err)
    pool = ThreadPoolExecutor(max_workers=_REMOVALS)
    try:
        # The first one alone, as a refusal is one of all.
        for some in (keys[:1], keys[1:]):
            for removed in [pool.submit(fs.rm_file, key) for key in some]:
                with suppress(FileNotFoundError):
                    removed.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _remove_s3(fs: Any, keys: Sequence[str]) -> None:
    objects = [{"Key": fs.split_path(key)[1]} for key in keys]
    bucket = fs.split_path(keys[0])[0]
    response = fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
    # s3fs ignores these.
    for error in response.get("Errors", ()):
        raise _not_removed(str(error.get("Key")), str(error.get("Code")), denied="AccessDenied")


def _remove_google(fs: Any, keys: Sequence[str]) -> None:
    if any(character in key for key in keys for character in _GLOB):
        raise ValueError("gcsfs would expand them")
    with suppress(FileNotFoundError):  # of all of them
        fs.rm(list(keys))


def _remove_azure(fs: Any, keys: Sequence[str]) -> None:
    # adlfs removes them one by one.
    from fsspec.asyn import sync

    container = fs.split_path(keys[0])[0]
    blobs = [fs.split_path(key)[1] for key in keys]

    async def remove() -> list[int]:
        async with fs.service_client.get_container_client(container) as client:
            responses = await client.delete_blobs(*blobs, raise_on_any_failure=False)
            return [response.status_code async for response in responses]

    for blob, status in zip(blobs, sync(fs.loop, remove), strict=True):
        if status not in {202, 404}:
            raise _not_removed(blob, status, denied=HTTPStatus.FORBIDDEN)


class _RefusedKeyError(PermissionError):
    """A bulk deletion was refused for a key; the same key alone would be refused, too."""


def _not_removed(key: str, why: str | int, *, denied: str | int) -> OSError:
    """:param denied: the reason that is final; after others, keys are removed one by one."""
    kind = _RefusedKeyError if why == denied else OSError
    return kind(f"{key}: {why}")


# Bulk deletion by protocol: keys per request, and the function.
_BULK: dict[str, tuple[int, Callable[[Any, Sequence[str]], None]]] = {
    "s3": (1000, _remove_s3),
    "gs": (100, _remove_google),
    "abfs": (256, _remove_azure),
}


def discard(*uris: str) -> bool:
    """
    Remove files that are no longer needed; an error of the storage is a warning.

    :param uris: of one bucket.
    :return: False after an error, when some files may remain.
    """
    return _discarded(_remove_files, uris)


def _remove_files(uris: Sequence[str]) -> None:
    if len(uris) < 2 or local_path(uris[0]) is not None:
        for uri in uris:
            remove_file(uri)
        return
    with naming("removed", uris[0]):
        paths = [store_path(uri) for uri in uris]
        _remove_keys(paths[0].fs, [path.path for path in paths])


def discard_folder(uri: str) -> bool:
    """:func:`discard` for a folder and all files below it."""
    return _discarded(remove_folder, uri)


def _discarded(remove: Callable[[Any], None], what: object) -> bool:
    try:
        remove(what)
    except StorageError as err:
        log.warning("Files that are no longer needed remain: %s", err)
        return False
    return True


@contextmanager
def _temporary_beside(target: Path) -> Iterator[Path]:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}.part")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _replace(temporary: Path, target: Path) -> None:
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(target)


def local_path(uri: str) -> Path | None:
    """The path of a local file or folder; None on another storage."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Path(uri)
    return Path(rest) if scheme in _LOCAL else None


class StorePath(NamedTuple):
    """
    A file or folder of an object store.

    :param fs: its fsspec file system.
    :param path: its exact key, with the bucket, as ``fs`` takes it.
    """

    fs: Any
    path: str

    def info(self) -> dict[str, Any]:
        """
        Current metadata.

        :raises FileNotFoundError: there is neither a file nor a folder.
        """
        # File systems use cached listings.
        self.fs.invalidate_cache(self.path)
        self.forget_listing()
        return dict(self.fs.info(self.path))

    def forget_listing(self) -> bool:
        """Remove the cached listing of its folder; returns whether there was one."""
        folder = self.path.rpartition("/")[0]
        remembered = folder in self.fs.dircache
        self.fs.invalidate_cache(folder)
        return remembered


def store_path(uri: str) -> StorePath:
    """
    The file system and the key of a URI.

    :raises ConfigurationError: the connection of the URI does not exist.
    :raises InputError: no installed package supports the scheme; names the extra.
    :raises StorageError: the file system would use another key.
    """
    from airflow.providers.common.compat.sdk import AirflowNotFoundException, ObjectStoragePath

    scheme, _, rest = uri.partition("://")
    bucket, slash, key = rest.partition("/")
    conn_id = bucket.rpartition("@")[0]
    if scheme in _AZURE:
        _quieten(_AZURE_REQUESTS)
    try:
        # Not of the whole URI: ObjectStoragePath removes a "?" at its end.
        root = ObjectStoragePath(f"{scheme}://{bucket}")
        if scheme in _S3:
            _check_connection(conn_id)
        _ = root.fs
    except AirflowNotFoundException as err:
        missing = ConfigurationError(
            f"{uri} cannot be opened: there is no connection {conn_id!r}, or Airflow cannot be reached now."
        )
        # On Airflow 3, an unreachable API server raises the same error.
        missing.retryable = True
        raise missing from err
    except (ImportError, ValueError) as err:
        if isinstance(err, ValueError) and not str(err).startswith(_UNKNOWN_SCHEME):
            raise
        raise InputError(f"{uri} cannot be opened: {err}. {_advice(scheme)}") from err
    if scheme in _AZURE:
        _retry_soon(root.fs)
    path = f"{root.path.rstrip('/')}{slash}{key}"
    _check_key(root.fs, path, uri)
    return StorePath(root.fs, path)


def _check_key(fs: Any, path: str, name: str) -> None:
    """:raises StorageError: the file system reads something else from a key, e.g. the version of another one."""
    split = getattr(fs, "split_path", None)
    taken = str(fs._strip_protocol(path)) if split is None else "/".join(split(path)[:2])
    if taken.strip("/") != path.strip("/"):
        raise StorageError(
            f"{name} cannot be addressed: {type(fs).__name__} would use {taken} instead. Choose a name "
            "without '?' and '#'."
        )


def _check_connection(conn_id: str) -> None:
    """Read a connection once in a process; raises AirflowNotFoundException."""
    from airflow.providers.common.compat.sdk import BaseHook

    if conn_id and conn_id not in _connections:
        BaseHook.get_connection(conn_id)
        _connections.add(conn_id)


def _retry_soon(fs: Any) -> None:
    # Neither the connection nor adlfs has a setting for it.
    pipeline = getattr(getattr(fs, "service_client", None), "_pipeline", None)
    for policy in getattr(pipeline, "_impl_policies", ()):
        if hasattr(policy, "initial_backoff"):
            vars(policy).update(_AZURE_RETRIES)


def _quieten(name: str) -> None:
    """Disable a logger with a line per request, unless a level is configured for it."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None and logger.name != "root":
        if logger.level:
            return
        logger = logger.parent
    logging.getLogger(name).setLevel(logging.WARNING)


def _advice(scheme: str) -> str:
    if extra := _EXTRAS.get(scheme):
        return f"On workers and triggerers: pip install 'airflow-provider-lucidworks[{extra}]'."
    if scheme in _AZURE:
        return "Use abfs:// for Azure Blob Storage."
    known = ", ".join(f"{one}://" for one in _EXTRAS)
    return f"The extras of this package support {known}; other schemes need an Airflow provider that registers them."


@contextmanager
def naming(verb: str, uri: str) -> Iterator[None]:
    """Convert the errors of storages to errors that name the URI."""
    try:
        yield
    except LucidworksError:
        raise
    except Exception as err:  # not all errors of storages are OSError
        raise StorageError(f"{uri} cannot be {verb}: {_described(err)}.{_hint(uri, verb, err)}") from err


def _described(err: BaseException) -> str:
    text = str(getattr(err, "strerror", None) or err).strip()
    # Azure's messages continue with headers and body, and messages may contain signed URLs.
    text = _QUERY.sub("?***", scrub(text.partition("\n")[0]))[:300].rstrip(".")
    code = getattr(err, "error_code", None)
    return f"{type(err).__name__}: {text}" + (f" ({getattr(code, 'value', code)})" if code else "")


def _hint(uri: str, verb: str, err: BaseException) -> str:
    """Advice about the bucket and the connection."""
    if local_path(uri) is not None:
        return ""
    conn_id, named, bucket = uri.partition("://")[2].partition("/")[0].rpartition("@")
    login = (
        f"connection {conn_id!r}" if named else "the worker's own credentials (the URI has no connection id)"
    )
    # For a write, the missing file can only be the bucket.
    if _says(err, _NO_BUCKET) or (verb == "written" and isinstance(err, FileNotFoundError)):
        return f" There is no bucket or container {bucket!r} for {login}."
    if "connection_string or account_name" in str(err):
        return (
            f" Give {login} the field account_name in its extra; the login is not used as the account name."
        )
    if _says(err, _DENIED):
        needed = ""
        if verb == "written" and uri.partition("://")[0] in _GOOGLE and _says(err, ("Forbidden",)):
            needed = " Replacing an object needs storage.objects.delete, besides storage.objects.create."
        return f" Access is denied to {login}: check the credentials and their permissions.{needed}"
    return ""


def _says(err: BaseException | None, words: Sequence[str]) -> bool:
    """Whether an error or one of its causes has one of these words."""
    while err is not None:
        text = f"{type(err).__name__} {err} {getattr(err, 'error_code', '')}"
        if any(word in text for word in words):
            return True
        err = err.__cause__ or err.__context__
    return False


def _http_status(err: BaseException | None) -> int | None:
    """The status of the response that an error or one of its causes is about."""
    while err is not None:
        response = getattr(err, "response", None)
        metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        found = (
            metadata.get("HTTPStatusCode"),
            *(getattr(err, name, None) for name in ("status_code", "code")),
        )
        if status := next((one for one in found if isinstance(one, int)), None):
            return status
        err = err.__cause__ or err.__context__
    return None


def is_absent(err: OSError) -> bool:
    """Whether an error means that a file or folder does not exist, and not its bucket."""
    return isinstance(err, FileNotFoundError | NotADirectoryError) and not _says(err, _NO_BUCKET)


def is_missing(err: StorageError) -> bool:
    """Whether the cause of an error is that a file does not exist."""
    return isinstance(err.__cause__, OSError) and is_absent(err.__cause__)


def arrow_place(uri: str) -> tuple[Any, str]:
    """A file system for pyarrow, and the path in it."""
    if (local := local_path(uri)) is not None:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(local)
    path = store_path(uri)
    return path.fs, path.path


def free_bytes(uri: str) -> int | None:
    """Free space of a local folder, which need not exist; None for other storages."""
    local = local_path(uri)
    while local is not None and not local.exists() and local != local.parent:
        local = local.parent
    return None if local is None else shutil.disk_usage(local).free
