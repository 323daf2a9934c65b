# SPDX-License-Identifier: Apache-2.0
"""
A Redis server as the place where processes share their token.

Two keys for each identity of a token:

``lucidworks:live:<digest>``
    The token's ciphertext. Expires some time after the token.
``lucidworks:claim:<digest>``
    ``<owner> <beat>`` of whoever is about to mint: a lease that Redis itself ends after ``protocol.LEASE``.

Unlike a Variable, Redis compares and sets in one step, so a claim that was written is a claim that stands; and it
answers "not there" only when that is so. Of what it stores only the ciphertext is trusted: a script swaps the value
that was looked at for a new one, and which token is newer is decided by what the ciphertext holds.

A fail-over may lose the last writes, the lease among them, and ``maxmemory`` may evict a token. Two processes may
mint then, which the ordinary answer to a 401 heals.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from lucidworks_provider.auth import protocol
from lucidworks_provider.auth.cipher import TokenCipher
from lucidworks_provider.auth.commands import NOBODY, Claim, Snapshot
from lucidworks_provider.auth.losses import LONGEST_PAUSE
from lucidworks_provider.auth.token import AccessToken, TokenIdentity
from lucidworks_provider.errors import ConfigurationError, TokenError, TokenStoreError

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds, for connecting and for each answer; with the one retry, a server that hangs is given up after about four.
_TIMEOUT = 2.0
_RETRIES = 1
_PORT = 6379
# Seconds for which a stored token outlives its expiry: with it goes what the fleet remembers of its losses.
_KEPT = LONGEST_PAUSE

# What a key holds that is no string (somebody else's) counts as nothing and is written over.
_SEEN = "local seen = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1]) or ''\n"

# Owner, beat, milliseconds. A lease that never ends, or later than any lease, is none: it was written by hand, or
# the server's clock was set back, and waiting for its end would keep the whole fleet waiting.
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
# What must be there, what to put in its place, milliseconds.
_SWAP = (
    _SEEN
    + """
if seen ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
)
_CLAIM = re.compile(rb"(.+) ([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class _Server:
    """
    A client with its scripts.

    :param place: for messages: host, port and database.
    """

    place: str
    client: Any
    take: Callable[..., Any]
    give_up: Callable[..., Any]
    swap: Callable[..., Any]


class RedisStore:
    """
    Makes no connection, and asks Airflow for none, before its first use.

    :param conn_id: the Lucidworks connection, for messages.
    :param redis_conn_id: the Airflow connection with the server's address.
    :param identity: whose token it is.
    :param cipher: seals what is stored.
    :raises ConfigurationError: there is no ``redis_conn_id``.
    """

    # Taking the lease is atomic.
    settle = 0.0

    def __init__(
        self, conn_id: str | None, redis_conn_id: str | None, identity: TokenIdentity, cipher: TokenCipher
    ) -> None:
        if not redis_conn_id:
            raise ConfigurationError(
                f"Connection {conn_id!r}: redis_conn_id is missing; share_via is redis, so give the id of the "
                "Airflow connection with the Redis server's address."
            )
        self._conn_id = conn_id
        self._redis_conn_id = redis_conn_id
        self._live = f"lucidworks:live:{identity.digest}"
        self._claim = f"lucidworks:claim:{identity.digest}"
        self._cipher = cipher
        self._unreadable: bytes | None = None
        self._server: _Server | None = None
        self._connecting = threading.Lock()

    def read(self) -> Snapshot:
        """Read token and claim, in one round trip."""
        claim, live = self._look()
        token = self._open(live)
        if live is not None and token is None and live != self._unreadable:
            self._unreadable = live
            log.warning(
                "Redis key %s was not written with this client secret (rotated?) or is damaged; it will be replaced "
                "by a new one.",
                self._live,
            )
        return Snapshot(token, _parse_claim(claim))

    def write_claim(self, claim: Claim) -> None:
        """Take the lease, or renew the own one; another's is left alone, as reading it back shows."""
        lease = round(protocol.LEASE * 1000)
        self._use(lambda server: server.take([self._claim], [claim.owner, claim.beat, lease]))

    def withdraw(self, claim: Claim) -> None:
        """Give the lease up, if it is still the own one."""
        self._use(lambda server: server.give_up([self._claim], [claim.owner]))

    def publish(self, token: AccessToken) -> None:
        """Store a token, unless a newer one is there."""
        sealed = self._cipher.seal(token)
        # By the token's own times: this host's clock may be off.
        kept = round((max(0.0, token.expires_at - token.issued_at) + _KEPT) * 1000)
        while True:
            _, live = self._look()
            stored = self._open(live)
            if stored is not None and stored.issued_at > token.issued_at:
                log.info("A newer token has been shared meanwhile; keeping that one.")
                return
            # A failed swap is another's success, and everybody publishes once, so this comes to an end.
            if self._swap(live or b"", sealed, kept):
                return

    def after_fork(self) -> None:
        """A lock that no thread of the parent holds, and connections of the child's own."""
        self._connecting = threading.Lock()
        self._server = None

    def _swap(self, seen: bytes, sealed: str, kept: int) -> bool:
        return bool(self._use(lambda server: server.swap([self._live], [seen, sealed, kept])))

    def _look(self) -> tuple[bytes | None, bytes | None]:
        """Claim and ciphertext as stored; None for nothing, empty for what is no string."""

        def look(server: _Server) -> list[bytes | None]:
            with server.client.pipeline(transaction=False) as pipe:
                pipe.get(self._claim)
                pipe.get(self._live)
                return [_text(reply) for reply in pipe.execute(raise_on_error=False)]

        claim, live = self._use(look)
        return claim, live

    def _open(self, live: bytes | None) -> AccessToken | None:
        return None if live is None else self._cipher.open(live.decode(errors="replace"))

    def _use(self, work: Callable[[_Server], T]) -> T:
        server = self._connected()
        try:
            return work(server)
        except Exception as err:  # noqa: BLE001  whatever it is, the store is down; its own words may hold a URL
            # The next use reads the Airflow connection anew: it may have been corrected, or the name may point to
            # another server since a fail-over.
            with self._connecting:
                if self._server is server:
                    self._server = None
            raise _explained(err, f"Redis at {server.place} (connection {self._redis_conn_id!r})") from None

    def _connected(self) -> _Server:
        with self._connecting:
            if self._server is None:
                self._server = self._connect()
            return self._server

    def _connect(self) -> _Server:
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
        # The hook, so that database, TLS and login mean here what they mean to every other task.
        hook: Any = RedisHook(redis_conn_id=self._redis_conn_id)
        try:
            client = hook.get_conn()
            # The hook has no parameters for these. No socket is open yet, and every one is opened with them.
            options = client.connection_pool.connection_kwargs
            options.update(
                port=options.get("port") or _PORT,
                socket_timeout=_TIMEOUT,
                socket_connect_timeout=_TIMEOUT,
                # The last use was an hour ago; firewalls forget connections that say nothing for so long.
                socket_keepalive=True,
                retry=Retry(NoBackoff(), _RETRIES),
            )
        except Exception as err:  # noqa: BLE001  Airflow, its secrets backends, and what a connection can hold
            raise self._unusable(err, cluster=bool(getattr(hook, "cluster", False))) from None
        return _Server(
            # Whoever wrote a whole URL into the host wrote the password there too.
            place=f"{str(hook.host or 'localhost').rpartition('@')[2]}:{options['port']}/{options.get('db') or 0}",
            client=client,
            take=client.register_script(_TAKE),
            give_up=client.register_script(_GIVE_UP),
            swap=client.register_script(_SWAP),
        )

    def _unusable(self, err: Exception, *, cluster: bool) -> ConfigurationError | TokenError:
        """What is wrong with the Airflow connection."""
        where = (
            f"Connection {self._redis_conn_id!r}, which redis_conn_id of connection {self._conn_id!r} names,"
        )
        if type(err).__name__ == "AirflowNotFoundException":
            missing = ConfigurationError(f"{where} does not exist, or Airflow cannot be asked for it now.")
            # On Airflow 3 an API server that gives no answer looks the same.
            missing.retryable = True
            return missing
        if cluster:
            return ConfigurationError(f"{where} is of a Redis Cluster; give one of a single server.")
        return TokenStoreError(f"{where} could not be read or used ({type(err).__name__}).")


def _text(reply: Any) -> bytes | None:
    if isinstance(reply, Exception):
        if "WRONGTYPE" in str(reply):
            return b""
        raise reply
    return None if reply is None else bytes(reply)


def _parse_claim(text: bytes | None) -> Claim:
    found = _CLAIM.fullmatch(text or b"")
    return NOBODY if found is None else Claim(found[1].decode(errors="replace"), int(found[2]))


_NEEDED = "EVALSHA, SCRIPT LOAD, GET, SET, DEL, TYPE and PTTL for keys lucidworks:*"

# How Redis says it: the class that redis-py has for the answer, or, from inside a script of a server before 7.0, the
# answer itself in the middle of a sentence.
_ANSWERS: tuple[tuple[str, type[ConfigurationError | TokenStoreError], str], ...] = (
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
    # A hook that knows of clusters would not have connected.
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
    said = f"{type(err).__name__} {err}"
    for pattern, kind, meaning in _ANSWERS:
        if re.search(pattern, said):
            return kind(f"{where} {meaning}.")
    return TokenStoreError(f"{where} cannot be used: {_cause(err)}.")


def _cause(err: BaseException | None) -> str:
    """The operating system's words, which hold no address and no password, else the kind of error."""
    kind, seen = type(err).__name__, err
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    return kind
