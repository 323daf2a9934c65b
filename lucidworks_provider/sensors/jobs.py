# SPDX-License-Identifier: Apache-2.0
"""Wait for an asynchronous job of Lucidworks AI that another program has submitted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Unpack

from airflow.providers.common.compat.sdk import PokeReturnValue

from lucidworks_provider.client.options import check_choice
from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import (
    EmptyResultError,
    InputError,
    JobFailedError,
    MalformedResponseError,
)
from lucidworks_provider.operators.base import (
    DEFERRABLE,
    BaseSensorArguments,
    DeferrableJobMixin,
    job_store,
    stripped,
)
from lucidworks_provider.sensors.base import BaseLucidworksSensor

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from lucidworks_provider.client.jobs import JobKind
    from lucidworks_provider.jobs.decisions import PollOutcome
    from lucidworks_provider.jobs.external import ExternalJob
    from lucidworks_provider.jobs.record import MemoryResultStore, ResultStore

# A poke polls again within these seconds where one response does not decide, e.g. ERROR.
_CONFIRM = 30.0
_CONFIRM_INTERVAL = 5.0
# Another try of the same task may be about to write the result.
_GONE_PATIENCE = 10.0


class LucidworksJobSensor(DeferrableJobMixin, BaseLucidworksSensor):
    """
    Wait for a job, and return the body of its result.

    The service may return a result only once. The sensor returns the body that it polled, or writes it to
    ``result_path`` and returns ``{"uri", "job_id"}``.

    :param job_id: what ``hook.call`` returned for ``submit_chunking`` or ``submit_prediction``. (templated)
    :param kind: ``chunking`` or ``prediction``. (templated)
    :param result_path: URI of a file for the body, e.g. ``s3://…/{{ run_id }}.json``. Without it the decoded body is
        the return value, and goes into the metadata database. Needed when deferrable. (templated)
    :param lucidworks_conn_id: the connection. (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot. (templated)
    :param poke_interval: seconds (or a timedelta) between two polls; in the triggerer the longest time between two.
    :param timeout: seconds, or a timedelta, after which the sensor fails.
    :raises AirflowFailException: the job ended in ERROR (a ``JobFailedError`` as well), or its result is gone (a
        ``ResultGoneError`` as well): a retry would see the same.
    """

    template_fields: Sequence[str] = ("job_id", "kind", "result_path", "lucidworks_conn_id", "deferrable")

    def __init__(
        self,
        *,
        job_id: str,
        kind: Literal["chunking", "prediction"] = "chunking",
        result_path: str | None = None,
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool | str = DEFERRABLE,
        poke_interval: float | timedelta | str = 30.0,
        timeout: float | timedelta | str | None = None,
        **kwargs: Unpack[BaseSensorArguments],
    ) -> None:
        super().__init__(
            lucidworks_conn_id=lucidworks_conn_id,
            deferrable=deferrable,
            poke_interval=poke_interval,
            timeout=timeout,
            **kwargs,
        )
        self.job_id = job_id
        self.kind = kind
        self.result_path = result_path  # type: ignore[assignment]  # None where nothing is written

    @property
    def _job_id(self) -> Any:
        return stripped(self.job_id)

    def execute(self, context: Context) -> Any:
        """Wait in the triggerer, or poke."""
        self._checked()
        if not self._in_triggerer:
            return super().execute(context)
        with self._sensor_errors(context):
            # A cleared sensor has its result, which the service may not return again.
            if (found := self._found(context, self._task(context))) is not None:
                return self._ended(context, found)
            return self._run(context)

    def execute_complete(
        self, context: Context, event: dict[str, Any], deadline: float | None = None
    ) -> dict[str, Any]:
        """Resume after the triggerer's wait."""
        with self._sensor_errors(context):
            return super().execute_complete(context, event, deadline)

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Poll once, and again where one response does not decide."""
        self._last_seen = self._retry_after = None
        with self._sensor_errors(context):
            return self._poke(context)

    def _poke(self, context: Context) -> bool | PokeReturnValue:
        from lucidworks_provider.client.http.messages import parse_json
        from lucidworks_provider.jobs.decisions import JobEnd
        from lucidworks_provider.jobs.external import gone, read_body

        kind = self._checked()
        name = f"{kind.name.capitalize()} job {self._job_id}"
        task = self._task(context) if self.result_path else None
        if task is not None and (found := self._found(context, task)) is not None:
            return PokeReturnValue(True, self._ended(context, found))
        self.hook.get_settings()
        store: ResultStore = self._memory
        if task is not None:
            task.store.results.check_writable()
            store = task.store.results.of(self._job_id)
        outcome = asyncio.run(self._poll(kind, store, self._started(context)))
        match outcome.end:
            case JobEnd.FAILED:
                raise JobFailedError(f"{name} failed: {outcome.message}")
            case JobEnd.EMPTY:
                raise EmptyResultError(f"{name}: {outcome.message}")
            case JobEnd.GONE:
                raise gone(kind, self._job_id, outcome.message)
            case JobEnd.COLLECTED if task is not None:
                return PokeReturnValue(True, self._ended(context, self._found(context, task) or {}))
            case JobEnd.COLLECTED:
                body = self._memory.body or b""
                read_body(body, kind, self._job_id)
                return PokeReturnValue(True, parse_json(body))
        self.log.info("%s: %s", name, outcome.message or "not ready")
        late = f"{name} was not ready within {self._waited(context)}."
        self._last_seen = " ".join(filter(None, (late, outcome.message, self._resumption(context))))
        self._retry_after = outcome.retry_after
        return False

    async def _poll(self, kind: JobKind, store: ResultStore, started: float) -> PollOutcome:
        """The wait of all jobs, with a deadline that has passed."""
        from lucidworks_provider.client.jobs import poll_job
        from lucidworks_provider.jobs.decisions import job_decision
        from lucidworks_provider.jobs.polling import wait_for_job

        interval = min(self._poll_seconds, _CONFIRM_INTERVAL)
        async with self.hook.shared_client() as client:
            return await wait_for_job(
                self._job_id,
                job_decision(
                    poll_interval=interval,
                    deadline=time.time(),
                    now=time.time,
                    wait=lambda age, poll_interval: poll_interval,
                    gone_patience=min(_GONE_PATIENCE, 2 * interval),
                    started=started,
                    confirm_seconds=_CONFIRM,
                ),
                store=store,
                fetch=lambda job_id, begin_by: self.hook.acall(
                    poll_job(kind, job_id).beginning_by(begin_by), attempts=1
                ),
                slots=client.slots,
                kind=kind,
                # With a file, a later poke may get the result itself; without one, this body would be lost.
                restore_at_timeout=not self.result_path,
            )

    @cached_property
    def _memory(self) -> MemoryResultStore:
        """Of all pokes of this process: the service may return a body that one has set aside only once."""
        from lucidworks_provider.jobs.record import MemoryResultStore

        return MemoryResultStore()

    def _found(self, context: Context, task: ExternalJob) -> dict[str, Any] | None:
        """The manifest of an earlier try, or of a stored body after writing the result file."""
        from lucidworks_provider.jobs.record import resume
        from lucidworks_provider.storage import read_file

        found = task.store.load()
        # A cleared sensor continues, too: the service may not return the result again.
        generation = context["ti"].max_tries if found is None else found.generation
        record, _ = resume(found, fingerprint=task.fingerprint, generation=generation, size=task.count)
        if record.result is not None:
            with suppress(MalformedResponseError):
                if task.parse(read_file(task.result_uri) or b"", 0, self._job_id).value is not None:
                    return dict(record.result)
            # The file is gone, or another run has written its own job's result there.
            record.result = None
            task.store.save(record)
        record.submitted(0, self._job_id)
        return task.write(record) if task.store.results.stored(record.jobs) else None

    def _checked(self) -> JobKind:
        from lucidworks_provider.client.http.messages import path_segment
        from lucidworks_provider.client.jobs import KINDS

        check_choice(self.kind, "kind", KINDS)
        path_segment(self._job_id, "job_id")
        if self._in_triggerer and not self.result_path:
            raise InputError(
                "A deferrable LucidworksJobSensor needs a result_path: the triggerer gets the result, and the "
                "service may return it only once."
            )
        return KINDS[self.kind]

    def _task(self, context: Context) -> ExternalJob:
        from lucidworks_provider.jobs.external import ExternalJob
        from lucidworks_provider.storage import check_uri

        uri = check_uri(self.result_path, "result_path")
        return ExternalJob(
            result_uri=uri,
            store=job_store(uri, context),
            hook=self.hook,
            resubmit_unknown=True,
            kind=self._checked(),
            job_id=self._job_id,
        )
