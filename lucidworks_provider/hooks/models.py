# SPDX-License-Identifier: Apache-2.0
"""Models and their deployments, as methods of a hook."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import chain
from typing import Any, TypeVar

from lucidworks_provider.client.api import model_calls as calls
from lucidworks_provider.client.api import models as api
from lucidworks_provider.client.api.messages import Answer, Request, path_segment
from lucidworks_provider.client.auth.redaction import hide
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import AnswerError, InputError
from lucidworks_provider.hooks.calls import CallingHook

# Of a refused path, what says nothing but that there is no such path, or no such deployment.
_NOT_THERE = frozenset({404, 405, 410})

T = TypeVar("T")
# Requests with their readers; each is sent its result, or thrown its error.
Calls = Generator[tuple[Request, Callable[[Answer], Any]], Any, T]


class ModelMethods(CallingHook):
    """
    Train, deploy, undeploy. All of it needs the connection's Customer ID.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-models-api
    """

    def list_models(self) -> tuple[api.Model, ...]:
        """
        Every model, pre-trained and custom.

        :raises ConfigurationError: the connection has no Customer ID.
        """
        return self._call(calls.list_models_request(self.get_settings().models_base), api.read_models)

    async def alist_models(self) -> tuple[api.Model, ...]:
        """:meth:`list_models` for an event loop."""
        return await self._acall(
            calls.list_models_request((await self.aget_settings()).models_base), api.read_models
        )

    def get_model(self, model_id: str, *, metrics: bool = False) -> api.Model:
        """
        One model.

        :param metrics: with those of its training.
        :raises UnknownResourceError: no such model.
        """
        base = self.get_settings().models_base
        return self._call(calls.get_model_request(base, model_id, metrics=metrics), api.read_model)

    async def aget_model(
        self, model_id: str, *, metrics: bool = False, attempts: int | None = None
    ) -> api.Model:
        """:meth:`get_model` for an event loop."""
        base = (await self.aget_settings()).models_base
        request = calls.get_model_request(base, model_id, metrics=metrics)
        return await self._acall(request, api.read_model, attempts)

    def create_model(
        self, training: calls.Training, credentials: Mapping[str, str] | None = None
    ) -> api.Model:
        """
        Start to train a model. It cannot be changed or deleted afterwards.

        :param credentials: ``{"serviceAccountKey": …}`` for the training data; never shown, never stored.
        :raises SubmissionUnknownError: sent, and no answer came: a model of that name may exist.
        """
        request = calls.create_model_request(self.get_settings().models_base, training, _hidden(credentials))
        return self._call(request, api.read_model)

    async def acreate_model(
        self, training: calls.Training, credentials: Mapping[str, str] | None = None
    ) -> api.Model:
        """:meth:`create_model` for an event loop. Never in a trigger: a restarted one would train again."""
        base = (await self.aget_settings()).models_base
        request = calls.create_model_request(base, training, _hidden(credentials))
        return await self._acall(request, api.read_model)

    def list_model_deployments(self, model_id: str) -> tuple[api.Deployment, ...]:
        """The deployments of a model."""
        base = self.get_settings().models_base
        return self._call(calls.list_model_deployments_request(base, model_id), api.read_deployments)

    async def alist_model_deployments(
        self, model_id: str, *, attempts: int | None = None
    ) -> tuple[api.Deployment, ...]:
        """:meth:`list_model_deployments` for an event loop."""
        base = (await self.aget_settings()).models_base
        request = calls.list_model_deployments_request(base, model_id)
        return await self._acall(request, api.read_deployments, attempts)

    def list_deployments(self) -> tuple[api.Deployment, ...]:
        """
        Every deployment of the customer. No other way to see a single one is documented.

        Where the service refuses this list, the lists of the models are put together.

        :raises AnswerError: neither is there; the connection's ``deployments_path`` sets another path.
        """
        return self._send(_every_deployment(self.get_settings()))

    async def alist_deployments(self, *, attempts: int | None = None) -> tuple[api.Deployment, ...]:
        """:meth:`list_deployments` for an event loop."""
        return await self._asend(_every_deployment(await self.aget_settings()), attempts)

    def create_deployment(self, placement: calls.Placement) -> api.Deployment:
        """
        Start to deploy a model.

        :raises SubmissionUnknownError: sent, and no answer came: a deployment may exist.
        """
        request = calls.deploy_request(_deployments(self.get_settings()), placement)
        return self._call(request, api.read_deployment)

    async def acreate_deployment(self, placement: calls.Placement) -> api.Deployment:
        """:meth:`create_deployment` for an event loop. Never in a trigger."""
        request = calls.deploy_request(_deployments(await self.aget_settings()), placement)
        return await self._acall(request, api.read_deployment)

    def delete_deployment(self, deployment_id: str) -> str | None:
        """
        Start to delete a deployment.

        The vendor's pages disagree about the path. The connection's ``undeploy_path`` is used; without it two
        readings are tried, of which none can name more than this one deployment.

        :return: the state that the service answers with, if it says one.
        :raises InputError: an id that names no single deployment; nothing was sent.
        :raises UnknownResourceError: no such deployment, or none of the paths is the service's.
        :raises AnswerError: every path was refused; names them.
        """
        return self._send(_deletion(self.get_settings(), deployment_id))

    async def adelete_deployment(self, deployment_id: str) -> str | None:
        """:meth:`delete_deployment` for an event loop."""
        return await self._asend(_deletion(await self.aget_settings(), deployment_id))

    def _send(self, steps: Calls[T], attempts: int | None = None) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    result = self._call(*step, attempts)
                except AnswerError as err:
                    step = steps.throw(err)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            done: T = end.value
            return done

    async def _asend(self, steps: Calls[T], attempts: int | None = None) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    result = await self._acall(*step, attempts)
                except AnswerError as err:
                    step = steps.throw(err)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            done: T = end.value
            return done


def _every_deployment(settings: LucidworksSettings) -> Calls[tuple[api.Deployment, ...]]:
    try:
        listed: tuple[api.Deployment, ...] = yield (
            calls.list_deployments_request(_deployments(settings)),
            api.read_deployments,
        )
    except AnswerError as err:
        refused = _wrong_path(err)
    else:
        return listed
    try:
        models = yield calls.list_models_request(settings.models_base), api.read_models
    except AnswerError as err:
        raise _with_path(refused, settings) from _wrong_path(err)
    lists: list[tuple[api.Deployment, ...]] = []
    for model in models:
        if model.sent.get("deployments") == []:
            lists.append(())
        elif (own := (yield from _deployments_of(settings, model))) is not None:
            lists.append(own)
    if not lists:
        raise _with_path(refused, settings)
    return tuple(chain.from_iterable(lists))


def _deployments_of(
    settings: LucidworksSettings, model: api.Model
) -> Calls[tuple[api.Deployment, ...] | None]:
    """A model's own list; where it is refused, what the model shows, or None if that is nothing."""
    request = calls.list_model_deployments_request(settings.models_base, model.id)
    try:
        listed = yield request, api.read_deployments
    except AnswerError as err:
        _wrong_path(err)
        return model.deployments if "deployments" in model.sent else None
    return api.deployments_of(model.id, listed)


def _deletion(settings: LucidworksSettings, deployment_id: str) -> Calls[str | None]:
    refused: list[AnswerError] = []
    for url in _undeployments(settings, deployment_id):
        try:
            state: str | None = yield calls.undeploy_request(url, deployment_id), api.read_undeployment
        except AnswerError as err:
            refused.append(_wrong_path(err))
        else:
            return state
    raise _undeploy_refused(deployment_id, refused, settings)


def _deployments(settings: LucidworksSettings) -> str:
    return settings.models_path(settings.deployments_path)


def _undeployments(settings: LucidworksSettings, deployment_id: str) -> Iterator[str]:
    segment = path_segment(deployment_id, "deployment_id")
    if not any(letter.isalnum() for letter in deployment_id):
        # What a gateway may strip would leave a path without a deployment.
        raise InputError(
            f"deployment_id is {deployment_id!r}, which names no deployment; nothing was deleted."
        )
    if deployment_id.strip().casefold() == (settings.customer_id or "").casefold():
        # In the literal reading of the vendor's path it would stand for all deployments of the customer.
        raise InputError(f"deployment_id is {deployment_id!r}, the Customer ID; nothing was deleted.")
    for template in settings.undeploy_paths:
        yield settings.models_path(template, deployment_id=segment)


def _wrong_path(err: AnswerError) -> AnswerError:
    """
    The error, where another path may do; else it is raised.

    A 401 is about the token and a 429 about the rate. Any other 4xx may be a gateway's for a path it does not have.
    """
    if 400 <= err.status < 500 and err.status not in {401, 429}:
        return err
    raise err


def _undeploy_refused(
    deployment_id: str, refused: list[AnswerError], settings: LucidworksSettings
) -> AnswerError:
    """Every path with what it was answered, as an error of the kind that says most."""
    telling = next((err for err in refused if err.status not in _NOT_THERE), refused[0])
    tried = "; ".join(
        f"DELETE {path}: HTTP {err.status}"
        for path, err in zip(settings.undeploy_paths, refused, strict=True)
    )
    return type(telling)(
        f"{str(telling).rstrip('.')}. Tried {tried}. Either there is no deployment {deployment_id}, or the "
        "connection's `undeploy_path` must name the service's path.",
        status=telling.status,
    )


def _with_path(err: AnswerError, settings: LucidworksSettings) -> AnswerError:
    return type(err)(
        f"{str(err).rstrip('.')}. The path was {settings.deployments_path}; the connection's `deployments_path` "
        "sets another.",
        status=err.status,
    )


def _hidden(credentials: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Keep the credentials out of this process's logs from now on."""
    if credentials is None:
        return None
    if not isinstance(credentials, Mapping):
        raise InputError('credentials is no dictionary; write it as {"serviceAccountKey": "…"}.')
    for name, secret in credentials.items():
        if not isinstance(name, str) or not isinstance(secret, str) or not secret.strip():
            raise InputError(f"credentials: {name} must be a text that is not empty.")
    return {name: hide(secret) for name, secret in credentials.items()}
