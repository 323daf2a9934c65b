# SPDX-License-Identifier: Apache-2.0
"""
The stores in a Redis server: token and pause.

=====================================  ==================================================================
key                                    value
=====================================  ==================================================================
``lucidworks:live:<digest>``           the encrypted token; expires some time after it
``lucidworks:claim:<digest>``          ``<owner> <heartbeat>`` of the process that refreshes: a lease that
                                       expires after ``protocol.CLAIM_TIMEOUT``
``lucidworks:pause:<name>``            the owner of a pause; expires with it
``lucidworks:pause-ended:<name>``      expires ``END_KEPT`` seconds after the end of a pause
=====================================  ==================================================================

Scripts compare and set in one step, so a claim that was written is valid at once. Which token is newer is decided by
the decrypted value, so a script replaces the value only if it is the one that was read.

A failover may lose the last writes, and ``maxmemory`` may evict a token. Then two processes may refresh, and the
usual handling of a 401 repairs that.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from lucidworks_provider.client.auth import protocol
from lucidworks_provider.client.auth.protocol import RELEASED, Claim, Snapshot
from lucidworks_provider.client.auth.token import LONGEST_PAUSE, AccessToken, TokenCipher, TokenIdentity
from lucidworks_provider.client.http.rate_limiter import END_KEPT, MAX_PAUSE, PauseRecord
from lucidworks_provider.errors import ConfigurationError, TokenError, TokenStoreError
from lucidworks_provider.hooks.task_channel import reading_connection

T = TypeVar("T")
log = logging.getLogger(__name__)

# Seconds for connecting and for each reply; with one retry, an operation fails after about four.
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


# Seconds for which an expired token is kept, for its history of revocations.
_KEPT = LONGEST_PAUSE

# A value that is no string counts as missing and is overwritten.
_SEEN = "local seen = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1]) or ''\n"

# Owner, heartbeat, milliseconds. A claim without an expiry, or with a longer one than a lease, is ignored: it was not
# written by this package, or the server's clock was set back.
_TAKE = (
    _SEEN
    + """
local owner, left, lease = seen:match('^(.+) %d+$'), redis.call('PTTL', KEYS[1]), tonumber(ARGV[3])
if owner and owner ~= ARGV[1] and left >= 0 and left <= lease then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'PX', lease)
return 1
"""
)
# Owner.
_GIVE_UP = (
    _SEEN
    + """
if seen:match('^(.+) %d+$') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
)
# Expected value, new value, milliseconds.
_SWAP = (
    _SEEN
    + """
if seen ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
)
_CLAIM = re.compile(rb"(.+) ([0-9]{1,9})")


class RedisTokenStore:
    """
    The token and the claim. Connects at the first use.

    :param conn_id: the Lucidworks connection, for messages.
    :param redis_conn_id: the Airflow connection with the server's address.
    :param identity: of the token.
    :param cipher: encrypts the token.
    """

    # Taking the lease is atomic.
    settle = 0.0

    def __init__(
        self, conn_id: str, redis_conn_id: str, identity: TokenIdentity, cipher: TokenCipher
    ) -> None:
        scripts = {"take": _TAKE, "give_up": _GIVE_UP, "swap": _SWAP}
        self._redis = RedisClient(conn_id, redis_conn_id, scripts)
        self._live = f"lucidworks:live:{identity.digest}"
        self._claim = f"lucidworks:claim:{identity.digest}"
        self._cipher = cipher

    def read(self) -> Snapshot:
        """Read token and claim, in one round trip."""
        claim, live = self._read()
        return Snapshot(self._open(live), _parse_claim(claim))

    def write_claim(self, claim: Claim) -> None:
        """Take the lease or renew the own one; no effect if another process has it."""
        lease = round(protocol.CLAIM_TIMEOUT * 1000)
        self._redis.use(
            lambda server: server.scripts["take"]([self._claim], [claim.owner, claim.heartbeat, lease])
        )

    def release_claim(self, claim: Claim) -> None:
        """Release the lease, if it is the own one."""
        self._redis.use(lambda server: server.scripts["give_up"]([self._claim], [claim.owner]))

    def publish(self, token: AccessToken) -> None:
        """Store a token, unless there is a newer one."""
        sealed = self._cipher.seal(token)
        # By the times of the token: this host's clock may be wrong.
        kept = round((max(0.0, token.expires_at - token.issued_at) + _KEPT) * 1000)
        while True:
            _, live = self._read()
            stored = self._open(live)
            if stored is not None and stored.issued_at > token.issued_at:
                log.info("A newer token has been shared meanwhile; keeping that one.")
                return
            # A swap fails only after that of another process, and each publishes once.
            if self._swap(live or b"", sealed, kept):
                return

    def _swap(self, seen: bytes, sealed: str, kept: int) -> bool:
        return bool(
            self._redis.use(lambda server: server.scripts["swap"]([self._live], [seen, sealed, kept]))
        )

    def _read(self) -> tuple[bytes | None, bytes | None]:
        """Claim and ciphertext; None if missing, empty if not a string."""

        def read(server: Server) -> list[bytes | None]:
            with server.client.pipeline(transaction=False) as pipe:
                pipe.get(self._claim)
                pipe.get(self._live)
                return [text_of(reply) for reply in pipe.execute(raise_on_error=False)]

        claim, live = self._redis.use(read)
        return claim, live

    def _open(self, live: bytes | None) -> AccessToken | None:
        text = None if live is None else live.decode(errors="replace")
        return self._cipher.open(text, f"Redis key {self._live}")


def _parse_claim(text: bytes | None) -> Claim:
    found = _CLAIM.fullmatch(text or b"")
    return RELEASED if found is None else Claim(found[1].decode(errors="replace"), int(found[2]))


class RedisPauseStore:
    """The pause, in keys that expire by the clock of Redis."""

    read_interval = 0.25

    def __init__(self, redis: RedisClient, name: str) -> None:
        self._redis = redis
        self._key = f"lucidworks:pause:{name}"
        self._ended = f"lucidworks:pause-ended:{name}"

    def read(self) -> PauseRecord:
        def read(server: Server) -> tuple[bytes | None, Any, Any]:
            pipe = server.client.pipeline(transaction=False)
            owner, left, ended = (
                pipe.get(self._key).pttl(self._key).pttl(self._ended).execute(raise_on_error=False)
            )
            return text_of(owner), left, ended

        owner, left, ended = self._redis.use(read)
        since = END_KEPT - ended / 1000 if isinstance(ended, int) and ended >= 0 else None
        if not owner or not isinstance(left, int) or left < 0:  # missing, or not written by this package
            return PauseRecord(ended=since)
        # A key in its last millisecond, 0, still prevents a claim.
        return PauseRecord(owner.decode(errors="replace"), min(max(left, 1) / 1000, MAX_PAUSE), since)

    def claim(self, owner: str, seconds: float) -> bool:
        return bool(self._set(self._key, owner, seconds, nx=True)) or not self.read().owner

    def write(self, owner: str, seconds: float) -> None:
        self._set(self._key, owner, seconds)

    def end(self) -> None:
        self._set(self._ended, "", END_KEPT)
        self._redis.use(lambda server: server.client.delete(self._key))

    def _set(self, key: str, value: str, seconds: float, *, nx: bool = False) -> object:
        px = max(1, round(seconds * 1000))
        return self._redis.use(lambda server: server.client.set(key, value, px=px, nx=nx))


class RedisClient:
    """
    A Redis server by its Airflow connection, with errors that name the connection. Connects at the first use.

    :param conn_id: the Lucidworks connection, for messages.
    :param redis_conn_id: the Airflow connection with the server's address.
    :param scripts: Lua by name.
    """

    def __init__(self, conn_id: str, redis_conn_id: str, scripts: Mapping[str, str]) -> None:
        self._conn_id = conn_id
        self._redis_conn_id = redis_conn_id
        self._scripts = scripts
        self._server: Server | None = None
        self._process = 0

    def use(self, work: Callable[[Server], T]) -> T:
        """
        Call a function with the server.

        :raises ConfigurationError: the Airflow connection cannot be used, or a package is missing.
        :raises TokenStoreError: the server cannot be used now.
        """
        # Without a lock, which a fork could leave locked, as that of redis-py's pool: connecting twice does no harm.
        if self._process != os.getpid():
            self._server, self._process = None, os.getpid()
        server = self._server = self._server or self._connect()
        try:
            return work(server)
        except Exception as err:  # noqa: BLE001  the store is down; the message may contain a URL
            # The next use reads the Airflow connection again: it may have been corrected, or there was a failover.
            if self._server is server:
                self._server = None
            raise _explained(err, f"Redis at {server.place} (connection {self._redis_conn_id!r})") from None

    def _connect(self) -> Server:
        try:
            from airflow.providers.redis.hooks.redis import RedisHook
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as err:
            raise ConfigurationError(
                f"Connection {self._conn_id!r}: share_via is redis, but its dependencies are not installed here "
                f"({err}). Run `pip install 'airflow-provider-lucidworks[redis]'` wherever tasks, triggers and the "
                "API server run."
            ) from None
        # The hook, so that database, TLS and login have their usual meaning.
        hook: Any = RedisHook(redis_conn_id=self._redis_conn_id)
        try:
            with reading_connection(self._redis_conn_id):
                client = hook.get_conn()
            # Else a forked child that collects its parent's client waits for the lock of the pool.
            client.auto_close_connection_pool = False
            # The hook has no parameters for these; no socket is open yet.
            options = client.connection_pool.connection_kwargs
            options.update(
                port=options.get("port") or _PORT,
                socket_timeout=_TIMEOUT,
                socket_connect_timeout=_TIMEOUT,
                # Firewalls drop connections that are idle for an hour.
                socket_keepalive=True,
                retry=Retry(NoBackoff(), _RETRIES),
            )
        except ConfigurationError as err:
            if not err.retryable:  # in a child of a task
                raise
            raise self._unusable(err, cluster=False) from None
        except Exception as err:  # noqa: BLE001  of Airflow, a secrets backend, or Redis
            raise self._unusable(err, cluster=bool(getattr(hook, "cluster", False))) from None
        return Server(
            # If the host is a URL, it may contain a password.
            place=f"{str(hook.host or 'localhost').rpartition('@')[2]}:{options['port']}/{options.get('db') or 0}",
            client=client,
            scripts={name: client.register_script(lua) for name, lua in self._scripts.items()},
        )

    def _unusable(self, err: Exception, *, cluster: bool) -> ConfigurationError | TokenError:
        """The error for an Airflow connection that cannot be used."""
        where = (
            f"Connection {self._redis_conn_id!r}, which redis_conn_id of connection {self._conn_id!r} names,"
        )
        if isinstance(err, ConfigurationError):
            return ConfigurationError(
                f"{where} does not exist, or Airflow cannot return it now."
            ).as_retryable()
        if cluster:
            return ConfigurationError(f"{where} is of a Redis Cluster; give one of a single server.")
        return TokenStoreError(f"{where} could not be read or used ({type(err).__name__}).")


def text_of(reply: Any) -> bytes | None:
    """A reply of a pipeline: None if missing, empty if not a string."""
    if isinstance(reply, Exception):
        if "WRONGTYPE" in str(reply):
            return b""
        raise reply
    return None if reply is None else bytes(reply)


_NEEDED = "EVALSHA, SCRIPT LOAD, GET, SET, DEL, TYPE and PTTL for keys lucidworks:*"

# The class of an error in redis-py, or its text within a script of a server before 7.0.
_ERRORS: tuple[tuple[str, type[ConfigurationError | TokenStoreError], str], ...] = (
    (
        r"Authentication\w*Error|AuthorizationError|NOAUTH|WRONGPASS",
        ConfigurationError,
        "refuses login or password",
    ),
    (
        r"NoPermissionError|NOPERM|user executing the script can't",
        ConfigurationError,
        f"does not permit its user all required commands: {_NEEDED}",
    ),
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
    text = f"{type(err).__name__} {err}"
    for pattern, kind, meaning in _ERRORS:
        if re.search(pattern, text):
            return kind(f"{where} {meaning}.")
    return TokenStoreError(f"{where} cannot be used: {_cause(err)}.")


def _cause(err: BaseException | None) -> str:
    """The message of the operating system, which contains no address or password, else the class of the error."""
    kind, seen = type(err).__name__, err
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    return kind
