# SPDX-License-Identifier: Apache-2.0
"""
The table of ``retrying.py``, row by row, counted on the wire.

What may be repeated is repeated; a submission only where the service certainly has not acted on it.
"""

import time
from contextlib import ExitStack, closing
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


def perform(mode: Mode, hook: LucidworksHook, endpoint: str, job_id: str = JOB) -> Any:
    return call(mode, hook, poll_job(CHUNKING, job_id)) if endpoint == "poll" else submit(mode, hook)


def count(emulator: RunningEmulator, endpoint: str) -> int:
    return emulator.state.log.endpoints[endpoint]


# The others have the same row in the table of statuses.
SERVER_ERRORS = ["502", "504"]


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [
        *(("poll", kind) for kind in (*SERVER_ERRORS, "408", "425", "429", "disconnect")),
        *(("token", kind) for kind in (*SERVER_ERRORS, "429", "disconnect", "html", "cut-json")),
        ("submit", "425"),
        ("submit", "429"),
    ],
)
def test_what_did_nothing_is_repeated(
    mode: Mode, emulator: RunningEmulator, endpoint: str, kind: str
) -> None:
    hook = LucidworksHook()
    fault(emulator, kind, endpoint, times=2)
    job_id = submit(mode, hook)
    assert job_id.encode() in call(mode, hook, poll_job(CHUNKING, job_id))
    assert count(emulator, endpoint) == 3
    assert len(emulator.state.jobs.all()) == 1


@pytest.mark.parametrize(
    ("endpoint", "kind", "error", "sent"),
    [
        ("poll", "503", ServiceError, ATTEMPTS),
        ("poll", "429", RateLimitError, ATTEMPTS),
        ("poll", "disconnect", TransportError, ATTEMPTS),
        ("submit", "425", ServiceError, ATTEMPTS),
        ("submit", "429", RateLimitError, ATTEMPTS),
        ("submit", "unauthorized", TokenRefusedError, TOKEN_ROUNDS + 1),
    ],
)
def test_nothing_is_repeated_for_ever(
    mode: Mode, emulator: RunningEmulator, endpoint: str, kind: str, error: type[LucidworksError], sent: int
) -> None:
    fault(emulator, kind, endpoint, times=100)
    with pytest.raises(error) as caught:
        perform(mode, LucidworksHook(), endpoint)
    assert caught.value.retryable
    assert kind != "unauthorized" or "another system requests tokens with the same client id" in str(
        caught.value
    )
    assert count(emulator, endpoint) == sent


def test_a_token_that_was_lost_on_the_way_is_requested_again(mode: Mode, emulator: RunningEmulator) -> None:
    fault(emulator, "disconnect-after", "token")
    submit(mode, LucidworksHook())
    assert emulator.state.log.issued[PREDICT] == 2
    assert emulator.state.tokens.live_count() == 1


@pytest.mark.parametrize(
    "kind", [*SERVER_ERRORS, "408", "disconnect", "disconnect-after", "html", "cut-json"]
)
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


@pytest.mark.parametrize("endpoint", ["poll", "submit"])
def test_no_connection_is_tried_again(
    mode: Mode, emulator: RunningEmulator, endpoint: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, warnings = dead_port(), list[str]()
    connect(emulator.url, application_url=f"http://127.0.0.1:{port}")
    with ExitStack() as stack, closing(LucidworksHook()) as hook:

        def start_the_server(level: int, text: str, *values: object) -> None:
            warnings.append(text % values)
            servers.append(stack.enter_context(scripted(SUBMITTED, port=port)))

        servers: list[Any] = []
        monkeypatch.setattr(retrying.log, "log", start_the_server)
        assert JOB in str(perform(mode, hook, endpoint))
        [server] = servers
        assert len(server.heard) == 1
    assert "no connection" in warnings[0]


def test_no_connection_ever(mode: Mode, emulator: RunningEmulator, connect: Connect) -> None:
    connect(emulator.url, application_url=f"http://127.0.0.1:{dead_port()}")
    with pytest.raises(NotSentError):
        submit(mode, LucidworksHook())


@pytest.mark.parametrize(
    ("status", "error"), [(403, ForbiddenError), (404, UnknownResourceError), (413, RequestRefusedError)]
)
@pytest.mark.parametrize("endpoint", ["poll", "submit"])
def test_other_refusals_are_final(
    mode: Mode, status: int, error: type[LucidworksError], endpoint: str, application: Application
) -> None:
    server = application(answer(status, '{"message": "Because."}'))
    with closing(LucidworksHook()) as hook, pytest.raises(error, match=f"HTTP {status}: Because"):
        perform(mode, hook, endpoint)
    # The error of an unknown model names what the service lists.
    listed = endpoint == "submit" and error is UnknownResourceError
    methods = [one.line.partition(" ")[0] for one in server.heard]
    assert methods == ["GET" if endpoint == "poll" else "POST", *["GET"] * listed]


@pytest.mark.parametrize("endpoint", ["poll", "submit"])
@pytest.mark.parametrize("times", [1, TOKEN_ROUNDS])
def test_a_refused_token_is_replaced(
    mode: Mode, emulator: RunningEmulator, endpoint: str, times: int
) -> None:
    hook = LucidworksHook()
    job_id = submit(mode, hook)
    before = emulator.state.log.issued[PREDICT], count(emulator, endpoint)
    fault(emulator, "unauthorized", endpoint, times=times)
    perform(mode, hook, endpoint, job_id)
    assert emulator.state.log.issued[PREDICT] - before[0] == times
    assert count(emulator, endpoint) - before[1] == times + 1


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
    with closing(LucidworksHook()) as hook:
        submit(mode, hook)
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
