# SPDX-License-Identifier: Apache-2.0
"""
Every request that the client puts on the wire is one that the OpenAPI document allows.

Each request is checked twice: against the document as it is, and with the schemas of request bodies closed, so that
an undocumented field is found as well. The token request is compared with the documented one byte by byte.
"""

import asyncio
import base64
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from contract_wire import APPLICATION, IDENTITY, Exchange, Recorders, document, judge, recording
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_core.exceptions import OpenAPIError

from lucidworks_provider.client.chunking import (
    CHUNKERS,
    ChunkingOptions,
    get_chunking,
    submit_chunking,
    submit_text,
)
from lucidworks_provider.client.http.messages import Request, Response
from lucidworks_provider.client.jobs import PREDICTION, read_submission
from lucidworks_provider.client.predictions import (
    get_prediction,
    predict,
    predict_items,
    preview_prompt,
    read_result,
    read_tokens,
    submit_items,
    submit_prediction,
    tokenize,
)
from lucidworks_provider.client.settings import parse_settings
from lucidworks_provider.client.use_cases import (
    DATA_TYPES,
    GENERATIVE_OPTIONS,
    QUANTIZATIONS,
    USE_CASES,
    PredictionOptions,
    list_use_cases,
    read_items,
)
from lucidworks_provider.emulator import EmulatorSettings, running
from lucidworks_provider.errors import InputError
from lucidworks_provider.hooks.lucidworks import LucidworksHook

CLIENT, SECRET = "klient-1", "pä:ß wörd/+=☃"
AUTH_SERVER = "another.server-1"
SETTINGS = parse_settings(
    "c", login=CLIENT, password=SECRET, host=None, extra={"application_url": APPLICATION}
)
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
    urls = {"auth_url": wire.identity, "application_url": wire.application}
    extra = {**urls, "auth_server_id": AUTH_SERVER, "share_via": "memory"}
    connection = {"conn_type": "lucidworks", "login": CLIENT, "password": SECRET, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_RECORDED", json.dumps(connection))
    return LucidworksHook("recorded")


def performed(hook: LucidworksHook, mode: str, asked: Any) -> Any:
    return hook.call(asked) if mode == "sync" else asyncio.run(hook.acall(asked))


def judged(*exchanges: Exchange) -> None:
    """The document allows what was asked, and has what was answered."""
    for exchange in exchanges:
        judge().request(exchange)
        judge().answer(exchange)
        assert exchange.header("Accept") == "application/json"


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
        configs = {"chunker_config": FULL_CONFIGS[chunker], "model_config": MODEL_CONFIG}
        options |= {**configs, "data_type": "query"}
    submitted = performed(hook, mode, submit_chunking(TEXT, **options))
    while not performed(hook, mode, get_chunking(submitted)).chunks:
        pass
    judged(*wire.seen)
    hosts = [(one.verb, one.host_url) for one in wire.seen]
    assert hosts == [("POST", IDENTITY), ("POST", APPLICATION), *[("GET", APPLICATION)] * 2]
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
    judged(exchange)
    target = f"/oauth2/{AUTH_SERVER}/v1/token?scope={scope}&grant_type=client_credentials"
    assert (exchange.verb, exchange.target, exchange.body) == ("POST", target, b"")
    names = ("Cache-Control", "Content-Type", "Content-Length", "Transfer-Encoding")
    headers = [exchange.header(name) for name in names]
    assert headers == ["no-cache", "application/x-www-form-urlencoded", "0", None]
    kind, _, encoded = (exchange.header("Authorization") or "").partition(" ")
    assert kind == "Basic"
    assert base64.b64decode(encoded, validate=True) == f"{CLIENT}:{SECRET}".encode()
    assert token == json.loads(exchange.data)["access_token"]


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
def test_wrong_token_requests_are_refused(
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
@given(options=ACCEPTED, text=st.text(st.characters(exclude_characters="\0"), max_size=50).filter(str.strip))
def test_what_the_client_accepts_is_documented_and_accepted(
    hook: LucidworksHook, wire: Recorders, options: ChunkingOptions, text: str
) -> None:
    wire.seen.clear()
    hook.call(submit_text(options, text))
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
        submit_text(ChunkingOptions(*options), TEXT)


# Predictions. The document has one schema for each use case; the asynchronous path leaves open which one.

LLAMA, OPENAI = "llama-3-8b-instruct", "gpt-4o"
MEMORY = "53417d2f-6b0e-47e4-8610-e6842b84a87b"
DOCUMENTS = [
    {
        "body": "I'm off to Germany to go to the Oktoberfest!",
        "source": "http://example.com/112",
        "title": "Off to Germany!",
        "date": "2022-01-31T19:31:34Z",
    }
]
GENERATIVE = {
    **{"temperature": 0.7, "topP": 1.0, "topK": -1, "presencePenalty": 2, "frequencyPenalty": 1},
    **{"maxTokens": 256, "apiKey": "sk-0123456789abcdef", "azureDeployment": "mine"},
    **{"azureEndpoint": "https://mine.example", "googleProjectId": "p", "googleRegion": "us"},
}
# Model, options and model options with every documented name.
FULL: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "embedding": ("gte-small", {"dataType": "passage"}, MODEL_CONFIG),
    "classification": (
        OPENAI,
        {"labels": ["Harry Potter", "Lord of the Rings"], "topK": 2, "similarityCutoff": 0.1},
        GENERATIVE,
    ),
    "passthrough": (OPENAI, {"useSystemPrompt": True, "dataType": "text"}, GENERATIVE),
    "rag": (
        OPENAI,
        {"memoryUuid": MEMORY, "extractRelevantContent": False, "answerNotFoundMessage": "None."},
        GENERATIVE,
    ),
    "summarization": (OPENAI, {"maxWords": 100}, GENERATIVE),
    "keyword-extraction": (OPENAI, {"maxKeywords": 100}, GENERATIVE),
    "ner": (OPENAI, {"entityTypeMap": {"person": ["Bob"]}}, GENERATIVE),
    "faq-enrichment": (OPENAI, {}, GENERATIVE),
    "standalone-query-rewriter": (OPENAI, {"memoryUuid": MEMORY}, GENERATIVE),
}
ASYNCHRONOUS = [name for name, use_case in USE_CASES.items() if use_case.asynchronous]


def as_sent(request: Request) -> Exchange:
    """What would be on the wire, without sending it."""
    headers = [*request.headers.items(), ("Authorization", "Bearer t")]
    return Exchange(
        APPLICATION, request.method, request.url.removeprefix(APPLICATION), headers, request.body or b""
    )


def options_of(use_case: str, *, full: bool) -> PredictionOptions[Any]:
    model, config, model_config = FULL[use_case]
    if full:
        return PredictionOptions(use_case, model, config, model_config)
    required = {name: config[name] for name in USE_CASES[use_case].required}
    return PredictionOptions(use_case, model if use_case == "embedding" else LLAMA, required)


def inputs_of(use_case: str) -> list[Any]:
    if use_case != "rag":
        return ["Why did I go to Germany?", {"text": "Größe?", "id": "not sent"}]
    return [{"text": "Why did I go to Germany?", "documents": DOCUMENTS, "id": 7}]


def test_every_use_case_has_a_full_configuration() -> None:
    assert {name: set(config) for name, (_, config, _) in FULL.items()} == {
        name: set(use_case.options) for name, use_case in USE_CASES.items()
    }
    assert set(GENERATIVE) == set(GENERATIVE_OPTIONS)


@pytest.fixture
def conversation(hook: LucidworksHook, wire: Recorders) -> None:
    """The one that the standalone query rewriter continues."""
    hook.call(predict(options_of("rag", full=True), inputs_of("rag")))
    wire.seen.clear()


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("full", [True, False], ids=["full", "defaults"])
@pytest.mark.parametrize("use_case", USE_CASES)
def test_predictions_are_the_documented_ones(
    hook: LucidworksHook, wire: Recorders, conversation: None, use_case: str, full: bool, mode: str
) -> None:
    options, inputs = options_of(use_case, full=full), inputs_of(use_case)
    answers = performed(hook, mode, predict(options, inputs))
    assert [type(one) for one in answers] == [USE_CASES[use_case].prediction] * len(inputs)
    [exchange] = wire.seen
    judged(exchange)
    assert (exchange.verb, exchange.host_url) == ("POST", APPLICATION)
    assert exchange.target == f"/ai/prediction/{use_case}/{options.model_id}"
    assert exchange.header("Content-Type") == "application/json"
    sent = json.loads(exchange.body)
    assert [set(item) - {"documents"} for item in sent["batch"]] == [{"text"}] * len(inputs)
    if full:
        _, config, model_config = FULL[use_case]
        assert (sent.get("useCaseConfig", {}), sent["modelConfig"]) == (config, model_config)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("full", [True, False], ids=["full", "defaults"])
@pytest.mark.parametrize("use_case", ASYNCHRONOUS)
def test_prediction_jobs_are_the_documented_ones(
    hook: LucidworksHook, wire: Recorders, conversation: None, use_case: str, full: bool, mode: str
) -> None:
    options, inputs = options_of(use_case, full=full), inputs_of(use_case)
    job_id = performed(hook, mode, submit_prediction(options, inputs))
    while not (result := performed(hook, mode, get_prediction(job_id, options))).predictions:
        pass
    assert [type(one) for one in result.predictions] == [USE_CASES[use_case].prediction] * len(inputs)
    submission, *polls = wire.seen
    judged(*wire.seen)
    assert submission.target == f"/ai/async-prediction/{use_case}/{options.model_id}"
    assert {one.target for one in polls} == {f"/ai/async-prediction/{job_id}"}
    assert all(one.body == b"" and one.header("Content-Type") is None for one in polls)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_previews_and_the_list_of_use_cases_are_the_documented_ones(
    hook: LucidworksHook, wire: Recorders, mode: str
) -> None:
    embedding, passthrough = options_of("embedding", full=True), options_of("passthrough", full=True)
    tokens = performed(hook, mode, tokenize(embedding, ["Who?", "Where?"]))
    prompt = performed(hook, mode, preview_prompt(passthrough, ["Who?"]))
    listed = performed(hook, mode, list_use_cases())
    assert len(tokens.texts) == 2
    assert "Who?" in prompt.text
    assert set(USE_CASES) == set(listed)
    calls = [one for one in wire.seen if one.host_url == APPLICATION]
    assert [(one.verb, one.target) for one in calls] == [
        ("POST", "/ai/tokenization/gte-small"),
        ("POST", "/ai/prompt/passthrough/gpt-4o"),
        ("GET", "/ai/usecases"),
    ]
    judged(*calls)


CHUNKING = ChunkingOptions("sentence", "gte-small")
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("chunking", {"batch": []}),
    ("chunking", {"batch": [{"txt": "a"}]}),
    ("chunking", {"batch": None}),
    ("chunking", {"useCaseConfig": {"dataType": "document"}}),
    ("chunking", {"modelConfig": {"vectorQuantizationMethod": "min"}}),
    ("chunking", {"modelConfig": {"dimReductionSize": 0}}),
    ("chunking", {"chunkerConfig": {"chunkSize": 0}}),
    ("chunking", {"chunkerConfig": {"maxChunkSize": 5}}),
    ("chunking", {"options": {}}),
    ("embedding", {"batch": []}),
    ("embedding", {"batch": [{"text": "x"}] * 33}),
    ("embedding", {"modelConfig": {"temperature": 1}}),
    ("passthrough", {"batch": [{"text": "x", "documents": []}]}),
    ("passthrough", {"batch": [{"text": "x", "id": "mine"}]}),
    ("passthrough", {"modelConfig": {"temperature": 2.1}}),
    ("passthrough", {"modelConfig": {"topk": 1}}),
    ("passthrough", {"useCaseConfig": {"maxWords": 1}}),
    ("rag", {"batch": [{"text": "x", "documents": [{"body": "x"}]}]}),
    ("rag", {"useCaseConfig": {"answerFound": True}}),
    ("summarization", {"useCaseConfig": {"maxWords": "1"}}),
    ("ner", {"useCaseConfig": {"entityTypeMap": {"person": "Bob"}}}),
    ("standalone-query-rewriter", {"useCaseConfig": {}}),
]


@pytest.mark.parametrize(("use_case", "change"), WRONG)
def test_wrong_bodies_are_refused(use_case: str, change: dict[str, Any]) -> None:
    if use_case == "chunking":
        calls: list[Any] = [submit_text(CHUNKING, TEXT)]
    else:
        options = options_of(use_case, full=False)
        both = (predict_items, submit_items) if use_case in ASYNCHRONOUS else (predict_items,)
        calls = [call(options, read_items(inputs_of(use_case), options)) for call in both]
    for call in calls:
        exchange = as_sent(call.first(SETTINGS).request)
        judge().request(exchange)
        exchange.body = json.dumps(json.loads(exchange.body) | change).encode()
        with pytest.raises(OpenAPIError):
            judge().request(exchange)


_NUMBERS = st.integers(-3, 300) | st.floats(allow_nan=False, width=32)
_TEXTS = st.text(max_size=5)
_LISTS = st.lists(_TEXTS, max_size=3)
_CONFIG_VALUES = _NUMBERS | _TEXTS | st.booleans() | _LISTS | st.dictionaries(_TEXTS, _LISTS, max_size=2)


def _prediction(parts: tuple[str, dict[str, Any], dict[str, Any]]) -> PredictionOptions[Any] | None:
    use_case, config, model_config = parts
    try:
        return PredictionOptions(use_case, LLAMA, config or None, model_config or None)
    except ValueError:
        return None


ACCEPTED_PREDICTIONS = (
    st.sampled_from(sorted(USE_CASES))
    .flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.fixed_dictionaries(
                {},
                optional={
                    option: st.just(FULL[name][1][option]) | _CONFIG_VALUES
                    # The document requires a UUID here; the client leaves that check to the service.
                    for option in USE_CASES[name].options
                    if option != "memoryUuid"
                },
            ).map(
                lambda config: {
                    **{required: FULL[name][1][required] for required in USE_CASES[name].required},
                    **config,
                }
            ),
            st.fixed_dictionaries(
                {},
                optional={
                    option: st.just(FULL[name][2].get(option)) | _NUMBERS | _TEXTS
                    for option in USE_CASES[name].model_options
                },
            ),
        )
    )
    .map(_prediction)
    .filter(bool)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(options=ACCEPTED_PREDICTIONS, text=st.text(max_size=20).filter(str.strip), count=st.integers(1, 32))
def test_the_predictions_that_the_client_accepts_are_documented(
    options: PredictionOptions[Any], text: str, count: int
) -> None:
    given_inputs: list[Any] = [{"text": text, "id": n} for n in range(count)]
    if options.name == "rag":
        given_inputs = [one | {"documents": DOCUMENTS} for one in given_inputs]
    try:
        items = read_items(given_inputs, options)
    except InputError:  # dataType json_prompt, and no messages
        return
    judge().request(as_sent(predict_items(options, items).first(SETTINGS).request))
    if options.known.asynchronous:
        judge().request(as_sent(submit_items(options, items).first(SETTINGS).request))


# The examples of the document


@cache
def examples(kind: str) -> list[tuple[str, str, Any]]:
    """Path, name and value of each example that speaks about predictions."""
    found = []
    for path, item in document()["paths"].items():
        if not path.startswith(("/ai/prediction", "/ai/async-prediction", "/ai/tokenization", "/ai/prompt")):
            continue
        for operation in item.values():
            answers = operation["responses"]["200"]
            content = (operation.get("requestBody", {}) if kind == "request" else answers).get("content", {})
            shown = content.get("application/json", {}).get("examples", {})
            found += [(path, name, one["value"]) for name, one in shown.items()]
    return found


def use_case_of(path: str, example: str) -> str:
    segment = path.split("/")[3]
    return segment if segment in USE_CASES else example if example in USE_CASES else "passthrough"


def test_the_document_has_examples() -> None:
    assert (len(examples("request")), len(examples("answer"))) == (4, 6)


@pytest.mark.parametrize(("path", "name", "value"), examples("request"), ids=str)
def test_the_documents_requests_can_be_asked(path: str, name: str, value: dict[str, Any]) -> None:
    options: PredictionOptions[Any] = PredictionOptions(
        use_case_of(path, name), LLAMA, value.get("useCaseConfig"), value.get("modelConfig")
    )
    assert options.body(read_items(value["batch"], options)) == value


@pytest.mark.parametrize(("path", "name", "value"), examples("answer"), ids=str)
def test_the_documents_responses_are_read_without_loss(path: str, name: str, value: dict[str, Any]) -> None:
    answer = Response(200, {}, json.dumps(value).encode())
    if path.startswith("/ai/tokenization"):
        read = read_tokens(answer, 1)
        assert [list(one) for one in read.texts] == [one["tokens"] for one in value["generatedTokens"]]
        assert (read.tokens_used.input, read.tokens_used.total) == (40, 175)
    elif "predictionId" in value and "predictions" not in value:
        assert read_submission(answer, PREDICTION) == value["predictionId"]
    else:
        kind, sent = USE_CASES[use_case_of(path, name)].prediction, value["predictions"]
        result = read_result(value, value.get("predictionId", "j"), kind, len(sent))
        assert [one.sent for one in result.predictions] == sent
        for one in result.predictions:
            assert one.sent.items() <= one.row().items()
            assert one.response == one.sent["response"]
            assert one.tokens_used.sum > 0
            if name == "classification":
                assert one.label == "Lord of the Rings"
            if "answerFound" in one.sent:
                assert (one.answer_found, one.memory_uuid) == (True, MEMORY)
                assert one.sources == ("http://example.com/112",)
