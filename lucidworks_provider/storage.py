# SPDX-License-Identifier: Apache-2.0
"""
Places on any storage that Airflow's ``ObjectStoragePath`` reaches: local disks, S3, GCS, Azure.

Everything here blocks, and ``ObjectStoragePath`` may fetch its connection when it is made, so on an event
loop all of it runs in a thread (:func:`in_thread`).
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from lucidworks_provider.api.messages import scrub
from lucidworks_provider.errors import InputError, LucidworksError, StorageError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

P = ParamSpec("P")
T = TypeVar("T")

_LOCAL = {"file", "local"}
_QUERY = re.compile(r"\?[^\s'\"]+")


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking call off the loop, in the way that is safe from Airflow 2.11 to 3.3."""
    from asgiref.sync import sync_to_async

    return await sync_to_async(call, thread_sensitive=False)(*args, **kwargs)


def check_uri(uri: object, what: str) -> str:
    """
    Refuse what names no file.

    :param what: the argument's name, for the message.
    """
    if not isinstance(uri, str) or not uri.strip():
        raise InputError(f"{what} is {uri!r}; give the URI of a file, e.g. file:///data/chunks.parquet.")
    uri = uri.strip()
    if (local := _local(uri)) is not None and not local.is_absolute():
        # Worker and triggerer have working directories of their own.
        raise InputError(f"{what} is {uri!r}; give an absolute path (file:///…) or another storage's URI.")
    if uri.endswith("/"):
        raise InputError(f"{what} is {uri!r}, a folder; give the URI of a file.")
    return uri


def split_uri(uri: str) -> tuple[str, str]:
    """Parent and name. As text, since what ``/`` and ``parent`` keep of a path's connection varies by version."""
    parent, _, name = uri.rpartition("/")
    return parent, name


def read_file(uri: str) -> bytes | None:
    """
    A file's content, or None where there is none.

    :raises StorageError: the storage cannot be read.
    """
    with _naming("read", uri):
        try:
            if (local := _local(uri)) is not None:
                return local.read_bytes()
            path = _path(uri)
            return bytes(path.fs.cat_file(path.path))
        except (FileNotFoundError, NotADirectoryError):
            return None


def exists(uri: str) -> bool:
    """Whether there is such a file or folder."""
    with _naming("read", uri):
        if (local := _local(uri)) is not None:
            return local.exists()
        path = _path(uri)
        return bool(path.fs.exists(path.path))


def is_folder(uri: str) -> bool:
    """Whether there is a folder of that name (never on stores that have none)."""
    local = _local(uri)
    return local is not None and local.is_dir()


def write_file(uri: str, data: bytes) -> None:
    """
    Write a file that is there wholly or not at all, also when the process is killed meanwhile.

    :raises StorageError: the storage cannot be written.
    """
    with _naming("written", uri):
        if (local := _local(uri)) is not None:
            local.parent.mkdir(parents=True, exist_ok=True)
            with _temporary_beside(local) as temporary:
                temporary.write_bytes(data)
                _replace(temporary, local)
            return
        path = _path(uri)
        # An object store shows an object when its upload is complete.
        path.fs.pipe_file(path.path, data)


@contextmanager
def writing(uri: str) -> Iterator[Path]:
    """
    A local file to fill, which takes the place of ``uri`` when the block ends well.

    Built locally, since a half-written upload of some stores is committed by its error handling.

    :raises StorageError: the storage cannot be written. What the block raises passes as it is.
    """
    local = _local(uri)
    with ExitStack() as stack:
        with _naming("written", uri):
            if local is not None:
                local.parent.mkdir(parents=True, exist_ok=True)
                temporary = stack.enter_context(_temporary_beside(local))
            else:
                folder = tempfile.TemporaryDirectory(prefix="lucidworks-")
                temporary = Path(stack.enter_context(folder)) / "result"
        yield temporary
        with _naming("written", uri):
            if local is not None:
                _replace(temporary, local)
            else:
                path = _path(uri)
                path.fs.put_file(str(temporary), path.path)


def remove(uri: str) -> None:
    """Remove a file, or a folder with everything in it, if it is there."""
    with _naming("removed", uri):
        if (local := _local(uri)) is not None:
            if local.is_dir():
                for child in local.iterdir():
                    remove(str(child))
                local.rmdir()
            elif local.exists():
                local.unlink(missing_ok=True)
            return
        path = _path(uri)
        if path.fs.exists(path.path):
            path.fs.rm(path.path, recursive=True)


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


def _local(uri: str) -> Path | None:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Path(uri)
    return Path(rest) if scheme in _LOCAL else None


def _path(uri: str) -> ObjectStoragePath:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    return ObjectStoragePath(uri)


@contextmanager
def _naming(verb: str, uri: str) -> Iterator[None]:
    """Turn what a storage raises into an error that names the place."""
    try:
        yield
    except LucidworksError:
        raise
    except Exception as err:  # every storage has errors of its own, not all of them OSError
        # Texts of storage libraries may quote a signed URL.
        text = _QUERY.sub("?***", scrub(str(getattr(err, "strerror", None) or err)))[:300]
        raise StorageError(f"{uri} cannot be {verb}: {type(err).__name__}: {text}") from err
