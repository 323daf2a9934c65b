# SPDX-License-Identifier: Apache-2.0
"""Predictions, tokenization, prompt preview and the list of use cases, as methods of a hook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from lucidworks_provider.client.api import prediction_calls as calls
from lucidworks_provider.client.api.jobs import PREDICTION, read_submission
from lucidworks_provider.client.api.messages import Answer, parse_object
from lucidworks_provider.client.api.predictions import Prediction
from lucidworks_provider.client.api.secrets import blank
from lucidworks_provider.client.api.use_cases import Item, P, PredictionOptions, read_items
from lucidworks_provider.client.auth.redaction import hide
from lucidworks_provider.errors import (
    ForbiddenError,
    LucidworksError,
    RequestRefusedError,
    UnknownResourceError,
)
from lucidworks_provider.hooks.calls import CallingHook

Inputs = Sequence[str | Mapping[str, Any]]
# Answers that an unknown use case or model may get; which one is not documented.
_UNKNOWN = (UnknownResourceError, RequestRefusedError, ForbiddenError)
_read_submission = partial(read_submission, kind=PREDICTION)


class PredictionMethods(CallingHook):
    """
    What a model says about texts.

    Options are made by :mod:`lucidworks_provider.client.api.build`, whose functions tell the type of the answer, or
    with the vendor's names by :class:`~lucidworks_provider.client.api.use_cases.PredictionOptions`.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-prediction-api/overview
    """

    def list_use_cases(self) -> dict[str, tuple[str, ...]]:
        """
        The models of each use case.

        The path is an assumption (no vendor page states it): ``use_cases_path`` of the connection changes it.
        """
        return self._call(calls.use_cases_request(self.get_settings().use_cases_url), calls.read_use_cases)

    async def alist_use_cases(self) -> dict[str, tuple[str, ...]]:
        """:meth:`list_use_cases` for an event loop."""
        return await self._acall(
            calls.use_cases_request((await self.aget_settings()).use_cases_url), calls.read_use_cases
        )

    def predict(self, options: PredictionOptions[P], inputs: Inputs) -> tuple[P, ...]:
        """
        Predictions, one for each input and in their order.

        :param inputs: at most 32 texts, or ``{"text": …}``, for RAG with ``documents``.
        :raises InputError: refused before anything was sent.
        :raises UnknownResourceError: no such use case or model; names near ones where the service lists them.
        """
        items = read_items(inputs, options)
        settings = self.get_settings()
        request = calls.predict_request(
            settings.application_base, settings.segment_of(options.name), _hidden(options), items
        )
        try:
            return self._call(request, lambda answer: calls.read_answer(answer, options, len(items)))
        except _UNKNOWN as err:
            raise self._suggest(err, options) from None

    async def apredict(self, options: PredictionOptions[P], inputs: Inputs) -> tuple[P, ...]:
        """:meth:`predict` for an event loop."""
        return (await self.apredict_items(options, read_items(inputs, options)))[1]

    async def apredict_items(
        self, options: PredictionOptions[P], items: Sequence[Item]
    ) -> tuple[bytes, tuple[P, ...]]:
        """:meth:`apredict` for items that are checked already, with the body as it came."""
        settings = await self.aget_settings()
        request = calls.predict_request(
            settings.application_base, settings.segment_of(options.name), _hidden(options), items
        )

        def read(answer: Answer) -> tuple[bytes, tuple[P, ...]]:
            return answer.body, calls.read_answer(answer, options, len(items))

        try:
            return await self._acall(request, read)
        except _UNKNOWN as err:
            raise await self._asuggest(err, options) from None

    def submit_prediction(self, options: PredictionOptions[Any], inputs: Inputs) -> str:
        """
        Submit texts to be predicted asynchronously.

        :param inputs: as for :meth:`predict`.
        :return: the job's id. **Keep it at once**: the service has no list of jobs.
        :raises InputError: refused before anything was sent, e.g. a use case that does not run asynchronously.
        :raises SubmissionUnknownError: sent, and no answer came: a job may exist.
        """
        return self.submit_items(options, read_items(inputs, options))

    def submit_items(self, options: PredictionOptions[Any], items: Sequence[Item]) -> str:
        """:meth:`submit_prediction` for items that are checked already."""
        settings = self.get_settings()
        request = calls.submit_request(
            settings.application_base, settings.segment_of(options.name), _hidden(options), items
        )
        try:
            return self._call(request, _read_submission)
        except _UNKNOWN as err:
            raise self._suggest(err, options) from None

    async def asubmit_prediction(self, options: PredictionOptions[Any], inputs: Inputs) -> str:
        """:meth:`submit_prediction` for an event loop. Never in a trigger: a restarted one would submit again."""
        settings = await self.aget_settings()
        request = calls.submit_request(
            settings.application_base,
            settings.segment_of(options.name),
            _hidden(options),
            read_items(inputs, options),
        )
        try:
            return await self._acall(request, _read_submission)
        except _UNKNOWN as err:
            raise await self._asuggest(err, options) from None

    def get_prediction(
        self, job_id: str, options: PredictionOptions[Any] | None = None
    ) -> calls.PredictionResult:
        """
        Ask for a job's state and, once it is ready, its result.

        **The answer that carries the result may be the only one**: store it before anything else.

        :param job_id: what :meth:`submit_prediction` returned.
        :param options: what was asked, which gives the predictions their type.
        :raises UnknownResourceError: no such job, or its result is no longer kept.
        """
        return _result(self.poll_job(PREDICTION, job_id), job_id, options)

    async def aget_prediction(
        self, job_id: str, options: PredictionOptions[Any] | None = None
    ) -> calls.PredictionResult:
        """:meth:`get_prediction` for an event loop."""
        return _result(await self.apoll_job(PREDICTION, job_id), job_id, options)

    def tokenize(self, options: PredictionOptions[Any], inputs: Inputs) -> calls.Tokens:
        """
        The tokens that an embedding model would get, for debugging.

        :param options: of ``embedding``.
        """
        items = read_items(inputs, options)
        request = calls.tokenize_request(self.get_settings().application_base, _hidden(options), items)
        return self._call(request, lambda answer: calls.read_tokens(answer, len(items)))

    async def atokenize(self, options: PredictionOptions[Any], inputs: Inputs) -> calls.Tokens:
        """:meth:`tokenize` for an event loop."""
        items = read_items(inputs, options)
        base = (await self.aget_settings()).application_base
        request = calls.tokenize_request(base, _hidden(options), items)
        return await self._acall(request, lambda answer: calls.read_tokens(answer, len(items)))

    def preview_prompt(self, options: PredictionOptions[Any], inputs: Inputs) -> calls.Prompt:
        """
        The prompt that ``passthrough`` would send, without calling the model.

        :param options: of ``passthrough``; the vendor wants keys to be there, but they may be placeholders.
        """
        items = read_items(inputs, options)
        request = calls.prompt_request(self.get_settings().application_base, _hidden(options), items)
        return self._call(request, calls.read_prompt)

    async def apreview_prompt(self, options: PredictionOptions[Any], inputs: Inputs) -> calls.Prompt:
        """:meth:`preview_prompt` for an event loop."""
        items = read_items(inputs, options)
        request = calls.prompt_request((await self.aget_settings()).application_base, _hidden(options), items)
        return await self._acall(request, calls.read_prompt)

    def _suggest(self, err: LucidworksError, options: PredictionOptions[Any]) -> LucidworksError:
        """Add what the caller may have meant; a list that cannot be had says nothing."""
        try:
            # Once: whoever asked for something else waits for this.
            listed = self._call(
                calls.use_cases_request(self.get_settings().use_cases_url), calls.read_use_cases, 1
            )
            hint = calls.nearest(listed, options)
        except LucidworksError:
            hint = ""
        return _with_hint(err, hint)

    async def _asuggest(self, err: LucidworksError, options: PredictionOptions[Any]) -> LucidworksError:
        try:
            request = calls.use_cases_request((await self.aget_settings()).use_cases_url)
            hint = calls.nearest(await self._acall(request, calls.read_use_cases, 1), options)
        except LucidworksError:
            hint = ""
        return _with_hint(err, hint)


def _with_hint(err: LucidworksError, hint: str) -> LucidworksError:
    if hint:
        err.args = (f"{str(err).rstrip('.')}. {hint}", *err.args[1:])
    return err


def _hidden(options: PredictionOptions[P]) -> PredictionOptions[P]:
    """Keep the keys in the options out of this process's logs from now on."""
    for secret in options.secrets:
        hide(secret)
    return options


def _result(body: bytes, job_id: str, options: PredictionOptions[Any] | None) -> calls.PredictionResult:
    answer = Prediction if options is None else options.known.answer
    result = calls.read_result(parse_object(body, f"Prediction job {job_id}"), job_id, answer)
    return result if options is None else replace(result, message=blank(result.message, options.secrets))
