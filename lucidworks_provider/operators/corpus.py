# SPDX-License-Identifier: Apache-2.0
"""Incrementally chunk and vectorise a whole catalogue with Lucidworks AI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Unpack

from airflow.providers.common.compat.sdk import BaseOperator

from lucidworks_provider.client.options import (
    MAX_CHARACTER_BYTES,
    MAX_TEXT_BYTES,
    check_choice,
    check_option,
    number,
    whole,
)
from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import InputError
from lucidworks_provider.links import LucidworksReportLink, push_report, report_address
from lucidworks_provider.operators.base import (
    FLAG,
    LIMIT,
    MAX_REJECT_RATIO,
    SECONDS,
    BaseOperatorArguments,
    ChunkingOptionsMixin,
    HookMixin,
    NoneTemplatesMixin,
    NonRetryableErrorsMixin,
    ResultMixin,
)
from lucidworks_provider.operators.lineage import Lineage, of_chunks

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperatorLink, Context

    from lucidworks_provider.corpus.lease import Holder
    from lucidworks_provider.corpus.pipeline import Service
    from lucidworks_provider.corpus.run import Corpus
    from lucidworks_provider.documents.document import Document, RejectedDocument

# Of a document before it is split: its text and its vectors are in the worker's memory.
MAX_DOCUMENT_BYTES = 20_000_000
# More than triggers share: one task uses the whole rate of the contract.
CONNECTIONS = 64


class LucidworksChunkCorpusOperator(ChunkingOptionsMixin, ResultMixin, HookMixin, BaseOperator):
    """
    Incrementally sync a Delta table of chunks and vectors with a corpus: only new and changed documents are sent.

    It runs in the worker, with hundreds of jobs in flight at the rate that the service allows. Each result is stored
    beside the tables at once, so a retry, or the next run, resumes where this one stopped. Readers see the previous
    version of the tables until the run has succeeded.

    Returns ``{"dataset", "version", "since", "documents_version", "documents", "chunks", "written", "dimension",
    "tokens", "added", "changed", "vanished", "removed", "skipped", "rejected", "submitted", "resubmitted",
    "truncated", "warnings", "rejects", "report"}``. ``version`` and ``since`` are versions of the table ``chunks``,
    after the run and before it, for :func:`~lucidworks_provider.corpus.changes`. With ``listing``, ``version`` and
    ``documents_version`` are None, and ``staged`` is what :class:`LucidworksPublishShardsOperator` takes.

    :param source: a file, a folder or a glob, as a URI or a path (``Path``, ``ObjectStoragePath``): ``.txt``,
        ``.md``, ``.html``, ``.jsonl``, ``.csv``, ``.tsv`` and ``.parquet``; a Delta table; or a list of
        ``{"id": …, "text": …}``. The id of a file that is one document is its path below ``source``. (templated)
    :param output_uri: URI of the folder of the tables; only one operator may write to it. (templated)
    :param chunker: ``dynamic-newline``, ``dynamic-sentence``, ``regex-splitter``, ``semantic`` or ``sentence``.
        (templated)
    :param model_id: an embedding model such as ``gte-small``, or the deployment id of a custom model. (templated)
    :param chunker_config: the chunker's own options, e.g. ``{"maxChunkSize": 256}`` (tokens). (templated)
    :param model_config: ``vectorQuantizationMethod``, ``dimReductionSize``. (templated)
    :param data_type: ``passage``: documents; ``query``: search queries. (templated)
    :param listing: URI of a listing that
        :func:`~lucidworks_provider.corpus.shards.write_listings` has written, which is read instead of listing
        ``source``: a shard. (templated)
    :param id_column: the column of the document ids, in ``.jsonl``, ``.csv`` and ``.parquet`` files and Delta tables.
        (templated)
    :param text_column: the column of the texts, likewise. (templated)
    :param encoding: of text files, e.g. ``windows-1252``; by default that of a byte order mark or of an HTML page's
        declaration, else UTF-8. (templated)
    :param csv_delimiter: between the fields of ``.csv`` and ``.tsv`` files; without it a comma and a tab. (templated)
    :param csv_quotechar: around fields, and doubled within them; empty for none. (templated)
    :param csv_escapechar: makes the next character part of the field, e.g. a backslash. (templated)
    :param csv_columns: names of the columns, for files without a header line. (templated)
    :param full_refresh: send every document again; needed after a change of the chunker, the model or their
        configuration. (templated)
    :param prune: remove documents that the source no longer has. (templated)
    :param plan_only: send and write nothing; return ``{"documents", "would_submit", "requests", "bytes",
        "skipped"}``.
        (templated)
    :param max_requests: fail before the first submission if the run takes more; a document takes one, a split one
        several. (templated)
    :param max_tokens: submit nothing more when the results of this try have used so many tokens, and fail when those
        in flight are stored; the next try or run continues. (templated)
    :param max_reject_ratio: share of the source's documents, 0 to 1; when more are rejected the task fails. The
        results are kept. (templated)
    :param on_truncated: ``warn`` about documents whose chunks end before their text does, or ``reject`` them.
        (templated)
    :param on_mismatch: ``reject`` documents whose result seems to be of another text or request, or ``warn`` and
        accept it; see :doc:`/checks`. (templated)
    :param on_missing_chunks: documents whose chunks another program has deleted from the table: ``resend`` them, or
        ``drop`` their other chunks until their text changes. (templated)
    :param on_busy: when another task writes into ``output_uri``: ``wait`` for it, or ``fail``. (templated)
    :param busy_timeout: seconds, or a timedelta, to wait for it. (templated)
    :param keep_raw: keep the service's responses unchanged, below ``raw/``. (templated)
    :param deletion_vectors: mask replaced chunks by deletion vectors; False copies files without them, for readers
        that do not support deletion vectors. (templated)
    :param retention: seconds, or a timedelta, for which older versions can be read. (templated)
    :param report_url: where a browser finds the folder ``output_uri``, for the link to the report in the UI.
        (templated)
    :param max_in_flight: most documents in flight. (templated)
    :param timeout: seconds, or a timedelta, to wait for each job. The next run polls a job that was not
        ready. (templated)
    :param poll_interval: the longest time between two polls of a job, seconds or a timedelta. (templated)
    :param max_text_bytes: bytes of the text of one request, in UTF-8 with the escapes of JSON; longer documents are
        split. The vendor says "approximately 1 MB". (templated)
    :param max_document_bytes: reject a document, or a line, with more. (templated)
    :param lucidworks_conn_id: the connection. (templated)
    :raises InputError: before anything is sent.
    :raises BudgetExceededError: ``max_requests``, before anything is sent; ``max_tokens``, with all results kept.
    :raises OutputBusyError: another task writes into ``output_uri``.
    """

    template_fields: Sequence[str] = (
        "source",
        "output_uri",
        "chunker",
        "model_id",
        "chunker_config",
        "model_config",
        "data_type",
        "listing",
        "id_column",
        "text_column",
        "encoding",
        "csv_delimiter",
        "csv_quotechar",
        "csv_escapechar",
        "csv_columns",
        "full_refresh",
        "prune",
        "plan_only",
        "max_requests",
        "max_tokens",
        "max_reject_ratio",
        *("on_truncated", "on_mismatch", "on_missing_chunks", "on_busy", "busy_timeout"),
        *("keep_raw", "deletion_vectors", "retention"),
        "report_url",
        *("max_in_flight", "timeout", "poll_interval", "max_text_bytes", "max_document_bytes"),
        "lucidworks_conn_id",
    )
    template_fields_renderers = {"chunker_config": "json", "model_config": "json"}  # noqa: RUF012
    operator_extra_links: Collection[BaseOperatorLink] = (
        LucidworksReportLink(),
        *ResultMixin.operator_extra_links,
    )
    ui_color = "#e8f1fb"

    def __init__(
        self,
        *,
        source: Any,
        output_uri: str,
        chunker: str,
        model_id: str,
        chunker_config: Mapping[str, Any] | str | None = None,
        model_config: Mapping[str, Any] | str | None = None,
        data_type: str | None = "passage",
        listing: str | None = None,
        id_column: str = "id",
        text_column: str = "text",
        encoding: str | None = None,
        csv_delimiter: str | None = None,
        csv_quotechar: str | None = '"',
        csv_escapechar: str | None = None,
        csv_columns: Sequence[str] | None = None,
        full_refresh: bool | str = False,
        prune: bool | str = False,
        plan_only: bool | str = False,
        max_requests: int | str | None = None,
        max_tokens: int | str | None = None,
        max_reject_ratio: float | str = MAX_REJECT_RATIO,
        on_truncated: Literal["warn", "reject"] = "warn",
        on_mismatch: Literal["reject", "warn"] = "reject",
        on_missing_chunks: Literal["resend", "drop"] = "resend",
        on_busy: Literal["wait", "fail"] = "wait",
        busy_timeout: float | timedelta | str = 3600.0,
        keep_raw: bool | str = False,
        deletion_vectors: bool | str = True,
        retention: float | timedelta | str = timedelta(days=7),
        report_url: str | None = None,
        max_in_flight: int | str = 512,
        timeout: float | timedelta | str = 3600.0,
        poll_interval: float | timedelta | str = 30.0,
        max_text_bytes: int | str = MAX_TEXT_BYTES,
        max_document_bytes: int | str = MAX_DOCUMENT_BYTES,
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.output_uri = output_uri
        self.chunker = chunker
        self.model_id = model_id
        self.chunker_config = chunker_config
        self.model_config = model_config
        self.data_type = data_type
        self.listing = listing
        self.id_column = id_column
        self.text_column = text_column
        self.encoding = encoding
        self.csv_delimiter = csv_delimiter
        self.csv_quotechar = csv_quotechar
        self.csv_escapechar = csv_escapechar
        self.csv_columns = csv_columns
        self.full_refresh = full_refresh
        self.prune = prune
        self.plan_only = plan_only
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.max_reject_ratio = max_reject_ratio
        self.on_truncated = on_truncated
        self.on_mismatch = on_mismatch
        self.on_missing_chunks = on_missing_chunks
        self.on_busy = on_busy
        self.busy_timeout = busy_timeout
        self.keep_raw = keep_raw
        self.deletion_vectors = deletion_vectors
        self.retention = retention
        self.report_url = report_url
        self.max_in_flight = max_in_flight
        self.timeout = timeout
        self.poll_interval = poll_interval
        self.max_text_bytes = max_text_bytes
        self.max_document_bytes = max_document_bytes
        self.lucidworks_conn_id = lucidworks_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Compare, submit, collect, publish."""
        from lucidworks_provider.corpus.run import plan_run, run

        corpus = self._corpus()
        wait = _busy_wait(self.on_busy, self.busy_timeout)
        # Validate the connection before anything is written or sent.
        _ = self.hook.get_settings().application_base
        if check_option(self.plan_only, "plan_only", FLAG):
            found = plan_run(corpus)
            self.log.info("plan_only: nothing was sent. %s", found)
            return found
        service, generation = self._service(corpus), context["ti"].max_tries
        delta = run(corpus, service, holder=_holder(context), generation=generation, wait_seconds=wait)
        # That of a shard is in the folder of the shard.
        report = delta["report"].removeprefix(corpus.output).lstrip("/")
        push_report(context, corpus.output, self.report_url, report)
        return self._ended(context, delta)

    def _corpus(self) -> Corpus:
        """Validate the rendered values, before anything is sent or written."""
        from lucidworks_provider.corpus.pipeline import PipelineSettings
        from lucidworks_provider.corpus.run import Corpus
        from lucidworks_provider.delta import check_installed
        from lucidworks_provider.documents.readers import ReadOptions
        from lucidworks_provider.storage import check_folder

        check_installed()
        report_address(self.output_uri, self.report_url)
        return Corpus(
            source=self._source(),
            output=check_folder(self.output_uri, "output_uri"),
            options=self.chunking_options(),
            reading=ReadOptions(
                self.id_column,
                self.text_column,
                self.encoding,
                check_option(self.max_document_bytes, "max_document_bytes", whole(1)),
                self.csv_delimiter,
                self.csv_quotechar,
                self.csv_escapechar,
                self.csv_columns,
            ),
            pipeline=PipelineSettings(
                max_in_flight=check_option(self.max_in_flight, "max_in_flight", whole(1)),
                timeout=check_option(self.timeout, "timeout", SECONDS),
                poll_interval=check_option(self.poll_interval, "poll_interval", SECONDS),
                refuse_truncated=check_choice(self.on_truncated, "on_truncated", ("warn", "reject"))
                == "reject",
                lenient=check_choice(self.on_mismatch, "on_mismatch", ("reject", "warn")) == "warn",
                max_tokens=check_option(self.max_tokens, "max_tokens", LIMIT),
            ),
            listing=self.listing or None,
            full_refresh=check_option(self.full_refresh, "full_refresh", FLAG),
            prune=check_option(self.prune, "prune", FLAG),
            max_requests=check_option(self.max_requests, "max_requests", LIMIT),
            max_reject_ratio=check_option(self.max_reject_ratio, "max_reject_ratio", number(0, 1)),
            # Each piece has a character.
            max_text_bytes=check_option(self.max_text_bytes, "max_text_bytes", whole(MAX_CHARACTER_BYTES)),
            keep_raw=check_option(self.keep_raw, "keep_raw", FLAG),
            on_missing_chunks=check_choice(self.on_missing_chunks, "on_missing_chunks", ("resend", "drop")),  # type: ignore[arg-type]
            deletion_vectors=check_option(self.deletion_vectors, "deletion_vectors", FLAG),
            retention=check_option(self.retention, "retention", SECONDS),
        )

    def _lineage(self) -> Lineage:
        uri = self._source_uri()
        return of_chunks(
            self.chunking_options(), self.manifest or {}, inputs=[uri] if uri else [], with_hash=True
        )

    def _source_uri(self) -> str | None:
        """The source, if it is files."""
        from lucidworks_provider.documents.tables import table_uri

        return table_uri(self.source)

    def _source(self) -> str | Sequence[Document | RejectedDocument]:
        from lucidworks_provider.documents.readers import read_inline_documents
        from lucidworks_provider.storage import check_folder

        if (uri := self._source_uri()) is not None:
            return check_folder(uri, "source")
        if self.listing:
            raise InputError("listing needs a source of files; set source to a URI, or omit listing.")
        return read_inline_documents(
            self.source,
            id_column=self.id_column,
            text_column=self.text_column,
            max_document_bytes=check_option(self.max_document_bytes, "max_document_bytes", whole(1)),
        )

    def _service(self, corpus: Corpus) -> Service:
        from lucidworks_provider.client.chunking import submit_text
        from lucidworks_provider.client.jobs import CHUNKING, poll_job
        from lucidworks_provider.corpus.pipeline import Service

        hook = self.hook

        @asynccontextmanager
        async def client(observe: Callable[[int | str], None]) -> AsyncIterator[None]:
            async with hook.shared_client(connections=CONNECTIONS) as transport:
                transport.observe = observe
                yield

        return Service(
            submit=lambda text: hook.acall(submit_text(corpus.options, text)),
            fetch=lambda job: hook.acall(poll_job(CHUNKING, job), attempts=1),
            client=client,
            rate=lambda: hook.rate_limit().rate,
            refused_for=lambda: hook.rate_limit().refused_for,
        )


class LucidworksPublishShardsOperator(NoneTemplatesMixin, NonRetryableErrorsMixin, ResultMixin, BaseOperator):
    """
    Commit the staged results of all shards of a corpus as one version of its tables.

    Returns what :class:`LucidworksChunkCorpusOperator` returns, with the sums of the shards' counts, and
    ``shards``.

    :param staged: what the tasks of the shards have returned, or the URIs in it under ``staged``; all of one run.
        (templated)
    :param output_uri: URI of the folder of the tables. (templated)
    :param on_busy: when another task writes into ``output_uri``: ``wait`` for it, or ``fail``. (templated)
    :param busy_timeout: seconds, or a timedelta, to wait for it. (templated)
    :param retention: seconds, or a timedelta, for which older versions can be read. (templated)
    :param report_url: where a browser finds the folder ``output_uri``, for the link to the report in the UI.
        (templated)
    :raises InputError: the shards are not of one run: another configuration, a missing shard, a document in two
        shards. Or the ``documents`` extra is not installed.
    :raises OutputBusyError: another task writes into ``output_uri``.
    """

    template_fields: Sequence[str] = (
        *("staged", "output_uri", "on_busy", "busy_timeout", "retention", "report_url"),
    )
    operator_extra_links: Collection[BaseOperatorLink] = (
        LucidworksReportLink(),
        *ResultMixin.operator_extra_links,
    )
    ui_color = "#e8f1fb"

    def __init__(
        self,
        *,
        staged: Any,
        output_uri: str,
        on_busy: Literal["wait", "fail"] = "wait",
        busy_timeout: float | timedelta | str = 3600.0,
        retention: float | timedelta | str = timedelta(days=7),
        report_url: str | None = None,
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.staged = staged
        self.output_uri = output_uri
        self.on_busy = on_busy
        self.busy_timeout = busy_timeout
        self.retention = retention
        self.report_url = report_url

    def execute(self, context: Context) -> dict[str, Any]:
        """Collect and commit."""
        from lucidworks_provider.corpus.shards import publish_shards
        from lucidworks_provider.delta import check_installed
        from lucidworks_provider.storage import check_folder

        check_installed()
        report_address(self.output_uri, self.report_url)
        output = check_folder(self.output_uri, "output_uri")
        manifest = publish_shards(
            self._uris(),
            output,
            holder=_holder(context),
            generation=context["ti"].max_tries,
            wait_seconds=_busy_wait(self.on_busy, self.busy_timeout),
            retention=check_option(self.retention, "retention", SECONDS),
        )
        push_report(context, output, self.report_url)
        return self._ended(context, manifest)

    def _uris(self) -> list[str]:
        # Mapped tasks return a lazy sequence.
        single = isinstance(self.staged, str | Mapping) or not isinstance(self.staged, Iterable)
        given = [self.staged] if single else list(self.staged)
        uris: list[Any] = [one.get("staged") if isinstance(one, Mapping) else one for one in given]
        for uri in uris:
            if not isinstance(uri, str):
                raise InputError(
                    "staged: give what the tasks of the shards return, e.g. staged=chunk.output; set listing on "
                    "their operator."
                )
        return uris

    def _lineage(self) -> Lineage:
        manifest = self.manifest or {}
        version = manifest.get("version")
        return Lineage(
            output=manifest.get("dataset"),
            rows=manifest.get("written"),
            version=None if version is None else str(version),
        )


def _busy_wait(on_busy: Any, busy_timeout: Any) -> float:
    wait = check_option(busy_timeout, "busy_timeout", SECONDS)
    return wait if check_choice(on_busy, "on_busy", ("wait", "fail")) == "wait" else 0.0


def _holder(context: Context) -> Holder:
    from lucidworks_provider.corpus.lease import Holder

    ti = context["ti"]
    return Holder.here(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
    )
