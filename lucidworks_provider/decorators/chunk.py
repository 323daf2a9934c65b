# SPDX-License-Identifier: Apache-2.0
"""``@task.lucidworks_chunk``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Required, Unpack

from airflow.providers.common.compat.sdk import task_decorator_factory

from lucidworks_provider.decorators import CallingOperator, fields_of
from lucidworks_provider.operators.base import DecoratorArguments, refuse_upstream
from lucidworks_provider.operators.chunking import LucidworksChunkOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, TaskDecorator


class _ChunkDecoratedOperator(CallingOperator, LucidworksChunkOperator):
    """
    A :class:`LucidworksChunkOperator` whose function returns the documents.

    The function is called once per attempt. If the task waits in the triggerer, the rows that it returned are stored
    beside the result, for the process that the task resumes in and for a retry.
    """

    template_fields, template_fields_renderers = fields_of(LucidworksChunkOperator, "text", "documents")
    custom_operator_name = "@task.lucidworks_chunk"

    def execute_complete(
        self, context: Context, event: dict[str, Any], deadline: float | None = None
    ) -> dict[str, Any]:
        """Resume with what the function returned before the wait."""
        self.text, self.documents = None, self._not_stored()
        return super().execute_complete(context, event, deadline)

    @property
    def _stores_rows(self) -> bool:  # type: ignore[override]
        return self._in_triggerer

    def _not_stored(self) -> Iterator[Any]:
        """Read where the rows that the function has returned are not stored."""
        raise self._unshared("the worker that the task resumed on")
        yield

    def _fill(self, returned: Any) -> None:
        self.text, self.documents = (returned, None) if isinstance(returned, str) else (None, returned)


class ChunkTaskArguments(DecoratorArguments, total=False):
    """Of ``@task.lucidworks_chunk``; the defaults are those of the operator."""

    chunker: Required[str]
    model_id: Required[str]
    result_path: Required[str]
    id_column: str | None
    text_column: str
    columns: Sequence[str] | str
    chunker_config: Mapping[str, Any] | str | None
    model_config: Mapping[str, Any] | str | None
    data_type: str | None
    max_text_bytes: int | str
    max_reject_ratio: float | str
    on_invalid: Literal["reject", "fail"]
    on_empty: Literal["succeed", "skip", "fail"]
    on_mismatch: Literal["fail", "warn"]
    lucidworks_conn_id: str
    deferrable: bool | str
    poll_interval: float | timedelta | str
    timeout: float | timedelta | str
    on_unknown_submission: Literal["resubmit", "fail"]
    max_requests: int | str | None


def lucidworks_chunk_task(
    python_callable: Callable[..., Any] | None = None, **kwargs: Unpack[ChunkTaskArguments]
) -> TaskDecorator:
    """
    Turn a function that returns documents into a task that chunks them.

    ::

        @task.lucidworks_chunk(chunker="sentence", model_id="gte-small", result_path="s3://…/chunks.parquet")
        def articles(): return [{"id": "a", "text": …}]

    :param python_callable: the function; returns a text (a ``str``), or what the operator takes as ``documents``: a
        list of ``{"id": …, "text": …}``, a ``Path`` or ``ObjectStoragePath`` of files, a DataFrame, or a generator of
        rows.

    :param kwargs: arguments of :class:`~lucidworks_provider.operators.chunking.LucidworksChunkOperator`.
    """
    refuse_upstream(kwargs, _ChunkDecoratedOperator.template_fields)
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_ChunkDecoratedOperator, **kwargs
    )
