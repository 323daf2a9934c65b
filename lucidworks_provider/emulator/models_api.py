# SPDX-License-Identifier: Apache-2.0
"""
Models and deployments, whose states follow the emulator's clock (sections 10.4 and 10.5).

::

    model       TRAINING ── training_seconds ──► AVAILABLE │ TRAIN_FAILED
    deployment  DEPLOYING ── deploy_seconds ──► DEPLOYED │ DEPLOY_FAILED
                any ── delete ──► DELETING ── undeploy_seconds ──► gone │ DELETE_FAILED

Of the states of a model only AVAILABLE is documented; the other names are assumptions [A]. A test may force
any text as a state, which then stays until it forces another one.

Which fields of a request are required is not documented [A]: a model needs a name and training data, a deployment a
model. The schema of *deploy* was not found; its fields are those of the response [A]. Keys are not shown unless the
settings say so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from starlette.responses import JSONResponse, Response

from lucidworks_provider.emulator.errors import ApiError
from lucidworks_provider.emulator.models import CUSTOM_MODEL_SIZE, PRE_TRAINED
from lucidworks_provider.emulator.rules import (
    Default,
    InvalidValue,
    Rule,
    boolean,
    check,
    integer,
    number,
    required,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lucidworks_provider.emulator.calls import Call
    from lucidworks_provider.emulator.settings import EmulatorSettings

AVAILABLE, TRAINING, TRAIN_FAILED = "AVAILABLE", "TRAINING", "TRAIN_FAILED"
DEPLOYED, DEPLOYING, DEPLOY_FAILED = "DEPLOYED", "DEPLOYING", "DEPLOY_FAILED"
DELETED, DELETING, DELETE_FAILED = "DELETED", "DELETING", "DELETE_FAILED"


@dataclass
class Model:
    """One model; a pre-trained one has no order and never trains."""

    model_id: str
    order: Mapping[str, Any] | None = field(default=None, repr=False)
    started: float = 0.0
    completed: float = 0.0
    fails: bool = False
    created_by: str | None = None
    forced: str | None = None

    def state(self, now: float) -> str:
        if self.forced is not None:
            return self.forced
        if now < self.completed:
            return TRAINING
        return TRAIN_FAILED if self.fails else AVAILABLE


@dataclass
class Deployment:
    """One deployment; ``gone_at`` is set by its deletion."""

    order: Mapping[str, Any]
    ready_at: float
    fails: bool = False
    created_by: str | None = None
    gone_at: float | None = None
    stays: bool = False
    forced: str | None = None
    deployment_id: str = field(default_factory=lambda: str(uuid4()))

    def state(self, now: float) -> str:
        """Return the state at a time; DELETED: the record is about to disappear."""
        if self.forced is not None:
            return self.forced
        if self.gone_at is not None:
            if now < self.gone_at:
                return DELETING
            return DELETE_FAILED if self.stays else DELETED
        if now < self.ready_at:
            return DEPLOYING
        return DEPLOY_FAILED if self.fails else DEPLOYED

    def delete(self, now: float, *, seconds: float, fails: bool) -> None:
        """Begin a deletion, unless one is active."""
        self.forced = None
        if self.state(now) != DELETING:
            self.gone_at, self.stays = now + seconds, fails


class ResourceRegistry:
    """All models and deployments of one emulator, in order of creation."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._models = {name: Model(name) for name in PRE_TRAINED}
        self._deployments: dict[str, Deployment] = {}

    def add(self, made: Model | Deployment) -> None:
        if isinstance(made, Model):
            self._models[made.model_id] = made
        else:
            self._deployments[made.deployment_id] = made

    def models(self) -> list[Model]:
        return list(self._models.values())

    def model(self, model_id: str) -> Model | None:
        return self._models.get(model_id.lower())

    def deployments(self, model_id: str | None = None) -> list[Deployment]:
        """Return the deployments, all or those of a model, without those whose deletion is over."""
        now = self._clock()
        for one in list(self._deployments.values()):
            if one.forced is None and one.state(now) == DELETED:
                del self._deployments[one.deployment_id]
        return [one for one in self._deployments.values() if model_id in {None, one.order["modelId"]}]

    def deployment(self, deployment_id: str) -> Deployment | None:
        return next((one for one in self.deployments() if one.deployment_id == deployment_id.lower()), None)

    def forget(self, id_: str) -> None:
        """Drop a model, whose deployments stay, or a deployment."""
        self._models.pop(id_, None)
        self._deployments.pop(id_, None)

    def live(self) -> list[str]:
        now = self._clock()
        return [one.deployment_id for one in self.deployments() if one.state(now) == DEPLOYED]


def _flat(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        raise InvalidValue(f"{name}: the object is flat, so no object is accepted here.")
    return value


# The keys that the example of `config` shows, by type; others are let through, for the list may be longer.
_TRAINING_CONFIG: Mapping[str, Rule] = {
    "dataset_config": text,
    "trainer_config": text,
    "trainer_config/text_processor_config": text,
    "trainer_config.trn_batch_size": integer(1),
    "trainer_config.num_epochs": integer(1),
    "trainer_config.monitor_patience": integer(1),
    "trainer_config.encoder_config.rnn_names_list": [text],
    "trainer_config.encoder_config.rnn_units_list": [integer(1)],
    "trainer_config.encoder_config.emb_spdp": number(0, 1),
    "trainer_config.encoder_config.emb_trainable": boolean,
}


def _training_config(name: str, value: Any) -> Mapping[str, Any]:
    """Check the flat object whose keys contain dots and once a slash."""
    others = dict.fromkeys(value, _flat) if isinstance(value, dict) else {}
    config: Mapping[str, Any] = check(name, value, {**others, **_TRAINING_CONFIG})
    return config


def _free_json(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValue(f"{name}: an object is required.")
    return value


_MODEL: Mapping[str, Rule | Default] = {
    "name": required(text),
    "modelType": text,
    "region": text,
    "trainingData": required({"catalog": text, "signals": text}),
    "config": _training_config,
    "trainingDataCredentials": {"serviceAccountKey": required(text)},
}
_DEPLOYMENT: Mapping[str, Rule | Default] = {
    "modelId": required(text),
    "region": Default(text, "us-southcarolina"),  # the region of the examples
    "config": Default(_free_json, {}),
    # The documented default of both is 1.
    "minReplicas": Default(integer(1), 1),
    "maxReplicas": Default(integer(1), 1),
}


def model_json(
    model: Model, deployments: Sequence[Deployment], now: float, settings: EmulatorSettings
) -> dict[str, object]:
    """Return a model; the values of ``category`` are not seen [A], nor is whether null fields are left out."""
    size = CUSTOM_MODEL_SIZE
    shown: dict[str, object] = {
        "id": model.model_id,
        "category": "PRE_TRAINED" if model.order is None else "CUSTOM",
        "state": model.state(now),
        "vectorSize": str(size) if settings.vector_size_text else size,
        "deployments": [_short_json(one, now) for one in deployments],
    }
    order = model.order
    if order is None:
        shown["modelType"] = model.model_id  # documented to equal the id
        shown["description"] = f"The pre-trained model {model.model_id}."
        return shown
    ended = shown["state"] in {AVAILABLE, TRAIN_FAILED}
    shown |= {name: order.get(name) for name in ("name", "modelType", "region", "trainingData", "config")}
    shown |= {
        "trainingStarted": _time(model.started),
        "trainingCompleted": _time(min(now, model.completed)) if ended else None,
        "createdBy": model.created_by,
    }
    if settings.echo_credentials:
        shown["trainingDataCredentials"] = order.get("trainingDataCredentials")
    return {name: value for name, value in shown.items() if value is not None}


def metrics_json(model: Model, now: float) -> dict[str, float]:
    """Return made-up metrics of a trained model; no page shows their names [A]."""
    if model.state(now) != AVAILABLE:
        return {}
    first, second = hashlib.blake2b(model.model_id.encode(), digest_size=2).digest()
    return {"hit@5": round(0.6 + first / 1024, 4), "ndcg@5": round(0.5 + second / 1024, 4)}


def deployment_json(deployment: Deployment, now: float) -> dict[str, object]:
    """Return a deployment; only the response to its deletion may have the state DELETED."""
    shown = {**deployment.order, **_short_json(deployment, now), "createdBy": deployment.created_by}
    return {name: value for name, value in shown.items() if value is not None}


def remove_field(shown: object, path: Sequence[str]) -> None:
    """Remove a field, in each object of a list; a path leads into an object or list of objects."""
    if isinstance(shown, list):
        for one in shown:
            remove_field(one, path)
    elif isinstance(shown, dict) and len(path) == 1:
        shown.pop(path[0], None)
    elif isinstance(shown, dict):
        remove_field(shown.get(path[0]), path[1:])


def rewrite(shown: object, texts: Mapping[str, str]) -> object:
    """Show texts in other words, wherever they are values."""
    if isinstance(shown, dict):
        return {name: rewrite(value, texts) for name, value in shown.items()}
    if isinstance(shown, list):
        return [rewrite(one, texts) for one in shown]
    return texts.get(shown, shown) if isinstance(shown, str) else shown


def _short_json(deployment: Deployment, now: float) -> dict[str, object]:
    """Return the fields that a model shows of its deployments."""
    state = deployment.state(now)
    shown: dict[str, object] = {
        "id": deployment.deployment_id,
        "region": deployment.order["region"],
        "state": state,
    }
    if state == DEPLOYED:
        shown["deployedAt"] = _time(min(now, deployment.ready_at))
    return shown


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def list_models(call: Call) -> Response:
    _check_customer(call)
    return _respond(call, [_shown(call, one) for one in call.state.registry.models()])


async def create_model(call: Call) -> Response:
    _check_customer(call)
    order = await call.body(_MODEL)
    if not order["trainingData"]:
        raise InvalidValue("trainingData: a catalog or signals are required.")
    now = call.state.clock()
    model = Model(
        str(uuid4()),
        order,
        started=now,
        completed=now + call.settings.training_seconds,
        fails=call.settings.training_fails,
        created_by=call.record.client_id,
    )
    call.state.registry.add(model)
    call.record.model = model.model_id
    return _respond(call, _shown(call, model))


async def get_model(call: Call) -> Response:
    """Show a model; the shape of the metrics is not documented [A]."""
    model = _model(call)
    metrics = call.request.query_params.get("metrics", "false")
    if metrics not in {"true", "false"}:
        raise InvalidValue("metrics: true or false is required.")
    shown = _shown(call, model)
    if metrics == "true":
        shown["metrics"] = metrics_json(model, call.state.clock())
    return _respond(call, shown)


async def list_model_deployments(call: Call) -> Response:
    model = _model(call)
    return _list(call, call.state.registry.deployments(model.model_id))


async def list_deployments(call: Call) -> Response:
    _check_customer(call)
    return _list(call, call.state.registry.deployments())


async def deploy(call: Call) -> Response:
    """Deploy a model, which has to be trained; pre-trained ones are said to be ready for it."""
    _check_customer(call)
    order = await call.body(_DEPLOYMENT)
    if order["minReplicas"] > order["maxReplicas"]:
        raise InvalidValue("minReplicas: at most maxReplicas, which is 1 unless given, is required.")
    call.record.model = order["modelId"]
    model = call.state.registry.model(order["modelId"])
    now = call.state.clock()
    if model is None:
        raise ApiError(404, "There is no such model.")
    if model.state(now) != AVAILABLE:
        raise ApiError(400, "modelId: the model is not AVAILABLE.")
    deployment = Deployment(
        {**order, "modelId": model.model_id},
        ready_at=now + call.settings.deploy_seconds,
        fails=call.settings.deploy_fails,
        created_by=call.record.client_id,
    )
    call.state.registry.add(deployment)
    call.record.deployment = deployment.deployment_id
    return _respond(call, deployment_json(deployment, now))


async def undeploy(call: Call) -> Response:
    """
    Delete by either path.

    The vendor's own specification has the deployment in the customer's place; no page shows the usual path [A].
    """
    parameters, settings, now = call.request.path_params, call.settings, call.state.clock()
    literal = "deployment_id" not in parameters
    if settings.undeploy_path == ("rest" if literal else "literal"):
        raise ApiError(settings.undeploy_refusal, "There is no such endpoint.")
    if not literal:
        _check_customer(call)
    call.record.deployment = parameters["customer_id" if literal else "deployment_id"]
    deployment = call.state.registry.deployment(call.record.deployment or "")
    if deployment is None:
        raise ApiError(404, "There is no such deployment.")
    deployment.delete(now, seconds=settings.undeploy_seconds, fails=settings.undeploy_fails)
    return _respond(call, deployment_json(deployment, now))


def _respond(call: Call, shown: object) -> Response:
    """Respond with a model or a deployment, or a list of them, less what the switches hide and rewrite."""
    copy = rewrite(shown, call.settings.rewritten_texts)
    for path in call.settings.hidden_fields.get(call.record.endpoint, ()):
        remove_field(copy, path.split("."))
    return JSONResponse(copy)


def _check_customer(call: Call) -> None:
    if call.request.path_params["customer_id"] != call.settings.customer_id:
        raise ApiError(403, "The access token does not belong to this customer.")


def _model(call: Call) -> Model:
    _check_customer(call)
    call.record.model = call.request.path_params["model_id"]
    model = call.state.registry.model(call.record.model or "")
    if model is None:
        raise ApiError(404, "There is no such model.")
    return model


def _shown(call: Call, model: Model) -> dict[str, object]:
    deployments = call.state.registry.deployments(model.model_id)
    return model_json(model, deployments, call.state.clock(), call.settings)


def _list(call: Call, deployments: list[Deployment]) -> Response:
    now = call.state.clock()
    return _respond(call, [deployment_json(one, now) for one in deployments])
