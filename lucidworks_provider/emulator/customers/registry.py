# SPDX-License-Identifier: Apache-2.0
"""
Models and deployments, whose states follow the emulator's clock (sections 10.4 and 10.5).

::

    model       TRAINING ── training_seconds ──► AVAILABLE │ TRAIN_FAILED
    deployment  DEPLOYING ── deploy_seconds ──► DEPLOYED │ DEPLOY_FAILED
                any ── delete ──► DELETING ── undeploy_seconds ──► gone │ DELETE_FAILED

Of the states of a model only AVAILABLE is documented; the other names are assumptions [A]. A test may force
any text as a state, which then stays until it forces another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from lucidworks_provider.emulator.models import PRE_TRAINED

AVAILABLE, TRAINING, TRAIN_FAILED = "AVAILABLE", "TRAINING", "TRAIN_FAILED"
DEPLOYED, DEPLOYING, DEPLOY_FAILED = "DEPLOYED", "DEPLOYING", "DEPLOY_FAILED"
DELETED, DELETING, DELETE_FAILED = "DELETED", "DELETING", "DELETE_FAILED"


def _new_id() -> str:
    return str(uuid4())


@dataclass(frozen=True)
class ModelOrder:
    """A valid request to train a model."""

    name: str
    training_data: Mapping[str, str]
    model_type: str | None = None
    region: str | None = None
    config: Mapping[str, Any] | None = None
    credentials: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass
class Model:
    """One model; a pre-trained one has no order and never trains."""

    model_id: str
    order: ModelOrder | None = None
    started: float = 0.0
    completed: float = 0.0
    fails: bool = False
    created_by: str | None = None
    forced: str | None = None

    def state(self, now: float) -> str:
        """Return the state at a time."""
        if self.forced is not None:
            return self.forced
        if now < self.completed:
            return TRAINING
        return TRAIN_FAILED if self.fails else AVAILABLE


@dataclass(frozen=True)
class DeploymentOrder:
    """A valid request to deploy a model."""

    model_id: str
    region: str
    config: Mapping[str, Any]
    min_replicas: int
    max_replicas: int


@dataclass
class Deployment:
    """One deployment; ``gone_at`` is set by its deletion."""

    order: DeploymentOrder
    ready_at: float
    fails: bool = False
    created_by: str | None = None
    gone_at: float | None = None
    stays: bool = False
    forced: str | None = None
    deployment_id: str = field(default_factory=_new_id)

    def state(self, now: float) -> str:
        """Return the state at a time; DELETED stands for a record that is to disappear."""
        if self.forced is not None:
            return self.forced
        if self.gone_at is not None:
            if now < self.gone_at:
                return DELETING
            return DELETE_FAILED if self.stays else DELETED
        if now < self.ready_at:
            return DEPLOYING
        return DEPLOY_FAILED if self.fails else DEPLOYED


class Registry:
    """All models and deployments of one emulator, in order of creation."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._models = {name: Model(name) for name in PRE_TRAINED}
        self._deployments: dict[str, Deployment] = {}

    def train(self, order: ModelOrder, *, seconds: float, fails: bool, created_by: str | None) -> Model:
        """Start a training."""
        now = self._clock()
        model = Model(_new_id(), order, now, now + seconds, fails, created_by)
        self._models[model.model_id] = model
        return model

    def models(self) -> list[Model]:
        """Return every model."""
        return list(self._models.values())

    def model(self, model_id: str) -> Model | None:
        """Return a model."""
        return self._models.get(model_id) or self._models.get(model_id.lower())

    def forget_model(self, model_id: str) -> None:
        """Drop a model; its deployments stay."""
        self._models.pop(model_id, None)

    def deploy(
        self, order: DeploymentOrder, *, seconds: float, fails: bool, created_by: str | None
    ) -> Deployment:
        """Start a deployment."""
        deployment = Deployment(order, self._clock() + seconds, fails, created_by)
        self._deployments[deployment.deployment_id] = deployment
        return deployment

    def deployments(self, model_id: str | None = None) -> list[Deployment]:
        """Return the deployments, all or those of a model, without those whose deletion is over."""
        now = self._clock()
        for one in list(self._deployments.values()):
            if one.forced is None and one.state(now) == DELETED:
                self.forget_deployment(one.deployment_id)
        return [one for one in self._deployments.values() if model_id in {None, one.order.model_id}]

    def deployment(self, deployment_id: str) -> Deployment | None:
        """Return a deployment."""
        wanted = deployment_id.lower()
        return next((one for one in self.deployments() if one.deployment_id == wanted), None)

    def forget_deployment(self, deployment_id: str) -> None:
        """Drop a deployment."""
        self._deployments.pop(deployment_id, None)

    def undeploy(self, deployment: Deployment, *, seconds: float, fails: bool) -> None:
        """Begin a deletion, unless one is under way."""
        deployment.forced = None
        if deployment.state(self._clock()) != DELETING:
            deployment.gone_at, deployment.stays = self._clock() + seconds, fails

    def live(self) -> list[str]:
        """Return the ids of the deployments that serve predictions."""
        if not self._deployments:
            return []
        now = self._clock()
        return [one.deployment_id for one in self.deployments() if one.state(now) == DEPLOYED]
