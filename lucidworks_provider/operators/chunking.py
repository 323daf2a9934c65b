# SPDX-License-Identifier: Apache-2.0
"""Chunk and vectorise documents with Lucidworks AI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Unpack

from lucidworks_provider.client.options import (
    MAX_TEXT_BYTES,
    check_choice,
    check_option,
    check_text,
    whole,
)
from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import InputError
from lucidworks_provider.operators.base import (
    DEFERRABLE,
    MAX_REJECT_RATIO,
    BaseOperatorArguments,
    ChunkingOptionsMixin,
    JobOperator,
    RowsMixin,
)
from lucidworks_provider.operators.lineage import Lineage, of_chunks

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from lucidworks_provider.documents.document import TableColumns
    from lucidworks_provider.jobs.chunk_task import ChunkTask


class LucidworksChunkOperator(ChunkingOptionsMixin, RowsMixin, JobOperator):
    """
    Send documents to Lucidworks AI's async chunking, and write their chunks and vectors to a file.

    Submits in the worker, waits in the triggerer, and returns a manifest:
    ``{"uri", "documents", "chunks", "dimension", "tokens", "warnings"}``, and ``"rejected"`` where documents were not
    sent. A retry resumes the jobs that an earlier attempt submitted and uses the results that it stored; clearing a
    task that succeeded submits everything again.

    The result has the id of each document as text in ``document_id``, and its key and ``columns`` under their own
    names and, in Parquet, in their own types.

    :param chunker: ``dynamic-newline``, ``dynamic-sentence``, ``regex-splitter``, ``semantic`` or ``sentence``.
        (templated)
    :param model_id: an embedding model such as ``gte-small``, or the deployment id of a custom model. (templated)
    :param result_path: URI of the file to write, for any storage of ``ObjectStoragePath``; ``.parquet`` (with the
        ``documents`` extra) or ``.jsonl``. Worker and triggerer must see the same storage. A mapped task needs a
        path of its own for each index, e.g. ``…/part-{{ ti.map_index }}.parquet``. (templated)
    :param text: one text, whose chunks get the document id ``text``. (templated)
    :param documents: instead of ``text``, a list of ``{"id": …, "text": …}``; the URI of ``.parquet``, ``.csv`` or
        ``.jsonl`` files, a folder or a glob of them; a DataFrame or another Arrow table; or an iterable of rows. One
        request for each row, 10,000 at most. A text that begins with ``[`` is JSON, any other one a URI. (templated)
    :param id_column: the column, or key, of the ids, which must be unique; None to number the documents from 0.
        (templated)
    :param text_column: the column, or key, of the texts. (templated)
    :param columns: other columns that are passed through to each chunk of the document. A row that is a tuple has the
        id, the text and these, in this order. (templated)
    :param chunker_config: the chunker's own options, e.g. ``{"maxChunkSize": 256}`` (tokens). (templated)
    :param model_config: ``vectorQuantizationMethod``, ``dimReductionSize``. (templated)
    :param data_type: ``passage``: documents; ``query``: search queries. (templated)
    :param lucidworks_conn_id: the connection. (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot. (templated)
    :param poll_interval: the longest time between two polls of a job, seconds or a timedelta; a new job is polled
        more often. (templated)
    :param timeout: seconds, or a timedelta, to wait for each group of up to 1,000 jobs that are submitted together. A
        retry resumes the wait. (templated)
    :param on_unknown_submission: what to do when a submission got no response, so that a job with an
        unknown id may exist: ``resubmit`` (and log the possible orphan), or ``fail``. (templated)
    :param max_requests: fail before the first submission if the task has more documents. (templated)
    :param on_mismatch: ``fail`` when a result seems to be of another text or request, or ``warn`` and accept it; see
        :doc:`/checks`. (templated)
    :param max_text_bytes: reject a text with more bytes of UTF-8, with the escapes of JSON; the vendor says
        "approximately 1 MB". (templated)
    :param max_reject_ratio: share of the documents, 0 to 1, that may be rejected. If more are, the task fails before
        anything is sent. (templated)
    :param on_invalid: what to do with a text that is NULL, blank, too long or not Unicode: ``reject`` it, so
        that the result has no chunks of it and a warning names it, or ``fail`` the task before anything is
        sent. (templated)
    :param on_empty: what to do if there are no rows: ``succeed`` with an empty result, ``skip``, or
        ``fail``. (templated)
    :raises InputError: before anything is sent.
    :raises JobFailedError: the service reports ERROR; names the documents, the jobs and the reasons.
    """

    template_fields: Sequence[str] = (
        "chunker",
        "model_id",
        "text",
        "documents",
        "id_column",
        "text_column",
        "columns",
        "chunker_config",
        "model_config",
        "data_type",
        "max_text_bytes",
        *("max_reject_ratio", "on_invalid", "on_empty", "on_mismatch"),
        *JobOperator.template_fields,
    )
    template_fields_renderers = {  # noqa: RUF012
        "documents": "json",
        "columns": "json",
        "chunker_config": "json",
        "model_config": "json",
    }
    ui_color = "#e8f1fb"

    # Whether rows are stored that could be read again, for the process that the task resumes in.
    _stores_rows = False

    def __init__(
        self,
        *,
        chunker: str,
        model_id: str,
        result_path: str,
        text: str | None = None,
        documents: Any = None,
        id_column: str | None = "id",
        text_column: str = "text",
        columns: Sequence[str] | str = (),
        chunker_config: Mapping[str, Any] | str | None = None,
        model_config: Mapping[str, Any] | str | None = None,
        data_type: str | None = "passage",
        max_text_bytes: int | str = MAX_TEXT_BYTES,
        max_reject_ratio: float | str = MAX_REJECT_RATIO,
        on_invalid: Literal["reject", "fail"] = "reject",
        on_empty: Literal["succeed", "skip", "fail"] = "succeed",
        on_mismatch: Literal["fail", "warn"] = "fail",
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool | str = DEFERRABLE,
        poll_interval: float | timedelta | str = 30.0,
        timeout: float | timedelta | str = 3600.0,
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
        self.id_column = id_column
        self.text_column = text_column
        self.columns = columns
        self.chunker_config = chunker_config
        self.model_config = model_config
        self.data_type = data_type
        self.max_text_bytes = max_text_bytes
        self.max_reject_ratio = max_reject_ratio
        self.on_invalid = on_invalid
        self.on_empty = on_empty
        self.on_mismatch = on_mismatch

    def _task(self, context: Context) -> ChunkTask:
        """Validate the rendered values, before anything is sent or written."""
        from lucidworks_provider.jobs.chunk_task import (
            COLUMNS,
            ChunkTask,
            DocumentIds,
            check_documents,
            row_rules,
        )
        from lucidworks_provider.jobs.rows import Spool

        options = self.chunking_options()
        most = check_option(self.max_text_bytes, "max_text_bytes", whole(1))
        columns = self._table_columns("documents" if self.text is None else "text")
        documents = self._documents(columns, most)
        job_options = self._job_options(context)
        lenient = check_choice(self.on_mismatch, "on_mismatch", ("fail", "warn")) == "warn"
        ids = DocumentIds(columns.key, columns.argument)
        spool = Spool(job_options["store"].results.table, context["ti"].max_tries, self._stores_rows)
        taken = COLUMNS if columns.key == "document_id" else {*COLUMNS, "document_id"}
        rules = row_rules(ids, most)
        batches = self._read_rows(
            documents, columns, rules, size=1, taken=taken, spool=spool, check=check_documents
        )
        # The result has it as text.
        batches.survey.types.pop("document_id", None)
        return ChunkTask(**job_options, options=options, batches=batches, ids=ids, lenient=lenient)

    def _documents(self, columns: TableColumns, most: int) -> Any:
        """What has the rows; a text is one row with the id ``text``."""
        from lucidworks_provider.jobs.rows import not_rendered

        if (self.text is None) == (self.documents is None):
            raise InputError(
                f"Give either `text` or `documents`; {'neither is' if self.text is None else 'both are'} given."
            )
        if self.text is None:
            return self.documents
        if not isinstance(self.text, str):
            raise not_rendered(self.text, "text")
        check_text(self.text, "Document 'text'", max_bytes=most)
        return [{columns.text: self.text} | ({} if columns.key is None else {columns.key: "text"})]

    def _lineage(self) -> Lineage:
        from lucidworks_provider.documents.tables import table_uri

        uri = table_uri(self.documents)
        return of_chunks(
            self.chunking_options(), self.manifest or {}, inputs=[uri] if uri else [], kept=self._kept_types
        )
