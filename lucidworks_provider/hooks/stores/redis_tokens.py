# SPDX-License-Identifier: Apache-2.0
"""
Redis as token store.

Two keys for each identity of a token:

``lucidworks:live:<digest>``
    The token's ciphertext. Expires some time after the token.
``lucidworks:claim:<digest>``
    ``<owner> <heartbeat>`` of the process that refreshes: a lease that Redis expires after ``protocol.LEASE``.

Unlike a Variable, Redis has compare-and-set, so a written claim is valid, and a missing key is reliably missing. Only
the ciphertext is trusted: a script replaces the value that was read, and the times in the ciphertext decide which
token is newer.

A fail-over may lose the last writes, including the lease, and ``maxmemory`` may evict a token. Then two processes may
refresh, which the usual handling of a 401 resolves.
"""

from __future__ import annotations

import logging
import re

from lucidworks_provider.client.auth import protocol
from lucidworks_provider.client.auth.protocol import RELEASED, Claim, Snapshot
from lucidworks_provider.client.auth.token import LONGEST_PAUSE, AccessToken, TokenCipher, TokenIdentity
from lucidworks_provider.hooks.stores.redis_client import RedisClient, Server, text_of

log = logging.getLogger(__name__)

# Seconds that a stored token is kept after its expiry: it has the history of revocations.
_KEPT = LONGEST_PAUSE

# A value that is not a string counts as missing and is overwritten.
_SEEN = "local seen = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1]) or ''\n"

# Owner, heartbeat, milliseconds. A claim without an expiry, or with a longer one than any lease, is ignored: it was
# written by hand, or the server's clock was set back.
_ACQUIRE = (
    _SEEN
    + """
local owner, left, lease = seen:match('^(.+) %d+$'), redis.call('PTTL', KEYS[1]), tonumber(ARGV[3])
if owner and owner ~= ARGV[1] and left >= 0 and left <= lease then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'PX', lease)
return 1
"""
)
# Owner.
_RELEASE = (
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


class RedisStore:
    """
    Connects, and reads the Airflow connection, at its first use.

    :param conn_id: the Lucidworks connection, for messages.
    :param redis_conn_id: the Airflow connection with the server's address.
    :param identity: whose token it is.
    :param cipher: encrypts what is stored.
    :raises ConfigurationError: there is no ``redis_conn_id``.
    """

    # Taking the lease is atomic.
    settle = 0.0

    def __init__(
        self, conn_id: str | None, redis_conn_id: str | None, identity: TokenIdentity, cipher: TokenCipher
    ) -> None:
        scripts = {"acquire": _ACQUIRE, "release": _RELEASE, "swap": _SWAP}
        self._redis = RedisClient(conn_id, redis_conn_id, scripts)
        self._live = f"lucidworks:live:{identity.digest}"
        self._claim = f"lucidworks:claim:{identity.digest}"
        self._cipher = cipher
        self._unreadable: bytes | None = None

    def read(self) -> Snapshot:
        """Read token and claim, in one round trip."""
        claim, live = self._get()
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
        """Acquire or renew the lease, unless another process holds it."""
        lease = round(protocol.LEASE * 1000)
        self._redis.use(
            lambda server: server.scripts["acquire"]([self._claim], [claim.owner, claim.heartbeat, lease])
        )

    def withdraw(self, claim: Claim) -> None:
        """Release the lease, if this process holds it."""
        self._redis.use(lambda server: server.scripts["release"]([self._claim], [claim.owner]))

    def publish(self, token: AccessToken) -> None:
        """Store a token, unless a newer one is stored."""
        sealed = self._cipher.seal(token)
        # By the token's own times: this host's clock may be wrong.
        kept = round((max(0.0, token.expires_at - token.issued_at) + _KEPT) * 1000)
        while True:
            _, live = self._get()
            stored = self._open(live)
            if stored is not None and stored.issued_at > token.issued_at:
                log.info("A newer token has been shared meanwhile; keeping that one.")
                return
            # Terminates: a failed swap is another process's success, and each process publishes once.
            if self._swap(live or b"", sealed, kept):
                return

    def after_fork(self) -> None:
        """Open new connections in the child."""
        self._redis.after_fork()

    def _swap(self, seen: bytes, sealed: str, kept: int) -> bool:
        return bool(
            self._redis.use(lambda server: server.scripts["swap"]([self._live], [seen, sealed, kept]))
        )

    def _get(self) -> tuple[bytes | None, bytes | None]:
        """Claim and ciphertext; None for no value, empty for one that is not a string."""

        def get(server: Server) -> list[bytes | None]:
            with server.client.pipeline(transaction=False) as pipe:
                pipe.get(self._claim)
                pipe.get(self._live)
                return [text_of(reply) for reply in pipe.execute(raise_on_error=False)]

        claim, live = self._redis.use(get)
        return claim, live

    def _open(self, live: bytes | None) -> AccessToken | None:
        return None if live is None else self._cipher.open(live.decode(errors="replace"))


def _parse_claim(text: bytes | None) -> Claim:
    found = _CLAIM.fullmatch(text or b"")
    return RELEASED if found is None else Claim(found[1].decode(errors="replace"), int(found[2]))
