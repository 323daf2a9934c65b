# SPDX-License-Identifier: Apache-2.0
"""
Predictions, prompt preview, the list of use cases and tokenization (sections 4, 5, 6, 8 and 9).

Path, filters and shape of the list of use cases are assumptions [A]: the vendor's page could not be found. The
tokens are the emulator's own: words and punctuation marks in lower case, with the documented prefix of an E5 model,
``[CLS]`` and ``[SEP]``. ``tokensUsed`` is at top level, as in the example, whose numbers contradict each other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from starlette.responses import JSONResponse, Response

from lucidworks_provider.emulator.calls import Call
from lucidworks_provider.emulator.checks import ApiError, Fields, InvalidRequest, load_json
from lucidworks_provider.emulator.jobs import JobKind, JobResult, accept, poll
from lucidworks_provider.emulator.models import (
    EMBEDDING_MODELS,
    HOSTED_GENERATIVE,
    MODEL_CONTEXT_TOKENS,
    NER_ONLY,
    OPENAI,
)
from lucidworks_provider.emulator.prediction_answers import (
    EMBEDDED_WORDS,
    Prompter,
    classification,
    embedding,
    faq_enrichment,
    keyword_extraction,
    ner,
    passthrough,
    rag,
    standalone_query_rewriter,
    summarization,
)
from lucidworks_provider.emulator.prediction_requests import Answerer, Ask, Item, items_of
from lucidworks_provider.emulator.sentences import count_tokens, tokens, truncate_words
from lucidworks_provider.emulator.vectors import VectorOptions


class UseCaseName(Enum):
    """The values of ``USE_CASE``; ``classification`` is seen nowhere as a segment [A]."""

    EMBEDDING = "embedding"
    CLASSIFICATION = "classification"
    PASSTHROUGH = "passthrough"
    RAG = "rag"
    SUMMARIZATION = "summarization"
    KEYWORD_EXTRACTION = "keyword-extraction"
    NER = "ner"
    FAQ_ENRICHMENT = "faq-enrichment"
    STANDALONE_QUERY_REWRITER = "standalone-query-rewriter"


@dataclass(frozen=True)
class UseCase:
    """One use case; deployments of custom models join the models of embedding."""

    prepare: Callable[[Ask], Answerer]
    models: tuple[str, ...]
    item_fields: tuple[str, ...] = ("text",)
    asynchronous: bool = True


_GENERATIVE = (*HOSTED_GENERATIVE, *OPENAI)

USE_CASES: Mapping[UseCaseName, UseCase] = {
    UseCaseName.EMBEDDING: UseCase(embedding, tuple(EMBEDDING_MODELS), asynchronous=False),
    # No page names a model for it; its token counts look like an encoder's, so all may serve it [A].
    UseCaseName.CLASSIFICATION: UseCase(
        classification, (*EMBEDDING_MODELS, *_GENERATIVE), asynchronous=False
    ),
    UseCaseName.PASSTHROUGH: UseCase(passthrough, _GENERATIVE),
    UseCaseName.RAG: UseCase(rag, _GENERATIVE, item_fields=("text", "documents")),
    UseCaseName.SUMMARIZATION: UseCase(summarization, _GENERATIVE),
    UseCaseName.KEYWORD_EXTRACTION: UseCase(keyword_extraction, _GENERATIVE),
    UseCaseName.NER: UseCase(ner, (*NER_ONLY, *_GENERATIVE)),
    UseCaseName.FAQ_ENRICHMENT: UseCase(faq_enrichment, _GENERATIVE),
    UseCaseName.STANDALONE_QUERY_REWRITER: UseCase(standalone_query_rewriter, _GENERATIVE),
}

_BODY = ("batch", "useCaseConfig", "modelConfig")
# Below this a request is answered on the spot: handing it to a thread would cost more than a vector or two.
_SMALL_BATCH, _SMALL_TEXTS = 2, 4_096


@dataclass(frozen=True)
class Predictions:
    """The elements of ``predictions``, in order of the batch [A], as JSON."""

    elements: tuple[str, ...]

    @property
    def as_list(self) -> str:
        """Return the JSON list."""
        return f"[{','.join(self.elements)}]"

    def to_json(self, job_id: str, status: str, *, legacy: bool) -> bytes:
        """Write the answer of a job; there is no older shape of it."""
        head = f'{{"predictionId":"{job_id}","status":"{status}"'
        return f'{head},"predictions":{self.as_list}}}'.encode()


async def predict(call: Call) -> Response:
    """Answer at once."""
    name, use_case = _use_case(call)
    ask = await _ask(call, name, use_case)
    answerer = use_case.prepare(ask)
    if len(ask.items) <= _SMALL_BATCH and (call.record.text_bytes or 0) <= _SMALL_TEXTS:
        result = _compute(answerer, ask.items)
    else:
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(call.state.workers, _compute, answerer, ask.items)
    return Response(f'{{"predictions":{result.as_list}}}'.encode(), media_type="application/json")


async def submit(call: Call) -> Response:
    """Accept a request for later; embedding and classification have no asynchronous page (section 6.1)."""
    name, use_case = _use_case(call)
    if not use_case.asynchronous:
        raise ApiError(404, "There is no such asynchronous use case.")
    ask = await _ask(call, name, use_case)
    answerer = use_case.prepare(ask)
    return accept(call, JobKind.PREDICTION, call.state.workers.submit(_work, answerer, ask.items))


async def fetch(call: Call) -> Response:
    """Return the state of a prediction and, once, its results."""
    return await poll(call, JobKind.PREDICTION, call.request.path_params["prediction_id"])


async def preview_prompt(call: Call) -> Response:
    """Show the prompt of the pass-through use case; keys are required, but no model is called."""
    name = UseCaseName.PASSTHROUGH
    ask = await _ask(call, name, USE_CASES[name])
    ask.generation()
    prompter = Prompter.of(ask)
    if len(ask.items) > 1:  # the answer is not a list, so it has room for one prompt [A]
        raise InvalidRequest("batch: the preview shows one prompt, so one item is required.")
    prompt = prompter.prompt(ask.items[0])
    tokens = count_tokens(prompt)
    counts = {"promptTokens": tokens, "completionTokens": 0, "totalTokens": tokens}
    return JSONResponse({"tokensUsed": counts, "prompt": prompt})


def _use_case(call: Call) -> tuple[UseCaseName, UseCase]:
    segment = call.request.path_params["use_case"]
    call.record.use_case = segment
    try:
        name = UseCaseName(call.segment(segment))
    except ValueError:
        raise ApiError(404, "There is no such use case.") from None
    return name, USE_CASES[name]


async def _ask(call: Call, name: UseCaseName, use_case: UseCase) -> Ask:
    """Resolve the model, then read the body."""
    model_id = call.request.path_params["model_id"]
    call.record.model = model_id
    embedding_model = None
    if name is UseCaseName.EMBEDDING:
        embedding_model = call.embedding_model(model_id)
        model_id = embedding_model.model_id
    else:
        model_id = call.segment(model_id)
        if model_id not in use_case.models:
            raise ApiError(404, "There is no such model, or it does not serve this use case.")
    ignore = call.ignore_unknown
    body = Fields.of("body", load_json(await call.json_body()), _BODY, ignore_unknown=ignore)
    items = items_of(body, use_case.item_fields, call.settings.batch_overflow, ignore_unknown=ignore)
    call.note_texts([item.text for item in items])
    memory = call.state.conversations
    return Ask(model_id, embedding_model, body, items, call.settings, memory, ignore)


def _compute(answerer: Answerer, items: tuple[Item, ...]) -> Predictions:
    return Predictions(tuple(answerer(item) for item in items))


def _work(answerer: Answerer, items: tuple[Item, ...]) -> JobResult:
    return _compute(answerer, items)


async def list_use_cases(call: Call) -> Response:
    """List each use case with its models, and with live deployments where they serve."""
    query = call.request.query_params
    use_cases = {name.value: list(use_case.models) for name, use_case in USE_CASES.items()}
    use_cases[UseCaseName.EMBEDDING.value] += call.state.live_deployments(call.settings)
    wanted_case, wanted_model = query.get("useCase"), query.get("modelId")
    listed = [
        {"useCase": name, "models": [one for one in models if wanted_model in {None, one}]}
        for name, models in use_cases.items()
        if wanted_case in {None, name}
    ]
    return JSONResponse([entry for entry in listed if entry["models"]])


async def tokenize(call: Call) -> Response:
    """Return the tokens that the embedding use case would embed."""
    model_id = call.request.path_params["model_id"]
    call.record.model = model_id
    model = call.embedding_model(model_id)
    ignore = call.ignore_unknown
    body = Fields.of("body", load_json(await call.json_body()), _BODY, ignore_unknown=ignore)
    items = items_of(body, ("text",), call.settings.batch_overflow, ignore_unknown=ignore)
    options = VectorOptions.of(body, model, ignore_unknown=ignore)
    call.note_texts([item.text for item in items])
    generated = [_tokens(item.text, options) for item in items]
    count = sum(len(one) for one in generated)
    counts = {"inputTokens": count, "promptTokens": count, "completionTokens": 0, "totalTokens": count}
    if call.settings.joined_tokens:
        generated = [[", ".join(json.dumps(token) for token in one)] for one in generated]
    return JSONResponse({"generatedTokens": [{"tokens": one} for one in generated], "tokensUsed": counts})


def _tokens(text: str, options: VectorOptions) -> list[str]:
    prefix: list[str] = []
    if options.data_type is not None and "e5" in options.model.model_id.split("-"):
        prefix = [options.data_type.value, ":"]
    room = MODEL_CONTEXT_TOKENS - len(prefix) - 2
    return ["[CLS]", *prefix, *tokens(truncate_words(text, EMBEDDED_WORDS))[:room], "[SEP]"]
