# SPDX-License-Identifier: Apache-2.0
"""
A Redis server as the place where processes share their token.

Two keys for each identity of a token:

``lucidworks:live:<digest>``
    The token's ciphertext. Expires some time after the token.
``lucidworks:claim:<digest>``
    ``<owner> <heartbeat>`` of whoever is about to refresh: a lease that Redis itself ends after ``protocol.LEASE``.

Unlike a Variable, Redis compares and sets in one step, so a claim that was written is a claim that stands; and it
answers "not there" only when that is so. Of what it stores only the ciphertext is trusted: a script swaps the value
that was looked at for a new one, and which token is newer is decided by what the ciphertext holds.

A fail-over may lose the last writes, the lease among them, and ``maxmemory`` may evict a token. Two processes may
refresh then, which the ordinary answer to a 401 heals.
"""

from __future__ import annotations

import logging
import re

from lucidworks_provider.client.auth import protocol
from lucidworks_provider.client.auth.protocol import RELEASED, Claim, Snapshot
from lucidworks_provider.client.auth.token import LONGEST_PAUSE, AccessToken, TokenCipher, TokenIdentity
from lucidworks_provider.hooks.stores.redis_client import RedisClient, Server, text_of

log = logging.getLogger(__name__)

# Seconds for which a stored token outlives its expiry: with it goes what the fleet remembers of its revocations.
_KEPT = LONGEST_PAUSE

# What a key holds that is no string (somebody else's) counts as nothing and is written over.
_SEEN = "local seen = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1]) or ''\n"

# Owner, heartbeat, milliseconds. A claim without an expiry, or with a longer one than any lease, is ignored: it was
# written by hand, or the server's clock was set back.
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
        scripts = {"take": _TAKE, "give_up": _GIVE_UP, "swap": _SWAP}
        self._redis = RedisClient(conn_id, redis_conn_id, scripts)
        self._live = f"lucidworks:live:{identity.digest}"
        self._claim = f"lucidworks:claim:{identity.digest}"
        self._cipher = cipher
        self._unreadable: bytes | None = None

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
        self._redis.use(
            lambda server: server.scripts["take"]([self._claim], [claim.owner, claim.heartbeat, lease])
        )

    def release_claim(self, claim: Claim) -> None:
        """Give the lease up, if it is still the own one."""
        self._redis.use(lambda server: server.scripts["give_up"]([self._claim], [claim.owner]))

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
        """Connections of the child's own."""
        self._redis.after_fork()

    def _swap(self, seen: bytes, sealed: str, kept: int) -> bool:
        return bool(
            self._redis.use(lambda server: server.scripts["swap"]([self._live], [seen, sealed, kept]))
        )

    def _look(self) -> tuple[bytes | None, bytes | None]:
        """Claim and ciphertext as stored; None for nothing, empty for what is no string."""

        def look(server: Server) -> list[bytes | None]:
            with server.client.pipeline(transaction=False) as pipe:
                pipe.get(self._claim)
                pipe.get(self._live)
                return [text_of(reply) for reply in pipe.execute(raise_on_error=False)]

        claim, live = self._redis.use(look)
        return claim, live

    def _open(self, live: bytes | None) -> AccessToken | None:
        return None if live is None else self._cipher.open(live.decode(errors="replace"))


def _parse_claim(text: bytes | None) -> Claim:
    found = _CLAIM.fullmatch(text or b"")
    return RELEASED if found is None else Claim(found[1].decode(errors="replace"), int(found[2]))
