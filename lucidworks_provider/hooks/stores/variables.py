# SPDX-License-Identifier: Apache-2.0
"""The stores in Airflow Variables, which every worker and triggerer can reach: token and pause."""

from __future__ import annotations

import json
import logging
import time

from lucidworks_provider.client.auth.protocol import RELEASED, Claim, Snapshot
from lucidworks_provider.client.auth.token import AccessToken, TokenCipher, TokenIdentity
from lucidworks_provider.client.http.rate_limiter import END_KEPT, MAX_PAUSE, PauseRecord
from lucidworks_provider.errors import TokenStoreError
from lucidworks_provider.hooks.task_channel import has_foreign_channel, is_child_of_task

log = logging.getLogger(__name__)

# Seconds by which the clocks of two hosts may differ.
SKEW = 2.0


class VariableTokenStore:
    """
    The token (encrypted) and the claim, in two Variables.

    Their names contain no word by which Airflow recognises secrets: each value would become a log mask, and Airflow
    recompiles one growing expression for each mask, which stalls a triggerer within a week.
    """

    # Ten times longer than a write (17 ms).
    settle = 0.3

    _DESCRIPTION = "Encrypted access token of airflow-provider-lucidworks; created again if deleted."

    def __init__(self, identity: TokenIdentity, cipher: TokenCipher) -> None:
        self._live = f"lucidworks_live_{identity.digest}"
        self._claim = f"lucidworks_claim_{identity.digest}"
        self._cipher = cipher

    def read(self) -> Snapshot:
        """Read the claim first, so that a token that is published before its release is not missed."""
        claim = self._parse_claim(get_variable(self._claim))
        return Snapshot(self._cipher.open(get_variable(self._live), f"Variable {self._live}"), claim)

    def write_claim(self, claim: Claim) -> None:
        """Write a claim, or renew the own one."""
        set_variable(self._claim, json.dumps([claim.owner, claim.heartbeat]), self._DESCRIPTION)

    def release_claim(self, claim: Claim) -> None:
        """
        Release the own claim.

        Writes ``RELEASED`` and keeps the Variable, since a missing value and an unreadable one are alike.
        """
        current = self._parse_claim(get_variable(self._claim))
        if current is None or current.owner == claim.owner:
            self.write_claim(RELEASED)

    def publish(self, token: AccessToken) -> None:
        """Store a token, unless there is a newer one."""
        stored = self.read().token
        if stored is not None and stored.issued_at > token.issued_at:
            log.info("A newer token has been shared meanwhile; keeping that one.")
            return
        set_variable(self._live, self._cipher.seal(token), self._DESCRIPTION)

    @staticmethod
    def _parse_claim(text: str | None) -> Claim | None:
        try:
            match json.loads(text or "null"):
                case [str(owner), int(heartbeat)]:
                    return Claim(owner, heartbeat)
        except (ValueError, RecursionError):
            pass
        return None


class VariablePauseStore:
    """
    The pause, in a Variable, with times of the hosts' wall clocks.

    Whatever the clocks show, a process waits for a record at most its length, counted from its first read.
    """

    read_interval = 1.0
    # Seconds until a claim is read back.
    SETTLE = 0.3
    DESCRIPTION = "Until when airflow-provider-lucidworks sends nothing after a 429; may be deleted."

    def __init__(self, name: str) -> None:
        self._key = f"lucidworks_pause_{name}"
        # The last record, and when this process read it first, by a clock that is never set.
        self._seen = "", 0.0
        # When a pause ended last, as the last record has it.
        self._ended = 0.0

    def read(self) -> PauseRecord:
        now = time.time()
        text = get_variable(self._key) or "null"
        if self._seen[0] != text:
            self._seen = text, time.monotonic()
        try:
            owner, until, seconds, ended = json.loads(text)
            left = min(until - now, min(MAX_PAUSE, seconds) - (time.monotonic() - self._seen[1]))
            since = max(0.0, now - ended) if -SKEW < now - ended < END_KEPT else None
        except (TypeError, ValueError, OverflowError, RecursionError):
            return PauseRecord()  # not written by this package
        self._ended = 0.0 if since is None else ended
        return PauseRecord(str(owner), left, since) if left > 0 else PauseRecord(ended=since)

    def claim(self, owner: str, seconds: float) -> bool:
        # A Variable has no compare-and-set: the last of several writers has the claim.
        self.write(owner, seconds)
        time.sleep(self.SETTLE)
        return self.read().owner in {"", owner}

    def write(self, owner: str, seconds: float) -> None:
        self._set(owner, round(time.time() + seconds, 3), round(seconds, 3), self._ended)

    def end(self) -> None:
        self._set("", 0, 0, round(time.time(), 3))

    def _set(self, *record: str | float) -> None:
        set_variable(self._key, json.dumps(record), self.DESCRIPTION)


def get_variable(key: str) -> str | None:
    """
    Read a Variable; None if there is none.

    :raises TokenStoreError: Airflow cannot be reached.
    """
    _check_process()
    from airflow.providers.common.compat.sdk import Variable

    try:
        value = Variable.get(key)
    except KeyError:  # Airflow 2
        return None
    except Exception as err:  # noqa: BLE001  the SDK has one error for all
        if "VARIABLE_NOT_FOUND" in str(getattr(err, "error", "")):
            return None
        raise _down("read", err) from None
    return None if value is None else str(value)


def set_variable(key: str, value: str, description: str) -> None:
    """
    Write a Variable.

    :raises TokenStoreError: Airflow cannot be reached.
    """
    _check_process()
    from airflow.providers.common.compat.sdk import Variable

    try:
        Variable.set(key, value, description=description)
    except Exception as err:  # noqa: BLE001  the store is down
        raise _down("written", err) from None


def _check_process() -> None:
    if has_foreign_channel():
        raise _outside()


def _down(verb: str, err: Exception) -> TokenStoreError:
    if isinstance(err, ImportError):
        # Raised by the SDK in a process without a supervisor.
        return _outside()
    return TokenStoreError(
        f"The Variable with the shared access token could not be {verb} ({type(err).__name__}); "
        "check that Airflow's API server responds."
    )


def _outside() -> TokenStoreError:
    if is_child_of_task():
        error = TokenStoreError(
            "This process cannot reach Airflow: a child process of a task (multiprocessing, "
            "ProcessPoolExecutor, os.fork) cannot use the task's channel to the API server, so it cannot share an "
            "access token through a Variable. Call from the task process (with threads for parallel calls), map "
            "tasks with .expand, or set share_via to redis, with both connections in the environment or a secrets "
            "backend. With memory, each child process invalidates the token of all others with this client id."
        )
    else:
        error = TokenStoreError(
            "This process cannot reach Airflow (a notebook, a script, a virtualenv task without Airflow), so "
            "it cannot share an access token with workers and triggerers through a Variable. Call from a task, or "
            "set share_via to redis, or to memory with a separate client id: with memory, each start of a process "
            "invalidates the token of all others with this client id."
        )
    error.retryable = False
    return error
