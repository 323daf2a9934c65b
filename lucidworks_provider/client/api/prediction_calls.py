# SPDX-License-Identifier: Apache-2.0
"""
The requests about predictions: synchronous, asynchronous, tokenization, prompt preview, list of use cases.

Sources: sections 4, 5, 6, 8 and 9 of the API reference.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lucidworks_provider.client.api.http import (
    Request,
    Response,
    check_status,
    excerpt,
    get,
    parse_json,
    path_segment,
    post,
    read_object,
    vendor_message,
)
from lucidworks_provider.client.api.jobs import PREDICTION, JobState, state_of, top_level
from lucidworks_provider.client.api.options import did_you_mean, plain
from lucidworks_provider.client.api.predictions import Prediction, TokensUsed, read_predictions
from lucidworks_provider.client.api.use_cases import Item, P, PredictionOptions
from lucidworks_provider.client.api.validation import refused
from lucidworks_provider.errors import InputError, MalformedAnswerError, RequestRefusedError

# Names that a list of use cases may put its strings under (no page shows it).
_NAME_FIELDS = ("useCase", "usecase", "use_case", "name", "id")
_MODEL_FIELDS = ("models", "modelIds", "modelId", "model")
_LISTS_OF_MODELS = ("models", "modelIds")


def predict_request(
    base_url: str, segment: str, options: PredictionOptions[Any], items: Sequence[Item]
) -> Request:
    """
    Build ``POST /ai/prediction/{USE_CASE}/{MODEL_ID}``.

    Replayable: it creates nothing that is kept, only costs what it costs.
    """
    return post(
        f"Predict {options.use_case} with {options.model_id}",
        f"{base_url}/ai/prediction/{_path(segment, options.model_id)}",
        options.body(items),
        endpoint="predict",
        replayable=True,
        secrets=options.secrets,
    )


def read_answer(answer: Response, options: PredictionOptions[P], inputs: int) -> tuple[P, ...]:
    """
    The predictions of a synchronous answer, one for each input.

    :raises MalformedAnswerError: not one for each, or not readable.
    """
    name = f"Predict {options.use_case} with {options.model_id}"
    body = read_object(answer, name)
    # The status of a job is not documented here; a service that fails with a 200 may use it all the same.
    seen = state_of(body, PREDICTION)
    if seen.state is JobState.FAILED and not body.get(PREDICTION.payload_field):
        raise RequestRefusedError(f"{name}: status {seen.status}: {seen.message}", status=answer.status)
    if PREDICTION.payload_field not in body:
        name = f"{name} (HTTP {answer.status}: {vendor_message(answer.body)})"
    return read_predictions(body, options.known.answer, name, inputs=inputs)


def submit_request(
    base_url: str, segment: str, options: PredictionOptions[Any], items: Sequence[Item]
) -> Request:
    """
    Build ``POST /ai/async-prediction/{USE_CASE}/{MODEL_ID}``.

    :raises InputError: a use case that does not run asynchronously.
    """
    check_asynchronous(options)
    return post(
        PREDICTION.submitting,
        f"{base_url}{PREDICTION.path}/{_path(segment, options.model_id)}",
        options.body(items),
        endpoint="submit_prediction",
        replayable=False,
        secrets=options.secrets,
    )


def check_asynchronous(options: PredictionOptions[Any]) -> None:
    """
    Refuse what the Async Prediction API has no page for.

    :raises InputError: embedding and classification.
    """
    if not options.known.asynchronous:
        raise InputError(
            f"{options.use_case!r} does not run asynchronously; use LucidworksPredictionOperator (or predict), "
            "and for the vectors of long texts chunking."
        )


@dataclass(frozen=True, slots=True)
class PredictionResult:
    """
    A prediction job as one GET showed it.

    :param status: the service's own word.
    :param predictions: one for each input, wherever the answer carries them.
    """

    job_id: str
    state: JobState
    status: str
    message: str
    predictions: tuple[Any, ...] = field(default=(), repr=False)


def read_result(
    body: Mapping[str, Any], job_id: str, answer: type[Prediction] = Prediction, inputs: int | None = None
) -> PredictionResult:
    """
    Read a decoded GET answer.

    :param answer: the type of one prediction.
    :param inputs: how many were submitted, if known.
    :raises MalformedAnswerError: not one prediction for each input, or not readable.
    """
    seen = state_of(body, PREDICTION, job_id)
    name = f"Prediction job {job_id}"
    if seen.other_job:
        # Nothing in a prediction tells which input it is about.
        raise refused(f"{name}: the answer is about job {seen.other_job}")
    read: tuple[Any, ...] = ()
    if seen.has_payload and seen.state is not JobState.FAILED:
        read = read_predictions(top_level(body, PREDICTION), answer, name, inputs=inputs)
    return PredictionResult(job_id, seen.state, seen.status, seen.message, read)


@dataclass(frozen=True, slots=True)
class Tokens:
    """
    What the embedding use case would send to the model, after formatting and truncation.

    :param texts: one list of tokens for each input.
    :param tokens_used: of all inputs together.
    """

    texts: tuple[tuple[str, ...], ...]
    tokens_used: TokensUsed
    sent: Mapping[str, Any] = field(repr=False)


def tokenize_request(base_url: str, options: PredictionOptions[Any], items: Sequence[Item]) -> Request:
    """Build ``POST /ai/tokenization/{MODEL_ID}``; the body is that of ``embedding``."""
    _check_use_case(options, "embedding", "tokenize")
    return post(
        f"Tokenize with {options.model_id}",
        f"{base_url}/ai/tokenization/{path_segment(options.model_id, 'model_id')}",
        options.body(items),
        endpoint="tokenize",
        replayable=True,
        secrets=options.secrets,
    )


def read_tokens(answer: Response, inputs: int) -> Tokens:
    """
    The tokens of each input.

    In the published example all tokens stand in one text; that is kept as one token.

    :raises MalformedAnswerError: not one list for each input.
    """
    body = read_object(answer, "Tokenize")
    listed = body.get("generatedTokens")
    texts = [
        one.get("tokens") if isinstance(one, Mapping) else one
        for one in (listed if isinstance(listed, list) else [])
    ]
    if len(texts) != inputs or not all(isinstance(one, list | str) for one in texts):
        raise MalformedAnswerError(
            f"Tokenize: `generatedTokens` is no list of {inputs} lists; it starts: {excerpt(answer.body)!r}",
            status=answer.status,
        )
    tokens = tuple(
        (one,) if isinstance(one, str) else tuple(map(str, one)) for one in texts if one is not None
    )
    return Tokens(tokens, TokensUsed.read(body.get("tokensUsed")), body)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt that ``passthrough`` would send to the model; the model is not called."""

    text: str
    tokens_used: TokensUsed
    sent: Mapping[str, Any] = field(repr=False)


def prompt_request(base_url: str, options: PredictionOptions[Any], items: Sequence[Item]) -> Request:
    """Build ``POST /ai/prompt/passthrough/{MODEL_ID}``."""
    _check_use_case(options, "passthrough", "preview_prompt")
    return post(
        f"Preview the prompt of {options.model_id}",
        f"{base_url}/ai/prompt/passthrough/{path_segment(options.model_id, 'model_id')}",
        options.body(items),
        endpoint="preview_prompt",
        replayable=True,
        secrets=options.secrets,
    )


def read_prompt(answer: Response) -> Prompt:
    """
    The prompt.

    :raises MalformedAnswerError: no ``prompt``.
    """
    body = read_object(answer, "Preview a prompt")
    text = body.get("prompt")
    if not isinstance(text, str):
        raise MalformedAnswerError(
            f"Preview a prompt: no `prompt`; it starts: {excerpt(answer.body)!r}", status=answer.status
        )
    return Prompt(text, TokensUsed.read(body.get("tokensUsed")), body)


def use_cases_request(url: str) -> Request:
    """Build the GET of the list of use cases."""
    return get("List use cases", url, endpoint="list_use_cases")


def read_use_cases(answer: Response) -> dict[str, tuple[str, ...]]:
    """
    The models of each use case.

    No page shows this answer, so whatever looks like names is taken: a list of objects with a name and
    models, an object of lists, or either of them one level down.

    :raises MalformedAnswerError: no JSON at all.
    """
    check_status(answer, "List use cases")
    decoded = parse_json(answer.body)
    if not isinstance(decoded, list | dict):
        raise MalformedAnswerError(
            f"List use cases: no JSON list or object; it starts: {excerpt(answer.body)!r}",
            status=answer.status,
        )
    return _use_cases(decoded, depth=2)


def _use_cases(value: object, depth: int) -> dict[str, tuple[str, ...]]:
    if isinstance(value, list):
        found: dict[str, tuple[str, ...]] = {}
        for one in value:
            if isinstance(one, str):
                found.setdefault(one, ())
            elif isinstance(one, Mapping):
                name = next((one[n] for n in _NAME_FIELDS if isinstance(one.get(n), str)), None)
                if name is not None:
                    found[name] = found.get(name, ()) + _models(one)
        return found
    if isinstance(value, Mapping):
        # {"useCases": [{"useCase": …, "models": […]}, …], "total": 9}, or {"data": {…}}.
        for name, one in value.items():
            if depth and (plain(str(name)) == "usecases" or _holds_use_cases(one)):
                return _use_cases(one, depth - 1)
        # {"embedding": ["gte-small", …], …}, or {"embedding": {"models": […]}, …}.
        listed = {
            str(name): _models(one) if isinstance(one, Mapping) else _strings(one)
            for name, one in value.items()
            if isinstance(one, list) or (isinstance(one, Mapping) and set(_MODEL_FIELDS) & set(one))
        }
        inner = [one for one in value.values() if isinstance(one, Mapping)]
        return _use_cases(inner[0], depth - 1) if depth and not listed and len(inner) == 1 else listed
    return {}


def _holds_use_cases(value: object) -> bool:
    return isinstance(value, list) and any(
        isinstance(one, Mapping)
        and any(isinstance(one.get(name), str) for name in _NAME_FIELDS)
        and any(isinstance(one.get(name), list) for name in _LISTS_OF_MODELS)
        for one in value
    )


def _models(one: Mapping[str, Any]) -> tuple[str, ...]:
    return next((_strings(one[name]) for name in _MODEL_FIELDS if name in one), ())


def _strings(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        return ()
    named = (
        next((one[n] for n in ("modelId", *_NAME_FIELDS) if isinstance(one.get(n), str)), None)
        if isinstance(one, Mapping)
        else one
        for one in value
    )
    return tuple(name for name in named if isinstance(name, str))


def nearest(use_cases: Mapping[str, Sequence[str]], use_case: str, model_id: str) -> str:
    """What a caller may have meant, as a sentence; empty when the list does not tell."""
    name = use_case.replace("_", "-")
    by_name = {name.replace("_", "-"): models for name, models in use_cases.items()}
    models = by_name.get(name)
    if models is None:
        listed = f"The service lists no use case {use_case!r}, but {', '.join(sorted(by_name))}."
        return f"{listed}{did_you_mean(name, by_name)}" if by_name else ""
    if model_id in models or not models:
        return ""
    close = difflib.get_close_matches(model_id, models, n=3, cutoff=0.4) or list(models)[:5]
    return f"For {use_case!r} the service lists {', '.join(close)}."


def _check_use_case(options: PredictionOptions[Any], wanted: str, method: str) -> None:
    if options.name != wanted:
        raise InputError(f"{method} takes the options of {wanted!r}, not of {options.use_case!r}.")


def _path(segment: str, model_id: str) -> str:
    return f"{path_segment(segment, 'use_case')}/{path_segment(model_id, 'model_id')}"
