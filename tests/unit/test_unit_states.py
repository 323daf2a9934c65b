# SPDX-License-Identifier: Apache-2.0
"""The table of ``state_decision``, and what counts as made already."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidworks_provider.client.http.messages import Response
from lucidworks_provider.client.model_specs import DeploymentSpec, TrainingSpec, choose
from lucidworks_provider.client.models import (
    Progress,
    deployment_progress,
    model_progress,
    read_deployment,
    read_deployments,
    read_model,
    read_models,
    read_undeployment,
)
from lucidworks_provider.errors import (
    ConfigurationError,
    InputError,
    LucidworksError,
    MalformedAnswerError,
    ServiceError,
)
from lucidworks_provider.jobs.decisions import (
    GONE,
    READY,
    YOUNG,
    ResourceState,
    Sleep,
    StateEnd,
    StateOutcome,
    judge_state,
    state_decision,
    state_wait,
)

WAIT = None
DONE, FAILED, LATE = StateEnd.REACHED, StateEnd.FAILED, StateEnd.TIMEOUT
OLD = YOUNG + 1


def ok(value: object) -> Response:
    return Response(200, {}, json.dumps(value).encode())


@pytest.mark.parametrize(
    ("kind", "state", "target", "ending"),
    [
        ("model", "AVAILABLE", READY, DONE),
        ("model", "available", READY, DONE),
        ("model", "TRAINING", READY, WAIT),
        ("model", "QUEUED_BY_SOMEBODY", READY, WAIT),
        ("model", "", READY, WAIT),
        ("model", "TRAIN_FAILED", READY, FAILED),
        ("model", "INTERNAL_ERROR", READY, FAILED),
        ("model", None, READY, FAILED),
        ("model", "AVAILABLE", "AVAILABLE", DONE),
        ("model", "TRAIN_FAILED", "TRAIN_FAILED", DONE),
        ("model", "AVAILABLE", "ARCHIVED", WAIT),
        ("deployment", "DEPLOYED", READY, DONE),
        ("deployment", "DEPLOYING", READY, WAIT),
        ("deployment", "DEPLOY_FAILED", READY, FAILED),
        ("deployment", "DELETING", READY, FAILED),
        ("deployment", "DELETED", READY, FAILED),
        ("deployment", "DELETING", "DEPLOYED", FAILED),
        ("deployment", None, READY, FAILED),
        ("deployment", "DEPLOYED", GONE, WAIT),
        ("deployment", "DELETING", GONE, WAIT),
        ("deployment", "DELETING", "DELETED", WAIT),
        ("deployment", "DELETED", GONE, DONE),
        ("deployment", None, GONE, DONE),
        ("deployment", None, "DELETED", DONE),
        ("deployment", "DELETE_FAILED", GONE, FAILED),
        ("deployment", "DEPLOYED", "DELETED", WAIT),
    ],
)
def test_what_a_state_means(kind: str, state: str | None, target: str, ending: StateEnd | None) -> None:
    progress = model_progress if kind == "model" else deployment_progress
    seen = ResourceState(Progress.GONE if state is None else progress(state), state)
    assert judge_state(target, seen, age=OLD, left=100) is ending
    # The deadline ends what would be waited for, and nothing else.
    assert judge_state(target, seen, age=OLD, left=0) is (LATE if ending is WAIT else ending)


def test_what_was_created_a_moment_ago_may_not_be_listed_yet() -> None:
    nothing = ResourceState(Progress.GONE, None)
    assert judge_state(READY, nothing, age=1, left=100) is WAIT
    assert judge_state(READY, nothing, age=1, left=0) is LATE
    assert judge_state(GONE, nothing, age=1, left=100) is DONE


@given(interval=st.floats(0.01, 1000), left=st.floats(-10, 1000), spread=st.floats(0, 1))
def test_polls_come_within_the_interval_and_the_deadline(interval: float, left: float, spread: float) -> None:
    assert 0 <= state_wait(interval, left, lambda: spread) <= min(interval, max(left, 0))


def outcome_of(*script: ResourceState | LucidworksError, deadline: float = 1000.0) -> StateOutcome:
    """Of a wait for READY that polls the script's entries in turn, the last one for ever."""
    now, polls = 0.0, 0
    decision = state_decision(READY, poll_interval=10.0, deadline=deadline, now=lambda: now)
    command = decision.send(None)
    while True:
        try:
            if isinstance(command, Sleep):
                now += command.seconds
                command = decision.send(None)
            else:
                command = decision.send(script[min(polls, len(script) - 1)])
                polls += 1
        except StopIteration as stop:
            return stop.value


def test_errors_and_the_deadline_of_a_wait_for_a_state() -> None:
    running = ResourceState(Progress.RUNNING, "TRAINING")
    ready = ResourceState(Progress.READY, "AVAILABLE")
    away, denied = ServiceError("away", status=503), ConfigurationError("no customer_id")
    assert outcome_of(running, away, ready) == StateOutcome(StateEnd.REACHED, "AVAILABLE")
    assert outcome_of(running, away) == StateOutcome(StateEnd.TIMEOUT, "TRAINING", "away")
    ended = outcome_of(running, denied, ready)
    assert (ended.end, ended.state, ended.retryable) == (StateEnd.ERROR, "TRAINING", False)
    assert "ConfigurationError: no customer_id" in ended.message
    odd = ResourceState(Progress.RUNNING, "RESTING")
    assert outcome_of(odd).message == "RESTING is not a known state."


DATA = {"catalog": "gs://b/c", "signals": "gs://b/s"}
TRAINING = TrainingSpec(
    "n", "ecommerce-rnn", DATA, "r", {"trainer_config.trn_batch_size": 64, "names": ["gru"]}
)


def listed(**fields: Any) -> dict[str, Any]:
    """A model as a list shows it, made as TRAINING asks for."""
    shown = {"id": "m", "state": "AVAILABLE", **TRAINING.as_json(), "vectorSize": "384"}
    return {k: v for k, v in (shown | fields).items() if v is not ...}


@pytest.mark.parametrize(
    ("fields", "ours"),
    [
        ({}, True),
        ({"state": "TRAINING"}, True),
        ({"state": "WHATEVER"}, True),
        ({"state": "TRAIN_FAILED"}, False),
        ({"name": "other"}, False),
        ({"region": "elsewhere"}, False),
        ({"config": {"trainer_config.trn_batch_size": "64", "names": ["gru"], "more": 1}}, True),
        ({"config": {"trainer_config.trn_batch_size": 65}}, False),
        ({"config": {"names": ["lstm"]}}, False),
        ({"config": "mlp"}, False),
        ({"trainingData": DATA | {"catalog": "gs://b/other"}}, False),
    ],
)
def test_a_retry_finds_what_was_made_in_the_same_words(fields: dict[str, Any], ours: bool) -> None:
    pre_trained = {"id": "text-encoder", "modelType": "text-encoder", "state": "AVAILABLE"}
    models = read_models(ok([pre_trained, listed(**fields)]))
    assert (choose(TRAINING, models) is not None) is ours


def test_the_best_of_several_is_taken() -> None:
    def best(*models: dict[str, Any]) -> str:
        found = choose(TRAINING, read_models(ok(list(models))))
        assert found is not None
        return found.id

    old = listed(id="old", trainingStarted="2026-01-01T00:00:00Z")
    new = listed(id="new", trainingStarted="2026-02-01T00:00:00Z")
    running = listed(id="running", state="TRAINING", trainingStarted="2026-03-01T00:00:00Z")
    assert best(new, old, running) == best(old, new) == "new"
    assert best(running) == "running"


@pytest.mark.parametrize(
    ("fields", "ours"),
    [
        ({}, True),
        ({"state": "DEPLOYING"}, True),
        ({"state": "DEPLOY_FAILED"}, False),
        ({"state": "DELETING"}, False),
        ({"minReplicas": 2}, False),
        ({"minReplicas": "1"}, True),
        ({"config": {}}, True),
        ({"region": "elsewhere"}, False),
        ({"modelId": "other"}, False),
    ],
)
def test_a_deployment_is_found_again(fields: dict[str, Any], ours: bool) -> None:
    shown = {
        "id": "d",
        "modelId": "m",
        "region": "r",
        "state": "DEPLOYED",
        "minReplicas": 1,
        "maxReplicas": 1,
    }
    found = choose(DeploymentSpec("m", "r"), read_deployments(ok([shown | fields])))
    assert (found is not None) is ours


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
    ],
)
def test_a_training_that_cannot_work_is_refused(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        TrainingSpec(**{"name": "n", "model_type": "t", "training_data": DATA} | arguments)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model_id": ""}, ["model_id"]),
        ({"model_id": "../models"}, []),
        ({"min_replicas": 0}, ["min_replicas", "from 1"]),
        ({"max_replicas": True}, ["max_replicas", "True"]),
        ({"min_replicas": 3, "max_replicas": 2}, ["3", "2"]),
        ({"config": "x"}, ["config"]),
    ],
)
def test_a_placement_that_cannot_work_is_refused(arguments: dict[str, Any], words: list[str]) -> None:
    if not words:
        # An id is one segment of a path, whatever is in it.
        assert ".." in DeploymentSpec(**arguments).as_json()["modelId"]
        return
    with pytest.raises(InputError) as caught:
        DeploymentSpec(**{"model_id": "m"} | arguments)
    for word in words:
        assert word in str(caught.value)


def test_credentials_that_are_echoed_are_dropped() -> None:
    model = read_model(ok(listed(trainingDataCredentials={"serviceAccountKey": "canary"})))
    assert "canary" not in repr(model) + json.dumps(dict(model.sent))


def test_a_model_is_read_in_all_its_documented_forms() -> None:
    model = read_model(ok(listed(deployments=[{"id": "d", "state": "DEPLOYED"}], later="field")))
    assert (model.vector_size, model.deployments[0].model_id, model.sent["later"]) == (384, "m", "field")
    # The older page shows four fields only.
    old = read_model(ok({"id": "text-encoder", "modelType": "text-encoder", "state": "AVAILABLE"}))
    assert (old.name, old.vector_size, old.progress) == (None, None, Progress.READY)
    assert [one.id for one in read_models(ok({"models": [listed()]}))] == ["m"]


@pytest.mark.parametrize(
    "body",
    [b"", b"[", b"{}", b"[1]", b'[{"name": "n"}]', b'[{"id": ""}]', b'{"id": null}', b'"x"', b"<html>"],
)
def test_what_cannot_be_read_is_named(body: bytes) -> None:
    for read in (read_models, read_model, read_deployments, read_deployment):
        with pytest.raises(MalformedAnswerError):
            read(Response(200, {}, body))


def test_a_deletion_needs_no_body() -> None:
    assert read_undeployment(Response(204, {}, b"")) is None
    assert read_undeployment(ok({"id": "d", "state": "DELETED"})) == "DELETED"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "state", "name", "vectorSize", "deployments", "config", "modelId", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_no_answer_breaks_a_reader(value: object) -> None:
    for read in (read_models, read_model, read_deployments, read_deployment, read_undeployment):
        with contextlib.suppress(LucidworksError):
            read(ok(value))
