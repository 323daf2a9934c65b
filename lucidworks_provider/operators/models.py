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

from lucidworks_provider.client.options import check_choice, check_option, whole
from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import (
    AmbiguousResourceError,
    ForbiddenError,
    JobFailedError,
    LucidworksError,
    RequestRefusedError,
    ResponseError,
    UnknownResourceError,
)
from lucidworks_provider.operators.base import (
    DEFERRABLE,
    FLAG,
    BaseOperatorArguments,
    StateWaitMixin,
    dictionary,
    stripped,
)
from lucidworks_provider.operators.lineage import Lineage, LineageMixin
from lucidworks_provider.operators.secrets import CredentialsMixin

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from lucidworks_provider.client.model_specs import DeploymentSpec, TrainingSpec, UnansweredPost
    from lucidworks_provider.client.models import Deployment, Model

# Searches for what a POST without a response may have made, and seconds between two.
_SEARCHES = 4
SEARCH_WAIT = 5.0

# Seconds that a list may lag behind a creation.
_LAG = 60.0
_STATE_NAME = "lucidworks_made"

# One of several endpoints does not exist.
_REFUSALS = (RequestRefusedError, ForbiddenError, UnknownResourceError)

IfAmbiguous = Literal["fail", "reuse", "create"]

T = TypeVar("T", bound="Model | Deployment")
R = TypeVar("R")


class _ModelOperator(StateWaitMixin, BaseOperator):
    """Begins something, and waits until it is done."""

    template_fields: Sequence[str] = (
        *("lucidworks_conn_id", "wait_for_completion", "deferrable", "poll_interval", "timeout"),
    )
    ui_color = "#e8f1fb"

    def __init__(
        self,
        *,
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        wait_for_completion: bool | str = True,
        deferrable: bool | str = DEFERRABLE,
        poll_interval: float | timedelta | str = 15.0,
        timeout: float | timedelta | str = 3600.0,
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.lucidworks_conn_id = lucidworks_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str | None:
        """Resume after the triggerer's wait."""
        self._end(context, event)
        return str(event["resource_id"])

    @property
    def _waits(self) -> bool:
        return check_option(self.wait_for_completion, "wait_for_completion", FLAG)

    def _validate(self) -> None:
        """Validate the connection and the arguments, before anything is sent."""
        _ = self._poll_seconds, self._timeout_seconds, self._in_triggerer, self._waits
        _ = self.hook.get_settings().models_base


class _CreatingOperator(_ModelOperator):
    """
    Creates a model or a deployment, unless it exists.

    The service has no idempotency key, so its lists are read before each POST, and a POST without a response is
    followed by a search, not by another POST. Before a POST, the existing ids are saved in the task state store, if
    there is one; after it, the id of the new resource: a list may lag.
    """

    if_ambiguous: IfAmbiguous

    def _validate(self) -> None:
        super()._validate()
        check_choice(self.if_ambiguous, "if_ambiguous", get_args(IfAmbiguous))

    def _get_or_create(
        self,
        context: Context,
        spec: TrainingSpec | DeploymentSpec,
        get_saved: Callable[[str, bool], T | None],
        list_candidates: Callable[[], Sequence[T]],
        create: Callable[[], T],
    ) -> T:
        """
        Find what an earlier attempt has created, or create it.

        :param get_saved: gets a resource by its saved id and whether it was created within ``_LAG`` seconds.
        :param list_candidates: lists everything that may meet the spec, as completely as the service shows it.
        :raises JobFailedError: what was created has failed at once.
        """
        from lucidworks_provider.client.model_specs import UnansweredPost, choose
        from lucidworks_provider.client.models import Progress
        from lucidworks_provider.jobs.record import fingerprint_of, get_state, set_state
        from lucidworks_provider.jobs.task import JOB_POSSIBLE

        earlier = self._earlier_attempt(context)
        store, fingerprint = context.get("task_state_store"), fingerprint_of(spec.as_json(), [])
        creator = self.hook.get_settings().client_id
        saved = _saved_for(fingerprint, get_state(store, _STATE_NAME))
        if saved.get("id") is not None:
            if (found := get_saved(saved["id"], time.time() - saved.get("at", 0.0) < _LAG)) is not None:
                self.log.info("%s: %s exists.", spec.what, found.id)
                return found
        elif "before" in saved:
            earlier = UnansweredPost(saved["at"], frozenset(saved["before"]), creator)

        def choose_from(existing: Sequence[T], unanswered: UnansweredPost | None) -> T | None:
            found = choose(spec, existing, unanswered, if_ambiguous=self.if_ambiguous)
            if found is not None:
                comparison = spec.compare(found)
                log = self.log.info if not comparison.doubts else self.log.warning
                log("%s: %s exists (%s).", spec.what, found.id, comparison)
            return found

        existing = list_candidates()
        if (found := choose_from(existing, earlier)) is not None:
            return found
        if existing:
            ids = ", ".join(one.id for one in existing)
            self.log.warning(
                "%s: the existing ones have failed or differ (%s). Creating another one.", spec.what, ids
            )
        post = earlier if earlier is not None and earlier.before is not None else None
        post = post or UnansweredPost(time.time(), frozenset(one.id for one in existing), creator)
        intent = {"fingerprint": fingerprint, "at": post.at, "before": sorted(post.before or ())}
        set_state(store, _STATE_NAME, json.dumps(intent))
        try:
            created = create()
        except JOB_POSSIBLE as err:
            self.log.warning("%s: %s Searching for it.", spec.what, err)
            created = self._search(spec.what, lambda: choose_from(list_candidates(), post), err)
        except LucidworksError:
            set_state(store, _STATE_NAME, json.dumps(saved))  # this POST has created nothing
            raise
        # Not required: this attempt waits for it, and the next one finds it in the list.
        set_state(
            store, _STATE_NAME, json.dumps({"fingerprint": fingerprint, "id": created.id, "at": time.time()})
        )
        if created.progress is Progress.FAILED:
            raise JobFailedError(f"{spec.what}: {created.id} is {created.state}.")
        return created

    def _earlier_attempt(self, context: Context) -> UnansweredPost | None:
        """A POST of an earlier attempt that is not in the task state store."""
        return None

    def _search(self, what: str, find: Callable[[], T | None], lost: LucidworksError) -> T:
        """
        Find what a POST without a usable response made; the lists may lag.

        :param lost: raised if nothing is found.
        """
        from tenacity import Retrying, wait_fixed

        from lucidworks_provider.retrying import retry_on

        def search() -> T:
            if (found := find()) is None:
                raise lost
            return found

        policy = retry_on(
            type(lost),
            AmbiguousResourceError,
            attempts=_SEARCHES,
            wait=wait_fixed(SEARCH_WAIT),
            what=f"{what}: the search for it",
        )
        return Retrying(**policy)(search)


def _saved_for(fingerprint: str, text: object) -> dict[str, Any]:
    """What an earlier attempt with this fingerprint has saved; empty if there is nothing."""
    try:
        saved = json.loads(str(text))
    except ValueError:
        return {}
    return saved if isinstance(saved, dict) and saved.get("fingerprint") == fingerprint else {}


class LucidworksTrainModelOperator(CredentialsMixin, LineageMixin, _CreatingOperator):
    """
    Train an embedding model, and return its id.

    Idempotent by name and configuration: an existing model with the same name and configuration is reused, so a retry
    waits for the training that an earlier attempt began. To train again, use another name, e.g. with ``{{ ds }}`` in
    it. A failed model is not reused.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-models-api

    :param name: of the model. (templated)
    :param model_type: what is trained, by the vendor's name. (templated)
    :param training_data: ``{"catalog": …, "signals": …}``: addresses that Lucidworks can read. (templated)
    :param region: where it is trained. (templated)
    :param config: the trainer's options: a flat dictionary with dots in its names. (templated)
    :param credentials_conn_id: a connection, of any type, with the key for the training data: a Google service
        account (``keyfile_dict``), or its password. Sent as ``serviceAccountKey``, and stored nowhere. (templated)
    :param training_data_credentials: instead of ``credentials_conn_id``, ``{"serviceAccountKey": …}``; a warning is
        logged unless it is a template. Not shown. Do not map over it: Airflow would store it. (templated)
    :param if_ambiguous: what to do if an existing model may be the requested one, by what the service shows:
        ``fail``, ``reuse`` it, or ``create`` another one. (templated)
    :param lucidworks_conn_id: the connection, with its Customer ID. (templated)
    :param wait_for_completion: wait until the model is ``AVAILABLE``; else return as soon as training has
        begun. (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot. (templated)
    :param poll_interval: the longest time between two polls, seconds or a timedelta. (templated)
    :param timeout: seconds, or a timedelta, to wait. A retry resumes the wait. (templated)
    :raises InputError: before anything is sent.
    :raises AmbiguousResourceError: see ``if_ambiguous``; nothing was created.
    :raises JobFailedError: training ended in a failure state; names the model's id and the state.
    """

    template_fields: Sequence[str] = (
        *("name", "model_type", "training_data", "region", "config"),
        *("credentials_conn_id", "training_data_credentials", "if_ambiguous"),
        *_ModelOperator.template_fields,
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
        wait_for_completion: bool | str = True,
        deferrable: bool | str = DEFERRABLE,
        poll_interval: float | timedelta | str = 60.0,
        timeout: float | timedelta | str = timedelta(hours=24),
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
        self._warn_about_keys()

    def execute(self, context: Context) -> str | None:
        """Find or begin the training, then wait for it."""
        from lucidworks_provider.client.model_specs import TrainingSpec
        from lucidworks_provider.client.models import Progress, create_model

        training = TrainingSpec(
            stripped(self.name),
            self.model_type,
            dictionary(self.training_data, "training_data", keep_none=True) or {},
            self.region,
            dictionary(self.config, "config"),
        )
        self._validate()
        credentials = self._credentials()
        model: Model = self._get_or_create(
            context,
            training,
            self._get_saved,
            lambda: self._list_candidates(training),
            lambda: self.hook.call(create_model(training, credentials)),
        )
        what = self._what("model", model.id)
        if self._waits and model.progress is not Progress.READY:
            self.log.info("%s: waiting until it is trained.", what)
            self._wait(context, "model", model.id, "ready")
        else:
            self.log.info("%s: %s", what, model.state)
        return model.id

    def _what(self, kind: str, resource_id: str) -> str:
        return f"Model {stripped(self.name)!r} ({resource_id})"

    def _lineage(self) -> Lineage:
        """A model is not a dataset."""
        data = dictionary(self.training_data, "training_data") or {}
        inputs = [one for one in data.values() if isinstance(one, str) and "://" in one]
        return Lineage(inputs=inputs, parameters={"model_type": str(self.model_type)})

    def _earlier_attempt(self, context: Context) -> UnansweredPost | None:
        """Without a task state store, each earlier attempt may have sent a POST."""
        from lucidworks_provider.client.model_specs import UnansweredPost

        began = getattr(context.get("dag_run"), "start_date", None)
        if context.get("task_state_store") is not None or getattr(context["ti"], "try_number", 1) < 2:
            return None
        return UnansweredPost(began.timestamp()) if isinstance(began, datetime) else None

    def _get_saved(self, model_id: str, recent: bool) -> Model | None:
        """The model that an earlier attempt created, unless it failed or was deleted."""
        from lucidworks_provider.client.models import Progress, get_model, unseen_model

        try:
            model = self.hook.call(get_model(model_id))
        except UnknownResourceError:
            return unseen_model(model_id) if recent else None
        return model if model.progress in {Progress.READY, Progress.RUNNING} else None

    def _list_candidates(self, training: TrainingSpec) -> list[Model]:
        """The models that may have this name, with the fields that the list omits."""
        from lucidworks_provider.client.models import get_model, list_models, merge_models

        named = [one for one in self.hook.call(list_models()) if training.concerns(one)]
        for position, listed in enumerate(named):
            if training.compare(listed).doubts or listed.state is None:
                with contextlib.suppress(*_REFUSALS):
                    named[position] = merge_models(self.hook.call(get_model(listed.id)), listed)
        return [one for one in named if training.concerns(one)]


class LucidworksDeployModelOperator(_CreatingOperator):
    """
    Deploy a model, and return the deployment's id, which is the ``model_id`` of predictions and chunking.

    Idempotent by model and configuration: an existing deployment of the same model with the same configuration is
    reused, unless it failed.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-models-api

    :param model_id: of a model that is ``AVAILABLE``, e.g. ``train.output``. (templated)
    :param region: where it runs. (templated)
    :param config: free options of the deployment. (templated)
    :param min_replicas: fewest copies. (templated)
    :param max_replicas: most copies. (templated)
    :param if_ambiguous: what to do if an existing deployment may be the requested one, by what the service
        shows: ``fail``, ``reuse`` it, or ``create`` another one. (templated)
    :param lucidworks_conn_id: the connection, with its Customer ID. (templated)
    :param wait_for_completion: wait until it is ``DEPLOYED``; else return as soon as deploying has begun.
        (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot. (templated)
    :param poll_interval: the longest time between two polls, seconds or a timedelta. (templated)
    :param timeout: seconds, or a timedelta, to wait. A retry resumes the wait. (templated)
    :raises InputError: before anything is sent.
    :raises AmbiguousResourceError: see ``if_ambiguous``; nothing was created.
    :raises JobFailedError: deploying failed; names the deployment's id and the state.
    """

    template_fields: Sequence[str] = (
        *("model_id", "region", "config", "min_replicas", "max_replicas", "if_ambiguous"),
        *_ModelOperator.template_fields,
    )
    template_fields_renderers = {"config": "json"}  # noqa: RUF012

    def __init__(
        self,
        *,
        model_id: str,
        region: str | None = None,
        config: Mapping[str, Any] | str | None = None,
        min_replicas: int | str = 1,
        max_replicas: int | str = 1,
        if_ambiguous: IfAmbiguous = "fail",
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        wait_for_completion: bool | str = True,
        deferrable: bool | str = DEFERRABLE,
        poll_interval: float | timedelta | str = 15.0,
        timeout: float | timedelta | str = 3600.0,
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
        """Find or begin the deployment, then wait for it."""
        from lucidworks_provider.client.model_specs import DeploymentSpec
        from lucidworks_provider.client.models import Progress, create_deployment

        placement = DeploymentSpec(
            stripped(self.model_id),
            self.region,
            dictionary(self.config, "config"),
            check_option(self.min_replicas, "min_replicas", whole(1)),
            check_option(self.max_replicas, "max_replicas", whole(1)),
        )
        self._validate()
        deployment: Deployment = self._get_or_create(
            context,
            placement,
            lambda saved_id, recent: self._get_saved(placement, saved_id, recent),
            lambda: self._list_candidates(placement),
            lambda: self.hook.call(create_deployment(placement)),
        )
        what = self._what("deployment", deployment.id)
        if self._waits and deployment.progress is not Progress.READY:
            self.log.info("%s: waiting until it is deployed.", what)
            self._wait(context, "deployment", deployment.id, "ready", placement.model_id)
        else:
            self.log.info("%s: %s", what, deployment.state)
        return deployment.id

    def _what(self, kind: str, resource_id: str) -> str:
        return f"Deployment of model {stripped(self.model_id)} ({resource_id})"

    def _get_saved(self, placement: DeploymentSpec, deployment_id: str, recent: bool) -> Deployment | None:
        """The deployment that an earlier attempt created, unless it failed or was deleted."""
        from lucidworks_provider.client.models import Progress, unseen_deployment

        found = next((one for one in self._list_candidates(placement) if one.id == deployment_id), None)
        if found is None:
            return unseen_deployment(deployment_id) if recent else None
        return found if found.progress in {Progress.READY, Progress.RUNNING} else None

    def _list_candidates(self, placement: DeploymentSpec) -> Sequence[Deployment]:
        """The deployments of this model in its own list, in the model itself and in the customer's list."""
        from lucidworks_provider.client.model_specs import join_deployments
        from lucidworks_provider.client.models import get_model, list_deployments, list_model_deployments

        model_id, refused = placement.model_id, []

        def unless_refused(ask: Callable[[], R]) -> R | None:
            try:
                return ask()
            except _REFUSALS as err:
                refused.append(err)
                return None

        own = unless_refused(lambda: self.hook.call(list_model_deployments(model_id)))
        found = join_deployments(model_id, own)
        if any(placement.is_met_by(one) for one in found):
            return found
        model = unless_refused(lambda: self.hook.call(get_model(model_id)))
        shown = None if model is None or "deployments" not in model.sent else model.deployments
        every = unless_refused(lambda: self.hook.call(list_deployments()))
        if own is None and shown is None and every is None:
            raise refused[-1]
        return join_deployments(model_id, own, shown, every)


class LucidworksUndeployModelOperator(_ModelOperator):
    """
    Delete a deployment. One that does not exist is a success.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-models-api

    :param deployment_id: e.g. ``deploy.output``. (templated)
    :param lucidworks_conn_id: the connection, with its Customer ID. (templated)
    :param wait_for_completion: wait until it is deleted; else return as soon as deletion has begun.
        (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot. (templated)
    :param poll_interval: the longest time between two polls, seconds or a timedelta. (templated)
    :param timeout: seconds, or a timedelta, to wait. (templated)
    :raises InputError: before anything is sent.
    :raises JobFailedError: the deletion failed; names the deployment's id and the state.
    """

    template_fields: Sequence[str] = ("deployment_id", *_ModelOperator.template_fields)

    def __init__(
        self,
        *,
        deployment_id: str,
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        wait_for_completion: bool | str = True,
        deferrable: bool | str = DEFERRABLE,
        poll_interval: float | timedelta | str = 15.0,
        timeout: float | timedelta | str = 3600.0,
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
        from lucidworks_provider.client.http.messages import path_segment
        from lucidworks_provider.client.models import Progress, find_deployment

        path_segment(self.deployment_id, "deployment_id")
        deployment_id = stripped(self.deployment_id)
        self._validate()
        found = self.hook.call(find_deployment(deployment_id))
        # Also where the list does not have it: a list may lag, and a running deployment costs money.
        if (found is None or found.progress is not Progress.GONE) and not self._delete(deployment_id):
            self.log.info("Deployment %s does not exist.", deployment_id)
            return
        if self._waits:
            self._wait(context, "deployment", deployment_id, "gone")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Resume after the triggerer's wait."""
        self._end(context, event)

    def _end(self, context: Context, event: dict[str, Any]) -> None:
        try:
            super()._end(context, event)
        except JobFailedError as err:
            raise err.as_retryable() from None  # a retry deletes it again

    def _delete(self, deployment_id: str) -> bool:
        """Whether there was a deployment to delete."""
        from lucidworks_provider.client.models import (
            Progress,
            delete_deployment,
            deployment_progress,
            find_deployment,
        )

        try:
            state = self.hook.call(delete_deployment(deployment_id))
        except ResponseError as err:
            # Deleted meanwhile, or the endpoint does not exist: check the list.
            found = None if err.retryable else self.hook.call(find_deployment(deployment_id))
            if err.retryable or (found is not None and found.progress is not Progress.GONE):
                raise
            return found is not None
        self.log.info("Deployment %s: deletion accepted%s", deployment_id, f", {state}" if state else "")
        if deployment_progress(state) is Progress.FAILED:
            raise JobFailedError(f"Deployment {deployment_id} is {state}; retry.").as_retryable()
        return True
