# SPDX-License-Identifier: Apache-2.0
"""Injected faults, rate limit, control endpoints and the secrecy of the log."""

import json
import socket
import time

import pytest
import requests
from emulator_client import Caller

from lucidworks_provider.emulator import EmulatorSettings
from lucidworks_provider.emulator.broken_responses import BREAKERS
from lucidworks_provider.emulator.faults import KINDS, Fault
from lucidworks_provider.emulator.rules import InvalidValue
from lucidworks_provider.emulator.state import RateLimit

SETTINGS = EmulatorSettings(pending_polls=0)


@pytest.mark.parametrize("kind", ["429", "500", "502", "503", "504"])
@pytest.mark.parametrize("match", ["token", "submit", "poll", "any"])
def test_status_faults_hit_the_matching_calls_only(caller: Caller, kind: str, match: str) -> None:
    job_id = caller.submit().json()["chunkingId"]
    caller.fault(kind, match, times=2, retry_after=1.5)
    calls = {"token": caller.ask_token, "submit": caller.submit, "poll": lambda: caller.poll(job_id)}
    if match != "any":
        others = [call for name, call in calls.items() if name not in {match, "token"}]
        assert all(call().status_code == 200 for call in others)
    for _ in range(2):
        answer = calls.get(match, caller.submit)()
        assert (answer.status_code, answer.headers["Retry-After"]) == (int(kind), "1.5")
        assert answer.json()["status"] == int(kind)
    assert calls.get(match, caller.submit)().status_code == 200


@pytest.mark.parametrize("kind", ["disconnect", "timeout"])
def test_dropped_before_the_operation(caller: Caller, kind: str) -> None:
    caller.fault(kind, "submit", delay=0.2)
    began = time.perf_counter()
    with pytest.raises(requests.ConnectionError):
        caller.submit()
    assert time.perf_counter() - began >= 0.2
    assert caller.control("GET", "/jobs") == []
    assert caller.last()["status"] is None
    assert caller.submit().status_code == 200


def test_dropped_after_the_operation(caller: Caller) -> None:
    caller.fault("disconnect-after", "submit")
    with pytest.raises(requests.ConnectionError):
        caller.submit()
    (orphan,) = caller.control("GET", "/jobs")
    caller.fault("disconnect-after", "poll")
    with pytest.raises(requests.ConnectionError):
        caller.poll(orphan["job_id"])
    assert caller.poll(orphan["job_id"]).json()["status"] == "RETRIEVED"
    caller.fault("disconnect-after", "token")
    with pytest.raises(requests.ConnectionError):
        caller.ask_token()
    assert caller.submit().status_code == 401  # the old token is dead


def test_html_cut_json_and_slow(caller: Caller) -> None:
    job_id = caller.submit().json()["chunkingId"]
    caller.fault("html", "poll")
    page = caller.poll(job_id)
    assert (page.status_code, page.headers["Content-Type"].split(";")[0]) == (200, "text/html")
    caller.fault("cut-json", "poll")
    cut = caller.poll(job_id)
    assert cut.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut.text)
    caller.fault("slow", "submit", delay=0.2)
    began = time.perf_counter()
    assert caller.submit().status_code == 200
    assert time.perf_counter() - began >= 0.2


def test_responses_that_break_on_their_way(caller: Caller) -> None:
    caller.fault("reset", "submit")
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="reset by peer"):
        caller.submit()
    caller.fault("drip", "submit", delay=0.005)
    began = time.perf_counter()
    answer = caller.submit()
    assert answer.json()["status"] == "SUBMITTED"
    assert time.perf_counter() - began >= 0.005 * len(answer.content)
    # The operation is done each time.
    assert len(caller.control("GET", "/jobs")) == 2
    caller.fault("endless", "poll")
    with caller.call("GET", f"/ai/async-chunking/{answer.json()['chunkingId']}", stream=True) as endless:
        assert endless.raw.read(8 << 20).rstrip() == b"{"
    assert caller.last()["job_status"] == "READY"


@pytest.mark.parametrize("kind", ["br", "zstd"])
def test_an_encoding_that_was_not_requested(caller: Caller, kind: str) -> None:
    caller.fault(kind, "submit")
    body = {"batch": [{"text": "One."}]}
    with caller.call("POST", "/ai/async-chunking/sentence/gte-small", json=body, stream=True) as answer:
        assert (answer.status_code, answer.headers["Content-Encoding"]) == (200, kind)
        # Both formats store the JSON as it is.
        assert b'"status":"SUBMITTED"' in answer.raw.read(decode_content=False)
    assert len(caller.control("GET", "/jobs")) == 1


@pytest.mark.parametrize("status", [200, 401])
def test_early_hints_come_before_the_response(caller: Caller, status: int) -> None:
    host, port = caller.emulator.url.removeprefix("http://").split(":")
    caller.fault("early-hints", "usecases")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        token = caller.token if status == 200 else "unknown"
        head = f"GET /ai/usecases HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        lines = [line for line in connection.makefile("rb") if line.startswith(b"HTTP/1.1 ")]
    assert [int(line.split()[1]) for line in lines] == [103, status]
    assert caller.last()["status"] == status


def test_keys_are_quoted(caller: Caller) -> None:
    caller.fault("quoted-keys", "predict")
    body = {"batch": [{"text": "x"}], "modelConfig": {"apiKey": "sk-abcdef1234", "topP": 1}}
    answer = caller.call("POST", "/ai/prediction/passthrough/gpt-4o", json=body)
    assert answer.status_code == 400
    for quoted in ("sk-abcdef1234", "sk-\N{HORIZONTAL ELLIPSIS}***1234", "sk-abc...1234"):
        assert quoted in answer.json()["message"]
    caller.fault("quoted-keys", "submit")
    assert caller.submit().status_code == 400


@pytest.mark.parametrize(("kind", "seconds"), [("drip", 1.0), ("timeout", 30.0), ("slow", 0.0)])
def test_a_delay_of_zero_is_no_delay(kind: str, seconds: float) -> None:
    assert Fault.from_json({"kind": kind}).delay == seconds
    assert Fault.from_json({"kind": kind, "delay": 0}).delay == 0


def test_labels_as_a_text_without_any(caller: Caller) -> None:
    caller.fault("labels", "predict", value="text")
    answer = caller.predict("classification", "x", useCaseConfig={"labels": ["a"], "similarityCutoff": 1})
    assert answer.json()["predictions"][0]["labels"] == ""


def test_unauthorized_kills_no_token(caller: Caller) -> None:
    caller.fault("unauthorized", "submit")
    assert caller.submit().status_code == 401
    assert caller.submit().status_code == 200
    caller.fault("unauthorized", "token")
    assert caller.ask_token().json()["error"] == "invalid_client"


def test_calls_are_shed_at_random() -> None:
    settings = EmulatorSettings(shed_share=0.05)
    refused = [limit.refuse(settings, 0.0) for limit in [RateLimit()] for _ in range(10_000)]
    assert 400 < refused.count(1) < 600
    assert set(refused) == {1, None}
    with pytest.raises(InvalidValue, match="shed_share"):
        settings.patched({"shed_share": 1.5})


@pytest.mark.parametrize("retry_after", [True, False])
def test_rate_limit(caller: Caller, retry_after: bool) -> None:
    caller.set(rate_limit=3, rate_window=60, retry_after=retry_after)
    answers = [caller.submit() for _ in range(5)]
    assert [one.status_code for one in answers] == [200, 200, 200, 429, 429]
    assert ("Retry-After" in answers[-1].headers) is retry_after
    caller.advance(60)
    assert caller.submit().status_code == 200
    assert caller.control("GET", "/stats")["rate_limited"] == 2


@pytest.mark.parametrize("retry_after", [True, False])
def test_a_bucket_fills_evenly(caller: Caller, retry_after: bool) -> None:
    changes = {"rate_limit": 2, "rate_window": 120, "rate_mode": "bucket", "retry_after": retry_after}
    assert caller.set(**changes)["rate_mode"] == "bucket"
    assert [caller.submit().status_code for _ in range(2)] == [200, 429]
    caller.advance(30)
    refused = caller.submit()
    assert refused.status_code == 429
    assert refused.headers.get("Retry-After") in (("29", "30") if retry_after else (None,))
    caller.advance(30)
    assert [caller.submit().status_code for _ in range(2)] == [200, 429]


def test_what_a_bucket_lets_through() -> None:
    limit = RateLimit()
    settings = EmulatorSettings(rate_limit=1, rate_window=4.0, rate_mode="bucket")
    # One at least at once, then one every four seconds, whatever is refused in between.
    passed = [second for second in range(13) if limit.refuse(settings, float(second)) is None]
    assert passed == [0, 4, 8, 12]
    assert [limit.refuse(settings, 12.0 + second) for second in (0, 1, 2, 3)] == [4, 3, 2, 1]
    settings = settings.patched({"rate_limit": 40})
    # The bucket keeps what it has when the rate is changed.
    assert limit.refuse(settings, 15.0) == 1
    assert sum(limit.refuse(settings, 100.0) is None for _ in range(50)) == 10
    limit = RateLimit()
    assert sum(limit.refuse(settings, 100.0) is None for _ in range(50)) == 10


NONSENSE: dict[str, list[dict[str, object]]] = {
    "PATCH /settings": [
        *({"token_ttl": 0}, {"token_ttl": True}, {"latency": "1"}, {"retrieved": "sometimes"}),
        *({"clients": {"a": "b"}}, {"deployments": ["abc"]}, {"latency": 1e10}, {"pending_seconds": 10**400}),
    ],
    "POST /faults": [
        *({"kind": "earthquake"}, {"kind": "500", "match": "models"}, {"kind": "500", "times": 0}),
        *({"kind": "never-ending", "match": "poll"}, {"kind": "500", "delay": -1}),
        *({"kind": "index", "value": "first"}, {"kind": "reversed", "value": "one"}),
    ],
    "POST /clock": [{"advance": "tomorrow"}],
    "POST /tokens/kill": [{"scope": "all"}, {"scopes": ["machinelearning.predict"]}],
}


@pytest.mark.parametrize(
    ("call", "body"), [(call, body) for call, bodies in NONSENSE.items() for body in bodies]
)
def test_control_refuses_nonsense(caller: Caller, call: str, body: dict[str, object]) -> None:
    method, path = call.split()
    answer = requests.request(method, f"{caller.emulator.url}/_emulator{path}", json=body, timeout=5)
    assert answer.status_code == 400
    assert answer.json()["message"]


def test_settings_faults_log_and_reset(caller: Caller) -> None:
    shown = caller.set(latency=0, pending_seconds=1.5, rate_limit=None)
    assert (shown["pending_seconds"], shown["rate_limit"], shown["clients"]) == (1.5, None, ["demo-client"])
    caller.fault("500", "submit", times=3)
    assert caller.control("GET", "/faults")[0]["times"] == 3
    assert caller.control("DELETE", "/faults") == []
    caller.submit()
    sequence = caller.last()["sequence"]
    assert caller.control("DELETE", "/log") == []
    caller.submit()
    assert [one["sequence"] for one in caller.control("GET", "/log")] == [sequence + 1]
    caller.control("POST", "/reset")
    assert caller.control("GET", "/stats")["live_tokens"] == 0
    assert caller.control("GET", "/settings")["pending_seconds"] == 0
    assert caller.submit().status_code == 401


def test_stats(caller: Caller) -> None:
    caller.chunk("x")
    caller.submit()
    caller.call("GET", "/ai/usecases", "abc")
    stats = caller.control("GET", "/stats")
    assert stats["issued"] == {"machinelearning.predict": 1, "machinelearning.model": 0}
    assert (stats["submissions"], stats["unauthorized"], stats["live_tokens"]) == (2, 1, 1)
    assert stats["jobs"]["RETRIEVED"] == 1
    assert sum(stats["jobs"].values()) == 2


def test_wrong_paths_are_logged(caller: Caller) -> None:
    assert caller.call("GET", "/ai/chunk/sentence").status_code == 404
    record = caller.last()
    assert (record["endpoint"], record["path"], record["status"]) == ("unknown", "/ai/chunk/sentence", 404)


def test_nothing_secret_in_the_log(caller: Caller) -> None:
    caller.submit("A confidential text.")
    caller.ask_token(auth=("demo-client", "guessed-secret"))
    caller.call("GET", f"/ai/usecases?token={caller.token}", "abc.def.ghi")
    shown = json.dumps(caller.control("GET", "/log")) + json.dumps(caller.control("GET", "/settings"))
    for secret in ("demo-secret", "guessed-secret", caller.token, caller.token.split(".")[1], "abc.def"):
        assert secret not in shown
    assert "confidential" not in shown
    assert caller.control("GET", "/log")[0]["jti_prefix"].startswith("AT.")


def test_every_broken_response_is_a_kind_of_fault() -> None:
    assert set(BREAKERS) < set(KINDS)
