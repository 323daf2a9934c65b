# SPDX-License-Identifier: Apache-2.0
"""How models and deployments look in answers (sections 10.3 and 10.5); a key is never shown unless ordered."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lucidworks_provider.emulator.customers.registry import AVAILABLE, DEPLOYED, TRAIN_FAILED
from lucidworks_provider.emulator.models import CUSTOM_MODEL_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lucidworks_provider.emulator.customers.registry import Deployment, Model
    from lucidworks_provider.emulator.settings import EmulatorSettings


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
    shown |= {
        "name": order.name,
        "modelType": order.model_type,
        "region": order.region,
        "trainingData": dict(order.training_data),
        "config": order.config,
        "trainingStarted": _time(model.started),
        "trainingCompleted": _time(min(now, model.completed)) if ended else None,
        "createdBy": model.created_by,
        "trainingDataCredentials": order.credentials if settings.echo_credentials else None,
    }
    return {name: value for name, value in shown.items() if value is not None}


def metrics_json(model: Model, now: float) -> dict[str, float]:
    """Return made-up metrics of a trained model; no page shows their names [A]."""
    if model.state(now) != AVAILABLE:
        return {}
    first, second = hashlib.blake2b(model.model_id.encode(), digest_size=2).digest()
    return {"hit@5": round(0.6 + first / 1024, 4), "ndcg@5": round(0.5 + second / 1024, 4)}


def deployment_json(deployment: Deployment, now: float, state: str | None = None) -> dict[str, object]:
    """Return a deployment, in a state that only an answer to the deletion has if one is given."""
    order = deployment.order
    shown = {
        **_short_json(deployment, now),
        "modelId": order.model_id,
        "config": order.config,
        "minReplicas": order.min_replicas,
        "maxReplicas": order.max_replicas,
        "createdBy": deployment.created_by,
    }
    if state is not None:
        shown["state"] = state
    return {name: value for name, value in shown.items() if value is not None}


def redact_in_logs(shown: object, path: Sequence[str]) -> None:
    """Remove a field, in each object of a list; a path leads into an object or list of objects."""
    if isinstance(shown, list):
        for one in shown:
            redact_in_logs(one, path)
    elif isinstance(shown, dict) and len(path) == 1:
        shown.pop(path[0], None)
    elif isinstance(shown, dict):
        redact_in_logs(shown.get(path[0]), path[1:])


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
        "region": deployment.order.region,
        "state": state,
    }
    if state == DEPLOYED:
        shown["deployedAt"] = _time(min(now, deployment.ready_at))
    return shown


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
