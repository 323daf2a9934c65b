# SPDX-License-Identifier: Apache-2.0
"""
What operators and sensors share: types of arguments, templates that render None, errors, the hook, results, rows,
waiting, and tasks of jobs.

Errors of an operator or sensor and Airflow's retries:

=========================  ==========================================================================
error                      task
=========================  ==========================================================================
``retryable``              is retried as Airflow does
not, no retry policy       fails at once: the error is an ``AirflowFailException`` as well
not, with a retry policy   fails as the policy decides: Airflow does not evaluate one for an
                           ``AirflowFailException``
=========================  ==========================================================================

Airflow has retry policies from 3.3 on.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache, cached_property, wraps
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator, conf

from lucidworks_provider.client.options import (
    Option,
    as_bool,
    as_json,
    as_number,
    check_choice,
    check_option,
    number,
    whole,
)
from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import (
    InputError,
    JobFailedError,
    JobTimeoutError,
    LucidworksError,
    StorageNotSharedError,
)
from lucidworks_provider.links import LucidworksResultLink, push_result
from lucidworks_provider.operators.lineage import Lineage, LineageMixin

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperatorLink, Context
    from airflow.sdk.definitions.mappedoperator import OperatorPartial

    from lucidworks_provider.client.chunking import ChunkingOptions
    from lucidworks_provider.documents.document import TableColumns
    from lucidworks_provider.hooks.lucidworks import LucidworksHook
    from lucidworks_provider.jobs.decisions import JobsOutcome
    from lucidworks_provider.jobs.record import JobRecord, JobStateStore
    from lucidworks_provider.jobs.rows import Batches, RowRules, Spool
    from lucidworks_provider.jobs.task import JobTask

E = TypeVar("E", bound=LucidworksError)

# The trigger's event at its deadline must arrive before Airflow's timeout of the deferral.
DEFER_SLACK = timedelta(minutes=5)
# Of execution_timeout, for the resumption: a tenth, and no more than queueing a task and starting a worker takes.
_MARGIN, _LONGEST_MARGIN = 0.1, 30.0
# Share of documents or inputs.
MAX_REJECT_RATIO = 0.05
DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)
# How long the service keeps a result is not documented.
_LONGEST = 365 * 86_400.0


def _as_seconds(value: object) -> float:
    found = value.total_seconds() if isinstance(value, timedelta) else float(as_number(value))
    if not 0 < found <= _LONGEST:
        raise ValueError
    return found


# Types of arguments. A template renders to a text, so texts of numbers and of truth values are accepted.
SECONDS: Option[float] = (
    f"a timedelta or a number of seconds, above 0 and at most {_LONGEST:,.0f} s",
    _as_seconds,
)
LIMIT: Option[int | None] = (
    f"{whole(0)[0]}, or None for no limit",
    lambda value: None if value is None else whole(0)[1](value),
)
FLAG: Option[bool] = ("True or False", lambda value: value is not None and as_bool(value))


def dictionary(
    value: Mapping[str, Any] | str | None, what: str, *, keep_none: bool = False
) -> Mapping[str, Any] | None:
    """
    A dictionary, or a string with a JSON object, without the options that are None.

    :param keep_none: for a dictionary whose keys have no default: its validation refuses None.
    :raises InputError: any other string. Other values are returned, to be validated with their options.
    """
    decoded: Any = value
    if isinstance(value, str):
        with suppress(ValueError):
            decoded = json.loads(value)
        if decoded is not None and not isinstance(decoded, dict):
            raise InputError(f"{what} is {value[:80]!r}, which is not a JSON object; give a dictionary.")
    # A RedactedDict has more than its items.
    options: Mapping[str, Any] | None = (
        as_json(decoded) if type(decoded) is dict and not keep_none else decoded
    )
    return options


class NonRetryableErrorsMixin:
    """Makes errors that a retry cannot fix end the task at once, also in subclasses that users write."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("execute", "execute_complete"):
            if method := cls.__dict__.get(name):
                setattr(cls, name, fail_without_retry(method))


def as_fail_exception(err: E) -> E:
    """Return the error as an instance of its class and of ``AirflowFailException``."""
    if isinstance(err, AirflowFailException):
        return err
    kind: type[E] = _fail_exception_class(type(err))  # type: ignore[arg-type]  # mypy: a class is not hashable
    failing: E = kind.__new__(kind, *err.args)
    failing.__dict__.update(err.__dict__, retryable=False)
    return failing


def fail_without_retry(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except LucidworksError as err:
            decided = err.retryable or isinstance(err, AirflowFailException)
            if decided or getattr(self, "retry_policy", None) is not None:
                raise
            raise as_fail_exception(err) from err

    return run


@cache
def _fail_exception_class(kind: type[Any]) -> type[Any]:
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind, AirflowFailException), named)


class NoneTemplatesMixin:
    """
    An argument whose template renders ``None`` gets its default.

    Jinja renders ``None`` as the text ``None``, and Airflow decodes that text only with
    ``render_template_as_native_obj``. Within a dictionary or a list such a value is None. A literal ``"None"`` is
    a string.

    The output of another task is refused in an argument that Airflow does not resolve.
    """

    if TYPE_CHECKING:
        template_fields: Collection[str]

    def _hook_apply_defaults(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Called by Airflow with the arguments of a task."""
        refuse_upstream(kwargs, self.template_fields)
        return args, kwargs

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """Called in a DAG file with the arguments that all mapped tasks share."""
        refuse_upstream(kwargs, cls.template_fields)
        partial: OperatorPartial = super().partial(**kwargs)  # type: ignore[misc]
        return partial

    def render_template(
        self, content: Any, context: Context, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Called by Airflow for nested values too."""
        rendered = super().render_template(content, context, jinja_env, seen_oids)  # type: ignore[misc]
        if isinstance(content, str):
            rendered = _join_surrogates(rendered)
        is_none = isinstance(content, str) and isinstance(rendered, str) and rendered.strip() == "None"
        if not is_none or content.strip() == "None":
            return rendered
        from jinja2.nativetypes import NativeEnvironment

        # It decodes None itself, so this is the text of `| tojson`.
        return rendered if rendered == "None" and isinstance(jinja_env, NativeEnvironment) else None

    @fail_without_retry
    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], *args: Any, **kwargs: Any
    ) -> None:
        """Called by Airflow for a task, mapped or not, and for objects within its arguments."""
        fields = list(template_fields)
        given = {field for field in fields if getattr(parent, field, None) is not None}
        super()._do_render_template_fields(parent, fields, *args, **kwargs)  # type: ignore[misc]
        if parent is not self:
            return
        for field in given:
            if getattr(self, field) is None:
                setattr(self, field, _default_of(type(self), field))


def refuse_upstream(arguments: Mapping[str, Any], template_fields: Collection[str]) -> None:
    """
    Refuse the output of another task where Airflow would neither wait for it nor resolve it.

    :param arguments: of a task; those that the package does not know belong to a user's subclass.
    :raises InputError: names the argument and the other task.
    """
    from airflow.providers.common.compat.sdk import XComArg

    for name in sorted(_PARSED & set(arguments) - set(template_fields)):
        for upstream, _ in XComArg.iter_xcom_references(arguments[name]):
            raise InputError(
                f"{name} is the output of task {upstream.task_id!r}, but is not a template field. Give a value"
                f"{f', or map over it: .expand({name}=…)' if name in _EXPANDED else ''}."
            )


def _join_surrogates(value: Any) -> Any:
    """Join surrogate pairs: ``tojson`` escapes an emoji as two halves, which native rendering leaves apart."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    if type(value) is list:
        return [_join_surrogates(one) for one in value]
    if type(value) is dict:
        return {_join_surrogates(name): _join_surrogates(one) for name, one in value.items()}
    return value


def _default_of(operator: type, argument: str) -> Any:
    for each in operator.__mro__:
        if "__init__" in vars(each):
            parameter = inspect.signature(vars(each)["__init__"]).parameters.get(argument)
            if parameter is not None and parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                if parameter.default is inspect.Parameter.empty:
                    break
                return parameter.default
    raise InputError(
        f"{argument} rendered to None, and it is required. Check the template: an upstream task may have "
        "returned nothing or been skipped, or a param is None."
    )


class HookMixin(NoneTemplatesMixin, NonRetryableErrorsMixin):
    """Gives an operator :attr:`hook`, made of its ``lucidworks_conn_id``."""

    if TYPE_CHECKING:
        lucidworks_conn_id: str

    @cached_property
    def hook(self) -> LucidworksHook:
        from lucidworks_provider.hooks.lucidworks import LucidworksHook

        return LucidworksHook(self.lucidworks_conn_id)


class ResultMixin(LineageMixin):
    """Publishes the result of an operator or sensor."""

    if TYPE_CHECKING:
        outlets: Any

    operator_extra_links: Collection[BaseOperatorLink] = (LucidworksResultLink(),)
    # Set in the process that ends the task, which after a deferral is not the one that began it.
    manifest: Mapping[str, Any] | None = None

    def _ended(self, context: Context, manifest: dict[str, Any]) -> dict[str, Any]:
        """Publish the result once it is written, and return it."""
        self.manifest = manifest
        push_result(context, manifest.get("dataset") or manifest.get("uri"), is_folder="dataset" in manifest)
        add_asset_extra(context, self.outlets, manifest)
        return manifest

    def _lineage(self) -> Lineage:
        return Lineage(output=(self.manifest or {}).get("uri"))


def add_asset_extra(context: Context, outlets: Sequence[Any], manifest: Mapping[str, Any]) -> None:
    """
    Add a manifest's numbers and strings to the event of each asset of ``outlets``.

    Keys that the task has set itself are not changed. Aliases get nothing: their assets are not known.

    :param outlets: of the operator.
    :param manifest: what the task returns; lists and dictionaries are omitted.
    """
    events = context.get("outlet_events")
    if events is None or not outlets:
        return
    from airflow.providers.common.compat.sdk import Asset

    extra_values = {name: value for name, value in manifest.items() if isinstance(value, str | int | float)}
    for outlet in outlets:
        if isinstance(outlet, Asset):
            extra = events[outlet].extra
            for name, value in extra_values.items():
                extra.setdefault(name, value)


class ChunkingOptionsMixin:
    """Arguments that determine how documents are chunked and vectorised."""

    if TYPE_CHECKING:
        chunker: str
        model_id: str
        data_type: str | None
        chunker_config: Any
        model_config: Any

    def chunking_options(self) -> ChunkingOptions:
        """Validate the rendered values; raises InputError."""
        from lucidworks_provider.client.chunking import ChunkingOptions

        return ChunkingOptions(
            self.chunker,
            stripped(self.model_id),
            self.data_type,
            dictionary(self.chunker_config, "chunker_config"),
            dictionary(self.model_config, "model_config"),
        )


class RowsMixin:
    """Arguments that determine which rows are read, and what is done with those that cannot be sent."""

    if TYPE_CHECKING:
        id_column: str | None
        text_column: str
        columns: Any
        max_reject_ratio: float | str
        on_invalid: str
        on_empty: str
        result_path: Any
        max_requests: int | str | None

    # Types of the columns that are passed through, once the rows are read.
    _kept_types: Mapping[str, Any] = {}
    # Rows that are stored until the task succeeds.
    _spool: Spool | None = None

    def _table_columns(self, argument: str, optional: tuple[str, ...] = ()) -> TableColumns:
        """
        Validate the names of the columns.

        :param argument: that has the rows.
        :param optional: other columns that are sent.
        """
        from lucidworks_provider.documents.document import TableColumns

        columns = self.columns
        if isinstance(columns, str):
            if columns.lstrip().startswith("["):
                with suppress(ValueError):
                    columns = json.loads(columns)
            else:
                columns = [columns] if columns else []
        if isinstance(columns, str) or not isinstance(columns, Sequence):
            raise InputError(f"columns is {columns!r}; give a list of names.")
        return TableColumns(self.id_column, self.text_column, tuple(columns), optional, argument)

    def _read_rows(
        self,
        rows: Any,
        columns: TableColumns,
        rules: RowRules,
        *,
        size: int,
        taken: Collection[str],
        spool: Spool | None,
        check: Callable[[Batches], None] = lambda batches: None,
    ) -> Batches:
        """
        Read and validate all rows, before anything is sent.

        :param size: rows of a request.
        :param taken: names of the other columns of the result.
        :param spool: stores rows that can be read only once.
        :param check: raises InputError for batches that the task cannot take.
        :raises InputError: a row is not valid, or by policy.
        :raises BudgetExceededError: the rows take more than ``max_requests``.
        :raises AirflowSkipException: there are no rows, by policy.
        """
        from lucidworks_provider.documents.source import is_file_of
        from lucidworks_provider.jobs.rows import check_kept, read_batches
        from lucidworks_provider.jobs.task import Budget

        budget = Budget(check_option(self.max_requests, "max_requests", LIMIT))
        ratio = check_option(self.max_reject_ratio, "max_reject_ratio", number(0, 1))
        reject = check_choice(self.on_invalid, "on_invalid", ("reject", "fail")) == "reject"
        on_empty = check_choice(self.on_empty, "on_empty", ("succeed", "skip", "fail"))
        check_kept(taken, columns.kept)
        typed = bool(self.result_path) and str(self.result_path).strip().endswith(".parquet")
        batches = read_batches(rows, columns, rules, size, typed=typed, spool=spool)
        survey = batches.survey
        self._kept_types = survey.types if typed else {}
        try:
            if batches.uri and self.result_path and is_file_of(batches.uri, str(self.result_path).strip()):
                raise InputError(
                    f"result_path is {self.result_path}, which is or would be a file of {columns.argument} "
                    f"({batches.uri}); write it to another folder."
                )
            if not survey.rows:
                _handle_empty(columns.argument, on_empty)
            survey.check(reject=reject, max_reject_ratio=ratio)
            check_kept(taken, columns.kept, self._kept_types)
            check(batches)
            budget.check_requests(len(batches))
        except Exception:
            if spool is not None:
                spool.discard()
            raise
        self._spool = spool if batches.spooled else None
        return batches

    def _ended(self, context: Context, manifest: dict[str, Any]) -> dict[str, Any]:
        ended: dict[str, Any] = super()._ended(context, manifest)  # type: ignore[misc]
        # Last: a retry after a kill until here needs the rows.
        if self._spool is not None:
            self._spool.discard()
        return ended


def _handle_empty(argument: str, policy: str) -> None:
    if policy == "fail":
        raise InputError(f"{argument} has no rows. on_empty='succeed' accepts this, 'skip' skips the task.")
    if policy == "skip":
        from airflow.providers.common.compat.sdk import AirflowSkipException

        raise AirflowSkipException(f"{argument} has no rows.")


class WaitMixin(HookMixin):
    """Waits in the triggerer or in the worker."""

    if TYPE_CHECKING:
        deferrable: bool | str
        poll_interval: float | timedelta | str
        timeout: Any
        execution_timeout: timedelta | None
        log: Any
        defer: Any

    @property
    def _poll_seconds(self) -> float:
        return check_option(self.poll_interval, "poll_interval", SECONDS)

    @property
    def _in_triggerer(self) -> bool:
        return check_option(self.deferrable, "deferrable", FLAG)

    @property
    def _timeout_seconds(self) -> float:
        return check_option(self.timeout, "timeout", SECONDS)

    def _deadline(self, context: Context) -> float:
        """Of this attempt, in seconds since the epoch."""
        limit = execution_limit(context["ti"], self.execution_timeout)
        return min(time.time() + self._timeout_seconds, limit or math.inf)

    def _waited(self, context: Context) -> str:
        """The smaller limit, for messages about a timeout."""
        if self._ends_by_execution_timeout(context):
            return f"execution_timeout={self.execution_timeout.total_seconds():g} s of the attempt's start"  # type: ignore[union-attr]
        return f"timeout={self._timeout_seconds:g} s"

    def _resumption(self, context: Context) -> str:
        """What continues after a timeout, for messages."""
        return "A retry resumes the wait."

    def _ends_by_execution_timeout(self, context: Context) -> bool:
        """Whether ``execution_timeout`` is the smaller limit. A retry gets a new one, even for a sensor."""
        ti = context["ti"]
        limit = execution_limit(ti, self.execution_timeout)
        return limit is not None and limit - ti.start_date.timestamp() < self._timeout_seconds


def execution_limit(ti: Any, execution_timeout: timedelta | None) -> float | None:
    """
    When a wait must end so that its task ends within ``execution_timeout``, in seconds since the epoch.

    Airflow 3 ignores ``execution_timeout`` while a task is deferred and measures it anew from each resumption, so
    it is measured here, from the attempt's start, which a deferral does not change.

    :param ti: the running task instance; one without a start date has no limit.
    """
    started = getattr(ti, "start_date", None)
    if execution_timeout is None or not isinstance(started, datetime):
        return None
    limit = execution_timeout.total_seconds()
    # The task resumes within the margin, and fails with its own error before Airflow ends it.
    return started.timestamp() + limit - min(_LONGEST_MARGIN, limit * _MARGIN)


def seconds_since_start(context: Context) -> float | None:
    """Since the attempt's start, which a deferral does not change."""
    started = getattr(context.get("ti"), "start_date", None)
    return time.time() - started.timestamp() if isinstance(started, datetime) else None


class StateWaitMixin(WaitMixin):
    """Waits until a model or a deployment is in a state, or cannot get there."""

    def _what(self, kind: str, resource_id: str) -> str:
        """The name of the resource in messages."""
        return f"{kind.capitalize()} {resource_id}"

    def _wait(
        self, context: Context, kind: str, resource_id: str, target: str, model_id: str | None = None
    ) -> None:
        """
        Wait in the triggerer or in this process.

        :param kind: ``model`` or ``deployment``.
        :param target: see :mod:`lucidworks_provider.jobs.decisions`.
        :param model_id: of a deployment whose model is known.
        """
        deadline = self._deadline(context)
        if self._in_triggerer:
            from lucidworks_provider.triggers import LucidworksStateTrigger

            self.defer(
                trigger=LucidworksStateTrigger(
                    lucidworks_conn_id=self.lucidworks_conn_id,
                    kind=kind,
                    resource_id=resource_id,
                    target=target,
                    poll_interval=self._poll_seconds,
                    deadline=deadline,
                    model_id=model_id,
                ),
                method_name="execute_complete",
                timeout=timedelta(seconds=max(0.0, deadline - time.time())) + DEFER_SLACK,
            )
        from lucidworks_provider.jobs.polling import wait_for_state

        event = asyncio.run(
            wait_for_state(
                self.hook,
                kind=kind,
                resource_id=resource_id,
                target=target,
                poll_interval=self._poll_seconds,
                deadline=deadline,
                model_id=model_id,
            )
        )
        self._end(context, event)

    def _end(self, context: Context, event: dict[str, Any]) -> None:
        """Raise unless the state was reached."""
        what, target = self._what(event["kind"], event["resource_id"]), event["target"]
        status, message = f"{what} is {event.get('state') or 'missing'}", event.get("message") or ""
        match event["end"]:
            case "reached":
                from lucidworks_provider.metrics import duration

                took = seconds_since_start(context)
                after = "" if took is None else f", in {duration(took)}"
                self.log.info("%s: %s%s", what, event.get("state") or "deleted", after)
            case "failed":
                raise JobFailedError(f"{status}, and will not reach {target!r}. {message}".strip())
            case "timeout":
                raise JobTimeoutError(self._timed_out(context, event))
            case _:
                raise LucidworksError(f"{status}; waiting for {target!r} failed: {message}")

    def _timed_out(self, context: Context, event: dict[str, Any]) -> str:
        from lucidworks_provider.client.models import unknown_target
        from lucidworks_provider.jobs.decisions import GONE, READY

        kind, target = event["kind"], event["target"]
        status = f"{self._what(kind, event['resource_id'])} is {event.get('state') or 'missing'}"
        sentences = (
            f"{status}, and was not {target!r} within {self._waited(context)}.",
            event.get("message"),
            "" if target in {READY, GONE} else unknown_target(kind, target),
            self._resumption(context),
        )
        return " ".join(filter(None, sentences))


class DeferrableJobMixin(ResultMixin, WaitMixin):
    """
    Submits in the worker, waits in the triggerer or in the worker, and resumes in a retry.

    :meth:`_task` has what is submitted and written.
    """

    if TYPE_CHECKING:
        result_path: str

    def _run(self, context: Context) -> dict[str, Any]:
        """Submit what has no job yet, then wait."""
        task = self._task(context)
        task.log_input()
        # Validate the connection before anything is written or sent.
        _ = self.hook.get_settings().application_base
        record = task.store.begin(
            task.fingerprint, context["ti"].max_tries, task.count, task.result_uri, task.digest
        )
        if record.result is not None:
            task.store.close(record)
            return self._ended(context, dict(record.result))
        if not task.count:
            return self._ended(context, task.write(record))
        return self._wait(context, task, record)

    def execute_complete(
        self, context: Context, event: dict[str, Any], deadline: float | None = None
    ) -> dict[str, Any]:
        """
        Resume after the triggerer's wait.

        :param deadline: of the attempt. ``dag.test()`` does not pass it; another wait then has a new one.
        """
        from lucidworks_provider.jobs.decisions import JobsOutcome
        from lucidworks_provider.jobs.record import read_job_record

        task = self._task(context)
        record = task.store.load()
        if record is not None and (
            record.fingerprint != task.fingerprint
            or (record.result is not None and record.digest != task.digest)
        ):
            # The positions in the record, or the rows of the result, are of another input.
            raise InputError(
                "The input or the options changed while the task was waiting (was an upstream task cleared?). "
                "Nothing was written; a retry submits the new ones."
            ).as_retryable()
        if record is not None and record.result is not None and record.generation == context["ti"].max_tries:
            return self._ended(context, dict(record.result))
        on_storage = read_job_record(task.store.results)
        if record is None or on_storage is None or on_storage.nonce != record.nonce:
            raise self._unshared("the worker that the task resumed on")
        return self._wait(context, task, record, JobsOutcome.from_json(event), deadline)

    def _wait(
        self,
        context: Context,
        task: JobTask[Any],
        record: JobRecord,
        outcome: JobsOutcome | None = None,
        deadline: float | None = None,
    ) -> dict[str, Any]:
        """
        Submit and wait, in the triggerer or in this process, until every result is stored; then write them.

        :param outcome: of the wait before.
        :param deadline: of that wait. The next one has another, unless it is only for results that were gone.
        """
        while outcome is None or not self._apply_outcome(context, task, record, outcome):
            repeated = outcome is not None and not outcome.left and record.missing() == sorted(outcome.gone)
            asyncio.run(task.submit_missing(record))
            if deadline is None or not repeated:
                deadline = self._deadline(context)
            if self._in_triggerer:
                from lucidworks_provider.triggers import LucidworksJobsTrigger

                self.defer(
                    trigger=LucidworksJobsTrigger(
                        kind=task.kind.name,
                        lucidworks_conn_id=self.lucidworks_conn_id,
                        folder=task.store.results.folder,
                        nonce=record.nonce,
                        poll_interval=self._poll_seconds,
                        deadline=deadline,
                    ),
                    method_name="execute_complete",
                    kwargs={"deadline": deadline},
                    timeout=timedelta(seconds=max(0.0, deadline - time.time())) + DEFER_SLACK,
                )
            from lucidworks_provider.jobs.polling import wait_for_jobs

            outcome = asyncio.run(
                wait_for_jobs(
                    self.hook,
                    task.kind,
                    task.store.results,
                    nonce=record.nonce,
                    poll_interval=self._poll_seconds,
                    deadline=deadline,
                    redact=task.redact,
                )
            )
        return self._ended(context, task.write(record))

    def _apply_outcome(
        self, context: Context, task: JobTask[Any], record: JobRecord, outcome: JobsOutcome
    ) -> bool:
        """Whether every result is stored."""
        if outcome.unshared is not None:
            raise self._unshared(f"the triggerer on {outcome.unshared}")
        if outcome.error is not None:
            failed = LucidworksError(task.redact(f"Waiting for the jobs failed: {outcome.error}"))
            failed.retryable = outcome.retryable
            raise failed
        complete = task.apply_outcome(record, outcome)
        if outcome.timed_out:
            raise JobTimeoutError(
                f"{task.describe(record, outcome.timed_out, outcome.messages, 'were not ready')} within "
                f"{self._waited(context)}. {self._resumption(context)}"
            )
        return complete

    def _ended(self, context: Context, manifest: dict[str, Any]) -> dict[str, Any]:
        from lucidworks_provider.metrics import log_result

        log_result(manifest, seconds_since_start(context))
        return super()._ended(context, manifest)

    @abstractmethod
    def _task(self, context: Context) -> JobTask[Any]:
        """Validate the rendered values, before anything is sent or written."""

    def _unshared(self, reader: str) -> StorageNotSharedError:
        return StorageNotSharedError(
            f"result_path {self.result_path!r}: {reader} does not see what the worker wrote there, so no result was "
            "read and no job is lost. Use a storage that workers and triggerer share (object storage, or a "
            "volume mounted on all of them), or deferrable=False."
        )


class JobOperator(DeferrableJobMixin, BaseOperator):
    """Submits jobs, waits for them, and returns a manifest."""

    template_fields: Sequence[str] = (
        *("result_path", "lucidworks_conn_id", "deferrable", "poll_interval", "timeout"),
        *("on_unknown_submission", "max_requests"),
    )

    def __init__(
        self,
        *,
        result_path: str,
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool | str = DEFERRABLE,
        poll_interval: float | timedelta | str = 30.0,
        timeout: float | timedelta | str = 3600.0,
        on_unknown_submission: Literal["resubmit", "fail"] = "resubmit",
        max_requests: int | str | None = None,
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.result_path = result_path
        self.lucidworks_conn_id = lucidworks_conn_id
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.on_unknown_submission = on_unknown_submission
        self.max_requests = max_requests

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit what has no job yet, then wait."""
        return self._run(context)

    def _job_options(self, context: Context) -> dict[str, Any]:
        """Validated arguments of every task."""
        from lucidworks_provider.jobs.task import check_suffix
        from lucidworks_provider.storage import check_uri

        policy = check_choice(self.on_unknown_submission, "on_unknown_submission", ("resubmit", "fail"))
        _ = self._poll_seconds, self._timeout_seconds, self._in_triggerer
        uri = check_uri(self.result_path, "result_path")
        check_suffix(uri)
        return {
            "result_uri": uri,
            "store": job_store(uri, context),
            "hook": self.hook,
            "resubmit_unknown": policy == "resubmit",
        }


def stripped(value: Any) -> Any:
    """An id or a name in a URL, as a template may end in a line feed; other types are returned unchanged."""
    return value.strip() if isinstance(value, str) else value


def job_store(uri: str, context: Context) -> JobStateStore:
    """Of a task instance; its folder is beside its result file."""
    from lucidworks_provider.jobs.record import JobStateStore, ResultDirectory

    ti = context["ti"]
    results = ResultDirectory.beside(uri, ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
    return JobStateStore(results, context.get("task_state_store"))


class BaseOperatorArguments(TypedDict, total=False):
    """Of ``BaseOperator``, Airflow 2.11 to 3.3."""

    task_id: str
    owner: str
    email: str | Sequence[str] | None
    email_on_retry: bool
    email_on_failure: bool
    retries: int | None
    retry_delay: timedelta | float
    retry_exponential_backoff: bool | float
    retry_policy: Any
    max_retry_delay: timedelta | float | None
    start_date: datetime | None
    end_date: datetime | None
    depends_on_past: bool
    ignore_first_depends_on_past: bool
    wait_for_past_depends_before_skipping: bool
    wait_for_downstream: bool
    dag: Any
    params: Any
    default_args: dict[str, Any] | None
    priority_weight: int
    weight_rule: Any
    queue: str
    pool: str | None
    pool_slots: int
    sla: timedelta | None
    execution_timeout: timedelta | None
    on_execute_callback: Any
    on_failure_callback: Any
    on_success_callback: Any
    on_retry_callback: Any
    on_skipped_callback: Any
    pre_execute: Any
    post_execute: Any
    trigger_rule: str
    resources: dict[str, Any] | None
    run_as_user: str | None
    map_index_template: str | None
    max_active_tis_per_dag: int | None
    max_active_tis_per_dagrun: int | None
    executor: str | None
    executor_config: dict[str, Any] | None
    do_xcom_push: bool
    multiple_outputs: bool
    inlets: Any
    outlets: Any
    task_group: Any
    doc: str | None
    doc_md: str | None
    doc_json: str | None
    doc_yaml: str | None
    doc_rst: str | None
    task_display_name: str | None
    logger_name: str | None
    allow_nested_operators: bool
    render_template_as_native_obj: bool | None


class BaseSensorArguments(BaseOperatorArguments, total=False):
    """Of ``BaseSensorOperator``, without those that the sensors of this package have themselves."""

    soft_fail: bool
    mode: str
    exponential_backoff: bool
    max_wait: timedelta | float | None
    silent_fail: bool
    never_fail: bool


# What Airflow reads without rendering it, and of that what each mapped task may have for itself.
_EXPANDED = frozenset({"poke_interval", "timeout", "soft_fail", "never_fail", "silent_fail"})
_PARSED = {*BaseSensorArguments.__annotations__, *_EXPANDED} - {"default_args"}


class DecoratorArguments(BaseOperatorArguments, total=False):
    """Of a decorated task."""

    op_args: Collection[Any] | None
    op_kwargs: Mapping[str, Any] | None
