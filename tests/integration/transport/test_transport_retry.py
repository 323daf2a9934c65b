# SPDX-License-Identifier: Apache-2.0
"""
The table of ``retrying.py``, row by row, counted on the wire.

What may be repeated is repeated; a submission only where the service certainly has not acted on it.
"""

import logging
import time
from contextlib import ExitStack
from email.utils import formatdate
from typing import Any

import pytest
from transport_wire import (
    Application,
    Connect,
    Mode,
    Serve,
    answer,
    call,
    dead_port,
    fault,
    get_token,
    scripted,
    submit,
)

from lucidworks_provider import retrying
from lucidworks_provider.client.http import rate_limiter
from lucidworks_provider.client.jobs import CHUNKING, poll_job
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.errors import (
    AuthenticationError,
    ForbiddenError,
    LucidworksError,
    NotSentError,
    RateLimitError,
    RequestRefusedError,
    ServiceError,
    SubmissionUnknownError,
    TokenRefusedError,
    TransportError,
    UnknownResourceError,
)
from lucidworks_provider.hooks.lucidworks import LucidworksHook

JOB = "441eb3be-7de6-470a-8141-e416a15c7db1"
SUBMITTED = answer(body=f'{{"chunkingId": "{JOB}", "status": "SUBMITTED"}}')
PREDICT = "machinelearning.predict"
# Not imported: what they are is part of the table.
ATTEMPTS, TOKEN_ROUNDS = 6, 2


def count(emulator: RunningEmulator, endpoint: str) -> int:
    return emulator.state.log.endpoints[endpoint]


SERVER_ERRORS = ["500", "502", "503", "504"]


@pytest.mark.parametrize("kind", [*SERVER_ERRORS, "429", "disconnect"])
def test_a_poll_is_repeated(mode: Mode, emulator: RunningEmulator, kind: str) -> None:
    hook = LucidworksHook()
    job_id = submit(mode, hook)
    fault(emulator, kind, "poll", times=3)
    assert job_id.encode() in call(mode, hook, poll_job(CHUNKING, job_id))
    assert count(emulator, "poll") == 4


@pytest.mark.parametrize(
    ("kind", "error"), [("503", ServiceError), ("429", RateLimitError), ("disconnect", TransportError)]
)
def test_a_poll_is_not_repeated_for_ever(
    mode: Mode, emulator: RunningEmulator, kind: str, error: type[LucidworksError]
) -> None:
    fault(emulator, kind, "poll", times=100)
    with pytest.raises(error) as caught:
        call(mode, LucidworksHook(), poll_job(CHUNKING, JOB))
    assert caught.value.retryable
    assert count(emulator, "poll") == ATTEMPTS


@pytest.mark.parametrize("kind", [*SERVER_ERRORS, "disconnect", "html", "cut-json", "429"])
def test_a_token_request_is_repeated(mode: Mode, emulator: RunningEmulator, kind: str) -> None:
    fault(emulator, kind, "token", times=2)
    get_token(mode, LucidworksHook())
    assert count(emulator, "token") == 3


def test_a_token_that_was_lost_on_the_way_is_asked_for_again(mode: Mode, emulator: RunningEmulator) -> None:
    fault(emulator, "disconnect-after", "token")
    submit(mode, LucidworksHook())
    assert emulator.state.log.issued[PREDICT] == 2
    assert emulator.state.tokens.live_count() == 1


@pytest.mark.parametrize("kind", [*SERVER_ERRORS, "disconnect", "disconnect-after", "html", "cut-json"])
def test_a_submission_that_may_have_arrived_is_not_repeated(
    mode: Mode, emulator: RunningEmulator, kind: str
) -> None:
    fault(emulator, kind, "submit")
    with pytest.raises(SubmissionUnknownError, match="under an id that is lost"):
        submit(mode, LucidworksHook())
    assert count(emulator, "submit") == 1
    assert len(emulator.state.jobs.all()) == (kind in {"disconnect-after", "cut-json"})


def test_a_submission_without_a_response_is_not_repeated(
    mode: Mode, emulator: RunningEmulator, connect: Connect
) -> None:
    connect(emulator.url, timeout=0.3)
    fault(emulator, "slow", "submit", delay=0.6)
    with pytest.raises(SubmissionUnknownError, match=r"no response within 0\.3 s"):
        submit(mode, LucidworksHook())
    deadline = time.monotonic() + 5
    while not count(emulator, "submit"):  # it is counted when it ends
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert count(emulator, "submit") == 1


def test_a_refused_submission_is_repeated(mode: Mode, emulator: RunningEmulator) -> None:
    fault(emulator, "429", "submit", times=3)
    submit(mode, LucidworksHook())
    assert count(emulator, "submit") == 4
    assert len(emulator.state.jobs.all()) == 1


def test_a_rate_limit_that_stays(mode: Mode, emulator: RunningEmulator) -> None:
    fault(emulator, "429", "submit", times=100)
    with pytest.raises(RateLimitError):
        submit(mode, LucidworksHook())
    assert count(emulator, "submit") == ATTEMPTS


def test_a_request_is_given_up_when_everything_was_refused_for_minutes(
    mode: Mode, emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request at a time is sent then, so six attempts of each of eight may take half an hour."""
    monkeypatch.setattr(retrying, "LONGEST_REFUSAL", 0.0)
    monkeypatch.setattr(rate_limiter, "REFUSED_PROBES", 1)
    fault(emulator, "429", "submit", times=100)
    with pytest.raises(RateLimitError):
        submit(mode, LucidworksHook())
    assert count(emulator, "submit") == 3


class _OnFirstWarning(logging.Handler):
    def __init__(self, action: Any) -> None:
        super().__init__(logging.WARNING)
        self._action = action
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        if len(self.texts) == 1:
            self._action()


@pytest.mark.parametrize("replayable", [True, False], ids=["poll", "submit"])
def test_no_connection_is_tried_again(
    mode: Mode, emulator: RunningEmulator, replayable: bool, connect: Connect
) -> None:
    port = dead_port()
    url = f"http://127.0.0.1:{port}"
    connect(emulator.url, application_url=url)
    hook, log = LucidworksHook(), logging.getLogger("lucidworks_provider.retrying")
    with ExitStack() as stack:
        servers: list[Any] = []
        handler = _OnFirstWarning(lambda: servers.append(stack.enter_context(scripted(SUBMITTED, port=port))))
        log.addHandler(handler)
        stack.callback(log.removeHandler, handler)
        if replayable:
            call(mode, hook, poll_job(CHUNKING, JOB))
        else:
            assert submit(mode, hook) == JOB
        hook.close()
        assert len(servers[0].heard) == 1
    assert len(handler.texts) == 1
    assert "no connection" in handler.texts[0]


def test_no_connection_ever(mode: Mode, emulator: RunningEmulator, connect: Connect) -> None:
    url = f"http://127.0.0.1:{dead_port()}"
    connect(emulator.url, application_url=url)
    with pytest.raises(NotSentError):
        submit(mode, LucidworksHook())


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RequestRefusedError),
        (403, ForbiddenError),
        (404, UnknownResourceError),
        (410, UnknownResourceError),
        (413, RequestRefusedError),
        (422, RequestRefusedError),
    ],
)
@pytest.mark.parametrize("replayable", [True, False], ids=["poll", "submit"])
def test_other_refusals_are_final(
    mode: Mode, status: int, error: type[LucidworksError], replayable: bool, application: Application
) -> None:
    server = application(answer(status, '{"message": "Because."}'))
    hook = LucidworksHook()
    with pytest.raises(error, match=f"HTTP {status}: Because"):
        call(mode, hook, poll_job(CHUNKING, JOB)) if replayable else submit(mode, hook)
    hook.close()
    # The error of an unknown model names what the service lists.
    listed = not replayable and error is UnknownResourceError
    methods = [one.line.partition(" ")[0] for one in server.heard]
    assert methods == ["GET" if replayable else "POST", *["GET"] * listed]


@pytest.mark.parametrize("endpoint", ["poll", "submit"])
@pytest.mark.parametrize("times", [1, TOKEN_ROUNDS])
def test_a_refused_token_is_replaced(
    mode: Mode, emulator: RunningEmulator, endpoint: str, times: int
) -> None:
    hook = LucidworksHook()
    job_id = submit(mode, hook)
    before = emulator.state.log.issued[PREDICT], count(emulator, endpoint)
    fault(emulator, "unauthorized", endpoint, times=times)
    call(mode, hook, poll_job(CHUNKING, job_id)) if endpoint == "poll" else submit(mode, hook)
    assert emulator.state.log.issued[PREDICT] - before[0] == times
    assert count(emulator, endpoint) - before[1] == times + 1


def test_a_token_that_is_refused_again_and_again(mode: Mode, emulator: RunningEmulator) -> None:
    fault(emulator, "unauthorized", "submit", times=100)
    with pytest.raises(TokenRefusedError, match="another system requests tokens with the same client id"):
        submit(mode, LucidworksHook())
    assert count(emulator, "submit") == TOKEN_ROUNDS + 1


@pytest.mark.parametrize("dated", [False, True], ids=["seconds", "date"])
def test_retry_after_is_waited_for(
    mode: Mode,
    emulator: RunningEmulator,
    dated: bool,
    monkeypatch: pytest.MonkeyPatch,
    connect: Connect,
    serve: Serve,
) -> None:
    # The server's clock is years off: only the difference between its two headers counts.
    now = 1_000_000_000
    headers = {"Date": formatdate(now, usegmt=True)}
    headers["Retry_After"] = formatdate(now + 1, usegmt=True) if dated else "1"
    times: list[float] = []
    server = serve(answer(429, **headers), SUBMITTED)
    play = server.next_step
    monkeypatch.setattr(server, "next_step", lambda heard: times.append(time.monotonic()) or play(heard))
    connect(emulator.url, application_url=server.url)
    hook = LucidworksHook()
    submit(mode, hook)
    hook.close()
    assert len(times) == 2
    assert 1.0 <= times[1] - times[0] < 2.5


def test_a_retry_after_beyond_patience_is_left_to_airflow(mode: Mode, emulator: RunningEmulator) -> None:
    fault(emulator, "429", "submit", retry_after=3600)
    with pytest.raises(RateLimitError) as caught:
        submit(mode, LucidworksHook())
    assert caught.value.retry_after == 3600
    assert count(emulator, "submit") == 1


def test_wrong_credentials_are_tried_once(mode: Mode, emulator: RunningEmulator, connect: Connect) -> None:
    connect(emulator.url, secret="wrong-secret")
    with pytest.raises(AuthenticationError, match="The client id or the client secret is wrong"):
        submit(mode, LucidworksHook())
    assert count(emulator, "token") == 1
    assert count(emulator, "submit") == 0
