# SPDX-License-Identifier: Apache-2.0
"""Models and their deployments, as methods of a hook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from lucidworks_provider.api import model_calls as calls
from lucidworks_provider.api import models as api
from lucidworks_provider.api.messages import Answer, Request, path_segment
from lucidworks_provider.api.model_orders import DeploymentOrder, ModelOrder, check_credentials
from lucidworks_provider.auth.redaction import hide
from lucidworks_provider.connection import LucidworksSettings
from lucidworks_provider.errors import AnswerError, UnknownResourceError
from lucidworks_provider.hooks.calls import CallingHook

T = TypeVar("T")


class ModelMethods(CallingHook):
    """
    Models, their training and their deployments. All of it needs the connection's Customer ID.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-models-api
    """

    def list_models(self) -> tuple[api.Model, ...]:
        """
        All models, pre-trained and custom.

        :raises ConfigurationError: the connection has no Customer ID.
        :raises ForbiddenError: the client may not use the Models API.
        """
        return self._read(calls.list_models_request(self.get_settings().models_base), api.read_models)

    async def alist_models(self) -> tuple[api.Model, ...]:
        """:meth:`list_models` for an event loop."""
        return await self._aread(
            calls.list_models_request((await self.aget_settings()).models_base), api.read_models
        )

    def create_model(
        self,
        name: str,
        *,
        model_type: str,
        training_data: Mapping[str, Any],
        region: str | None = None,
        config: Mapping[str, Any] | None = None,
        training_data_credentials: Mapping[str, str] | None = None,
    ) -> api.Model:
        """
        Create a model, which starts its training. The service knows no way to change or to delete one.

        :param name: need not be unique, as far as is documented.
        :param model_type: what is trained, in the vendor's words.
        :param training_data: addresses of the ``catalog`` and the ``signals``.
        :param region: where; the service's default when None.
        :param config: the vendor's flat object, whose keys contain dots.
        :param training_data_credentials: with which the service reads the training data,
            ``{"serviceAccountKey": …}``. Sent, and neither kept nor shown.
        :raises InputError: refused before anything was sent.
        :raises SubmissionUnknownError: sent, and no answer came: a model of this name may be in training.
        """
        order = ModelOrder(name, model_type, training_data, region, config)
        request = calls.create_model_request(
            self.get_settings().models_base, order, _hidden(training_data_credentials)
        )
        return self._read(request, api.read_model)

    async def acreate_model(
        self,
        name: str,
        *,
        model_type: str,
        training_data: Mapping[str, Any],
        region: str | None = None,
        config: Mapping[str, Any] | None = None,
        training_data_credentials: Mapping[str, str] | None = None,
    ) -> api.Model:
        """:meth:`create_model` for an event loop. Never in a trigger: a restarted one would train again."""
        order = ModelOrder(name, model_type, training_data, region, config)
        base = (await self.aget_settings()).models_base
        request = calls.create_model_request(base, order, _hidden(training_data_credentials))
        return await self._aread(request, api.read_model)

    def get_model(self, model_id: str, *, metrics: bool = False, attempts: int | None = None) -> api.Model:
        """
        One model.

        :param metrics: of its training, too.
        :param attempts: how often to ask where the failure may pass.
        :raises UnknownResourceError: no such model.
        """
        base = self.get_settings().models_base
        request = calls.get_model_request(base, model_id, metrics=metrics)
        return self._read(request, api.read_model, attempts)

    async def aget_model(
        self, model_id: str, *, metrics: bool = False, attempts: int | None = None
    ) -> api.Model:
        """:meth:`get_model` for an event loop."""
        base = (await self.aget_settings()).models_base
        request = calls.get_model_request(base, model_id, metrics=metrics)
        return await self._aread(request, api.read_model, attempts)

    def list_model_deployments(self, model_id: str) -> tuple[api.Deployment, ...]:
        """
        The deployments of a model.

        :raises UnknownResourceError: no such model.
        """
        base = self.get_settings().models_base
        return self._read(calls.model_deployments_request(base, model_id), api.read_deployments)

    async def alist_model_deployments(self, model_id: str) -> tuple[api.Deployment, ...]:
        """:meth:`list_model_deployments` for an event loop."""
        base = (await self.aget_settings()).models_base
        return await self._aread(calls.model_deployments_request(base, model_id), api.read_deployments)

    def list_deployments(self, *, attempts: int | None = None) -> tuple[api.Deployment, ...]:
        """
        All deployments. The vendor documents no other way to see a single one.

        :param attempts: how often to ask where the failure may pass.
        :raises UnknownResourceError: the path is another; ``deployments_path`` of the connection changes it.
        """
        settings = self.get_settings()
        request = calls.list_deployments_request(_deployments_url(settings))
        try:
            return self._read(request, api.read_deployments, attempts)
        except UnknownResourceError as err:
            raise _with_path(err, settings) from None

    async def alist_deployments(self, *, attempts: int | None = None) -> tuple[api.Deployment, ...]:
        """:meth:`list_deployments` for an event loop."""
        settings = await self.aget_settings()
        request = calls.list_deployments_request(_deployments_url(settings))
        try:
            return await self._aread(request, api.read_deployments, attempts)
        except UnknownResourceError as err:
            raise _with_path(err, settings) from None

    def create_deployment(
        self,
        model_id: str,
        *,
        region: str | None = None,
        config: Mapping[str, Any] | None = None,
        min_replicas: int = 1,
        max_replicas: int = 1,
    ) -> api.Deployment:
        """
        Deploy a model. **The id of the deployment is the MODEL_ID of predictions and chunking.**

        :param model_id: a model that is AVAILABLE.
        :param region: where; the service's default when None.
        :param config: free JSON for the service.
        :param min_replicas: at least 1.
        :param max_replicas: at least ``min_replicas``.
        :raises InputError: refused before anything was sent.
        :raises SubmissionUnknownError: sent, and no answer came: a deployment may exist.
        """
        order = DeploymentOrder(model_id, region, config, min_replicas, max_replicas)
        request = calls.deploy_request(_deployments_url(self.get_settings()), order)
        return self._read(request, api.read_deployment)

    async def acreate_deployment(
        self,
        model_id: str,
        *,
        region: str | None = None,
        config: Mapping[str, Any] | None = None,
        min_replicas: int = 1,
        max_replicas: int = 1,
    ) -> api.Deployment:
        """:meth:`create_deployment` for an event loop. Never in a trigger: a restarted one would deploy again."""
        order = DeploymentOrder(model_id, region, config, min_replicas, max_replicas)
        request = calls.deploy_request(_deployments_url(await self.aget_settings()), order)
        return await self._aread(request, api.read_deployment)

    def delete_deployment(self, deployment_id: str) -> api.Deployment | None:
        """
        Undeploy.

        The vendor's pages disagree about the path: both readings are tried, or the connection's ``undeploy_path``.

        :return: what the service answers, as a rule the deployment in state DELETED; None where it says nothing.
        :raises UnknownResourceError: every path is unknown, or the deployment is.
        :raises AnswerError: every path was refused; names them.
        """
        settings = self.get_settings()
        refused: list[tuple[str, AnswerError]] = []
        for path, request in _undeploy_requests(settings, deployment_id):
            try:
                return self._read(request, api.read_undeployed)
            except AnswerError as err:
                if not calls.is_wrong_path(err):
                    raise
                refused.append((path, err))
        raise _explained(calls.no_path_deletes(deployment_id, refused), settings)

    async def adelete_deployment(self, deployment_id: str) -> api.Deployment | None:
        """:meth:`delete_deployment` for an event loop. Never in a trigger."""
        settings = await self.aget_settings()
        refused: list[tuple[str, AnswerError]] = []
        for path, request in _undeploy_requests(settings, deployment_id):
            try:
                return await self._aread(request, api.read_undeployed)
            except AnswerError as err:
                if not calls.is_wrong_path(err):
                    raise
                refused.append((path, err))
        raise _explained(calls.no_path_deletes(deployment_id, refused), settings)

    def _read(self, request: Request, read: Callable[[Answer, str], T], attempts: int | None = None) -> T:
        return self._call(request, partial(read, name=request.name), attempts)

    async def _aread(
        self, request: Request, read: Callable[[Answer, str], T], attempts: int | None = None
    ) -> T:
        return await self._acall(request, partial(read, name=request.name), attempts)


def _hidden(credentials: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Keep what is sent out of this process's logs from now on."""
    check_credentials(credentials)
    return None if credentials is None else {name: hide(value) for name, value in credentials.items()}


def _deployments_url(settings: LucidworksSettings) -> str:
    return settings.models_path(settings.deployments_path)


def _undeploy_requests(settings: LucidworksSettings, deployment_id: str) -> Iterator[tuple[str, Request]]:
    segment = path_segment(deployment_id, "deployment_id")
    for path in settings.undeploy_paths:
        url = settings.models_path(path, deployment_id=segment)
        yield path, calls.undeploy_request(url, deployment_id, settings.customer_id)


def _with_path(err: UnknownResourceError, settings: LucidworksSettings) -> UnknownResourceError:
    return UnknownResourceError(
        f"{str(err).rstrip('.')}. The path was {settings.deployments_path}; if the service wants another, set the "
        "connection's field `deployments_path`.",
        status=err.status,
    )


def _explained(err: AnswerError, settings: LucidworksSettings) -> AnswerError:
    return type(err)(f"Connection {settings.conn_id!r}: {err}", status=err.status)
