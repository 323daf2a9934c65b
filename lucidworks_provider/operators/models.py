# SPDX-License-Identifier: Apache-2.0
"""Train, deploy and undeploy models of Lucidworks AI."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, get_args

from airflow.providers.common.compat.sdk import BaseOperator

from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import (
    AmbiguousResourceError,
    AnswerError,
    ForbiddenError,
    JobFailedError,
    LucidworksError,
    RequestRefusedError,
    SubmissionUnknownError,
    UnknownResourceError,
)
from lucidworks_provider.operators.arguments import BaseOperatorArguments
from lucidworks_provider.operators.lineage import TrainingLineageMixin
from lucidworks_provider.operators.model_credentials import CredentialsMixin
from lucidworks_provider.operators.state import StateWaitMixin
from lucidworks_provider.operators.values import dictionary, one_of, switch
from lucidworks_provider.operators.waiting import DEFERRABLE

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from lucidworks_provider.client.api.model_calls import DeploymentSpec, TrainingSpec, UnansweredPost
    from lucidworks_provider.client.api.models import Deployment, Model

# How often to look for what a POST without an answer may have made, and seconds between two looks.
_SEARCHES = 3
_BETWEEN_SEARCHES = 5.0

# How long a list may lag behind what was made.
_LAG = 60.0
_STATE_NAME = "lucidworks_made"

# What says that one of several ways to look is not there.
_REFUSALS = (RequestRefusedError, ForbiddenError, UnknownResourceError)

IfAmbiguous = Literal["fail", "reuse", "create"]

T = TypeVar("T", bound="Model | Deployment")
R = TypeVar("R")


class _ModelOperator(StateWaitMixin, BaseOperator):
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
        **kwargs: Unpack[BaseOperatorArguments],
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


class _CreatingOperator(_ModelOperator):
    """
    Makes a model or a deployment, unless it exists.

    The service knows no idempotency key, so its lists are read before each POST, and a POST without an answer is
    followed by a look at them, not by another POST. Before a POST, the ids that exist are written to the task state
    store, where there is one; after it, the id that was made: a list may lag.

    :param if_ambiguous: what to do where one exists that may or may not be what is asked for: ``fail``, ``reuse``
        it, or ``create`` another one.
    """

    if_ambiguous: IfAmbiguous

    def _checked(self) -> None:
        super()._checked()
        one_of(self.if_ambiguous, "if_ambiguous", *get_args(IfAmbiguous))

    def _get_or_create(
        self,
        context: Context,
        asked: TrainingSpec | DeploymentSpec,
        known: Callable[[str, bool], T | None],
        look: Callable[[], Sequence[T]],
        create: Callable[[], T],
    ) -> T:
        """
        Find what an earlier attempt has made, or make another one.

        :param known: finds it by an id that was noted; is told whether that was a moment ago.
        :param look: lists everything that may be what is asked for, as completely as the service shows it.
        """
        from lucidworks_provider.client.api.model_calls import UnansweredPost, choose
        from lucidworks_provider.jobs.record import fingerprint_of
        from lucidworks_provider.jobs.state_store import note

        earlier = self._earlier_attempt(context)
        store, fingerprint = context.get("task_state_store"), fingerprint_of(asked.as_json(), [])
        creator = self.hook.get_settings().client_id
        noted = json.loads(str(store.get(_STATE_NAME) or "{}")) if store is not None else {}
        if noted.get("fingerprint") != fingerprint:
            noted = {}
        if noted.get("id") is not None:
            if (found := known(noted["id"], time.time() - noted.get("at", 0.0) < _LAG)) is not None:
                self.log.info("%s: %s exists.", asked.what, found.id)
                return found
        elif "before" in noted:
            earlier = UnansweredPost(noted["at"], frozenset(noted["before"]), creator)

        def chosen(existing: Sequence[T], unanswered: UnansweredPost | None) -> T | None:
            found = choose(asked, existing, unanswered, if_ambiguous=self.if_ambiguous)
            if found is not None:
                # What is not equal is taken for a reason that a reader of the log should see.
                how = asked.compare(found)
                log = self.log.info if not how.doubts else self.log.warning
                log("%s: %s exists (%s).", asked.what, found.id, how)
            return found

        existing = look()
        if (found := chosen(existing, earlier)) is not None:
            return found
        if existing:
            ids = ", ".join(one.id for one in existing)
            self.log.warning(
                "%s: what exists failed, or was made otherwise: %s. Making another one.", asked.what, ids
            )
        post = earlier if earlier is not None and earlier.before is not None else None
        post = post or UnansweredPost(time.time(), frozenset(one.id for one in existing), creator)
        sent = {"fingerprint": fingerprint, "at": post.at, "before": sorted(post.before or ())}
        note(store, _STATE_NAME, json.dumps(sent))
        try:
            made = create()
        except SubmissionUnknownError as err:
            self.log.warning("%s: %s Looking for it.", asked.what, err)
            made = self._search(lambda: chosen(look(), post), err)
        except LucidworksError:
            note(store, _STATE_NAME, json.dumps(noted))  # this POST has made nothing
            raise
        # No reason to fail if that cannot be done: this try waits for it, and the next one finds it in the list.
        note(store, _STATE_NAME, json.dumps({"fingerprint": fingerprint, "id": made.id, "at": time.time()}))
        return made

    def _earlier_attempt(self, context: Context) -> UnansweredPost | None:
        """What is known of a POST of an earlier attempt, beside what the task state store says."""
        return None

    def _search(self, find: Callable[[], T | None], lost: SubmissionUnknownError) -> T:
        failure: LucidworksError = lost
        for _ in range(_SEARCHES):
            time.sleep(_BETWEEN_SEARCHES)
            try:
                if (found := find()) is not None:
                    return found
            except AmbiguousResourceError as err:
                failure = err  # the list may lag, so look again
            else:
                failure = lost
        raise failure


class LucidworksTrainModelOperator(CredentialsMixin, TrainingLineageMixin, _CreatingOperator):
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
        template. Shown nowhere. Not to be mapped over: Airflow would store it. (templated)
    :param if_ambiguous: what to do where a model exists that may or may not be this one, by what the service shows:
        ``fail`` instead, ``reuse`` it, or ``create`` another one.
    :param lucidworks_conn_id: the connection, with its Customer ID. (templated)
    :param wait_for_completion: wait until the model is ``AVAILABLE``; else return as soon as training began.
    :param deferrable: wait in the triggerer, without holding a worker slot.
    :param poll_interval: the longest time between two looks, seconds or a timedelta.
    :param timeout: seconds, or a timedelta, to wait. A retry goes on waiting for the same model.
    :raises InputError: before anything is sent.
    :raises AmbiguousResourceError: see ``if_ambiguous``; no other one was made.
    :raises JobFailedError: training ended in a failure state; names the model's id and the state.
    """

    template_fields: Sequence[str] = (
        *("name", "model_type", "training_data", "region", "config"),
        *("credentials_conn_id", "training_data_credentials", "lucidworks_conn_id"),
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
        if_ambiguous: IfAmbiguous = "fail",
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        wait_for_completion: bool = True,
        deferrable: bool = DEFERRABLE,
        poll_interval: float | timedelta = 60.0,
        timeout: float | timedelta = timedelta(hours=24),
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(
            lucidworks_conn_id=lucidworks_conn_id,
            wait_for_completion=wait_for_completion,
            deferrable=deferrable,
            poll_interval=poll_interval,
            timeout=timeout,
            **kwargs,
        )
        self.if_ambiguous = if_ambiguous
        self.name = name
        self.model_type = model_type
        self.training_data = training_data
        self.region = region
        self.config = config
        self.credentials_conn_id = credentials_conn_id
        self.training_data_credentials = training_data_credentials
        self._warn_of_keys()

    def execute(self, context: Context) -> str | None:
        """Find or begin the training, then wait."""
        from lucidworks_provider.client.api.model_calls import TrainingSpec
        from lucidworks_provider.client.api.models import Progress
        from lucidworks_provider.client.models import create_model

        training = TrainingSpec(
            self.name,
            self.model_type,
            dictionary(self.training_data, "training_data") or {},
            self.region,
            dictionary(self.config, "config"),
        )
        self._checked()
        credentials = self._credentials()
        model: Model = self._get_or_create(
            context,
            training,
            self._known,
            lambda: self._look(training),
            lambda: self.hook.call(create_model(training, credentials)),
        )
        self.log.info("Model %r: %s, %s", self.name, model.id, model.state)
        if self._waits and model.progress is not Progress.READY:
            self._wait(context, "model", model.id, "ready")
        return model.id

    def _what(self, kind: str, resource_id: str) -> str:
        return f"Model {self.name!r} ({resource_id})"

    def _earlier_attempt(self, context: Context) -> UnansweredPost | None:
        """Without a task state store an earlier attempt may have sent a POST. A name is a reason to suspect it."""
        from lucidworks_provider.client.api.model_calls import UnansweredPost

        began = getattr(context.get("dag_run"), "start_date", None)
        if context.get("task_state_store") is not None or getattr(context["ti"], "try_number", 1) < 2:
            return None
        return UnansweredPost(began.timestamp()) if isinstance(began, datetime) else None

    def _known(self, model_id: str, _: bool) -> Model | None:
        """The model that an earlier try noted, unless it failed or was deleted."""
        from lucidworks_provider.client.api.models import Progress
        from lucidworks_provider.client.models import get_model

        try:
            model = self.hook.call(get_model(model_id))
        except UnknownResourceError:
            return None
        return model if model.progress in {Progress.READY, Progress.RUNNING} else None

    def _look(self, training: TrainingSpec) -> list[Model]:
        """The models that may have this name. What the list leaves out, the model itself may show."""
        from lucidworks_provider.client.api.models import merge_models
        from lucidworks_provider.client.models import get_model, list_models

        named = [one for one in self.hook.call(list_models()) if training.concerns(one)]
        for position, listed in enumerate(named):
            if training.compare(listed).doubts or listed.state is None:
                with contextlib.suppress(*_REFUSALS):
                    named[position] = merge_models(self.hook.call(get_model(listed.id)), listed)
        return [one for one in named if training.concerns(one)]


class LucidworksDeployModelOperator(_CreatingOperator):
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
    :param if_ambiguous: what to do where a deployment exists that may or may not be this one, by what the service
        shows: ``fail`` instead, ``reuse`` it, or ``create`` another one.
    :param lucidworks_conn_id: the connection, with its Customer ID. (templated)
    :param wait_for_completion: wait until it is ``DEPLOYED``; else return as soon as deploying began.
    :param deferrable: wait in the triggerer, without holding a worker slot.
    :param poll_interval: the longest time between two looks, seconds or a timedelta.
    :param timeout: seconds, or a timedelta, to wait. A retry goes on waiting for the same deployment.
    :raises InputError: before anything is sent.
    :raises AmbiguousResourceError: see ``if_ambiguous``; no other one was made.
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
        if_ambiguous: IfAmbiguous = "fail",
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        wait_for_completion: bool = True,
        deferrable: bool = DEFERRABLE,
        poll_interval: float | timedelta = 15.0,
        timeout: float | timedelta = 3600.0,
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(
            lucidworks_conn_id=lucidworks_conn_id,
            wait_for_completion=wait_for_completion,
            deferrable=deferrable,
            poll_interval=poll_interval,
            timeout=timeout,
            **kwargs,
        )
        self.if_ambiguous = if_ambiguous
        self.model_id = model_id
        self.region = region
        self.config = config
        self.min_replicas = min_replicas
        self.max_replicas = max_replicas

    def execute(self, context: Context) -> str | None:
        """Find or begin the deployment, then wait."""
        from lucidworks_provider.client.api.model_calls import DeploymentSpec
        from lucidworks_provider.client.api.models import Progress
        from lucidworks_provider.client.models import create_deployment

        placement = DeploymentSpec(
            self.model_id,
            self.region,
            dictionary(self.config, "config"),
            self.min_replicas,
            self.max_replicas,
        )
        self._checked()
        deployment: Deployment = self._get_or_create(
            context,
            placement,
            lambda known, lately: self._known(placement, known, lately),
            lambda: self._look(placement),
            lambda: self.hook.call(create_deployment(placement)),
        )
        self.log.info("%s: %s, %s", placement.what, deployment.id, deployment.state)
        if self._waits and deployment.progress is not Progress.READY:
            self._wait(context, "deployment", deployment.id, "ready", self.model_id)
        return deployment.id

    def _what(self, kind: str, resource_id: str) -> str:
        return f"Deployment of model {self.model_id} ({resource_id})"

    def _known(self, placement: DeploymentSpec, deployment_id: str, lately: bool) -> Deployment | None:
        """The deployment that an earlier try noted, unless it failed or is gone."""
        from lucidworks_provider.client.api.models import Progress, unseen_deployment

        found = next((one for one in self._look(placement) if one.id == deployment_id), None)
        if found is None:
            return unseen_deployment(deployment_id) if lately else None
        return found if found.progress in {Progress.READY, Progress.RUNNING} else None

    def _look(self, placement: DeploymentSpec) -> Sequence[Deployment]:
        """The deployments of this model, as its own list, the model itself and the customer's list show them."""
        from lucidworks_provider.client.api.model_calls import join_deployments
        from lucidworks_provider.client.models import get_model, list_deployments, list_model_deployments

        model_id, refused = placement.model_id.strip(), []

        def answered(ask: Callable[[], R]) -> R | None:
            try:
                return ask()
            except _REFUSALS as err:
                refused.append(err)
                return None

        own = answered(lambda: self.hook.call(list_model_deployments(model_id)))
        found = join_deployments(model_id, own)
        if any(placement.is_met_by(one) for one in found):
            return found
        model = answered(lambda: self.hook.call(get_model(model_id)))
        shown = None if model is None or "deployments" not in model.sent else model.deployments
        every = answered(lambda: self.hook.call(list_deployments()))
        if own is None and shown is None and every is None:
            raise refused[-1]
        return join_deployments(model_id, own, shown, every)


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

    def __init__(
        self,
        *,
        deployment_id: str,
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        wait_for_completion: bool = True,
        deferrable: bool = DEFERRABLE,
        poll_interval: float | timedelta = 15.0,
        timeout: float | timedelta = 3600.0,
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(
            lucidworks_conn_id=lucidworks_conn_id,
            wait_for_completion=wait_for_completion,
            deferrable=deferrable,
            poll_interval=poll_interval,
            timeout=timeout,
            **kwargs,
        )
        self.deployment_id = deployment_id

    def execute(self, context: Context) -> None:
        """Delete it, then wait."""
        from lucidworks_provider.client.api.http import path_segment
        from lucidworks_provider.client.api.models import Progress

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
        from lucidworks_provider.client.api.models import Progress, deployment_progress
        from lucidworks_provider.client.models import delete_deployment

        try:
            state = self.hook.call(delete_deployment(self.deployment_id))
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
        from lucidworks_provider.client.models import list_deployments

        listed = self.hook.call(list_deployments())
        return next((one for one in listed if one.id.lower() == self.deployment_id.lower()), None)
