# SPDX-License-Identifier: Apache-2.0
"""
What the Models API shows: models, their deployments, and what their states mean.

Answers are read leniently, for no page shows all of them: a list is an array or an object that holds one, a
field that is missing is None, and whatever else is there is kept in ``sent``. Keys of third parties are not kept.

==================================  ======================================================================
state of a model                    progress
==================================  ======================================================================
AVAILABLE                           READY: trained, and can be deployed; the only one that is documented
contains FAIL or ERROR              FAILED
anything else                       RUNNING
==================================  ======================================================================

==================================  ======================================================================
state of a deployment               progress
==================================  ======================================================================
DEPLOYED                            READY: predictions can use it
contains FAIL or ERROR              FAILED
DELETING, DELETED                   GOING; its record disappears in the end
anything else                       RUNNING
==================================  ======================================================================

Source: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-models-api, and section 10 of the API
reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeVar

from lucidworks_provider.api.messages import Answer, check_status, excerpt, parse_json, scrub
from lucidworks_provider.errors import MalformedAnswerError

T = TypeVar("T")

AVAILABLE = "AVAILABLE"
DEPLOYED = "DEPLOYED"
DELETED = "DELETED"
DELETING = "DELETING"

CREDENTIALS_FIELD = "trainingDataCredentials"
# What may hold somebody's key, in whatever spelling and however deep.
_SECRET_PARTS = ("credential", "serviceaccount", "apikey", "password", "secret", "privatekey")
# Where the service may say why something failed; none of these fields is documented.
_REASONS = ("message", "reason", "errorMessage", "failureReason", "statusMessage", "error")
_LONGEST_REASON = 300


class Progress(Enum):
    """What a state means for who waits."""

    READY = "ready"
    RUNNING = "running"
    FAILED = "failed"
    GOING = "going"


@dataclass(frozen=True, slots=True)
class Model:
    """
    A model as the service shows it; what it leaves out is None or empty.

    :param id: of a custom model a UUID. Predictions take the id of its deployment instead.
    :param name: custom models only; not unique, as far as is documented.
    :param category: tells pre-trained from custom models; its values are not documented.
    :param vector_size: of its embeddings; sent as a text or a number.
    :param training_started: a date-time, as sent.
    :param deployments: of this model; the service shows their id, region, state and time.
    :param metrics: where they were asked for; their names are not documented.
    :param sent: all fields, unknown ones too, without credentials.
    """

    id: str
    name: str | None = None
    category: str | None = None
    model_type: str | None = None
    description: str | None = None
    region: str | None = None
    vector_size: int | None = None
    training_data: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    state: str | None = None
    training_started: str | None = None
    training_completed: str | None = None
    created_by: str | None = None
    deployments: tuple[Deployment, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    sent: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def progress(self) -> Progress:
        """What its state means."""
        return model_progress(self.state)


@dataclass(frozen=True, slots=True)
class Deployment:
    """
    A deployment as the service shows it; what it leaves out is None or empty.

    :param id: **the MODEL_ID of predictions and chunking**.
    :param model_id: the custom model that is deployed.
    :param deployed_at: a date-time, as sent.
    :param sent: all fields, unknown ones too, without credentials.
    """

    id: str
    model_id: str | None = None
    region: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    min_replicas: int | None = None
    max_replicas: int | None = None
    state: str | None = None
    deployed_at: str | None = None
    created_by: str | None = None
    sent: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def progress(self) -> Progress:
        """What its state means."""
        return deployment_progress(self.state)


def model_progress(state: str | None) -> Progress:
    """The first table above."""
    return _progress(state, AVAILABLE)


def deployment_progress(state: str | None) -> Progress:
    """The second table above."""
    if (state or "").upper() in {DELETING, DELETED}:
        return Progress.GOING
    return _progress(state, DEPLOYED)


def reason_of(shown: Model | Deployment) -> str:
    """What the service says about a failure, in whatever field; empty where it says nothing."""
    for name in _REASONS:
        value = shown.sent.get(name)
        if isinstance(value, str) and value.strip():
            return scrub(value.strip())[:_LONGEST_REASON]
    return ""


def moment(text: str | None) -> float:
    """A date-time as seconds since the epoch, for sorting; what cannot be read comes before all others."""
    try:
        read = datetime.fromisoformat(text or "")
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return -math.inf


def read_models(answer: Answer, name: str) -> tuple[Model, ...]:
    """
    Read a list of models.

    :param name: the request's, for messages.
    :raises AnswerError: one of its subclasses, by the status or the body.
    """
    return _each(answer, name, _model)


def read_model(answer: Answer, name: str) -> Model:
    """Read one model; raises what :func:`read_models` raises."""
    return _one(answer, name, _model)


def read_deployments(answer: Answer, name: str) -> tuple[Deployment, ...]:
    """Read a list of deployments; raises what :func:`read_models` raises."""
    return _each(answer, name, _deployment)


def read_deployment(answer: Answer, name: str) -> Deployment:
    """Read one deployment; raises what :func:`read_models` raises."""
    return _one(answer, name, _deployment)


def read_undeployed(answer: Answer, name: str) -> Deployment | None:
    """Read the answer to a deletion, which has happened whatever the answer looks like."""
    check_status(answer, name)
    decoded = parse_json(answer.body)
    return _deployment(decoded) if isinstance(decoded, Mapping) else None


def _progress(state: str | None, ready: str) -> Progress:
    said = (state or "").upper()
    if said == ready:
        return Progress.READY
    return Progress.FAILED if "FAIL" in said or "ERROR" in said else Progress.RUNNING


def _model(sent: Mapping[str, Any]) -> Model | None:
    if (model_id := _text(sent, "id")) is None:
        return None
    shown = _without_credentials(sent)
    deployments = shown.get("deployments")
    objects = [one for one in deployments if isinstance(one, Mapping)] if _is_list(deployments) else []
    return Model(
        id=model_id,
        name=_text(shown, "name"),
        category=_text(shown, "category"),
        model_type=_text(shown, "modelType"),
        description=_text(shown, "description"),
        region=_text(shown, "region"),
        vector_size=_whole(shown, "vectorSize"),
        training_data=_mapping(shown, "trainingData"),
        config=_mapping(shown, "config"),
        state=_text(shown, "state"),
        training_started=_text(shown, "trainingStarted"),
        training_completed=_text(shown, "trainingCompleted"),
        created_by=_text(shown, "createdBy"),
        deployments=tuple(found for one in objects if (found := _deployment(one)) is not None),
        metrics=_mapping(shown, "metrics"),
        sent=shown,
    )


def _deployment(sent: Mapping[str, Any]) -> Deployment | None:
    if (deployment_id := _text(sent, "id")) is None:
        return None
    shown = _without_credentials(sent)
    return Deployment(
        id=deployment_id,
        model_id=_text(shown, "modelId"),
        region=_text(shown, "region"),
        config=_mapping(shown, "config"),
        min_replicas=_whole(shown, "minReplicas"),
        max_replicas=_whole(shown, "maxReplicas"),
        state=_text(shown, "state"),
        deployed_at=_text(shown, "deployedAt"),
        created_by=_text(shown, "createdBy"),
        sent=shown,
    )


def _one(answer: Answer, name: str, read: Callable[[Mapping[str, Any]], T | None]) -> T:
    decoded = _decoded(answer, name)
    if not isinstance(decoded, Mapping):
        raise _malformed(answer, name, f"a {_kind(decoded)} instead of an object")
    if (found := read(decoded)) is None:
        raise _malformed(answer, name, "an object without an `id`")
    return found


def _each(answer: Answer, name: str, read: Callable[[Mapping[str, Any]], T | None]) -> tuple[T, ...]:
    decoded = _decoded(answer, name)
    if isinstance(decoded, Mapping):
        arrays = [value for value in decoded.values() if isinstance(value, list)]
        if len(arrays) != 1:
            raise _malformed(answer, name, f"an object with {len(arrays)} arrays instead of one array")
        decoded = arrays[0]
    if not isinstance(decoded, list):
        raise _malformed(answer, name, f"a {_kind(decoded)} instead of an array")
    for index, one in enumerate(decoded):
        if not isinstance(one, Mapping):
            raise _malformed(answer, name, f"an array whose element {index} is a {_kind(one)}")
    # One that has no id cannot be meant by anybody; none that has one would look like an empty list.
    found = tuple(each for one in decoded if (each := read(one)) is not None)
    if decoded and not found:
        raise _malformed(answer, name, "an array of objects without an `id`")
    return found


def _decoded(answer: Answer, name: str) -> Any:
    check_status(answer, name)
    decoded = parse_json(answer.body)
    if decoded is None:
        raise _malformed(answer, name, "no JSON")
    return decoded


def _malformed(answer: Answer, name: str, what: str) -> MalformedAnswerError:
    # What follows the name of the credentials may be a key, and a broken answer cannot be searched for it.
    start = excerpt(answer.body.partition(CREDENTIALS_FIELD.encode())[0])
    return MalformedAnswerError(
        f"{name}: HTTP {answer.status} with a body that holds {what}. It starts: {start!r}",
        status=answer.status,
    )


def _without_credentials(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_credentials(one) for name, one in value.items() if not _is_secret(name)}
    if isinstance(value, list):
        return [_without_credentials(one) for one in value]
    return value


def _is_secret(name: str) -> bool:
    plain = name.lower().replace("_", "").replace("-", "")
    return any(part in plain for part in _SECRET_PARTS)


def _text(shown: Mapping[str, Any], name: str) -> str | None:
    value = shown.get(name)
    return value.strip() or None if isinstance(value, str) else None


def _whole(shown: Mapping[str, Any], name: str) -> int | None:
    value = shown.get(name)
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if math.isfinite(number) and number.is_integer() else None


def _mapping(shown: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = shown.get(name)
    return value if isinstance(value, Mapping) else {}


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _kind(value: object) -> str:
    names = {dict: "object", list: "array", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), "null")
