# SPDX-License-Identifier: Apache-2.0
"""Every answer that the emulator gives where the OpenAPI document has one is the documented one."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Self
from uuid import uuid4

import pytest
import requests
from contract_wire import Exchange, Recorders, judge, recording
from openapi_core.exceptions import OpenAPIError

from lucidworks_provider.emulator import EmulatorSettings, running
from lucidworks_provider.emulator.faults import EndpointName, Fault
from lucidworks_provider.emulator.jobs import JobState
from lucidworks_provider.emulator.server import RunningEmulator

SMALL = 2000
LLAMA = "llama-3-8b-instruct"
TOKEN_PATH = "/oauth2/ausao8uveaPmyhv0v357/v1/token"
TOKEN_HEADERS = {
    "Accept": "application/json",
    "Cache-Control": "no-cache",
    "Content-Type": "application/x-www-form-urlencoded",
}


class Vendor:
    """Calls the emulator through the recorders and checks each answer."""

    def __init__(self, emulator: RunningEmulator, wire: Recorders) -> None:
        self.emulator, self.wire = emulator, wire
        self.bearer = ""

    def call(self, base: str, method: str, path: str, **options: Any) -> Exchange:
        requests.request(method, base + path, timeout=20, allow_redirects=False, **options)
        exchange = self.wire.seen[-1]
        judge().answer(exchange)
        return exchange

    def token(self, scope: str = "machinelearning.predict", **changes: Any) -> Exchange:
        options: dict[str, Any] = {
            "params": {"scope": scope, "grant_type": "client_credentials"},
            "auth": ("demo-client", "demo-secret"),
            "headers": TOKEN_HEADERS,
        }
        return self.call(self.wire.identity, "POST", TOKEN_PATH, **(options | changes))

    def log_in(self, scope: str = "machinelearning.predict") -> Self:
        self.bearer = json.loads(self.token(scope).data)["access_token"]
        return self

    def api(self, method: str, path: str, base: str = "", **options: Any) -> Exchange:
        headers = {"Authorization": f"Bearer {self.bearer}"} if self.bearer else {}
        return self.call(base or self.wire.application, method, path, headers=headers, **options)

    def asked(self, method: str, path: str, body: object, base: str = "") -> Exchange:
        """If the emulator accepts the request, the document has to allow it, too."""
        exchange = self.api(method, path, base, json=body)
        if exchange.status_code == 200:
            judge().answers.validate_request(exchange)
        return exchange

    def submit(self, text: str = "One. Two.", path: str = "sentence/gte-small", **body: Any) -> Exchange:
        return self.api("POST", f"/ai/async-chunking/{path}", json={"batch": [{"text": text}], **body})

    def poll(self, job_id: str) -> Exchange:
        return self.api("GET", f"/ai/async-chunking/{job_id}")

    def predict(
        self, use_case: str, model: str = LLAMA, *, kind: str = "prediction", **body: Any
    ) -> Exchange:
        return self.asked(
            "POST", f"/ai/{kind}/{use_case}/{model}", {"batch": [{"text": "Who is Bob?"}], **body}
        )

    def customer(self, method: str, path: str, body: object = None) -> Exchange:
        return self.asked(method, f"/customers/{path}", body, self.wire.models)

    def fault(self, **order: Any) -> None:
        self.emulator.state.faults.inject(Fault.from_json(order))


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[RunningEmulator, Recorders]]:
    with running(EmulatorSettings(max_body_bytes=SMALL)) as emulator, recording(emulator.url) as wire:
        yield emulator, wire


@pytest.fixture
def vendor(served: tuple[RunningEmulator, Recorders], plain_network: None) -> Self:
    emulator, wire = served
    emulator.state.reset()
    wire.seen.clear()
    return Vendor(emulator, wire)


def test_token(vendor: Vendor) -> None:
    body = json.loads(vendor.token().data)
    assert set(body) == {"token_type", "expires_in", "access_token", "scope"}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"auth": ("demo-client", "wrong")}, 401),
        ({"auth": None}, 401),
        ({"params": {"scope": "machinelearning.predict"}}, 400),
        ({"params": {"scope": "other", "grant_type": "client_credentials"}}, 400),
        ({"headers": {**TOKEN_HEADERS, "Cache-Control": "max-age=0"}}, 400),
    ],
)
def test_token_errors(vendor: Vendor, changes: dict[str, Any], status: int) -> None:
    assert vendor.token(**changes).status_code == status


@pytest.mark.parametrize("shape", ["inside", "legacy"])
@pytest.mark.parametrize("quantization", [None, "min-max", "max-scale"])
def test_a_job_from_submission_to_retrieved(vendor: Vendor, shape: str, quantization: str | None) -> None:
    vendor.log_in()
    if shape == "legacy":
        vendor.fault(kind="legacy-shape", match="submit")
    config = {} if quantization is None else {"modelConfig": {"vectorQuantizationMethod": quantization}}
    submitted = json.loads(vendor.submit(**config).data)
    job_id = submitted["chunkingId"]
    answers = [json.loads(vendor.poll(job_id).data) for _ in range(3)]
    states = [one["status"] for one in (submitted, *answers)]
    assert states == ["SUBMITTED", "SUBMITTED", "READY", "RETRIEVED"]
    ready = answers[1]
    assert ("vector" in ready) is (shape == "legacy")
    assert ("vectors" in ready["chunkedData"][0]) is (shape == "inside")


@pytest.mark.parametrize("chunker", ["dynamic-newline", "dynamic-sentence", "regex-splitter", "semantic"])
def test_results_of_the_other_chunkers(vendor: Vendor, chunker: str) -> None:
    vendor.log_in()
    job_id = json.loads(vendor.submit("One.\nTwo. Three.", f"{chunker}/e5-small-v2").data)["chunkingId"]
    deadline = time.monotonic() + 10
    while json.loads(vendor.poll(job_id).data)["status"] != "READY":
        assert time.monotonic() < deadline


def test_a_failed_job(vendor: Vendor) -> None:
    vendor.log_in()
    job_id = json.loads(vendor.submit().data)["chunkingId"]
    job = vendor.emulator.state.jobs.find(job_id, vendor.emulator.state.settings)
    assert job is not None
    vendor.emulator.state.jobs.force(job, JobState.ERROR, "It went wrong.")
    body = json.loads(vendor.poll(job_id).data)
    assert (body["status"], body["message"]) == ("ERROR", "It went wrong.")


def test_refused_submissions(vendor: Vendor) -> None:
    assert vendor.submit().status_code == 401
    vendor.log_in()
    assert vendor.submit(chunkerConfig={"size": 1}).status_code == 400
    assert vendor.submit(path="sentence/no-such-model").status_code == 404
    assert vendor.submit("x" * (SMALL + 1)).status_code == 413
    vendor.log_in("machinelearning.model")
    assert vendor.submit().status_code == 403


def test_refused_polls(vendor: Vendor) -> None:
    assert vendor.poll(str(uuid4())).status_code == 401
    vendor.log_in()
    assert vendor.poll(str(uuid4())).status_code == 404


def test_use_cases(vendor: Vendor) -> None:
    assert vendor.api("GET", "/ai/usecases").status_code == 401
    vendor.log_in()
    assert "gte-small" in vendor.api("GET", "/ai/usecases").data.decode()
    assert vendor.api("GET", "/ai/usecases?modelId=nothing").status_code == 200


DOCUMENT = {
    "body": "I'm off to Germany to go to the Oktoberfest!",
    "source": "http://example.com/112",
    "title": "Off to Germany!",
    "date": "2022-01-31T19:31:34Z",
}
REDUCED = {"vectorQuantizationMethod": "max-scale", "dimReductionSize": 256}
PREDICTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("embedding", "gte-small", {}),
    ("embedding", "e5-small-v2", {"useCaseConfig": {"dataType": "passage"}}),
    ("embedding", "bge-large", {"modelConfig": REDUCED}),
    ("classification", LLAMA, {"useCaseConfig": {"labels": ["Harry Potter", "Lord of the Rings"]}}),
    ("passthrough", LLAMA, {"useCaseConfig": {"useSystemPrompt": False}}),
    ("passthrough", "gpt-4o", {"modelConfig": {"apiKey": "k", "temperature": 0.7, "topK": -1}}),
    ("rag", LLAMA, {"batch": [{"text": "Why did I go to Germany?", "documents": [DOCUMENT]}]}),
    ("rag", LLAMA, {"useCaseConfig": {"answerNotFoundMessage": "None.", "extractRelevantContent": False}}),
    ("summarization", LLAMA, {"useCaseConfig": {"maxWords": 100}}),
    ("keyword-extraction", LLAMA, {"useCaseConfig": {"maxKeywords": 100}}),
    ("ner", "nu-zero-ner", {"useCaseConfig": {"entityTypeMap": {"person": ["Bob"]}}}),
    ("faq-enrichment", LLAMA, {}),
]


@pytest.mark.parametrize(("use_case", "model", "body"), PREDICTIONS)
def test_predictions(vendor: Vendor, use_case: str, model: str, body: dict[str, Any]) -> None:
    vendor.log_in()
    [element] = json.loads(vendor.predict(use_case, model, **body).data)["predictions"]
    assert element["tokensUsed"]
    if use_case not in {"embedding", "classification"}:
        submitted = vendor.predict(use_case, model, kind="async-prediction", **body)
        job_id = json.loads(submitted.data)["predictionId"]
        answers = [json.loads(vendor.api("GET", f"/ai/async-prediction/{job_id}").data) for _ in range(3)]
        assert [one["status"] for one in answers] == ["SUBMITTED", "READY", "RETRIEVED"]
        assert set(answers[1]["predictions"][0]) == set(element)


def test_standalone_query_rewriter(vendor: Vendor) -> None:
    vendor.log_in()
    memory = json.loads(vendor.predict("rag").data)["predictions"][0]["memoryUuid"]
    config = {"useCaseConfig": {"memoryUuid": memory}}
    assert vendor.predict("standalone-query-rewriter", **config).status_code == 200
    assert vendor.predict("standalone-query-rewriter", kind="async-prediction", **config).status_code == 200


def test_sources_as_a_string(vendor: Vendor) -> None:
    vendor.log_in()
    state = vendor.emulator.state
    state.settings = state.settings.patched({"sources_shape": "string"})
    assert isinstance(json.loads(vendor.predict("rag").data)["predictions"][0]["sources"], str)


def test_refused_predictions(vendor: Vendor) -> None:
    config = {"useCaseConfig": {"labels": ["a"]}}
    assert vendor.predict("classification", **config).status_code == 401
    vendor.log_in()
    assert vendor.predict("classification").status_code == 400
    assert vendor.predict("classification", "no-such-model", **config).status_code == 404
    assert vendor.predict("no-such-use-case").status_code == 404
    assert vendor.predict("summarization", kind="async-prediction", modelConfig={"a": 1}).status_code == 400
    assert vendor.predict("embedding", "gte-small", kind="async-prediction").status_code == 404
    assert vendor.api("GET", f"/ai/async-prediction/{uuid4()}").status_code == 404
    vendor.log_in("machinelearning.model")
    assert vendor.predict("classification", **config).status_code == 403
    assert vendor.predict("summarization", kind="async-prediction").status_code == 403


def test_previews(vendor: Vendor) -> None:
    vendor.log_in()
    body = {"batch": [{"text": "Who?"}]}
    tokens = json.loads(vendor.asked("POST", "/ai/tokenization/e5-small-v2", body).data)
    assert tokens["generatedTokens"][0]["tokens"] == ["[CLS]", "who", "?", "[SEP]"]
    assert json.loads(vendor.asked("POST", f"/ai/prompt/passthrough/{LLAMA}", body).data)["prompt"] == "Who?"


def test_models_and_deployments(vendor: Vendor) -> None:
    ours = "demo-customer/ai"
    assert vendor.customer("GET", f"{ours}/models").status_code == 401
    vendor.log_in("machinelearning.model")
    order = {
        **{"name": "shop", "modelType": "ecommerce_rnn", "region": "us-southcarolina"},
        "trainingData": {"catalog": "gs://b/catalog", "signals": "gs://b/signals"},
        "config": {"dataset_config": "mlp_ecommerce", "trainer_config.num_epochs": 1},
        "trainingDataCredentials": {"serviceAccountKey": "k"},
    }
    model = json.loads(vendor.customer("POST", f"{ours}/models", order).data)["id"]
    assert vendor.customer("POST", f"{ours}/deployments", {"modelId": model}).status_code == 400
    vendor.emulator.state.clock.advance(60)
    found = json.loads(vendor.customer("GET", f"{ours}/models/{model}?metrics=true").data)
    assert (found["state"], "metrics" in found) == ("AVAILABLE", True)
    body = {"modelId": model, "region": "us-southcarolina", "minReplicas": 1, "maxReplicas": 2}
    for path in ("{0}/ai/deployments", f"{ours}/deployments/{{0}}"):
        deployment = json.loads(vendor.customer("POST", f"{ours}/deployments", body).data)["id"]
        vendor.emulator.state.clock.advance(60)
        for listed in (f"{ours}/deployments", f"{ours}/models/{model}/deployments", f"{ours}/models"):
            assert deployment in vendor.customer("GET", listed).data.decode()
        deleted = vendor.customer("DELETE", path.format(deployment))
        assert json.loads(deleted.data)["state"] == "DELETED"
        assert vendor.customer("DELETE", path.format(deployment)).status_code == 404
    assert vendor.customer("GET", f"{ours}/models/{uuid4()}").status_code == 404
    assert vendor.customer("POST", f"{ours}/models", {"name": "x"}).status_code == 400


X = {"batch": [{"text": "x"}]}
CALLS: dict[str, Callable[[Vendor], Exchange]] = {
    "token": lambda vendor: vendor.token(),
    "submit": lambda vendor: vendor.submit(),
    "poll": lambda vendor: vendor.poll(str(uuid4())),
    "usecases": lambda vendor: vendor.api("GET", "/ai/usecases"),
    "predict": lambda vendor: vendor.predict("passthrough"),
    "submit-prediction": lambda vendor: vendor.predict("rag", kind="async-prediction"),
    "poll-prediction": lambda vendor: vendor.api("GET", f"/ai/async-prediction/{uuid4()}"),
    "tokenize": lambda vendor: vendor.asked("POST", "/ai/tokenization/gte-small", X),
    "preview-prompt": lambda vendor: vendor.asked("POST", f"/ai/prompt/passthrough/{LLAMA}", X),
    "list-models": lambda vendor: vendor.customer("GET", "demo-customer/ai/models"),
    "create-model": lambda vendor: vendor.customer("POST", "demo-customer/ai/models", {"name": "x"}),
    "get-model": lambda vendor: vendor.customer("GET", "demo-customer/ai/models/text-encoder"),
    "list-model-deployments": lambda vendor: vendor.customer("GET", "demo-customer/ai/models/x/deployments"),
    "list-deployments": lambda vendor: vendor.customer("GET", "demo-customer/ai/deployments"),
    "deploy": lambda vendor: vendor.customer("POST", "demo-customer/ai/deployments", {"modelId": "x"}),
    "undeploy": lambda vendor: vendor.customer("DELETE", f"{uuid4()}/ai/deployments"),
}


@pytest.mark.parametrize("match", [name.value for name in EndpointName])
def test_rate_limit(vendor: Vendor, match: str) -> None:
    vendor.log_in()
    vendor.fault(kind="429", match=match, retry_after=1.5)
    exchange = CALLS[match](vendor)
    assert (exchange.status_code, exchange.headers["Retry-After"]) == (429, "1.5")


@pytest.mark.parametrize(
    "body",
    [
        {"status": "READY"},
        {"chunkingId": "no-uuid", "status": "READY"},
        {"chunkingId": str(uuid4()), "status": "DONE"},
        {"chunkingId": str(uuid4()), "status": "READY", "chunkedData": [{"spans": [[1]]}]},
        {"chunkingId": str(uuid4()), "status": "READY", "chunkedData": {}},
    ],
)
def test_wrong_responses_are_refused(vendor: Vendor, body: dict[str, Any]) -> None:
    vendor.log_in()
    exchange = vendor.poll(json.loads(vendor.submit().data)["chunkingId"])
    exchange.data = json.dumps(body).encode()
    with pytest.raises(OpenAPIError):
        judge().answer(exchange)
