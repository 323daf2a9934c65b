# SPDX-License-Identifier: Apache-2.0
"""What every operator does that submits jobs and waits for them."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Unpack

from airflow.providers.common.compat.sdk import BaseOperator

from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import InputError, JobTimeoutError, LucidworksError, StorageNotSharedError
from lucidworks_provider.operators.arguments import BaseOperatorArguments
from lucidworks_provider.operators.results import ResultMixin
from lucidworks_provider.operators.values import one_of
from lucidworks_provider.operators.waiting import DEFER_SLACK, DEFERRABLE, WaitMixin

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from lucidworks_provider.jobs.record import JobRecord
    from lucidworks_provider.jobs.state_store import ResultDirectory
    from lucidworks_provider.jobs.task import JobTask
    from lucidworks_provider.jobs.watch import Outcome


class DeferrableJobMixin(ResultMixin, WaitMixin):
    """
    Submits in the worker, waits in the triggerer or here: everything about waiting, retries and lost processes.

    For operators and sensors alike; :meth:`_task` says what is submitted and written.
    """

    if TYPE_CHECKING:
        result_path: str

    def _run(self, context: Context) -> dict[str, Any]:
        """Submit what has no job yet, then wait."""
        task = self._task(context)
        # The connection is wrong, or it is not: before anything is written or sent.
        _ = self.hook.get_settings().application_base
        record = task.ledger.begin(task.fingerprint, context["ti"].max_tries, task.result_uri)
        if record.result is not None:
            task.ledger.close(record)
            return dict(record.result)
        if not task.count:
            return task.write(record)
        return self._wait(context, task, record, None)

    def execute_complete(
        self, context: Context, event: dict[str, Any], deadline: float | None = None
    ) -> dict[str, Any]:
        """
        Go on after the triggerer's wait.

        :param deadline: of the attempt. ``dag.test()`` forgets it; then another wait has a new one.
        """
        from lucidworks_provider.jobs.watch import Outcome

        task = self._task(context)
        record = task.ledger.load()
        if record is not None and record.fingerprint != task.fingerprint:
            # The record's positions are those of another input.
            raise InputError(
                "The input or the options changed while the task was waiting (was an upstream task cleared?). "
                "Nothing was written; a retry submits the new ones."
            ).as_retryable()
        if record is not None and record.result is not None and record.life == context["ti"].max_tries:
            return dict(record.result)
        seen = task.ledger.bodies.read_record()
        if record is None or seen is None or seen.nonce != record.nonce:
            raise self._unshared("the worker that the task resumed on")
        record, manifest = self._settle(context, task, record, Outcome.from_json(event))
        return manifest or self._wait(context, task, record, deadline)

    def _wait(
        self, context: Context, task: JobTask[Any], record: JobRecord, deadline: float | None
    ) -> dict[str, Any]:
        """Wait, in the triggerer or here; the first wait of an attempt sets the deadline."""
        from lucidworks_provider.triggers.jobs import LucidworksJobsTrigger, wait_for_jobs

        manifest: dict[str, Any] | None = None
        while manifest is None:
            record = task.submit_missing(record)
            deadline = deadline or self._deadline(context)
            if self._in_triggerer:
                self._before_wait(task)
                self.defer(
                    trigger=LucidworksJobsTrigger(
                        kind=task.kind.name,
                        lucidworks_conn_id=self.lucidworks_conn_id,
                        folder=task.ledger.bodies.folder,
                        nonce=record.nonce,
                        poll_interval=self._poll_seconds,
                        deadline=deadline,
                    ),
                    method_name="execute_complete",
                    kwargs={"deadline": deadline},
                    timeout=timedelta(seconds=max(0.0, deadline - time.time())) + DEFER_SLACK,
                )
            outcome = asyncio.run(
                wait_for_jobs(
                    self.hook,
                    task.kind,
                    task.ledger.bodies,
                    nonce=record.nonce,
                    poll_interval=self._poll_seconds,
                    deadline=deadline,
                )
            )
            record, manifest = self._settle(context, task, record, outcome)
        return manifest

    def _settle(
        self, context: Context, task: JobTask[Any], record: JobRecord, outcome: Outcome
    ) -> tuple[JobRecord, dict[str, Any] | None]:
        """The manifest, or None when some parts need another job."""
        if outcome.unshared is not None:
            raise self._unshared(f"the triggerer on {outcome.unshared}")
        if outcome.error is not None:
            failed = LucidworksError(task.clean(f"Waiting for the jobs failed: {outcome.error}"))
            failed.retryable = outcome.retryable
            raise failed
        record = task.settle(record, outcome)
        if outcome.late:
            raise JobTimeoutError(
                f"{task.describe(record, outcome.late, outcome.messages, 'were not ready')} within "
                f"{self._waited(context)}. A retry goes on waiting for the same jobs."
            )
        if outcome.gone:
            return record, None
        return record, task.write(record)

    def _before_wait(self, task: JobTask[Any]) -> None:
        """What a subclass keeps for the process that the task resumes in."""

    @abstractmethod
    def _task(self, context: Context) -> JobTask[Any]:
        """Validate the rendered values; nothing has been sent or written before this returns."""

    def _bodies(self, context: Context) -> ResultDirectory:
        return bodies_of(self.result_path, context)

    def _unshared(self, who: str) -> StorageNotSharedError:
        return StorageNotSharedError(
            f"result_path {self.result_path!r}: {who} does not see what the worker wrote there, so no result was "
            "read and no job is lost. Use a storage that workers and triggerer share (object storage, or a "
            "volume mounted on all of them), or deferrable=False."
        )


class JobOperator(DeferrableJobMixin, BaseOperator):
    """
    Submits in the worker, waits in the triggerer or here, and returns a small manifest.

    :param result_path: URI of the file to write. (templated)
    :param lucidworks_conn_id: the connection. (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot.
    :param poll_interval: the longest time between two polls of a job, seconds or a timedelta; a young one is polled
        more often.
    :param timeout: seconds, or a timedelta, to wait for all jobs. The ids are kept: a retry goes on waiting.
    :param on_unknown_submission: what to do when a submission got no answer, so that a job may exist whose id
        nobody knows: ``resubmit`` (and log the possible orphan), or ``fail``.
    """

    def __init__(
        self,
        *,
        result_path: str,
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = DEFERRABLE,
        poll_interval: float | timedelta = 30.0,
        timeout: float | timedelta = 3600.0,
        on_unknown_submission: Literal["resubmit", "fail"] = "resubmit",
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.result_path = result_path
        self.lucidworks_conn_id = lucidworks_conn_id
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.on_unknown_submission = on_unknown_submission

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit what has no job yet, then wait."""
        return self._ended(context, self._run(context))

    def execute_complete(
        self, context: Context, event: dict[str, Any], deadline: float | None = None
    ) -> dict[str, Any]:
        """
        Go on after the triggerer's wait.

        :param deadline: of the attempt. ``dag.test()`` forgets it; then another wait has a new one.
        """
        return self._ended(context, super().execute_complete(context, event, deadline))

    def _job_options(self, context: Context) -> dict[str, Any]:
        """What every task needs; refuses what every operator refuses."""
        from lucidworks_provider.jobs.chunk_file import check_suffix
        from lucidworks_provider.jobs.state_store import JobStateStore
        from lucidworks_provider.storage import check_uri

        policy = one_of(self.on_unknown_submission, "on_unknown_submission", "resubmit", "fail")
        _ = self._poll_seconds, self._timeout_seconds, self._in_triggerer
        uri = check_uri(self.result_path, "result_path")
        check_suffix(uri)
        return {
            "result_uri": uri,
            "ledger": JobStateStore(self._bodies(context), context.get("task_state_store")),
            "resubmit_unknown": policy == "resubmit",
        }


def bodies_of(result_path: str, context: Context) -> ResultDirectory:
    """
    Where a task instance keeps what arrives, beside its result.

    :raises InputError: a result path that names no file.
    """
    from lucidworks_provider.jobs.state_store import ResultDirectory
    from lucidworks_provider.storage import check_uri

    ti = context["ti"]
    uri = check_uri(result_path, "result_path")
    return ResultDirectory.beside(uri, ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
