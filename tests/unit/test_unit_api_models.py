# SPDX-License-Identifier: Apache-2.0
"""The Models API by values: requests, lenient readers, and what counts as the same."""

import json
from collections.abc import Sequence
from typing import Any
from unittest.mock import ANY

import pytest

from lucidworks_provider import errors
from lucidworks_provider.client import models
from lucidworks_provider.client.http.messages import Call, Request, Response
from lucidworks_provider.client.model_specs import (
    DeploymentSpec,
    Likeness,
    TrainingSpec,
    UnansweredPost,
    choose,
    join_deployments,
)
from lucidworks_provider.client.models import Deployment, Model, Progress
from lucidworks_provider.client.settings import LucidworksSettings, parse_settings
from lucidworks_provider.errors import AmbiguousResourceError, InputError, MalformedResponseError

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
    return models.read_model(answer(SHOWN | changes))


def deployment(**changes: Any) -> Deployment:
    shown = {"id": "d1", "modelId": "m1", "state": "DEPLOYED", "region": "us-x", "config": {"a": 1}}
    return models.read_deployment(answer(shown | {"minReplicas": 1, "maxReplicas": 2} | changes))


# Requests


def request_of(call: Call[Any]) -> Request:
    return call.first(settings(customer_id="CUST")).request


@pytest.mark.parametrize(
    ("call", "method", "path", "params", "replayable"),
    [
        (models.list_models(), "GET", "/models", (), True),
        (models.get_model("a/b"), "GET", "/models/a%2Fb", (), True),
        (models.get_model("m", metrics=True), "GET", "/models/m", (("metrics", "true"),), True),
        (models.list_model_deployments("m"), "GET", "/models/m/deployments", (), True),
        (models.list_deployments(), "GET", "/deployments", (), True),
        (models.create_model(training()), "POST", "/models", (), False),
        (models.create_deployment(DeploymentSpec("m")), "POST", "/deployments", (), False),
    ],
)
def test_requests(call: Call[Any], method: str, path: str, params: tuple[Any, ...], replayable: bool) -> None:
    request = request_of(call)
    assert (request.method, request.url, request.params) == (method, BASE + path, params)
    assert (request.replayable, request.scope) == (replayable, "machinelearning.model")
    assert (request.body is None) == (method != "POST"), "the bodies of generated examples are an artefact"


def sent_by(call: Call[Any]) -> Any:
    return json.loads(request_of(call).body or b"")


def test_the_body_of_a_training() -> None:
    credentials = {"serviceAccountKey": CANARY}
    call = models.create_model(training(), credentials)
    names = {"name": "shop", "modelType": "ecommerce-rnn"}
    placed = {"region": "us-southcarolina", "config": CONFIG, "trainingDataCredentials": credentials}
    assert sent_by(call) == names | {"trainingData": DATA} | placed
    assert request_of(call).secrets == (CANARY,)
    assert CANARY not in repr(request_of(call))
    plain = models.create_model(training(region=None, config=None))
    assert sent_by(plain) == names | {"trainingData": DATA}


def test_the_body_of_a_deployment() -> None:
    # The id of a model is one segment of a path, whatever is in it.
    assert sent_by(models.create_deployment(DeploymentSpec("../models", "us-x", {"a": [1]}, 1, 3))) == {
        "modelId": "../models",
        "region": "us-x",
        "config": {"a": [1]},
        "minReplicas": 1,
        "maxReplicas": 3,
    }


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


def test_without_a_customer_id_there_is_no_models_api() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"'c'.*customer_id"):
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
    steps = models.delete_deployment("d/1").steps(settings(customer_id="CUST", **extra))
    requests = [next(steps).request]
    requests += [steps.throw(errors.UnknownResourceError("none", status=404)).request for _ in paths[1:]]
    with pytest.raises(errors.UnknownResourceError, match="undeploy_path"):
        steps.throw(errors.UnknownResourceError("none", status=404))
    assert [one.url for one in requests] == [f"https://api.lucidworks.com{path}" for path in paths]
    assert all((one.method, one.replayable) == ("DELETE", True) for one in requests)
    assert {one.scope for one in requests} == {"machinelearning.model"}


@pytest.mark.parametrize(
    ("deployment_id", "words"),
    [
        *((one, "deployment_id") for one in ["", ".", "..", "...", "\t\n", "\u200b", "/", "?", "-", "*"]),
        *((one, "Customer ID") for one in ["CUST", "cust", " CUST "]),
    ],
)
def test_a_deletion_of_no_deployment_is_refused(deployment_id: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        request_of(models.delete_deployment(deployment_id))


# Reading


def test_a_model_as_the_examples_show_it() -> None:
    placed = {"id": "d1", "region": "us-x", "state": "DEPLOYED", "deployedAt": "2026-01-02"}
    given = SHOWN | {
        "category": "CUSTOM",
        "description": "d",
        "vectorSize": "384",
        "trainingCompleted": "2026-01-01T01:00:00Z",
        "createdBy": "me",
        "deployments": [placed],
        "metrics": {"hit@5": 0.6},
        "later": {"new": True},
    }
    read = models.read_model(answer(given))
    deployed = Deployment("d1", SHOWN["id"], "us-x", "DEPLOYED", None, None, None, "2026-01-02", None, ANY)
    assert read == Model(
        id=SHOWN["id"],
        name="shop",
        category="CUSTOM",
        model_type="ecommerce-rnn",
        description="d",
        region="us-southcarolina",
        vector_size=384,
        state="AVAILABLE",
        training_data=DATA,
        config=CONFIG,
        training_started="2026-01-01T00:00:00Z",
        training_completed="2026-01-01T01:00:00Z",
        created_by="me",
        deployments=(deployed,),
        metrics={"hit@5": 0.6},
        sent=given,
    )
    assert read.progress is Progress.READY


def test_the_size_of_vectors_is_a_text_or_a_number() -> None:
    sizes = {"384": 384, 384: 384, None: None, "": None, "big": None, True: None}
    assert {size: model(vectorSize=size).vector_size for size in sizes} == sizes


def test_what_the_oldest_page_shows_is_enough() -> None:
    read = models.read_model(answer({"id": "text-encoder", "modelType": "text-encoder", "state": "A"}))
    assert (read.id, read.name, read.deployments, read.vector_size) == ("text-encoder", None, (), None)


def test_a_deployment() -> None:
    read = deployment(deployedAt="2026-01-01", createdBy="me", extra=1)
    assert read == Deployment("d1", "m1", "us-x", "DEPLOYED", {"a": 1}, 1, 2, "2026-01-01", "me", ANY)
    assert read.sent["extra"] == 1


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"models": x, "total": 1}], ids=["array", "object"])
def test_lists(wrap: Any) -> None:
    assert [one.id for one in models.read_models(answer(wrap([SHOWN])))] == [SHOWN["id"]]
    assert [one.id for one in models.read_deployments(answer(wrap([{"id": "d"}])))] == ["d"]
    assert models.read_models(answer(wrap([]))) == ()


ERRORS = [
    {"errorCode": "E7", "errorSummary": "no capacity", "errorCauses": []},
    {"status": "ERROR", "message": "no capacity", "models": []},
    {"error": {"id": "e-1", "message": "no capacity"}},
]
NO_LIST = [b"<html>", b'"text"', b"{}", b"null", [1], {"a": [], "b": []}, [{"name": "no id"}], b"[{", b""]
# Only a list of models says that there are none.
NO_LIST += [{"message": "no", "details": []}, {"warnings": []}, *ERRORS]
NO_RECORD = [b"", b"[", b"<html>", [], {}, {"id": None}, {"id": " "}, {"id": True}, {"by": {"id": 1}, "a": 2}]
NO_RECORD += ERRORS


@pytest.mark.parametrize(
    ("read", "name", "bodies"),
    [
        (models.read_models, "[Mm]odel", NO_LIST),
        (models.read_deployments, "[Dd]eployment", NO_LIST),
        (models.read_model, "[Mm]odel", NO_RECORD),
        (models.read_deployment, "[Dd]eployment", NO_RECORD),
    ],
)
def test_a_response_of_another_shape_is_an_error(read: Any, name: str, bodies: list[Any]) -> None:
    for body in bodies:
        with pytest.raises(MalformedResponseError, match=name):
            read(answer(body))


@pytest.mark.parametrize(
    ("status", "error"),
    [(403, errors.ForbiddenError), (404, errors.UnknownResourceError), (503, errors.ServiceError)],
)
def test_statuses(status: int, error: type[Exception]) -> None:
    readers = (models.read_model, models.read_models, models.read_deployment, models.read_deployments)
    for read in (*readers, models.read_undeployment):
        with pytest.raises(error):
            read(answer({"message": "no"}, status))


@pytest.mark.parametrize("body", ERRORS)
@pytest.mark.parametrize(
    "call",
    [
        models.create_model(training()),
        models.create_deployment(DeploymentSpec("m")),
        models.delete_deployment("d"),
    ],
)
def test_an_error_with_a_status_of_success_is_a_refusal(call: Call[Any], body: dict[str, Any]) -> None:
    with pytest.raises(errors.RequestRefusedError, match=r"HTTP 200 with an error: .*no capacity"):
        call.first(settings(customer_id="CUST")).parse(answer(body))


def test_a_model_may_have_an_error() -> None:
    assert models.read_model(answer({"id": "m", "state": "FAILED", "error": "no data"})).state == "FAILED"


def test_a_deletion_needs_no_response_but_no_page_either() -> None:
    bodies = ({"id": "d", "state": "DELETED"}, b"", [], {})
    states = [models.read_undeployment(answer(body)) for body in bodies]
    assert states == ["DELETED", None, None, None]
    with pytest.raises(MalformedResponseError, match="a page"):
        models.read_undeployment(answer(b" <html>please log in</html>"))


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
    for read in (models.read_model, models.read_models):
        with pytest.raises(MalformedResponseError) as caught:
            read(answer(body[:-2]))
        assert CANARY not in str(caught.value)


# States


FAILURES = (
    *("CANCELLED", "CANCELED", "ABORTED", "TERMINATED", "KILLED", "STOPPED", "EXPIRED"),
    *("TIMED_OUT", "REJECTED", "INTERNAL_ERROR", "cancelled"),
)


@pytest.mark.parametrize(
    ("read", "progress", "states"),
    [
        (models.model_progress, Progress.READY, ["AVAILABLE", "available", " AVAILABLE "]),
        (models.model_progress, Progress.FAILED, ["TRAIN_FAILED", "TrainingError", "Timed out", *FAILURES]),
        (models.model_progress, Progress.FAILED, [f"TRAINING_{word}" for word in FAILURES]),
        (models.model_progress, Progress.GONE, ["DELETING", "DELETED"]),
        (models.model_progress, Progress.RUNNING, ["TRAINING", "UNAVAILABLE", "CANCELLING", "ACTIVE"]),
        (models.model_progress, Progress.RUNNING, ["TRAINED", "DEPLOYED", "UNHEARD_OF", None]),
        (models.deployment_progress, Progress.READY, ["DEPLOYED", "ACTIVE", "SERVING"]),
        (models.deployment_progress, Progress.FAILED, ["DEPLOY_FAILED", "DEPLOY_ABORTED", *FAILURES]),
        (models.deployment_progress, Progress.GONE, ["DELETING", "DELETED"]),
        (models.deployment_progress, Progress.RUNNING, ["INACTIVE", "RUNNING", "AVAILABLE", None]),
    ],
)
def test_what_a_state_means(read: Any, progress: Progress, states: list[str | None]) -> None:
    assert [state for state in states if read(state) is not progress] == []


def test_unknown_states() -> None:
    states = ("TRAINED", "RUNNING", "", "TRAINING", "queued", "AVAILABLE", "CANCELLED", "DELETING")
    unknown = [state for state in states if models.is_unknown_state(state, models.model_progress(state))]
    assert unknown == ["TRAINED", "RUNNING", ""]


# What exists against what is requested

SAME, UNCERTAIN, DIFFERENT = Likeness
PUBLIC = "https://storage.googleapis.com"


def data(**changes: str | None) -> dict[str, Any]:
    return {"trainingData": DATA | changes}


def config(**changes: Any) -> dict[str, Any]:
    return {"config": CONFIG | changes}


@pytest.mark.parametrize(
    ("likeness", "cases"),
    [
        (SAME, [{}, {"id": "another"}, {"modelType": "ECOMMERCE_RNN"}, {"region": "US-SouthCarolina"}]),
        (SAME, [config(**{"trainer_config.num_epochs": "1"}, list=["128"], default=7)]),
        (SAME, [data(signals="gs://bucket/signals/")]),
        # Not shown.
        (UNCERTAIN, [{name: None} for name in ("name", "config", "trainingData", "modelType")]),
        (UNCERTAIN, [{"config": {}}, {"region": ""}, data(signals=None)]),
        # In the service's own words.
        (UNCERTAIN, [{"name": "Shop"}]),
        (UNCERTAIN, [{"region": one} for one in ("us", "us-southcarolina-b", "gcp-us-southcarolina")]),
        (UNCERTAIN, [data(catalog=f"{PUBLIC}/bucket/Catalog?X-Sig=1"), data(catalog="bucket/Catalog")]),
        (UNCERTAIN, [data(catalog="https://bucket.storage.googleapis.com/Catalog")]),
        (UNCERTAIN, [data(catalog="gs://bucket/Catalog#1764387")]),
        # Another one.
        (DIFFERENT, [{"name": "shop 2"}, {"modelType": "general-rnn"}, {"region": "us-east1"}]),
        (DIFFERENT, [data(signals=f"{one}/other/signals") for one in ("gs:/", PUBLIC)]),
        (DIFFERENT, [data(signals="gs://bucket/other"), data(catalog="gs://bucket/catalog")]),
        (DIFFERENT, [{"trainingData": {"catalog": DATA["catalog"]}}]),
        (DIFFERENT, [config(**{"trainer_config.num_epochs": 2}), config(list=[128, 128])]),
        (DIFFERENT, [{"config": {"list": [128]}}, {"config": "mlp"}, {"config": None, "region": "eu"}]),
        (DIFFERENT, [{"name": None, "modelType": "text-encoder"}]),
    ],
)
def test_likeness_of_a_model(likeness: Likeness, cases: list[dict[str, Any]]) -> None:
    for changes in cases:
        compared = training().compare(model(**changes))
        assert compared.likeness is likeness, changes
        for field in set(changes) & set(training().as_json()) if likeness is not SAME else ():
            assert f"{field}: requested" in str(compared)


@pytest.mark.parametrize(
    ("asked", "found", "likeness"),
    [
        ("ecommerce-rnn", "ECOMMERCE_RNN", SAME),
        ("word en", "Word-En", SAME),
        (0.001, "1e-3", SAME),
        ("1e-3", 0.001, SAME),
        (True, "true", SAME),
        *((empty, None, SAME) for empty in ("", [], {})),
        *((empty, empty, SAME) for empty in ("", [], {})),
        *(("gru", empty, UNCERTAIN) for empty in (None, "", [])),
        ("1e-3", "1e+3", DIFFERENT),
        ("+1", "-1", DIFFERENT),
        (1, "-1", DIFFERENT),
        (",", ";", DIFFERENT),
        ("a,b", "a.b", DIFFERENT),
        ("<u>", "<x>", DIFFERENT),
        ("", "gru", DIFFERENT),
        ([], ["gru"], DIFFERENT),
    ],
)
def test_likeness_of_an_option(asked: Any, found: Any, likeness: Likeness) -> None:
    names = ("x", "trainer.x", "trainer.primary_key", "trainer.oov_token")
    for name in names:
        compared = training(config={name: asked}).compare(model(config={name: found, "default": 7}))
        assert compared.likeness is likeness, name
    # A key, which is not kept of a response.
    assert (
        training(config={"api_key": asked}).compare(model(config={"api_key": found, "a": 1})).likeness is SAME
    )


def test_what_is_not_requested_is_not_compared() -> None:
    asked = training(region=None, config=None)
    assert asked.compare(model(region=None, config=None)).likeness is SAME
    assert training(config={}).compare(model(config=None)).likeness is SAME


PLACEMENT = DeploymentSpec("m1", "us-x", {"a": 1}, 1, 2)


@pytest.mark.parametrize(
    ("likeness", "cases"),
    [
        (
            SAME,
            [{}, {"modelId": "M1"}, {"minReplicas": "1"}, {"minReplicas": None}],
        ),  # the documented default
        (UNCERTAIN, [{"modelId": None}, {"config": None}, {"region": None}, {"region": "us"}]),
        (DIFFERENT, [{"modelId": "m2"}, {"region": "us-y"}, {"config": {"a": 2}}]),
        (DIFFERENT, [{"maxReplicas": None}, {"maxReplicas": 3}]),
    ],
)
def test_likeness_of_a_deployment(likeness: Likeness, cases: list[dict[str, Any]]) -> None:
    assert [one for one in cases if PLACEMENT.compare(deployment(**one)).likeness is not likeness] == []


def taken(asked: Any, listed: Sequence[Any], *post: UnansweredPost | None) -> str | None:
    found = choose(asked, listed, *post)
    return found and found.id


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
    assert taken(training(), listed) == expected


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["DEPLOYING", "DEPLOYED"], "DEPLOYED"),
        (["DEPLOYING", "ACTIVE"], "ACTIVE"),
        (["DEPLOY_FAILED", "DEPLOYING"], "DEPLOYING"),
        (["DEPLOY_FAILED", "DELETING", "DELETED", "DELETE_FAILED", "STOPPED"], None),
    ],
)
def test_which_deployment_is_taken(states: list[str], expected: str | None) -> None:
    assert taken(PLACEMENT, [deployment(id=state, state=state) for state in states]) == expected


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
        assert taken(training(), listed, post) == expected


def test_of_several_new_ones_the_one_with_our_name_is_ours() -> None:
    listed = [model(id=one, config=None, createdBy=one) for one in ("somebody", "me")]
    assert taken(training(), listed, SENT) == "me"


def test_an_error_shows_no_keys() -> None:
    asked = training(config={"x": "-----BEGIN PRIVATE KEY-----\nabc"})
    with pytest.raises(AmbiguousResourceError) as caught:
        choose(asked, [model(config=None)])
    assert "PRIVATE" not in str(caught.value)


# Answers that show different things


def test_a_model_shows_what_the_list_leaves_out() -> None:
    listed = model(config=None, region=None, trainingData=None)
    assert training().compare(models.merge_models(model(name=None), listed)).likeness is SAME


def shown(name: str, **fields: Any) -> Deployment:
    return models.read_deployment(answer({"id": name, "state": "DEPLOYED"} | fields))


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
def test_deployments_of_a_model_in_three_responses(own: Any, itself: Any, every: Any, expected: Any) -> None:
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
    known = [model(id="1a2b", name="ranking"), model(id="text-encoder", name=None)]
    assert models.nearest_models(known, given) == sentence
    assert models.nearest_models([], given) == ""
