# SPDX-License-Identifier: Apache-2.0
"""``@task.lucidworks_chunk``."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Required, Unpack, cast

from airflow.providers.common.compat.sdk import (
    DecoratedOperator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)

from lucidworks_provider.operators.arguments import DecoratorArguments
from lucidworks_provider.operators.chunking import LucidworksChunkOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, TaskDecorator

    from lucidworks_provider.jobs.chunk_task import ChunkTask
    from lucidworks_provider.jobs.task import JobTask

_FILLED = ("text", "documents")


class _ChunkDecoratedOperator(DecoratedOperator, LucidworksChunkOperator):
    """
    A :class:`LucidworksChunkOperator` whose function returns the documents.

    The function is called once per attempt. While the task waits in the triggerer, its return value is stored beside
    the result, since another call might return something else. It is not rendered.
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(name for name in LucidworksChunkOperator.template_fields if name not in _FILLED),
    )
    template_fields_renderers = {  # noqa: RUF012
        **DecoratedOperator.template_fields_renderers,
        **{k: v for k, v in LucidworksChunkOperator.template_fields_renderers.items() if k not in _FILLED},
    }
    custom_operator_name = "@task.lucidworks_chunk"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, **kwargs)

    def execute(self, context: Context) -> Any:
        """Call the function, then chunk."""
        context_merge(context, self.op_kwargs)
        kwargs = determine_kwargs(self.python_callable, self.op_args, context)
        self._fill(self.python_callable(*self.op_args, **kwargs))
        return LucidworksChunkOperator.execute(self, context)

    def execute_complete(
        self, context: Context, event: dict[str, Any], deadline: float | None = None
    ) -> dict[str, Any]:
        """Resume with what the function returned before the wait."""
        kept = self._results(context).read_input()
        if kept is None:
            raise self._unshared("the worker that the task resumed on")
        self._fill(json.loads(kept))
        return super().execute_complete(context, event, deadline)

    def _before_defer(self, task: JobTask[Any]) -> None:
        # The validated documents: what the function returned need not be serializable.
        documents = [asdict(document) for document in cast("ChunkTask", task).documents]
        task.store.results.write_input(json.dumps(documents).encode())

    def _fill(self, returned: Any) -> None:
        self.text, self.documents = (returned, None) if isinstance(returned, str) else (None, returned)


class ChunkTaskArguments(DecoratorArguments, total=False):
    """Of ``@task.lucidworks_chunk``; the defaults are those of the operator."""

    chunker: Required[str]
    model_id: Required[str]
    result_path: Required[str]
    chunker_config: Mapping[str, Any] | str | None
    model_config: Mapping[str, Any] | str | None
    data_type: str | None
    on_mismatch: Literal["fail", "warn"]
    max_text_bytes: int
    lucidworks_conn_id: str
    deferrable: bool
    poll_interval: float | timedelta
    timeout: float | timedelta
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

    :param python_callable: the function; returns a text, or a list of ``{"id": …, "text": …}``.

    :param kwargs: arguments of :class:`~lucidworks_provider.operators.chunking.LucidworksChunkOperator`.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_ChunkDecoratedOperator, **kwargs
    )
