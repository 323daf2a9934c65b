# SPDX-License-Identifier: Apache-2.0
"""
Models and their deployments: train, deploy, undeploy. All of it needs the Customer ID.

.. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-models-api
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain

from lucidworks_provider.client.api import model_calls as calls
from lucidworks_provider.client.api import models as api
from lucidworks_provider.client.api.http import path_segment
from lucidworks_provider.client.endpoint import Call, Exchange, Steps, endpoint
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import AnswerError, InputError

# Statuses of a path or a deployment that does not exist.
_NOT_THERE = frozenset({404, 405, 410})


def list_models() -> Call[tuple[api.Model, ...]]:
    """
    Every model, pre-trained and custom.

    :raises ConfigurationError: the connection has no Customer ID.
    """
    return endpoint(lambda settings: calls.list_models_request(settings.models_base), api.read_models)


def get_model(model_id: str, *, metrics: bool = False) -> Call[api.Model]:
    """
    One model.

    :param metrics: with those of its training.
    :raises UnknownResourceError: no such model.
    """
    return endpoint(
        lambda settings: calls.get_model_request(settings.models_base, model_id, metrics=metrics),
        api.read_model,
    )


def create_model(
    training: calls.TrainingSpec, credentials: Mapping[str, str] | None = None
) -> Call[api.Model]:
    """
    Start to train a model. It cannot be changed or deleted afterwards.

    Never in a trigger: a restarted trigger would train again.

    :param credentials: ``{"serviceAccountKey": …}`` for the training data; never logged, never stored.
    :raises SubmissionUnknownError: sent, and no response came: a model of that name may exist.
    """
    _check_credentials(credentials)
    return endpoint(
        lambda settings: calls.create_model_request(settings.models_base, training, credentials),
        api.read_model,
    )


def list_model_deployments(model_id: str) -> Call[tuple[api.Deployment, ...]]:
    """The deployments of a model."""
    return endpoint(
        lambda settings: calls.list_model_deployments_request(settings.models_base, model_id),
        api.read_deployments,
    )


def list_deployments() -> Call[tuple[api.Deployment, ...]]:
    """
    Every deployment of the customer. No other way to see a single one is documented.

    If the service refuses this list, the lists of all models are combined.

    :raises AnswerError: both were refused; the connection's ``deployments_path`` sets another path.
    """
    return Call(_every_deployment)


def create_deployment(placement: calls.DeploymentSpec) -> Call[api.Deployment]:
    """
    Start to deploy a model. Never in a trigger.

    :raises SubmissionUnknownError: sent, and no response came: a deployment may exist.
    """
    return endpoint(
        lambda settings: calls.deploy_request(_deployments(settings), placement), api.read_deployment
    )


def delete_deployment(deployment_id: str) -> Call[str | None]:
    """
    Start to delete a deployment.

    The vendor's pages disagree about the path. Without the connection's ``undeploy_path``, two paths are tried,
    neither of which can name more than this deployment.

    :return: the state in the response, if there is one.
    :raises InputError: the id names no single deployment; nothing is sent.
    :raises UnknownResourceError: no such deployment, or none of the paths is the service's.
    :raises AnswerError: every path was refused; names them.
    """
    return Call(partial(_deletion, deployment_id=deployment_id))


def _every_deployment(settings: LucidworksSettings) -> Steps[tuple[api.Deployment, ...]]:
    try:
        listed: tuple[api.Deployment, ...] = yield Exchange(
            calls.list_deployments_request(_deployments(settings)), api.read_deployments
        )
    except AnswerError as err:
        refused = _wrong_path(err)
    else:
        return listed
    try:
        models = yield Exchange(calls.list_models_request(settings.models_base), api.read_models)
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
) -> Steps[tuple[api.Deployment, ...] | None]:
    """The list of a model; if it is refused, the deployments within the model, or None."""
    request = calls.list_model_deployments_request(settings.models_base, model.id)
    try:
        listed = yield Exchange(request, api.read_deployments)
    except AnswerError as err:
        _wrong_path(err)
        return model.deployments if "deployments" in model.sent else None
    return api.deployments_of(model.id, listed)


def _deletion(settings: LucidworksSettings, deployment_id: str) -> Steps[str | None]:
    refused: list[AnswerError] = []
    for url in _undeployments(settings, deployment_id):
        try:
            state: str | None = yield Exchange(
                calls.undeploy_request(url, deployment_id), api.read_undeployment
            )
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
        # A gateway may strip such characters, which would leave a path without a deployment.
        raise InputError(
            f"deployment_id is {deployment_id!r}, which names no deployment; nothing was deleted."
        )
    if deployment_id.strip().casefold() == (settings.customer_id or "").casefold():
        # In the documented path it would mean all deployments of the customer.
        raise InputError(f"deployment_id is {deployment_id!r}, the Customer ID; nothing was deleted.")
    for template in settings.undeploy_paths:
        yield settings.models_path(template, deployment_id=segment)


def _wrong_path(err: AnswerError) -> AnswerError:
    """
    Return the error if another path may work; raise it otherwise.

    A 401 is about the token and a 429 about the rate limit. Any other 4xx may be a gateway's for an unknown path.
    """
    if 400 <= err.status < 500 and err.status not in {401, 429}:
        return err
    raise err


def _undeploy_refused(
    deployment_id: str, refused: list[AnswerError], settings: LucidworksSettings
) -> AnswerError:
    """An error with each path and its status, of the most specific class."""
    specific = next((err for err in refused if err.status not in _NOT_THERE), refused[0])
    tried = "; ".join(
        f"DELETE {path}: HTTP {err.status}"
        for path, err in zip(settings.undeploy_paths, refused, strict=True)
    )
    return type(specific)(
        f"{str(specific).rstrip('.')}. Tried {tried}. Either there is no deployment {deployment_id}, or the "
        "connection's `undeploy_path` must name the service's path.",
        status=specific.status,
    )


def _with_path(err: AnswerError, settings: LucidworksSettings) -> AnswerError:
    return type(err)(
        f"{str(err).rstrip('.')}. The path was {settings.deployments_path}; the connection's `deployments_path` "
        "sets another.",
        status=err.status,
    )


def _check_credentials(credentials: Mapping[str, str] | None) -> None:
    if credentials is None:
        return
    if not isinstance(credentials, Mapping):
        raise InputError('credentials is no dictionary; write it as {"serviceAccountKey": "…"}.')
    for name, secret in credentials.items():
        if not isinstance(name, str) or not isinstance(secret, str) or not secret.strip():
            raise InputError(f"credentials: {name} must be a text that is not empty.")
