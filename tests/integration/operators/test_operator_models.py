# SPDX-License-Identifier: Apache-2.0
"""Training, deploying, undeploying and the sensors, against the emulator over real sockets."""

import asyncio
import contextlib
import copy
import json
import logging
import pickle
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
)
from made_up_calls import raising, returning
from model_service import (
    CONFIG,
    DATA,
    FOREVER,
    NEVER_MADE,
    ModelService,
    Store,
    attempt,
    both,
    defer,
    deploy,
    deployment_sensor,
    event_of,
    model_sensor,
    model_service,
    run,
    run_and_die,
    train,
    undeploy,
)
from operator_service import Service, new_context, serialized

from dev.processes import until
from lucidworks_provider.client import models
from lucidworks_provider.client.http.aio import AsyncTransport
from lucidworks_provider.client.http.messages import Response
from lucidworks_provider.client.http.rate_limiter import queue_of
from lucidworks_provider.client.model_specs import DeploymentSpec, TrainingSpec
from lucidworks_provider.client.models import (
    create_deployment,
    create_model,
    delete_deployment,
    get_model,
    list_deployments,
    list_model_deployments,
    list_models,
    unseen_deployment,
)
from lucidworks_provider.errors import (
    ConfigurationError,
    ForbiddenError,
    InputError,
    JobFailedError,
    JobTimeoutError,
    LucidworksError,
    RequestRefusedError,
    ResponseError,
    StorageError,
    SubmissionUnknownError,
    UnknownResourceError,
)
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.jobs import decisions, polling
from lucidworks_provider.operators.models import (
    LucidworksTrainModelOperator,
)
from lucidworks_provider.triggers import LucidworksStateTrigger

# In the middle of a key file, as a private key is.
CANARY = "canary-5d1f-of-a-private-key"
KEY_FILE = {"type": "service_account", "private_key": f"-----BEGIN KEY-----\n{CANARY}\n", "project_id": "p"}
KEY = json.dumps(KEY_FILE)
# Of a run of which nothing is known.
CONTEXT: Any = new_context(state_store=False)


@dataclass
class Logs:
    """What was logged: by operators, which Airflow's structlog prints, and by everything else."""

    caplog: pytest.LogCaptureFixture
    capfd: pytest.CaptureFixture[str]
    printed: str = ""

    @property
    def text(self) -> str:
        self.printed += "".join(self.capfd.readouterr())
        return self.caplog.text + self.printed


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Logs:
    caplog.set_level(logging.DEBUG)
    return Logs(caplog, capfd)


@pytest.fixture
def service(service: Service, monkeypatch: pytest.MonkeyPatch) -> ModelService:
    monkeypatch.setattr(decisions, "YOUNG", 0.3)
    return model_service(service, monkeypatch, seconds=0.2)


def trained(service: ModelService) -> str:
    service.settings(training_seconds=0)
    return str(train().execute(CONTEXT))


def deployed(service: ModelService) -> str:
    service.settings(deploy_seconds=0)
    return str(deploy(trained(service)).execute(CONTEXT))


# The whole way


@both
def test_from_training_to_undeploying(service: ModelService, deferrable: bool) -> None:
    model_id = run(train, deferrable=deferrable, context=CONTEXT)
    assert service.trained() == [model_id]
    [order] = service.orders()
    wanted = {"name": "shop", "modelType": "ecommerce-rnn", "region": "us", "trainingData": DATA}
    assert {name: value for name, value in order.items() if value is not None} == wanted | {"config": CONFIG}

    arguments = {"region": "us-x", "config": {"a": 1}, "min_replicas": 1, "max_replicas": 2}
    deployment_id = run(lambda: deploy(model_id, **arguments), deferrable=deferrable, context=CONTEXT)
    [deployment] = service.emulator.state.registry.deployments()
    assert deployment_id == deployment.deployment_id
    wanted = {"modelId": model_id, "region": "us-x", "config": {"a": 1}, "minReplicas": 1, "maxReplicas": 2}
    assert deployment.order == wanted
    assert LucidworksHook().call(get_model(model_id, metrics=True)).metrics

    assert run(lambda: undeploy(deployment_id), deferrable=deferrable, context=CONTEXT) is None
    assert service.deployed() == []
    assert [service.count(one) for one in ("create-model", "deploy", "undeploy")] == [1, 1, 1]


def test_every_method_for_an_event_loop(service: ModelService) -> None:
    service.settings(training_seconds=0, deploy_seconds=0, undeploy_seconds=0)

    async def story() -> None:
        hook = LucidworksHook()
        async with hook.shared_client():
            model = await hook.acall(create_model(TrainingSpec("a", "b", DATA)))
            assert (await hook.acall(get_model(model.id, metrics=True))).metrics
            assert model.id in {one.id for one in await hook.acall(list_models())}
            deployment = await hook.acall(create_deployment(DeploymentSpec(model.id)))
            assert [one.id for one in await hook.acall(list_model_deployments(model.id))] == [deployment.id]
            assert [one.id for one in await hook.acall(list_deployments())] == [deployment.id]
            assert await hook.acall(delete_deployment(deployment.id)) == "DELETED"
            with pytest.raises(UnknownResourceError, match="undeploy_path"):
                await hook.acall(delete_deployment(deployment.id))

    asyncio.run(story())


def test_without_waiting(service: ModelService) -> None:
    service.settings(training_seconds=FOREVER)
    assert [train(wait_for_completion=False).execute(CONTEXT)] == service.trained()
    service.emulator.state.clock.advance(FOREVER)
    service.settings(deploy_seconds=FOREVER, undeploy_seconds=FOREVER)
    deployment_id = deploy(service.trained()[0], wait_for_completion=False).execute(CONTEXT)
    assert [deployment_id] == service.deployed()
    service.emulator.state.clock.advance(FOREVER)
    assert undeploy(str(deployment_id), wait_for_completion=False).execute(CONTEXT) is None


# What is refused before anything is sent


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: train(name=""), "name"),
        (lambda: train(model_type=None), "model_type"),
        (lambda: train(training_data={}), "training_data"),
        (lambda: train(training_data="nothing"), "training_data"),
        (
            lambda: train(training_data='{"catalog": null, "signals": "gs://s"}'),
            "training_data: catalog is None",
        ),
        (lambda: train(config="[1]"), "config"),
        (lambda: train(region=""), "region"),
        (lambda: train(poll_interval=0), "poll_interval"),
        (lambda: train(timeout="soon"), "timeout"),
        (lambda: deploy(""), "model_id"),
        (lambda: deploy("m", min_replicas=0), "min_replicas"),
        (lambda: deploy("m", min_replicas=2), "max_replicas"),
        (lambda: undeploy(""), "deployment_id"),
        (lambda: model_sensor(""), "model_id"),
        (lambda: deployment_sensor("d", target_state=" "), "target_state"),
    ],
)
def test_bad_input(service: ModelService, make: Callable[[], Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        make().execute(CONTEXT)
    assert service.nothing_sent()


@pytest.mark.parametrize(
    "make",
    [train, lambda: deploy("m"), lambda: undeploy("d"), lambda: model_sensor("m", deferrable=True)],
    ids=["train", "deploy", "undeploy", "sensor"],
)
def test_a_connection_without_customer_id(service: ModelService, make: Callable[[], Any]) -> None:
    service.connect(extra={"customer_id": None})
    words = r"'lucidworks_default'.*customer_id is missing.*request it from Lucidworks"
    with pytest.raises(ConfigurationError, match=words):
        make().execute(CONTEXT)
    assert service.nothing_sent()


def test_another_customers_models_are_forbidden(service: ModelService) -> None:
    service.settings(customer_id="somebody-else")
    with pytest.raises(ForbiddenError, match="lucidworks_default"):
        train().execute(CONTEXT)


# What a retry does


def test_a_retry_finds_what_the_first_try_made(service: ModelService) -> None:
    run_and_die(train(), CONTEXT, after="create_model")
    model_id = train().execute(CONTEXT)
    assert service.trained() == [model_id]
    run_and_die(deploy(str(model_id)), CONTEXT, after="create_deployment")
    assert [deploy(str(model_id)).execute(CONTEXT)] == service.deployed()


@pytest.mark.parametrize("kind", ["disconnect-after", "cut-json"])
def test_a_response_that_is_lost_is_looked_for(service: ModelService, kind: str, logs: Logs) -> None:
    service.fault("create-model", kind)
    model_id = str(train().execute(CONTEXT))
    assert service.trained() == [model_id]
    service.fault("deploy", kind)
    assert [deploy(model_id).execute(CONTEXT)] == service.deployed()
    assert logs.text.count("Searching for it") == 2


@pytest.mark.parametrize("kind", ["disconnect", "504", "html"])
def test_an_order_that_did_not_arrive_is_not_repeated_but_reported(service: ModelService, kind: str) -> None:
    service.fault("create-model", kind)
    with pytest.raises(SubmissionUnknownError, match=r"shop|an id that is lost"):
        train().execute(CONTEXT)
    assert (service.count("create-model"), service.trained()) == (1, [])
    assert [train().execute(CONTEXT)] == service.trained(), "Airflow's retry trains"


@both
def test_after_a_timeout_a_retry_waits_for_the_same_model(service: ModelService, deferrable: bool) -> None:
    service.settings(training_seconds=FOREVER)
    with pytest.raises(JobTimeoutError, match=r"shop.*TRAINING.*0\.3 s.*retry resumes the wait"):
        run(lambda: train(timeout=0.3), deferrable=deferrable, context=CONTEXT)
    service.emulator.state.clock.advance(FOREVER)
    assert [train().execute(CONTEXT)] == service.trained()


@both
def test_what_failed_is_made_again(service: ModelService, deferrable: bool) -> None:
    service.settings(training_fails=True)
    with pytest.raises(JobFailedError, match=r"Model 'shop' \([0-9a-f-]{36}\) is TRAIN_FAILED") as caught:
        run(train, deferrable=deferrable, context=CONTEXT)
    assert service.trained()[0] in str(caught.value)
    service.settings(training_fails=False, deploy_fails=True)
    model_id = run(train, deferrable=deferrable, context=CONTEXT)
    assert model_id == service.trained()[1]
    with pytest.raises(JobFailedError, match="DEPLOY_FAILED") as caught:
        run(lambda: deploy(model_id), deferrable=deferrable, context=CONTEXT)
    assert service.deployed()[0] in str(caught.value)
    service.settings(deploy_fails=False)
    assert deploy(model_id).execute(CONTEXT) == service.deployed()[1]


@pytest.mark.parametrize("wait", [True, False])
def test_what_fails_at_once_is_an_error_without_a_wait(service: ModelService, wait: bool) -> None:
    service.settings(training_seconds=0, training_fails=True)
    with pytest.raises(JobFailedError, match=r"Model 'shop': [0-9a-f-]{36} is TRAIN_FAILED"):
        train(wait_for_completion=wait).execute(CONTEXT)
    service.settings(training_fails=False, deploy_seconds=0, deploy_fails=True)
    model_id = str(train(wait_for_completion=wait).execute(CONTEXT))
    with pytest.raises(JobFailedError, match=rf"Deployment of model {model_id}: .* is DEPLOY_FAILED"):
        deploy(model_id, wait_for_completion=wait).execute(CONTEXT)


def test_other_arguments_are_another_model(service: ModelService, logs: Logs) -> None:
    service.settings(training_seconds=0)
    others: list[dict[str, Any]] = [
        {"name": "other"},
        {"config": {"trainer_config.num_epochs": 2}},
        {"training_data": DATA | {"signals": "gs://s"}},
    ]
    first, *made = [train(**arguments).execute(CONTEXT) for arguments in ({}, *others)]
    assert len({first, *made}) == len(others) + 1
    assert any(str(first) in line and "warning" in line for line in logs.text.splitlines())
    rendered = {"training_data": json.dumps(DATA), "config": json.dumps(CONFIG)}
    assert train().execute(CONTEXT) == train(**rendered).execute(CONTEXT) == first
    assert service.count("create-model") == len(others) + 1
    assert train(config={**CONFIG, "trainer_config.trn_batch_size": 64}).execute(CONTEXT) != first


def test_another_placement_is_another_deployment(service: ModelService) -> None:
    model_id = trained(service)
    first = deploy(model_id).execute(CONTEXT)
    assert deploy(model_id).execute(CONTEXT) == first
    assert deploy(model_id, max_replicas=2).execute(CONTEXT) != first
    assert deploy(model_id, region="europe").execute(CONTEXT) != first
    # What is ready already is not deferred.
    deployment_id = deploy(f" {model_id}\n").execute(CONTEXT)
    model_sensor(f"{model_id}\n", timeout=0.01, target_state="AVAILABLE\n").execute(CONTEXT)
    deployment_sensor(f"{deployment_id}\n", timeout=0.01).execute(CONTEXT)
    assert train(deferrable=True).execute(CONTEXT) == model_id
    assert deploy(model_id, deferrable=True).execute(CONTEXT) == first


def test_lists_that_lag_are_made_up_for_by_the_state_store(
    service: ModelService, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, deploying = attempt(1, Store()), attempt(1, Store())
    model_id = str(train().execute(training))
    deployment_id = str(deploy(model_id).execute(deploying))
    for name in ("list_models", "list_deployments", "list_model_deployments"):
        monkeypatch.setattr(models, name, returning(()))
    assert train().execute(training) == model_id
    with monkeypatch.context() as patch:
        patch.setattr(models, "get_model", raising(UnknownResourceError("not yet", status=404)))
        assert train(wait_for_completion=False).execute(training) == model_id
    assert deploy(model_id).execute(deploying) == deployment_id
    assert (service.count("create-model"), service.count("deploy")) == (1, 1)
    # A deployment that no list shows is deleted too.
    undeploying = undeploy(f"{deployment_id}\n", wait_for_completion=False)
    undeploying.execute(CONTEXT)
    assert undeploying.deployment_id == f"{deployment_id}\n", "as Airflow has rendered it"
    assert service.count("undeploy") == 1


def test_a_state_store_that_fails_ends_no_training(
    service: ModelService, caplog: pytest.LogCaptureFixture
) -> None:
    class Down(Store):
        def set(self, key: str, value: str) -> None:
            raise ConnectionError("no API server")

    assert [train().execute(attempt(1, Down()))] == service.trained()
    assert "lucidworks_made could not be written" in caplog.text


@pytest.mark.parametrize("saved", [None, "[]", "{", '{"fingerprint": "f"}', ConnectionError("no API server")])
def test_what_the_state_store_has_of_something_else(service: ModelService, saved: str | Exception) -> None:
    class Odd(Store):
        def get(self, key: str, default: Any = None) -> Any:
            if isinstance(saved, Exception):
                raise saved
            return saved

    if isinstance(saved, Exception):
        with pytest.raises(StorageError, match="no API server") as unread:
            train().execute(attempt(1, Odd()))
        assert unread.value.retryable
        assert service.trained() == []
    else:
        assert [train().execute(attempt(1, Odd()))] == service.trained()


def test_a_deployment_without_a_model_is_not_used_for_this_model(
    service: ModelService, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_id = trained(service)
    unknown = raising(UnknownResourceError("no such path", status=404))
    monkeypatch.setattr(models, "list_model_deployments", unknown)
    monkeypatch.setattr(models, "list_deployments", returning((unseen_deployment("another"),)))
    assert deploy(model_id, wait_for_completion=False).execute(CONTEXT) != "another"


# Waiting


@both
@pytest.mark.parametrize("kind", ["train", "deploy"])
def test_an_unknown_state_is_waited_for_until_the_deadline(
    service: ModelService, kind: str, deferrable: bool
) -> None:
    model_id = trained(service)
    make = {"train": train, "deploy": partial(deploy, model_id)}[kind]
    service.force(str(make(wait_for_completion=False).execute(CONTEXT)), "UNHEARD_OF")
    with pytest.raises(JobTimeoutError, match="UNHEARD_OF"):
        run(partial(make, timeout=0.3), deferrable=deferrable, context=CONTEXT)


@pytest.mark.parametrize("state", ["GONE", "DELETING", "DEPLOY_FAILED"])
def test_a_deployment_that_will_not_be(service: ModelService, state: str) -> None:
    service.settings(deploy_seconds=FOREVER)
    model_id = trained(service)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(deploy(model_id).execute, CONTEXT)
        until(service.deployed, "a deployment", 10)
        service.force(service.deployed()[0], state)
        with pytest.raises(JobFailedError):
            waiting.result()
    service.settings(deploy_seconds=FOREVER)
    deferred = defer(deploy(model_id, max_replicas=3), CONTEXT)
    service.force(service.deployed()[-1], state)
    with pytest.raises(JobFailedError):
        deploy(model_id, max_replicas=3).execute_complete(CONTEXT, event_of(deferred))


@both
def test_failures_that_pass_are_waited_through(service: ModelService, deferrable: bool, logs: Logs) -> None:
    for kind in ("503", "html", "disconnect", "429", "unauthorized"):
        service.fault("get-model", kind)
    assert [run(train, deferrable=deferrable, context=CONTEXT)] == service.trained()
    assert "no response, polling again" in logs.text


@pytest.mark.parametrize(
    ("kind", "times", "customers_list"),
    [
        *(("429", 1, 0), ("unauthorized", 3, 0)),
        *((kind, 1, 1) for kind in ("404", "400", "500", "html")),
    ],
)
def test_the_customers_list_is_asked_if_the_models_own_path_may_be_wrong(
    service: ModelService, kind: str, times: int, customers_list: int
) -> None:
    model_id = trained(service)
    deployment_id = str(deploy(model_id).execute(CONTEXT))
    before = service.count("list-deployments")
    service.fault("list-model-deployments", kind, times=times)
    found = polling.get_state(LucidworksHook(), "deployment", deployment_id, model_id)
    with contextlib.nullcontext() if customers_list else pytest.raises(ResponseError):
        assert asyncio.run(found).state == "DEPLOYED"
    assert service.count("list-deployments") - before == customers_list


@both
def test_a_refusal_is_not_waited_through(service: ModelService, deferrable: bool) -> None:
    model_id = trained(service)
    service.settings(deploy_seconds=FOREVER)
    deferred = defer(deploy(model_id), CONTEXT)
    service.settings(customer_id="somebody-else")
    if deferrable:
        event = event_of(deferred)
        assert event["end"] == "error"
    with pytest.raises(LucidworksError if deferrable else ForbiddenError, match="403"):
        deploy(model_id).execute_complete(CONTEXT, event) if deferrable else deploy(model_id).execute(CONTEXT)


def test_a_model_that_is_not_known_everywhere_yet_is_waited_for(
    service: ModelService, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def late(model_id: str) -> Any:
        asked.append(model_id)
        unknown = raising(UnknownResourceError("not yet", status=404))
        return unknown() if len(asked) < 3 else get_model(model_id)

    monkeypatch.setattr(models, "get_model", late)
    model_id = trained(service)

    async def end(resource_id: str) -> Any:
        given = {"kind": "model", "target": "ready", "poll_interval": 0.05, "deadline": time.time() + 5}
        return (await polling.wait_for_state(LucidworksHook(), resource_id=resource_id, **given))["end"]

    assert (asyncio.run(end(model_id)), len(asked)) == ("reached", 3)
    assert asyncio.run(end("never-heard-of")) == "failed"


@pytest.mark.usefixtures("forgotten_queues")
@pytest.mark.parametrize("kind", ["model", "deployment"])
def test_a_wait_ends_while_the_rate_limiter_permits_no_poll(
    service: ModelService, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(decisions, "LAST_POLLS", 0.2)
    hook = LucidworksHook()
    settings = hook.get_settings()
    queue = queue_of(settings.models_url, settings)
    for _ in range(3):
        queue.ended(queue.acquire(), Response(429, {"retry-after": "60"}, b""))
    began = time.monotonic()
    wait = polling.wait_for_state(
        hook, kind=kind, resource_id="r", target="ready", poll_interval=0.1, deadline=time.time() + 0.3
    )
    outcome = asyncio.run(asyncio.wait_for(wait, 10))
    assert 0.5 <= time.monotonic() - began < 3
    assert (outcome["end"], outcome["message"]) == ("timeout", decisions.NOT_POLLED)


def test_a_trigger_is_small_and_only_looks(service: ModelService) -> None:
    service.settings(training_seconds=FOREVER)
    deferred = defer(train(timeout=0.3), CONTEXT)
    kwargs = deferred.trigger.serialize()[1]
    assert set(kwargs) == {"lucidworks_conn_id", "kind", "resource_id", "target", "poll_interval", "deadline"}
    # A restarted triggerer runs it again.
    assert [event_of(deferred)["end"], event_of(deferred)["end"]] == ["timeout", "timeout"]
    assert service.count("create-model") == 1


def test_many_triggers_share_their_sockets(service: ModelService, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"kind": "model", "resource_id": trained(service), "target": "ready", "poll_interval": 0.05}
    given |= {"lucidworks_conn_id": "lucidworks_default", "deadline": time.time() + 10}
    made = []
    begin = AsyncTransport.__init__

    def note(self: AsyncTransport, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        begin(self, *args, **kwargs)

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(anext(LucidworksStateTrigger(**given).run()) for _ in range(50)))

    monkeypatch.setattr(AsyncTransport, "__init__", note)
    assert [event.payload["end"] for event in asyncio.run(all_of_them())] == ["reached"] * 50
    assert len(made) == 1
    assert service.count("token") <= 2


# Undeploying; its two paths are in ``test_operator_models_unkind.py``


def test_one_that_is_gone_already(service: ModelService, logs: Logs) -> None:
    undeploy(NEVER_MADE).execute(CONTEXT)
    # A list may lag, and what runs on costs money: both readings of the path are asked.
    assert service.count("undeploy") == 2
    assert "does not exist" in logs.text


def test_one_that_is_being_deleted_is_only_waited_for(service: ModelService) -> None:
    deployment_id = deployed(service)
    undeploy(deployment_id, wait_for_completion=False).execute(CONTEXT)
    undeploy(deployment_id).execute(CONTEXT)
    assert service.count("undeploy") == 1


@pytest.mark.parametrize("arguments", [{}, {"deferrable": True}, {"wait_for_completion": False}], ids=str)
def test_a_deletion_that_fails(service: ModelService, arguments: dict[str, Any]) -> None:
    deployment_id = deployed(service)
    service.settings(undeploy_fails=True, undeploy_seconds=0)
    with pytest.raises(JobFailedError, match=f"{deployment_id} is DELETE_FAILED"):
        undeploy(deployment_id, **arguments).execute(CONTEXT)
    service.settings(undeploy_fails=False)
    undeploy(deployment_id).execute(CONTEXT)
    assert service.deployed() == []


@both
def test_a_deletion_that_fails_during_the_wait(service: ModelService, deferrable: bool) -> None:
    deployment_id = deployed(service)
    service.settings(undeploy_fails=True)
    with pytest.raises(JobFailedError, match=f"{deployment_id} is DELETE_FAILED") as caught:
        run(lambda: undeploy(deployment_id), deferrable=deferrable)
    assert caught.value.retryable
    sensor = deployment_sensor(deployment_id, target_state="DELETED")
    with pytest.raises(AirflowFailException, match=f"{deployment_id} is DELETE_FAILED"):
        run(lambda: sensor, deferrable=deferrable)
    assert service.deployed() == [deployment_id]


def test_a_deletion_of_what_failed_and_with_a_lost_response(service: ModelService) -> None:
    deployment_id = deployed(service)
    service.force(deployment_id, "DEPLOY_FAILED")
    service.settings(undeploy_seconds=0)
    service.fault("undeploy", "disconnect-after")
    undeploy(deployment_id).execute(CONTEXT)
    assert service.deployed() == []


def test_the_path_of_the_connection(service: ModelService) -> None:
    deployment_id = deployed(service)
    service.connect(extra={"undeploy_path": "/customers/{customer_id}/ai/deployments"})
    with pytest.raises(ConfigurationError, match=r"undeploy_path.*\{deployment_id\} must be in it"):
        undeploy(deployment_id).execute(CONTEXT)
    assert service.count("undeploy") == 0, "never a DELETE that could mean every deployment"
    service.connect(extra={"undeploy_path": "/nowhere/{deployment_id}"})
    with pytest.raises(UnknownResourceError) as caught:
        undeploy(deployment_id).execute(CONTEXT)
    for words in ("lucidworks_default", "/nowhere/{deployment_id}", "undeploy_path", deployment_id):
        assert words in str(caught.value)
    service.connect(extra={"undeploy_path": "/customers/{deployment_id}/ai/deployments"})
    undeploy(deployment_id).execute(CONTEXT)
    assert service.deletions()[-1][0] == f"/customers/{deployment_id}/ai/deployments"


def test_an_error_of_both_paths_says_what_says_most(service: ModelService) -> None:
    service.fault("undeploy", "409")
    service.fault("undeploy", "404")
    with pytest.raises(RequestRefusedError, match=r"HTTP 409.*HTTP 404"):
        LucidworksHook().call(delete_deployment("d"))


def test_the_list_of_deployments_has_another_path(service: ModelService) -> None:
    service.connect(extra={"deployments_path": "/customers/{customer_id}/nowhere"})
    undeploy("d").execute(CONTEXT)
    assert service.count("list-models"), "the models' own lists are asked"
    service.settings(missing_endpoints=["list-models"])
    with pytest.raises(UnknownResourceError, match="deployments_path"):
        undeploy("d").execute(CONTEXT)


# Credentials


def sent_credentials(service: ModelService) -> Any:
    return service.orders()[0]["trainingDataCredentials"]


@pytest.mark.parametrize(
    ("conn", "key"),
    [
        ({"extra": {"keyfile_dict": KEY}}, KEY),
        ({"extra": {"keyfile_dict": KEY_FILE}}, KEY),
        ({"extra": {"keyfile_dict": KEY}, "password": "other"}, KEY),
        ({"password": CANARY}, CANARY),
        ({"extra": {"service_account_key": KEY}}, KEY),
        ({"extra": {"serviceAccountKey": KEY}}, KEY),
    ],
)
def test_credentials_of_a_connection(service: ModelService, logs: Logs, conn: Any, key: str) -> None:
    service.settings(echo_credentials=True)
    service.env.setenv("AIRFLOW_CONN_BUCKET", json.dumps({"conn_type": "generic"} | conn))
    task, context = train(credentials_conn_id="bucket"), attempt(1, Store())
    shown = [vars(task)]
    deferred = defer(task, context)
    assert sent_credentials(service) == {"serviceAccountKey": key}
    model_id = task.execute_complete(context, event_of(deferred))
    shown += [deferred.trigger.serialize(), model_id, vars(task), logs.text, context["task_state_store"]]
    assert [one for one in [*shown, task.hook.call(get_model(model_id))] if CANARY in repr(one)] == []


def test_a_connection_without_credentials_is_named(service: ModelService) -> None:
    service.env.setenv("AIRFLOW_CONN_BUCKET", json.dumps({"conn_type": "generic"}))
    with pytest.raises(ConfigurationError, match=r"'bucket'.*keyfile_dict"):
        train(credentials_conn_id="bucket").execute(CONTEXT)
    assert service.count("create-model") == 0


# A literal, and what is sent.
LITERALS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "text": ({"serviceAccountKey": KEY}, {"serviceAccountKey": KEY}),
    "dictionary": ({"serviceAccountKey": KEY_FILE}, {"serviceAccountKey": KEY}),
    "another name": ({"anotherName": CANARY}, {}),
}
literals = pytest.mark.parametrize("name", LITERALS)


def literal(credentials: Any = LITERALS["text"][0], **arguments: Any) -> LucidworksTrainModelOperator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return train(training_data_credentials=credentials, **arguments)


def test_a_literal_key_draws_a_warning_without_it() -> None:
    with pytest.warns(UserWarning, match="credentials_conn_id") as caught:
        train(training_data_credentials=LITERALS["text"][0])
    assert CANARY not in str([one.message for one in caught])


@literals
def test_a_literal_key_is_sent_and_nowhere_in_the_operator(service: ModelService, name: str) -> None:
    credentials, sent = LITERALS[name]
    task = literal(credentials)
    shown = repr(task.__dict__) + repr({name: getattr(task, name) for name in task.template_fields})
    assert CANARY not in shown + repr(copy.deepcopy(task).__dict__)
    # The emulator refuses the other name.
    with contextlib.nullcontext() if sent else pytest.raises(RequestRefusedError):
        pickle.loads(pickle.dumps(copy.deepcopy(task))).execute(CONTEXT)  # noqa: S301
    assert not sent or sent_credentials(service) == sent


@literals
@pytest.mark.parametrize("mapped", [False, True])
def test_a_literal_key_is_not_in_the_serialized_dag(name: str, mapped: bool) -> None:
    given = {"model_type": "m", "training_data": DATA, "training_data_credentials": LITERALS[name][0]}
    with DAG("d", start_date=datetime(2026, 1, 1), schedule=None) as dag:
        if mapped:
            LucidworksTrainModelOperator.partial(task_id="t", **given).expand(name=["a", "b"])
        else:
            literal(LITERALS[name][0])
    assert CANARY not in serialized(dag)


def test_a_literal_key_is_in_no_log_and_no_row(service: ModelService, logs: Logs) -> None:
    service.settings(echo_credentials=True)
    task = literal()
    task.render_template_fields(CONTEXT)
    deferred = defer(task, CONTEXT)
    event = event_of(deferred)
    model_id = task.execute_complete(CONTEXT, event=event, **(deferred.kwargs or {}))
    rows = json.dumps([deferred.trigger.serialize()[1], deferred.kwargs, event, model_id])
    assert CANARY not in logs.text + rows + repr(deferred) + repr(LucidworksHook().call(list_models()))


@pytest.mark.parametrize("kind", ["cut-json", "html"])
def test_a_response_that_quotes_the_key(service: ModelService, kind: str, logs: Logs) -> None:
    service.settings(echo_credentials=True)
    service.fault("create-model", kind)
    service.fault("list-models", kind, times=3)
    with pytest.raises(LucidworksError) if kind == "html" else contextlib.nullcontext():
        literal().execute(CONTEXT)
    assert CANARY not in logs.text


@pytest.mark.parametrize(
    "bad", ["no JSON", ["a", CANARY], {"serviceAccountKey": ""}, {"serviceAccountKey": 7}]
)
def test_wrong_credentials_are_refused_and_not_shown(service: ModelService, bad: Any) -> None:
    with pytest.raises(InputError, match="training_data_credentials") as caught:
        literal(bad).execute(CONTEXT)
    assert CANARY not in str(caught.value)
    assert service.nothing_sent()


def test_a_template_is_rendered_when_it_is_sent(service: ModelService) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = train(training_data_credentials={"serviceAccountKey": "{{ key }}"})
    task.render_template_fields({**CONTEXT, "key": CANARY})
    assert CANARY not in repr(task.__dict__)
    task.execute({**CONTEXT, "key": CANARY})
    assert sent_credentials(service) == {"serviceAccountKey": CANARY}
    assert CANARY not in repr(task.__dict__)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    ("field", "given", "words"),
    [
        ("training_data", DATA | {"catalog": "{{ none }}"}, "training_data: catalog is None"),
        (
            "training_data_credentials",
            {"serviceAccountKey": "{{ none }}"},
            "serviceAccountKey must be a text",
        ),
    ],
)
def test_a_template_without_a_value_is_refused(
    service: ModelService, field: str, given: dict[str, str], words: str, native: bool
) -> None:
    with DAG("d", start_date=datetime(2026, 1, 1), schedule=None, render_template_as_native_obj=native):
        task = train(**{field: given})
    task.render_template_fields(CONTEXT)
    with pytest.raises(InputError, match=words):
        task.execute(CONTEXT)
    assert service.nothing_sent()


def test_credentials_of_an_upstream_task(service: ModelService) -> None:
    from airflow.providers.common.compat.sdk import task

    with DAG("d", start_date=datetime(2026, 1, 1), schedule=None):

        @task
        def key() -> dict[str, str]:
            return {"serviceAccountKey": CANARY}

        training = train(training_data_credentials=key())
    assert training.upstream_task_ids == {"key"}
    training.training_data_credentials = {"serviceAccountKey": CANARY}  # as rendering does
    assert CANARY not in repr(training.__dict__)
    training.execute(CONTEXT)
    assert sent_credentials(service) == {"serviceAccountKey": CANARY}


def test_credentials_twice_are_refused(service: ModelService) -> None:
    with pytest.raises(InputError, match="either"):
        literal(credentials_conn_id="bucket").execute(CONTEXT)


# Sensors

SENSORS = {"model": model_sensor, "deployment": deployment_sensor}


@both
def test_sensors_wait_for_what_others_began(service: ModelService, deferrable: bool) -> None:
    model_id = str(train(wait_for_completion=False).execute(CONTEXT))
    run(lambda: model_sensor(model_id), deferrable=deferrable)
    assert LucidworksHook().call(get_model(model_id)).state == "AVAILABLE"
    deployment_id = str(deploy(model_id, wait_for_completion=False).execute(CONTEXT))
    run(lambda: deployment_sensor(deployment_id), deferrable=deferrable)
    assert LucidworksHook().call(list_deployments())[0].state == "DEPLOYED"
    undeploy(deployment_id, wait_for_completion=False).execute(CONTEXT)
    run(lambda: deployment_sensor(deployment_id, target_state="DELETED"), deferrable=deferrable)
    assert service.deployed() == []


@both
@pytest.mark.parametrize("kind", SENSORS)
@pytest.mark.parametrize("soft", [False, True])
def test_a_failure_state_fails_a_sensor_at_once(
    service: ModelService, kind: str, soft: bool, deferrable: bool
) -> None:
    resource_id = trained(service) if kind == "model" else deployed(service)
    service.force(resource_id, "SOMETHING_FAILED")
    with pytest.raises(AirflowSkipException if soft else AirflowFailException) as caught:
        run(lambda: SENSORS[kind](resource_id, soft_fail=soft), deferrable=deferrable)
    assert soft or resource_id in str(caught.value)


@both
@pytest.mark.parametrize("soft", [False, True])
def test_sensors_time_out_as_sensors_do(service: ModelService, soft: bool, deferrable: bool) -> None:
    service.settings(training_seconds=FOREVER)
    model_id = str(train(wait_for_completion=False).execute(CONTEXT))
    with pytest.raises(AirflowSkipException if soft else AirflowSensorTimeout) as caught:
        run(lambda: model_sensor(model_id, timeout=0.2, soft_fail=soft), deferrable=deferrable)
    late = f"Model {model_id} is TRAINING, and was not 'AVAILABLE' within timeout=0.2 s."
    assert f"{late} Clear the task to resume the wait." in {str(caught.value), str(caught.value.__cause__)}


def test_a_failure_after_a_poke_keeps_its_own_message(service: ModelService) -> None:
    """What an earlier poke saw is not the message of a later one."""
    service.settings(training_seconds=FOREVER)
    model_id = str(train(wait_for_completion=False).execute(CONTEXT))
    sensor = model_sensor(model_id, soft_fail=True)
    assert not sensor.poke(CONTEXT)
    service.force(model_id, "TRAIN_FAILED")
    with pytest.raises(AirflowSkipException, match="Skipping due to soft_fail"):
        sensor.execute(CONTEXT)


@pytest.mark.parametrize(
    ("kind", "state", "hint"),
    [
        ("model", "availabel", "'availabel' is not a known state of a model. Did you mean 'AVAILABLE'?"),
        ("model", "DEPLOYED", "'DEPLOYED' is not a known state of a model."),
        ("deployment", "deployd", "Did you mean 'DEPLOYED'?"),
        ("model", "Available", ""),
        ("model", "TRAIN_FAILED", ""),
        ("deployment", "serving", ""),
        ("deployment", "DELETED", ""),
    ],
)
def test_a_misspelt_target_state(service: ModelService, kind: str, state: str, hint: str, logs: Logs) -> None:
    with contextlib.suppress(AirflowSensorTimeout):
        SENSORS[kind]("nope", target_state=state, timeout=0.01).execute(CONTEXT)
    assert hint in logs.text
    assert ("known state" in logs.text) == bool(hint)


def test_a_sensor_waits_failures_through(service: ModelService) -> None:
    model_id = trained(service)
    for kind in ("503", "html", "disconnect"):
        service.fault("get-model", kind)
    model_sensor(model_id).execute(CONTEXT)
    assert service.count("get-model") >= 4


@both
def test_a_deployment_that_is_nowhere_fails_a_sensor_after_a_while(
    service: ModelService, deferrable: bool
) -> None:
    with pytest.raises(AirflowFailException, match="is missing"):
        run(lambda: deployment_sensor(NEVER_MADE), deferrable=deferrable)


def test_a_sensor_in_reschedule_mode(service: ModelService) -> None:
    from airflow.exceptions import AirflowRescheduleException

    service.settings(training_seconds=FOREVER)
    model_id = str(train(wait_for_completion=False).execute(CONTEXT))
    ti = SimpleNamespace(get_first_reschedule_date=lambda _: None, dag_id="d", task_id="s")
    for asked, wait in ((None, 0.05), (5.0, 5.0), (3600.0, 10.0)):
        if asked is not None:
            service.fault("get-model", "429", retry_after=asked)
        began = time.time()
        with pytest.raises(AirflowRescheduleException) as next_poke:
            model_sensor(model_id, mode="reschedule").execute({"ti": ti})
        assert next_poke.value.reschedule_date.timestamp() - began == pytest.approx(wait, abs=2.0)
    service.emulator.state.clock.advance(FOREVER)
    model_sensor(model_id, mode="reschedule").execute({"ti": ti})
    # One response without the model, in a poke an hour after the first one.
    ti.get_first_reschedule_date = lambda _: datetime.now(UTC) - timedelta(hours=1)
    service.fault("get-model", "404")
    model_sensor(model_id, mode="reschedule", timeout=7200).execute({"ti": ti})


# What a DAG author sees
