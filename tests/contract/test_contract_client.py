# SPDX-License-Identifier: Apache-2.0
"""
Every request that the client puts on the wire is one that the OpenAPI document allows.

The document judges twice: as it stands, and with the schemas of request bodies closed, so that a field that
the vendor does not know is found as well. The token request is compared with the documented one byte by byte.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from contract_wire import APPLICATION, IDENTITY, Recorders, judge, recording
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_core.exceptions import OpenAPIError

from lucidworks_provider.api.chunking import (
    CHUNKERS,
    DATA_TYPES,
    QUANTIZATIONS,
    ChunkingOptions,
    submit_request,
)
from lucidworks_provider.auth.source import forget_sources
from lucidworks_provider.emulator import EmulatorSettings, running
from lucidworks_provider.errors import InputError
from lucidworks_provider.hooks.lucidworks import LucidworksHook

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT, SECRET = "klient-1", "pä:ß wörd/+=☃"
AUTH_SERVER = "another.server-1"
TEXT = "The itsy bitsy spider climbed up the waterspout. Down came the rain.\nAnd washed the spider out."
FULL_CONFIGS: dict[str, dict[str, Any]] = {
    "dynamic-newline": {"maxChunkSize": 256},
    "dynamic-sentence": {"maxChunkSize": 256, "overlapSize": 2},
    "regex-splitter": {"regex": "\\n+"},
    "semantic": {"maxChunkSize": 512, "overlapSize": 1, "cosineThreshold": 0.567, "approximate": True},
    "sentence": {"chunkSize": 3, "overlapSize": 2},
}
MODEL_CONFIG = {"vectorQuantizationMethod": "max-scale", "dimReductionSize": 64}


@pytest.fixture(scope="module")
def wire() -> Iterator[Recorders]:
    clients = EmulatorSettings(clients={CLIENT: SECRET}, auth_server_id=AUTH_SERVER, pending_polls=1)
    with running(clients) as emulator, recording(emulator.url) as recorders:
        yield recorders


@pytest.fixture
def hook(
    wire: Recorders,
    monkeypatch: pytest.MonkeyPatch,
    plain_network: None,
    short_waits: None,
    forgotten_tokens: None,
) -> LucidworksHook:
    wire.seen.clear()
    extra = {
        "auth_url": wire.identity,
        "application_url": wire.application,
        "auth_server_id": AUTH_SERVER,
        "share_via": "memory",
    }
    connection = {"conn_type": "lucidworks", "login": CLIENT, "password": SECRET, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_RECORDED", json.dumps(connection))
    return LucidworksHook("recorded")


def run(hook: LucidworksHook, mode: str, **options: Any) -> None:
    """Submit and poll until there is a result."""

    async def asynchronously() -> None:
        async with hook.shared_client():
            job_id = await hook.asubmit_chunking(TEXT, **options)
            while not (await hook.aget_chunking(job_id)).chunks:
                pass

    if mode == "async":
        asyncio.run(asynchronously())
        return
    job_id = hook.submit_chunking(TEXT, **options)
    while not hook.get_chunking(job_id).chunks:
        pass


def test_every_chunker_has_a_full_configuration() -> None:
    assert {name: set(config) for name, config in FULL_CONFIGS.items()} == {
        name: set(options) for name, options in CHUNKERS.items()
    }


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("full", [True, False], ids=["full", "defaults"])
@pytest.mark.parametrize("chunker", CHUNKERS)
def test_requests_are_the_documented_ones(
    hook: LucidworksHook, wire: Recorders, chunker: str, full: bool, mode: str
) -> None:
    options: dict[str, Any] = {"chunker": chunker, "model_id": "gte-small"}
    if full:
        options |= {
            "chunker_config": FULL_CONFIGS[chunker],
            "model_config": MODEL_CONFIG,
            "data_type": "query",
        }
    run(hook, mode, **options)
    for exchange in wire.seen:
        judge().request(exchange)
        judge().answer(exchange)
        assert exchange.header("Accept") == "application/json"
    assert [(one.verb, one.host_url) for one in wire.seen] == [
        ("POST", IDENTITY),
        ("POST", APPLICATION),
        ("GET", APPLICATION),
        ("GET", APPLICATION),
    ]
    token = json.loads(wire.seen[0].data)["access_token"]
    assert {one.header("Authorization") for one in wire.seen[1:]} == {f"Bearer {token}"}
    submission = wire.seen[1]
    assert submission.path == f"/ai/async-chunking/{chunker}/gte-small"
    assert submission.header("Content-Type") == "application/json"
    assert json.loads(submission.body) == {
        "batch": [{"text": TEXT}],
        "useCaseConfig": {"dataType": "query" if full else "passage"},
        **({"chunkerConfig": FULL_CONFIGS[chunker], "modelConfig": MODEL_CONFIG} if full else {}),
    }
    assert submission.header("Content-Length") == str(len(submission.body))
    job_id = json.loads(submission.data)["chunkingId"]
    assert {one.target for one in wire.seen[2:]} == {f"/ai/async-chunking/{job_id}"}
    assert all(one.body == b"" and one.header("Content-Type") is None for one in wire.seen[2:])


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("scope", ["machinelearning.predict", "machinelearning.model"])
def test_token_request_on_the_wire(hook: LucidworksHook, wire: Recorders, scope: str, mode: str) -> None:
    token = hook.get_token(scope) if mode == "sync" else asyncio.run(hook.aget_token(scope))
    [exchange] = wire.seen
    assert exchange.verb == "POST"
    assert exchange.target == (f"/oauth2/{AUTH_SERVER}/v1/token?scope={scope}&grant_type=client_credentials")
    assert exchange.header("Accept") == "application/json"
    assert exchange.header("Cache-Control") == "no-cache"
    assert exchange.header("Content-Type") == "application/x-www-form-urlencoded"
    assert exchange.body == b""
    assert exchange.header("Content-Length") == "0"
    assert exchange.header("Transfer-Encoding") is None
    kind, _, encoded = (exchange.header("Authorization") or "").partition(" ")
    assert kind == "Basic"
    assert base64.b64decode(encoded, validate=True) == f"{CLIENT}:{SECRET}".encode()
    assert token == json.loads(exchange.data)["access_token"]
    judge().request(exchange)
    judge().answer(exchange)


@pytest.mark.parametrize(
    "change",
    [
        {"verb": "GET"},
        {"target": f"/oauth2/{AUTH_SERVER}/v1/token?scope=machinelearning.predict"},
        {"target": f"/oauth2/{AUTH_SERVER}/v1/token?scope=a&grant_type=password"},
        {"host_url": APPLICATION},
        {"request_headers": [("Authorization", "Basic YTpi"), ("Accept", "application/json")]},
        {"request_headers": [("Authorization", "Bearer abc"), ("Cache-Control", "no-cache")]},
    ],
    ids=["method", "no-grant-type", "grant-type", "host", "no-cache-control", "scheme"],
)
def test_the_judge_refuses_wrong_token_requests(
    hook: LucidworksHook, wire: Recorders, change: dict[str, Any]
) -> None:
    hook.get_token()
    [exchange] = wire.seen
    judge().request(exchange)
    exchange.__dict__.pop("_parameters")
    for name, value in change.items():
        setattr(exchange, name, value)
    with pytest.raises(OpenAPIError):
        judge().request(exchange)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"batch": []},
        {"batch": [{"txt": "a"}]},
        {"batch": [{"text": "a"}], "useCaseConfig": {"dataType": "document"}},
        {"batch": [{"text": "a"}], "modelConfig": {"vectorQuantizationMethod": "min"}},
        {"batch": [{"text": "a"}], "modelConfig": {"dimReductionSize": 0}},
        {"batch": [{"text": "a"}], "chunkerConfig": {"chunkSize": 0}},
        {"batch": [{"text": "a"}], "chunkerConfig": {"maxChunkSize": 5}},
        {"batch": [{"text": "a"}], "options": {}},
    ],
)
def test_the_judge_refuses_wrong_submissions(
    hook: LucidworksHook, wire: Recorders, body: dict[str, Any]
) -> None:
    hook.submit_chunking(TEXT, chunker="sentence", model_id="gte-small")
    submission = wire.of("POST", "/sentence/")[0]
    judge().request(submission)
    submission.body = json.dumps(body).encode()
    with pytest.raises(OpenAPIError):
        judge().request(submission)


_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "maxChunkSize": st.integers(1),
    "overlapSize": st.integers(0),
    "chunkSize": st.integers(1, 50),
    "cosineThreshold": st.floats(-1, 1) | st.sampled_from([-1, 0, 1]),
    "approximate": st.booleans(),
    "regex": st.sampled_from(["\n", r"\s+", "(?m)^", "(a)|b", "é{2}"]) | st.text(min_size=1, max_size=5),
}


def _accepted(options: tuple[str, Any, Any, Any, Any]) -> ChunkingOptions | None:
    try:
        return ChunkingOptions(*options)
    except ValueError:
        return None


ACCEPTED = (
    st.sampled_from(sorted(CHUNKERS))
    .flatmap(
        lambda chunker: st.tuples(
            st.just(chunker),
            # What a model can reduce to is the model's affair, so the size stays within that of the smallest.
            st.sampled_from(["gte-small", "bge-large", "multilingual-e5-base"]),
            st.sampled_from([*DATA_TYPES, None]),
            st.none() | st.fixed_dictionaries({}, optional={n: _VALUES[n] for n in CHUNKERS[chunker]}),
            st.none()
            | st.fixed_dictionaries(
                {},
                optional={
                    "vectorQuantizationMethod": st.sampled_from(QUANTIZATIONS),
                    "dimReductionSize": st.integers(1, 384),
                },
            ),
        )
    )
    .map(_accepted)
    .filter(bool)
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(options=ACCEPTED, text=st.text(max_size=50).filter(str.strip))
def test_what_the_client_accepts_is_documented_and_accepted(
    hook: LucidworksHook, wire: Recorders, options: ChunkingOptions, text: str
) -> None:
    wire.seen.clear()
    hook.submit_text(options, text)
    for exchange in wire.seen:
        judge().request(exchange)
        assert exchange.status_code == 200


@pytest.mark.parametrize(
    "options",
    [
        ([], "gte-small", None, None),
        ("sentence", "gte-small\ud800", None, None),
        ("regex-splitter", "gte-small", None, {"regex": "\ud800"}),
    ],
    ids=["chunker-no-text", "model-surrogate", "regex-surrogate"],
)
def test_what_cannot_be_sent_is_refused_as_input(options: tuple[Any, Any, Any, Any]) -> None:
    with pytest.raises(InputError):
        submit_request(APPLICATION, ChunkingOptions(*options), TEXT)


def test_a_new_process_asks_again(hook: LucidworksHook, wire: Recorders) -> None:
    hook.get_token()
    forget_sources()
    hook.get_token()
    first, second = wire.seen
    assert (first.target, first.request_headers[1:]) == (second.target, second.request_headers[1:])
