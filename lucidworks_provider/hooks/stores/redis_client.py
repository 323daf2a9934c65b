# SPDX-License-Identifier: Apache-2.0
"""A Redis server by its Airflow connection, with errors that name the connection."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lucidworks_provider.errors import ConfigurationError, TokenError, TokenStoreError
from lucidworks_provider.hooks.stores.supervisor import reading_connection

T = TypeVar("T")

# Seconds, for connecting and for each response; with one retry, a server that hangs fails after about four.
_TIMEOUT = 2.0
_RETRIES = 1
_PORT = 6379


@dataclass(frozen=True, slots=True)
class Server:
    """
    A client with its scripts.

    :param place: for messages: host, port and database.
    :param scripts: by name, to be called with keys and arguments.
    """

    place: str
    client: Any
    scripts: Mapping[str, Callable[..., Any]]


class RedisClient:
    """
    Connects, and reads the Airflow connection, at its first use.

    :param conn_id: the Lucidworks connection, for messages.
    :param redis_conn_id: the Airflow connection with the server's address.
    :param scripts: Lua by name.
    :raises ConfigurationError: there is no ``redis_conn_id``.
    """

    def __init__(self, conn_id: str | None, redis_conn_id: str | None, scripts: Mapping[str, str]) -> None:
        if not redis_conn_id:
            raise ConfigurationError(
                f"Connection {conn_id!r}: redis_conn_id is missing; share_via is redis, so give the id of the "
                "Airflow connection with the Redis server's address."
            )
        self._conn_id = conn_id
        self._redis_conn_id = redis_conn_id
        self._scripts = scripts
        self._server: Server | None = None
        self._connecting = threading.Lock()

    def after_fork(self) -> None:
        """Replace the lock, which a thread of the parent may hold, and the connections."""
        self._connecting = threading.Lock()
        self._server = None

    def use(self, work: Callable[[Server], T]) -> T:
        """
        Perform work with the server.

        :raises ConfigurationError: the Airflow connection or the installation is not valid.
        :raises TokenStoreError: the server is unavailable.
        """
        server = self._connected()
        try:
            return work(server)
        except Exception as err:  # noqa: BLE001  any error means that the store is down; its message may contain a URL
            # The next use reads the Airflow connection anew: it may have been corrected, or the name may point to
            # another server since a fail-over.
            with self._connecting:
                if self._server is server:
                    self._server = None
            raise _explained(err, f"Redis at {server.place} (connection {self._redis_conn_id!r})") from None

    def _connected(self) -> Server:
        with self._connecting:
            if self._server is None:
                self._server = self._connect()
            return self._server

    def _connect(self) -> Server:
        try:
            from airflow.providers.redis.hooks.redis import RedisHook
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as err:
            raise ConfigurationError(
                f"Connection {self._conn_id!r}: share_via is redis, and what that needs is not installed here "
                f"({err}). Run `pip install 'airflow-provider-lucidworks[redis]'` wherever tasks, triggers and the "
                "API server run."
            ) from None
        # The hook interprets database, TLS and login as for every other task.
        hook: Any = RedisHook(redis_conn_id=self._redis_conn_id)
        try:
            with reading_connection(self._redis_conn_id):
                client = hook.get_conn()
            # The hook has no parameters for these. No socket is open yet.
            options = client.connection_pool.connection_kwargs
            options.update(
                port=options.get("port") or _PORT,
                socket_timeout=_TIMEOUT,
                socket_connect_timeout=_TIMEOUT,
                # Firewalls drop idle connections, and there is one use an hour.
                socket_keepalive=True,
                retry=Retry(NoBackoff(), _RETRIES),
            )
        except ConfigurationError:  # in a child of a task
            raise
        except Exception as err:  # noqa: BLE001  Airflow, its secrets backends, and what a connection can hold
            raise self._unusable(err, cluster=bool(getattr(hook, "cluster", False))) from None
        return Server(
            # The host may be a whole URL, with a password.
            place=f"{str(hook.host or 'localhost').rpartition('@')[2]}:{options['port']}/{options.get('db') or 0}",
            client=client,
            scripts={name: client.register_script(lua) for name, lua in self._scripts.items()},
        )

    def _unusable(self, err: Exception, *, cluster: bool) -> ConfigurationError | TokenError:
        """What is wrong with the Airflow connection."""
        where = (
            f"Connection {self._redis_conn_id!r}, which redis_conn_id of connection {self._conn_id!r} names,"
        )
        if type(err).__name__ == "AirflowNotFoundException":
            missing = ConfigurationError(f"{where} does not exist, or Airflow cannot be asked for it now.")
            # Airflow 3 raises the same error where its API server does not respond.
            missing.retryable = True
            return missing
        if cluster:
            return ConfigurationError(f"{where} is of a Redis Cluster; give one of a single server.")
        return TokenStoreError(f"{where} could not be read or used ({type(err).__name__}).")


def text_of(reply: Any) -> bytes | None:
    """A reply of a pipeline: None for no value, empty for one that is not a string."""
    if isinstance(reply, Exception):
        if "WRONGTYPE" in str(reply):
            return b""
        raise reply
    return None if reply is None else bytes(reply)


_NEEDED = "EVALSHA, SCRIPT LOAD, GET, SET, DEL, TYPE and PTTL for keys lucidworks:*"

# Patterns of redis-py's exception class, or of the error reply in a message: a script of a server before 7.0 has no
# class.
_CAUSES: tuple[tuple[str, type[ConfigurationError | TokenStoreError], str], ...] = (
    (
        r"Authentication\w*Error|AuthorizationError|NOAUTH|WRONGPASS",
        ConfigurationError,
        "refuses login or password",
    ),
    (
        r"NoPermissionError|NOPERM|user executing the script can't",
        ConfigurationError,
        f"lets its user do too little; needed: {_NEEDED}",
    ),
    # An older hook without support for clusters.
    (r"MovedError|MOVED", ConfigurationError, "is of a Redis Cluster; give a single server"),
    (r"DB index|Invalid Database|not an integer", ConfigurationError, "has no such database"),
    (
        r"ReadOnlyError|READONLY",
        TokenStoreError,
        "is a read-only replica; the connection must lead to the primary",
    ),
    (r"OutOfMemoryError|\bOOM\b", TokenStoreError, "has no memory left (maxmemory)"),
    (r"BusyLoadingError|LOADING", TokenStoreError, "is still loading its data"),
)


def _explained(err: Exception, where: str) -> ConfigurationError | TokenStoreError:
    message = f"{type(err).__name__} {err}"
    for pattern, kind, meaning in _CAUSES:
        if re.search(pattern, message):
            return kind(f"{where} {meaning}.")
    return TokenStoreError(f"{where} cannot be used: {_cause(err)}.")


def _cause(err: BaseException | None) -> str:
    """The operating system's message, which has no address and no password, else the class of the error."""
    kind, seen = type(err).__name__, err
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    return kind
