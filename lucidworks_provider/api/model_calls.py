# SPDX-License-Identifier: Apache-2.0
"""
The requests of the Models API, and how a retry finds what an earlier try has made.

The service knows no idempotency key. A model or a deployment is taken for ours when everything that was asked for
is what the service's list shows; what the list leaves out is not known to differ.

Source: section 10 of the API reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lucidworks_provider.api.messages import Request, get, json_body, path_segment, post
from lucidworks_provider.api.models import CREDENTIALS, Deployment, Model, Progress
from lucidworks_provider.api.options import whole
from lucidworks_provider.api.scopes import MODEL_SCOPE
from lucidworks_provider.api.secrets import is_secret_name
from lucidworks_provider.errors import InputError


@dataclass(frozen=True, slots=True)
class Training:
    """
    What is asked for when a model is trained; validated when made.

    :param name: to recognise the model by; need not be unique for the service.
    :param model_type: e.g. ``ecommerce-rnn``; the vendor's console lists them.
    :param training_data: addresses of ``catalog`` and ``signals``.
    :param region: where it is trained.
    :param config: the trainer's options, flat, with dots in their names.
    :raises InputError: names the field and what it may be.
    """

    name: str
    model_type: str
    training_data: Mapping[str, Any]
    region: str | None = None
    config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _text(self.name, "name")
        _text(self.model_type, "model_type")
        if self.region is not None:
            _text(self.region, "region")
        if not isinstance(self.training_data, Mapping) or not self.training_data:
            raise InputError(
                f"training_data is {self.training_data!r}; give a dictionary with 'catalog' and 'signals'."
            )
        for name, value in self.training_data.items():
            _text(value, f"training_data: {name}")
        _dictionary(self.config, "config")

    def as_json(self) -> dict[str, Any]:
        """The fields as they are sent, without credentials."""
        return _given(
            name=self.name,
            modelType=self.model_type,
            region=self.region,
            trainingData=dict(self.training_data),
            config=None if self.config is None else dict(self.config),
        )

    def made(self, model: Model) -> bool:
        """Whether a model is what this asks for, as far as the service's list shows it."""
        return model.name == self.name.strip() and _agrees(self.as_json(), model.sent)


@dataclass(frozen=True, slots=True)
class Placement:
    """
    What is asked for when a model is deployed; validated when made.

    :param region: where it is to run.
    :param config: free options of the deployment.
    :param min_replicas: at least so many copies.
    :param max_replicas: at most so many.
    :raises InputError: names the field and what it may be.
    """

    model_id: str
    region: str | None = None
    config: Mapping[str, Any] | None = None
    min_replicas: int = 1
    max_replicas: int = 1

    def __post_init__(self) -> None:
        path_segment(self.model_id, "model_id")
        if self.region is not None:
            _text(self.region, "region")
        _dictionary(self.config, "config")
        for name, value in (("min_replicas", self.min_replicas), ("max_replicas", self.max_replicas)):
            try:
                object.__setattr__(self, name, whole(1)[1](value))
            except ValueError:
                raise InputError(f"{name} is {value!r}; give a whole number from 1.") from None
        if self.min_replicas > self.max_replicas:
            raise InputError(
                f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}; swap them."
            )

    def as_json(self) -> dict[str, Any]:
        """The fields as they are sent."""
        return _given(
            modelId=self.model_id,
            region=self.region,
            config=None if self.config is None else dict(self.config),
            minReplicas=self.min_replicas,
            maxReplicas=self.max_replicas,
        )

    def made(self, deployment: Deployment) -> bool:
        """Whether a deployment is what this asks for, as far as the service's list shows it."""
        return _agrees(self.as_json(), deployment.sent)


def find_model(models: Iterable[Model], training: Training) -> Model | None:
    """
    The model that a training has made already: one that is ready before one that is not, the latest first.

    One that failed is not taken: a retry trains again.
    """
    made = [one for one in models if one.progress is not Progress.FAILED and training.made(one)]
    ready = [one for one in made if one.progress is Progress.READY]
    return max(ready or made, key=lambda one: one.training_started or "", default=None)


def find_deployment(deployments: Iterable[Deployment], placement: Placement) -> Deployment | None:
    """The deployment that was made already, ready ones first; failed and vanishing ones are not taken."""
    wanted = (Progress.READY, Progress.RUNNING)
    made = [one for one in deployments if one.progress in wanted and placement.made(one)]
    ready = [one for one in made if one.progress is Progress.READY]
    return max(ready or made, key=lambda one: one.deployed_at or "", default=None)


def list_models_request(base: str) -> Request:
    """Build ``GET /customers/{CUSTOMER_ID}/ai/models``."""
    return get("List models", f"{base}/models", endpoint="list_models", scope=MODEL_SCOPE)


def get_model_request(base: str, model_id: str, *, metrics: bool = False) -> Request:
    """Build ``GET …/models/{MODEL_ID}``."""
    url = f"{base}/models/{path_segment(model_id, 'model_id')}"
    asked = {"metrics": "true"} if metrics else {}
    return get(f"Get model {model_id}", url, endpoint="get_model", scope=MODEL_SCOPE, **asked)


def create_model_request(base: str, training: Training, credentials: Mapping[str, str] | None) -> Request:
    """Build ``POST …/models``, which starts the training."""
    body = training.as_json()
    if credentials:
        body[CREDENTIALS] = dict(credentials)
    return post(
        f"Train model {training.name}",
        f"{base}/models",
        body,
        endpoint="create_model",
        replayable=False,
        scope=MODEL_SCOPE,
        secrets=tuple((credentials or {}).values()),
    )


def list_model_deployments_request(base: str, model_id: str) -> Request:
    """Build ``GET …/models/{MODEL_ID}/deployments``."""
    url = f"{base}/models/{path_segment(model_id, 'model_id')}/deployments"
    name = f"List deployments of model {model_id}"
    return get(name, url, endpoint="list_model_deployments", scope=MODEL_SCOPE)


def list_deployments_request(url: str) -> Request:
    """Build ``GET …/deployments``."""
    return get("List deployments", url, endpoint="list_deployments", scope=MODEL_SCOPE)


def deploy_request(url: str, placement: Placement) -> Request:
    """Build ``POST …/deployments``."""
    name = f"Deploy model {placement.model_id}"
    body = placement.as_json()
    return post(name, url, body, endpoint="create_deployment", replayable=False, scope=MODEL_SCOPE)


def undeploy_request(url: str, deployment_id: str) -> Request:
    """Build the DELETE of a deployment. Doing it twice does no harm."""
    return Request(
        name=f"Delete deployment {deployment_id}",
        method="DELETE",
        url=url,
        replayable=True,
        endpoint="delete_deployment",
        scope=MODEL_SCOPE,
        headers={"Accept": "application/json"},
    )


def _agrees(wanted: Mapping[str, Any], shown: Mapping[str, Any]) -> bool:
    """Whether no field differs; one that the list leaves out, as older pages show it, is not known to differ."""
    return all(
        shown.get(name) in (None, "", {}, [])
        or _is_part(value, shown[name])
        or (name == "modelId" and str(value).strip().lower() == str(shown[name]).lower())  # UUIDs have none
        for name, value in wanted.items()
        if name != "name"
    )


def _is_part(wanted: object, shown: object) -> bool:
    """Whether everything is there. An option more in a configuration that is shown is another configuration."""
    if isinstance(wanted, Mapping):
        return isinstance(shown, Mapping) and all(
            # What looks like a key is not kept of a list.
            value is None or is_secret_name(name) or (name in shown and _is_part(value, shown[name]))
            for name, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(shown, list | tuple)
            and len(wanted) == len(shown)
            and all(map(_is_part, wanted, shown))
        )
    if isinstance(wanted, str) and isinstance(shown, str):
        return wanted.strip() == shown.strip()  # addresses of training data have a case
    # `vectorSize` is a text in one example and a number in another; so may others be.
    return _plain(wanted) == _plain(shown)


def _plain(value: object) -> object:
    said = str(value).strip().lower()
    try:
        return said if isinstance(value, bool) else float(said)
    except ValueError:
        return said


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _text(value: object, what: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{what} is {value!r}; give a text.")


def _dictionary(value: object, what: str) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise InputError(f"{what} is {value!r}, which is no dictionary.")
    try:
        json_body(value)
    except (TypeError, ValueError, RecursionError) as err:
        raise InputError(f"{what} cannot be written as JSON: {err}.") from None
