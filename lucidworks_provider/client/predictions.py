# SPDX-License-Identifier: Apache-2.0
"""
The Prediction API: predictions, synchronous and asynchronous, tokenization and prompt preview.

Options are made by :mod:`lucidworks_provider.client.use_cases`, whose functions give the type of the predictions, or
with the vendor's names by :class:`~lucidworks_provider.client.use_cases.PredictionOptions`.

.. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-prediction-api/overview
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from lucidworks_provider.client.http.messages import (
    Call,
    Request,
    Response,
    Steps,
    endpoint,
    endpoint_with_hint,
    excerpt,
    parse_object,
    path_segment,
    post,
    read_object,
    unusable_result,
    vendor_message,
)
from lucidworks_provider.client.jobs import (
    PREDICTION,
    JobState,
    poll_job,
    read_submission,
    refused,
    state_of,
    top_level,
)
from lucidworks_provider.client.prediction_types import Prediction, TokensUsed, read_predictions
from lucidworks_provider.client.secrets import blank
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.client.use_cases import (
    Items,
    P,
    PredictionOptions,
    list_use_cases,
    nearest,
    read_items,
)
from lucidworks_provider.errors import InputError, MalformedResponseError

Inputs = Sequence[str | Mapping[str, Any]]
T = TypeVar("T")


def predict(options: PredictionOptions[P], inputs: Inputs) -> Call[tuple[P, ...]]:
    """
    Predictions, one for each input and in their order.

    :param inputs: at most 32 texts, or ``{"text": …}``, for RAG with ``documents``.
    :raises InputError: refused before anything is sent.
    :raises UnknownResourceError: no such use case or model; names near ones where the service lists them.
    """
    items = read_items(inputs, options)
    return _predict(options, items, lambda response: read_response(response, options, len(items)))


def predict_items(options: PredictionOptions[P], items: Items) -> Call[tuple[bytes, tuple[P, ...]]]:
    """:func:`predict` for items that are validated already; the result has the unparsed body, too."""

    def parse(response: Response) -> tuple[bytes, tuple[P, ...]]:
        return response.body, read_response(response, options, len(items))

    return _predict(options, items, parse)


def _predict(options: PredictionOptions[Any], items: Items, parse: Callable[[Response], T]) -> Call[T]:
    name = f"Predict {options.use_case} with {options.model_id}"
    # Replayable: it creates nothing that is kept, only costs what it costs.
    build = _post(options, items, name, "/ai/prediction/{use_case}", endpoint="predict", replayable=True)
    return _with_hint(options, build, parse)


def submit_prediction(options: PredictionOptions[Any], inputs: Inputs) -> Call[str]:
    """
    Submit texts to be predicted asynchronously.

    Do not call it in a trigger: a restarted trigger would submit again.

    :param inputs: as for :func:`predict`.
    :return: the job's id. **Store it at once**: the service has no list of jobs.
    :raises InputError: refused before anything is sent, e.g. a use case that does not run asynchronously.
    :raises SubmissionUnknownError: sent, and no response came: a job may exist.
    """
    return submit_items(options, read_items(inputs, options))


def submit_items(options: PredictionOptions[Any], items: Items) -> Call[str]:
    """:func:`submit_prediction` for items that are validated already."""
    check_asynchronous(options)
    path = f"{PREDICTION.path}/{{use_case}}"
    build = _post(options, items, PREDICTION.submitting, path, endpoint="submit_prediction", replayable=False)
    return _with_hint(options, build, partial(read_submission, kind=PREDICTION))


def _with_hint(
    options: PredictionOptions[Any],
    build: Callable[[LucidworksSettings], Request],
    parse: Callable[[Response], T],
) -> Call[T]:
    return endpoint_with_hint(
        build,
        parse,
        list_use_cases,
        lambda listed: nearest(listed, options.use_case, options.model_id),
    )


def get_prediction(job_id: str, options: PredictionOptions[Any] | None = None) -> Call[PredictionResult]:
    """
    The state of a job and, once it is ready, its result.

    **The response that carries the result may be the only one**: store it before anything else.

    :param job_id: what :func:`submit_prediction` returned.
    :param options: those of the submission, which determine the type of the predictions.
    :raises UnknownResourceError: no such job, or its result is no longer kept.
    """

    def steps(settings: LucidworksSettings) -> Steps[PredictionResult]:
        body = yield from poll_job(PREDICTION, job_id).steps(settings)
        # Not parsed by the exchange, whose retries would request a result that may be returned only once.
        kind = Prediction if options is None else options.known.prediction
        result = read_result(parse_object(body, f"Prediction job {job_id}"), job_id, kind)
        return result if options is None else replace(result, message=blank(result.message, options.secrets))

    return Call(steps)


def tokenize(options: PredictionOptions[Any], inputs: Inputs) -> Call[Tokens]:
    """
    The tokens that an embedding model receives, for debugging.

    :param options: of ``embedding``.
    """
    _check_use_case(options, "embedding", "tokenize")
    items = read_items(inputs, options)
    build = _post(
        options, items, f"Tokenize with {options.model_id}", "/ai/tokenization", endpoint="tokenize"
    )
    return endpoint(build, lambda response: read_tokens(response, len(items)))


def preview_prompt(options: PredictionOptions[Any], inputs: Inputs) -> Call[Prompt]:
    """
    The prompt that ``passthrough`` would send, without calling the model.

    :param options: of ``passthrough``; the vendor requires keys, which may be placeholders.
    """
    _check_use_case(options, "passthrough", "preview_prompt")
    items = read_items(inputs, options)
    name = f"Preview the prompt of {options.model_id}"
    return endpoint(
        _post(options, items, name, "/ai/prompt/passthrough", endpoint="preview_prompt"), read_prompt
    )


def _check_use_case(options: PredictionOptions[Any], wanted: str, method: str) -> None:
    if options.name != wanted:
        raise InputError(f"{method} takes the options of {wanted!r}, not of {options.use_case!r}.")


def _post(
    options: PredictionOptions[Any],
    items: Items,
    name: str,
    path: str,
    *,
    endpoint: str,
    replayable: bool = True,
) -> Callable[[LucidworksSettings], Request]:
    """
    How to build a POST with the body of a use case, to ``{path}/{MODEL_ID}``.

    :param path: with ``{use_case}`` for the segment of the use case.
    """

    def build(settings: LucidworksSettings) -> Request:
        use_case = path_segment(settings.segment_of(options.name), "use_case")
        model = path_segment(options.model_id, "model_id")
        return post(
            name,
            f"{settings.application_base}{path.format(use_case=use_case)}/{model}",
            options.body(items),
            endpoint=endpoint,
            replayable=replayable,
            secrets=options.secrets,
        )

    return build


def read_response(response: Response, options: PredictionOptions[P], inputs: int) -> tuple[P, ...]:
    """
    The predictions of a synchronous response, one for each input.

    :raises MalformedResponseError: not one for each, or not readable; with the body.
    """
    try:
        return _read_response(response, options, inputs)
    except MalformedResponseError as err:
        err.body = response.body
        raise


def _read_response(response: Response, options: PredictionOptions[P], inputs: int) -> tuple[P, ...]:
    name = f"Predict {options.use_case} with {options.model_id}"
    body = read_object(response, name)
    # The status of a job is not documented here; a service that fails with a 200 may use it.
    seen = state_of(body, PREDICTION)
    if seen.state is JobState.FAILED and not body.get(PREDICTION.payload_field):
        raise refused(name, seen, response.status)
    if PREDICTION.payload_field not in body:
        name = f"{name} (HTTP {response.status}: {vendor_message(response.body)})"
    return read_predictions(body, options.known.prediction, name, inputs=inputs)


def check_asynchronous(options: PredictionOptions[Any]) -> None:
    """
    Refuse what the Async Prediction API has no page for.

    :raises InputError: embedding and classification.
    """
    if not options.known.asynchronous:
        raise InputError(
            f"{options.use_case!r} does not run asynchronously; use LucidworksPredictionOperator or predict, "
            "or chunking for the vectors of long texts."
        )


@dataclass(frozen=True, slots=True)
class PredictionResult:
    """
    The response to a poll of a prediction job.

    :param status: as the service sent it.
    :param predictions: one for each input, wherever the response has them.
    """

    job_id: str
    state: JobState
    status: str
    message: str
    predictions: tuple[Any, ...] = field(default=(), repr=False)


def read_result(
    body: Mapping[str, Any], job_id: str, kind: type[Prediction] = Prediction, inputs: int | None = None
) -> PredictionResult:
    """
    Read a decoded response to a GET.

    :param kind: the type of one prediction.
    :param inputs: how many were submitted, if known.
    :raises MalformedResponseError: not one prediction for each input, or not readable.
    """
    seen = state_of(body, PREDICTION, job_id)
    name = f"Prediction job {job_id}"
    if seen.other_job:
        # A prediction does not name its input.
        raise unusable_result(f"{name}: the response is about job {seen.other_job}")
    read: tuple[Any, ...] = ()
    if seen.has_payload and seen.state is not JobState.FAILED:
        read = read_predictions(top_level(body, PREDICTION), kind, name, inputs=inputs)
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


def read_tokens(response: Response, inputs: int) -> Tokens:
    """
    The tokens of each input.

    In the published example all tokens are in one text; that is one token here.

    :raises MalformedResponseError: not one list for each input.
    """
    body = read_object(response, "Tokenize")
    listed = body.get("generatedTokens")
    texts = [
        one.get("tokens") if isinstance(one, Mapping) else one
        for one in (listed if isinstance(listed, list) else [])
    ]
    if len(texts) != inputs or not all(isinstance(one, list | str) for one in texts):
        raise MalformedResponseError(
            f"Tokenize: `generatedTokens` is not a list of {inputs} lists; it starts: {excerpt(response.body)!r}",
            status=response.status,
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


def read_prompt(response: Response) -> Prompt:
    """
    The prompt.

    :raises MalformedResponseError: no ``prompt``.
    """
    body = read_object(response, "Preview a prompt")
    text = body.get("prompt")
    if not isinstance(text, str):
        raise MalformedResponseError(
            f"Preview a prompt: no `prompt`; it starts: {excerpt(response.body)!r}", status=response.status
        )
    return Prompt(text, TokensUsed.read(body.get("tokensUsed")), body)
