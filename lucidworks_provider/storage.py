# SPDX-License-Identifier: Apache-2.0
"""
Places on any storage that Airflow's ``ObjectStoragePath`` reaches: local disks, S3, GCS, Azure.

Everything here blocks, and ``ObjectStoragePath`` may fetch its connection when it is made, so on an event
loop all of it runs in a thread (:func:`~lucidworks_provider.threads.in_thread`).
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from lucidworks_provider.client.api.http import scrub
from lucidworks_provider.errors import ConfigurationError, InputError, LucidworksError, StorageError

log = logging.getLogger(__name__)

_LOCAL = {"file", "local"}
# What ObjectStoragePath says of a scheme that it does not know.
_UNKNOWN_SCHEME = ("No filesystem registered", "Unsupported filesystem")
# The extra that brings the file system of a scheme; these are the schemes of the official providers.
_EXTRAS = {
    **dict.fromkeys(("s3", "s3a", "s3n"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("abfs", "abfss", "adl"), "azure"),
}
_AZURE = {"abfs", "abfss", "az", "adl", "wasb", "wasbs"}
_AZURE_REQUESTS = "azure.core.pipeline.policies.http_logging_policy"
# Concurrent deletions on an object store, which takes one key per request.
_REMOVALS = 16
_GLOB = "*?["
_READ_AHEAD = 4 << 20
# S3 answers 409 to one of two concurrent creations, and then neither may exist: tries, and seconds between them.
_CREATIONS, _CREATION_PAUSE = 3, 0.2
# Of a link, on file systems that have none.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
# s3fs sends If-Match with every range.
_PINNED = {"s3", "s3a"}
# What file systems call the facts that differ between two versions of an object.
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
# S3's file system takes an unknown connection for none, and uses the worker's own credentials.
_SILENT = {"s3", "s3a", "s3n"}
# Connections that were there.
_connections: set[str] = set()
# What stores say of a bucket or container that does not exist, and of credentials that are wrong or not enough.
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
    Refuse what names no file.

    :param what: the argument's name, for the message.
    """
    if not isinstance(uri, str) or not uri.strip():
        raise InputError(f"{what} is {uri!r}; give the URI of a file, e.g. file:///data/chunks.parquet.")
    uri = uri.strip()
    if (local := local_path(uri)) is not None and not local.is_absolute():
        # Worker and triggerer have working directories of their own.
        raise InputError(f"{what} is {uri!r}; give an absolute path (file:///…) or another storage's URI.")
    if uri.endswith("/"):
        raise InputError(f"{what} is {uri!r}, a folder; give the URI of a file.")
    return uri


def check_folder(uri: object, what: str) -> str:
    """
    Refuse what names no place that all workers know.

    :param what: the argument's name, for the message.
    :return: the URI without a slash at its end.
    """
    if not isinstance(uri, str) or not uri.strip():
        raise InputError(
            f"{what} is {uri!r}; give a URI, e.g. file:///data/catalogue or s3://bucket/catalogue."
        )
    uri = uri.strip()
    if (local := local_path(uri)) is not None and not local.is_absolute():
        raise InputError(f"{what} is {uri!r}; give an absolute path (file:///…) or another storage's URI.")
    return uri.rstrip("/") or uri


def split_uri(uri: str) -> tuple[str, str]:
    """Parent and name. As text, since what ``/`` and ``parent`` keep of a path's connection varies by version."""
    parent, _, name = uri.rpartition("/")
    return parent, name


def read_file(uri: str, most: int | None = None) -> bytes | None:
    """
    A file's content, or None where there is none.

    :param most: so many bytes of it at most, for files that may have grown; on object stores a file that
        is empty cannot be asked for with it.
    :raises StorageError: the storage cannot be read.
    """
    with naming("read", uri):
        try:
            if (local := local_path(uri)) is not None:
                return local.read_bytes() if most is None else _read_start(local, most)
            path = store_path(uri)
            part: dict[str, int] = {} if most is None else {"start": 0, "end": most}
            if uri.partition("://")[0] in _PINNED:
                # s3fs would ask for the size first, to read parts at once.
                part["max_concurrency"] = 1
            try:
                return bytes(path.fs.cat_file(path.path, **part))
            except FileNotFoundError:
                # s3fs asks the listing that it remembers, and another process may have written the file since.
                if not path.forget_listing():
                    raise
                return bytes(path.fs.cat_file(path.path, **part))
        except (FileNotFoundError, NotADirectoryError) as err:
            if not is_absent(err):
                raise
            return None


@contextmanager
def reading(uri: str) -> Iterator[BinaryIO]:
    """
    Open a file to read it piece by piece, anywhere in it.

    :raises StorageError: there is no such file (its cause is a ``FileNotFoundError``), or it cannot be read,
        then or later: a file that fails in the middle says so in the same words. Also if an object is replaced
        meanwhile: its parts would be of two versions, or end where the first one did.
    """
    pinned: _Version | None = None
    with ExitStack() as stack:
        with naming("read", uri):
            if (local := local_path(uri)) is not None:
                file = stack.enter_context(local.open("rb", buffering=0))
            else:
                path = store_path(uri)
                if uri.partition("://")[0] not in _PINNED:
                    pinned = _Version(path)
                # Some would read 50 MB ahead.
                file = stack.enter_context(path.fs.open(path.path, "rb", block_size=_READ_AHEAD))
        yield cast("BinaryIO", _NamedFile(file, uri, pinned))


class _Version:
    """The version of an object that is being read, on a store whose file system does not pin it by itself."""

    def __init__(self, path: StorePath) -> None:
        self._path = path
        self._seen = self._look()

    def check(self) -> None:
        """:raises OSError: the object was replaced."""
        if self._look() != self._seen:
            raise OSError("it was changed while it was read")

    def _look(self) -> list[object]:
        info = self._path.info()
        return [info.get(name) for name in _VERSION]


class _NamedFile(io.RawIOBase):
    """A file whose errors name its URI, and which stays one version of an object."""

    def __init__(self, file: Any, uri: str, pinned: _Version | None) -> None:
        self._file = file
        self._uri = uri
        self._pinned = pinned

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with naming("read", self._uri):
            data = self._file.read(len(buffer))
            if self._pinned is not None:
                self._pinned.check()
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with naming("read", self._uri):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())


def _read_start(path: Path, most: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        wanted = min(most, os.fstat(file.fileno()).st_size + 1)
        parts: list[bytes] = []
        while wanted > 0 and (part := file.read(wanted)):
            parts.append(part)
            wanted -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def exists(uri: str) -> bool:
    """Whether there is such a file or folder."""
    with naming("read", uri):
        if (local := local_path(uri)) is not None:
            return local.exists()
        path = store_path(uri)
        path.forget_listing()
        return bool(path.fs.exists(path.path))


def is_file(uri: str) -> bool:
    """Whether there is a file of that name on a local disk; stores can have both."""
    local = local_path(uri)
    return local is not None and local.is_file()


def without_scheme(uri: str) -> str:
    """A local path in one spelling, other URIs as they are: to compare two of them."""
    local = local_path(uri)
    return str(local.resolve()) if local is not None else uri


def is_folder(uri: str) -> bool:
    """Whether there is a folder of that name (never on stores that have none)."""
    local = local_path(uri)
    return local is not None and local.is_dir()


def write_file(uri: str, data: bytes | Sequence[bytes]) -> None:
    """
    Write a file that is there wholly or not at all, also when the process is killed meanwhile.

    :param data: of many megabytes better in pieces, which are not copied into one where that can be helped.
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
    Write a file only if there is none of that name, in one step.

    :param data: not what another process would write, so that the answer to a lost request can be found out.
    :return: whether the file is this one.
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
                    # Unlike a renaming, a link never replaces.
                    local.hardlink_to(temporary)
                except FileExistsError:
                    # A network file system may have lost the reply to a link that was made.
                    return temporary.stat().st_nlink > 1
                except OSError as err:
                    if err.errno not in _NO_LINKS:
                        raise
                    return _create_in_place(local, data)
            return True
        path = store_path(uri)
        for last in (*(False,) * (_CREATIONS - 1), True):
            try:
                path.fs.pipe_file(path.path, data, mode="create")
                return True
            except Exception:  # each storage has errors of its own for "it exists" and for a conflict
                # Also: it was created, and the answer was lost.
                if (found := read_file(uri)) is not None:
                    return found == data
                if last:
                    raise
            time.sleep(_CREATION_PAUSE)
        raise AssertionError


def _create_in_place(path: Path, data: bytes) -> bool:
    """For file systems without links. A process that is killed meanwhile leaves a file in part."""
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
    A local file to fill, which takes the place of ``uri`` when the block ends well.

    Built locally, since a half-written upload of some stores is committed by its error handling.

    :raises StorageError: the storage cannot be written. What the block raises passes as it is.
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
        yield temporary
        with naming("written", uri):
            if local is not None:
                _replace(temporary, local)
            else:
                path = store_path(uri)
                path.fs.put_file(str(temporary), path.path)


def remove_file(uri: str) -> None:
    """
    Remove one file, if it exists: exactly this key, whatever characters it has.

    :raises StorageError: the storage refuses. Not every caller may delete, so nothing may depend on this.
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

    :raises StorageError: the storage refuses to remove a file; some files may be gone by then.
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
        _remove_keys(path.fs, path.fs.find(path.path))


def _remove_keys(fs: Any, keys: Sequence[str]) -> None:
    """Remove exact keys of one bucket, with one request for many of them where the file system has that."""
    if (bulk := next((_BULK[one] for one in _protocols(fs) if one in _BULK), None)) and len(keys) > 1:
        most, remove = bulk
        try:
            for start in range(0, len(keys), most):
                remove(fs, keys[start : start + most])
            for folder in {key.rpartition("/")[0] for key in keys}:
                fs.invalidate_cache(folder)
            return
        except Exception as err:  # noqa: BLE001  # some servers lack this request, or need another permission for it
            log.debug("%d files are removed one by one: %s", len(keys), err)
    pool = ThreadPoolExecutor(max_workers=_REMOVALS)
    try:
        for removed in [pool.submit(fs.rm_file, key) for key in keys]:
            with suppress(FileNotFoundError):
                removed.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _remove_s3(fs: Any, keys: Sequence[str]) -> None:
    objects = [{"Key": fs.split_path(key)[1]} for key in keys]
    bucket = fs.split_path(keys[0])[0]
    answer = fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
    # s3fs' own removal of many ignores them.
    for error in answer.get("Errors", ()):
        raise OSError(f"{error.get('Key')}: {error.get('Code')}")


def _remove_google(fs: Any, keys: Sequence[str]) -> None:
    if any(character in key for key in keys for character in _GLOB):
        raise ValueError("gcsfs would expand them")
    with suppress(FileNotFoundError):  # of all of them
        fs.rm(list(keys))


# By protocol of the file system: how many keys one request removes, and the function for it. Azure's batches are not
# offered by adlfs.
_BULK: dict[str, tuple[int, Callable[[Any, Sequence[str]], None]]] = {
    "s3": (1000, _remove_s3),
    "gs": (100, _remove_google),
}


def discard(*uris: str) -> bool:
    """
    Remove files that are no longer needed, if the storage allows it: a refusal is a warning.

    :param uris: of one bucket.
    :return: False after a refusal; of the others some may be left.
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
        Its metadata as they are now.

        :raises FileNotFoundError: there is neither a file nor a folder.
        """
        # File systems answer from cached listings, with the sizes of that moment.
        self.fs.invalidate_cache(self.path)
        self.forget_listing()
        return dict(self.fs.info(self.path))

    def forget_listing(self) -> bool:
        """Forget the remembered listing of its folder; whether there was one."""
        folder = self.path.rpartition("/")[0]
        remembered = folder in self.fs.dircache
        self.fs.invalidate_cache(folder)
        return remembered


def store_path(uri: str) -> StorePath:
    """
    The file system and the key of a URI.

    :raises ConfigurationError: there is no connection of the id that it names.
    :raises InputError: nothing that is installed knows the scheme; names the extra that does.
    :raises StorageError: the file system would take it for another key.
    """
    from airflow.providers.common.compat.sdk import AirflowNotFoundException, ObjectStoragePath

    scheme, _, rest = uri.partition("://")
    bucket, slash, key = rest.partition("/")
    conn_id = bucket.rpartition("@")[0]
    if scheme in _AZURE:
        _quieten(_AZURE_REQUESTS)
    try:
        # Not of the whole URI: ObjectStoragePath takes a "?" at its end for an empty query.
        root = ObjectStoragePath(f"{scheme}://{bucket}")
        if scheme in _SILENT:
            _check_connection(conn_id)
        _ = root.fs
    except AirflowNotFoundException as err:
        missing = ConfigurationError(
            f"{uri} cannot be opened: there is no connection {conn_id!r}, or Airflow cannot be asked for it now."
        )
        # On Airflow 3 an API server that gives no answer looks the same.
        missing.retryable = True
        raise missing from err
    except (ImportError, ValueError) as err:
        if isinstance(err, ValueError) and not str(err).startswith(_UNKNOWN_SCHEME):
            raise
        raise InputError(f"{uri} cannot be opened: {err}. {_advice(scheme)}") from err
    if scheme in _AZURE:
        _retry_soon(root.fs)
    path = f"{root.path.rstrip('/')}{slash}{key}"
    if (taken := str(root.fs._strip_protocol(path))).strip("/") != path.strip("/"):
        raise StorageError(
            f"{uri} cannot be addressed: {type(root.fs).__name__} takes it for {taken}. Choose a name without "
            "'?' and '#'."
        )
    return StorePath(root.fs, path)


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
    """Keep a logger of one line a request from the task's log, unless a level was chosen for it."""
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
        return "Airflow knows Azure Blob Storage as abfs://."
    known = ", ".join(f"{one}://" for one in _EXTRAS)
    return (
        f"Extras of this package bring {known}; other schemes need an Airflow provider that registers them."
    )


@contextmanager
def naming(verb: str, uri: str) -> Iterator[None]:
    """Turn what a storage raises into an error that names the place."""
    try:
        yield
    except LucidworksError:
        raise
    except Exception as err:  # every storage has errors of its own, not all of them OSError
        raise StorageError(f"{uri} cannot be {verb}: {_described(err)}.{_hint(uri, verb, err)}") from err


def _described(err: BaseException) -> str:
    text = str(getattr(err, "strerror", None) or err).strip()
    # Azure's go on with the answer's headers and body. Texts of storage libraries may quote a signed URL.
    text = _QUERY.sub("?***", scrub(text.partition("\n")[0]))[:300].rstrip(".")
    code = getattr(err, "error_code", None)
    return f"{type(err).__name__}: {text}" + (f" ({getattr(code, 'value', code)})" if code else "")


def _hint(uri: str, verb: str, err: BaseException) -> str:
    """What a store's error means for its bucket and its connection."""
    if local_path(uri) is not None:
        return ""
    conn_id, named, bucket = uri.partition("://")[2].partition("/")[0].rpartition("@")
    login = (
        f"connection {conn_id!r}" if named else "the worker's own credentials, as the URI names no connection"
    )
    # A key need not be there to be written.
    if _says(err, _NO_BUCKET) or (verb == "written" and isinstance(err, FileNotFoundError)):
        return f" There is no bucket or container {bucket!r} for {login}."
    if "connection_string or account_name" in str(err):
        return f" Give {login} the field account_name in its extra; its login is not taken for it."
    if _says(err, _DENIED):
        return f" Access is denied to {login}: look at the credentials, and at what they permit."
    return ""


def _says(err: BaseException | None, words: Sequence[str]) -> bool:
    """Whether an error or one of its causes has some of these words."""
    while err is not None:
        text = f"{type(err).__name__} {err} {getattr(err, 'error_code', '')}"
        if any(word in text for word in words):
            return True
        err = err.__cause__ or err.__context__
    return False


def is_absent(err: OSError) -> bool:
    """Whether an error says that there is no such file or folder, in a bucket that exists."""
    return isinstance(err, FileNotFoundError | NotADirectoryError) and not _says(err, _NO_BUCKET)


def names_in(uri: str) -> list[str]:
    """Names of the files and folders in a folder; none where there is no such folder."""
    with naming("read", uri):
        try:
            if (local := local_path(uri)) is not None:
                return [child.name for child in local.iterdir()]
            path = store_path(uri)
            # A listing may come from a cache of the file system's own.
            path.fs.invalidate_cache(path.path)
            found = path.fs.ls(path.path, detail=False)
            return [name for one in found if (name := str(one).rstrip("/").rpartition("/")[2])]
        except (FileNotFoundError, NotADirectoryError) as err:
            if not is_absent(err):
                raise
            return []


def read_range(uri: str, start: int, length: int) -> bytes:
    """
    A part of a file.

    :raises StorageError: there is no such file, or the storage cannot be read.
    """
    with naming("read", uri):
        if (local := local_path(uri)) is not None:
            with local.open("rb") as file:
                file.seek(start)
                return file.read(length)
        path = store_path(uri)
        return bytes(path.fs.cat_file(path.path, start=start, end=start + length))


def arrow_place(uri: str) -> tuple[Any, str]:
    """A file system as pyarrow takes it, and the path on it."""
    if (local := local_path(uri)) is not None:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(local)
    path = store_path(uri)
    return path.fs, path.path


def free_bytes(uri: str) -> int | None:
    """Space left where a folder is or would be; None where storage does not say."""
    local = local_path(uri)
    while local is not None and not local.exists() and local != local.parent:
        local = local.parent
    return None if local is None else shutil.disk_usage(local).free
