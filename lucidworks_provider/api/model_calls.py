# SPDX-License-Identifier: Apache-2.0
"""
The requests of the Models API.

Host and scope are not those of ``/ai/*``. The paths of deployments are settings: the vendor's pages disagree about
them, and about that of the deletion most of all.

Source: section 10 of the API reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from lucidworks_provider.api.messages import Request, get, path_segment, post
from lucidworks_provider.api.model_orders import DeploymentOrder, ModelOrder, check_credentials
from lucidworks_provider.api.models import CREDENTIALS_FIELD
from lucidworks_provider.api.scopes import MODEL_SCOPE
from lucidworks_provider.errors import AnswerError, InputError

# Statuses after which the next reading of the deletion's path may be the right one.
_WRONG_PATH = frozenset({400, 403, 404, 405, 410})
# Those that say nothing but that there is no such path, or no such deployment.
_NOT_THERE = frozenset({404, 405, 410})


def list_models_request(base: str) -> Request:
    """Ask for all models, pre-trained and custom; there are no pages."""
    return get("List models", f"{base}/models", scope=MODEL_SCOPE)


def get_model_request(base: str, model_id: str, *, metrics: bool = False) -> Request:
    """
    Ask for one model.

    :param metrics: of its training, too.
    """
    asked = {"metrics": "true"} if metrics else {}
    url = f"{base}/models/{path_segment(model_id, 'model_id')}"
    return get(f"Get model {model_id}", url, scope=MODEL_SCOPE, **asked)


def create_model_request(
    base: str, order: ModelOrder, credentials: Mapping[str, str] | None = None
) -> Request:
    """
    Create a model, which starts its training. Not replayable: a second one would train a second model.

    :param credentials: with which the service reads the training data, e.g. ``serviceAccountKey``.
    """
    check_credentials(credentials)
    body = order.body()
    if credentials:
        body[CREDENTIALS_FIELD] = dict(credentials)
    return post(
        f"Create model {order.name!r}",
        f"{base}/models",
        body,
        replayable=False,
        scope=MODEL_SCOPE,
        secrets=tuple((credentials or {}).values()),
    )


def model_deployments_request(base: str, model_id: str) -> Request:
    """Ask for the deployments of a model."""
    url = f"{base}/models/{path_segment(model_id, 'model_id')}/deployments"
    return get(f"List deployments of model {model_id}", url, scope=MODEL_SCOPE)


def list_deployments_request(url: str) -> Request:
    """Ask for all deployments."""
    return get("List deployments", url, scope=MODEL_SCOPE)


def deploy_request(url: str, order: DeploymentOrder) -> Request:
    """Deploy a model. Not replayable: a second one would be a second deployment."""
    return post(f"Deploy model {order.model_id}", url, order.body(), replayable=False, scope=MODEL_SCOPE)


def undeploy_request(url: str, deployment_id: str, customer_id: str | None) -> Request:
    """
    Delete a deployment.

    :param url: one reading of the vendor's pages.
    :param customer_id: one of those readings has the deployment in its place.
    :raises InputError: the URL does not name a deployment, so that it could stand for all of them.
    """
    segment = path_segment(deployment_id, "deployment_id")
    if deployment_id == customer_id or segment not in urlsplit(url).path.split("/"):
        raise InputError(f"deployment_id {deployment_id!r}: {url} names no deployment; nothing was deleted.")
    return Request(
        name=f"Delete deployment {deployment_id}",
        method="DELETE",
        url=url,
        replayable=True,
        scope=MODEL_SCOPE,
        headers={"Accept": "application/json"},
    )


def is_wrong_path(err: AnswerError) -> bool:
    """Whether another reading of the deletion's path may succeed."""
    return err.status in _WRONG_PATH


def no_path_deletes(deployment_id: str, refused: Sequence[tuple[str, AnswerError]]) -> AnswerError:
    """
    The error after every path was refused, of the kind that says most.

    :param refused: each path with its error; at least one.
    """
    telling = next((err for _, err in refused if err.status not in _NOT_THERE), refused[0][1])
    tried = "; ".join(f"DELETE {path}: {_words(err)}" for path, err in refused)
    return type(telling)(
        f"Deployment {deployment_id} was not deleted. Tried {tried}. Either there is no such deployment, or the "
        "service wants another path: set the connection's field `undeploy_path`.",
        status=telling.status,
    )


def _words(err: AnswerError) -> str:
    """An error without the connection and the request, which the sentence around it names."""
    said = str(err).rstrip(".")
    return said[said.find("HTTP ") :] if "HTTP " in said else said
