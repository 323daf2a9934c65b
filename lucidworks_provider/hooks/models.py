# SPDX-License-Identifier: Apache-2.0
"""Models and their deployments, as methods of a hook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lucidworks_provider.api import model_calls as calls
from lucidworks_provider.api import models as api
from lucidworks_provider.api.messages import path_segment
from lucidworks_provider.auth.redaction import hide
from lucidworks_provider.connection import LucidworksSettings
from lucidworks_provider.errors import AnswerError, InputError, UnknownResourceError
from lucidworks_provider.hooks.calls import CallingHook

# What a path that is not the service's may be answered with; 403 for another customer's, as it seems.
_WRONG_PATH = frozenset({400, 403, 404, 405, 410})
# Of these, what says nothing but that there is no such path, or no such deployment.
_NOT_THERE = frozenset({404, 405, 410})


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

    async def alist_model_deployments(self, model_id: str) -> tuple[api.Deployment, ...]:
        """:meth:`list_model_deployments` for an event loop."""
        base = (await self.aget_settings()).models_base
        return await self._acall(calls.list_model_deployments_request(base, model_id), api.read_deployments)

    def list_deployments(self) -> tuple[api.Deployment, ...]:
        """
        Every deployment of the customer. No other way to see a single one is documented.

        :raises UnknownResourceError: the service has another path; the connection's ``deployments_path`` sets it.
        """
        settings = self.get_settings()
        try:
            request = calls.list_deployments_request(_deployments(settings))
            return self._call(request, api.read_deployments)
        except UnknownResourceError as err:
            raise _with_path(err, settings) from None

    async def alist_deployments(self, *, attempts: int | None = None) -> tuple[api.Deployment, ...]:
        """:meth:`list_deployments` for an event loop."""
        settings = await self.aget_settings()
        try:
            request = calls.list_deployments_request(_deployments(settings))
            return await self._acall(request, api.read_deployments, attempts)
        except UnknownResourceError as err:
            raise _with_path(err, settings) from None

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
        :raises UnknownResourceError: no such deployment, or none of the paths is the service's.
        :raises AnswerError: every path was refused; names them.
        """
        settings = self.get_settings()
        refused: list[AnswerError] = []
        for url in _undeployments(settings, deployment_id):
            try:
                return self._call(calls.undeploy_request(url, deployment_id), api.read_undeployment)
            except AnswerError as err:
                refused.append(_wrong_path(err))
        raise _undeploy_refused(deployment_id, refused, settings)

    async def adelete_deployment(self, deployment_id: str) -> str | None:
        """:meth:`delete_deployment` for an event loop."""
        settings = await self.aget_settings()
        refused: list[AnswerError] = []
        for url in _undeployments(settings, deployment_id):
            try:
                return await self._acall(calls.undeploy_request(url, deployment_id), api.read_undeployment)
            except AnswerError as err:
                refused.append(_wrong_path(err))
        raise _undeploy_refused(deployment_id, refused, settings)


def _deployments(settings: LucidworksSettings) -> str:
    return settings.models_path(settings.deployments_path)


def _undeployments(settings: LucidworksSettings, deployment_id: str) -> Iterator[str]:
    segment = path_segment(deployment_id, "deployment_id")
    if segment.casefold() == (settings.customer_id or "").casefold():
        # In the literal reading of the vendor's path it would stand for all deployments of the customer.
        raise InputError(f"deployment_id is {deployment_id!r}, the Customer ID; nothing was deleted.")
    for template in settings.undeploy_paths:
        yield settings.models_path(template, deployment_id=segment)


def _wrong_path(err: AnswerError) -> AnswerError:
    """The error, where another path may do; else it is raised."""
    if err.status in _WRONG_PATH:
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


def _with_path(err: UnknownResourceError, settings: LucidworksSettings) -> UnknownResourceError:
    return UnknownResourceError(
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
