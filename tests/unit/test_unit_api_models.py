# SPDX-License-Identifier: Apache-2.0
"""The Models API by values: requests, lenient readers, and what counts as the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lucidworks_provider.client.http.messages import Call, Request, Response
from lucidworks_provider.client.model_specs import (
    DeploymentSpec,
    Likeness,
    TrainingSpec,
    UnansweredPost,
    choose,
    join_deployments,
)
from lucidworks_provider.client.models import (
    Deployment,
    Model,
    Progress,
    create_deployment,
    create_model,
    delete_deployment,
    deployment_progress,
    get_model,
    is_unknown_state,
    list_deployments,
    list_model_deployments,
    list_models,
    merge_models,
    model_progress,
    nearest_models,
    read_deployment,
    read_deployments,
    read_model,
    read_models,
    read_undeployment,
)
from lucidworks_provider.client.settings import LucidworksSettings, parse_settings
from lucidworks_provider.errors import (
    AmbiguousResourceError,
    ConfigurationError,
    ForbiddenError,
    InputError,
    MalformedResponseError,
    ServiceError,
    UnknownResourceError,
)

CANARY = "canary-5d1f-of-a-private-key"
DATA = {"catalog": "gs://bucket/Catalog", "signals": "gs://bucket/signals"}
CONFIG = {"trainer_config/text_processor_config": "word_en", "trainer_config.num_epochs": 1, "list": [128]}
BASE = "https://api.lucidworks.com/customers/CUST/ai"
SHOWN: dict[str, Any] = {
    "id": "6a092bd4-5098-466c-94aa-40bf6829430d",
    "name": "shop",
    "modelType": "ecommerce-rnn",
    "region": "us-southcarolina",
    "trainingData": DATA,
    "config": CONFIG,
    "state": "AVAILABLE",
    "trainingStarted": "2026-01-01T00:00:00Z",
}


def answer(value: Any, status: int = 200) -> Response:
    return Response(status, {}, value if isinstance(value, bytes) else json.dumps(value).encode())


def settings(**extra: str) -> LucidworksSettings:
    return parse_settings("c", login="id", password="secret", host="app", extra=extra)


def training(**changes: Any) -> TrainingSpec:
    given: dict[str, Any] = {"name": "shop", "model_type": "ecommerce-rnn", "training_data": DATA}
    return TrainingSpec(**given | {"region": "us-southcarolina", "config": CONFIG} | changes)


def model(**changes: Any) -> Model:
    return read_model(answer(SHOWN | changes))


def deployment(**changes: Any) -> Deployment:
    shown = {"id": "d1", "modelId": "m1", "state": "DEPLOYED", "region": "us-x", "config": {"a": 1}}
    return read_deployment(answer(shown | {"minReplicas": 1, "maxReplicas": 2} | changes))


# Requests


def request_of(call: Call[Any]) -> Request:
    return call.first(settings(customer_id="CUST")).request


@pytest.mark.parametrize(
    ("call", "method", "path", "params", "replayable"),
    [
        (list_models(), "GET", "/models", (), True),
        (get_model("a/b"), "GET", "/models/a%2Fb", (), True),
        (get_model("m", metrics=True), "GET", "/models/m", (("metrics", "true"),), True),
        (list_model_deployments("m"), "GET", "/models/m/deployments", (), True),
        (list_deployments(), "GET", "/deployments", (), True),
        (create_model(training()), "POST", "/models", (), False),
        (create_deployment(DeploymentSpec("m")), "POST", "/deployments", (), False),
    ],
)
def test_requests(call: Call[Any], method: str, path: str, params: tuple[Any, ...], replayable: bool) -> None:
    request = request_of(call)
    assert (request.method, request.url, request.params) == (method, BASE + path, params)
    assert (request.replayable, request.scope) == (replayable, "machinelearning.model")
    assert (request.body is None) == (method != "POST"), "the bodies of generated examples are an artefact"


def test_the_body_of_a_training() -> None:
    credentials = {"serviceAccountKey": CANARY}
    request = request_of(create_model(training(), credentials))
    assert json.loads(request.body or b"") == {
        "name": "shop",
        "modelType": "ecommerce-rnn",
        "region": "us-southcarolina",
        "trainingData": DATA,
        "config": CONFIG,
        "trainingDataCredentials": credentials,
    }
    assert request.secrets == (CANARY,)
    assert CANARY not in repr(request)
    plain = request_of(create_model(training(region=None, config=None)))
    assert set(json.loads(plain.body or b"")) == {"name", "modelType", "trainingData"}


def test_the_body_of_a_deployment() -> None:
    request = request_of(create_deployment(DeploymentSpec("m", "us-x", {"a": [1]}, 1, 3)))
    replicas = {"minReplicas": 1, "maxReplicas": 3}
    assert (
        json.loads(request.body or b"") == {"modelId": "m", "region": "us-x", "config": {"a": [1]}} | replicas
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": " "}, ["name"]),
        ({"name": 3}, ["name", "3"]),
        ({"model_type": ""}, ["model_type"]),
        ({"region": ""}, ["region"]),
        ({"training_data": {}}, ["training_data", "catalog", "signals"]),
        ({"training_data": "gs://b"}, ["training_data"]),
        ({"training_data": {"catalog": 1}}, ["training_data", "catalog"]),
        ({"config": ["a"]}, ["config", "dictionary"]),
        ({"model_id": ""}, ["model_id"]),
        ({"model_id": "m", "min_replicas": 0}, ["min_replicas", "from 1"]),
        ({"model_id": "m", "max_replicas": True}, ["max_replicas", "True"]),
        ({"model_id": "m", "min_replicas": 3, "max_replicas": 2}, ["3", "2"]),
        ({"model_id": "m", "config": "x"}, ["config"]),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        DeploymentSpec(**arguments) if "model_id" in arguments else training(**arguments)
    assert [word for word in words if word not in str(caught.value)] == []


def test_the_id_of_a_model_is_one_segment_of_a_path_whatever_is_in_it() -> None:
    assert DeploymentSpec("../models").as_json()["modelId"] == "../models"


def test_without_a_customer_id_there_is_no_models_api() -> None:
    with pytest.raises(ConfigurationError, match=r"'c'.*customer_id"):
        _ = settings().models_base


# The paths of a deletion


@pytest.mark.parametrize(
    ("extra", "paths"),
    [
        ({}, ["/customers/d%2F1/ai/deployments", "/customers/CUST/ai/deployments/d%2F1"]),
        ({"undeploy_path": "/x/{deployment_id}"}, ["/x/d%2F1"]),
    ],
)
def test_every_path_of_a_deletion_names_the_deployment(extra: dict[str, str], paths: list[str]) -> None:
    steps = delete_deployment("d/1").steps(settings(customer_id="CUST", **extra))
    requests = [next(steps).request]
    requests += [steps.throw(UnknownResourceError("none", status=404)).request for _ in paths[1:]]
    with pytest.raises(UnknownResourceError, match="undeploy_path"):
        steps.throw(UnknownResourceError("none", status=404))
    assert [one.url for one in requests] == [f"https://api.lucidworks.com{path}" for path in paths]
    assert all((one.method, one.replayable) == ("DELETE", True) for one in requests)
    assert {one.scope for one in requests} == {"machinelearning.model"}


@pytest.mark.parametrize("deployment_id", ["", " ", ".", "..", "...", "\t\n", "\u200b", "/", "?", "-", "*"])
def test_a_deletion_without_an_id_is_refused(deployment_id: str) -> None:
    with pytest.raises(InputError, match="deployment_id"):
        request_of(delete_deployment(deployment_id))


@pytest.mark.parametrize("deployment_id", ["CUST", "cust", " CUST "])
def test_the_customer_is_never_deleted(deployment_id: str) -> None:
    with pytest.raises(InputError, match="Customer ID"):
        request_of(delete_deployment(deployment_id))


# Reading


def test_a_model_as_the_examples_show_it() -> None:
    shown = SHOWN | {
        "category": "CUSTOM",
        "description": "d",
        "vectorSize": "384",
        "trainingCompleted": "2026-01-01T01:00:00Z",
        "createdBy": "me",
        "deployments": [{"id": "d1", "region": "us-x", "state": "DEPLOYED", "deployedAt": "2026-01-02"}],
        "metrics": {"hit@5": 0.6},
        "later": {"new": True},
    }
    read = read_model(answer(shown))
    assert (read.id, read.name, read.category, read.model_type) == (
        SHOWN["id"],
        "shop",
        "CUSTOM",
        "ecommerce-rnn",
    )
    assert (read.vector_size, read.state, read.progress) == (384, "AVAILABLE", Progress.READY)
    assert (read.training_data, read.config, read.metrics) == (DATA, CONFIG, {"hit@5": 0.6})
    assert read.training_started == "2026-01-01T00:00:00Z"
    assert read.training_completed == "2026-01-01T01:00:00Z"
    assert (read.description, read.region, read.created_by) == ("d", "us-southcarolina", "me")
    [one] = read.deployments
    assert (one.id, one.model_id, one.state, one.deployed_at) == ("d1", SHOWN["id"], "DEPLOYED", "2026-01-02")
    assert read.sent["later"] == {"new": True}


@pytest.mark.parametrize(
    ("size", "expected"), [("384", 384), (384, 384), (None, None), ("", None), ("big", None), (True, None)]
)
def test_the_size_of_vectors_is_a_text_or_a_number(size: object, expected: int | None) -> None:
    assert model(vectorSize=size).vector_size == expected


def test_what_the_oldest_page_shows_is_enough() -> None:
    read = read_model(answer({"id": "text-encoder", "modelType": "text-encoder", "state": "AVAILABLE"}))
    assert (read.id, read.name, read.deployments, read.vector_size) == ("text-encoder", None, (), None)


def test_a_deployment() -> None:
    read = deployment(deployedAt="2026-01-01T00:00:00Z", createdBy="me", extra=1)
    assert (read.id, read.model_id, read.region, read.config) == ("d1", "m1", "us-x", {"a": 1})
    assert (read.min_replicas, read.max_replicas, read.state) == (1, 2, "DEPLOYED")
    assert (read.deployed_at, read.created_by, read.sent["extra"]) == ("2026-01-01T00:00:00Z", "me", 1)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"models": x, "total": 1}], ids=["array", "object"])
def test_lists(wrap: Any) -> None:
    assert [one.id for one in read_models(answer(wrap([SHOWN])))] == [SHOWN["id"]]
    assert [one.id for one in read_deployments(answer(wrap([{"id": "d"}])))] == ["d"]
    assert read_models(answer(wrap([]))) == ()


@pytest.mark.parametrize(("read", "name"), [(read_models, "[Mm]odel"), (read_deployments, "[Dd]eployment")])
@pytest.mark.parametrize(
    "body", [b"<html>", b'"text"', b"{}", b"null", [1], {"a": [], "b": []}, [{"name": "no id"}], b"[{", b""]
)
def test_what_is_no_list_is_named(body: Any, read: Any, name: str) -> None:
    with pytest.raises(MalformedResponseError, match=name):
        read(answer(body))


@pytest.mark.parametrize(("read", "name"), [(read_model, "[Mm]odel"), (read_deployment, "[Dd]eployment")])
@pytest.mark.parametrize("body", [b"", b"[", b"<html>", [], {}, {"id": None}, {"id": " "}, {"id": True}])
def test_what_is_no_model_is_named(body: Any, read: Any, name: str) -> None:
    with pytest.raises(MalformedResponseError, match=name):
        read(answer(body))


def test_the_id_of_something_else_is_no_models_id() -> None:
    with pytest.raises(MalformedResponseError):
        read_model(answer({"state": "TRAINING", "createdBy": {"id": "user-1"}}))


@pytest.mark.parametrize(
    ("status", "error"), [(403, ForbiddenError), (404, UnknownResourceError), (503, ServiceError)]
)
def test_statuses(status: int, error: type[Exception]) -> None:
    for read in (read_model, read_models, read_deployment, read_deployments, read_undeployment):
        with pytest.raises(error):
            read(answer({"message": "no"}, status))


@pytest.mark.parametrize(
    ("body", "state"), [({"id": "d", "state": "DELETED"}, "DELETED"), (b"", None), ([], None), ({}, None)]
)
def test_a_deletion_needs_no_response(body: Any, state: str | None) -> None:
    assert read_undeployment(answer(body)) == state


def test_a_page_is_no_response_to_a_deletion() -> None:
    with pytest.raises(MalformedResponseError, match="a page"):
        read_undeployment(answer(b" <html>please log in</html>"))


# Credentials


@pytest.mark.parametrize(
    "shown",
    [
        {"trainingDataCredentials": {"serviceAccountKey": CANARY}},
        {"trainingData": DATA | {"credentials": CANARY}},
        {"job": {"service_account_key": CANARY}},
    ],
)
def test_credentials_are_not_kept_however_deep_they_are(shown: dict[str, Any]) -> None:
    read = model(**shown)
    assert CANARY not in repr((read, dict(read.sent)))


def test_a_broken_response_shows_no_credentials() -> None:
    key = json.dumps({"type": "service_account", "private_key": CANARY})
    body = json.dumps({"id": "x", "trainingDataCredentials": {"serviceAccountKey": key}}).encode()
    for read in (read_model, read_models):
        with pytest.raises(MalformedResponseError) as caught:
            read(answer(body[:-2]))
        assert CANARY not in str(caught.value)


# States


FAILURES = (
    *("CANCELLED", "CANCELED", "ABORTED", "TERMINATED", "KILLED", "STOPPED", "EXPIRED"),
    *("TIMED_OUT", "REJECTED", "TRAIN_FAILED", "INTERNAL_ERROR"),
)


@pytest.mark.parametrize(
    ("states", "progress"),
    [
        (["AVAILABLE", "available", " AVAILABLE "], Progress.READY),
        (["TRAIN_FAILED", "TrainingError", "cancelled", "Timed out", *FAILURES], Progress.FAILED),
        ([f"TRAINING_{word}" for word in FAILURES], Progress.FAILED),
        (["DELETING", "DELETED"], Progress.GONE),
        (["TRAINING", "TRAINED", "UNAVAILABLE", "CANCELLING", "ACTIVE"], Progress.RUNNING),
        (["DEPLOYED", "UNHEARD_OF", None], Progress.RUNNING),
    ],
    ids=str,
)
def test_states_of_a_model(states: list[str | None], progress: Progress) -> None:
    assert [state for state in states if model_progress(state) is not progress] == []


@pytest.mark.parametrize(
    ("states", "progress"),
    [
        (["DEPLOYED", "ACTIVE", "SERVING"], Progress.READY),
        (["DEPLOY_FAILED", "DELETE_FAILED", "DEPLOY_ABORTED", *FAILURES], Progress.FAILED),
        (["DELETING", "DELETED"], Progress.GONE),
        (["DEPLOYING", "INACTIVE", "RUNNING", "AVAILABLE", None], Progress.RUNNING),
    ],
    ids=str,
)
def test_states_of_a_deployment(states: list[str | None], progress: Progress) -> None:
    assert [state for state in states if deployment_progress(state) is not progress] == []


def test_unknown_states() -> None:
    states = ("TRAINED", "RUNNING", "", "TRAINING", "queued", "AVAILABLE", "CANCELLED", "DELETING")
    unknown = [state for state in states if is_unknown_state(state, model_progress(state))]
    assert unknown == ["TRAINED", "RUNNING", ""]


# What exists against what is asked for

SAME, UNCERTAIN, DIFFERENT = Likeness
PUBLIC = "https://storage.googleapis.com"


def data(**changes: str | None) -> dict[str, Any]:
    return {"trainingData": DATA | changes}


@pytest.mark.parametrize(
    ("changes", "likeness"),
    [
        ({}, SAME),
        ({"id": "another"}, SAME),
        ({"config": {**CONFIG, "trainer_config.num_epochs": "1", "list": ["128"], "a default": 7}}, SAME),
        ({"modelType": "ECOMMERCE_RNN"}, SAME),
        ({"region": "US-SouthCarolina"}, SAME),
        (data(signals="gs://bucket/signals/"), SAME),
        # Not shown.
        *(({name: None}, UNCERTAIN) for name in ("name", "config", "trainingData", "modelType")),
        ({"config": {}}, UNCERTAIN),
        ({"region": ""}, UNCERTAIN),
        (data(signals=None), UNCERTAIN),
        # In the service's own words.
        ({"name": "Shop"}, UNCERTAIN),
        *(({"region": one}, UNCERTAIN) for one in ("us", "us-southcarolina-b", "gcp-us-southcarolina")),
        (data(catalog=f"{PUBLIC}/bucket/Catalog?X-Sig=1"), UNCERTAIN),
        (data(catalog="https://bucket.storage.googleapis.com/Catalog"), UNCERTAIN),
        (data(catalog="bucket/Catalog"), UNCERTAIN),
        (data(catalog="gs://bucket/Catalog#1764387"), UNCERTAIN),
        # Another one.
        ({"name": "shop 2"}, DIFFERENT),
        ({"modelType": "general-rnn"}, DIFFERENT),
        ({"region": "eu"}, DIFFERENT),
        ({"region": "us-east1"}, DIFFERENT),
        (data(signals="gs://bucket/other"), DIFFERENT),
        (data(signals="gs://other/signals"), DIFFERENT),
        (data(signals=f"{PUBLIC}/other/signals"), DIFFERENT),
        (data(catalog="gs://bucket/catalog"), DIFFERENT),
        ({"trainingData": {"catalog": DATA["catalog"]}}, DIFFERENT),
        ({"config": {**CONFIG, "trainer_config.num_epochs": 2}}, DIFFERENT),
        ({"config": {**CONFIG, "list": [128, 128]}}, DIFFERENT),
        ({"config": {"list": [128]}}, DIFFERENT),
        ({"config": None, "region": "eu"}, DIFFERENT),
        ({"config": "mlp"}, DIFFERENT),
        ({"name": None, "modelType": "text-encoder"}, DIFFERENT),
    ],
    ids=str,
)
def test_likeness_of_a_model(changes: dict[str, Any], likeness: Likeness) -> None:
    compared = training().compare(model(**changes))
    assert compared.likeness is likeness
    for field in set(changes) & set(training().as_json()) if likeness is not SAME else ():
        assert f"{field}: requested" in str(compared)


def test_what_is_not_asked_for_is_not_compared() -> None:
    asked = training(region=None, config=None)
    assert asked.compare(model(region=None, config=None)).likeness is SAME
    assert training(config={}).compare(model(config=None)).likeness is SAME


PLACEMENT = DeploymentSpec("m1", "us-x", {"a": 1}, 1, 2)


@pytest.mark.parametrize(
    ("changes", "likeness"),
    [
        ({}, SAME),
        ({"modelId": "M1"}, SAME),
        ({"minReplicas": "1"}, SAME),
        ({"minReplicas": None}, SAME),  # the documented default
        ({"modelId": None}, UNCERTAIN),
        ({"config": None}, UNCERTAIN),
        ({"region": None}, UNCERTAIN),
        ({"region": "us"}, UNCERTAIN),
        ({"maxReplicas": None}, DIFFERENT),
        ({"modelId": "m2"}, DIFFERENT),
        ({"region": "us-y"}, DIFFERENT),
        ({"config": {"a": 2}}, DIFFERENT),
        ({"maxReplicas": 3}, DIFFERENT),
    ],
    ids=str,
)
def test_likeness_of_a_deployment(changes: dict[str, Any], likeness: Likeness) -> None:
    assert PLACEMENT.compare(deployment(**changes)).likeness is likeness


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([("a", "TRAINING", "2026-01-02"), ("b", "AVAILABLE", "2026-01-01")], "b"),
        ([("a", "AVAILABLE", "2026-01-01"), ("b", "AVAILABLE", "2026-01-02")], "b"),
        ([("a", "TRAINING", "2026-01-03"), ("b", "QUEUED", "2026-01-02")], "a"),
        ([("a", "WHATEVER", "2026-01-03")], "a"),
        ([("a", "AVAILABLE", None), ("b", "AVAILABLE", "2026-01-02")], "b"),
        ([("a", "TRAIN_FAILED", "2026-01-02")], None),
        ([("a", "CANCELLED", "2026-01-02"), ("b", "DELETING", "2026-01-02")], None),
        ([], None),
    ],
)
def test_which_model_is_taken(states: list[tuple[str, str, str | None]], expected: str | None) -> None:
    listed = [model(id=one, state=state, trainingStarted=started) for one, state, started in states]
    found = choose(training(), listed)
    assert (found and found.id) == expected


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["DEPLOYING", "DEPLOYED"], 1),
        (["DEPLOYING", "ACTIVE"], 1),
        (["DEPLOY_FAILED", "DELETING", "DELETED", "DELETE_FAILED", "STOPPED"], None),
        (["DEPLOY_FAILED", "DEPLOYING"], 1),
    ],
)
def test_which_deployment_is_taken(states: list[str], expected: int | None) -> None:
    listed = [deployment(id=str(n), state=state) for n, state in enumerate(states)]
    found = choose(PLACEMENT, listed)
    assert (found and found.id) == (None if expected is None else str(expected))


# What is taken after a POST without an answer

POSTED = 1767225600.0  # 2026-01-01T00:00:00Z
SENT = UnansweredPost(POSTED, frozenset({"old"}), "me")
MAYBE_SENT = UnansweredPost(POSTED)
LIKE = {SAME: {}, UNCERTAIN: {"config": None}, DIFFERENT: {"region": "europe"}}


@pytest.mark.parametrize(
    ("found", "post", "expected"),
    [
        # id, likeness, when it was started
        ([("old", SAME, "2025-01-01T00:00:00Z")], None, "old"),
        ([("old", UNCERTAIN, "2025-01-01T00:00:00Z")], None, AmbiguousResourceError),
        ([("old", DIFFERENT, "2025-01-01T00:00:00Z")], None, None),
        ([("old", UNCERTAIN, None)], SENT, AmbiguousResourceError),
        ([("old", DIFFERENT, None)], SENT, None),
        ([("new", SAME, "2026-01-01T00:00:01Z")], SENT, "new"),
        ([("new", UNCERTAIN, "2026-01-01T00:00:01Z")], SENT, "new"),
        ([("new", UNCERTAIN, None)], SENT, "new"),
        ([("new", UNCERTAIN, "soon")], SENT, "new"),
        ([("new", UNCERTAIN, "2025-12-31T19:00:00")], SENT, "new"),  # a time of some zone
        ([("new", UNCERTAIN, "2025-12-31T23:58:00Z")], SENT, "new"),  # a clock behind ours
        ([("old", UNCERTAIN, None), ("new", UNCERTAIN, None)], SENT, "new"),
        ([("new", DIFFERENT, "2026-01-01T00:00:01Z")], SENT, AmbiguousResourceError),
        ([("new", DIFFERENT, None)], SENT, AmbiguousResourceError),
        # Not in the list before, which lagged.
        ([("late", DIFFERENT, "2025-01-01T00:00:00Z")], SENT, None),
        ([("late", UNCERTAIN, "2025-01-01T00:00:00Z")], SENT, AmbiguousResourceError),
        ([("new", UNCERTAIN, None), ("newer", UNCERTAIN, None)], SENT, AmbiguousResourceError),
        # No more is known than that there was an earlier attempt.
        ([("new", SAME, "2026-01-01T00:00:01Z")], MAYBE_SENT, "new"),
        ([("new", UNCERTAIN, "2026-01-01T00:00:01Z")], MAYBE_SENT, AmbiguousResourceError),
        ([("new", DIFFERENT, "2026-01-01T00:00:01Z")], MAYBE_SENT, AmbiguousResourceError),
        ([("old", DIFFERENT, "2025-01-01T00:00:00Z")], MAYBE_SENT, None),
        ([("old", DIFFERENT, None)], MAYBE_SENT, None),
    ],
    ids=str,
)
def test_what_is_taken_after_a_post(found: Any, post: UnansweredPost | None, expected: Any) -> None:
    listed = [model(id=one, trainingStarted=started, **LIKE[likeness]) for one, likeness, started in found]
    if expected is AmbiguousResourceError:
        with pytest.raises(AmbiguousResourceError, match="if_ambiguous") as caught:
            choose(training(), listed, post)
        assert "'shop'" in str(caught.value)
        assert all(one in str(caught.value) for one, likeness, _ in found if likeness is not SAME)
        assert not caught.value.retryable
        assert choose(training(), listed, post, if_ambiguous="create") is None
        assert choose(training(), listed, post, if_ambiguous="reuse") in listed
    else:
        taken = choose(training(), listed, post)
        assert (taken and taken.id) == expected


def test_of_several_new_ones_the_one_with_our_name_is_ours() -> None:
    listed = [model(id=one, config=None, createdBy=one) for one in ("somebody", "me")]
    taken = choose(training(), listed, SENT)
    assert taken
    assert taken.id == "me"


def test_an_error_shows_no_keys() -> None:
    asked = training(config={"x": "-----BEGIN PRIVATE KEY-----\nabc"})
    with pytest.raises(AmbiguousResourceError) as caught:
        choose(asked, [model(config=None)])
    assert "PRIVATE" not in str(caught.value)


# Answers that show different things


def test_a_model_shows_what_the_list_leaves_out() -> None:
    listed = model(config=None, region=None, trainingData=None)
    assert training().compare(merge_models(model(name=None), listed)).likeness is SAME


def shown(name: str, **fields: Any) -> Deployment:
    return read_deployment(answer({"id": name, "state": "DEPLOYED"} | fields))


@pytest.mark.parametrize(
    ("own", "itself", "every", "expected"),
    [
        ([shown("a")], None, None, {"a": ("m1", None)}),
        ([shown("a")], [shown("a", region="r")], None, {"a": ("m1", "r")}),
        ([shown("a")], [], [shown("a", region="r"), shown("b", region="r")], {"a": ("m1", "r")}),
        ([], None, [shown("a", modelId="M1", region="r")], {"a": ("M1", "r")}),
        (None, [shown("a", region="r")], [shown("A", modelId="m1")], {"a": ("m1", "r")}),
        (None, None, [shown("a"), shown("b", modelId="m2")], {"a": (None, None)}),
        ([shown("a", modelId="m2")], None, None, {}),
        (None, [], [shown("a")], {}),
    ],
)
def test_deployments_of_a_model_from_three_responses(
    own: Any, itself: Any, every: Any, expected: Any
) -> None:
    joined = join_deployments("m1", own, itself, every)
    assert {one.id: (one.model_id, one.region) for one in joined} == expected


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("rank", "The service lists 1a2b (ranking). Did you mean 'ranking'?"),
        ("1a2c", "The service lists 1a2b (ranking). Did you mean '1a2b'?"),
        ("qqq", "The service lists 1a2b (ranking), text-encoder."),
        ("1a2b", ""),
        (" 1a2b ", ""),
    ],
)
def test_the_nearest_models(given: str, sentence: str) -> None:
    models = [model(id="1a2b", name="ranking"), model(id="text-encoder", name=None)]
    assert nearest_models(models, given) == sentence
    assert nearest_models([], given) == ""
