# SPDX-License-Identifier: Apache-2.0
"""Models and deployments of a service that hides fields, rewrites texts, loses answers or lacks paths."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from model_service import (
    DATA,
    ModelService,
    Store,
    attempt,
    both,
    deployment_sensor,
    model_service,
    run,
    run_and_die,
    train,
    undeploy,
)
from model_service import deploy as deploy_bare
from operator_service import Service

from lucidworks_provider.errors import (
    AmbiguousResourceError,
    InputError,
    JobFailedError,
    JobTimeoutError,
    SubmissionUnknownError,
    UnknownResourceError,
)

ALL = ["config", "region", "trainingData", "modelType"]
stores = pytest.mark.parametrize("store", [True, False], ids=["with state store", "without state store"])


@pytest.fixture
def service(service: Service, monkeypatch: pytest.MonkeyPatch) -> ModelService:
    return model_service(service, monkeypatch, seconds=0)


def deploy(model_id: str, **arguments: Any) -> Any:
    return deploy_bare(model_id, **{"config": {"a": 1}} | arguments)


def trained() -> str:
    return str(train().execute(attempt()))


def deployed() -> str:
    return str(deploy(trained()).execute(attempt()))


# The list shows less than was requested

OTHER_TRAININGS = {
    "config": {"config": {"trainer_config.num_epochs": 2}},
    "trainingData": {"training_data": DATA | {"signals": "gs://bucket/other"}},
    "region": {"region": "europe"},
    "modelType": {"model_type": "general-rnn"},
    "name": {"name": "other"},
}


@pytest.mark.parametrize("hidden", [*([field] for field in OTHER_TRAININGS), [*OTHER_TRAININGS]], ids=str)
def test_the_model_shows_what_the_list_leaves_out(service: Service, hidden: list[str]) -> None:
    service.settings(hidden_fields={"list-models": hidden})
    first = trained()
    for field in hidden:
        assert train(**OTHER_TRAININGS[field]).execute(attempt()) != first
    assert train().execute(attempt()) == first
    assert service.count("create-model") == 1 + len(hidden)


@pytest.mark.parametrize("hidden", [["config"], ["region"], ["trainingData"], ["modelType"], ["name"], ALL])
def test_what_is_shown_nowhere_is_an_error_before_any_post(service: Service, hidden: list[str]) -> None:
    service.settings(hidden_fields={"list-models": hidden, "get-model": hidden})
    first = trained()
    for other in ({}, OTHER_TRAININGS[hidden[0]]):
        with pytest.raises(AmbiguousResourceError) as caught:
            train(**other).execute(attempt())
        assert not caught.value.retryable
        for words in (first, "'reuse'", "'create'", *(f"{field}: requested" for field in hidden)):
            assert words in str(caught.value)
    assert service.trained() == [first]
    assert service.count("create-model") == 1
    assert train(if_ambiguous="reuse").execute(attempt()) == first
    assert train(if_ambiguous="create").execute(attempt()) != first


def test_a_state_that_the_list_leaves_out(service: Service) -> None:
    hidden = {"list-models": ["state"], "list-model-deployments": ["state"]}
    service.settings(hidden_fields=hidden, training_fails=True)
    with pytest.raises(JobFailedError):
        train().execute(attempt())
    service.settings(training_fails=False)
    model = trained()
    service.settings(deploy_fails=True)
    with pytest.raises(JobFailedError):
        deploy(model).execute(attempt())
    service.settings(deploy_fails=False)
    deploy(model).execute(attempt())
    assert (service.count("create-model"), service.count("deploy")) == (2, 2), "what failed is made again"


def test_a_noted_id_is_no_doubt(service: Service) -> None:
    store = Store()
    service.settings(hidden_fields={"list-models": ALL, "get-model": ALL})
    first = train().execute(attempt(1, store))
    assert train().execute(attempt(2, store)) == first


LISTS = ["list-deployments", "list-model-deployments", "get-model"]
HIDDEN = {"list-deployments": "{}", "list-model-deployments": "{}", "get-model": "deployments.{}"}


def hidden_in(endpoints: list[str], *fields: str) -> dict[str, list[str]]:
    return {one: [HIDDEN[one].format(field) for field in fields] for one in endpoints}


@pytest.mark.parametrize("showing", LISTS)
def test_one_of_three_responses_shows_the_region_of_a_deployment(service: Service, showing: str) -> None:
    model = trained()
    service.settings(hidden_fields=hidden_in([one for one in LISTS if one != showing], "region"))
    first = deploy(model).execute(attempt())
    assert deploy(model, region="europe").execute(attempt()) != first
    assert deploy(model).execute(attempt()) == first
    assert service.count("deploy") == 2


@pytest.mark.parametrize("hidden", ["region", "config", "maxReplicas"])
def test_an_ambiguous_deployment_is_an_error(service: Service, hidden: str) -> None:
    model = trained()
    service.settings(hidden_fields=hidden_in(LISTS, hidden))
    first = deploy(model, max_replicas=2).execute(attempt())
    other = {"region": {"region": "europe"}, "config": {"config": {"a": 2}}, "maxReplicas": {}}[hidden]
    if hidden == "maxReplicas":
        # The documented default is shown nowhere, so it is no doubt.
        assert deploy(model, max_replicas=1, if_ambiguous="create").execute(attempt()) == first
        return
    with pytest.raises(AmbiguousResourceError, match=rf"{model}.*{first}.*{hidden}: requested"):
        deploy(model, max_replicas=2, **other).execute(attempt())
    assert service.deployed() == [first]
    assert deploy(model, max_replicas=2, if_ambiguous="reuse", **other).execute(attempt()) == first
    assert deploy(model, max_replicas=2, if_ambiguous="create", **other).execute(attempt()) != first


@pytest.mark.parametrize("make", [train, lambda **more: deploy("m", **more)], ids=["train", "deploy"])
def test_a_wrong_policy_is_refused(service: Service, make: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="if_ambiguous is 'maybe'; use one of fail, reuse, create"):
        make(if_ambiguous="maybe").execute(attempt())
    assert service.nothing_sent()


# A POST without an answer, and a service with words of its own


# What a client may take for its own words; which texts are, is in ``test_unit_api_models.py``.
SIMILAR = [
    {"ecommerce-rnn": "ECOMMERCE_RNN"},
    {"us": "gcp-us-east1", "ecommerce-rnn": "Ecommerce-RNN", "shop": "Shop"}
    | {"gs://bucket/catalog": "https://storage.googleapis.com/bucket/catalog"},
]
FOREIGN = [{"us": "southcarolina"}, {"ecommerce-rnn": "rnn/v2", "gs://bucket/catalog": "catalog-17"}]
LOST = ["disconnect-after", "error-after", "cut-json", "reset", "br"]


@pytest.mark.parametrize("kind", LOST)
def test_a_training_without_a_response_is_found_in_other_words(service: Service, kind: str) -> None:
    service.settings(rewritten_texts=SIMILAR[1])
    service.fault("create-model", kind)
    assert [train().execute(attempt())] == service.trained()
    assert service.count("create-model") == 1


@pytest.mark.parametrize("texts", FOREIGN, ids=str)
def test_what_may_be_ours_in_foreign_words_is_an_error_before_a_second_post(
    service: Service, texts: dict[str, str]
) -> None:
    service.settings(rewritten_texts=texts)
    service.fault("create-model", "error-after")
    with pytest.raises(AmbiguousResourceError) as caught:
        train().execute(attempt())
    [model] = service.trained()
    assert all(words in str(caught.value) for words in (model, *texts.values()))
    assert service.count("create-model") == 1


@pytest.mark.parametrize(
    ("kind", "texts"),
    [(kind, {"us": "us-east1"}) for kind in LOST] + [("error-after", {"us": "southcarolina"})],
)
def test_a_deployment_without_a_response(service: Service, kind: str, texts: dict[str, str]) -> None:
    model = trained()
    service.settings(rewritten_texts=texts, deploy_seconds=0.2)
    service.fault("deploy", kind)
    if texts["us"] == "us-east1":
        assert [deploy(model).execute(attempt())] == service.deployed()
    else:
        with pytest.raises(AmbiguousResourceError, match="southcarolina"):
            deploy(model).execute(attempt())
    assert (len(service.deployed()), service.count("deploy")) == (1, 1)


@stores
@pytest.mark.parametrize("texts", [*SIMILAR, *FOREIGN], ids=str)
def test_a_worker_that_dies_after_the_post_never_trains_twice(
    service: Service, store: bool, texts: dict[str, str]
) -> None:
    service.settings(rewritten_texts=texts)
    state = Store() if store else None
    run_and_die(train(), attempt(1, state), after="create_model")
    # Without a store it is not known that there was a POST; what is the same word for the client is taken anyhow.
    if (store and texts in SIMILAR) or texts == SIMILAR[0]:
        assert [train().execute(attempt(2, state))] == service.trained()
    else:
        with pytest.raises(AmbiguousResourceError, match=service.trained()[0]):
            train().execute(attempt(2, state))
    assert service.count("create-model") == 1


@pytest.mark.parametrize(
    ("texts", "store", "taken"),
    [
        ({"us": "us-east1"}, True, True),
        ({"us": "us-east1"}, False, False),
        ({"us": "southcarolina"}, True, False),
    ],
)
def test_a_worker_that_dies_after_the_post_never_deploys_twice(
    service: Service, texts: dict[str, str], store: bool, taken: bool
) -> None:
    model = trained()
    service.settings(rewritten_texts=texts)
    state = Store() if store else None
    run_and_die(deploy(model), attempt(1, state), after="create_deployment")
    if taken:
        assert [deploy(model).execute(attempt(2, state))] == service.deployed()
    else:
        with pytest.raises(AmbiguousResourceError, match=service.deployed()[0]):
            deploy(model).execute(attempt(2, state))
    assert service.count("deploy") == 1


def test_a_post_that_made_nothing_leaves_no_doubt(service: Service) -> None:
    store = Store()
    service.fault("create-model", "403")
    with pytest.raises(Exception, match="403"):
        train().execute(attempt(1, store))
    # Another task's, of the same name and made meanwhile.
    other = train(config={"trainer_config.num_epochs": 9}).execute(attempt())
    assert train().execute(attempt(2, store)) != other


@stores
def test_an_order_that_did_not_arrive_is_sent_by_the_retry(service: Service, store: bool) -> None:
    state = Store() if store else None
    old = train(config={"trainer_config.num_epochs": 9}).execute(attempt())
    service.emulator.state.clock.advance(7200)
    service.fault("create-model", "disconnect")
    with pytest.raises(SubmissionUnknownError):
        train().execute(attempt(1, state))
    retried = attempt(2, state)
    retried["dag_run"].start_date = datetime.fromtimestamp(service.emulator.state.clock(), UTC)
    assert train().execute(retried) not in {old, None}
    assert len(service.trained()) == 2


def test_an_unknown_word_is_waited_for_and_shown_once(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.settings(rewritten_texts={"AVAILABLE": "TRAINED"})
    with pytest.raises(JobTimeoutError, match="TRAINED is not a known state"):
        train(timeout=0.4).execute(attempt())
    assert caplog.text.count("TRAINED is not a known state") == 1


# Lists of deployments that are not there


@both
@pytest.mark.parametrize(
    "missing",
    [["list-deployments"], ["list-model-deployments"], ["list-deployments", "list-model-deployments"]],
    ids=str,
)
def test_another_list_shows_the_deployment(service: Service, missing: list[str], deferrable: bool) -> None:
    other = trained()
    model = str(train(name="second").execute(attempt()))
    deploy(other).execute(attempt())
    service.settings(missing_endpoints=missing, deploy_seconds=0.1, undeploy_seconds=0.1)
    # What the model itself shows has no replicas and no configuration.
    deployment = str(run(lambda: deploy(model, config=None), deferrable=deferrable))
    assert deploy(model, config=None).execute(attempt()) == deployment
    run(lambda: deployment_sensor(deployment), deferrable=deferrable)
    run(lambda: undeploy(deployment), deferrable=deferrable)
    assert (deployment in service.deployed(), service.count("deploy")) == (False, 2)


def test_no_list_at_all_is_an_error_that_names_the_option(service: Service) -> None:
    model = trained()
    deployment = str(deploy(model).execute(attempt()))
    service.settings(
        missing_endpoints=["list-deployments", "list-model-deployments"],
        hidden_fields={"list-models": ["deployments"], "get-model": ["deployments"]},
    )
    for task in (deploy(model), undeploy(deployment)):
        with pytest.raises(UnknownResourceError, match="deployments_path"):
            task.execute(attempt())
    assert service.deployed() == [deployment]


# The two paths of a deletion


def paths(deployment: str) -> list[str]:
    return [
        f"/customers/{deployment}/ai/deployments",
        f"/customers/demo-customer/ai/deployments/{deployment}",
    ]


def test_the_documented_path_comes_first(service: Service) -> None:
    deployment = deployed()
    undeploy(deployment).execute(attempt())
    assert service.deletions() == [(paths(deployment)[0], 200)]


@pytest.mark.parametrize("status", [400, 403, 404, 405, 409, 410, 415, 422])
def test_the_usual_path_comes_after_a_refusal(service: Service, status: int) -> None:
    deployment = deployed()
    service.settings(undeploy_path="rest", undeploy_refusal=status)
    undeploy(deployment).execute(attempt())
    assert service.deletions() == list(zip(paths(deployment), (status, 200), strict=True))
    assert service.deployed() == []


@pytest.mark.parametrize("kind", ["unauthorized", "429", "500", "503", "html", "disconnect", "timeout"])
def test_what_is_not_about_the_path_is_sent_again_to_the_same(service: Service, kind: str) -> None:
    deployment = deployed()
    service.fault("undeploy", kind, delay=0.01)
    undeploy(deployment).execute(attempt())
    assert [path for path, _ in service.deletions()] == [paths(deployment)[0]] * 2
