# SPDX-License-Identifier: Apache-2.0
"""Chunk and vectorise documents with Lucidworks AI."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import BaseOperator, conf

from lucidworks_provider.connection import DEFAULT_CONN_ID
from lucidworks_provider.errors import InputError, JobTimeoutError, LucidworksError, StorageNotSharedError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from lucidworks_provider.documents.chunk_task import ChunkTask
    from lucidworks_provider.hooks.lucidworks import LucidworksHook
    from lucidworks_provider.jobs.outcome import Outcome
    from lucidworks_provider.jobs.record import JobRecord

# That of `api.chunking`, said again: importing it would cost each parse of a DAG file 5 ms. A test holds them equal.
MAX_TEXT_BYTES = 1_000_000
# Nobody knows for how long the service keeps a result, but not for a year.
_LONGEST = 365 * 86_400.0
# The trigger's own event at its deadline is to arrive before Airflow's time-out of the deferral.
_DEFER_SLACK = timedelta(minutes=5)


class LucidworksChunkOperator(BaseOperator):
    """
    Send documents to Lucidworks AI's async chunking, and write their chunks and vectors to a file.

    Submits in the worker, waits in the triggerer, and returns a small manifest:
    ``{"uri", "documents", "chunks", "dimension", "tokens"}``. A retry waits for the jobs that an earlier try
    submitted, and reads the results that it stored; clearing a task that succeeded does everything again.

    .. seealso:: ``docs/chunking.md`` for the columns of the file, and for what happens when something dies.

    :param chunker: ``dynamic-newline``, ``dynamic-sentence``, ``regex-splitter``, ``semantic`` or ``sentence``.
        (templated)
    :param model_id: an embedding model such as ``gte-small``, or the deployment id of a custom model. (templated)
    :param result_path: URI of the file to write, for any storage of ``ObjectStoragePath``; ``.parquet`` (with the
        ``documents`` extra) or ``.jsonl``. Worker and triggerer must see the same storage. A mapped task needs a
        path of its own for each index, e.g. ``…/part-{{ ti.map_index }}.parquet``. (templated)
    :param text: one text, whose chunks get the document id ``text``. (templated)
    :param documents: instead of ``text``, a list of ``{"id": …, "text": …}``; one request each. (templated)
    :param chunker_config: the chunker's own options, e.g. ``{"maxChunkSize": 256}`` (tokens). (templated)
    :param model_config: ``vectorQuantizationMethod``, ``dimReductionSize``. (templated)
    :param data_type: ``passage`` for what is searched, ``query`` for what one searches with. (templated)
    :param lucidworks_conn_id: the connection. (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot.
    :param poll_interval: seconds (or a timedelta) between two polls of a young job; an old one is polled less often.
    :param timeout: seconds, or a timedelta, to wait for all jobs. The ids are kept: a retry goes on waiting.
    :param on_unknown_submission: what to do when a submission got no answer, so that a job may exist whose id
        nobody knows: ``resubmit`` (and log the possible orphan), or ``fail``.
    :param max_text_bytes: refuse a text with more bytes of UTF-8; the vendor says "approximately 1 MB".
    :raises InputError: before anything is sent.
    :raises JobFailedError: the service reports ERROR; names the documents, the jobs and the reasons.
    """

    template_fields: Sequence[str] = (
        "chunker",
        "model_id",
        "text",
        "documents",
        "chunker_config",
        "model_config",
        "data_type",
        "result_path",
        "lucidworks_conn_id",
    )
    template_fields_renderers = {  # noqa: RUF012
        "documents": "json",
        "chunker_config": "json",
        "model_config": "json",
    }
    ui_color = "#e8f1fb"

    def __init__(
        self,
        *,
        chunker: str,
        model_id: str,
        result_path: str,
        text: str | None = None,
        documents: Any = None,
        chunker_config: Mapping[str, Any] | str | None = None,
        model_config: Mapping[str, Any] | str | None = None,
        data_type: str | None = "passage",
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float | timedelta = 5.0,
        timeout: float | timedelta = 3600.0,
        on_unknown_submission: Literal["resubmit", "fail"] = "resubmit",
        max_text_bytes: int = MAX_TEXT_BYTES,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.chunker = chunker
        self.model_id = model_id
        self.result_path = result_path
        self.text = text
        self.documents = documents
        self.chunker_config = chunker_config
        self.model_config = model_config
        self.data_type = data_type
        self.lucidworks_conn_id = lucidworks_conn_id
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.on_unknown_submission = on_unknown_submission
        self.max_text_bytes = max_text_bytes

    @cached_property
    def hook(self) -> LucidworksHook:
        """The hook that submits."""
        from lucidworks_provider.hooks.lucidworks import LucidworksHook

        return LucidworksHook(self.lucidworks_conn_id)

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit what has no job yet, then wait."""
        from lucidworks_provider.jobs.record import JobRecord, resume
        from lucidworks_provider.storage import exists

        task = self._task(context)
        # The connection is wrong, or it is not: before anything is written or sent.
        _ = self.hook.get_settings().application_base
        life = context["ti"].max_tries
        record, said = resume(task.ledger.load(), fingerprint=task.fingerprint, life=life)
        if record.result is not None and not exists(task.result_uri):
            said = f"{task.result_uri} has vanished: submitting again."
            record = JobRecord(task.fingerprint, life)
        self.log.info("%s", said)
        if record.result is not None:
            task.ledger.close(record)
            return dict(record.result)
        return self._wait(task, record, None)

    def execute_complete(self, context: Context, event: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Go on after the triggerer's wait."""
        from lucidworks_provider.jobs.outcome import Outcome

        task = self._task(context)
        record = task.ledger.load()
        if record is not None and record.fingerprint != task.fingerprint:
            # The record's positions are those of other documents.
            raise InputError(
                "The documents or the options changed while the task was waiting (was an upstream task cleared?). "
                "Nothing was written; a retry submits the new ones."
            )
        if record is not None and record.result is not None:
            return dict(record.result)
        seen = task.ledger.bodies.read_record()
        if record is None or seen is None or seen.nonce != record.nonce:
            raise self._unshared("the worker that the task resumed on")
        record, manifest = self._settle(task, record, Outcome.from_json(event))
        return manifest or self._wait(task, record, deadline)

    def _wait(self, task: ChunkTask, record: JobRecord, deadline: float | None) -> dict[str, Any]:
        """Wait, in the triggerer or here; the first wait of an attempt sets the deadline."""
        from lucidworks_provider.triggers.chunking import LucidworksChunkingTrigger, wait_for_jobs

        manifest: dict[str, Any] | None = None
        while manifest is None:
            record = task.submit_missing(record)
            deadline = deadline or time.time() + self._timeout_seconds
            if self.deferrable:
                self.defer(
                    trigger=LucidworksChunkingTrigger(
                        lucidworks_conn_id=self.lucidworks_conn_id,
                        folder=task.ledger.bodies.folder,
                        nonce=record.nonce,
                        poll_interval=self._poll_seconds,
                        deadline=deadline,
                    ),
                    method_name="execute_complete",
                    kwargs={"deadline": deadline},
                    timeout=timedelta(seconds=max(0.0, deadline - time.time())) + _DEFER_SLACK,
                )
            outcome = asyncio.run(
                wait_for_jobs(
                    self.hook,
                    task.ledger.bodies,
                    nonce=record.nonce,
                    poll_interval=self._poll_seconds,
                    deadline=deadline,
                )
            )
            record, manifest = self._settle(task, record, outcome)
        return manifest

    def _settle(
        self, task: ChunkTask, record: JobRecord, outcome: Outcome
    ) -> tuple[JobRecord, dict[str, Any] | None]:
        """The manifest, or None when some documents need another job."""
        if outcome.unshared is not None:
            raise self._unshared(f"the triggerer on {outcome.unshared}")
        if outcome.error is not None:
            failed = LucidworksError(f"Waiting for the jobs failed: {outcome.error}")
            failed.retryable = outcome.retryable
            raise failed
        record = task.settle(record, outcome)
        if outcome.late:
            raise JobTimeoutError(
                f"{task.describe(record, outcome.late, outcome.messages, 'were not ready')} within "
                f"{self._timeout_seconds:g} s. A retry goes on waiting for the same jobs."
            )
        if outcome.gone:
            return record, None
        return record, task.write(record)

    def _task(self, context: Context) -> ChunkTask:
        """Validate the rendered values; nothing has been sent or written before this returns."""
        from lucidworks_provider.api.chunking import ChunkingOptions
        from lucidworks_provider.documents.chunk_file import check_suffix
        from lucidworks_provider.documents.chunk_task import ChunkTask, read_documents
        from lucidworks_provider.jobs.ledger import Bodies, Ledger
        from lucidworks_provider.storage import check_uri

        options = ChunkingOptions(
            self.chunker,
            self.model_id,
            self.data_type,
            _dictionary(self.chunker_config, "chunker_config"),
            _dictionary(self.model_config, "model_config"),
        )
        if (self.text is None) == (self.documents is None):
            raise InputError("Give either `text` or `documents`.")
        if self.on_unknown_submission not in {"resubmit", "fail"}:
            raise InputError(
                f"on_unknown_submission is {self.on_unknown_submission!r}; use one of resubmit, fail."
            )
        _ = self._poll_seconds, self._timeout_seconds
        if isinstance(self.max_text_bytes, bool) or not isinstance(self.max_text_bytes, int):
            raise InputError(f"max_text_bytes is {self.max_text_bytes!r}; give a whole number of bytes.")
        given = [{"id": "text", "text": self.text}] if self.documents is None else self.documents
        uri = check_uri(self.result_path, "result_path")
        check_suffix(uri)
        ti = context["ti"]
        return ChunkTask(
            options=options,
            documents=read_documents(given, max_bytes=self.max_text_bytes),
            result_uri=uri,
            ledger=Ledger(
                Bodies.beside(uri, ti.dag_id, ti.run_id, ti.task_id, ti.map_index),
                context.get("task_state_store"),
            ),
            submit=lambda text: self.hook.submit_text(options, text, max_bytes=self.max_text_bytes),
            resubmit_unknown=self.on_unknown_submission == "resubmit",
        )

    @property
    def _poll_seconds(self) -> float:
        return _seconds(self.poll_interval, "poll_interval")

    @property
    def _timeout_seconds(self) -> float:
        return _seconds(self.timeout, "timeout")

    def _unshared(self, who: str) -> StorageNotSharedError:
        return StorageNotSharedError(
            f"result_path {self.result_path!r}: {who} does not see what the worker wrote there, so no result was "
            "read and no job is lost. Use a storage that workers and triggerer share (object storage, or a "
            "volume mounted on all of them), or deferrable=False."
        )


def _seconds(value: object, what: str) -> float:
    try:
        seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:
        raise InputError(
            f"{what} is {value!r}; give seconds above 0, or a timedelta, of {_LONGEST:,.0f} s at most."
        )
    return seconds


def _dictionary(value: Mapping[str, Any] | str | None, what: str) -> Mapping[str, Any] | None:
    """A rendered template is text; everything else passes, to be validated later."""
    if not isinstance(value, str):
        return value
    try:
        decoded = json.loads(value)
    except ValueError:
        decoded = value
    if decoded is not None and not isinstance(decoded, dict):
        raise InputError(f"{what} is {value[:80]!r}, which is no JSON object.")
    return decoded
