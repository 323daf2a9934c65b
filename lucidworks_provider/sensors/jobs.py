# SPDX-License-Identifier: Apache-2.0
"""Wait for an asynchronous job of Lucidworks AI that somebody else has submitted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Unpack

from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    BaseSensorOperator,
    PokeReturnValue,
)

from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import (
    EmptyResultError,
    InputError,
    JobFailedError,
    JobTimeoutError,
    ResultGoneError,
)
from lucidworks_provider.operators.arguments import BaseSensorArguments
from lucidworks_provider.operators.failures import non_retryable
from lucidworks_provider.operators.job import DeferrableJobMixin
from lucidworks_provider.operators.values import text_as_seconds
from lucidworks_provider.operators.waiting import DEFERRABLE

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from lucidworks_provider.client.api.jobs import JobKind, PollResult
    from lucidworks_provider.jobs.external import ExternalJob

# ERROR is tied to the GET that showed it, a gateway may say 404, another reader may be about to write.
_LOOKS = 3
_BETWEEN_LOOKS = 5.0


class LucidworksJobSensor(DeferrableJobMixin, BaseSensorOperator):
    """
    Wait for a job, and hand over the body that its result came in.

    The service may give a result only once. So the sensor that sees it ready returns it (or writes it to
    ``result_path`` first, and returns ``{"uri", "job_id"}``), and nobody needs to ask again.

    :param job_id: what ``LucidworksHook.submit_chunking`` or ``submit_prediction`` returned. (templated)
    :param kind: ``chunking`` or ``prediction``. (templated)
    :param result_path: URI of a file for the body, e.g. ``s3://…/{{ run_id }}.json``. Without it the decoded body is
        the return value, and goes into the metadata database. Needed when deferrable. (templated)
    :param lucidworks_conn_id: the connection. (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot.
    :param poke_interval: seconds (or a timedelta) between two looks; in the triggerer the longest time between two.
    :param timeout: seconds, or a timedelta, after which the sensor gives up.
    :raises AirflowFailException: the job ended in ERROR (a ``JobFailedError`` as well), or its result is gone (a
        ``ResultGoneError`` as well): a retry would see the same.
    """

    template_fields: Sequence[str] = ("job_id", "kind", "result_path", "lucidworks_conn_id")
    ui_color = "#e8f1fb"

    def __init__(
        self,
        *,
        job_id: str,
        kind: Literal["chunking", "prediction"] = "chunking",
        result_path: str | None = None,
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = DEFERRABLE,
        poke_interval: float | timedelta = 30.0,
        timeout: float | timedelta | None = None,
        **kwargs: Unpack[BaseSensorArguments],
    ) -> None:
        poke_interval = text_as_seconds(poke_interval, "poke_interval")
        if timeout is not None:
            kwargs["timeout"] = text_as_seconds(timeout, "timeout")  # type: ignore[typeddict-unknown-key]
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.job_id = job_id
        self.kind = kind
        self.result_path = result_path  # type: ignore[assignment]  # None where nothing is written
        self.lucidworks_conn_id = lucidworks_conn_id
        self.deferrable = deferrable
        self.poll_interval = poke_interval

    def execute(self, context: Context) -> Any:
        """Wait in the triggerer, or look again and again."""
        self._checked()
        if not self._in_triggerer:
            return super().execute(context)
        # A sensor that was cleared has read its result already, and nobody reads it twice.
        if (found := self._found(self._task(context))) is not None:
            return self._ended(context, found)
        return self._ended(context, self._ending(self._run, context))

    def execute_complete(
        self, context: Context, event: dict[str, Any], deadline: float | None = None
    ) -> dict[str, Any]:
        """Go on after the triggerer's wait."""
        manifest: dict[str, Any] = self._ending(super().execute_complete, context, event, deadline)
        return self._ended(context, manifest)

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Look once."""
        from lucidworks_provider.client.api.jobs import JobState
        from lucidworks_provider.client.api.validation import refused
        from lucidworks_provider.jobs.wait import FileResultStore

        kind = self._checked()
        task = self._task(context) if self.result_path else None
        if task is not None and (found := self._found(task)) is not None:
            return PokeReturnValue(True, self._ended(context, found))
        self.hook.get_settings()
        if task is not None:
            task.ledger.bodies.prove()
        body, seen = self._look(kind)
        name = f"{kind.name.capitalize()} job {self.job_id}"
        if seen.other_job:
            if task is not None and seen.has_payload:
                task.ledger.bodies.keep_other(0, self.job_id, body)
            raise refused(f"{name}: the answer is about job {seen.other_job}")
        if seen.state is JobState.EMPTY:
            raise non_retryable(
                EmptyResultError(f"{name}: the service says {seen.status!r} and gives no result.")
            )
        if task is None and (seen.state is JobState.RESULT or seen.has_payload):
            # Of an unknown status too: there is nowhere to keep what may be the only copy.
            return PokeReturnValue(True, json.loads(body))
        if task is not None and seen.state is JobState.RESULT:
            asyncio.run(FileResultStore(task.ledger.bodies, 0, self.job_id).keep(body))
            return PokeReturnValue(True, self._ended(context, self._found(task) or {}))
        if task is not None and seen.has_payload:
            task.ledger.bodies.keep_aside(0, self.job_id, body)
        if seen.state is JobState.FAILED:
            raise non_retryable(
                JobFailedError(f"{kind.name.capitalize()} job {self.job_id} failed: {seen.message}")
            )
        if seen.state is JobState.GONE:
            if task is not None:
                task.ledger.bodies.use_aside(0, self.job_id)
            if task is not None and (found := self._found(task)) is not None:
                return PokeReturnValue(True, self._ended(context, found))
            raise non_retryable(
                ResultGoneError(
                    f"The result of {kind.name} job {self.job_id} has been handed out before, or is no longer kept. "
                    f"{f'{seen.message} ' if seen.message else ''}Submit it again."
                )
            )
        self.log.info("%s job %s: %s", kind.name.capitalize(), self.job_id, seen.status or seen.message)
        return False

    def _look(self, kind: JobKind) -> tuple[bytes, PollResult]:
        """One GET, and some more where its answer may not be the last word."""
        from lucidworks_provider.client.api.jobs import JobState, PollResult, parse_poll
        from lucidworks_provider.client.jobs import poll_job
        from lucidworks_provider.errors import UnknownResourceError

        for look in range(_LOOKS):
            if look:
                time.sleep(_BETWEEN_LOOKS)
            try:
                body = self.hook.call(poll_job(kind, self.job_id))
                seen = parse_poll(body, kind, self.job_id)
            except UnknownResourceError as err:
                body, seen = b"", PollResult(JobState.GONE, message=str(err))
            if not seen.other_job and seen.state not in {JobState.EMPTY, JobState.FAILED, JobState.GONE}:
                break
        return body, seen

    def _found(self, task: ExternalJob) -> dict[str, Any] | None:
        """The manifest of a body that lies on storage, written to its place."""
        from lucidworks_provider.storage import discard_folder, exists, read_file, write_file

        body = task.ledger.bodies.take(0, self.job_id)
        if body is not None:
            write_file(task.result_uri, body)
            discard_folder(task.ledger.bodies.folder)
        # A try that died after that: the file holds this job's body, which names it.
        elif not exists(task.result_uri) or self.job_id.encode() not in (read_file(task.result_uri) or b""):
            return None
        return {"uri": task.result_uri, "job_id": self.job_id}

    def _checked(self) -> JobKind:
        from lucidworks_provider.client.api.http import path_segment
        from lucidworks_provider.client.api.jobs import KINDS
        from lucidworks_provider.client.api.options import check_choice

        check_choice(self.kind, "kind", KINDS)
        path_segment(self.job_id, "job_id")
        if self._in_triggerer and not self.result_path:
            raise InputError(
                "A deferrable LucidworksJobSensor needs a result_path: the triggerer gets the result, and may be "
                "given it only once."
            )
        return KINDS[self.kind]

    def _task(self, context: Context) -> ExternalJob:
        from lucidworks_provider.jobs.external import ExternalJob
        from lucidworks_provider.jobs.state_store import JobStateStore
        from lucidworks_provider.storage import check_uri

        return ExternalJob(
            result_uri=check_uri(self.result_path, "result_path"),
            ledger=JobStateStore(self._bodies(context), context.get("task_state_store")),
            resubmit_unknown=True,
            job_kind=self._checked(),
            job_id=self.job_id,
        )

    def _ending(self, step: Any, context: Context, *arguments: Any) -> Any:
        """Tell Airflow what a sensor's end means: out of time, or never."""
        try:
            return step(context, *arguments)
        except JobTimeoutError as err:
            if self._ends_by_execution_timeout(context):
                raise
            raise AirflowSensorTimeout(str(err)) from None
        except (EmptyResultError, JobFailedError, ResultGoneError) as err:
            raise non_retryable(err) from err
