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

from starlette.responses import JSONResponse, Response

from lucidworks_provider.emulator.calls import Call
from lucidworks_provider.emulator.errors import ApiError
from lucidworks_provider.emulator.jobs import JobKind, JobResult, accept, poll
from lucidworks_provider.emulator.models import MODEL_CONTEXT_TOKENS
from lucidworks_provider.emulator.rules import Default, InvalidValue, required, text
from lucidworks_provider.emulator.sentences import count_tokens, tokens, truncate_words
from lucidworks_provider.emulator.use_cases import (
    EMBEDDED_WORDS,
    LARGEST_BATCH,
    MODEL_CONFIG,
    USE_CASES,
    Answerer,
    Ask,
    UseCase,
    check_keys,
    prompt_of,
)
from lucidworks_provider.emulator.vectors import VectorOptions

# Below this a request is served on the spot: handing it to a thread would cost more than a vector or two.
_SMALL_BATCH, _SMALL_TEXTS = 2, 4_096


def _compute(answerer: Answerer, count: int) -> JobResult:
    """Write ``predictions``, in order of the batch [A]; there is no older shape of it."""
    listed = f'"predictions":[{",".join(map(answerer, range(count)))}]'
    return lambda legacy: listed


async def predict(call: Call) -> Response:
    use_case = _use_case(call)
    ask = await _ask(call, use_case)
    answerer, count = use_case.prepare(ask), len(ask.items)
    if count <= _SMALL_BATCH and (call.record.text_bytes or 0) <= _SMALL_TEXTS:
        result = _compute(answerer, count)
    else:
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(call.state.workers, _compute, answerer, count)
    return Response(f"{{{result(False)}}}".encode(), media_type="application/json")


async def submit(call: Call) -> Response:
    use_case = _use_case(call)
    if not use_case.asynchronous:
        raise ApiError(404, "There is no such asynchronous use case.")
    ask = await _ask(call, use_case)
    answerer = use_case.prepare(ask)
    return accept(call, JobKind.PREDICTION, call.state.workers.submit(_compute, answerer, len(ask.items)))


async def fetch(call: Call) -> Response:
    return await poll(call, JobKind.PREDICTION, call.request.path_params["prediction_id"])


async def preview_prompt(call: Call) -> Response:
    """Show the prompt of the pass-through use case; keys are required, but no model is called."""
    ask = await _ask(call, USE_CASES["passthrough"])
    prompt = prompt_of(ask, 0)
    if len(ask.items) > 1:  # the response is not a list, so it has room for one prompt [A]
        raise InvalidValue("batch: the preview shows one prompt, so one item is required.")
    tokens = count_tokens(prompt)
    counts = {"promptTokens": tokens, "completionTokens": 0, "totalTokens": tokens}
    return JSONResponse({"tokensUsed": counts, "prompt": prompt})


def _use_case(call: Call) -> UseCase:
    segment = call.request.path_params["use_case"]
    call.record.use_case = segment
    use_case = USE_CASES.get(call.segment(segment))
    if use_case is None:
        raise ApiError(404, "There is no such use case.")
    return use_case


async def _ask(call: Call, use_case: UseCase) -> Ask:
    """Resolve the model, then check the body."""
    model_id = call.request.path_params["model_id"]
    call.record.model = model_id
    rules = {"batch": required([use_case.item])}
    embedding_model = None
    if use_case is USE_CASES["embedding"]:
        embedding_model = call.embedding_model(model_id)
        model_id = embedding_model.model_id
        body = await call.body({**rules, **VectorOptions.rules(embedding_model)})
    else:
        model_id = call.segment(model_id)
        custom = call.state.live_deployments(call.settings) if use_case.custom else ()
        if model_id not in use_case.models and model_id.lower() not in custom:
            raise ApiError(404, "There is no such model, or it does not serve this use case.")
        rules |= {"useCaseConfig": Default(use_case.config, {}), "modelConfig": Default(MODEL_CONFIG, {})}
        body = await call.body(rules)
        check_keys(model_id, body["modelConfig"], managed_keys=call.settings.managed_keys)
    items = call.batch(body, LARGEST_BATCH)
    return Ask(model_id, embedding_model, body, items, call.settings, call.state.conversations)


async def list_use_cases(call: Call) -> Response:
    """List each use case with its models, and with live deployments where they serve."""
    query = call.request.query_params
    custom = call.state.live_deployments(call.settings)
    use_cases = {name: [*one.models, *(custom if one.custom else ())] for name, one in USE_CASES.items()}
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
    batch = required([{"text": required(text)}])
    body = await call.body({"batch": batch, **VectorOptions.rules(model)})
    options = VectorOptions.of(body, model)
    generated = [_tokens(item["text"], options) for item in call.batch(body, LARGEST_BATCH)]
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
