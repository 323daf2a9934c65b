# SPDX-License-Identifier: Apache-2.0
"""One pause for a fleet: the decisions by values, and what Variables hold."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import pytest

from lucidworks_provider.client.auth.token import TokenIdentity
from lucidworks_provider.client.http.rate_limiter import (
    END_KEPT,
    MAX_PAUSE,
    PauseRecord,
    PauseStore,
    SharedPause,
    shared_pause,
)
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import TokenStoreError
from lucidworks_provider.hooks.stores import AirflowStores
from lucidworks_provider.hooks.stores.redis import RedisPauseStore
from lucidworks_provider.hooks.stores.variables import VariablePauseStore


class Board:
    """A store in memory, with a clock that a test sets."""

    read_interval = 1.0

    def __init__(self) -> None:
        self.now = self.until = 0.0
        self.owner = ""
        self.ended: float | None = None
        self.down = False
        self.uses = 0
        # What another process does between a claim and the read of it.
        self.rival: Callable[[], None] = lambda: None

    def read(self) -> PauseRecord:
        self._use()
        ended = None if self.ended is None else self.now - self.ended
        left = self.until - self.now
        return PauseRecord(self.owner, left, ended) if left > 0 else PauseRecord("", 0, ended)

    def claim(self, owner: str, seconds: float) -> bool:
        self.write(owner, seconds)
        self.rival()
        return self.owner == owner

    def write(self, owner: str, seconds: float) -> None:
        self._use()
        self.owner, self.until = owner, self.now + seconds

    def end(self) -> None:
        self._use()
        self.owner, self.until, self.ended = "", 0.0, self.now

    def _use(self) -> None:
        self.uses += 1
        if self.down:
            raise TokenStoreError("down")


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def one(board: Board) -> SharedPause:
    return SharedPause(lambda: board)


other = one  # another process with the same store


def test_one_of_the_refused_processes_asks_again(board: Board, one: SharedPause, other: SharedPause) -> None:
    one.hold(2)
    other.hold(2)
    board.now = 2
    assert one.ask(2, 2) == 0
    assert other.ask(2, 2) == 1, "looks again soon, as the answer may come at any time"
    board.now = 3.5
    assert other.ask(2, 3.5) == 0.5, "not after its end"


def test_when_the_probe_is_accepted_all_resume(board: Board, one: SharedPause, other: SharedPause) -> None:
    board.now = 5
    assert one.ask(2, 1) == 0
    one.end()
    assert other.ask(2, 1) is None


def test_the_end_of_a_pause_does_not_release_later_stops(
    board: Board, one: SharedPause, other: SharedPause
) -> None:
    assert one.ask(2, 0) == 0
    one.end()
    board.now = 10
    assert other.ask(2, 0.1) == 0
    other.hold(5)
    assert board.until == 15


def test_when_the_probe_is_refused_all_wait_on(board: Board, one: SharedPause, other: SharedPause) -> None:
    assert one.ask(2, 0) == 0
    one.hold(60)
    board.now = 2
    assert other.ask(2, 2) == pytest.approx(0.1 * 58), "a long pause is not read every second"
    board.now = 60
    assert other.ask(2, 60) == 0, "and a process that dies then stops no other"
    board.now = 62
    assert one.ask(2, 62) == 0


def test_of_two_claims_the_later_one_wins(board: Board, one: SharedPause) -> None:
    board.rival = lambda: board.write("rival", 2)
    assert one.ask(2, 0) == 1
    assert board.owner == "rival"


def test_the_longest_pause_wins(board: Board, one: SharedPause, other: SharedPause) -> None:
    one.hold(60)
    other.hold(2)
    assert board.until == 60
    # Its own it may correct.
    one.hold(5)
    assert board.until == 5
    one.hold(86_400)
    assert board.until == MAX_PAUSE


def test_an_end_leaves_anothers_pause_alone(board: Board, one: SharedPause, other: SharedPause) -> None:
    assert one.ask(2, 0) == 0
    board.now = 3
    other.hold(30)
    one.end()
    assert (board.until, board.ended) == (33, None)


def test_a_claim_of_another_does_not_hide_that_a_late_probe_was_accepted(
    board: Board, one: SharedPause, other: SharedPause
) -> None:
    third = SharedPause(lambda: board)
    assert one.ask(2, 0) == 0
    board.now = 3
    assert other.ask(2, 3) == 0
    board.now = 4
    one.end()
    assert third.ask(2, 3) is None


def test_the_pauses_of_others_are_seen_and_no_claims(
    board: Board, one: SharedPause, other: SharedPause
) -> None:
    seen = set()
    for begin in (0, 20):
        board.now = begin
        assert one.ask(2, begin) == 0
        other.ask(2, begin)
        seen.add(other.others_pause)
        one.hold(10)
        for board.now in (begin + 1, begin + 9):
            other.ask(2, board.now)
            seen.add(other.others_pause)
        assert one.others_pause == ""
    assert len(seen) == 3
    assert "" in seen


@pytest.mark.parametrize("stopped", [20, 2], ids=["before", "after"])
def test_a_pause_after_an_accepted_probe_is_no_refusal_of_everything(
    board: Board, one: SharedPause, other: SharedPause, stopped: float
) -> None:
    board.now = 30
    one.end()
    board.now = 35
    one.hold(10)
    other.ask(2, stopped)
    assert (other.others_pause == "") == (stopped == 20)


def test_without_the_store_each_process_has_its_own_pause(
    board: Board, one: SharedPause, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.down = True
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert one.ask(2, 0) == 0
    uses = board.uses
    assert one.ask(2, 0) == 0
    one.hold(2)
    one.end()
    assert board.uses == uses, "a store that is down is left alone for a while"
    board.down = False
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    one.hold(2)
    assert board.until == 2


# Variables


def new_store() -> VariablePauseStore:
    return VariablePauseStore("name")


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VariablePauseStore, "SETTLE", 0.0)


def test_a_variable_shows_the_pause_to_other_processes(variables: dict[str, str]) -> None:
    one, other = SharedPause(new_store), SharedPause(new_store)
    one.hold(30)
    assert other.ask(2, 0) == pytest.approx(3, abs=0.1)
    assert list(variables) == ["lucidworks_pause_name"]
    one.end()
    assert other.ask(30, 1) is None
    assert other.ask(30, 0) == 0


def test_a_new_claim_keeps_the_end_of_the_pause_before(variables: dict[str, str]) -> None:
    one, other = SharedPause(new_store), SharedPause(new_store)
    one.end()
    assert one.ask(30, 0) == 0
    assert new_store().read().ended == pytest.approx(0, abs=0.5)
    one.hold(30)
    other.ask(30, 10)
    assert other.others_pause == ""


def test_the_end_of_a_pause_is_forgotten(variables: dict[str, str]) -> None:
    variables["lucidworks_pause_name"] = json.dumps(["", 0, 0, time.time() - END_KEPT - 1])
    assert SharedPause(new_store).ask(2, 1_000) == 0


@pytest.mark.parametrize("minutes_off", [-60, 60])
def test_a_clock_that_is_off_prolongs_no_pause_for_long(variables: dict[str, str], minutes_off: int) -> None:
    now = time.time() + 60 * minutes_off
    variables["lucidworks_pause_name"] = json.dumps(["other", now + 5, 5, now])
    assert 0 <= VariablePauseStore("name").read().left <= 5
    assert VariablePauseStore("name").read().ended is None


def test_a_record_of_a_clock_that_is_hours_ahead_holds_a_process_for_its_length_only(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, monotonic = time.time() + 10_000, time.monotonic()
    store = new_store()
    for record in (["other", ahead + 5, 5, 0], ["other", ahead + 10, 5, 0]):
        variables["lucidworks_pause_name"] = json.dumps(record)
        for seconds, left in ((0, 5), (3, 2), (6, 0)):
            monkeypatch.setattr(time, "monotonic", lambda at=monotonic + seconds: at)
            assert store.read().left == pytest.approx(left, abs=0.1)
        monotonic += 6
    assert SharedPause(lambda: store).ask(2, 20) == 0


@pytest.mark.parametrize(
    "text",
    [
        *("", "no JSON", "null", "[]", "7", "[" * 100_000, '["me", "soon", 5, 0]', '["me", NaN, 5, NaN]'),
        *('["me", 1e999, 1e999, 0]', '["me", 1e999, 1e999, 1e999]'),
    ],
)
def test_a_strange_value_of_the_variable_holds_no_process_for_long(
    variables: dict[str, str], text: str
) -> None:
    variables["lucidworks_pause_name"] = text
    assert 0 <= VariablePauseStore("name").read().left <= MAX_PAUSE
    assert SharedPause(new_store).ask(2, 0) <= (0.1 * MAX_PAUSE if "1e999" in text else 0)


# Where


class Stores:
    """Notes which stores were made."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def token_store(self, settings: LucidworksSettings, identity: TokenIdentity) -> NoReturn:
        raise AssertionError("a pause needs no token")

    def pause_store(self, settings: LucidworksSettings, name: str) -> PauseStore:
        self.names.append(name)
        return Board()


def test_a_store_is_made_when_there_is_a_pause() -> None:
    stores = Stores()
    settings = LucidworksSettings("lw", "i", "s", share_via="airflow", stores=stores)
    pauses = [shared_pause(settings, f"https://{host}.test") for host in ("app", "models")]
    assert not stores.names
    for pause in filter(None, [*pauses, *pauses]):
        pause.hold(1)
    assert len(set(stores.names)) == len(stores.names) == 2, "the Models API has a limit of its own"
    assert not any("test" in name for name in stores.names)
    assert shared_pause(replace(settings, share_via="memory"), "https://app.test") is None


@pytest.mark.parametrize("share_via", ["airflow", "redis"])
def test_a_pause_without_a_store_is_not_shared(share_via: str) -> None:
    """Outside of Airflow, or without a `redis_conn_id`: the token's store raises the error."""
    stores = AirflowStores() if share_via == "redis" else None
    settings = LucidworksSettings("lw", "i", "s", share_via=share_via, stores=stores)
    pause = shared_pause(settings, "https://app.test")
    assert pause is not None
    pause.hold(30)
    assert pause.ask(2, 0) == 0


def test_where_a_fleet_shares_its_pause() -> None:
    settings = LucidworksSettings("lw", "i", "s", redis_conn_id="r")
    for share_via, kind in {"airflow": VariablePauseStore, "redis": RedisPauseStore}.items():
        assert isinstance(AirflowStores().pause_store(replace(settings, share_via=share_via), "n"), kind)
