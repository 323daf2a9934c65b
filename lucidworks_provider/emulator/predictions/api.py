# SPDX-License-Identifier: Apache-2.0
"""``/ai/prediction``, ``/ai/async-prediction`` and ``/ai/prompt/passthrough`` (sections 5, 6 and 9)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.responses import JSONResponse, Response

from lucidworks_provider.emulator import job_calls
from lucidworks_provider.emulator.calls import ApiError, Call
from lucidworks_provider.emulator.checks import Fields, InvalidRequest, load_json
from lucidworks_provider.emulator.jobs import JobKind, JobResult
from lucidworks_provider.emulator.predictions.ask import Answerer, Ask, Item, items_of
from lucidworks_provider.emulator.predictions.prompts import Prompter
from lucidworks_provider.emulator.predictions.use_cases import USE_CASES, UseCase, UseCaseName
from lucidworks_provider.emulator.sentences import count_tokens

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
    return job_calls.accept(call, JobKind.PREDICTION, call.state.workers.submit(_work, answerer, ask.items))


async def fetch(call: Call) -> Response:
    """Tell the state of a prediction and, once, its results."""
    return await job_calls.poll(call, JobKind.PREDICTION, call.request.path_params["prediction_id"])


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
