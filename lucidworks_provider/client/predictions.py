# SPDX-License-Identifier: Apache-2.0
"""
Predictions, tokenization, prompt preview and the list of use cases.

Options are made by :mod:`lucidworks_provider.client.api.build`, whose functions give the type of the predictions, or
with the vendor's names by :class:`~lucidworks_provider.client.api.use_cases.PredictionOptions`.

.. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-prediction-api/overview
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from lucidworks_provider.client.api import prediction_calls as calls
from lucidworks_provider.client.api.http import Request, Response, parse_object
from lucidworks_provider.client.api.jobs import PREDICTION, read_submission
from lucidworks_provider.client.api.predictions import Prediction
from lucidworks_provider.client.api.secrets import blank
from lucidworks_provider.client.api.use_cases import Item, P, PredictionOptions, read_items
from lucidworks_provider.client.endpoint import Call, Steps, endpoint, naming_models
from lucidworks_provider.client.jobs import poll_job
from lucidworks_provider.client.settings import LucidworksSettings

Inputs = Sequence[str | Mapping[str, Any]]
T = TypeVar("T")


def list_use_cases() -> Call[dict[str, tuple[str, ...]]]:
    """
    The models of each use case.

    The path is an assumption (no vendor page states it): ``use_cases_path`` of the connection changes it.
    """
    return endpoint(lambda settings: calls.use_cases_request(settings.use_cases_url), calls.read_use_cases)


def predict(options: PredictionOptions[P], inputs: Inputs) -> Call[tuple[P, ...]]:
    """
    Predictions, one for each input and in their order.

    :param inputs: at most 32 texts, or ``{"text": …}``, for RAG with ``documents``.
    :raises InputError: refused before anything is sent.
    :raises UnknownResourceError: no such use case or model; names near ones where the service lists them.
    """
    items = read_items(inputs, options)
    return _naming_models(
        options,
        calls.predict_request,
        items,
        lambda answer: calls.read_answer(answer, options, len(items)),
    )


def predict_items(options: PredictionOptions[P], items: Sequence[Item]) -> Call[tuple[bytes, tuple[P, ...]]]:
    """:func:`predict` for items that are validated already; the result has the body as it came, too."""

    def parse(answer: Response) -> tuple[bytes, tuple[P, ...]]:
        return answer.body, calls.read_answer(answer, options, len(items))

    return _naming_models(options, calls.predict_request, items, parse)


def submit_prediction(options: PredictionOptions[Any], inputs: Inputs) -> Call[str]:
    """
    Submit texts to be predicted asynchronously.

    Never in a trigger: a restarted trigger would submit again.

    :param inputs: as for :func:`predict`.
    :return: the job's id. **Store it at once**: the service has no list of jobs.
    :raises InputError: refused before anything is sent, e.g. a use case that does not run asynchronously.
    :raises SubmissionUnknownError: sent, and no response came: a job may exist.
    """
    return submit_items(options, read_items(inputs, options))


def submit_items(options: PredictionOptions[Any], items: Sequence[Item]) -> Call[str]:
    """:func:`submit_prediction` for items that are validated already."""
    return _naming_models(options, calls.submit_request, items, partial(read_submission, kind=PREDICTION))


def get_prediction(
    job_id: str, options: PredictionOptions[Any] | None = None
) -> Call[calls.PredictionResult]:
    """
    The state of a job and, once it is ready, its result.

    **The response that carries the result may be the only one**: store it before anything else.

    :param job_id: what :func:`submit_prediction` returned.
    :param options: what was asked, which gives the predictions their type.
    :raises UnknownResourceError: no such job, or its result is no longer kept.
    """

    def steps(settings: LucidworksSettings) -> Steps[calls.PredictionResult]:
        body = yield from poll_job(PREDICTION, job_id).steps(settings)
        # Not parsed by the exchange, whose retries would request a result that may be returned only once.
        kind = Prediction if options is None else options.known.answer
        result = calls.read_result(parse_object(body, f"Prediction job {job_id}"), job_id, kind)
        return result if options is None else replace(result, message=blank(result.message, options.secrets))

    return Call(steps)


def tokenize(options: PredictionOptions[Any], inputs: Inputs) -> Call[calls.Tokens]:
    """
    The tokens that an embedding model receives, for debugging.

    :param options: of ``embedding``.
    """
    items = read_items(inputs, options)
    return endpoint(
        lambda settings: calls.tokenize_request(settings.application_base, options, items),
        lambda answer: calls.read_tokens(answer, len(items)),
    )


def preview_prompt(options: PredictionOptions[Any], inputs: Inputs) -> Call[calls.Prompt]:
    """
    The prompt that ``passthrough`` would send, without calling the model.

    :param options: of ``passthrough``; the vendor requires keys, which may be placeholders.
    """
    items = read_items(inputs, options)
    return endpoint(
        lambda settings: calls.prompt_request(settings.application_base, options, items), calls.read_prompt
    )


def _naming_models(
    options: PredictionOptions[Any],
    request: Callable[[str, str, PredictionOptions[Any], Sequence[Item]], Request],
    items: Sequence[Item],
    parse: Callable[[Response], T],
) -> Call[T]:
    def build(settings: LucidworksSettings) -> Request:
        return request(settings.application_base, settings.segment_of(options.name), options, items)

    return naming_models(options.use_case, options.model_id, build, parse)
