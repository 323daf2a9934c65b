# SPDX-License-Identifier: Apache-2.0
"""Train, deploy and undeploy models of Lucidworks AI."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow.providers.common.compat.sdk import BaseOperator

from lucidworks_provider.connection import DEFAULT_CONN_ID
from lucidworks_provider.errors import (
    AnswerError,
    JobFailedError,
    SubmissionUnknownError,
    UnknownResourceError,
)
from lucidworks_provider.operators.lineage import ReadsTrainingData
from lucidworks_provider.operators.model_credentials import TakesCredentials
from lucidworks_provider.operators.state import StateWaiting
from lucidworks_provider.operators.values import dictionary, switch
from lucidworks_provider.operators.waiting import DEFERRABLE

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from lucidworks_provider.api.model_calls import Placement, Training
    from lucidworks_provider.api.models import Deployment, Model

# How often to look for what a POST without an answer may have made, and seconds between two looks.
_SEARCHES = 3
_BETWEEN_SEARCHES = 5.0

# How long a list may lag behind what was made.
_LAG = 60.0
_STATE_NAME = "lucidworks_made"


class _Named(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Named)


class _ModelOperator(StateWaiting, BaseOperator):
    """
    :param lucidworks_conn_id: the connection, with its Customer ID. (templated)
    :param wait_for_completion: wait until it is done; else return as soon as it is begun.
    :param deferrable: wait in the triggerer, without holding a worker slot.
    :param poll_interval: the longest time between two looks, seconds or a timedelta.
    :param timeout: seconds, or a timedelta, to wait. A retry goes on waiting for the same.
    """

    ui_color = "#e8f1fb"

    def __init__(
        self,
        *,
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        wait_for_completion: bool = True,
        deferrable: bool = DEFERRABLE,
        poll_interval: float | timedelta = 15.0,
        timeout: float | timedelta = 3600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.lucidworks_conn_id = lucidworks_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str | None:
        """Go on after the triggerer's wait."""
        self._end(context, event)
        return str(event["resource_id"])

    @property
    def _waits(self) -> bool:
        return switch(self.wait_for_completion, "wait_for_completion")

    def _checked(self) -> None:
        """The connection, the times and the switches are right, before anything is sent."""
        _ = self._poll_seconds, self._timeout_seconds, self._in_triggerer, self._waits
        _ = self.hook.get_settings().models_base

    def _made(
        self,
        context: Context,
        wanted: Mapping[str, Any],
        find: Callable[[str | None, bool], T | None],
        make: Callable[[], T],
        what: str,
    ) -> T:
        """
        What an earlier try has made, or a new one.

        The service knows no idempotency key, so a POST without an answer is followed by a look at its list, not
        by another POST. The id is noted in the task state store as well, where there is one: a list may lag.

        :param find: looks for it, by the id if there is one, else by what was asked for; is told whether that id
            was noted a moment ago.
        """
        from lucidworks_provider.jobs.ledger import note
        from lucidworks_provider.jobs.record import fingerprint_of

        store, fingerprint = context.get("task_state_store"), fingerprint_of(wanted, [])
        noted = json.loads(str(store.get(_STATE_NAME) or "{}")) if store is not None else {}
        known = noted.get("id") if noted.get("fingerprint") == fingerprint else None
        if (found := find(known, time.time() - noted.get("at", 0.0) < _LAG)) is not None:
            self.log.info("%s: found, not made again.", what)
            return found
        made = self._make(lambda: find(None, False), make, what)
        # No reason to fail if that cannot be done: this try waits for it, and the next one finds it in the list.
        note(store, _STATE_NAME, json.dumps({"fingerprint": fingerprint, "id": made.id, "at": time.time()}))
        return made

    def _make(self, find: Callable[[], T | None], make: Callable[[], T], what: str) -> T:
        try:
            return make()
        except SubmissionUnknownError as err:
            self.log.warning("%s: %s Looking for it.", what, err)
            for _ in range(_SEARCHES):
                time.sleep(_BETWEEN_SEARCHES)
                if (found := find()) is not None:
                    return found
            raise


class LucidworksTrainModelOperator(TakesCredentials, ReadsTrainingData, _ModelOperator):
    """
    Train an embedding model, and return its id.

    Idempotent by name and configuration: a model that has the same name and was asked for in the same words is
    taken, so a retry waits for the training that an earlier try began. To train anew, give another name, e.g.
    with ``{{ ds }}`` in it. A model that failed is not taken.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-models-api

    :param name: of the model. (templated)
    :param model_type: what is trained, in the vendor's words. (templated)
    :param training_data: ``{"catalog": …, "signals": …}``: addresses that Lucidworks can read. (templated)
    :param region: where it is trained. (templated)
    :param config: the trainer's options: a flat dictionary with dots in its names. (templated)
    :param credentials_conn_id: a connection, of any type, with the key that opens the training data: a Google
        service account (``keyfile_dict``), or its password. Sent as ``serviceAccountKey``, and kept nowhere.
        (templated)
    :param training_data_credentials: instead, ``{"serviceAccountKey": …}``, which draws a warning unless it is a
        template. Rendered when it is sent, and shown nowhere. Not to be mapped over: Airflow would store it.
    :param lucidworks_conn_id: the connection, with its Customer ID. (templated)
    :param wait_for_completion: wait until the model is ``AVAILABLE``; else return as soon as training began.
    :param deferrable: wait in the triggerer, without holding a worker slot.
    :param poll_interval: the longest time between two looks, seconds or a timedelta.
    :param timeout: seconds, or a timedelta, to wait. A retry goes on waiting for the same model.
    :raises InputError: before anything is sent.
    :raises JobFailedError: training ended in a failure state; names the model's id and the state.
    """

    template_fields: Sequence[str] = (
        *("name", "model_type", "training_data", "region", "config"),
        *("credentials_conn_id", "lucidworks_conn_id"),
    )
    template_fields_renderers = {"training_data": "json", "config": "json"}  # noqa: RUF012

    def __init__(
        self,
        *,
        name: str,
        model_type: str,
        training_data: Mapping[str, Any] | str,
        region: str | None = None,
        config: Mapping[str, Any] | str | None = None,
        credentials_conn_id: str | None = None,
        training_data_credentials: Mapping[str, str] | None = None,
        poll_interval: float | timedelta = 60.0,
        timeout: float | timedelta = timedelta(hours=24),
        **kwargs: Any,
    ) -> None:
        super().__init__(poll_interval=poll_interval, timeout=timeout, **kwargs)
        self.name = name
        self.model_type = model_type
        self.training_data = training_data
        self.region = region
        self.config = config
        self.credentials_conn_id = credentials_conn_id
        self.training_data_credentials = self._concealed(training_data_credentials)

    def execute(self, context: Context) -> str | None:
        """Find or begin the training, then wait."""
        from lucidworks_provider.api.model_calls import Training, find_model
        from lucidworks_provider.api.models import Progress

        training = Training(
            self.name,
            self.model_type,
            dictionary(self.training_data, "training_data") or {},
            self.region,
            dictionary(self.config, "config"),
        )
        self._checked()
        credentials = self._credentials(context)
        model: Model = self._made(
            context,
            training.as_json(),
            lambda known, _: self._known(known) or find_model(self.hook.list_models(), training),
            lambda: self._train(training, credentials),
            f"Model {self.name!r}",
        )
        self.log.info("Model %r: %s, %s", self.name, model.id, model.state)
        if self._waits and model.progress is not Progress.READY:
            self._wait(context, "model", model.id, "ready")
        return model.id

    def _what(self, kind: str, resource_id: str) -> str:
        return f"Model {self.name!r} ({resource_id})"

    def _known(self, model_id: str | None) -> Model | None:
        """The model that an earlier try noted, unless it failed."""
        from lucidworks_provider.api.models import Progress

        if model_id is None:
            return None
        try:
            model = self.hook.get_model(model_id)
        except UnknownResourceError:
            return None
        return None if model.progress is Progress.FAILED else model

    def _train(self, training: Training, credentials: Mapping[str, str] | None) -> Model:
        other = [one.id for one in self.hook.list_models() if one.name == training.name]
        if other:
            self.log.warning(
                "There are models of the name %r that failed or were made otherwise: %s. Training another one.",
                training.name,
                ", ".join(other),
            )
        return self.hook.create_model(training, credentials)


class LucidworksDeployModelOperator(_ModelOperator):
    """
    Deploy a model, and return the deployment's id, which is the ``model_id`` of predictions and chunking.

    Idempotent by model and configuration: a deployment of the same model that was asked for in the same words, and
    that runs or is about to, is taken.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-models-api

    :param model_id: of a model that is ``AVAILABLE``, e.g. ``train.output``. (templated)
    :param region: where it is to run. (templated)
    :param config: free options of the deployment. (templated)
    :param min_replicas: at least so many copies.
    :param max_replicas: at most so many.
    :param lucidworks_conn_id: the connection, with its Customer ID. (templated)
    :param wait_for_completion: wait until it is ``DEPLOYED``; else return as soon as deploying began.
    :param deferrable: wait in the triggerer, without holding a worker slot.
    :param poll_interval: the longest time between two looks, seconds or a timedelta.
    :param timeout: seconds, or a timedelta, to wait. A retry goes on waiting for the same deployment.
    :raises InputError: before anything is sent.
    :raises JobFailedError: deploying failed; names the deployment's id and the state.
    """

    template_fields: Sequence[str] = ("model_id", "region", "config", "lucidworks_conn_id")
    template_fields_renderers = {"config": "json"}  # noqa: RUF012

    def __init__(
        self,
        *,
        model_id: str,
        region: str | None = None,
        config: Mapping[str, Any] | str | None = None,
        min_replicas: int = 1,
        max_replicas: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_id = model_id
        self.region = region
        self.config = config
        self.min_replicas = min_replicas
        self.max_replicas = max_replicas

    def execute(self, context: Context) -> str | None:
        """Find or begin the deployment, then wait."""
        from lucidworks_provider.api.model_calls import Placement
        from lucidworks_provider.api.models import Progress

        placement = Placement(
            self.model_id,
            self.region,
            dictionary(self.config, "config"),
            self.min_replicas,
            self.max_replicas,
        )
        self._checked()
        what = f"Deployment of model {self.model_id}"
        deployment: Deployment = self._made(
            context,
            placement.as_json(),
            lambda known, lately: self._known(known, lately) or self._find(placement),
            lambda: self.hook.create_deployment(placement),
            what,
        )
        self.log.info("%s: %s, %s", what, deployment.id, deployment.state)
        if self._waits and deployment.progress is not Progress.READY:
            self._wait(context, "deployment", deployment.id, "ready")
        return deployment.id

    def _what(self, kind: str, resource_id: str) -> str:
        return f"Deployment of model {self.model_id} ({resource_id})"

    def _known(self, deployment_id: str | None, lately: bool) -> Deployment | None:
        """The deployment that an earlier try noted, unless it failed or is gone."""
        from lucidworks_provider.api.models import Progress, unseen_deployment

        if deployment_id is None:
            return None
        found = next((one for one in self.hook.list_deployments() if one.id == deployment_id), None)
        if found is None:
            return unseen_deployment(deployment_id) if lately else None
        return found if found.progress in {Progress.READY, Progress.RUNNING} else None

    def _find(self, placement: Placement) -> Deployment | None:
        from lucidworks_provider.api.model_calls import find_deployment

        model_id = placement.model_id.lower()
        try:
            # A list of one model's deployments may leave out whose they are, a list of all must not.
            listed, unnamed = self.hook.list_model_deployments(placement.model_id), model_id
        except UnknownResourceError:
            listed, unnamed = self.hook.list_deployments(), ""
        ours = [one for one in listed if (one.model_id or unnamed).lower() == model_id]
        return find_deployment(ours, placement)


class LucidworksUndeployModelOperator(_ModelOperator):
    """
    Take a deployment down. One that is gone already is a success.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-models-api

    :param deployment_id: e.g. ``deploy.output``. (templated)
    :param lucidworks_conn_id: the connection, with its Customer ID. (templated)
    :param wait_for_completion: wait until it has vanished; else return as soon as deletion began.
    :param deferrable: wait in the triggerer, without holding a worker slot.
    :param poll_interval: the longest time between two looks, seconds or a timedelta.
    :param timeout: seconds, or a timedelta, to wait.
    :raises InputError: before anything is sent.
    :raises JobFailedError: the deletion failed; names the deployment's id and the state.
    """

    template_fields: Sequence[str] = ("deployment_id", "lucidworks_conn_id")

    def __init__(self, *, deployment_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deployment_id = deployment_id

    def execute(self, context: Context) -> None:
        """Delete it, then wait."""
        from lucidworks_provider.api.messages import path_segment
        from lucidworks_provider.api.models import Progress

        path_segment(self.deployment_id, "deployment_id")
        self.deployment_id = self.deployment_id.strip()
        self._checked()
        found = self._find()
        # Also where the list does not show it: a list may lag, and what runs on costs money.
        if (found is None or found.progress is not Progress.GONE) and not self._delete():
            self.log.info("Deployment %s is gone already.", self.deployment_id)
            return
        if self._waits:
            self._wait(context, "deployment", self.deployment_id, "gone")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Go on after the triggerer's wait."""
        self._end(context, event)

    def _delete(self) -> bool:
        """Whether there was anything to delete."""
        from lucidworks_provider.api.models import Progress, deployment_progress

        try:
            state = self.hook.delete_deployment(self.deployment_id)
        except AnswerError as err:
            # Gone meanwhile, or there is no such path: the list tells.
            found = None if err.retryable else self._find()
            if err.retryable or (found is not None and found.progress is not Progress.GONE):
                raise
            return found is not None
        self.log.info("Deployment %s: %s", self.deployment_id, state or "deletion accepted")
        if deployment_progress(state) is Progress.FAILED:
            raise JobFailedError(f"Deployment {self.deployment_id} is {state}; retry.").as_retryable()
        return True

    def _find(self) -> Deployment | None:
        listed = self.hook.list_deployments()
        return next((one for one in listed if one.id.lower() == self.deployment_id.lower()), None)
