# SPDX-License-Identifier: Apache-2.0
"""Predictions of Lucidworks AI for any number of inputs, synchronously or by jobs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Unpack

from airflow.providers.common.compat.sdk import BaseOperator

from lucidworks_provider.client.options import check_choice, check_option, number, whole
from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import StorageError, TooManyRejectsError
from lucidworks_provider.operators.base import (
    DEFERRABLE,
    LIMIT,
    MAX_REJECT_RATIO,
    BaseOperatorArguments,
    HookMixin,
    JobOperator,
    ResultMixin,
    RowsMixin,
    dictionary,
    job_store,
    stripped,
)
from lucidworks_provider.operators.lineage import Lineage, of_predictions
from lucidworks_provider.operators.secrets import SecretArgumentMixin, restore_secrets

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from lucidworks_provider.client.prediction_types import Prediction
    from lucidworks_provider.client.use_cases import PredictionOptions
    from lucidworks_provider.jobs.prediction_task import PredictionTask, ResultPolicy, SyncBatchRunner
    from lucidworks_provider.jobs.rows import Batches, Spool

# A larger result should be in a file: XCom is a row of the metadata database.
INLINE_BYTES = 48 * 1024
# That of the API and of the client's connections, repeated: importing them would cost each parse of a DAG file.
BATCH_SIZE = 32
MAX_CONCURRENCY = 8


class _Predicting(SecretArgumentMixin, RowsMixin, ResultMixin, HookMixin, BaseOperator):
    """Arguments of both prediction operators."""

    template_fields: Sequence[str] = (
        "use_case",
        "model_id",
        "inputs",
        "id_column",
        "text_column",
        "columns",
        "use_case_config",
        "model_config",
        "api_key_conn_id",
        "result_path",
        "batch_size",
        *("max_reject_ratio", "on_invalid", "on_empty", "on_mismatch"),
        "max_requests",
        "lucidworks_conn_id",
    )
    template_fields_renderers = {  # noqa: RUF012
        "inputs": "json",
        "columns": "json",
        "use_case_config": "json",
        "model_config": "json",
    }
    ui_color = "#e8f1fb"
    _redacted_argument = "model_config"
    _cure = "put it into the password of a connection and name that in api_key_conn_id"

    def __init__(
        self,
        *,
        use_case: str,
        model_id: str,
        inputs: Any,
        id_column: str | None = "id",
        text_column: str = "text",
        columns: Sequence[str] | str = (),
        use_case_config: Mapping[str, Any] | str | None = None,
        model_config: Mapping[str, Any] | str | None = None,
        api_key_conn_id: str | None = None,
        batch_size: int | str = BATCH_SIZE,
        max_reject_ratio: float | str = MAX_REJECT_RATIO,
        on_invalid: Literal["reject", "fail"] = "reject",
        on_empty: Literal["succeed", "skip", "fail"] = "succeed",
        on_mismatch: Literal["fail", "warn"] = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.use_case = use_case
        self.model_id = model_id
        self.inputs = inputs
        self.id_column = id_column
        self.text_column = text_column
        self.columns = columns
        self.use_case_config = use_case_config
        self.model_config = model_config
        self._warn_about_keys()
        self.api_key_conn_id = api_key_conn_id
        self.batch_size = batch_size
        self.max_reject_ratio = max_reject_ratio
        self.on_invalid = on_invalid
        self.on_empty = on_empty
        self.on_mismatch = on_mismatch

    def _result_policy(self) -> ResultPolicy:
        from lucidworks_provider.jobs.prediction_task import ResultPolicy

        return ResultPolicy(
            check_option(self.max_reject_ratio, "max_reject_ratio", number(0, 1)),
            check_choice(self.on_mismatch, "on_mismatch", ("fail", "warn")) == "warn",
        )

    def _prediction_options(self) -> PredictionOptions[Any]:
        """Validated options, with the key."""
        model_config = restore_secrets(dictionary(self.model_config, "model_config"), self._keys)
        if self.api_key_conn_id:
            from lucidworks_provider.hooks.third_party import api_key

            model_config = {**(model_config or {}), "apiKey": api_key(self.api_key_conn_id)}
        return self._options(model_config)

    def _read(
        self,
        options: PredictionOptions[Any],
        spool: Spool | None = None,
        check: Callable[[Batches], None] = lambda batches: None,
    ) -> Batches:
        """Read and validate all rows, before anything is sent."""
        from lucidworks_provider.jobs.prediction_task import result_names, row_rules

        # What the vendor calls the sources of a RAG answer.
        columns = self._table_columns("inputs", ("documents",) if options.name == "rag" else ())
        size = check_option(self.batch_size, "batch_size", whole(1, BATCH_SIZE))
        taken = result_names(options)
        return self._read_rows(
            self.inputs, columns, row_rules(options), size=size, taken=taken, spool=spool, check=check
        )

    def _options(self, model_config: Mapping[str, Any] | None) -> PredictionOptions[Any]:
        from lucidworks_provider.client.use_cases import PredictionOptions

        use_case_config = dictionary(self.use_case_config, "use_case_config")
        return PredictionOptions(
            stripped(self.use_case), stripped(self.model_id), use_case_config, model_config
        )

    def _lineage(self) -> Lineage:
        # Without the keys.
        from lucidworks_provider.documents.tables import table_uri

        options = self._options(dictionary(self.model_config, "model_config"))
        uri = table_uri(self.inputs)
        return of_predictions(options, self.manifest or {}, [uri] if uri else [], self._kept_types)


class LucidworksPredictionOperator(_Predicting):
    """
    Get predictions for any number of inputs.

    Inputs are sent in batches of 32, several at a time. A failed batch is retried alone. With ``result_path``
    each response is stored beside the result as it arrives, so that a retry of the task does not pay for it again.

    Returns one row for each input, in their order: the response, with ``index`` and, where the input had
    one, its ``id``. With ``result_path`` the rows are written to that file, and a manifest is returned:
    ``{"uri", "predictions", "tokens", "memory_uuid", "dimension", "errors", "rejected", "warnings"}``. ``errors``
    counts rows without a prediction, ``rejected`` those of them that were not sent. These two, ``memory_uuid`` and
    ``dimension`` are left out if there are none.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-prediction-api/overview

    :param use_case: ``embedding``, ``classification``, ``passthrough``, ``rag``, ``summarization``,
        ``keyword-extraction``, ``ner``, ``faq-enrichment``, ``standalone-query-rewriter``, or any other path segment
        of the Prediction API. (templated)
    :param model_id: a model that serves it; for a custom embedding model the deployment id. (templated)
    :param inputs: a list of texts, or of ``{"text": …}``, for RAG with ``documents``, and optionally with an
        ``id``, which is not sent and comes back in the row; the URI of ``.parquet``, ``.csv`` or ``.jsonl`` files, a
        folder or a glob of them; a DataFrame or another Arrow table; or an iterable of rows. A text that begins with
        ``[`` is JSON, any other one a URI. (templated)
    :param id_column: the column, or key, with the ids; None if the rows have no ids. (templated)
    :param text_column: the column, or key, of the texts. (templated)
    :param columns: other columns that are passed through to the result. A row that is a tuple has the id, the text
        and these, in this order. (templated)
    :param use_case_config: the use case's options under the vendor's names, e.g. ``{"labels": […]}``. (templated)
    :param model_config: the model's options under the vendor's names, e.g. ``{"temperature": 0.2}``. (templated)
    :param api_key_conn_id: a connection, of any type, with the key of the third party that runs the model: its
        password, or a Google service account. Sent as ``modelConfig.apiKey``, and stored nowhere. (templated)
    :param result_path: URI of a file for the rows, ``.jsonl`` or (with the ``documents`` extra) ``.parquet``. Without
        it, they are the return value: for small results only. (templated)
    :param batch_size: inputs of a request, 32 at most. (templated)
    :param max_reject_ratio: share of the inputs, 0 to 1, that may be rejected or get no prediction; their rows have
        the reason in ``error``. If more are, the task fails and nothing is written. (templated)
    :param on_invalid: what to do with a text that is NULL, blank, longer than 990,000 bytes or not Unicode:
        ``reject`` it, so that its row has the ``status`` ``rejected``, or ``fail`` the task before anything is sent.
        (templated)
    :param on_empty: what to do if there are no rows: ``succeed`` with an empty result, ``skip``, or
        ``fail``. (templated)
    :param on_mismatch: ``fail`` when a result seems to be of another text or request, or ``warn`` and accept it; see
        :doc:`/checks`. (templated)
    :param concurrency: requests at a time, 8 at most. (templated)
    :param max_requests: fail before the first request if the inputs take more. (templated)
    :param max_tokens: stop when the responses of this attempt have used that many tokens; the requests in flight are
        finished. With ``result_path`` the responses are kept, and clearing the task sends the rest. (templated)
    :param lucidworks_conn_id: the connection. (templated)
    :raises InputError: before anything is sent.
    :raises UnknownResourceError: no such use case or model; names similar ones that the service lists.
    """

    template_fields: Sequence[str] = (*_Predicting.template_fields, "concurrency", "max_tokens")

    def __init__(
        self,
        *,
        use_case: str,
        model_id: str,
        inputs: Any,
        id_column: str | None = "id",
        text_column: str = "text",
        columns: Sequence[str] | str = (),
        use_case_config: Mapping[str, Any] | str | None = None,
        model_config: Mapping[str, Any] | str | None = None,
        api_key_conn_id: str | None = None,
        result_path: str | None = None,
        batch_size: int | str = BATCH_SIZE,
        max_reject_ratio: float | str = MAX_REJECT_RATIO,
        on_invalid: Literal["reject", "fail"] = "reject",
        on_empty: Literal["succeed", "skip", "fail"] = "succeed",
        on_mismatch: Literal["fail", "warn"] = "fail",
        concurrency: int | str = 4,
        max_requests: int | str | None = None,
        max_tokens: int | str | None = None,
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(
            use_case=use_case,
            model_id=model_id,
            inputs=inputs,
            id_column=id_column,
            text_column=text_column,
            columns=columns,
            use_case_config=use_case_config,
            model_config=model_config,
            api_key_conn_id=api_key_conn_id,
            batch_size=batch_size,
            max_reject_ratio=max_reject_ratio,
            on_invalid=on_invalid,
            on_empty=on_empty,
            on_mismatch=on_mismatch,
            **kwargs,
        )
        self.result_path = result_path
        self.concurrency = concurrency
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.lucidworks_conn_id = lucidworks_conn_id

    def execute(self, context: Context) -> Any:
        """Predict every batch, then return or write the rows."""
        from lucidworks_provider.jobs.prediction_task import log_input
        from lucidworks_provider.metrics import log_result

        began = time.monotonic()
        runner = self._batch_runner(context)
        log_input(runner.batches)
        if self.result_path:
            manifest = self._predict_to_file(runner, context)
            log_result(manifest, time.monotonic() - began)
            return self._ended(context, manifest)
        rows, counts = self._rows(runner, asyncio.run(self._run(runner)))
        log_result(counts, time.monotonic() - began, "Returned")
        return rows

    def _predict_to_file(self, runner: SyncBatchRunner, context: Context) -> dict[str, Any]:
        """The manifest; an earlier attempt may have written the file before it was killed."""
        from lucidworks_provider.storage import check_uri

        uri = check_uri(self.result_path, "result_path")
        store = job_store(uri, context)
        digest = runner.batches.digest
        record = store.begin(
            runner.batches.fingerprint(runner.options.as_json()), context["ti"].max_tries, 0, uri, digest
        )
        if record.result is None:
            runner = replace(runner, revision=record.revision, generation=record.generation)
            asyncio.run(self._run(runner))
            record.finish(self._write(runner, uri), digest)
        store.close(record)
        return dict(record.result or {})

    def _batch_runner(self, context: Context) -> SyncBatchRunner:
        from lucidworks_provider.client.predictions import predict_items
        from lucidworks_provider.jobs.prediction_task import SyncBatchRunner
        from lucidworks_provider.jobs.rows import Spool
        from lucidworks_provider.jobs.task import Budget, ProgressLog, check_suffix
        from lucidworks_provider.storage import check_uri, is_folder

        options = self._prediction_options()
        concurrency = check_option(self.concurrency, "concurrency", whole(1, MAX_CONCURRENCY))
        policy = self._result_policy()
        results = spool = None
        if self.result_path:
            check_suffix(uri := check_uri(self.result_path, "result_path"))
            results = job_store(uri, context).results
            if is_folder(uri):
                raise StorageError(f"{uri} is a folder; result_path must name a file.")
            spool = Spool(results.table, context["ti"].max_tries)
        _ = self.hook.get_settings().application_base
        budget = Budget(max_tokens=check_option(self.max_tokens, "max_tokens", LIMIT))
        batches = self._read(options, spool)
        return SyncBatchRunner(
            options,
            batches,
            lambda batch: self.hook.acall(predict_items(options, batch)),
            concurrency,
            results,
            policy=policy,
            progress=ProgressLog("Predicted", "input", batches.survey.sent),
            budget=budget,
        )

    async def _run(self, runner: SyncBatchRunner) -> list[tuple[Prediction, ...]]:
        async with self.hook.shared_client():
            return await runner.run()

    def _write(self, runner: SyncBatchRunner, uri: str) -> dict[str, Any]:
        from lucidworks_provider import metrics
        from lucidworks_provider.jobs.prediction_task import prediction_file

        try:
            with prediction_file(uri, runner.options, runner.policy, runner.batches.survey.types) as file:
                runner.write(file)
        except TooManyRejectsError:
            # The stored responses would be too many errors again.
            runner.discard(file.failed)
            raise
        metrics.written(file.manifest)
        return file.manifest

    def _rows(
        self, runner: SyncBatchRunner, predicted: Sequence[tuple[Prediction, ...]]
    ) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
        """The rows to return, and their counts."""
        from lucidworks_provider import metrics
        from lucidworks_provider.jobs.prediction_task import PredictionFile, RowList

        writer = RowList()
        file = PredictionFile(writer, runner.options, runner.policy)
        responses = iter(predicted)
        # All of them first: whether the table was changed is known at its end.
        for batch in list(runner.batches.checked()):
            file.add(batch, next(responses) if batch.sent else ())
        file.check_errors()
        metrics.written(file.manifest)
        size = len(json.dumps(writer.rows))
        if size > INLINE_BYTES:
            self.log.warning(
                "The return value has %s bytes and is stored in the metadata database; set a result_path.",
                f"{size:,}",
            )
        return writer.rows, file.manifest


class LucidworksAsyncPredictionOperator(_Predicting, JobOperator):
    """
    Get predictions for any number of inputs by asynchronous jobs, and write one row for each input to a file.

    Each batch of 32 inputs is a job; one trigger waits for all jobs of the task. Returns a manifest as that of
    :class:`LucidworksPredictionOperator`. A retry resumes the jobs that an earlier attempt submitted and uses the
    results that it stored; clearing a task that succeeded submits everything again.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-async-prediction-api

    :param use_case: as for :class:`LucidworksPredictionOperator`, without ``embedding`` and ``classification``,
        which the service does not offer asynchronously. (templated)
    :param model_id: a model that serves it. (templated)
    :param inputs: as for :class:`LucidworksPredictionOperator`. (templated)
    :param id_column: as for :class:`LucidworksPredictionOperator`. (templated)
    :param text_column: as for :class:`LucidworksPredictionOperator`. (templated)
    :param columns: as for :class:`LucidworksPredictionOperator`. (templated)
    :param result_path: URI of a file for the rows, ``.jsonl`` or (with the ``documents`` extra) ``.parquet``.
        Worker and triggerer must see the same storage. (templated)
    :param use_case_config: as for :class:`LucidworksPredictionOperator`. (templated)
    :param model_config: as for :class:`LucidworksPredictionOperator`. (templated)
    :param api_key_conn_id: as for :class:`LucidworksPredictionOperator`. (templated)
    :param batch_size: inputs of a job, 32 at most. (templated)
    :param max_reject_ratio: as for :class:`LucidworksPredictionOperator`. (templated)
    :param on_invalid: as for :class:`LucidworksPredictionOperator`. (templated)
    :param on_empty: as for :class:`LucidworksPredictionOperator`. (templated)
    :param on_mismatch: as for :class:`LucidworksPredictionOperator`. (templated)
    :param lucidworks_conn_id: the connection. (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot. (templated)
    :param poll_interval: the longest time between two polls of a job, seconds or a timedelta; a new job is polled
        more often. (templated)
    :param timeout: seconds, or a timedelta, to wait for all jobs; with more than 1,000, for each 1,000. A retry
        resumes the wait. (templated)
    :param on_unknown_submission: what to do when a submission got no response, so that a job with an
        unknown id may exist: ``resubmit`` (and log the possible orphan), or ``fail``. (templated)
    :param max_requests: fail before the first submission if the inputs take more. (templated)
    :raises InputError: before anything is sent.
    :raises JobFailedError: the service reports ERROR; names the inputs, the jobs and the reasons.
    """

    template_fields: Sequence[str] = tuple(
        dict.fromkeys((*_Predicting.template_fields, *JobOperator.template_fields))
    )

    def __init__(
        self,
        *,
        use_case: str,
        model_id: str,
        inputs: Any,
        result_path: str,
        id_column: str | None = "id",
        text_column: str = "text",
        columns: Sequence[str] | str = (),
        use_case_config: Mapping[str, Any] | str | None = None,
        model_config: Mapping[str, Any] | str | None = None,
        api_key_conn_id: str | None = None,
        batch_size: int | str = BATCH_SIZE,
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
            use_case=use_case,
            model_id=model_id,
            inputs=inputs,
            id_column=id_column,
            text_column=text_column,
            columns=columns,
            result_path=result_path,
            use_case_config=use_case_config,
            model_config=model_config,
            api_key_conn_id=api_key_conn_id,
            batch_size=batch_size,
            max_reject_ratio=max_reject_ratio,
            on_invalid=on_invalid,
            on_empty=on_empty,
            on_mismatch=on_mismatch,
            lucidworks_conn_id=lucidworks_conn_id,
            deferrable=deferrable,
            poll_interval=poll_interval,
            timeout=timeout,
            on_unknown_submission=on_unknown_submission,
            max_requests=max_requests,
            **kwargs,
        )

    def _task(self, context: Context) -> PredictionTask:
        """Validate the rendered values, before anything is sent or written."""
        from lucidworks_provider.client.predictions import check_asynchronous
        from lucidworks_provider.jobs.prediction_task import PredictionTask, check_jobs
        from lucidworks_provider.jobs.rows import Spool

        options = self._prediction_options()
        check_asynchronous(options)
        job_options = self._job_options(context)
        policy = self._result_policy()
        spool = Spool(job_options["store"].results.table, context["ti"].max_tries)
        batches = self._read(options, spool, check_jobs)
        return PredictionTask(
            **job_options,
            options=options,
            batches=batches,
            policy=policy,
        )
