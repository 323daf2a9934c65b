# SPDX-License-Identifier: Apache-2.0
"""403 for a token that was deleted, and 403 for an application that is not entitled: one refresh at most."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from transport_wire import Mode, call, fault, kill, submit

from lucidworks_provider.client.auth.source import (
    CachedToken,
    MemoryStore,
    TokenCache,
    TokenService,
    TokenSource,
)
from lucidworks_provider.client.auth.token import AccessToken
from lucidworks_provider.client.use_cases import list_use_cases
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.emulator.tokens import Scope
from lucidworks_provider.errors import ForbiddenError, TokenStoreError
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from tests.identity_server import IdentityServer

PREDICT = Scope.PREDICT.value
pytestmark = pytest.mark.usefixtures("plain_network", "short_waits", "forgotten_tokens")


@pytest.fixture
def service(emulator: RunningEmulator) -> RunningEmulator:
    """An emulator that refuses a dead token with 403."""
    emulator.state.settings = emulator.state.settings.patched({"dead_token": "403"})
    return emulator


# The decision


@pytest.mark.parametrize(
    ("value", "endpoint", "marked", "refused"),
    [
        ("held", "predict", False, True),
        ("held", "poll", False, False),
        ("held", "predict", True, False),
        ("earlier", "predict", False, False),
    ],
    ids=["accepted before", "another endpoint", "replaced one after a 403", "not in use any more"],
)
def test_when_a_403_counts_as_a_401(value: str, endpoint: str, marked: bool, refused: bool) -> None:
    token = AccessToken("held", 0.0, 50.0, 60.0, after_403=marked)
    cache = TokenCache(CachedToken(token, 0.0, 50.0, 60.0))
    cache.accepted("held", "predict")
    cache.accepted("earlier", "poll")
    assert cache.refuse_after_403(value, endpoint, 1.0) is refused
    assert cache.usable(1.0) == (None if refused else "held")


def test_the_mark_is_stored_and_unmarked_tokens_are_stored_as_before() -> None:
    token = AccessToken("t", 1.0, 2.0, 3.0)
    marked = replace(token, after_403=True)
    assert AccessToken.from_json(token.to_json()) == token
    assert AccessToken.from_json(marked.to_json()) == marked
    assert token.to_json() == '[2, "t", [1.0, 2.0, 3.0], [[], 0.0, 0, 0.0]]'


# The fleet


def fleet(number: int, store: MemoryStore | None = None) -> tuple[IdentityServer, list[TokenSource]]:
    identity, store = IdentityServer(), store or MemoryStore()
    service = TokenService(identity, identity.time)
    sources = [TokenSource(store, service) for _ in range(number)]
    for source in sources:
        source.accepted(source.get(), "predict")
    return identity, sources


def test_the_fleet_gets_one_new_token_for_a_dead_one() -> None:
    identity, sources = fleet(5)
    assert [source.token_after_403("token-1", "predict") for source in sources] == ["token-2"] * 5
    for source in sources:
        source.accepted("token-2", "predict")
        assert source.token_after_403("token-2", "predict") is None
        assert source.get() == "token-2"
    assert identity.asked == 2


def test_the_next_token_may_be_replaced_once_again() -> None:
    identity, (source,) = fleet(1)
    assert source.token_after_403("token-1", "predict") == "token-2"
    renewed = source.get("token-2")
    source.accepted(renewed, "predict")
    assert source.token_after_403(renewed, "predict") == "token-4"
    assert source.token_after_403("token-4", "predict") is None
    assert identity.asked == 4


def test_a_process_that_never_was_accepted_uses_what_others_have_got() -> None:
    identity, (busy, new) = fleet(2)
    new.accepted("token-1", "poll")
    assert new.token_after_403("token-1", "tokenize") is None
    assert busy.token_after_403("token-1", "predict") == "token-2"
    assert new.token_after_403("token-1", "tokenize") == "token-2"
    assert new.get() == "token-2"
    assert identity.asked == 2


def test_a_store_that_is_down_leaves_the_403_as_it_is() -> None:
    class Down(MemoryStore):
        down = False

        def read(self) -> Any:
            if self.down:
                raise TokenStoreError("unreachable").as_retryable()
            return super().read()

    store = Down()
    identity, (source,) = fleet(1, store)
    store.down = True
    assert source.token_after_403("token-1", "poll") is None
    assert source.get() == "token-1"
    assert identity.asked == 1


# Calls


def test_a_token_that_died_early_costs_one_more(mode: Mode, service: RunningEmulator) -> None:
    hook = LucidworksHook()
    submit(mode, hook)
    kill(service)
    assert submit(mode, hook)
    assert service.state.log.issued[PREDICT] == 2
    assert [r.status for r in service.state.log if r.endpoint == "submit"] == [200, 403, 200]


@pytest.mark.parametrize("entitled_before", [False, True])
def test_an_application_that_is_not_entitled_costs_one_refresh_at_most(
    mode: Mode, service: RunningEmulator, entitled_before: bool
) -> None:
    hook = LucidworksHook()
    submit(mode, hook) if entitled_before else call(mode, hook, list_use_cases())
    fault(service, "403", "submit", times=1000)
    for _ in range(10):
        with pytest.raises(ForbiddenError, match="HTTP 403"):
            submit(mode, hook)
        # The rest of the fleet works meanwhile.
        call(mode, hook, list_use_cases())
    assert service.state.log.issued[PREDICT] == 1 + entitled_before
    refused = [r.status for r in service.state.log if r.endpoint == "submit" and r.status == 403]
    assert len(refused) == 10 + entitled_before


def test_a_session_of_a_user(mode: Mode, service: RunningEmulator) -> None:
    hook = LucidworksHook()

    async def asynchronous() -> int:
        async with hook.aget_conn() as session, session.get("/ai/usecases") as response:
            return response.status

    def status() -> int:
        return (
            hook.get_conn().get("/ai/usecases").status_code if mode == "sync" else asyncio.run(asynchronous())
        )

    assert status() == 200
    kill(service)
    assert status() == 200
    assert service.state.log.issued[PREDICT] == 2
    fault(service, "403", "any", times=1000)
    assert [status() for _ in range(5)] == [403] * 5
    assert service.state.log.issued[PREDICT] == 2
