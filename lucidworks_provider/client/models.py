# SPDX-License-Identifier: Apache-2.0
"""
The Models API: models that are trained, and their deployments.

=====================================  =================================================================
state of a model                       meaning
=====================================  =================================================================
``AVAILABLE``                          trained; can be deployed (``TRAINED`` does not say so)
contains ``FAIL`` or ``ERROR``         failed
in :data:`FAILURE_STATES`              failed
``DELETING``, ``DELETED``              deleted, or about to be
in :data:`RUNNING_STATES`              still running
anything else                          still running; logged as unknown
=====================================  =================================================================

=====================================  =================================================================
state of a deployment                  meaning
=====================================  =================================================================
in :data:`DEPLOYED_STATES`             its id is the MODEL_ID of predictions
contains ``FAIL`` or ``ERROR``         failed
in :data:`FAILURE_STATES`              failed
``DELETING``, ``DELETED``, no record   deleted, or about to be
in :data:`RUNNING_STATES`              still running
anything else                          still running; logged as unknown
=====================================  =================================================================

Only ``AVAILABLE`` and the states of a deployment up to ``DELETE_FAILED`` are documented. Words are compared without
case, ``-`` and a blank are ``_``, and a word of failure may follow another one: ``TRAINING_CANCELLED``.

Source: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-models-api, section 10 of the
API reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from lucidworks_provider.client.http.messages import (
    MODEL_SCOPE,
    Call,
    Exchange,
    Request,
    Response,
    Steps,
    check_status,
    endpoint,
    endpoint_with_hint,
    excerpt,
    get,
    parse_json,
    path_segment,
    post,
    reports_failure,
    vendor_message,
)
from lucidworks_provider.client.options import did_you_mean, is_int
from lucidworks_provider.client.secrets import without_secrets
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import (
    InputError,
    MalformedResponseError,
    RequestRefusedError,
    ResponseError,
    UnknownResourceError,
)

if TYPE_CHECKING:
    from lucidworks_provider.client.model_specs import DeploymentSpec, TrainingSpec

# A service may return them; they are not kept.
CREDENTIALS = "trainingDataCredentials"

T = TypeVar("T")


class Progress(Enum):
    """What a state means."""

    RUNNING = "running"
    READY = "ready"
    FAILED = "failed"
    GONE = "gone"


AVAILABLE_STATES = frozenset({"AVAILABLE"})
DEPLOYED_STATES = frozenset({"DEPLOYED", "ACTIVE", "SERVING"})
DELETED_STATES = frozenset({"DELETING", "DELETED"})
FAILURE_STATES = frozenset(
    {
        *("CANCELLED", "CANCELED", "ABORTED", "TERMINATED", "KILLED", "STOPPED"),
        *("EXPIRED", "TIMED_OUT", "TIMEDOUT", "TIMEOUT"),
        *("REJECTED", "DENIED", "INVALID"),
    }
)
# Not RUNNING, which may mean that a deployment is up: it is logged as unknown.
RUNNING_STATES = frozenset({"TRAINING", "DEPLOYING", "QUEUED", "PENDING", "SUBMITTED", "CREATING"})


def model_progress(state: str | None) -> Progress:
    """Apply the first table above."""
    return _progress(state, AVAILABLE_STATES)


def deployment_progress(state: str | None) -> Progress:
    """Apply the second table above."""
    return _progress(state, DEPLOYED_STATES)


def is_unknown_state(state: str | None, progress: Progress) -> bool:
    """Whether a state that counts as running is in none of the tables above."""
    return progress is Progress.RUNNING and _word(state) not in RUNNING_STATES


def unknown_target(kind: str, state: str) -> str:
    """
    A sentence about a state to wait for that is in none of the tables above, with the nearest; empty if it is in one.

    :param kind: ``model`` or ``deployment``.
    """
    success = AVAILABLE_STATES if kind == "model" else DEPLOYED_STATES
    if not is_unknown_state(state, _progress(state, success)):
        return ""
    failures = {"TRAIN_FAILED" if kind == "model" else "DEPLOY_FAILED", "DELETE_FAILED"}
    near = did_you_mean(state, sorted(success | DELETED_STATES | RUNNING_STATES | failures))
    return f"{state!r} is not a known state of a {kind}.{near}"


def _progress(state: str | None, success: frozenset[str]) -> Progress:
    word = _word(state)
    if word in success:
        return Progress.READY
    if word in DELETED_STATES:
        return Progress.GONE
    failed = (
        "FAIL" in word or "ERROR" in word or any(f"_{word}".endswith(f"_{end}") for end in FAILURE_STATES)
    )
    return Progress.FAILED if failed else Progress.RUNNING


def _word(state: str | None) -> str:
    return (state or "").strip().upper().replace("-", "_").replace(" ", "_")


@dataclass(frozen=True, slots=True)
class Deployment:
    """
    A deployed model.

    :param id: also the MODEL_ID of predictions, chunking and tokenization.
    :param sent: every field as the service sent it.
    """

    id: str
    model_id: str | None
    region: str | None
    state: str | None
    config: Mapping[str, Any] | None
    min_replicas: int | None
    max_replicas: int | None
    deployed_at: str | None
    created_by: str | None
    sent: Mapping[str, Any] = field(repr=False)

    @property
    def progress(self) -> Progress:
        """What its state means."""
        return deployment_progress(self.state)

    @property
    def started(self) -> str | None:
        """When it was made, as the service writes it."""
        return self.deployed_at


@dataclass(frozen=True, slots=True)
class Model:
    """
    A pre-trained or custom model.

    :param vector_size: of its embeddings; the service writes it as text.
    :param metrics: of the training, if they were requested.
    :param sent: every field as the service sent it, without credentials.
    """

    id: str
    name: str | None
    category: str | None
    model_type: str | None
    description: str | None
    region: str | None
    vector_size: int | None
    state: str | None
    training_data: Mapping[str, Any] | None
    config: Mapping[str, Any] | None
    training_started: str | None
    training_completed: str | None
    created_by: str | None
    deployments: tuple[Deployment, ...]
    metrics: Any
    sent: Mapping[str, Any] = field(repr=False)

    @property
    def progress(self) -> Progress:
        """What its state means."""
        return model_progress(self.state)

    @property
    def started(self) -> str | None:
        """When it was made, as the service writes it."""
        return self.training_started


def unseen_model(model_id: str) -> Model:
    """A model of which nothing but the id is known: it was made a moment ago, and is not shown yet."""
    return _model({"id": model_id})


def unseen_deployment(deployment_id: str) -> Deployment:
    """A deployment of which nothing but the id is known: it was made a moment ago, and no list shows it yet."""
    return _deployment({"id": deployment_id})


def is_shown(value: object) -> bool:
    """Whether the service shows a field: older responses leave fields out, or empty."""
    return value not in (None, "", {}, [])


def merge_models(first: Model, other: Model) -> Model:
    """Merge two responses about one model: the second adds fields that the first leaves out."""
    return _model(_merged(first.sent, other.sent))


def merge_deployments(first: Deployment, other: Deployment) -> Deployment:
    """Merge two responses about one deployment: the second adds fields that the first leaves out."""
    return _deployment(_merged(first.sent, other.sent))


def deployments_of(model_id: str, listed: Iterable[Deployment]) -> tuple[Deployment, ...]:
    """A list of one model's deployments, which may leave out whose they are."""
    return tuple(
        one if one.model_id is not None else _deployment({**one.sent, "modelId": model_id}) for one in listed
    )


def _merged(first: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**other, **{name: value for name, value in first.items() if is_shown(value)}}


def read_models(response: Response) -> tuple[Model, ...]:
    """The list of models."""
    return tuple(_model(one) for one in _list(response, "List models"))


def read_model(response: Response, refusal: type[ResponseError] = MalformedResponseError) -> Model:
    """
    One model.

    :param refusal: raised if the body is that of an error, whatever its status.
    """
    return _read(response, "Model", _model, refusal)


def read_deployments(response: Response) -> tuple[Deployment, ...]:
    """A list of deployments."""
    return tuple(_deployment(one) for one in _list(response, "List deployments"))


def read_deployment(response: Response, refusal: type[ResponseError] = MalformedResponseError) -> Deployment:
    """One deployment; ``refusal`` as in :func:`read_model`."""
    return _read(response, "Deployment", _deployment, refusal)


def read_undeployment(response: Response) -> str | None:
    """
    The state in the response to a deletion; the body may be empty.

    :raises MalformedResponseError: a page, which is a gateway's.
    :raises RequestRefusedError: the body is that of an error.
    """
    name = "Delete deployment"
    check_status(response, name)
    if response.body.lstrip().startswith(b"<"):
        raise _malformed(response, name, "a page")
    decoded = parse_json(response.body)
    if not isinstance(decoded, Mapping):
        return None
    state = decoded.get("state")
    if isinstance(state, str):
        return state
    _check_accepted(response, decoded, name, RequestRefusedError)
    return None


def _read(
    response: Response, what: str, read: Callable[[Mapping[str, Any]], T], refusal: type[ResponseError]
) -> T:
    check_status(response, what)
    body = parse_json(response.body)
    if not isinstance(body, Mapping):
        raise _malformed(response, what, "not a JSON object")
    if "id" not in body:
        # An error may have an id of its own.
        _check_accepted(response, body, what, refusal)
        if len(body) == 1:
            # One page of another generation may wrap it. Beside other fields an object with an id is another's.
            [inner] = body.values()
            body = inner if isinstance(inner, Mapping) and "id" in inner else body
    return read(body)


def _list(response: Response, what: str) -> list[Mapping[str, Any]]:
    check_status(response, what)
    decoded = parse_json(response.body)
    if isinstance(decoded, Mapping):
        _check_accepted(response, decoded, what, MalformedResponseError)
        lists = {name: one for name, one in decoded.items() if isinstance(one, list)}
        name, listed = next(iter(lists.items())) if len(lists) == 1 else ("", None)
        # An empty list of something else, such as causes, does not mean that there are none.
        decoded = listed if listed or name in _LISTS else None
    if not isinstance(decoded, list) or not all(isinstance(one, Mapping) for one in decoded):
        raise _malformed(response, what, "not a list of objects")
    return decoded


def _check_accepted(
    response: Response, body: Mapping[str, Any], what: str, refusal: type[ResponseError]
) -> None:
    """:raises ResponseError: the body is that of an error, in spite of its status."""
    if reports_failure(body):
        raise refusal(
            f"{what}: HTTP {response.status} with an error: {vendor_message(response.body)}",
            status=response.status,
        )


def _malformed(response: Response, what: str, holds: str) -> MalformedResponseError:
    # After the name of the credentials there may be a key, and a broken response cannot be searched for it.
    start = excerpt(response.body.partition(CREDENTIALS.encode())[0])
    return MalformedResponseError(
        f"{what}: HTTP {response.status} with a body that is {holds}. It starts: {start!r}",
        status=response.status,
    )


def _model(sent: Mapping[str, Any]) -> Model:
    sent = without_secrets(sent)
    size = sent.get("vectorSize")
    deployments = sent.get("deployments")
    return Model(
        id=_id(sent, "model"),
        name=_str(sent, "name"),
        category=_str(sent, "category"),
        model_type=_str(sent, "modelType"),
        description=_str(sent, "description"),
        region=_str(sent, "region"),
        vector_size=int(size) if is_int(size) or (isinstance(size, str) and size.isdecimal()) else None,
        state=_str(sent, "state"),
        training_data=_mapping(sent, "trainingData"),
        config=_mapping(sent, "config"),
        training_started=_str(sent, "trainingStarted"),
        training_completed=_str(sent, "trainingCompleted"),
        created_by=_str(sent, "createdBy"),
        deployments=tuple(
            _deployment({"modelId": sent.get("id"), **one})
            for one in (deployments if isinstance(deployments, list) else [])
            if isinstance(one, Mapping) and one.get("id") is not None
        ),
        metrics=sent.get("metrics"),
        sent=sent,
    )


def _deployment(sent: Mapping[str, Any]) -> Deployment:
    replicas = [sent.get(name) for name in ("minReplicas", "maxReplicas")]
    return Deployment(
        id=_id(sent, "deployment"),
        model_id=_str(sent, "modelId"),
        region=_str(sent, "region"),
        state=_str(sent, "state"),
        config=_mapping(sent, "config"),
        min_replicas=replicas[0] if is_int(replicas[0]) else None,
        max_replicas=replicas[1] if is_int(replicas[1]) else None,
        deployed_at=_str(sent, "deployedAt"),
        created_by=_str(sent, "createdBy"),
        sent=without_secrets(sent),
    )


def _id(sent: Mapping[str, Any], what: str) -> str:
    value = sent.get("id")
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise MalformedResponseError(f"A {what} without an `id`: {str(sorted(sent))[:200]}", status=200)
    return str(value).strip()


def _str(sent: Mapping[str, Any], name: str) -> str | None:
    value = sent.get(name)
    return value if isinstance(value, str) and value else None


def _mapping(sent: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    value = sent.get(name)
    return value if isinstance(value, Mapping) else None


# Fields whose list is the response.
_LISTS = frozenset({"models", "deployments", "items", "data", "results", "content", "values"})
# Statuses of a path or a deployment that does not exist.
_NOT_THERE = frozenset({404, 405, 410})
_get = partial(get, scope=MODEL_SCOPE)
_post = partial(post, replayable=False, scope=MODEL_SCOPE)


def list_models() -> Call[tuple[Model, ...]]:
    """
    Every model, pre-trained and custom.

    :raises ConfigurationError: the connection has no Customer ID.
    """
    return endpoint(
        lambda settings: _get("List models", f"{settings.models_base}/models", endpoint="list_models"),
        read_models,
    )


def get_model(model_id: str, *, metrics: bool = False) -> Call[Model]:
    """
    One model.

    :param metrics: with those of its training.
    :raises UnknownResourceError: no such model.
    """
    name, path = f"Get model {model_id}", f"/models/{path_segment(model_id, 'model_id')}"
    asked = {"metrics": "true"} if metrics else {}
    return endpoint(
        lambda settings: _get(name, settings.models_base + path, endpoint="get_model", **asked), read_model
    )


def create_model(training: TrainingSpec, credentials: Mapping[str, str] | None = None) -> Call[Model]:
    """
    Start to train a model, which cannot be changed or deleted afterwards.

    Do not call it in a trigger: a restarted trigger would train again.

    :param credentials: ``{"serviceAccountKey": …}`` for the training data; never logged, never stored.
    :raises SubmissionUnknownError: sent, and no response came: a model of that name may exist.
    """
    _check_credentials(credentials)
    body = training.as_json() | ({CREDENTIALS: dict(credentials)} if credentials else {})
    return endpoint(
        lambda settings: _post(
            f"Train model {training.name}",
            f"{settings.models_base}/models",
            body,
            endpoint="create_model",
            secrets=tuple((credentials or {}).values()),
        ),
        partial(read_model, refusal=RequestRefusedError),
    )


def list_model_deployments(model_id: str) -> Call[tuple[Deployment, ...]]:
    """The deployments of a model."""
    name = f"List deployments of model {model_id}"
    path = f"/models/{path_segment(model_id, 'model_id')}/deployments"
    return endpoint(
        lambda settings: _get(name, settings.models_base + path, endpoint="list_model_deployments"),
        read_deployments,
    )


def list_deployments() -> Call[tuple[Deployment, ...]]:
    """
    Every deployment of the customer. No other way to see a single one is documented.

    If the service refuses this list, the lists of all models are combined.

    :raises ResponseError: both were refused; the connection's ``deployments_path`` sets another path.
    """
    return Call(_every_deployment)


def find_deployment(deployment_id: str, model_id: str | None = None) -> Call[Deployment | None]:
    """
    A deployment by its id, from the customer's list; a GET of one is not documented.

    :param model_id: of its model, whose own list is requested before.
    :return: None if there is no such deployment.
    """
    return Call(partial(_listed_deployment, deployment_id=deployment_id, model_id=model_id))


def create_deployment(placement: DeploymentSpec) -> Call[Deployment]:
    """
    Start to deploy a model. Do not call it in a trigger.

    :raises SubmissionUnknownError: sent, and no response came: a deployment may exist.
    :raises UnknownResourceError: no such model; names near ones where the service lists them.
    """
    name, body = f"Deploy model {placement.model_id}", placement.as_json()
    return endpoint_with_hint(
        lambda settings: _post(name, _deployments_url(settings), body, endpoint="create_deployment"),
        partial(read_deployment, refusal=RequestRefusedError),
        list_models,
        lambda models: nearest_models(models, placement.model_id),
        refusals=(UnknownResourceError, RequestRefusedError),
    )


def nearest_models(models: Sequence[Model], model_id: str) -> str:
    """A sentence with the ids of the models that are near by id or name; empty if the id is listed."""
    given = model_id.strip()
    if not models or any(one.id == given for one in models):
        return ""
    import difflib  # only for messages

    by_word = {word: one for one in models for word in (one.name, one.id) if word}
    close = difflib.get_close_matches(given, by_word, n=3, cutoff=0.4)
    shown = dict.fromkeys(
        f"{one.id} ({one.name})" if one.name else one.id
        for one in ([by_word[word] for word in close] or list(models)[:5])
    )
    return f"The service lists {', '.join(shown)}.{did_you_mean(given, close)}"


def delete_deployment(deployment_id: str) -> Call[str | None]:
    """
    Start to delete a deployment.

    The vendor's pages disagree about the path. Without the connection's ``undeploy_path``, two paths are tried,
    neither of which can name more than this deployment.

    :return: the state in the response, if there is one.
    :raises InputError: the id names no single deployment; nothing is sent.
    :raises UnknownResourceError: no such deployment, or none of the paths is the service's.
    :raises ResponseError: every path was refused; names them.
    """
    return Call(partial(_deletion, deployment_id=deployment_id))


def _every_deployment(settings: LucidworksSettings) -> Steps[tuple[Deployment, ...]]:
    try:
        listed: tuple[Deployment, ...] = yield Exchange(
            _get("List deployments", _deployments_url(settings), endpoint="list_deployments"),
            read_deployments,
        )
    except ResponseError as err:
        refused = _wrong_path(err)
    else:
        return listed
    try:
        models = yield from list_models().steps(settings)
    except ResponseError as err:
        raise _with_path(refused, settings) from _wrong_path(err)
    lists: list[tuple[Deployment, ...]] = []
    for model in models:
        if model.sent.get("deployments") == []:
            lists.append(())
        elif (own := (yield from _deployments_of(settings, model))) is not None:
            lists.append(own)
    if not lists:
        raise _with_path(refused, settings)
    return tuple(chain.from_iterable(lists))


def _listed_deployment(
    settings: LucidworksSettings, deployment_id: str, model_id: str | None
) -> Steps[Deployment | None]:
    def find(deployments: Iterable[Deployment]) -> Deployment | None:
        return next((one for one in deployments if one.id.lower() == deployment_id.lower()), None)

    own = None
    if model_id is not None:
        try:
            own = find((yield from list_model_deployments(model_id).steps(settings)))
        except ResponseError as err:
            if err.status in {401, 429}:
                raise
    if own is not None and own.state:
        return own
    return find((yield from list_deployments().steps(settings))) or own


def _deployments_of(settings: LucidworksSettings, model: Model) -> Steps[tuple[Deployment, ...] | None]:
    """The list of a model; if it is refused, the deployments within the model, or None."""
    try:
        listed = yield from list_model_deployments(model.id).steps(settings)
    except ResponseError as err:
        _wrong_path(err)
        return model.deployments if "deployments" in model.sent else None
    return deployments_of(model.id, listed)


def _deletion(settings: LucidworksSettings, deployment_id: str) -> Steps[str | None]:
    refused: list[ResponseError] = []
    for url in _undeployments(settings, deployment_id):
        try:
            state: str | None = yield Exchange(_undeployment(url, deployment_id), read_undeployment)
        except ResponseError as err:
            refused.append(_wrong_path(err))
        else:
            return state
    raise _undeploy_refused(deployment_id, refused, settings)


def _undeployment(url: str, deployment_id: str) -> Request:
    """The DELETE of a deployment. Doing it twice does no harm."""
    return Request(
        name=f"Delete deployment {deployment_id}",
        method="DELETE",
        url=url,
        replayable=True,
        endpoint="delete_deployment",
        scope=MODEL_SCOPE,
        headers={"Accept": "application/json"},
    )


def _deployments_url(settings: LucidworksSettings) -> str:
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


def _wrong_path(err: ResponseError) -> ResponseError:
    """
    Return the error if another path may work; raise it otherwise.

    A 401 is about the token and a 429 about the rate limit. Any other 4xx may be a gateway's for an unknown path.
    """
    if 400 <= err.status < 500 and err.status not in {401, 429}:
        return err
    raise err


def _undeploy_refused(
    deployment_id: str, refused: list[ResponseError], settings: LucidworksSettings
) -> ResponseError:
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


def _with_path(err: ResponseError, settings: LucidworksSettings) -> ResponseError:
    return type(err)(
        f"{str(err).rstrip('.')}. The path was {settings.deployments_path}; the connection's `deployments_path` "
        "sets another.",
        status=err.status,
    )


def _check_credentials(credentials: Mapping[str, str] | None) -> None:
    if credentials is None:
        return
    if not isinstance(credentials, Mapping):
        raise InputError('credentials is not a dictionary; write it as {"serviceAccountKey": "…"}.')
    for name, secret in credentials.items():
        if not isinstance(name, str) or not isinstance(secret, str) or not secret.strip():
            raise InputError(f"credentials: {name} must be a text that is not empty.")
