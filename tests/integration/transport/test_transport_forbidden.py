# SPDX-License-Identifier: Apache-2.0
"""403 for a token that was deleted, and 403 for an application that is not entitled: one refresh at most."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from transport_wire import Mode, call, submit

from lucidworks_provider.client.auth.source import CachedToken, MemoryStore, Service, TokenCache, TokenSource
from lucidworks_provider.client.auth.token import AccessToken
from lucidworks_provider.client.use_cases import list_use_cases
from lucidworks_provider.emulator.faults import Fault
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.emulator.tokens import Scope
from lucidworks_provider.errors import ForbiddenError, TokenStoreError
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from tests.identity_server import IdentityServer

PREDICT = Scope.PREDICT.value
pytestmark = pytest.mark.usefixtures("plain_network", "short_waits", "forgotten_tokens")


@pytest.fixture
def service(emulator: RunningEmulator) -> RunningEmulator:
    emulator.state.settings = emulator.state.settings.patched({"dead_token": "403"})
    return emulator


def forbid(service: RunningEmulator, match: str = "any", times: int = 1000) -> None:
    service.state.faults.inject(Fault.from_json({"kind": "403", "match": match, "times": times}))


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
    service = Service(identity, identity.time)
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
    service.state.tokens.kill(list(Scope))
    assert submit(mode, hook)
    assert service.state.log.issued[PREDICT] == 2
    assert [r.status for r in service.state.log if r.endpoint == "submit"] == [200, 403, 200]


def test_an_application_that_is_not_entitled_refreshes_nothing(mode: Mode, service: RunningEmulator) -> None:
    hook = LucidworksHook()
    call(mode, hook, list_use_cases())
    forbid(service, "submit")
    began = time.monotonic()
    for _ in range(10):
        with pytest.raises(ForbiddenError, match="HTTP 403"):
            submit(mode, hook)
    assert time.monotonic() - began < 5
    assert service.state.log.issued[PREDICT] == 1
    assert [r.status for r in service.state.log if r.endpoint == "submit"] == [403] * 10


def test_an_entitlement_that_ends_costs_one_refresh(mode: Mode, service: RunningEmulator) -> None:
    hook = LucidworksHook()
    submit(mode, hook)
    forbid(service, "submit")
    for _ in range(5):
        with pytest.raises(ForbiddenError):
            submit(mode, hook)
        # The rest of the fleet works meanwhile.
        call(mode, hook, list_use_cases())
    assert service.state.log.issued[PREDICT] == 2


def test_a_session_of_a_user(mode: Mode, service: RunningEmulator) -> None:
    hook = LucidworksHook()

    def status() -> int:
        if mode == "sync":
            return hook.get_conn().get("/ai/usecases").status_code

        async def one() -> int:
            async with hook.aget_conn() as session, session.get("/ai/usecases") as response:
                return response.status

        return asyncio.run(one())

    assert status() == 200
    service.state.tokens.kill(list(Scope))
    assert status() == 200
    assert service.state.log.issued[PREDICT] == 2
    forbid(service)
    assert [status() for _ in range(5)] == [403] * 5
    assert service.state.log.issued[PREDICT] == 2
