# SPDX-License-Identifier: Apache-2.0
"""Base classes of operators and sensors that wait for jobs."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Unpack

from airflow.providers.common.compat.sdk import BaseOperator

from lucidworks_provider.client.options import check_choice
from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import InputError, JobTimeoutError, LucidworksError, StorageNotSharedError
from lucidworks_provider.operators.base import (
    DEFER_SLACK,
    DEFERRABLE,
    BaseOperatorArguments,
    ResultMixin,
    WaitMixin,
    seconds_since_start,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from lucidworks_provider.jobs.decisions import JobsOutcome
    from lucidworks_provider.jobs.record import JobRecord, ResultDirectory
    from lucidworks_provider.jobs.task import JobTask


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
        record = task.store.begin(task.fingerprint, context["ti"].max_tries, task.count, task.result_uri)
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
        from lucidworks_provider.jobs.record import read_record

        task = self._task(context)
        record = task.store.load()
        if record is not None and record.fingerprint != task.fingerprint:
            # The positions in the record are of another input.
            raise InputError(
                "The input or the options changed while the task was waiting (was an upstream task cleared?). "
                "Nothing was written; a retry submits the new ones."
            ).as_retryable()
        if record is not None and record.result is not None and record.generation == context["ti"].max_tries:
            return self._ended(context, dict(record.result))
        on_storage = read_record(task.store.results)
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
        while outcome is None or not self._settle(context, task, record, outcome):
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
                )
            )
        return self._ended(context, task.write(record))

    def _settle(self, context: Context, task: JobTask[Any], record: JobRecord, outcome: JobsOutcome) -> bool:
        """Whether every result is stored."""
        if outcome.unshared is not None:
            raise self._unshared(f"the triggerer on {outcome.unshared}")
        if outcome.error is not None:
            failed = LucidworksError(task.redact(f"Waiting for the jobs failed: {outcome.error}"))
            failed.retryable = outcome.retryable
            raise failed
        complete = task.settle(record, outcome)
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
        from lucidworks_provider.jobs.record import JobStateStore
        from lucidworks_provider.jobs.task import check_suffix
        from lucidworks_provider.storage import check_uri

        policy = check_choice(self.on_unknown_submission, "on_unknown_submission", ("resubmit", "fail"))
        _ = self._poll_seconds, self._timeout_seconds, self._in_triggerer
        uri = check_uri(self.result_path, "result_path")
        check_suffix(uri)
        return {
            "result_uri": uri,
            "store": JobStateStore(result_directory(uri, context), context.get("task_state_store")),
            "hook": self.hook,
            "resubmit_unknown": policy == "resubmit",
        }


def result_directory(uri: str, context: Context) -> ResultDirectory:
    """The folder of a task instance, beside its result file."""
    from lucidworks_provider.jobs.record import ResultDirectory

    ti = context["ti"]
    return ResultDirectory.beside(uri, ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
