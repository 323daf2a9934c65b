# SPDX-License-Identifier: Apache-2.0
"""The prediction API by values: which options and inputs are refused, and what is sent."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucidworks_provider.client import use_cases
from lucidworks_provider.client.http.messages import Call, Request, Response, read_blanked
from lucidworks_provider.client.prediction_types import Prediction
from lucidworks_provider.client.predictions import (
    predict_items,
    preview_prompt,
    read_prompt,
    submit_items,
    tokenize,
)
from lucidworks_provider.client.settings import parse_settings
from lucidworks_provider.client.use_cases import MAX_BATCH, USE_CASES, PredictionOptions, read_items
from lucidworks_provider.errors import InputError
from lucidworks_provider.operators import prediction as prediction_operator

BASE = "https://app.example"
MODEL = "llama-3-8b-instruct"
KEY = "sk-canary-0123456789abcdef"
MEMORY = "53417d2f-6b0e-47e4-8610-e6842b84a87b"
ONE = ({"text": "x"},)
CONNECTION: dict[str, Any] = {"login": "i", "password": "s", "host": None}
NAN, INFINITE = float("nan"), float("inf")


def request_of(call: Call[Any], **extra: Any) -> Request:
    return call.first(parse_settings("c", **CONNECTION, extra=extra | {"application_url": BASE})).request


def sent_by(request: Request) -> Any:
    return json.loads(request.body or b"")


def options_of(use_case: str, config: Any = None, model_config: Any = None) -> PredictionOptions[Any]:
    return PredictionOptions(use_case, MODEL, config, model_config)


def without_options(use_case: str, spelt: str = "") -> PredictionOptions[Any]:
    """With the required ones alone."""
    needed = {"labels": ["a"], "memoryUuid": MEMORY}
    return options_of(spelt or use_case, {name: needed[name] for name in USE_CASES[use_case].required})


def configs_of(options: PredictionOptions[Any]) -> tuple[Any, Any]:
    body = options.body(ONE)
    return body.get("useCaseConfig"), body.get("modelConfig")


def assert_refused(words: list[str], call: Callable[..., Any], *arguments: Any) -> None:
    """The message has all words, and no key."""
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert [word for word in words if word not in str(caught.value)] == []
    assert KEY not in str(caught.value)


# What is refused

TEMPERATURES = (("0.5", 0.5), (" 1 ", 1), ("2e0", 2.0))
TRUTHS = (("true", True), ("False", False), (" 1 ", True), ("0", False))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("temperature", value) for value in (0, 2, 0.7, 1)],
        *[("topP", value) for value in (0, 1, 0.5)],
        *[("topK", value) for value in (-1, -1.0, 1, 40)],
        *[("presencePenalty", value) for value in (-2, 0.0, 2, 7)],
        *[("frequencyPenalty", value) for value in (-2, 0.0, 2, 7)],
        *[("maxTokens", value) for value in (1, 256, 128_000)],
        *[(name, "x") for name in ("apiKey", "azureDeployment", "azureEndpoint")],
        *[(name, "x") for name in ("googleProjectId", "googleRegion")],
    ],
)
@pytest.mark.parametrize("use_case", ["passthrough", "rag"])
def test_what_the_vendor_documents_of_a_model_passes(use_case: str, name: str, value: object) -> None:
    assert configs_of(options_of(use_case, None, {name: value})) == (None, {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("temperature", value) for value in (-0.1, 2.1, NAN, INFINITE, True, "2.1", "", [1], 10**400)],
        *[("topP", value) for value in (-0.1, 1.1, NAN, False, "inf")],
        *[("topK", value) for value in (-2, 1.5, NAN, INFINITE, True, "1.5")],
        *[("presencePenalty", value) for value in (NAN, -INFINITE, True, "0x1", "1_0")],
        *[("frequencyPenalty", value) for value in (NAN, INFINITE, False, {})],
        *[("maxTokens", value) for value in (0, -1, 1.0, True, "1e3", "0")],
        *[(name, value) for name in ("azureDeployment", "googleRegion") for value in ("", " ", 1)],
        *[("apiKey", value) for value in ("", "\t", 1, [KEY])],
    ],
)
def test_what_no_model_takes_is_refused_by_name(name: str, value: object) -> None:
    assert_refused([f"model_config: {name} is"], options_of, "passthrough", None, {name: value})


@pytest.mark.parametrize(
    ("use_case", "config", "words"),
    [
        ("embedding", {"dataType": "document"}, ["dataType", "'document'", "query", "passage"]),
        ("embedding", {"dataType": []}, ["dataType"]),
        ("classification", None, ["labels is missing", "sorted by them"]),
        ("classification", {}, ["labels is missing"]),
        ("classification", {"labels": []}, ["labels", "at least one"]),
        ("classification", {"labels": "a, b"}, ["labels", "list of texts"]),
        ("classification", {"labels": ["a", ""]}, ["labels"]),
        ("classification", {"labels": ["a", 1]}, ["labels"]),
        ("classification", {"labels": ["\ud800"]}, ["use_case_config", "surrogate"]),
        ("passthrough", {"useSystemPrompt": "yes"}, ["useSystemPrompt", "true or false"]),
        ("classification", {"labels": ["a"], "topK": 0}, ["topK", "from 1"]),
        ("classification", {"labels": ["a"], "similarityCutoff": "high"}, ["similarityCutoff", "a number"]),
        ("passthrough", {"useSystemPrompt": 1}, ["useSystemPrompt"]),
        ("passthrough", {"dataType": ""}, ["dataType"]),
        ("rag", {"extractRelevantContent": "no"}, ["extractRelevantContent"]),
        ("rag", {"memoryUuid": 7}, ["memoryUuid"]),
        ("rag", {"answerNotFoundMessage": " "}, ["answerNotFoundMessage"]),
        ("summarization", {"maxWords": 0}, ["maxWords", "from 1"]),
        ("summarization", {"maxWords": True}, ["maxWords"]),
        ("summarization", {"max_words": 5}, ["'max_words'", "Did you mean 'maxWords'"]),
        ("keyword-extraction", {"maxKeywords": 1.5}, ["maxKeywords"]),
        ("ner", {"entityTypeMap": ["person"]}, ["entityTypeMap", "dictionary"]),
        ("ner", {"entityTypeMap": {"person": "Bob"}}, ["entityTypeMap", "list"]),
        ("ner", {"entityTypeMap": {1: []}}, ["entityTypeMap"]),
        ("standalone-query-rewriter", None, ["memoryUuid is missing", "earlier conversation"]),
        ("standalone_query_rewriter", {"memoryUuid": ""}, ["memoryUuid"]),
        ("passthrough", {"apiKey": KEY}, ["apiKey", "model_config"]),
        ("entities", {"api_key": KEY}, ["api_key", "model_config"]),
        ("rag", [1], ["use_case_config of 'rag'", "dictionary", "memoryUuid"]),
        ("faq-enrichment", "x", ["use_case_config", "no options of it are known"]),
        ("rag", {1: 2}, ["no option 1"]),
    ],
)
def test_a_use_cases_options_are_refused(use_case: str, config: Any, words: list[str]) -> None:
    assert_refused(words, options_of, use_case, config)


@pytest.mark.parametrize(
    ("meant", "spelt"),
    [
        ("topK", ["topk", "top_k"]),
        ("topP", ["top-p"]),
        ("temperature", ["temprature", "Temperature"]),
        ("maxTokens", ["max_tokens", "maxToken"]),
        ("frequencyPenalty", ["frequency_penalty"]),
        ("presencePenalty", ["presencePenality"]),
        ("azureEndpoint", ["azure_endpoint"]),
        ("googleProjectId", ["googleProjectID"]),
        ("apiKey", ["api_key", "apikey", "API-KEY"]),
    ],
)
def test_a_misspelt_option_is_refused_with_the_right_name(meant: str, spelt: list[str]) -> None:
    for one in spelt:
        words = [f"{one!r}", f"Did you mean {meant!r}"]
        assert_refused(words, options_of, "passthrough", None, {one: KEY})


@pytest.mark.parametrize(
    ("config", "model_config", "sent"),
    [
        # What a template has rendered.
        *((None, {"temperature": text}, (None, {"temperature": value})) for text, value in TEMPERATURES),
        (None, {"topK": "-1.0", "presencePenalty": "+1"}, (None, {"topK": -1.0, "presencePenalty": 1})),
        (None, {"topK": "40", "maxTokens": "256"}, (None, {"topK": 40, "maxTokens": 256})),
        *(({"useSystemPrompt": text}, None, ({"useSystemPrompt": value}, None)) for text, value in TRUTHS),
        ({"dataType": None}, {"apiKey": None, "topP": 1, "seed": None}, (None, {"topP": 1})),
        # What is not documented stays as it is, and so does text.
        ({"seed": 7}, {"seed": "7", "azureDeployment": "2024"}, ...),
        ({"stop": ["\n"]}, {"reasoningEffort": "low"}, ...),
    ],
)
def test_what_is_sent_of_the_options(config: Any, model_config: Any, sent: Any) -> None:
    options = options_of("passthrough", config, model_config)
    # As texts, since 1 == 1.0 == True.
    assert repr(configs_of(options)) == repr((config, model_config) if sent is ... else sent)
    assert options.secrets == ()


@pytest.mark.parametrize(
    "value",
    [{1, 2}, object(), NAN, -INFINITE, "\ud800", b"x", {("a", "b"): 1}, [[NAN]]],
    ids=["set", "object", "nan", "infinite", "surrogate", "bytes", "tuple as a key", "nan within"],
)
@pytest.mark.parametrize("where", ["use_case_config", "model_config"])
def test_what_json_cannot_carry_is_refused_before_it_is_sent(where: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{where}.* as JSON"):
        PredictionOptions("passthrough", MODEL, **{where: {"custom": value}})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", " ", "..", ".", None, 7, [], "\ud800"])
def test_use_case_and_model_have_names(name: Any) -> None:
    with pytest.raises(InputError, match="use_case"):
        PredictionOptions(name, MODEL)
    with pytest.raises(InputError, match="model_id"):
        PredictionOptions("rag", name)


def test_of_an_unknown_use_case_nothing_is_refused() -> None:
    configs = {"topk": 1, "labels": ""}, {"temperature": 9, "topk": "x", "api_key": KEY}
    options = options_of("sentiment", *configs)
    items = read_items([{"text": "x", "language": "de", "documents": None}], options)
    # A template that rendered to None.
    assert options.body(items)["batch"] == [{"text": "x", "language": "de"}]
    assert configs_of(options) == configs
    assert (options.known.prediction, options.known.asynchronous) == (Prediction, True)


@pytest.mark.parametrize("use_case", USE_CASES)
def test_underscores_and_hyphens_are_alike(use_case: str) -> None:
    options = without_options(use_case, use_case.replace("-", "_"))
    assert (options.name, options.known) == (use_case, USE_CASES[use_case])


# Secrets


def test_nothing_that_is_shown_or_stored_has_a_key() -> None:
    model_config = {"apiKey": KEY, "serviceAccountKey": KEY, "service_account_key": KEY, "temperature": 1}
    options = options_of("rag", None, model_config)
    request = request_of(predict_items(options, read_items(RAG_INPUTS, options)))
    for shown in (repr(options), str(options), repr(request), json.dumps(options.as_json())):
        assert KEY not in shown
    assert options.as_json()["model_config"] == {"temperature": 1}
    assert options.secrets == request.secrets == (KEY, KEY, KEY)
    assert sent_by(request)["modelConfig"]["apiKey"] == KEY


@pytest.mark.parametrize("call", [submit_items, predict_items])
def test_every_request_with_a_key_names_it_as_a_secret(call: Callable[..., Any]) -> None:
    options = use_cases.passthrough("gpt-4o", model_config={"apiKey": KEY})
    assert request_of(call(options, ONE)).secrets == (KEY,)
    assert request_of(preview_prompt(options, ["x"])).secrets == (KEY,)


def test_previews_take_the_options_of_what_they_preview() -> None:
    words = "{} takes the options of '{}', not of '{}'"
    assert_refused([words.format("tokenize", "embedding", "passthrough")], tokenize, PASS, ["x"])
    ner = use_cases.ner("m")
    assert_refused([words.format("preview_prompt", "passthrough", "ner")], preview_prompt, ner, ["x"])


@pytest.mark.parametrize("placeholder", ["x", "key", "prompt", "placeholder", "YOUR_API_KEY"])
def test_a_placeholder_for_a_key_is_not_blanked_in_responses(placeholder: str) -> None:
    options = use_cases.passthrough("gpt-4o", model_config={"apiKey": placeholder})
    text = f"Explain the key x of your prompt, {placeholder}."
    response = Response(200, {}, json.dumps({"prompt": text}).encode())
    request = request_of(preview_prompt(options, ["x"]))
    assert read_blanked(read_prompt, response, *request.secrets).text == text


def test_operator_and_api_agree() -> None:
    assert prediction_operator.BATCH_SIZE == MAX_BATCH == 32


# Inputs

PASS = use_cases.passthrough(MODEL)
RAG = use_cases.rag(MODEL)
DOCUMENT = {"body": "I'm off to Germany to go to the Oktoberfest!", "source": "http://example.com/112"}
RAG_INPUTS = [{"text": "Why did I go to Germany?", "documents": [DOCUMENT]}]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (None, ["list of texts"]),
        ([], ["at least one"]),
        ("[]", ["at least one"]),
        ({}, ["list of texts"]),
        ({"text": "x"}, ["list of texts"]),
        (7, ["list of texts"]),
        (b"bytes", ["list of texts"]),
        ("Hello", ["not JSON", "tojson"]),
        ("['a']", ["not JSON", "tojson"]),
        ('"Hello"', ["list of texts"]),
        ("[" * 100_000, ["not JSON"]),
        ({"a", "b"}, ["list of texts"]),
        ([""], ["inputs[0]", "no text"]),
        (["a", " \n"], ["inputs[1]", "no text"]),
        (["a", None], ["inputs[1]", "no text"]),
        ([7], ["inputs[0]", "int"]),
        ([{"txt": "a"}], ["inputs[0]", "text"]),
        (["half \ud800"], ["inputs[0]", "surrogate pair at character 5"]),
        ([{"text": "a", "documents": []}], ["inputs[0]", "documents", "'passthrough'"]),
        ([{"text": "a", "temperature": 1}], ["inputs[0]", "temperature"]),
        ([{"text": "a", "id": ""}], ["inputs[0]", "id ''"]),
        ([{"text": "a", "id": True}], ["inputs[0]", "id True"]),
        ([{"text": "a", "id": 1.5}], ["inputs[0]", "1.5"]),
        ([{"text": "a", "id": ["x"]}], ["inputs[0]"]),
        ([{"text": "a", "id": "\udfff"}], ["inputs[0]", "surrogate"]),
        ([{"text": "a", "id": "1"}, {"text": "b", "id": 1}], ["'1'", "more than once"]),
    ],
)
def test_inputs_are_refused_by_their_position(inputs: object, words: list[str]) -> None:
    assert_refused(words, read_items, inputs, PASS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"documents": None}, ["no documents", "body", "source"]),
        ({"documents": []}, ["no documents"]),
        ({"documents": DOCUMENT}, ["no documents"]),
        ({"documents": ["text"]}, ["documents[0]", "not a dictionary"]),
        ({"documents": [DOCUMENT, {"body": "x"}]}, ["documents[1]", "no source"]),
        ({"documents": [DOCUMENT | {"body": " "}]}, ["documents[0]", "no body"]),
        ({"documents": [DOCUMENT | {"source": 112}]}, ["documents[0]", "no source"]),
        ({"documents": [DOCUMENT | {"body": "\ud800"}]}, ["inputs[0]", "surrogate"]),
        ({"docs": [DOCUMENT]}, ["docs", "documents and text"]),
    ],
)
def test_rag_has_documents_with_body_and_source(change: dict[str, Any], words: list[str]) -> None:
    assert_refused(["inputs[0]", *words], read_items, [RAG_INPUTS[0] | change], RAG)


def test_a_conversation_continues_without_documents() -> None:
    assert read_items(["And then?"], use_cases.rag(MODEL, memory_uuid=MEMORY))[0] == {"text": "And then?"}


@pytest.mark.parametrize(
    "text", ["Hello", "{}", "[]", "[1]", '[{"role": "user"}]', "[" * 100_000, '{"role": 1, "content": 2}']
)
def test_json_prompt_is_a_list_of_messages(text: str) -> None:
    with pytest.raises(InputError, match=r"inputs\[0\].*json_prompt.*role.*content"):
        read_items([text], use_cases.passthrough(MODEL, data_type="json_prompt"))


def test_what_json_prompt_takes() -> None:
    text = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}])
    assert read_items([text], use_cases.passthrough(MODEL, data_type="json_prompt"))[0] == {"text": text}
    assert read_items([text], use_cases.passthrough(MODEL, data_type="text"))[0] == {"text": text}


GIVEN = ["a", {"text": "b", "id": "B"}, {"text": "c", "id": 3}]


@pytest.mark.parametrize("inputs", [GIVEN, tuple(GIVEN), json.dumps(GIVEN)])
def test_inputs_as_lists_tuples_and_rendered_json(inputs: object) -> None:
    assert read_items(inputs, PASS) == [{"text": "a"}, {"text": "b"}, {"text": "c"}]


@pytest.mark.parametrize("count", [0, 33])
def test_a_request_takes_1_to_32_inputs(count: int) -> None:
    items = tuple({"text": str(n)} for n in range(count))
    with pytest.raises(InputError, match=f"1 to 32 inputs, not {count}"):
        PASS.body(items)
    assert len(PASS.body(tuple({"text": str(n)} for n in range(32)))["batch"]) == 32


@pytest.mark.parametrize("use_case", ["embedding", "classification"])
def test_what_has_no_asynchronous_page_is_not_submitted(use_case: str) -> None:
    with pytest.raises(InputError, match=f"{use_case}.*asynchronously.*LucidworksPredictionOperator"):
        submit_items(without_options(use_case), ONE)


# What is sent


@pytest.mark.parametrize(
    ("options", "config", "model_config"),
    [
        (use_cases.embedding("m"), None, None),
        (
            use_cases.embedding("m", data_type="passage", quantization="max-scale", dimensions=256),
            {"dataType": "passage"},
            {"vectorQuantizationMethod": "max-scale", "dimReductionSize": 256},
        ),
        (use_cases.classification("m", labels=("a", "b")), {"labels": ["a", "b"]}, None),
        (use_cases.passthrough("m"), None, None),
        (
            use_cases.passthrough("m", use_system_prompt=False, data_type="text", model_config={"topK": -1}),
            {"useSystemPrompt": False, "dataType": "text"},
            {"topK": -1},
        ),
        (
            use_cases.rag(
                "m", memory_uuid="u", extract_relevant_content=False, answer_not_found_message="No."
            ),
            {"memoryUuid": "u", "extractRelevantContent": False, "answerNotFoundMessage": "No."},
            None,
        ),
        (use_cases.summarization("m", max_words=9, model_config={"topP": 0}), {"maxWords": 9}, {"topP": 0}),
        (use_cases.keyword_extraction("m", max_keywords=100), {"maxKeywords": 100}, None),
        (
            use_cases.ner("m", entity_type_map={"person": ("Bob",), "place": []}),
            {"entityTypeMap": {"person": ["Bob"], "place": []}},
            None,
        ),
        (use_cases.faq_enrichment("m", model_config={"topP": 1}), None, {"topP": 1}),
        (use_cases.standalone_query_rewriter("m", memory_uuid=MEMORY), {"memoryUuid": MEMORY}, None),
    ],
    ids=lambda value: value.use_case if isinstance(value, PredictionOptions) else "",
)
def test_bodies_have_the_vendors_names_and_nothing_else(
    options: PredictionOptions[Any], config: object, model_config: object
) -> None:
    items = read_items([{"text": "Größe", "id": "mine"}], options)
    request = request_of(predict_items(options, items))
    wanted = {"batch": [{"text": "Größe"}], "useCaseConfig": config, "modelConfig": model_config}
    assert sent_by(request) == {name: value for name, value in wanted.items() if value is not None}
    assert "Größe".encode() in (request.body or b""), "not escaped"
    assert (request.method, request.url) == ("POST", f"{BASE}/ai/prediction/{options.use_case}/m")
    assert request.replayable is True
    if options.known.asynchronous:
        submission = request_of(submit_items(options, items))
        assert submission.url == f"{BASE}/ai/async-prediction/{options.use_case}/m"
        assert (submission.body, submission.replayable) == (request.body, False)


def test_a_text_is_no_list_of_texts() -> None:
    for labels in ("abc", None):
        assert_refused(["labels"], lambda labels=labels: use_cases.classification("m", labels=labels))
    assert_refused(["entityTypeMap"], lambda: use_cases.ner("m", entity_type_map={"person": "Bob"}))


def test_documents_go_as_they_are_and_the_id_stays_here() -> None:
    document = DOCUMENT | {"title": "Off to Germany!", "date": "2022-01-31T19:31:34Z", "lang": "en"}
    items = read_items([{"text": "Why?", "documents": [document], "id": 7}], RAG)
    assert sent_by(request_of(predict_items(RAG, items))) == {
        "batch": [{"text": "Why?", "documents": [document]}]
    }


def test_segments_are_quoted_and_the_previews_have_paths_of_their_own() -> None:
    options = use_cases.embedding("my model/1", data_type="query")
    other: Any = PredictionOptions("a/b", "my model/1")
    rewriter = use_cases.standalone_query_rewriter("m", memory_uuid="u")
    prompt = use_cases.passthrough("m", use_system_prompt=True)
    calls = {
        "/ai/prediction/a%2Fb/my%20model%2F1": (predict_items(other, ONE), {}),
        "/ai/prediction/vectors/my%20model%2F1": (predict_items(options, ONE), {"embedding": "vectors"}),
        # Both spellings of a use case are valid.
        "/ai/prediction/r1/m": (predict_items(rewriter, ONE), {"standalone-query-rewriter": "r1"}),
        "/ai/prediction/r2/m": (predict_items(rewriter, ONE), {"standalone_query_rewriter": "r2"}),
        "/ai/tokenization/my%20model%2F1": (tokenize(options, ["x"]), {}),
        "/ai/prompt/passthrough/m": (preview_prompt(prompt, ["x"]), {}),
    }
    requests = [request_of(call, use_case_segments=segments) for call, segments in calls.values()]
    assert [(one.method, one.url) for one in requests] == [("POST", BASE + path) for path in calls]
    assert [sent_by(request) for request in requests[-2:]] == [
        {"batch": [{"text": "x"}], "useCaseConfig": {"dataType": "query"}},
        {"batch": [{"text": "x"}], "useCaseConfig": {"useSystemPrompt": True}},
    ]


# Whatever comes

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["custom", "labels", "memoryUuid"])
CONFIGS = ANYTHING | st.dictionaries(NAMES, ANYTHING, max_size=2)
FIELDS = {"id": ANYTHING, "documents": ANYTHING}
INPUT = st.fixed_dictionaries({"text": st.just("x") | ANYTHING}, optional=FIELDS)
INPUTS = ANYTHING | st.lists(INPUT, min_size=1, max_size=2)


@pytest.mark.parametrize("use_case", [*USE_CASES, "other"])
@settings(max_examples=25)
@given(config=CONFIGS, model_config=CONFIGS, inputs=INPUTS)
def test_no_options_raise_other_errors(use_case: str, config: Any, model_config: Any, inputs: Any) -> None:
    try:
        options = options_of(use_case, config, model_config)
        items = read_items(inputs, options)
    except InputError:
        return
    assert sent_by(request_of(predict_items(options, items)))["batch"]


ODD = st.sampled_from([NAN, INFINITE, "\ud800", b"x", (), {1}, {(1,): 1}, 10**400, None])


@pytest.mark.parametrize("where", ["use_case_config", "model_config", "inputs"])
@settings(max_examples=60)
@given(
    value=ODD | st.lists(ODD | ANYTHING, max_size=2) | st.dictionaries(st.text(max_size=1), ODD, max_size=2)
)
def test_what_passes_can_be_sent(where: str, value: Any) -> None:
    given_inputs = [{"text": "x", "custom": value, "id": value if isinstance(value, str) else None}]
    configs = {where: {"custom": value}} if where != "inputs" else {}
    try:
        options: Any = PredictionOptions("sentiment", "m", **configs)
        items = read_items(given_inputs if where == "inputs" else ["x"], options)
    except InputError:
        return
    json.dumps(options.as_json())
    assert sent_by(request_of(predict_items(options, items)))["batch"]
