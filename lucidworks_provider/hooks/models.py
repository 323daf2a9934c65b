# SPDX-License-Identifier: Apache-2.0
"""Models and their deployments, as methods of a hook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lucidworks_provider.api import model_calls as calls
from lucidworks_provider.api import models as api
from lucidworks_provider.api.messages import path_segment
from lucidworks_provider.auth.redaction import hide
from lucidworks_provider.connection import LucidworksSettings
from lucidworks_provider.errors import (
    ForbiddenError,
    LucidworksError,
    RequestRefusedError,
    UnknownResourceError,
)
from lucidworks_provider.hooks.calls import CallingHook

# What a path that is not the service's may be answered with: 404, 405, 400; 403 for another customer's, as it seems.
_WRONG_PATH = (UnknownResourceError, RequestRefusedError, ForbiddenError)


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
        """Every deployment of the customer."""
        url = _deployments(self.get_settings())
        return self._call(calls.list_deployments_request(url), api.read_deployments)

    async def alist_deployments(self, *, attempts: int | None = None) -> tuple[api.Deployment, ...]:
        """:meth:`list_deployments` for an event loop."""
        url = _deployments(await self.aget_settings())
        return await self._acall(calls.list_deployments_request(url), api.read_deployments, attempts)

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
        """
        refused: list[LucidworksError] = []
        for url in _undeployments(self.get_settings(), deployment_id):
            try:
                return self._call(calls.undeploy_request(url, deployment_id), api.read_undeployment)
            except _WRONG_PATH as err:
                refused.append(err)
        raise _undeploy_refused(deployment_id, refused, self.get_settings())

    async def adelete_deployment(self, deployment_id: str) -> str | None:
        """:meth:`delete_deployment` for an event loop."""
        settings = await self.aget_settings()
        refused: list[LucidworksError] = []
        for url in _undeployments(settings, deployment_id):
            try:
                return await self._acall(calls.undeploy_request(url, deployment_id), api.read_undeployment)
            except _WRONG_PATH as err:
                refused.append(err)
        raise _undeploy_refused(deployment_id, refused, settings)


def _deployments(settings: LucidworksSettings) -> str:
    return settings.models_path(settings.deployments_path)


def _undeployments(settings: LucidworksSettings, deployment_id: str) -> Iterator[str]:
    segment = path_segment(deployment_id, "deployment_id")
    for template in settings.undeploy_paths:
        yield settings.models_path(template, deployment_id=segment)


def _undeploy_refused(
    deployment_id: str, refused: list[LucidworksError], settings: LucidworksSettings
) -> LucidworksError:
    # The first path is the usual one; what it says is told, and decides of which kind the error is.
    first = refused[0]
    if len(refused) > 1:
        first.args = (
            f"{str(first).rstrip('.')}. Tried {' and '.join(settings.undeploy_paths)}: either there is no "
            f"deployment {deployment_id}, or `undeploy_path` of the connection must name the service's path.",
            *first.args[1:],
        )
    return first


def _hidden(credentials: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Keep the credentials out of this process's logs from now on."""
    for secret in (credentials or {}).values():
        hide(secret)
    return credentials
