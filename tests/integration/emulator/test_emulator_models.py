# SPDX-License-Identifier: Apache-2.0
"""The Models API (section 10): training, deployment, deletion, and what a deployment is good for."""

import json
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import requests
from emulator_client import MODEL, PREDICT, Caller

from lucidworks_provider.emulator import EmulatorSettings
from lucidworks_provider.emulator.server import RunningEmulator

KEY = "a-key-that-nobody-may-see"
DATA = {"catalog": "gs://bucket/catalog", "signals": "gs://bucket/signals"}
ORDER: dict[str, Any] = {"name": "shop", "trainingData": DATA}
ENCODER = "trainer_config.encoder_config"
CONFIG = {
    **dict.fromkeys(("dataset_config", "trainer_config"), "mlp_ecommerce"),
    **{"trainer_config/text_processor_config": "word_en", "trainer_config.trn_batch_size": 123},
    **{"trainer_config.num_epochs": 1, "trainer_config.monitor_patience": 8},
    **{f"{ENCODER}.rnn_names_list": ["gru"], f"{ENCODER}.rnn_units_list": [128]},
    **{f"{ENCODER}.emb_spdp": 0.3, f"{ENCODER}.emb_trainable": True},
}
# Only the clock on order ends a training here, so nothing depends on the speed of the machine.
SETTINGS = EmulatorSettings(training_seconds=1000, deploy_seconds=100, pending_polls=0)


@pytest.fixture
def caller(emulator: RunningEmulator) -> Caller:
    emulator.state.reset()
    return Caller(emulator).log_in(MODEL)


@pytest.fixture
def predicting(caller: Caller) -> Caller:
    """The same client with a token of the other scope; the scopes do not disturb each other."""
    return Caller(caller.emulator).log_in(PREDICT)


def good(answer: requests.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def get(caller: Caller, path: str) -> Any:
    return good(caller.customer("GET", path))


def delete(caller: Caller, deployment: str) -> Any:
    return good(caller.customer("DELETE", f"deployments/{deployment}"))


def train(caller: Caller, **more: Any) -> Any:
    return good(caller.customer("POST", "models", json={**ORDER, **more}))


def trained(caller: Caller, **more: Any) -> str:
    model = train(caller, **more)["id"]
    caller.advance(1000)
    return str(model)


def deploy(caller: Caller, model_id: str, **more: Any) -> Any:
    return good(caller.customer("POST", "deployments", json={"modelId": model_id, **more}))


def deployed(caller: Caller) -> str:
    deployment = deploy(caller, trained(caller))["id"]
    caller.advance(100)
    return str(deployment)


def embeds(predicting: Caller, model: str) -> int:
    """The status of a prediction."""
    return predicting.predict("embedding", "x", model=model).status_code


def is_date_time(text: str) -> bool:
    return text.endswith("Z") and datetime.fromisoformat(text).tzinfo is not None


def test_pre_trained_models(caller: Caller) -> None:
    listed = get(caller, "models")
    assert [one["id"] for one in listed] == ["multilinguallm", "text-encoder", "clip-encoder"]
    assert all(one["modelType"] == one["id"] and one["state"] == "AVAILABLE" for one in listed)
    assert get(caller, "models/text-encoder") == listed[1]
    assert "name" not in listed[1]
    assert listed[1]["vectorSize"] == "384"
    caller.set(vector_size_text=False)
    assert get(caller, "models/text-encoder")["vectorSize"] == 384


def test_from_training_to_the_end_of_a_deployment(caller: Caller, predicting: Caller) -> None:
    order = {**ORDER, "modelType": "ecommerce_rnn", "region": "us-x", "config": CONFIG}
    model = train(caller, **order)
    path = f"models/{UUID(model['id'])}"
    assert {name: model[name] for name in order} == order
    assert (model["state"], model["createdBy"], model["deployments"]) == ("TRAINING", "demo-client", [])
    assert is_date_time(model["trainingStarted"])
    assert "trainingCompleted" not in model
    assert get(caller, path) == model
    body = {
        "modelId": model["id"],
        "region": "us-y",
        "config": {"a": [1]},
        "minReplicas": 1,
        "maxReplicas": 2,
    }
    assert caller.customer("POST", "deployments", json=body).status_code == 400
    caller.advance(1000)
    model = get(caller, path)
    assert (model["state"], is_date_time(model["trainingCompleted"])) == ("AVAILABLE", True)
    assert get(caller, "models")[-1] == model

    deployment = good(caller.customer("POST", "deployments", json=body))
    assert {name: deployment[name] for name in body} == body
    assert (deployment["state"], deployment["createdBy"]) == ("DEPLOYING", "demo-client")
    assert "deployedAt" not in deployment
    assert embeds(predicting, deployment["id"]) == 404
    caller.advance(100)
    [deployment] = get(caller, "deployments")
    assert (deployment["state"], is_date_time(deployment["deployedAt"])) == ("DEPLOYED", True)
    assert get(caller, f"{path}/deployments") == [deployment]
    short = {name: deployment[name] for name in ("id", "region", "state", "deployedAt")}
    assert get(caller, path)["deployments"] == [short]

    served = predicting.predict("embedding", "x", model=deployment["id"])
    assert len(good(served)["predictions"][0]["vector"]) == int(model["vectorSize"]) == 384
    assert predicting.chunk("x", model=deployment["id"].upper())["status"] == "READY"
    tokens = {"batch": [{"text": "x"}]}
    assert predicting.call("POST", f"/ai/tokenization/{deployment['id']}", json=tokens).status_code == 200
    config = {"labels": ["a"]}
    labelled = predicting.predict("classification", "x", model=deployment["id"].upper(), useCaseConfig=config)
    assert set(good(labelled)["predictions"][0]["labels"]) == {"a"}
    use_cases = {one["useCase"]: one["models"] for one in good(predicting.call("GET", "/ai/usecases"))}
    serving = {name for name, models in use_cases.items() if deployment["id"] in models}
    assert serving == {"embedding", "classification"}
    assert model["id"] not in use_cases["embedding"]
    assert embeds(predicting, model["id"]) == 404

    gone = delete(caller, deployment["id"])
    assert (gone["id"], gone["state"]) == (deployment["id"], "DELETED")
    assert get(caller, "deployments") == get(caller, f"{path}/deployments") == []
    assert embeds(predicting, deployment["id"]) == 404
    assert predicting.submit(model=deployment["id"]).status_code == 404
    assert caller.customer("DELETE", f"deployments/{deployment['id']}").status_code == 404


def test_two_deployments_of_a_model_and_one_of_another(caller: Caller) -> None:
    model = trained(caller)
    for wanted in (model, model.upper(), "text-encoder"):
        deploy(caller, wanted)
    paths = ("deployments", f"models/{model}/deployments", "models/clip-encoder/deployments")
    assert [len(get(caller, path)) for path in paths] == [3, 2, 0]


@pytest.mark.parametrize(
    ("switch", "literal", "rest"),
    [
        ({"undeploy_path": "both"}, 200, 200),
        ({"undeploy_path": "literal"}, 200, 404),
        ({"undeploy_path": "rest"}, 404, 200),
        ({"undeploy_path": "literal", "undeploy_refusal": 409}, 200, 409),
    ],
    ids=str,
)
def test_readings_of_the_path_of_delete(
    caller: Caller, switch: dict[str, Any], literal: int, rest: int
) -> None:
    caller.set(**switch)
    # A body, which the generated examples show, is ignored.
    first = caller.customer("DELETE", "deployments", customer=deployed(caller), json={})
    second = caller.customer("DELETE", f"deployments/{deployed(caller)}", data=b"{")
    assert (first.status_code, second.status_code) == (literal, rest)
    assert len(get(caller, "deployments")) == 2 - [literal, rest].count(200)
    # The customer is no deployment.
    assert caller.customer("DELETE", "deployments").status_code == 404


def test_a_deletion_that_takes_time(caller: Caller, predicting: Caller) -> None:
    caller.set(undeploy_seconds=50)
    deployment = deployed(caller)
    for _ in range(2):  # the second one does not begin anew
        assert delete(caller, deployment)["state"] == "DELETING"
        assert get(caller, "deployments")[0]["state"] == "DELETING"
        assert embeds(predicting, deployment) == 404
        caller.advance(25)
    assert get(caller, "deployments") == []


def test_training_deployment_and_deletion_that_fail(caller: Caller) -> None:
    caller.set(training_fails=True)
    model = trained(caller)
    assert get(caller, f"models/{model}")["state"] == "TRAIN_FAILED"
    assert caller.customer("POST", "deployments", json={"modelId": model}).status_code == 400
    caller.set(training_fails=False, deploy_fails=True, undeploy_fails=True)
    deployment = deployed(caller)
    assert get(caller, "deployments")[0]["state"] == "DEPLOY_FAILED"
    assert delete(caller, deployment)["state"] == "DELETE_FAILED"
    assert get(caller, "deployments")[0]["state"] == "DELETE_FAILED"
    caller.set(undeploy_fails=False)
    assert delete(caller, deployment)["state"] == "DELETED"
    assert get(caller, "deployments") == []


def test_forced_states(caller: Caller, predicting: Caller) -> None:
    model = train(caller)["id"]
    assert caller.control("GET", f"/models/{model}")["state"] == "TRAINING"
    for state in ("QUEUED_SOMEWHERE", "TRAIN_ERROR", "AVAILABLE"):
        assert caller.control("POST", f"/models/{model}", state=state)["state"] == state
        assert get(caller, f"models/{model}")["state"] == state
    deployment = deploy(caller, model)["id"]
    path = f"/deployments/{deployment}"
    for state, status in (("DEPLOYED", 200), ("SLEEPING", 404)):
        assert caller.control("POST", path, state=state)["state"] == state
        assert embeds(predicting, deployment) == status
    assert caller.control("POST", path, state=None)["state"] == "DEPLOYING"
    assert [one["id"] for one in caller.control("GET", "/deployments")] == [deployment]
    assert caller.control("POST", path, state="GONE") == {"id": deployment, "state": "GONE"}
    assert get(caller, "deployments") == []
    caller.control("POST", f"/models/{model}", state="GONE")
    assert caller.customer("GET", f"models/{model}").status_code == 404
    assert len(caller.control("GET", "/models")) == 3


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("models/none", {"state": "X"}, 404),
        ("deployments/none", {"state": "X"}, 404),
        ("models/text-encoder", {}, 400),
        ("models/text-encoder", {"state": ""}, 400),
        ("models/text-encoder", {"state": 1}, 400),
        ("models/text-encoder", {"state": "X", "message": "m"}, 400),
    ],
)
def test_control_refuses_nonsense(caller: Caller, path: str, body: dict[str, object], status: int) -> None:
    answer = requests.post(f"{caller.emulator.url}/_emulator/{path}", json=body, timeout=5)
    assert (answer.status_code, bool(answer.json()["message"])) == (status, True)


def test_metrics(caller: Caller) -> None:
    model = train(caller)["id"]
    assert get(caller, f"models/{model}?metrics=true")["metrics"] == {}
    caller.advance(1000)
    metrics = get(caller, f"models/{model}?metrics=true")["metrics"]
    assert metrics
    assert all(0 <= value <= 1 for value in metrics.values())
    for query in ("", "?metrics=false"):
        assert "metrics" not in get(caller, f"models/{model}{query}")
    assert caller.customer("GET", f"models/{model}?metrics=yes").status_code == 400


def test_credentials_are_not_shown_unless_ordered(caller: Caller) -> None:
    credentials = {"serviceAccountKey": KEY}
    created = caller.customer("POST", "models", json={**ORDER, "trainingDataCredentials": credentials})
    path = f"models/{good(created)['id']}"
    wrong = {**ORDER, "trainingDataCredentials": {**credentials, "other": KEY}}
    refused = caller.customer("POST", "models", json=wrong)
    assert refused.status_code == 400
    seen = [created, caller.customer("GET", path), caller.customer("GET", "models"), refused]
    assert KEY not in "".join(one.text for one in seen)
    caller.set(echo_credentials=True)
    assert get(caller, path)["trainingDataCredentials"] == credentials
    for shown in ("/log", "/models", "/settings", f"/{path}"):
        assert KEY not in json.dumps(caller.control("GET", shown))
    assert KEY not in repr(caller.emulator.state.registry.models())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "models"),
        ("POST", "models"),
        ("GET", "models/text-encoder"),
        ("GET", "models/text-encoder/deployments"),
        ("GET", "deployments"),
        ("POST", "deployments"),
        ("DELETE", "deployments/00000000-0000-4000-8000-000000000000"),
    ],
)
def test_callers_that_are_refused(caller: Caller, predicting: Caller, method: str, path: str) -> None:
    assert caller.call(method, f"/customers/demo-customer/ai/{path}", "abc", json={}).status_code == 401
    assert predicting.customer(method, path, json={}).status_code == 403
    assert caller.customer(method, path, customer="somebody-else", json={}).status_code == 403
    caller.control("POST", "/tokens/kill", scope=MODEL)
    assert caller.customer(method, path, json={}).status_code == 401
    if method == "DELETE":
        literal = predicting.customer("DELETE", "deployments", customer=str(uuid4()))
        assert literal.status_code == 403
    else:
        caller.log_in(MODEL).set(customer_id="us")
        assert caller.customer(method, path, json={}).status_code == 403
        assert caller.customer(method, path, customer="us", json={}).status_code in {200, 400}


def config(**changes: Any) -> dict[str, Any]:
    return {**ORDER, "config": changes}


INVALID: list[tuple[str, Any, str]] = [
    ("models", [], "body"),
    ("models", {"trainingData": DATA}, "name"),
    ("models", {**ORDER, "name": ""}, "name"),
    ("models", {**ORDER, "name": 1}, "name"),
    ("models", {"name": "x"}, "trainingData"),
    ("models", {**ORDER, "trainingData": "gs://bucket"}, "trainingData"),
    ("models", {**ORDER, "trainingData": {}}, "trainingData"),
    ("models", {**ORDER, "trainingData": {"catalog": ""}}, "trainingData.catalog"),
    ("models", {**ORDER, "trainingData": {**DATA, "signals": ["s"]}}, "trainingData.signals"),
    ("models", {**ORDER, "trainingData": {**DATA, "queries": "q"}}, "queries"),
    ("models", {**ORDER, "modelType": None}, "modelType"),
    ("models", {**ORDER, "region": 5}, "region"),
    ("models", {**ORDER, "trainingDataCredentials": {}}, "serviceAccountKey"),
    ("models", {**ORDER, "trainingDataCredentials": KEY}, "trainingDataCredentials"),
    ("models", {**ORDER, "description": "x"}, "description"),
    ("models", {**ORDER, "config": "word_en"}, "config"),
    ("models", config(dataset_config=1), "dataset_config"),
    ("models", config(trainer_config={"num_epochs": 1}), "trainer_config"),
    ("models", config(other={"a": 1}), "other"),
    ("models", config(**{"trainer_config.num_epochs": "1"}), "num_epochs"),
    ("models", config(**{"trainer_config.trn_batch_size": 0}), "trn_batch_size"),
    ("models", config(**{f"{ENCODER}.rnn_names_list": "gru"}), "rnn_names_list"),
    ("models", config(**{f"{ENCODER}.rnn_units_list": [1.5]}), "rnn_units_list"),
    ("models", config(**{f"{ENCODER}.emb_spdp": 1.5}), "emb_spdp"),
    ("models", config(**{f"{ENCODER}.emb_trainable": 1}), "emb_trainable"),
    ("deployments", {}, "modelId"),
    ("deployments", {"modelId": 7}, "modelId"),
    ("deployments", {"modelId": "text-encoder", "minReplicas": 0}, "minReplicas"),
    ("deployments", {"modelId": "text-encoder", "maxReplicas": "2"}, "maxReplicas"),
    ("deployments", {"modelId": "text-encoder", "minReplicas": 3, "maxReplicas": 2}, "minReplicas"),
    ("deployments", {"modelId": "text-encoder", "minReplicas": 2}, "maxReplicas"),
    ("deployments", {"modelId": "text-encoder", "config": []}, "config"),
    ("deployments", {"modelId": "text-encoder", "region": ""}, "region"),
    ("deployments", {"modelId": "text-encoder", "replicas": 1}, "replicas"),
]


@pytest.mark.parametrize(("path", "body", "field"), INVALID)
def test_invalid_bodies_name_the_field(caller: Caller, path: str, body: Any, field: str) -> None:
    answer = caller.customer("POST", path, json=body)
    assert answer.status_code == 400, answer.text
    assert field in answer.json()["message"]
    assert KEY not in answer.text


def test_unknown_options_and_unknown_keys_of_the_configuration(caller: Caller) -> None:
    train(caller, config={**CONFIG, "trainer_config.new": [1, 2]})
    caller.set(unknown_options="ignore")
    train(caller, description="x")


def test_unknown_models(caller: Caller) -> None:
    assert caller.customer("GET", f"models/{uuid4()}").status_code == 404
    assert caller.customer("GET", f"models/{uuid4()}/deployments").status_code == 404
    assert caller.customer("POST", "deployments", json={"modelId": str(uuid4())}).status_code == 404
    assert caller.customer("DELETE", f"models/{trained(caller)}").status_code == 405  # no page has it
    assert caller.customer("POST", "models", data=b"{}").status_code == 400  # no content type


def test_faults_log_counts_and_reset(caller: Caller) -> None:
    model = trained(caller)
    caller.fault("503", "get-model")
    paths = ("models", f"models/{model}", f"models/{model}")
    assert [caller.customer("GET", path).status_code for path in paths] == [200, 503, 200]
    caller.fault("disconnect-after", "deploy")
    with pytest.raises(requests.ConnectionError):
        deploy(caller, model)
    orphan = get(caller, "deployments")[0]["id"]
    caller.customer("DELETE", "deployments", customer=orphan)
    get(caller, f"models/{model}/deployments")
    log = caller.control("GET", "/log")[1:]
    assert [(one["endpoint"], one["model"], one["deployment"]) for one in log] == [
        ("create-model", model, None),
        ("list-models", None, None),
        ("get-model", None, None),  # the fault came first
        ("get-model", model, None),
        ("deploy", model, orphan),
        ("list-deployments", None, None),
        ("undeploy", None, orphan),
        ("list-model-deployments", model, None),
    ]
    assert caller.control("GET", "/stats")["calls"]["get-model"] == 2
    caller.set(rate_limit=1)
    assert [caller.customer("GET", "models").status_code for _ in range(2)] == [200, 429]
    caller.control("POST", "/reset")
    assert len(caller.control("GET", "/models")) == 3
    assert caller.control("GET", "/deployments") == []


# A service that hides, rewrites and lacks


def test_fields_that_a_response_leaves_out(caller: Caller) -> None:
    model = trained(caller, region="us", config=CONFIG)
    deploy(caller, model)
    hidden = {"list-models": ["config", "deployments.region"], "get-model": ["trainingData.signals"]}
    caller.set(hidden_fields={**hidden, "list-deployments": ["region"]})
    listed = get(caller, "models")[-1]
    assert "config" not in listed
    assert listed["region"] == "us"
    assert "region" not in listed["deployments"][0]
    shown = get(caller, f"models/{model}")
    assert (shown["config"], set(shown["trainingData"])) == (CONFIG, {"catalog"})
    assert "region" not in get(caller, "deployments")[0]
    assert "region" in get(caller, f"models/{model}/deployments")[0]
    caller.set(hidden_fields={})
    assert get(caller, "models")[-1]["config"] == CONFIG


def test_texts_in_other_words(caller: Caller) -> None:
    caller.set(rewritten_texts={"us": "us-east1", "AVAILABLE": "TRAINED"})
    model = train(caller, region="us")
    assert (model["region"], model["state"]) == ("us-east1", "TRAINING")
    caller.advance(1000)
    assert get(caller, f"models/{model['id']}")["state"] == "TRAINED"
    # It is shown so, and works as ever.
    deploy(caller, model["id"])


def test_endpoints_that_are_missing(caller: Caller) -> None:
    caller.set(missing_endpoints=["list-deployments"])
    assert caller.customer("GET", "deployments").status_code == 404
    assert get(caller, "models/text-encoder/deployments") == []


def test_an_error_after_the_operation(caller: Caller) -> None:
    caller.fault("error-after", "create-model")
    assert caller.customer("POST", "models", json=ORDER).status_code == 500
    assert get(caller, "models")[-1]["name"] == "shop"


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_fields": ["config"]},
        {"hidden_fields": {"list-models": "config"}},
        {"hidden_fields": {"no-such-endpoint": ["config"]}},
        {"rewritten_texts": {"us": 1}},
        {"missing_endpoints": "deploy"},
        {"missing_endpoints": ["no-such-endpoint"]},
        {"undeploy_refusal": 500},
        {"undeploy_refusal": "404"},
    ],
    ids=str,
)
def test_switches_of_models_that_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        EmulatorSettings().patched(change)


def test_switches_of_models_are_shown_as_they_are_set() -> None:
    changes: dict[str, Any] = {
        "hidden_fields": {"list-models": ["config"]},
        "rewritten_texts": {"us": "us-east1"},
        "missing_endpoints": ["list-deployments"],
    }
    shown = json.loads(json.dumps(EmulatorSettings().patched(changes).public()))
    assert {name: shown[name] for name in changes} == changes
