# SPDX-License-Identifier: Apache-2.0
"""Chunk and vectorise documents with Lucidworks AI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Unpack

from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import InputError
from lucidworks_provider.operators.arguments import BaseOperatorArguments
from lucidworks_provider.operators.base import DEFERRABLE, ChunkingOptionsMixin
from lucidworks_provider.operators.job import JobOperator
from lucidworks_provider.operators.results import Lineage, of_chunks
from lucidworks_provider.operators.values import one_of, whole

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from lucidworks_provider.jobs.chunk_task import ChunkTask

# As in `client.chunking`, whose import would cost each parse of a DAG file 5 ms. A test holds them equal.
MAX_TEXT_BYTES = 1_000_000


class LucidworksChunkOperator(ChunkingOptionsMixin, JobOperator):
    """
    Send documents to Lucidworks AI's async chunking, and write their chunks and vectors to a file.

    Submits in the worker, waits in the triggerer, and returns a manifest:
    ``{"uri", "documents", "chunks", "dimension", "tokens", "warnings"}``. A retry resumes the jobs that an earlier
    attempt submitted and uses the results that it stored; clearing a task that succeeded does everything again.

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
    :param data_type: ``passage``: documents; ``query``: search queries. (templated)
    :param lucidworks_conn_id: the connection. (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot.
    :param poll_interval: the longest time between two polls of a job, seconds or a timedelta; a young one is polled
        more often.
    :param timeout: seconds, or a timedelta, to wait for all jobs. A retry resumes the wait.
    :param on_unknown_submission: what to do when a submission got no response, so that a job with an
        unknown id may exist: ``resubmit`` (and log the possible orphan), or ``fail``.
    :param max_requests: fail before the first submission if the task needs more of them. (templated)
    :param on_mismatch: ``fail`` when a result seems to be of another text or request, or ``warn`` and accept it; see
        :doc:`/checks`.
    :param max_text_bytes: reject a text with more bytes of UTF-8; the vendor says "approximately 1 MB".
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
        "max_requests",
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
        on_mismatch: Literal["fail", "warn"] = "fail",
        max_text_bytes: int = MAX_TEXT_BYTES,
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = DEFERRABLE,
        poll_interval: float | timedelta = 30.0,
        timeout: float | timedelta = 3600.0,
        on_unknown_submission: Literal["resubmit", "fail"] = "resubmit",
        max_requests: int | str | None = None,
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(
            result_path=result_path,
            lucidworks_conn_id=lucidworks_conn_id,
            deferrable=deferrable,
            poll_interval=poll_interval,
            timeout=timeout,
            on_unknown_submission=on_unknown_submission,
            max_requests=max_requests,
            **kwargs,
        )
        self.chunker = chunker
        self.model_id = model_id
        self.text = text
        self.documents = documents
        self.chunker_config = chunker_config
        self.model_config = model_config
        self.data_type = data_type
        self.on_mismatch = on_mismatch
        self.max_text_bytes = max_text_bytes

    def _task(self, context: Context) -> ChunkTask:
        """Validate the rendered values, before anything is sent or written."""
        from lucidworks_provider.jobs.chunk_task import ChunkTask, read_documents

        options = self._options()
        if (self.text is None) == (self.documents is None):
            raise InputError(
                f"Give either `text` or `documents`, not {'neither' if self.text is None else 'both'}."
            )
        most = whole(self.max_text_bytes, "max_text_bytes", 1)
        given = [{"id": "text", "text": self.text}] if self.documents is None else self.documents
        return ChunkTask(
            **self._job_options(context),
            options=options,
            documents=read_documents(given, max_bytes=most),
            max_bytes=most,
            lenient=one_of(self.on_mismatch, "on_mismatch", "fail", "warn") == "warn",
        )

    def _lineage(self) -> Lineage:
        return of_chunks(self._options(), self._manifest or {})
